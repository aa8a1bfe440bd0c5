"""Views: the engines of a client as a target of calls."""

from __future__ import annotations

import builtins
import json
import secrets
import sys
import threading
import time
import warnings
from collections import deque
from concurrent.futures import Executor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Callable, Iterable, Iterator, Sequence

from .. import serialize, util
from ..dependency import Dependency, dependent
from ..serialize import PrePickled, Reference
from . import map as Map
from .asyncresult import AsyncMapResult, AsyncResult
from .futures import MessageFuture
from .remotefunction import ParallelFunction, RemoteFunction, getname, parallel, pickled_map, remote

if TYPE_CHECKING:
    from .client import Client

__all__ = ["BroadcastView", "DirectView", "LazyMapIterator", "LoadBalancedView", "View", "ViewExecutor"]

_EMPTY = b"{}"
Send = Callable[[Any, list[Any]], MessageFuture]  # (engine id or None, arguments)


def _check_call(f: Any, args: Any, kwargs: Any) -> None:
    if not callable(f) and not isinstance(f, (Reference, PrePickled)):
        raise TypeError(f"f must be callable, not {type(f)}")
    if not isinstance(args, (tuple, list)):
        raise TypeError(f"args must be tuple or list, not {type(args)}")
    if not isinstance(kwargs, dict):
        raise TypeError(f"kwargs must be dict, not {type(kwargs)}")


def _packer(function: PrePickled, leading: Sequence[PrePickled]) -> Callable[[Iterable[Any]], list[Any]]:
    """pack(args): the buffers of a call of function with leading arguments and args."""
    lead = [buffer for argument in leading for buffer in argument.buffers]
    notes: dict[tuple[int, int], bytes] = {}

    def pack(args: Iterable[Any]) -> list[Any]:
        buffers = list(lead)
        count = len(leading)
        for argument in args:
            buffers += serialize.serialize_object(argument)
            count += 1
        key = (count, len(buffers))
        note = notes.get(key)
        if note is None:
            note = notes[key] = serialize.serialize.dumps({"nargs": count, "narg_bufs": len(buffers), "kw_keys": []})
        return [*function.buffers, note, *buffers]

    return pack


class View:
    """What all views have. `block`: whether calls wait; `track`: whether results tell when arguments may be written again; `label`: a
    name that tasks are recorded under; `targets`: the engines. `history` and `outstanding` are the ids of its messages.
    """

    block: bool = False
    track: bool = False
    targets: Any = None
    label: Any = None

    _flag_names = ["targets", "block", "track", "label"]
    _is_balanced = False

    def __init__(self, client: Client, socket: Any = None, **flags: Any) -> None:
        assert type(self) is not View, "Don't use base View objects, use subclasses"
        self.client = client
        self.results = client.results
        self.history: list[str] = []
        self._outstanding: set[str] = set()
        self._socket = socket
        self.block = client.block
        self.set_flags(**flags)
        self.executor = ViewExecutor(self)

    def __repr__(self) -> str:
        text = str(self.targets)
        return f"<{type(self).__name__} {text[:12] + '...]' if len(text) > 16 else text}>"

    def __len__(self) -> int:
        if isinstance(self.targets, list):
            return len(self.targets)
        return 1 if isinstance(self.targets, int) else len(self.client)

    def __bool__(self) -> bool:
        return True

    @property
    def outstanding(self) -> set[str]:
        """The ids of its messages that are not answered yet."""
        self.client._driver.drain()
        return self._outstanding

    def set_flags(self, **kwargs: Any) -> View:
        """Set attributes by their names; KeyError for what is none."""
        for name in kwargs:
            if name not in self._flag_names:
                raise KeyError(f"Invalid name: {name!r}")
        for name, value in kwargs.items():
            setattr(self, name, value)
        return self

    @contextmanager
    def temp_flags(self, **kwargs: Any) -> Iterator[None]:
        """Context: attributes that are set within."""
        saved = {name: getattr(self, name) for name in self._flag_names}
        self.set_flags(**kwargs)
        try:
            yield
        finally:
            self.set_flags(**saved)

    # ---- calls ------------------------------------------------------------------------------------------------------

    def _really_apply(self, f: Any, args: Any, kwargs: Any, block: bool | None = None, **options: Any) -> Any:
        raise NotImplementedError("Implement in subclasses")

    def apply(self, __ipp_f: Any, *args: Any, **kwargs: Any) -> Any:
        """f(*args, **kwargs) on the engines: an AsyncResult, or what it gives if `block`."""
        return self._really_apply(__ipp_f, args, kwargs)

    def apply_async(self, __ipp_f: Any, *args: Any, **kwargs: Any) -> Any:
        """f(*args, **kwargs) on the engines, as an AsyncResult."""
        return self._really_apply(__ipp_f, args, kwargs, block=False)

    def apply_sync(self, __ipp_f: Any, *args: Any, **kwargs: Any) -> Any:
        """f(*args, **kwargs) on the engines: what it gives."""
        return self._really_apply(__ipp_f, args, kwargs, block=True)

    def map(self, f: Callable[..., Any], *sequences: Any, **kwargs: Any) -> Any:
        """f for each item of the sequences."""
        raise NotImplementedError()

    def map_async(self, f: Callable[..., Any], *sequences: Any, **kwargs: Any) -> Any:
        """`map` that does not wait."""
        if "block" in kwargs:
            raise TypeError("map_async doesn't take a `block` keyword argument.")
        return self.map(f, *sequences, block=False, **kwargs)

    def map_sync(self, f: Callable[..., Any], *sequences: Any, **kwargs: Any) -> Any:
        """`map` that waits."""
        if "block" in kwargs:
            raise TypeError("map_sync doesn't take a `block` keyword argument.")
        return self.map(f, *sequences, block=True, **kwargs)

    def imap(self, f: Callable[..., Any], *sequences: Any, **kwargs: Any) -> Any:
        """An iterator over what `map` gives."""
        return iter(self.map_async(f, *sequences, **kwargs))

    def remote(self, block: bool | None = None, **flags: Any) -> Callable[[Callable[..., Any]], RemoteFunction]:
        """Decorator: calls of the function run on this view's engines."""
        return remote(self, block=self.block if block is None else block, **flags)

    def parallel(self, dist: str = "b", block: bool | None = None, **flags: Any) -> Callable[[Callable[..., Any]], ParallelFunction]:
        """Decorator: calls of the function are given parts of their sequences, on this view's engines."""
        return parallel(self, dist=dist, block=self.block if block is None else block, **flags)

    def _map_targets(self, length: int, chunksize: int | None) -> list[Any]:
        """One engine id, or None, for each part of a map."""
        raise NotImplementedError()

    def _sender(self, function: PrePickled, leading: Sequence[PrePickled], flags: dict[str, Any]) -> Send:
        """What sends the parts of a map."""
        raise NotImplementedError()

    # ---- the client's, for its messages and engines -----------------------------------------------------------------

    def spin(self) -> None:
        """Handle what has come; it is handled anyway."""
        self.client.spin()

    def wait(self, jobs: Any = None, timeout: float | None = -1) -> bool:
        """Wait for messages: see `Client.wait`; default: all of this view."""
        return self.client.wait(self.history if jobs is None else jobs, timeout)

    def abort(self, jobs: Any = None, targets: Any = None, block: bool | None = None) -> Any:
        """Abort tasks that have not started: see `Client.abort`; default: all of this view."""
        return self.client.abort(list(self.outstanding) if jobs is None else jobs, self.targets if targets is None else targets,
                                 self.block if block is None else block)

    def queue_status(self, targets: Any = None, verbose: bool = False) -> Any:
        """What waits and runs at the engines: see `Client.queue_status`."""
        return self.client.queue_status(self.targets if targets is None else targets, verbose)

    def purge_results(self, jobs: Any = [], targets: Any = []) -> None:
        """Forget results, here and at the controller."""
        if targets is None or (isinstance(targets, str) and targets == "all"):
            targets = self.targets
        self.client.purge_results(jobs=jobs, targets=targets)

    def shutdown(self, targets: Any = None, restart: bool = False, hub: bool = False, block: bool | None = None) -> None:
        """End the engines: see `Client.shutdown`."""
        if targets is None or (isinstance(targets, str) and targets == "all"):
            targets = self.targets
        self.client.shutdown(targets, restart, hub, self.block if block is None else block)

    def get_result(self, indices_or_msg_ids: Any = None, block: bool | None = None, owner: bool = False) -> AsyncResult:
        """A result by its number in `history` or its id: see `Client.get_result`."""
        wanted = -1 if indices_or_msg_ids is None else indices_or_msg_ids
        if isinstance(wanted, int):
            wanted = self.history[wanted]
        elif isinstance(wanted, (list, tuple, set)):
            wanted = [self.history[item] if isinstance(item, int) else item for item in wanted]
        return self.client.get_result(wanted, block=block, owner=owner)


class DirectView(View):
    """Engines that are named, each of which runs what is called.

    It is a dict of their namespaces too: `view["a"] = 5` assigns on each, `view["a"]` gives the list of what they have.
    """

    def __init__(self, client: Client, socket: Any = None, targets: Any = None, **flags: Any) -> None:
        super().__init__(client, socket, targets=targets, **flags)

    @property
    def importer(self) -> Any:
        """`sync_imports(True)`."""
        return self.sync_imports(True)

    @contextmanager
    def sync_imports(self, local: bool = True, quiet: bool = False) -> Iterator[None]:
        """Context: what is imported within is imported on the engines too, under the same names ("import a as b" gives a there).

        quiet: say nothing. NotImplementedError for local=False. RemoteError where an engine can't import it.
        """
        if not local:
            raise NotImplementedError("modules are imported here too: sync_imports(local=True)")
        results: list[Any] = []
        frame = sys._getframe(2)
        original = builtins.__import__
        seen: set[tuple[Any, ...]] = set()

        def both(name: str, globals: Any = None, locals: Any = None, fromlist: Any = (), level: int = 0) -> Any:
            module = original(name, globals, locals, fromlist, level)
            key = (name, tuple(fromlist or ()))
            if sys._getframe(1) is frame and level <= 0 and key not in seen:
                seen.add(key)
                if not quiet:
                    print(f"importing {','.join(fromlist)} from {name} on engine(s)" if fromlist else f"importing {name} on engine(s)")
                results.append(self.apply_async(_remote_import, name, list(fromlist or ())))
            return module

        builtins.__import__ = both
        try:
            yield
        finally:
            builtins.__import__ = original
        for result in results:
            result.get()

    def use_dill(self) -> Any:
        """Let dill pickle functions and objects, here and on the engines."""
        serialize.use_dill()
        return self.apply(_use_pickler, "use_dill")

    def use_cloudpickle(self) -> Any:
        """Let cloudpickle pickle functions and objects, here and on the engines."""
        serialize.use_cloudpickle()
        return self.apply(_use_pickler, "use_cloudpickle")

    def use_pickle(self) -> Any:
        """Go back to plain pickle, here and on the engines."""
        serialize.use_pickle()
        return self.apply(_use_pickler, "use_pickle")

    # ---- calls ------------------------------------------------------------------------------------------------------

    def _really_apply(self, f: Any, args: Any = None, kwargs: Any = None, targets: Any = None, block: bool | None = None,  # type: ignore[override]
                      track: bool | None = None, label: Any = None) -> Any:
        args = () if args is None else args
        kwargs = {} if kwargs is None else kwargs
        targets = self.targets if targets is None else targets
        label = self.label if label is None else label
        _check_call(f, args, kwargs)
        uuids, ids = self.client._build_targets(targets)
        self.client._check_open()
        buffers = serialize.pack_apply_message(f, args, kwargs)
        return self._send_all("apply_request", _EMPTY, buffers, targets, uuids, ids, getname(f), self.block if block is None else block,
                              bool(self.track if track is None else track), label)

    def _send_all(self, msg_type: str, content: bytes, buffers: Sequence[Any], targets: Any, uuids: list[bytes], ids: list[int], name: str,
                  block: bool, track: bool, label: Any) -> Any:
        metadata = json.dumps({"label": label, "x_quiet": True} if msg_type == "apply_request" else {"label": label}).encode()
        submit, socket = self.client._submit, self._socket
        futures: Any = [submit(socket, msg_type, content, metadata, buffers, uuid.decode(), label, track, self) for uuid in uuids]
        result = AsyncResult(self.client, futures[0] if isinstance(targets, int) else futures, fname=name, targets=ids, owner=True)
        return result.get() if block else result

    def _map_targets(self, length: int, chunksize: int | None) -> list[Any]:
        return self.client._build_targets(self.targets)[1]

    def _sender(self, function: PrePickled, leading: Sequence[PrePickled], flags: dict[str, Any]) -> Send:
        pack, client = _packer(function, leading), self.client
        label = flags.get("label", self.label)
        track = bool(flags.get("track", self.track))
        metadata = json.dumps({"label": label, "x_quiet": True}).encode()

        def send(target: Any, args: list[Any]) -> MessageFuture:
            return client._submit(self._socket, "apply_request", _EMPTY, metadata, pack(args), client._engines[target], label, track, self)

        return send

    def map(self, f: Callable[..., Any], *sequences: Any, block: bool | None = None, track: bool = False,
            return_exceptions: bool = False, label: Any = None) -> Any:
        """f for each item of the sequences, in one part for each engine: an AsyncMapResult, or a list if it blocks.

        track: the result tells when the sequences' memory may be written again. return_exceptions: errors stand in the result
        instead of being raised. label: a name that the tasks are recorded under.
        """
        assert len(sequences) > 0, "must have some sequences to map onto!"
        function = ParallelFunction(self, f, block=self.block if block is None else block, return_exceptions=return_exceptions, track=track,
                                    label=self.label if label is None else label)
        return function.map(*sequences)

    def execute(self, code: str, silent: bool = True, targets: Any = None, block: bool | None = None, label: Any = None) -> AsyncResult:
        """Run code in the namespace of each engine. If it blocks, its output has come too."""
        if not isinstance(code, str):
            raise TypeError(f"code must be text, not {type(code)}")
        targets = self.targets if targets is None else targets
        uuids, ids = self.client._build_targets(targets)
        content = json.dumps({"code": code, "silent": bool(silent), "user_expressions": {}}).encode()
        result: AsyncResult = self._send_all("execute_request", content, (), targets, uuids, ids, "execute", False, False,
                                             self.label if label is None else label)
        if self.block if block is None else block:
            result.get()
            result.wait_for_output()
        return result

    def run(self, filename: Any, targets: Any = None, block: bool | None = None, label: Any = None) -> AsyncResult:
        """Run the code in a file in the namespace of each engine."""
        with open(filename, encoding="utf-8") as file:
            code = file.read() + "\n"  # a last line of spaces would be an error
        return self.execute(code, targets=targets, block=block, label=label)

    # ---- data -------------------------------------------------------------------------------------------------------

    def update(self, ns: dict[str, Any]) -> Any:
        """`push`."""
        return self.push(ns, block=self.block, track=self.track)

    def push(self, ns: dict[str, Any], targets: Any = None, block: bool | None = None, track: bool | None = None) -> Any:
        """Assign names on each engine."""
        if not isinstance(ns, dict):
            raise TypeError(f"Must be a dict, not {type(ns)}")
        return self._really_apply(util._push, kwargs=ns, block=self.block if block is None else block, track=self.track if track is None else track,
                                  targets=self.targets if targets is None else targets)

    def get(self, key_s: Any) -> Any:
        """`pull` that waits."""
        return self.pull(key_s, block=True)

    def pull(self, names: Any, targets: Any = None, block: bool | None = None) -> Any:
        """What a name, or each of several, stands for on each engine."""
        if isinstance(names, (list, tuple, set)):
            for key in names:
                if not isinstance(key, str):
                    raise TypeError(f"keys must be str, not type {type(key)!r}")
        elif not isinstance(names, str):
            raise TypeError(f"names must be strs, not {names!r}")
        return self._really_apply(util._pull, (names,), block=self.block if block is None else block, targets=self.targets if targets is None else targets)

    def scatter(self, key: str, seq: Any, dist: str = "b", flatten: bool = False, targets: Any = None, block: bool | None = None,
                track: bool | None = None) -> Any:
        """Give each engine its part of a sequence, under a name; flatten: parts of one item are that item."""
        track = self.track if track is None else track
        ids = self.client._build_targets(self.targets if targets is None else targets)[1]
        mapping = Map.dists[dist]()
        futures: list[Any] = []
        lengths = []
        for index, engine_id in enumerate(ids):
            part = mapping.getPartition(seq, index, len(ids))
            lengths.append(len(part))
            futures += self._call_one(engine_id, util._push, (), {key: part[0] if flatten and len(part) == 1 else part}, bool(track))
        result = AsyncResult(self.client, futures, fname="scatter", targets=ids, owner=True)
        result._scatter_lengths = lengths
        if self.block if block is None else block:
            result.get()
            return None
        return result

    def gather(self, key: str, dist: str = "b", targets: Any = None, block: bool | None = None) -> Any:
        """Put the parts together again that `scatter` gave."""
        ids = self.client._build_targets(self.targets if targets is None else targets)[1]
        futures: list[Any] = []
        for engine_id in ids:
            futures += self._call_one(engine_id, util._pull, (key,), {}, False)
        result = AsyncMapResult(self.client, futures, Map.dists[dist](), fname="gather")
        return result.get() if (self.block if block is None else block) else result

    def _call_one(self, engine_id: int, f: Any, args: Any, kwargs: Any, track: bool) -> list[MessageFuture]:
        """A call on one engine that comes after those before it and before those that follow."""
        children: list[MessageFuture] = self._really_apply(f, args, kwargs, targets=engine_id, block=False, track=track)._children
        return children

    def __getitem__(self, key: Any) -> Any:
        return self.get(key)

    def __setitem__(self, key: str, value: Any) -> None:
        self.update({key: value})

    def clear(self, targets: Any = None, block: bool | None = None) -> Any:
        """Empty the engines' namespaces."""
        return self.client.clear(self.targets if targets is None else targets, self.block if block is None else block)

    def activate(self, suffix: str = "") -> None:
        """Be the view behind IPython's magics %px, %%px, %autopx, %pxresult and %pxconfig, whose names end in `suffix`."""
        shell = util.local_ipython()
        if shell is None:
            warnings.warn("the magics (%px, etc.) work in IPython only", stacklevel=2)
            return
        from .magics import ParallelMagics

        shell.magics_manager.register(ParallelMagics(shell, self, suffix))


@util.interactive
def _remote_import(name: str, fromlist: list[str]) -> None:
    import sys

    module = __import__(name, fromlist=fromlist)
    if fromlist:
        globals().update({key: getattr(module, key) for key in fromlist})
    else:
        globals()[name.partition(".")[0]] = sys.modules[name.partition(".")[0]]


@util.interactive
def _use_pickler(which: str) -> None:
    import importlib
    import sys

    is_stock = "ipyparallel.engine.kernel" in sys.modules
    getattr(importlib.import_module("ipyparallel.serialize" if is_stock else "manyhands.parallel.serialize"), which)()


class BroadcastView(DirectView):
    """Engines that the controller sends one message to. is_coalescing: their replies come back as one."""

    is_coalescing = False

    def _call_one(self, engine_id: int, f: Any, args: Any, kwargs: Any, track: bool) -> list[MessageFuture]:
        buffers = serialize.pack_apply_message(f, args, kwargs)
        return self._broadcast("apply_request", _EMPTY, buffers, engine_id, False, track, getname(f))._children

    def _broadcast(self, msg_type: str, content: bytes, buffers: Sequence[Any], targets: Any, is_coalescing: bool, track: bool, name: str) -> AsyncResult:
        client = self.client
        uuids, ids = client._build_targets(targets)
        texts = [uuid.decode() for uuid in uuids]
        metadata = {"targets": list(zip(texts, ids)), "is_broadcast": True, "is_coalescing": is_coalescing, "label": self.label}
        futures = client._submit_broadcast(msg_type, content, json.dumps(metadata).encode(), buffers, texts, is_coalescing, track, self)
        return AsyncResult(client, futures, fname=name, targets=ids, owner=True)

    def _really_apply(self, f: Any, args: Any = None, kwargs: Any = None, block: bool | None = None, track: bool | None = None,  # type: ignore[override]
                      targets: Any = None) -> Any:
        args = () if args is None else args
        kwargs = {} if kwargs is None else kwargs
        _check_call(f, args, kwargs)
        buffers = serialize.pack_apply_message(f, args, kwargs)
        result = self._broadcast("apply_request", _EMPTY, buffers, self.targets if targets is None else targets, self.is_coalescing,
                                 bool(self.track if track is None else track), getname(f))
        return result.get() if (self.block if block is None else block) else result

    def execute(self, code: str, silent: bool = True, targets: Any = None, block: bool | None = None) -> AsyncResult:  # type: ignore[override]
        """Run code in the namespace of each engine. If it blocks, its output has come too."""
        if not isinstance(code, str):
            raise TypeError(f"code must be text, not {type(code)}")
        content = json.dumps({"code": code, "silent": bool(silent), "user_expressions": {}}).encode()
        result = self._broadcast("execute_request", content, (), self.targets if targets is None else targets, False, False, "execute")
        if self.block if block is None else block:
            result.get()
            result.wait_for_output()
        return result

    def map(self, f: Callable[..., Any], *sequences: Any, block: bool | None = None, track: bool | None = False,  # type: ignore[override]
            return_exceptions: bool = False) -> Any:
        """f for each item of the sequences, in one part for each engine.

        The parts go to each engine by a message of its own, the call by one for all.
        """
        assert len(sequences) > 0, "must have some sequences to map onto!"
        key = secrets.token_hex(5)
        names, lengths = [], []
        for i, seq in enumerate(sequences):
            names.append(f"_seq_{key}_{i}")
            scattered = self.scatter(names[-1], seq if hasattr(seq, "__len__") else list(seq), block=False, track=bool(track))
            lengths.append(scattered._scatter_lengths)
        # each is taken out of the namespace as it is used
        references = [Reference(f"globals().pop({name!r})") for name in names]
        buffers = serialize.pack_apply_message(pickled_map(), (f, *references), {})
        called = self._broadcast("apply_request", _EMPTY, buffers, self.targets, False, False, getname(f))
        called.owner = False
        sizes = {future.msg_id: min(parts) for future, parts in zip(called._children, zip(*lengths))}
        result = AsyncMapResult(self.client, called._children, Map.dists["b"](), fname=getname(f), return_exceptions=return_exceptions,
                                chunk_sizes=sizes)
        return result.get() if (self.block if block is None else block) else result


class LazyMapIterator:
    """What a lazy map gives, one after the other; `cancel()` ends the taking of input."""

    def __init__(self, gen: Iterator[Any], signal_done: Callable[[], object]) -> None:
        self._gen = gen
        self._signal_done = signal_done

    def __iter__(self) -> Iterator[Any]:
        return self._gen

    def __next__(self) -> Any:
        return next(self._gen)

    def cancel(self) -> None:
        """Take no more input."""
        self._signal_done()


class _LazyMap:
    """A thread that takes input as results come, and no further ahead than the limits say."""

    AHEAD = 1000  # results that wait to be taken, unless its executor is shut down

    def __init__(self, view: LoadBalancedView, f: PrePickled, arguments: Iterator[Any], ordered: bool, limit: int, return_exceptions: bool) -> None:
        self._view, self._f, self._arguments = view, f, arguments
        self._ordered, self._limit, self._return_exceptions = ordered, limit, return_exceptions
        self._changed = threading.Condition()
        self._results: deque[Any] = deque()
        self._in_flight = 0
        self._has_ended = False
        self._failure: BaseException | None = None
        self.is_hurried = False
        view._outstanding_maps.add(self)
        self._thread = threading.Thread(target=self._feed, name="manyhands lazy map", daemon=True)
        self._thread.start()

    def cancel(self) -> None:
        with self._changed:
            self._has_ended = True
            self._changed.notify_all()
        self._view._outstanding_maps.discard(self)

    def hurry(self) -> None:
        """All input is to be sent, whoever takes the results when."""
        with self._changed:
            self.is_hurried = True
            self._changed.notify_all()

    def _may_send(self) -> bool:
        has_room = not self._limit or self._in_flight < self._limit
        return self._has_ended or (has_room and (self.is_hurried or len(self._results) < self.AHEAD + self._limit))

    def _feed(self) -> None:
        try:
            while True:
                with self._changed:
                    self._changed.wait_for(self._may_send)
                    if self._has_ended:
                        return
                result = self._view.apply_async(self._f, *next(self._arguments))
                with self._changed:
                    self._in_flight += 1
                    self._results.append(result)
                    self._changed.notify_all()
                result.add_done_callback(self._note)
        except StopIteration:
            pass
        except BaseException as e:
            self._failure = e
        finally:
            self.cancel()

    def _note(self, result: Any) -> None:
        with self._changed:
            self._in_flight -= 1
            self._changed.notify_all()

    def _take(self) -> Any:
        def find() -> Any:
            if self._ordered:
                return self._results[0] if self._results and self._results[0]._ready else None
            return next((result for result in self._results if result._ready), None)

        with self._changed:
            self._changed.wait_for(lambda: find() is not None or (self._has_ended and not self._results))
            found = find()
            if found is not None:
                self._results.remove(found)
                self._changed.notify_all()
            return found

    def results(self) -> Iterator[Any]:
        try:
            while (result := self._take()) is not None:
                yield result.get(return_exceptions=self._return_exceptions)
            self._thread.join()
            if self._failure is not None:
                raise self._failure
        finally:
            self.cancel()


class LoadBalancedView(View):
    """Engines of which the controller chooses one for each task.

    after     the task waits until these have ended: a Dependency, AsyncResults or message ids
    follow    it runs where these have run
    timeout   seconds that it waits for them before it fails
    retries   how often it is run again when its engine dies, or it fails
    targets   the engines that it may run on (default: all)
    """

    follow: Any = None
    after: Any = None
    timeout: Any = 0.0
    retries: int = 0

    _flag_names = ["targets", "block", "track", "follow", "after", "timeout", "retries", "label"]
    _is_balanced = True

    def __init__(self, client: Client, socket: Any = None, **flags: Any) -> None:
        self._outstanding_maps: set[_LazyMap] = set()
        self._written: tuple[Any, bytes] | None = None  # metadata as it was sent last
        super().__init__(client, socket, **flags)
        self._task_scheme = client._task_scheme

    def _validate_dependency(self, dep: Any) -> bool:
        if dep is None or isinstance(dep, (str, AsyncResult, Dependency)):
            return True
        if isinstance(dep, (list, set, tuple)):
            return all(isinstance(item, (str, AsyncResult)) for item in dep)
        if isinstance(dep, dict):
            return dep.keys() == Dependency().as_dict().keys() and all(isinstance(item, str) for item in dep["dependencies"])
        return False

    def _render_dependency(self, dep: Any) -> Any:
        if isinstance(dep, (Dependency, dict)):
            return Dependency(dep).as_dict() if isinstance(dep, dict) else dep.as_dict()
        if isinstance(dep, AsyncResult):
            return dep.msg_ids
        return [] if dep is None else list(Dependency(dep))

    def set_flags(self, **kwargs: Any) -> LoadBalancedView:
        """Set attributes by their names. KeyError, ValueError, TypeError for what is not valid."""
        for name in ("follow", "after"):
            if not self._validate_dependency(kwargs.get(name)):
                raise ValueError(f"Invalid dependency: {kwargs[name]!r}")
        timeout = kwargs.get("timeout")
        if timeout is not None:
            if not isinstance(timeout, (int, float)):
                raise TypeError(f"Invalid type for timeout: {type(timeout)!r}")
            if timeout < 0:
                raise ValueError(f"Invalid timeout: {timeout}")
        if not isinstance(kwargs.get("retries", 0), int):
            raise TypeError(f"retries must be int, not {type(kwargs['retries'])!r}")
        super().set_flags(**kwargs)
        return self

    def _write_metadata(self, after: Any, follow: Any, timeout: Any, targets: Any, retries: int, label: Any) -> bytes:
        if not isinstance(retries, int):
            raise TypeError(f"retries must be int, not {type(retries)!r}")
        if self._task_scheme == "pure" and (follow or after or retries or targets or timeout):
            raise RuntimeError("the pure scheduler knows none of: follow, after, retries, targets, timeout")
        uuids = [] if targets is None else [uuid.decode() for uuid in self.client._build_targets(targets)[0]]
        plain = after is None and follow is None
        key = (timeout, tuple(uuids), retries, label)
        if plain and self._written is not None and self._written[0] == key:
            return self._written[1]
        text = json.dumps({"after": self._render_dependency(after), "follow": self._render_dependency(follow), "timeout": timeout,
                           "targets": uuids, "retries": retries, "label": label, "x_quiet": True}).encode()
        if plain:
            self._written = (key, text)
        return text

    def _really_apply(self, f: Any, args: Any = None, kwargs: Any = None, block: bool | None = None, track: bool | None = None,  # type: ignore[override]
                      after: Any = None, follow: Any = None, timeout: Any = None, targets: Any = None, retries: Any = None, label: Any = None) -> Any:
        args = () if args is None else args
        kwargs = {} if kwargs is None else kwargs
        label = self.label if label is None else label
        _check_call(f, args, kwargs)
        self.client._check_open()
        if self._task_scheme == "pure" and isinstance(f, dependent):
            warnings.warn("the pure scheduler knows no dependencies of functions", RuntimeWarning, stacklevel=3)
        metadata = self._write_metadata(
            self.after if after is None else after, self.follow if follow is None else follow, self.timeout if timeout is None else timeout,
            self.targets if targets is None else targets, self.retries if retries is None else retries, label)
        future = self.client._submit(self._socket, "apply_request", _EMPTY, metadata, serialize.pack_apply_message(f, args, kwargs), None, label,
                                     bool(self.track if track is None else track), self)
        result = AsyncResult(self.client, future, fname=getname(f), owner=True)
        return result.get() if (self.block if block is None else block) else result

    def _map_targets(self, length: int, chunksize: int | None) -> list[Any]:
        return [None] * (-(-length // chunksize) if chunksize else length)

    def _sender(self, function: PrePickled, leading: Sequence[PrePickled], flags: dict[str, Any]) -> Send:
        pack, submit, socket = _packer(function, leading), self.client._submit, self._socket
        with self.temp_flags(**flags):
            metadata = self._write_metadata(self.after, self.follow, self.timeout, self.targets, self.retries, self.label)
            label, track = self.label, bool(self.track)

        def send(_: Any, args: list[Any]) -> MessageFuture:
            return submit(socket, "apply_request", _EMPTY, metadata, pack(args), None, label, track, self)

        return send

    def map(self, f: Callable[..., Any], *sequences: Any, block: bool | None = None, chunksize: int | None = 1,
            ordered: bool = True, return_exceptions: bool = False, label: Any = None) -> Any:
        """f for each item of the sequences, `chunksize` of them in each task: an AsyncMapResult, or a list if it blocks.

        ordered=False: iterating over the result gives items as they come. return_exceptions: errors stand in the result instead of being
        raised. label: a name that the tasks are recorded under.
        """
        assert len(sequences) > 0, "must have some sequences to map onto!"
        function = ParallelFunction(self, f, block=self.block if block is None else block, chunksize=chunksize, ordered=ordered,
                                    return_exceptions=return_exceptions, label=self.label if label is None else label)
        return function.map(*sequences)

    def imap(self, f: Callable[..., Any], *sequences: Any, ordered: bool = True, max_outstanding: Any = "auto",
             return_exceptions: bool = False) -> LazyMapIterator:
        """An iterator over f for each item of the sequences, which are taken as results come.

        max_outstanding: tasks that are on their way at once; 'auto': one for each engine; 0: all. Input is taken up to a thousand items
        ahead of the results that were taken. ordered=False: results as they come.
        """
        assert len(sequences) > 0, "must have some sequences to map onto!"
        limit = len(self) if isinstance(max_outstanding, str) and max_outstanding == "auto" else int(max_outstanding)
        lazy = _LazyMap(self, PrePickled(f), iter(zip(*sequences)), ordered, limit, return_exceptions)
        return LazyMapIterator(lazy.results(), lazy.cancel)

    def register_joblib_backend(self, name: str = "ipyparallel", make_default: bool = False) -> None:
        """Make this view a backend of joblib, under a name."""
        from joblib.parallel import register_parallel_backend  # type: ignore[import-untyped, unused-ignore]

        from ._joblib import IPythonParallelBackend

        register_parallel_backend(name, lambda **kwargs: IPythonParallelBackend(view=self, **kwargs), make_default=make_default)


class ViewExecutor(Executor):
    """A `concurrent.futures.Executor` of a view. Its futures are AsyncResults."""

    def __init__(self, view: View) -> None:
        self.view = view
        self._max_workers = len(view)

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """f(*args, **kwargs) on the view's engines."""
        return self.view.apply_async(fn, *args, **kwargs)

    def map(self, func: Callable[..., Any], *iterables: Any, **kwargs: Any) -> Any:  # type: ignore[override]
        """func for each item: see the view's `imap`."""
        if kwargs.pop("timeout", None) is not None:
            warnings.warn("ViewExecutor.map knows no timeout", stacklevel=2)
        return self.view.imap(func, *iterables, **kwargs)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Wait for what was handed in, if `wait`; the engines go on."""
        maps = list(getattr(self.view, "_outstanding_maps", ()))
        for lazy in maps:
            lazy.cancel() if cancel_futures else lazy.hurry()
        if cancel_futures:
            self.view.client.abort(list(self.view.outstanding), block=False)
        if wait:
            for lazy in maps:
                lazy._thread.join()
            self.view.wait()
