"""Futures of messages. They are settled by their client's driver, all under its one lock, and read when somebody asks."""

from __future__ import annotations

import json
import threading
import time
from concurrent.futures import CancelledError, Future
from typing import TYPE_CHECKING, Any, Callable, Generator, Iterable

from .. import error, serialize
from .driver import Call, Driver, log

if TYPE_CHECKING:
    from .client import Client, Metadata

__all__ = ["MessageFuture", "multi_future"]

_PENDING, _CANCELLED, _FINISHED = "PENDING", "CANCELLED_AND_NOTIFIED", "FINISHED"
_UNREAD: Any = object()


class DrivenFuture(Future):  # type: ignore[type-arg]
    """A future that whoever waits for it brings forward. Its fields are guarded by the driver's lock.

    `_value` is what it ended with, once `_read()` was asked for it; `_error` the exception that `result()` raises.
    """

    __slots__ = ("_calls", "_driver", "_error", "_is_wanted", "_state", "_value", "_watchers")

    def __init__(self, driver: Driver) -> None:
        # not the base's: it makes a lock for each
        self._driver = driver
        self._state = _PENDING
        self._value: Any = _UNREAD
        self._error: BaseException | None = None
        self._calls: list[Callable[[Any], object]] | None = None
        self._watchers: list[Any] | None = None
        self._is_wanted = False

    # what the functions of concurrent.futures look at

    @property
    def _condition(self) -> Any:  # type: ignore[override]
        return self._driver.changed

    @property
    def _waiters(self) -> list[Any]:  # type: ignore[override]
        with self._driver.lock:
            if self._watchers is None:
                self._watchers = []
            self._want()
            return self._watchers

    @property
    def _exception(self) -> BaseException | None:  # type: ignore[override]
        return self._error

    def _want(self) -> None:
        if self._state == _PENDING and not self._is_wanted:
            self._is_wanted = True
            self._driver.want(1)

    # ---- ending ---------------------------------------------------------------------------------------------------

    def _is_settled(self) -> bool:
        return self._state != _PENDING

    def _settle(self, calls: list[Call], state: str = _FINISHED) -> None:
        """It has ended; with the lock. What is to be told outside it is added to calls."""
        self._state = state
        if self._is_wanted:
            self._is_wanted = False
            self._driver.want(-1)
            calls.append(self._announce)

    def _announce(self) -> None:
        with self._driver.lock:
            watchers, calls = list(self._watchers or ()), self._calls or []
            self._calls = None
        for watcher in watchers:
            if self._state == _CANCELLED:
                watcher.add_cancelled(self)
            elif self._problem() is not None:
                watcher.add_exception(self)
            else:
                watcher.add_result(self)
        for fn in calls:
            try:
                fn(self)
            except Exception:
                log.exception("a callback of %r raised an exception", self)

    def _end(self, value: Any, problem: BaseException | None = None) -> None:
        """End it from outside."""
        calls: list[Call] = []
        with self._driver.lock:
            if self._state != _PENDING:
                return
            self._value, self._error = value, problem
            self._settle(calls)
            self._driver.changed.notify_all()
        self._driver.run(calls)

    def _read(self) -> None:
        """Set `_value` and `_error` once it has ended."""

    def _problem(self) -> BaseException | None:
        self._read()
        return self._error

    # ---- the interface of a future --------------------------------------------------------------------------------

    def done(self) -> bool:
        """Whether it has ended."""
        if self._state == _PENDING:
            self._driver.drain()
        return self._state != _PENDING

    def cancelled(self) -> bool:
        """Whether it was cancelled."""
        return self._state == _CANCELLED

    def running(self) -> bool:
        """Never: who has sent a task does not know when it starts."""
        return False

    def cancel(self) -> bool:
        """Not wanted any more; False when it has ended."""
        calls: list[Call] = []
        with self._driver.lock:
            if self._state != _PENDING:
                return self._state == _CANCELLED
            self._settle(calls, _CANCELLED)
            self._driver.changed.notify_all()
        self._driver.run(calls)
        return True

    def _await_end(self, timeout: float | None) -> None:
        if self._state == _PENDING and not self._driver.wait(self._is_settled, timeout):
            raise TimeoutError("Result not ready.")
        if self._state == _CANCELLED:
            raise CancelledError()

    def result(self, timeout: float | None = None) -> Any:
        """What it ended with; raises what it failed with. TimeoutError after `timeout` seconds."""
        self._await_end(timeout)
        self._read()
        if self._error is not None:
            try:
                raise self._error
            finally:
                self = None  # type: ignore[assignment]  # no cycle through the traceback
        return self._value

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """What it failed with, or None."""
        self._await_end(timeout)
        return self._problem()

    def add_done_callback(self, fn: Callable[[Any], object]) -> None:
        """Call fn(self) when it has ended: at once if it has, else in whichever thread takes its answer."""
        with self._driver.lock:
            if self._state == _PENDING:
                if self._calls is None:
                    self._calls = []
                self._calls.append(fn)
                self._want()
                return
        try:
            fn(self)
        except Exception:
            log.exception("a callback of %r raised an exception", self)

    def set_result(self, result: Any) -> None:
        """For who made it."""
        self._end(result)

    def set_exception(self, exception: BaseException | None) -> None:
        """For who made it."""
        self._end(None, exception)

    def set_running_or_notify_cancel(self) -> bool:
        """As a future's."""
        return self._state != _CANCELLED

    def __await__(self) -> Generator[Any, None, Any]:
        import asyncio

        return asyncio.wrap_future(self).__await__()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._state.lower()}>"


class Output(DrivenFuture):
    """Ends when all that a task printed and displayed is in `metadata`."""

    __slots__ = ("_future",)

    def __init__(self, future: MessageFuture) -> None:
        super().__init__(future._driver)
        self._future = future
        self._value = None

    @property
    def metadata(self) -> Metadata:
        """Of the task."""
        return self._future.metadata


class MessageFuture(DrivenFuture):
    """The answer to one message: `result()` is a value, or an exception as a value; `metadata` says how it came about."""

    __slots__ = ("_again", "_client", "_content", "_engine", "_is_broadcast", "_is_coalesced", "_is_output_done", "_label", "_loan", "_metadata", "_on_end", "_output", "_parents", "_received",
                 "_record", "_submitted", "_view_ids", "iopub_callbacks", "msg_id", "msg_type")

    def __init__(self, client: Client, msg_id: str, msg_type: str, label: str | None = None, engine: str | None = None,
                 submitted: float | None = None) -> None:
        super().__init__(client._driver)
        self._client = client
        self.msg_id = msg_id
        self.msg_type = msg_type
        self._label = label
        self._engine = engine           # it went to this one
        self._submitted = time.time() if submitted is None else submitted
        self._received: float | None = None
        self._content: tuple[Any, ...] | None = None  # of the reply, until it is read: status, content unless that says no more, buffers
        self._record: tuple[Any, ...] | None = None   # what the reply says of itself: metadata, date, status
        self._metadata: Metadata | None = None
        self._is_broadcast = False      # the controller keeps no record of it
        self._is_coalesced = False      # its reply holds those of several engines
        self._is_output_done = False
        self._output: Output | None = None
        self._loan: Any = None
        self._again: Any = None         # the request, to be sent again; None: it is not kept
        self._parents: list[Any] | Any | None = None
        self._view_ids: set[str] | None = None
        self.iopub_callbacks: list[Callable[[dict[str, Any]], object]] | tuple[()] = ()

    @property
    def header(self) -> dict[str, Any]:
        """Of the request, as far as it matters here."""
        return {"msg_id": self.msg_id, "msg_type": self.msg_type}

    @property
    def output(self) -> Output:
        """The future of its output."""
        with self._driver.lock:
            if self._output is None:
                self._output = Output(self)
                if self._is_output_done:
                    self._output._settle([])
            return self._output

    def wait(self, timeout: float | None = None) -> bool:
        """Wait for the answer; whether it came."""
        return self._state != _PENDING or self._driver.wait(self._is_settled, timeout)

    # ---- parents: the results that it is a part of; with the lock ------------------------------------------------

    def _adopt(self, parent: Any) -> None:
        if self._parents is None:
            self._parents = parent
        elif isinstance(self._parents, list):
            self._parents.append(parent)
        else:
            self._parents = [self._parents, parent]

    def _tell(self, what: str, calls: list[Call]) -> None:
        parents = self._parents
        if parents is not None:
            for parent in parents if isinstance(parents, list) else (parents,):
                getattr(parent, what)(calls)
        if self._state != _PENDING and self._is_output_done:
            self._parents = None

    def _answer(self, message: Any, status: str, calls: list[Call]) -> None:
        """The reply is here. Of the message itself, which takes many times the room of what it says, nothing is kept but big buffers."""
        self._again = None
        self._received = time.time()
        self._record = message.metadata, message.date, status
        self._content = status, None if status == "ok" and self.msg_type == "apply_request" else message.content, message.buffers
        if self._metadata is not None:
            self._client._fill_metadata(self._metadata, self)
        self._settle(calls)
        self._tell("_child_done", calls)

    def _end_output(self, calls: list[Call]) -> None:
        if self._is_output_done:
            return
        self._is_output_done = True
        if self._output is not None:
            self._output._settle(calls)
        self._tell("_child_output_done", calls)

    def _fail(self, problem: BaseException, calls: list[Call]) -> None:
        """There will be no reply."""
        if self._state == _PENDING:
            self._again = None
            self._value = problem
            self._received = time.time()
            self._settle(calls)
            self._tell("_child_done", calls)
        self._end_output(calls)

    # ---- reading --------------------------------------------------------------------------------------------------

    def _read(self) -> None:
        with self._driver.lock:
            content = self._content
            if self._value is not _UNREAD or content is None:
                return
        value = self._client._read_reply(self, *content)
        with self._driver.lock:
            if self._value is _UNREAD:
                self._value = value
                self._content = None

    @property
    def metadata(self) -> Metadata:
        """When it was sent, run and answered, and what it printed and displayed."""
        with self._driver.lock:
            if self._metadata is None:
                self._metadata = self._client._make_metadata(self)
                if self._record is not None:
                    self._client._fill_metadata(self._metadata, self)
            return self._metadata


class QueryFuture(DrivenFuture):
    """The answer of the controller, or of an engine past its queue: a dict with header, content, metadata and buffers."""

    __slots__ = ("_message", "msg_id", "msg_type")

    def __init__(self, driver: Driver, msg_id: str, msg_type: str) -> None:
        super().__init__(driver)
        self.msg_id = msg_id
        self.msg_type = msg_type
        self._message: Any = None

    def _answer(self, message: Any, calls: list[Call]) -> None:
        self._message = message
        self._settle(calls)

    def _fail(self, problem: BaseException, calls: list[Call]) -> None:
        if self._state == _PENDING:
            self._error = problem
            self._settle(calls)

    def wait(self, timeout: float | None = None) -> bool:
        """Wait for the answer; whether it came."""
        return self._state != _PENDING or self._driver.wait(self._is_settled, timeout)

    def _read(self) -> None:
        message = self._message
        if self._value is _UNREAD and message is not None:
            self._value = message_dict(message)


def message_dict(m: Any) -> dict[str, Any]:
    """A message with everything in it read."""
    header = json.loads(m.header)
    return {"header": header, "msg_id": header.get("msg_id"), "msg_type": header.get("msg_type"), "parent_header": json.loads(m.parent),
            "metadata": json.loads(m.metadata), "content": json.loads(m.content), "buffers": m.buffers}


def read_value(buffers: list[Any], is_coalesced: bool) -> Any:
    """The value in a reply: one, or a list of them where the controller has put the replies of several engines together."""
    if not is_coalesced:
        return serialize.deserialize_object(buffers)[0]
    values = []
    while buffers:
        value, buffers = serialize.deserialize_object(buffers)
        values.append(value)
    return values


def unreadable(problem: Exception) -> error.RemoteError:
    """What stands for a result that can't be unpickled here."""
    return error.RemoteError(type(problem).__name__, f"the result can't be read here: {problem}", None,
                             {"engine_id": "client", "method": "deserialize"})


def multi_future(children: Iterable[Future[Any]]) -> Future[list[Any]]:
    """A future of the results of all, or of the first exception among them."""
    futures = list(children)
    combined: Future[list[Any]] = Future()
    missing = set(map(id, futures))
    if not missing:
        combined.set_result([])
        return combined
    lock = threading.Lock()

    def note(future: Future[Any]) -> None:
        with lock:
            missing.discard(id(future))
            if missing or combined.done():
                return
            combined.set_running_or_notify_cancel()
        try:
            results = [f.result() for f in futures]
        except BaseException as e:
            combined.set_exception(e)
        else:
            combined.set_result(results)

    for future in {id(f): f for f in futures}.values():
        future.add_done_callback(note)
    return combined
