"""Calls that a client does not know to have arrived, since a connection ended or the controller was started again.

Those that are small are kept until they are answered, and sent again under the same id: a controller that has one of them takes no second one, and
answers again if it has ended. For the others the controller is asked what has become of them.
"""

from __future__ import annotations

import json
import threading
import time
from typing import TYPE_CHECKING, Any, Sequence

from .. import error
from .driver import Call, log
from .futures import _PENDING

if TYPE_CHECKING:
    from .client import Client

__all__ = ["Doubt", "kept_request"]

_KEPT_BYTES = 64 << 10   # of a call's buffers, up to which it is kept
_SURE_AFTER = 2.0        # seconds until a call that the controller does not know is looked for a second time
_IDS_MAX = 500           # in one question
_CHANNELS = ("TASK", "MUX")


def kept_request(channel: int, msg_type: str, content: bytes, metadata: bytes, buffers: Sequence[Any], engine: str | None) -> tuple[Any, ...] | None:
    """A request as it is now; None: it is too large to be kept."""
    size = 0
    for buffer in buffers:
        size += buffer.nbytes if type(buffer) is memoryview else len(buffer)
    if size > _KEPT_BYTES:
        return None
    return channel, msg_type, content, metadata, [buffer if type(buffer) is bytes else bytes(buffer) for buffer in buffers], engine


def _with_ack(metadata: bytes) -> bytes:
    return json.dumps({**json.loads(metadata), "x_ack": True}).encode()


class Doubt:
    """What a client does about them."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._run: str | None = None        # of the controller
        self._forgotten: set[str] = set()   # of a run that is over, and wrote nothing down: they may have run
        self._missing: set[str] = set()     # that the controller did not know when it was asked first
        self._timer: threading.Timer | None = None

    def begin(self) -> None:
        """Ask which controller this is."""
        self._ask("connection_request", None, self._note_run)

    def _ask(self, msg_type: str, content: Any, then: Any) -> None:
        client = self._client
        try:
            query = client._query(client._channels.REGISTRATION, msg_type, content)
        except OSError:
            return  # the client is being closed
        query.add_done_callback(lambda done: then(self._content_of(done)))

    def _content_of(self, query: Any) -> Any:
        try:
            reply = query.result(0)
        except OSError:
            return None
        return reply if reply["content"].get("status") == "ok" else None

    def _note_run(self, reply: Any) -> None:
        if reply is not None:
            self._run = reply["content"].get("x_run")

    def _pending(self) -> list[Any]:
        client = self._client
        channels = [getattr(client._channels, name) for name in _CHANNELS]
        with client._driver.lock:
            return [future for future in client._futures.values()
                    if future._state == _PENDING and (future._again is None or future._again[0] in channels) and not future._is_broadcast]

    # ---- clearing up ------------------------------------------------------------------------------------------------

    def clear_up(self) -> None:
        """Connections have ended, and there is one again."""
        if self._pending():
            self._ask("connection_request", None, self._decide)
        else:
            self.begin()

    def _decide(self, reply: Any) -> None:
        if reply is None:
            return
        run, before = reply["content"].get("x_run"), self._run
        self._run = run
        # who wrote down what it accepted, or still is the one that did, knows all that arrived
        remembers = run is not None and (run == before or bool(reply["content"].get("x_durable")))
        pending = self._pending()
        if not remembers:
            self._forgotten.update(future.msg_id for future in pending)
        self._send_again([future for future in pending if not self._is_unsure(future)])
        self._look_for([future for future in pending if self._is_unsure(future)])

    def _is_unsure(self, future: Any) -> bool:
        return future._again is None or future.msg_id in self._forgotten

    def _send_again(self, futures: list[Any]) -> None:
        for future in futures:
            request = future._again
            if request is None:
                continue  # answered meanwhile
            channel, msg_type, content, metadata, buffers, engine = request
            try:
                self._client._send_raw(None, channel, msg_type, content, _with_ack(metadata), buffers, engine, False, future.msg_id)
            except OSError:
                return

    def _look_for(self, futures: list[Any]) -> None:
        ids = [future.msg_id for future in futures]
        for at in range(0, len(ids), _IDS_MAX):
            some = ids[at: at + _IDS_MAX]
            self._ask("db_request", {"query": {"msg_id": {"$in": some}}, "keys": ["msg_id", "completed"]},
                      lambda reply, some=some: self._sort_out(some, reply))

    def _sort_out(self, ids: list[str], reply: Any) -> None:
        if reply is None:
            return
        known = {record["msg_id"]: record for record in reply["content"]["records"]}
        ended = [msg_id for msg_id, record in known.items() if record.get("completed")]
        missing = {msg_id for msg_id in ids if msg_id not in known}
        self._forgotten -= known.keys()
        lost, self._missing = missing & self._missing, missing
        self._forgotten -= lost
        for msg_id in lost:
            self._end(msg_id, error.RemoteError("EngineError", f"the controller does not know task {msg_id!r}: it was started again without a task log, or the "
                                                "connection ended while the task was sent", "", {"engine_id": None, "method": "apply"}))
        if missing - lost and self._timer is None:
            self._timer = threading.Timer(_SURE_AFTER, self._look_again)
            self._timer.daemon = True
            self._timer.start()
        if ended:
            self._ask("result_request", {"msg_ids": ended, "status_only": False}, lambda reply: self._take_results(ended, reply))

    def _look_again(self) -> None:
        self._timer = None
        missing = self._missing
        self._look_for([future for future in self._pending() if future.msg_id in missing])

    def _take_results(self, ids: list[str], reply: Any) -> None:
        if reply is None:
            return
        content, buffers = reply["content"], reply["buffers"]
        for msg_id in sorted(ids):
            if msg_id not in content["completed"]:
                continue
            try:
                value, buffers = self._client._read_record_of_hub(msg_id, content[msg_id], buffers)
            except Exception:
                log.exception("the result of task %s cannot be read", msg_id)
                return
            self._end(msg_id, value)

    def _end(self, msg_id: str, value: Any) -> None:
        client = self._client
        calls: list[Call] = []
        with client._driver.lock:
            future = client._futures.get(msg_id)
            if future is None or future._state != _PENDING:
                return
            client._settled(future)
            future._fail(value, calls)  # what it ends with is an exception as a value, or any other value
            future._received = time.time()
            client._tidy(future, calls)
            client._driver.changed.notify_all()
        client._driver.run(calls)
