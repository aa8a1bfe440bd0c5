"""Results of calls that do not wait: one object for the messages that a call became."""

from __future__ import annotations

import threading
import time
import warnings
from concurrent.futures import ALL_COMPLETED, FIRST_COMPLETED, FIRST_EXCEPTION
from contextlib import contextmanager
from datetime import datetime
from itertools import chain
from typing import TYPE_CHECKING, Any, Callable, Iterable, Iterator, Sequence

from .. import error, util
from . import display
from .driver import Call
from .futures import _FINISHED, _PENDING, DrivenFuture, MessageFuture

if TYPE_CHECKING:
    from .client import Client

__all__ = ["AsyncHubResult", "AsyncMapResult", "AsyncResult"]

_DATES = ("submitted", "started", "completed", "received")
_missing: Any = object()


def _forever(timeout: float | None) -> float | None:
    """Negative timeouts mean none."""
    return None if timeout is not None and timeout < 0 else timeout


class Tracker:
    """Whether the memory of messages that are being sent may be written again."""

    def __init__(self, loans: Iterable[Any]) -> None:
        self._loans = list(loans)

    @property
    def done(self) -> bool:
        """It may."""
        return all(loan.done for loan in self._loans)

    def wait(self, timeout: float | None = -1) -> None:
        """Wait until it may. TimeoutError after `timeout` seconds."""
        timeout = _forever(timeout)
        until = None if timeout is None else time.monotonic() + timeout
        for loan in self._loans:
            if not loan.wait(None if until is None else max(0.0, until - time.monotonic())):
                raise TimeoutError("Still waiting to be sent")


class AsyncResult(DrivenFuture):
    """The result of one call, on one engine or several: a `concurrent.futures.Future` that can be awaited, with the methods of
    `multiprocessing.pool.AsyncResult`.

    What is known of the tasks (`engine_id`, `started`, `completed`, `stdout`, `outputs`, ...) are attributes and keys: one value
    for a call to one engine, else a list. Errors are raised by `get()` as RemoteError or CompositeError.
    """

    msg_ids: list[str]
    owner: bool
    _fname: str
    _scatter_lengths: list[int]

    def __init__(self, client: Client, children: Any, fname: str = "unknown", targets: Any = None, owner: bool = False,
                 return_exceptions: bool = False, chunk_sizes: dict[str, int] | None = None) -> None:
        super().__init__(client._driver)
        self._single_result = not isinstance(children, list)
        parts: list[Any] = children if isinstance(children, list) else [children]
        self._client = client
        self._fname = fname
        self._targets = targets
        self.owner = owner
        self._return_exceptions = return_exceptions
        self._chunk_sizes = chunk_sizes
        self._raw: list[Any] | None = None
        self._children: list[MessageFuture]
        if parts and isinstance(parts[0], str):
            self.msg_ids = parts
            self._children = []
        else:
            self._children = parts
            self.msg_ids = [child.msg_id for child in parts]
        self._attach()

    def _attach(self) -> None:
        """Be told of the children's ends."""
        if not self._children:
            self._children = [self._client._future_of(msg_id) for msg_id in self.msg_ids]
        with self._driver.lock:
            self._left = self._outputs_left = 0
            for child in self._children:
                pending, printing = child._state == _PENDING, not child._is_output_done
                self._left += pending
                self._outputs_left += printing
                if pending or printing:
                    child._adopt(self)
            if not self._left:
                self._state = _FINISHED

    # ---- what children tell, with the lock --------------------------------------------------------------------------

    def _child_done(self, calls: list[Call]) -> None:
        self._left -= 1
        if not self._left and self._state == _PENDING:
            self._settle(calls)

    def _child_output_done(self, calls: list[Call]) -> None:
        self._outputs_left -= 1
        if not self._outputs_left and self.owner:
            self._client._forget_metadata(self.msg_ids)

    # ---- reading ----------------------------------------------------------------------------------------------------

    def _raw_values(self) -> list[Any]:
        return [child.result() for child in self._children]

    def _read(self) -> None:
        if self._raw is not None or self._state != _FINISHED:
            return
        raw = self._raw_values()
        value, problem = None, None
        try:
            if self._single_result:
                if isinstance(raw[0], Exception):
                    raise raw[0]
            else:
                self._collect_exceptions(raw)
            value = self._reconstruct_result(raw)
        except Exception as e:
            problem = e.with_traceback(None)
        with self._driver.lock:
            if self._raw is None:
                self._value, self._error, self._raw = value, problem, raw

    def _reconstruct_result(self, res: list[Any]) -> Any:
        """What the call gives, from what its messages gave."""
        return res[0] if self._single_result else res

    def _collect_exceptions(self, results: Any) -> Any:
        return results if self._return_exceptions else error.collect_exceptions(results, self._fname)

    @property
    def _ready(self) -> bool:
        return self._state != _PENDING

    @property
    def _success(self) -> bool | None:
        return None if self._state == _PENDING else self._problem() is None

    @property
    def _output_ready(self) -> bool:
        return not self._outputs_left

    def _is_output_done(self) -> bool:
        return not self._outputs_left

    def __repr__(self) -> str:
        state = "pending" if self._state == _PENDING else "finished" if self._success else "failed"
        return f"<{type(self).__name__}({self._fname}): {state}>"

    def __dir__(self) -> list[str]:
        from .client import Metadata

        return [*super().__dir__(), *Metadata()]

    def get(self, timeout: float | None = None, return_exceptions: bool | None = None, return_when: str | None = None) -> Any:
        """The result, when it is there. TimeoutError after `timeout` seconds (None or negative: none).

        return_exceptions: errors stand in the result instead of being raised. return_when=FIRST_EXCEPTION: raise the first error
        without waiting for the others.
        """
        if return_when == FIRST_COMPLETED:
            warnings.warn("AsyncResult.get takes return_when=FIRST_EXCEPTION or ALL_COMPLETED: FIRST_COMPLETED is ignored", UserWarning, stacklevel=2)
        if return_when == FIRST_EXCEPTION:
            done, _ = self.wait(timeout, return_when=return_when)
            for part in done:
                if not self._ready and not part._success:
                    return part.get(return_exceptions=return_exceptions)
        elif self._state == _PENDING:
            self.wait(timeout)
        if self._state == _PENDING:
            raise TimeoutError("Result not ready.")
        if return_exceptions is None:
            return_exceptions = self._return_exceptions
        if return_exceptions and self._problem() is not None and self._raw is not None:
            return self._reconstruct_result(self._raw)
        return self.result()

    def ready(self) -> bool:
        """Whether the result is there."""
        return self.done()

    def wait_for_output(self, timeout: float | None = -1) -> bool:
        """Wait for all that the tasks print and display, which may come after the result; whether it is there."""
        return self._driver.wait(self._is_output_done, _forever(timeout))

    def wait(self, timeout: float | None = -1, return_when: str | None = None) -> Any:
        """Wait up to `timeout` seconds (None or negative: without an end); whether the result is there.

        With return_when (FIRST_COMPLETED, FIRST_EXCEPTION or ALL_COMPLETED): two sets of AsyncResults, those that have ended
        and the others.
        """
        timeout = _forever(timeout)
        if return_when is None:
            self._driver.wait(self._is_settled, timeout)
            return self._state != _PENDING
        if return_when not in (FIRST_COMPLETED, FIRST_EXCEPTION, ALL_COMPLETED):
            raise ValueError(f"Unrecognized return_when={return_when!r}")
        parts = self.split()
        until = None if timeout is None else time.monotonic() + timeout
        while True:
            done = {part for part in parts if part.done()}
            if len(done) == len(parts) or (return_when == FIRST_COMPLETED and done):
                break
            if return_when == FIRST_EXCEPTION and any(not part._success for part in done):
                break
            left = None if until is None else until - time.monotonic()
            if not self._driver.wait(lambda: sum(part._state != _PENDING for part in parts) > len(done), left):
                break
        return done, set(parts) - done

    @classmethod
    def join(cls, *async_results: AsyncResult) -> AsyncResult:
        """Several results as one: the inverse of `split`."""
        if not async_results:
            raise ValueError("Must specify at least one AsyncResult to join")
        first = async_results[0]
        if len(async_results) == 1:
            return first
        return cls(first._client, list(chain.from_iterable(ar._children for ar in async_results)), fname=first._fname,
                   targets=list(chain.from_iterable(ar._targets or [None] for ar in async_results)),
                   return_exceptions=first._return_exceptions)

    def split(self) -> tuple[AsyncResult, ...]:
        """One AsyncResult for each message."""
        if len(self._children) == 1:
            return (self,)
        parts: tuple[AsyncResult, ...] | None = getattr(self, "_parts", None)
        if parts is None:
            nested = isinstance(self, AsyncMapResult)
            targets = self._targets if self._targets is not None else [None] * len(self._children)
            parts = self._parts = tuple(
                AsyncResult(self._client, [child] if nested else child, fname=self._fname, targets=[target],
                            return_exceptions=self._return_exceptions)
                for target, child in zip(targets, self._children))
        return parts

    def successful(self) -> bool:
        """Whether it ended without an error. RuntimeError while it has not ended."""
        if not self.ready():
            raise RuntimeError("Cannot check successful() if not done.")
        return bool(self._success)

    def get_dict(self, timeout: float | None = -1) -> dict[int, Any]:
        """The results by engine id. ValueError when an engine has several."""
        results = self.get(timeout)
        if self._single_result:
            results = [results]
        ids = [md["engine_id"] for md in self._metadata]
        for engine_id in ids:
            if ids.count(engine_id) > 1:
                raise ValueError(f"Cannot build dict, {ids.count(engine_id)} jobs ran on engine #{engine_id}")
        return dict(zip(ids, results))

    @property
    def r(self) -> Any:
        """The result: `get()`."""
        return self.get()

    @property
    def result_dict(self) -> dict[int, Any]:
        """The results by engine id: `get_dict()`."""
        return self.get_dict()

    def cancel(self) -> bool:
        """Not wanted any more: tasks that have not started are aborted. False when it has ended."""
        if not super().cancel():
            return False
        try:
            self._client._abort_silently(self._children)
        except OSError:
            pass
        return True

    def abort(self) -> Any:
        """Abort its tasks, as far as they have not started. RuntimeError when it has ended."""
        if self.ready():
            raise RuntimeError("Can't abort, I am already done!")
        return self._client.abort(self.msg_ids, targets=self._targets, block=True)

    # ---- sending ----------------------------------------------------------------------------------------------------

    @property
    def _tracker(self) -> Tracker:
        return Tracker(child._loan for child in self._children if child._loan is not None)

    @property
    def sent(self) -> bool:
        """Whether the memory of arguments may be written again: with `track`, once it was sent."""
        return self._tracker.done

    def wait_for_send(self, timeout: float | None = -1) -> None:
        """Wait until the memory of arguments may be written again. TimeoutError after `timeout` seconds."""
        self._tracker.wait(timeout)

    # ---- what is known of the tasks ---------------------------------------------------------------------------------

    @property
    def _metadata(self) -> list[Any]:
        return [child.metadata for child in self._children]

    def _dated_metadata(self) -> list[Any]:
        found = self._metadata
        for md in found:
            for key in _DATES:
                if isinstance(md.get(key), str):
                    md[key] = util._parse_date(md[key])
        return found

    @property
    def metadata(self) -> Any:
        """A Metadata, or a list of them."""
        found = self._dated_metadata()
        return found[0] if self._single_result else found

    def __getitem__(self, key: Any) -> Any:
        """Of the result by number or slice, else what is known of the tasks."""
        if isinstance(key, (int, slice)):
            if not self.ready():
                raise TimeoutError("Result not ready.")
            found = self.result()[key]
            return self._collect_exceptions([found])[0] if isinstance(key, int) else self._collect_exceptions(found)
        if isinstance(key, str):
            self._driver.drain()
            values = [md[key] for md in self._dated_metadata()]
            return values[0] if self._single_result else values
        raise TypeError(f"Invalid key type {type(key)!r}, must be 'int','slice', or 'str'")

    def __getattr__(self, key: str) -> Any:
        if key.startswith("_"):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {key!r}")
        try:
            return self.__getitem__(key)
        except (TimeoutError, KeyError):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {key!r}") from None

    def __iter__(self) -> Iterator[Any]:
        """Results in order, each as soon as it is there."""
        if self._single_result:
            raise TypeError("AsyncResults with a single result are not iterable.")
        return self._each()

    def _each(self) -> Iterator[Any]:
        if self._children and not self.ready():
            for child in self._children:
                child.wait()
                value = child.result()
                self._collect_exceptions([value])
                yield value
        else:
            yield from self.get()

    def __len__(self) -> int:
        return self._count_chunks(self.msg_ids)

    def _count_chunks(self, msg_ids: Iterable[str]) -> int:
        sizes = self._chunk_sizes
        return sum(sizes.get(msg_id, 1) for msg_id in msg_ids) if sizes else len(list(msg_ids))

    # ---- times ------------------------------------------------------------------------------------------------------

    def timedelta(self, start: Any, end: Any, start_key: Callable[[Any], Any] = min, end_key: Callable[[Any], Any] = max) -> float:
        """Seconds between two times, or between the first of some and the last of others."""
        if not isinstance(start, datetime):
            start = start_key(start)
        if not isinstance(end, datetime):
            end = end_key(end)
        return util.compare_datetimes(end, start).total_seconds()

    @property
    def progress(self) -> int:
        """How many of `len(self)` have ended."""
        self._driver.drain()
        outstanding = self._client._outstanding
        return len(self) - self._count_chunks([msg_id for msg_id in set(self.msg_ids) if msg_id in outstanding])

    @property
    def elapsed(self) -> float:
        """Seconds since it was submitted, until its end at most."""
        if self.ready():
            return self.wall_time
        now = util.utcnow()
        times = [md["submitted"] for md in self._dated_metadata() if md["submitted"]]
        return util.compare_datetimes(now, min([now, *times])).total_seconds()

    def _check_ready(self) -> None:
        if not self.ready():
            raise TimeoutError("result not ready")

    @property
    def serial_time(self) -> float:
        """Seconds that the tasks ran, all together."""
        self._check_ready()
        return sum(util.compare_datetimes(md["completed"], md["started"]).total_seconds() for md in self._dated_metadata())

    @property
    def wall_time(self) -> float:
        """Seconds from the first submission to the last answer."""
        self._check_ready()
        found = self._dated_metadata()
        return self.timedelta([md["submitted"] for md in found], [md["received"] for md in found])

    def wait_interactive(self, interval: float = 0.1, timeout: float | None = -1, widget: bool | None = None,
                         return_when: str | None = ALL_COMPLETED) -> None:
        """Wait with a progress bar."""
        timeout = _forever(timeout)
        until = None if timeout is None else time.monotonic() + timeout
        if return_when not in (None, ALL_COMPLETED, FIRST_COMPLETED, FIRST_EXCEPTION):
            raise ValueError(f"Unrecognized return_when={return_when!r}")
        bar = util.progress(widget=widget, total=len(self), unit="tasks", desc=self._fname)
        finished = self.ready()
        try:
            while not finished and (until is None or time.monotonic() < until):
                if return_when in (None, ALL_COMPLETED):
                    finished = self.wait(interval)
                else:
                    done, pending = self.wait(interval, return_when=return_when)
                    finished = not pending or bool(done if return_when == FIRST_COMPLETED else any(not part._success for part in done))
                bar.update(self.progress - bar.n)
        finally:
            bar.update(self.progress - bar.n)
            bar.close()

    # ---- output -----------------------------------------------------------------------------------------------------

    @contextmanager
    def stream_output(self) -> Iterator[None]:
        """Context: what the tasks print and display is shown as it comes."""
        with display.streaming(self):
            yield

    def display_outputs(self, groupby: str = "type", result_only: bool = False) -> None:
        """Show what the tasks printed and displayed: by 'type' (all of stdout, then stderr, ...), by 'engine', or in 'order'."""
        self._check_ready()
        self.wait_for_output()
        display.show(self, groupby, result_only)


class AsyncMapResult(AsyncResult):
    """The result of a map: `get()` puts the parts together again; iterating gives items as they come, in order unless ordered is False."""

    def __init__(self, client: Client, children: Any, mapObject: Any, fname: str = "", ordered: bool = True, return_exceptions: bool = False,
                 chunk_sizes: dict[str, int] | None = None) -> None:
        self._mapObject = mapObject
        self.ordered = ordered
        super().__init__(client, children, fname=fname, return_exceptions=return_exceptions, chunk_sizes=chunk_sizes)
        self._single_result = False

    def _reconstruct_result(self, res: list[Any]) -> Any:
        if any(isinstance(part, Exception) for part in res):
            return list(chain.from_iterable([part] if isinstance(part, Exception) else part for part in res))
        return self._mapObject.joinPartitions(res)

    def __iter__(self) -> Iterator[Any]:
        return self._in_order() if self.ordered else self._as_they_come()

    def _items(self, child: MessageFuture) -> Sequence[Any]:
        found = child.result()
        items: list[Any] = found if isinstance(found, list) else [found]
        self._collect_exceptions(items)
        return items

    def _in_order(self) -> Iterator[Any]:
        if self.ready():
            yield from self.get()
            return
        for child in self._children:
            child.wait()
            yield from self._items(child)

    def _as_they_come(self) -> Iterator[Any]:
        if self.ready():
            yield from self.get()
            return
        pending = self._children
        while pending:
            self._driver.wait(lambda: any(child._state != _PENDING for child in pending))
            done = [child for child in pending if child._state != _PENDING]
            pending = [child for child in pending if child._state == _PENDING]
            for child in done:
                yield from self._items(child)


class AsyncHubResult(AsyncResult):
    """A result that this client did not ask for, or has forgotten: the controller is asked for it, again and again while it is pending."""

    _POLL = 0.1  # seconds between questions, at most

    def _attach(self) -> None:
        self._left = len(self.msg_ids)
        self._outputs_left = 0
        self._asking = threading.Lock()

    @property
    def _metadata(self) -> list[Any]:
        return [self._client.metadata[msg_id] for msg_id in self.msg_ids] if self._raw is None else self._kept

    def _keep(self) -> None:
        self._kept = [self._client.metadata[msg_id] for msg_id in self.msg_ids]
        if self.owner:
            self._client._forget_metadata(self.msg_ids)
            for msg_id in self.msg_ids:
                self._client.results.pop(msg_id, None)

    def _ask(self) -> bool:
        """Whether all of it is here now."""
        client = self._client
        missing = [msg_id for msg_id in self.msg_ids if msg_id not in client.results]
        return not missing or not client._fetch_results(missing)["pending"]

    def done(self) -> bool:
        """Whether it has ended; the controller is asked."""
        return bool(self.wait(0))

    def _await_end(self, timeout: float | None) -> None:
        if not self.wait(-1 if timeout is None else timeout):
            raise TimeoutError("Result not ready.")
        super()._await_end(0)

    def wait(self, timeout: float | None = -1, return_when: str | None = None) -> Any:
        """Wait up to `timeout` seconds; whether the result is there."""
        timeout = _forever(timeout)
        until = None if timeout is None else time.monotonic() + timeout
        pause = 0.005
        while self._state == _PENDING:
            local = [msg_id for msg_id in self.msg_ids if msg_id in self._client._outstanding]
            left = None if until is None else max(0.0, until - time.monotonic())
            if self._client.wait(local, -1 if left is None else left) and self._ask():
                self._take()
                break
            if left is not None and left <= 0:
                break
            self._driver.wait(lambda: False, pause if left is None else min(pause, left))
            pause = min(2 * pause, self._POLL)
        return self._state != _PENDING

    def _take(self) -> None:
        raw = [self._client.results[msg_id] for msg_id in self.msg_ids]
        self._keep()
        value, problem = None, None
        try:
            if self._single_result:
                if isinstance(raw[0], Exception) and not self._return_exceptions:
                    raise raw[0]
            else:
                self._collect_exceptions(raw)
            value = self._reconstruct_result(raw)
        except Exception as e:
            problem = e.with_traceback(None)
        self._raw = raw
        self._end(value, problem)

    def split(self) -> tuple[AsyncResult, ...]:
        """One for each message."""
        if len(self.msg_ids) == 1:
            return (self,)
        return tuple(AsyncHubResult(self._client, msg_id, fname=self._fname, return_exceptions=self._return_exceptions) for msg_id in self.msg_ids)
