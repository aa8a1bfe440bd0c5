"""A client of a cluster: it sends what views ask for, keeps what comes back, and asks the controller."""

from __future__ import annotations

import atexit
import json
import os
import re
import signal as _signal
import time
import types
import warnings
import weakref
from collections import defaultdict
from concurrent.futures import Future
from datetime import datetime
from functools import partial
from pprint import pprint
from typing import Any, Callable, Iterable, Iterator, Mapping, Sequence

from ... import _errors
from .. import error, serialize, util
from ..serialize import PrePickled, Reference
from . import connection
from .asyncresult import AsyncHubResult, AsyncResult
from .doubt import Doubt, kept_request
from .driver import Call, Driver, log
from .futures import _FINISHED, _PENDING, DrivenFuture, MessageFuture, QueryFuture, message_dict, read_value, unreadable
from .view import BroadcastView, DirectView, LoadBalancedView

__all__ = ["Client", "ExecuteReply", "Metadata"]

_UNFINISHED_OUTPUTS_MAX = 20_000  # answered tasks whose output may still come; the oldest are taken as complete beyond that
_RETURN = re.compile(r".*\r(?=[^\n])")  # what a carriage return overwrites
_WITHOUT_REPLY = frozenset(("comm_open", "comm_msg", "comm_close"))
_EMPTY = b"{}"
_PLAIN_OK = ('{"status":"ok"}', '{"status": "ok"}')


def _json_default(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, (set, frozenset, tuple)):
        return list(value)
    raise TypeError(f"{value!r} can't be sent as JSON")


def _to_json(value: Any) -> bytes:
    return json.dumps(value, default=_json_default).encode() if value else _EMPTY


class Metadata(dict):  # type: ignore[type-arg]
    """What is known of a task. Its keys, which are attributes too, are fixed."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(
            msg_id=None, submitted=None, started=None, completed=None, received=None, engine_uuid=None, engine_id=None, follow=None, after=None,
            status=None, execute_input=None, execute_result=None, error=None, stdout="", stderr="", outputs=[], data={}, label=None)
        super().update(dict(*args, **kwargs))

    def __getattr__(self, key: str) -> Any:
        if key in self:
            return self[key]
        raise AttributeError(key)

    def __setattr__(self, key: str, value: Any) -> None:
        if key not in self:
            raise AttributeError(key)
        self[key] = value

    def __setitem__(self, key: str, value: Any) -> None:
        if key not in self:
            raise KeyError(key)
        super().__setitem__(key, value)


class ExecuteReply:
    """What an executed cell gave: `execution_count`, the displayed value, and what is known of the task as attributes and keys."""

    def __init__(self, msg_id: str, content: Mapping[str, Any], metadata: Metadata) -> None:
        self.msg_id = msg_id
        self._content = content
        self.execution_count = content["execution_count"]
        self.metadata = metadata

    def _result(self) -> dict[str, Any]:
        return self.metadata["execute_result"] or {}

    @property
    def source(self) -> str:
        """Where the value came from."""
        return str(self._result().get("source", ""))

    @property
    def data(self) -> dict[str, Any]:
        """The value's representations by MIME type."""
        found: dict[str, Any] = self._result().get("data", {})
        return found

    @property
    def _metadata(self) -> dict[str, Any]:
        found: dict[str, Any] = self._result().get("metadata", {})
        return found

    def display(self) -> None:
        """Show the value in a notebook."""
        from IPython.display import publish_display_data

        publish_display_data(self.data, self._metadata)  # type: ignore[no-untyped-call, unused-ignore]

    def _repr_mime_(self, mime: str) -> Any:
        if mime not in self.data:
            return None
        return (self.data[mime], self._metadata[mime]) if mime in self._metadata else self.data[mime]

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> Any:
        data = dict(self.data)
        if "text/plain" in data:
            data["text/plain"] = self._plaintext()
        return data, self._metadata

    def _repr_html_(self) -> Any:
        return self._repr_mime_("text/html")

    def _repr_latex_(self) -> Any:
        return self._repr_mime_("text/latex")

    def _repr_json_(self) -> Any:
        return self._repr_mime_("application/json")

    def _repr_javascript_(self) -> Any:
        return self._repr_mime_("application/javascript")

    def _repr_png_(self) -> Any:
        return self._repr_mime_("image/png")

    def _repr_jpeg_(self) -> Any:
        return self._repr_mime_("image/jpeg")

    def _repr_svg_(self) -> Any:
        return self._repr_mime_("image/svg+xml")

    def _repr_pretty_(self, p: Any, cycle: bool) -> None:
        p.text(self._plaintext())

    def __getitem__(self, key: str) -> Any:
        return self.metadata[key]

    def __getattr__(self, key: str) -> Any:
        if key.startswith("__") or key not in self.metadata:
            raise AttributeError(key)
        return self.metadata[key]

    def __repr__(self) -> str:
        text = self.data.get("text/plain", "")
        return f"<ExecuteReply[{self.execution_count}]: {text[:29] + '...' if len(text) > 32 else text}>"

    def _plaintext(self) -> str:
        text: str = self.data.get("text/plain", "")
        if not text:
            return ""
        colors = str(getattr(util.local_ipython(), "colors", "NoColor")).lower()
        red, normal = ("", "") if colors == "nocolor" else ("\033[0;31m", "\033[0m")
        line = "\n" if "\n" in text and not text.startswith("\n") else ""
        return f"{red}Out[{self.metadata['engine_id']}:{self.execution_count}]: {normal}{line}{text}"


class _MetadataOf(dict):  # type: ignore[type-arg]
    """Metadata by message id: of tasks that have not ended it is made when somebody asks."""

    def __init__(self, futures: dict[str, MessageFuture]) -> None:
        super().__init__()
        self._of = futures

    def __missing__(self, msg_id: str) -> Metadata:
        future = self._of.get(msg_id)
        if future is not None:
            return future.metadata
        found = self[msg_id] = Metadata()
        return found

    def __contains__(self, msg_id: object) -> bool:
        return super().__contains__(msg_id) or msg_id in self._of


class Session:
    """How this client's messages are signed and named, as far as programs look at it."""

    def __init__(self, session: str, key: str) -> None:
        self.session = session
        self.key = key.encode()
        self.username = os.environ.get("USER", "manyhands")
        self.digest_history: set[bytes] = set()  # kept in C, within limits
        self.buffer_threshold = serialize.serialize.MAX_BYTES
        self.item_threshold = serialize.serialize.MAX_ITEMS
        self.pack = _to_json
        self.unpack = json.loads


_open: weakref.WeakSet[Client] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    for client in list(_open):
        client.close()


class Client:
    """A connection to a cluster.

    connection_info  the path of a connection file for clients (`ipcontroller-client.json`), or what it says as a dict. Default: that
                     of the profile
    profile, profile_dir, ipython_dir, cluster_id   where the connection file is looked for
    timeout          seconds that the controller has to answer
    cluster          the Cluster that this client belongs to
    sshserver, sshkey, password, paramiko           reach the controller through SSH, by tunnels that `ssh` keeps
    autostart        where nothing says which cluster is meant and none runs, start a private one that ends with this process; False: raise
    debug            print every message

    Raises OSError when no connection file is found, TimeoutError when the controller does not answer, ValueError for a file that is none.

    `ids` are the engines' ids, `history` the ids of all messages in order, `outstanding` those that are not answered yet; `block` is
    what views wait by default. Indexing by engine ids, as in `client[0]`, `client[:]` or `client[::2]`, gives a DirectView.
    Any thread may use a client. Use it in a `with` statement, or `close()` it.
    """

    def __new__(cls, *args: Any, **kwargs: Any) -> Client:
        """Takes what __init__ does, so that it can be replaced and put back."""
        return super().__new__(cls)

    def __init__(self, connection_info: str | os.PathLike[str] | dict[str, Any] | None = None, *, url_file: Any = None, profile: str | None = None,
                 profile_dir: str | None = None, ipython_dir: str | None = None, context: Any = None, debug: bool = False,
                 sshserver: str | None = None, sshkey: str | None = None, password: str | bool | None = None, paramiko: bool | None = None,
                 timeout: float = 10, cluster_id: str | None = None, cluster: Any = None, autostart: bool | None = None, **extra_args: Any) -> None:
        self._closed = True  # until it is open
        for name, value in (("url_file", url_file), ("url_or_file", extra_args.pop("url_or_file", None))):
            if value is not None:
                warnings.warn(f"{name} is no longer supported: give connection_info", DeprecationWarning, stacklevel=2)
                connection_info = value
        if extra_args:
            raise TypeError(f"Client() got unexpected keyword arguments: {', '.join(sorted(extra_args))}")
        self.block = False
        self.debug = debug
        self.cluster = cluster
        self.profile = profile or connection.current_profile()
        info = connection.find(connection_info, self.profile if profile or not profile_dir else None, profile_dir, ipython_dir, cluster_id,
                               timeout, connection.may_start(autostart, profile, profile_dir, ipython_dir, cluster_id, cluster))
        self._config, self._private, self._tunnels = info.config, info.private, list[Any]()
        if sshserver or sshkey or password or info.needs_ssh:
            self._config, self._tunnels = connection.tunnel(info.config, sshserver, sshkey, password, paramiko)
        self._task_scheme = str(self._config.get("task_scheme", "leastload"))
        self.curve_serverkey = str(self._config.get("curve_serverkey") or "").encode() or None
        self._set_up(connection.text_of(self._config), timeout)

    def _set_up(self, text: str, timeout: float) -> None:
        from .. import _client

        self._channels = _client
        self.history: list[str] = []
        self.results: dict[str, Any] = {}
        self._outstanding: set[str] = set()
        self._outstanding_dict: dict[str, set[str]] = defaultdict(set)
        self._futures: dict[str, MessageFuture] = {}
        self._queries: dict[str, QueryFuture] = {}
        self._unfinished: dict[str, MessageFuture] = {}  # answered, but their output has not ended; oldest first
        self.metadata: dict[str, Metadata] = _MetadataOf(self._futures)
        self._ids: list[int] = []
        self._engines = util.ReverseDict()
        self._registration_callbacks: list[Callable[[dict[str, Any]], object]] = []
        self._keeps_open = False
        self._dask_cluster: Any = None
        try:
            self._core: Any = _client.Client(None, text, timeout)
        except _errors.TimeoutError as e:
            raise TimeoutError(str(e)) from None
        self._driver = Driver(self._core, self._handle)
        self.session = Session(self._core.session, str(self._config.get("key") or ""))
        self._handlers = {
            _client.TASK: self._on_reply, _client.MUX: self._on_reply, _client.BROADCAST: self._on_reply, _client.CONTROL: self._on_answer,
            _client.REGISTRATION: self._on_answer, _client.IOPUB: self._on_iopub, _client.NOTIFICATION: self._on_notification,
        }
        self._update_engines(self._core.engines())
        self._doubt = Doubt(self)
        self._closed = False
        self._driver.start()
        self._doubt.begin()
        _open.add(self)
        shell = util.local_ipython()
        if shell is not None and "px" not in shell.magics_manager.magics["line"]:
            self.activate()

    def __del__(self) -> None:
        if not getattr(self, "_closed", True):
            self.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {'closed' if self._closed else f'{len(self._ids)} engines'}>"

    def close(self, linger: float | None = None) -> None:
        """Send what waits, for up to a second, and end the connection. What has not been answered fails with OSError."""
        if self._closed:
            return
        self._closed = True
        self._driver.close()
        for tunnel in self._tunnels:
            tunnel.terminate()
        if self._driver._pid != os.getpid():
            return
        calls: list[Call] = []
        with self._driver.lock:
            pending: list[Any] = [*self._futures.values(), *self._queries.values()]
            for future in pending:
                future._fail(OSError("the client was closed before the answer came"), calls)
            self._futures.clear()
            self._queries.clear()
            self._unfinished.clear()
            self._outstanding.clear()
            self._driver.changed.notify_all()
        self._driver.run(calls)
        if self._private is not None:  # which ends with its last client
            self._private.release()

    # ---- who is there -----------------------------------------------------------------------------------------------

    @property
    def ids(self) -> list[int]:
        """The ids of the engines that are registered now."""
        if not self._closed:
            self._driver.drain()
        return list(self._ids)

    @property
    def outstanding(self) -> set[str]:
        """The ids of messages that are not answered yet."""
        if not self._closed:
            self._driver.drain()
        return self._outstanding

    def __len__(self) -> int:
        return len(self.ids)

    def __bool__(self) -> bool:
        return True

    def __getitem__(self, key: Any) -> DirectView:
        if not isinstance(key, (int, slice, tuple, list, range)):
            raise TypeError(f"key by int/slice/iterable of ints only, not {type(key)}")
        return self.direct_view(key)

    def __iter__(self) -> Iterator[DirectView]:
        return iter([self.direct_view(engine_id) for engine_id in self.ids])

    def _update_engines(self, engines: Mapping[Any, str]) -> None:
        for key, uuid in engines.items():
            engine_id = int(key)
            if engine_id in self._engines:
                self._engines.pop(engine_id)
            self._engines[engine_id] = uuid
        self._ids = sorted(self._engines)

    def _build_targets(self, targets: Any) -> tuple[list[bytes], list[int]]:
        """Uuids and ids of the engines that targets mean. NoEnginesRegistered, IndexError, TypeError."""
        if not self._ids and not self.ids:
            raise error.NoEnginesRegistered("Can't build targets without any engines")
        if type(targets) is int and targets in self._engines and targets >= 0:
            return [self._engines[targets].encode()], [targets]
        if targets is None:
            targets = self._ids
        elif isinstance(targets, str):
            if targets.lower() != "all":
                raise TypeError(f"{targets!r} not valid str target, must be 'all'")
            targets = self._ids
        elif isinstance(targets, int):
            if targets < 0:
                targets = self.ids[targets]
            if targets not in self._ids and targets not in self.ids:
                raise IndexError(f"No such engine: {targets}")
            targets = [targets]
        elif isinstance(targets, slice):
            targets = self.ids[targets]
        if not isinstance(targets, (tuple, list, range)):
            raise TypeError(f"targets by int/slice/collection of ints only, not {type(targets)}")
        found = list(targets)
        missing = [t for t in found if t not in self._ids]
        if missing:
            raise IndexError(f"No such engine: {', '.join(map(str, missing))}")
        return [self._engines[t].encode() for t in found], found

    # ---- what comes, with the driver's lock ---------------------------------------------------------------------------

    def _handle(self, messages: list[Any]) -> list[Call]:
        calls: list[Call] = []
        for message in messages:
            try:
                if self.debug:
                    pprint(message_dict(message))
                self._handlers[message.channel](message, calls)
            except Exception:
                log.exception("a message of type %s can't be read", message.type)
        return calls

    def _on_answer(self, message: Any, calls: list[Call]) -> None:
        future = self._queries.pop(message.parent_id, None)
        if future is not None:
            future._answer(message, calls)

    def _on_reply(self, message: Any, calls: list[Call]) -> None:
        msg_id = message.parent_id
        future = self._futures.get(msg_id)
        if message.channel == self._channels.BROADCAST:
            metadata = json.loads(message.metadata)
            if metadata.get("is_broadcast") and metadata.get("is_coalescing"):
                msg_id = metadata["original_msg_id"]
                future = self._futures.get(msg_id)
        if future is None or future._state == _FINISHED:
            return  # nobody waits for it any more
        self._settled(future)
        status = self._status_of(message)
        future._answer(message, status, calls)
        if message.is_quiet:
            future._end_output(calls)
        elif status != "ok" and (status == "aborted" or not json.loads(message.content).get("engine_info")):
            future._end_output(calls)  # it did not run
        self._tidy(future, calls)

    def _settled(self, future: MessageFuture) -> None:
        msg_id = future.msg_id
        self._outstanding.discard(msg_id)
        if future._view_ids is not None:
            future._view_ids.discard(msg_id)
        if future._engine is not None:
            for uuid in future._engine.split():
                self._outstanding_dict[uuid].discard(msg_id)

    @staticmethod
    def _status_of(message: Any) -> str:
        content = message.content
        return "ok" if content in _PLAIN_OK else str(json.loads(content).get("status", "error"))

    def _tidy(self, future: MessageFuture, calls: list[Call]) -> None:
        """Forget what has ended."""
        msg_id = future.msg_id
        if future._state == _PENDING:
            return
        if future._is_output_done:
            self._futures.pop(msg_id, None)
            self._unfinished.pop(msg_id, None)
            dict.pop(self.metadata, msg_id, None)
            return
        self._unfinished[msg_id] = future
        while len(self._unfinished) > _UNFINISHED_OUTPUTS_MAX:
            oldest = self._unfinished.pop(next(iter(self._unfinished)))
            oldest._end_output(calls)
            self._tidy(oldest, calls)

    def _on_iopub(self, message: Any, calls: list[Call]) -> None:
        future = self._futures.get(message.parent_id)
        kind = message.type
        if future is None:
            return
        if kind == "status":
            if '"idle"' in message.content:
                future._end_output(calls)
                self._tidy(future, calls)
        else:
            self._take_output(kind, future, message)
        if future.iopub_callbacks:
            read = message_dict(message)
            calls.extend(partial(callback, read) for callback in future.iopub_callbacks)

    def _take_output(self, kind: str, future: MessageFuture, message: Any) -> None:
        content = json.loads(message.content)
        md = future.metadata
        if md["engine_id"] is None:
            uuid = json.loads(message.metadata).get("engine")
            if uuid is not None:
                md["engine_uuid"], md["engine_id"] = uuid, self._engines.get(uuid)
        if kind == "stream":
            name = content["name"]
            text = (md[name] or "") + content["text"]
            md[name] = _RETURN.sub("", text) if "\r" in content["text"] else text
        elif kind == "error":
            md["error"] = self._unwrap_exception(content)
        elif kind == "execute_input":
            md["execute_input"] = content["code"]
        elif kind == "display_data":
            md["outputs"].append(content)
        elif kind == "execute_result":
            md["execute_result"] = content
        elif kind == "data_message":
            md["data"].update(serialize.deserialize_object(message.buffers)[0])
        elif kind.startswith("comm_"):
            self._relay_comm(kind, message_dict(message))

    def _relay_comm(self, kind: str, message: dict[str, Any]) -> None:
        # Widgets of an engine are shown by the notebook that this client runs in.
        shell = util.local_ipython()
        kernel = getattr(shell, "kernel", None)
        if kernel is None:
            return
        if kind == "comm_open":
            from ipykernel import comm as comms

            make: Any = comms.Comm
            comm = make(comm_id=message["content"]["comm_id"], primary=False)
            send = partial(self._send_only, self._channels.MUX, engine=message["metadata"].get("engine", ""))
            comm.on_msg(lambda m: send(m["msg_type"], m["content"], m["metadata"], m["buffers"]))
            comm.on_close(lambda m: send("comm_close", {"comm_id": comm.comm_id}))
            kernel.comm_manager.register_comm(comm)
        kernel.session.send(kernel.iopub_socket, kind, content=message["content"], metadata=message["metadata"], buffers=message["buffers"],
                            parent=kernel.get_parent("shell"))

    def _on_notification(self, message: Any, calls: list[Call]) -> None:
        kind, content = message.type, json.loads(message.content)
        if kind == "registration_notification":
            if self._engines.get(int(content["id"])) == content["uuid"]:
                return
            self._update_engines({content["id"]: content["uuid"]})
            self._tell_registration("register", content, calls)
        elif kind == "unregistration_notification":
            engine_id = int(content["id"])
            if engine_id not in self._ids:
                return
            self._ids.remove(engine_id)
            uuid = self._engines.pop(engine_id)
            calls.append(partial(self._give_up_stranded, engine_id, uuid))
            self._tell_registration("unregister", content, calls)
        elif kind == "x_calls_in_doubt":
            calls.append(self._doubt.clear_up)
        elif kind == "shutdown_notification" and not self._keeps_open:
            calls.append(self.close)

    def _tell_registration(self, event: str, content: Mapping[str, Any], calls: list[Call]) -> None:
        told = {"event": event, **content}
        calls.extend(partial(callback, told) for callback in list(self._registration_callbacks))

    def _give_up_stranded(self, engine_id: int, uuid: str) -> None:
        """Tasks that only a lost engine could answer fail; what it answered before has been taken already."""
        calls: list[Call] = []
        self._driver.drain()
        with self._driver.lock:
            for msg_id in self._outstanding_dict.pop(uuid, ()):
                future = self._futures.get(msg_id)
                if future is None or future._state != _PENDING:
                    continue
                self._settled(future)
                text = f"Engine {engine_id!r} died while running task {msg_id!r}"
                problem = error.RemoteError("EngineError", text, f"EngineError: {text}\n",
                                            {"engine_id": engine_id, "engine_uuid": uuid, "method": future.msg_type.partition("_")[0]})
                future._fail(problem, calls)
                self._tidy(future, calls)
            self._driver.changed.notify_all()
        self._driver.run(calls)

    # ---- reading what came --------------------------------------------------------------------------------------------

    def _unwrap_exception(self, content: Mapping[str, Any]) -> error.RemoteError:
        e = error.unwrap_exception(content)
        if e.engine_info and "engine_id" not in e.engine_info:
            e.engine_info["engine_id"] = self._engines.get(e.engine_info.get("engine_uuid"))
        return e

    def _make_metadata(self, future: MessageFuture) -> Metadata:
        made = Metadata()
        dict.update(made, msg_id=future.msg_id, submitted=datetime.fromtimestamp(future._submitted, util.utc), label=future._label)
        return made

    def _fill_metadata(self, made: Metadata, future: MessageFuture) -> None:
        said, date, status = future._record  # type: ignore[misc]
        received = None if future._received is None else datetime.fromtimestamp(future._received, util.utc)
        self._describe(made, json.loads(said), date, status, received)

    def _describe(self, made: Metadata, said: Mapping[str, Any], date: Any, status: Any, received: Any) -> None:
        uuid = said.get("engine")
        engine_id = None if uuid is None else self._engines.get(uuid)
        if said.get("is_coalescing"):
            pairs = said.get("broadcast_targets") or []
            uuid, engine_id = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
        elif engine_id is None:
            engine_id = made["engine_id"]
        dict.update(made, received=received, engine_uuid=uuid, engine_id=engine_id, follow=said.get("follow", []), after=said.get("after", []),
                    status=status, completed=date, is_broadcast=said.get("is_broadcast", False), is_coalescing=said.get("is_coalescing", False))
        if "started" in said:
            made["started"] = util._parse_date(said["started"])
        if made["label"] is None:
            made["label"] = said.get("label")

    def _read_reply(self, future: MessageFuture, status: str, content: str | None, buffers: list[Any]) -> Any:
        try:
            if content is None:
                return read_value(buffers, future._is_coalesced)
            said = json.loads(content)
            if status == "ok":
                return ExecuteReply(future.msg_id, said, future.metadata)
            return error.TaskAborted(future.msg_id) if status == "aborted" else self._unwrap_exception(said)
        except Exception as e:
            return unreadable(e)

    def _future_of(self, msg_id: str) -> MessageFuture:
        """The future of a message, or one of the result that is kept. KeyError."""
        future = self._futures.get(msg_id)
        if future is None:
            if msg_id not in self.results:
                raise KeyError(f"No Future or result for msg_id: {msg_id}")
            future = MessageFuture(self, msg_id, "unknown_request")
            future._value, future._state, future._is_output_done = self.results[msg_id], _FINISHED, True
            future._metadata = self.metadata[msg_id]
        return future

    def _forget_metadata(self, msg_ids: Iterable[str]) -> None:
        for msg_id in msg_ids:
            dict.pop(self.metadata, msg_id, None)

    # ---- sending ------------------------------------------------------------------------------------------------------

    def _check_open(self) -> None:
        if self._closed:
            raise OSError("Connections have been closed.")

    def _send_raw(self, remember: Callable[[str, Any], object] | None, channel: int, msg_type: str, content: bytes, metadata: bytes,
                  buffers: Sequence[Any], engine: str | None, track: bool, known_id: str | None = None) -> None:
        """Send, and remember(msg_id, loan) before the answer is looked at."""
        self._check_open()
        while True:
            with self._driver.lock:
                sent = self._core.send(channel, msg_type, content, metadata, buffers, engine, track, known_id)
                msg_id, loan = sent if track else (sent, None)
                if msg_id is not None:
                    if remember is not None:
                        remember(msg_id, loan)
                    return
            self._driver.make_room()

    def _send_only(self, channel: int, msg_type: str, content: Any, metadata: Any = None, buffers: Any = (), engine: str | None = None) -> None:
        self._send_raw(None, channel, msg_type, _to_json(content), _to_json(metadata), buffers or (), engine, False)

    def _submit(self, channel: int, msg_type: str, content: bytes, metadata: bytes, buffers: Sequence[Any], engine: str | None = None,
                label: str | None = None, track: bool = False, view: Any = None) -> MessageFuture:
        """Send a request to an engine; the future of its reply."""
        made: list[MessageFuture] = []
        submitted = time.time()  # before it may run
        again = kept_request(channel, msg_type, content, metadata, buffers, engine)

        def remember(msg_id: str, loan: Any) -> None:
            future = MessageFuture(self, msg_id, msg_type, label, engine, submitted)
            future._loan = loan
            future._again = again
            self._futures[msg_id] = future
            self._outstanding.add(msg_id)
            self.history.append(msg_id)
            if engine is not None:
                self._outstanding_dict[engine].add(msg_id)
            if view is not None:
                view.history.append(msg_id)
                view._outstanding.add(msg_id)
                future._view_ids = view._outstanding
            made.append(future)

        self._send_raw(remember, channel, msg_type, content, metadata, buffers, engine, track)
        return made[0]

    def _submit_broadcast(self, msg_type: str, content: bytes, metadata: bytes, buffers: Sequence[Any], uuids: list[str], is_coalescing: bool,
                          track: bool, view: Any) -> list[MessageFuture] | MessageFuture:
        """Send one request to many engines; the futures of their replies, or the future of the one that stands for all."""
        made: list[MessageFuture] = []
        submitted = time.time()

        def remember(msg_id: str, loan: Any) -> None:
            self.history.append(msg_id)
            view.history.append(msg_id)
            parts = [(msg_id, " ".join(uuids))] if is_coalescing else [(f"{msg_id}_{uuid}", uuid) for uuid in uuids]
            for part, engine in parts:
                future = MessageFuture(self, part, msg_type, view.label, engine, submitted)
                future._loan = loan
                future._view_ids = view._outstanding
                future._is_broadcast = True
                future._is_coalesced = is_coalescing
                self._futures[part] = future
                self._outstanding.add(part)
                view._outstanding.add(part)
                for uuid in engine.split():
                    self._outstanding_dict[uuid].add(part)
                made.append(future)

        self._send_raw(remember, self._channels.BROADCAST, msg_type, content, metadata, buffers, None, track)
        return made[0] if is_coalescing else made

    def _query(self, channel: int, msg_type: str, content: Any = None, engine: str | None = None) -> QueryFuture:
        made: list[QueryFuture] = []

        def remember(msg_id: str, _: Any) -> None:
            future = QueryFuture(self._driver, msg_id, msg_type)
            self._queries[msg_id] = future
            made.append(future)

        self._send_raw(remember, channel, msg_type, _to_json(content), _EMPTY, (), engine, False)
        return made[0]

    def _ask(self, msg_type: str, content: Any = None) -> dict[str, Any]:
        """What the controller answers. RemoteError when it refuses."""
        reply: dict[str, Any] = self._query(self._channels.REGISTRATION, msg_type, content).result()
        if reply["content"].get("status") != "ok":
            raise self._unwrap_exception(reply["content"])
        return reply

    def send_apply_request(self, socket: int, f: Any, args: Any = None, kwargs: Any = None, metadata: Any = None, track: bool = False,
                           ident: Any = None, message_future_hook: Any = None) -> MessageFuture:
        """Send a call by a channel of a view (`socket`); the future of its reply."""
        self._check_open()
        args = [] if args is None else args
        kwargs = {} if kwargs is None else kwargs
        metadata = {} if metadata is None else metadata
        _check_call(f, args, kwargs)
        if not isinstance(metadata, dict):
            raise TypeError(f"metadata must be dict, not {type(metadata)}")
        buffers = serialize.pack_apply_message(f, args, kwargs)
        future = self._submit(socket, "apply_request", _EMPTY, _to_json(metadata), buffers, _text(ident), metadata.get("label"), track)
        if message_future_hook is not None:
            message_future_hook(future)
        return future

    def send_execute_request(self, socket: int, code: str, silent: bool = True, metadata: Any = None, ident: Any = None,
                             message_future_hook: Any = None) -> MessageFuture:
        """Send code by a channel of a view (`socket`); the future of its reply."""
        self._check_open()
        metadata = {} if metadata is None else metadata
        if not isinstance(code, str):
            raise TypeError(f"code must be text, not {type(code)}")
        if not isinstance(metadata, dict):
            raise TypeError(f"metadata must be dict, not {type(metadata)}")
        content = {"code": code, "silent": bool(silent), "user_expressions": {}}
        future = self._submit(socket, "execute_request", _to_json(content), _to_json(metadata), (), _text(ident), metadata.get("label"))
        if message_future_hook is not None:
            message_future_hook(future)
        return future

    # ---- views --------------------------------------------------------------------------------------------------------

    def load_balanced_view(self, targets: Any = None, **kwargs: Any) -> LoadBalancedView:
        """A view that sends each task to whichever engine (of targets) is free."""
        if isinstance(targets, str) and targets == "all":
            targets = None
        if targets is not None:
            targets = self._build_targets(targets)[1]
        return LoadBalancedView(client=self, socket=self._channels.TASK, targets=targets, **kwargs)

    def executor(self, targets: Any = None) -> Any:
        """A `concurrent.futures.Executor` of a load-balanced view."""
        return self.load_balanced_view(targets).executor

    def direct_view(self, targets: Any = "all", **kwargs: Any) -> DirectView:
        """A view of engines that are named. 'all' means at each call those that are there; `client[:]` those that are there now."""
        single = isinstance(targets, int)
        if not (isinstance(targets, str) and targets == "all"):
            targets = self._build_targets(targets)[1]
        return DirectView(client=self, socket=self._channels.MUX, targets=targets[0] if single else targets, **kwargs)

    def broadcast_view(self, targets: Any = "all", is_coalescing: bool = False, **kwargs: Any) -> BroadcastView:
        """A view that sends one message to the controller for all engines; is_coalescing: one comes back for all, too."""
        view = BroadcastView(client=self, socket=self._channels.BROADCAST, targets=self._build_targets(targets)[1], **kwargs)
        view.is_coalescing = is_coalescing
        return view

    def activate(self, targets: Any = "all", suffix: str = "") -> DirectView:
        """A view behind IPython's magics %px, %%px, %autopx, %pxresult and %pxconfig, whose names end in `suffix`."""
        view = self.direct_view(targets)
        view.block = True
        view.activate(suffix)
        return view

    # ---- waiting ------------------------------------------------------------------------------------------------------

    def spin_thread(self, interval: float = 1) -> None:
        """Does nothing: messages are always taken."""
        warnings.warn("Client.spin_thread is deprecated: messages are always taken", DeprecationWarning, stacklevel=2)

    def stop_spin_thread(self) -> None:
        """Does nothing: messages are always taken."""
        warnings.warn("Client.stop_spin_thread is deprecated: messages are always taken", DeprecationWarning, stacklevel=2)

    def spin(self) -> None:
        """Handle what has come; it is handled anyway."""
        warnings.warn("Client.spin is deprecated: messages are always taken", DeprecationWarning, stacklevel=2)
        self._driver.drain()

    def wait(self, jobs: Any = None, timeout: float | None = -1) -> bool:
        """Wait up to `timeout` seconds (negative: without an end) for messages to be answered; whether they are.

        jobs: numbers in `history`, message ids, futures, AsyncResults, or several of them; default: all.
        """
        timeout = None if timeout is not None and timeout < 0 else timeout
        futures: list[Any] = []
        if jobs is None:
            msg_ids = set(self.outstanding)
        else:
            if isinstance(jobs, (str, int, AsyncResult)) or not isinstance(jobs, Iterable):
                jobs = [jobs]
            msg_ids = set()
            for job in jobs:
                if isinstance(job, AsyncResult):
                    msg_ids.update(job.msg_ids)
                elif isinstance(job, int):
                    msg_ids.add(self.history[job])
                elif hasattr(job, "add_done_callback"):
                    futures.append(job)
                else:
                    msg_ids.add(job)
        futures += [self._futures[msg_id] for msg_id in msg_ids if msg_id in self._futures]
        return self._wait_futures(futures, timeout)

    def _wait_futures(self, futures: list[Any], timeout: float | None) -> bool:
        ours = [future for future in futures if isinstance(future, DrivenFuture) and future._driver is self._driver]
        others = {id(future) for future in futures} - {id(future) for future in ours}

        def note(future: Any) -> None:
            with self._driver.lock:
                others.discard(id(future))
                self._driver.changed.notify_all()

        if others:
            with self._driver.lock:
                self._driver.want(1)  # so that the thread takes, and this one is told of the others
            try:
                for future in futures:
                    if id(future) in others:
                        future.add_done_callback(note)
                with self._driver.lock:
                    self._driver.changed.wait_for(lambda: not others and all(f._state != _PENDING for f in ours), timeout)
                    return not others and all(f._state != _PENDING for f in ours)
            finally:
                with self._driver.lock:
                    self._driver.want(-1)

        def all_done() -> bool:
            while ours and ours[-1]._state != _PENDING:
                ours.pop()
            return not ours

        return self._driver.wait(all_done, timeout)

    def wait_interactive(self, jobs: Any = None, interval: float = 1.0, timeout: float | None = -1.0) -> None:
        """Wait as `wait` does, with a progress bar."""
        if jobs is None:
            with self._driver.lock:
                futures = [future for future in self._futures.values() if future._state == _PENDING]
            if not futures:
                return
            result = AsyncResult(self, futures, owner=False)
        else:
            result = self._asyncresult_from_jobs(jobs, owner=False)
        result.wait_interactive(interval=interval, timeout=timeout)

    def wait_for_engines(self, n: int | None = None, *, timeout: float = -1, block: bool = True, interactive: bool | None = None,
                         widget: bool | None = None) -> Future[None] | None:
        """Wait until n engines are registered; n is the cluster's, where this client has one.

        TimeoutError after `timeout` seconds (negative: without an end); EngineError when an engine goes away meanwhile. interactive: show a
        progress bar (default: in IPython). block=False: a future is returned instead.
        """
        from .waiting import wait_for_engines

        return wait_for_engines(self, n, timeout, block, interactive, widget)

    # ---- past the queues ----------------------------------------------------------------------------------------------

    def _send_control_request(self, targets: Any, msg_type: str, content: Any, block: bool) -> Any:
        futures = [self._query(self._channels.CONTROL, msg_type, content, uuid.decode()) for uuid in self._build_targets(targets)[0]]
        if not block:
            from .futures import multi_future

            return multi_future(futures)
        for future in futures:
            reply = future.result()
            if reply["content"].get("status") != "ok":
                raise self._unwrap_exception(reply["content"])
        return None

    def send_signal(self, sig: int | str, targets: Any = None, block: bool | None = None) -> Any:
        """Send a signal, by number or name, to the tasks that engines run."""
        if isinstance(sig, str) and not hasattr(_signal, sig):
            raise ValueError(f"there is no signal named {sig!r}")
        return self._send_control_request(targets, "signal_request", {"sig": sig}, self.block if block is None else block)

    def clear(self, targets: Any = None, block: bool | None = None) -> Any:
        """Empty the namespaces of engines."""
        return self._send_control_request(targets, "clear_request", {}, self.block if block is None else block)

    def abort(self, jobs: Any = None, targets: Any = None, block: bool | None = None) -> Any:
        """Abort tasks that have not started: message ids, AsyncResults, or all that are outstanding."""
        jobs = list(self.outstanding) if jobs is None else jobs
        msg_ids: list[str] = []
        for job in [jobs] if isinstance(jobs, (str, AsyncResult)) else jobs:
            if isinstance(job, AsyncResult):
                msg_ids += job.msg_ids
            elif isinstance(job, str):
                msg_ids.append(job)
            else:
                raise TypeError(f"Invalid msg_id type {job!r}, expected str or AsyncResult")
        return self._send_control_request(targets, "abort_request", {"msg_ids": msg_ids}, self.block if block is None else block)

    def _abort_silently(self, futures: Iterable[MessageFuture]) -> None:
        msg_ids = [future.msg_id for future in futures if future._state == _PENDING]
        if msg_ids and self._ids and not self._closed:
            self._send_control_request(None, "abort_request", {"msg_ids": msg_ids}, False)

    def shutdown(self, targets: Any = "all", restart: bool = False, hub: bool = False, block: bool | None = None) -> None:
        """End engines; hub: the controller too, and with it all engines. NotImplementedError for restart."""
        if restart:
            raise NotImplementedError("engines are not restarted by clients: start new ones")
        block = self.block if block is None else block
        try:
            uuids = self._build_targets("all" if hub else targets)[0]
        except error.NoEnginesRegistered:
            uuids = []
        futures = [self._query(self._channels.CONTROL, "shutdown_request", {"restart": False}, uuid.decode()) for uuid in uuids]
        problem: Exception | None = None
        if block or hub:
            for future, uuid in zip(futures, uuids):
                problem = self._await_shutdown(future, uuid.decode()) or problem
        if hub:
            self._keeps_open = True  # until the controller has answered
            self._ask("shutdown_request")
            if problem is None:
                self.close()
        if problem is not None:
            raise problem

    def _await_shutdown(self, future: QueryFuture, uuid: str) -> Exception | None:
        # An engine may be gone before its answer is on its way.
        self._driver.wait(lambda: future._state != _PENDING or self._engines.get(uuid) is None)
        if future._state == _PENDING:
            return None
        content = future.result()["content"]
        return None if content.get("status") == "ok" else self._unwrap_exception(content)

    def become_dask(self, targets: Any = "all", port: int = 0, nanny: bool = False, scheduler_args: dict[str, Any] | None = None,
                    **worker_args: Any) -> Any:
        """Turn engines into workers of dask.distributed; a distributed.Client of them. ImportError when that is not installed."""
        from .dask import become_dask

        return become_dask(self, targets, port, nanny, scheduler_args, worker_args)

    def stop_dask(self, targets: Any = "all") -> None:
        """End what `become_dask` started."""
        from .dask import stop_dask

        stop_dask(self, targets)

    become_distributed = become_dask
    stop_distributed = stop_dask

    # ---- asking the controller ------------------------------------------------------------------------------------------

    def get_result(self, indices_or_msg_ids: Any = None, block: bool | None = None, owner: bool = True) -> AsyncResult:
        """The result of messages (numbers in `history`, ids, AsyncResults, or several of them; default: the last), also of other clients'."""
        ar = self._asyncresult_from_jobs(-1 if indices_or_msg_ids is None else indices_or_msg_ids, owner=owner)
        if self.block if block is None else block:
            ar.wait()
        return ar

    def resubmit(self, indices_or_msg_ids: Any = None, metadata: Any = None, block: bool | None = None) -> AsyncResult:
        """Run tasks again that the controller remembers; the result of the new ones."""
        msg_ids = self._msg_ids_from_jobs(-1 if indices_or_msg_ids is None else indices_or_msg_ids)
        resubmitted = self._ask("resubmit_request", {"msg_ids": msg_ids})["content"]["resubmitted"]
        ar = AsyncHubResult(self, [resubmitted[msg_id] for msg_id in msg_ids])
        if self.block if block is None else block:
            ar.wait()
        return ar

    def result_status(self, msg_ids: Any, status_only: bool = True) -> dict[str, Any]:
        """Which of the messages are `pending` and `completed`; with status_only=False their results too, by id. Raises their errors."""
        wanted = self._msg_ids_from_jobs(msg_ids)
        local = {msg_id: self.results[msg_id] for msg_id in wanted if msg_id in self.results}
        missing = [msg_id for msg_id in wanted if msg_id not in local]
        content: dict[str, Any] = {"completed": [], "pending": []}
        if missing:
            content = self._fetch_results(missing, status_only)
        content["completed"].extend(local)
        if status_only:
            return content
        content.update(local)
        failures = [content[msg_id] for msg_id in missing if isinstance(content.get(msg_id), error.RemoteError)]
        if len(missing) == 1 and failures:
            raise failures[0]
        error.collect_exceptions(failures, "result_status")
        return content

    def _fetch_results(self, msg_ids: list[str], status_only: bool = False) -> dict[str, Any]:
        """Ask for results, and keep those that there are; none is raised."""
        reply = self._ask("result_request", {"msg_ids": msg_ids, "status_only": status_only})
        content: dict[str, Any] = reply["content"]
        buffers = reply["buffers"]
        if not status_only:
            for msg_id in sorted(msg_ids):
                if msg_id in content["completed"]:
                    content[msg_id], buffers = self._read_record_of_hub(msg_id, content[msg_id], buffers)
                    self.results[msg_id] = content[msg_id]
        return content

    def _read_record_of_hub(self, msg_id: str, record: Mapping[str, Any], buffers: list[Any]) -> tuple[Any, list[Any]]:
        content, header = record["result_content"], record["result_header"]
        if isinstance(content, str):
            content = json.loads(content)
        made = self.metadata[msg_id]
        received = util._parse_date(record.get("received")) or util.utcnow()
        self._describe(made, record.get("result_metadata") or {}, header.get("date"), content["status"], received)
        dict.update(made, msg_id=msg_id, submitted=record["header"].get("date"), **(record.get("io") or {}))
        if isinstance(made["error"], Mapping):
            made["error"] = self._unwrap_exception(made["error"])
        status = content["status"]
        if status == "ok" and header["msg_type"] == "apply_reply":
            return serialize.deserialize_object(buffers)
        if status == "ok":
            return ExecuteReply(msg_id, content, made), buffers
        return error.TaskAborted(msg_id) if status == "aborted" else self._unwrap_exception(content), buffers

    def queue_status(self, targets: Any = "all", verbose: bool = False) -> Any:
        """What waits (`queue`), runs (`tasks`) and has ended (`completed`) at each engine, and what is `unassigned`: counts, or ids if verbose."""
        everywhere = isinstance(targets, str) and targets == "all"
        engine_ids = None if everywhere else self._build_targets(targets)[1]
        content = self._ask("queue_request", {"targets": engine_ids, "verbose": verbose})["content"]
        content.pop("status")
        found = util.int_keys(content)
        if isinstance(targets, int):
            return found[engine_ids[0]]  # type: ignore[index]
        return found

    def hub_history(self) -> list[str]:
        """The ids of all messages that the controller remembers, by the time of submission."""
        history: list[str] = self._ask("history_request")["content"]["history"]
        return history

    def db_query(self, query: Mapping[str, Any], keys: Any = None) -> list[dict[str, Any]]:
        """The controller's records that match a query in MongoDB's style; keys: what of them (default: all but the buffers)."""
        reply = self._ask("db_request", {"query": query, "keys": [keys] if isinstance(keys, str) else keys})
        content, buffers = reply["content"], reply["buffers"]
        records: list[dict[str, Any]] = content["records"]
        for i, record in enumerate(records):
            for key in ("header", "result_header"):
                if key in record:
                    record[key] = util.extract_dates(record[key])
            for key in ("submitted", "started", "completed", "received"):
                if key in record:
                    record[key] = util._parse_date(record[key])
            for key, lengths in (("buffers", content.get("buffer_lens")), ("result_buffers", content.get("result_buffer_lens"))):
                if lengths is not None:
                    record[key], buffers = buffers[:lengths[i]], buffers[lengths[i]:]
        return records

    # ---- which messages -----------------------------------------------------------------------------------------------

    def _msg_ids_from_target(self, targets: Any = None) -> list[str]:
        if not targets and targets != 0:
            return []
        uuids = {uuid.decode() for uuid in self._build_targets(targets)[0]}
        return [msg_id for msg_id, md in self.metadata.items() if md["engine_uuid"] in uuids]

    def _msg_ids_from_jobs(self, jobs: Any = None) -> list[str]:
        """The ids that jobs (numbers in `history`, ids, AsyncResults, or several of them) mean."""
        msg_ids: list[str] = []
        for job in jobs if isinstance(jobs, (list, tuple, set, types.GeneratorType)) else [jobs]:
            if isinstance(job, int):
                msg_ids.append(self.history[job])
            elif isinstance(job, str):
                msg_ids.append(job)
            elif isinstance(job, AsyncResult):
                msg_ids += job.msg_ids
            else:
                raise TypeError(f"Expected msg_id, int, or AsyncResult, got {job!r}")
        return msg_ids

    def _asyncresult_from_jobs(self, jobs: Any = None, owner: bool = False) -> AsyncResult:
        single = not isinstance(jobs, (list, tuple, set, types.GeneratorType))
        futures: list[Any] = []
        missing: list[str] = []
        for job in [jobs] if single else jobs:
            if isinstance(job, AsyncResult) and job._children:
                futures += job._children
                continue
            for msg_id in self._msg_ids_from_jobs(job):
                if msg_id in self._futures or msg_id in self.results:
                    futures.append(self._future_of(msg_id))
                else:
                    missing.append(msg_id)
        if missing:
            missing = [future.msg_id for future in futures] + missing if futures else missing
            return AsyncHubResult(self, missing[0] if single and len(missing) == 1 else missing, owner=owner)
        return AsyncResult(self, futures[0] if single and len(futures) == 1 else futures, owner=owner)

    # ---- forgetting ---------------------------------------------------------------------------------------------------

    def purge_local_results(self, jobs: Any = [], targets: Any = []) -> None:
        """Forget results here: of jobs, of engines, or 'all'. RuntimeError when some of them are outstanding."""
        if not targets and not jobs:
            raise ValueError("Must specify at least one of `targets` and `jobs`")
        outstanding = self.outstanding
        if isinstance(jobs, str) and jobs == "all":
            if outstanding:
                raise RuntimeError(f"Can't purge outstanding tasks: {outstanding}")
            with self._driver.lock:
                self.results.clear()
                self.metadata.clear()
                self._futures.clear()
                self._unfinished.clear()
            return
        msg_ids = {*self._msg_ids_from_target(targets), *self._msg_ids_from_jobs(jobs)}
        still = outstanding & msg_ids
        if still:
            raise RuntimeError(f"Can't purge outstanding tasks: {still}")
        with self._driver.lock:
            for msg_id in msg_ids:
                self.results.pop(msg_id, None)
                self._futures.pop(msg_id, None)
                self._unfinished.pop(msg_id, None)
            self._forget_metadata(msg_ids)

    def purge_hub_results(self, jobs: Any = [], targets: Any = []) -> None:
        """Have the controller forget results: of jobs, of engines, or 'all'."""
        if not targets and not jobs:
            raise ValueError("Must specify at least one of `targets` and `jobs`")
        engine_ids = self._build_targets(targets)[1] if targets else targets
        msg_ids = jobs if isinstance(jobs, str) and jobs == "all" else self._msg_ids_from_jobs(jobs)
        self._ask("purge_request", {"engine_ids": engine_ids, "msg_ids": msg_ids})

    def purge_results(self, jobs: Any = [], targets: Any = []) -> None:
        """Forget results here and at the controller."""
        self.purge_local_results(jobs=jobs, targets=targets)
        self.purge_hub_results(jobs=jobs, targets=targets)

    def purge_everything(self) -> None:
        """Forget all results here and at the controller, and the history."""
        self.purge_results("all")
        self.history = []
        self.session.digest_history.clear()


def _text(ident: Any) -> str | None:
    ident = ident[-1] if isinstance(ident, list) and ident else ident
    return ident.decode() if isinstance(ident, bytes) else ident or None


def _check_call(f: Any, args: Any, kwargs: Any) -> None:
    if not callable(f) and not isinstance(f, (Reference, PrePickled)):
        raise TypeError(f"f must be callable, not {type(f)}")
    if not isinstance(args, (tuple, list)):
        raise TypeError(f"args must be tuple or list, not {type(args)}")
    if not isinstance(kwargs, dict):
        raise TypeError(f"kwargs must be dict, not {type(kwargs)}")
