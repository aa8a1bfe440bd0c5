"""Waiting for engines."""

from __future__ import annotations

import os
import threading
import time
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

from .. import error, util

if TYPE_CHECKING:
    from .client import Client

__all__ = ["wait_for_engines"]


def _expected(client: Client) -> int:
    cluster = client.cluster
    if cluster is None:
        raise TypeError("n engines to wait for must be specified")
    if cluster.n:
        return int(cluster.n)
    return sum(int(engine_set.n) for engine_set in cluster.engines.values())


def _bar(client: Client, n: int, interactive: bool | None, widget: bool | None) -> Any:
    if interactive is None:
        quiet = os.environ.get("IPP_NONINTERACTIVE", "") not in ("", "0")
        interactive = not quiet and util.local_ipython() is not None
    return util.progress(widget=widget, initial=len(client.ids), total=n, unit="engine") if interactive else None


class _Waiting:
    """A future that the events of engines bring forward."""

    def __init__(self, client: Client, n: int, bar: Any) -> None:
        self.client, self.n, self.bar = client, n, bar
        self.future: Future[None] = Future()
        self._has_ended = False
        self._sets = list((getattr(client.cluster, "engines", None) or {}).values())
        with client._driver.lock:
            client._registration_callbacks.append(self.note)
            client._driver.want(1)
        for engine_set in self._sets:
            engine_set.on_stop(self._stopped)
        self.future.add_done_callback(self._leave)

    def _leave(self, _: Any) -> None:
        client = self.client
        with client._driver.lock:
            client._registration_callbacks.remove(self.note)
            client._driver.want(-1)
            client._driver.changed.notify_all()
        for engine_set in self._sets:
            callbacks = getattr(engine_set, "stop_callbacks", [])
            if self._stopped in callbacks:
                callbacks.remove(self._stopped)
        if self.bar is not None:
            self.bar.close()

    def end(self, problem: BaseException | None = None) -> None:
        with self.client._driver.lock:
            if self._has_ended or not self.future.set_running_or_notify_cancel():
                return
            self._has_ended = True
        if problem is None:
            self.future.set_result(None)
        else:
            self.future.set_exception(problem)

    def _stopped(self, data: Any) -> None:
        self.end(error.EngineError(f"Engine set stopped: {data}"))

    def note(self, event: dict[str, Any]) -> None:
        if self.future.done():
            return
        if event["event"] == "unregister":
            self.end(error.EngineError(f"Engine {event['id']} unregistered while waiting for engines."))
            return
        present = len(self.client._ids)
        if self.bar is not None:
            self.bar.update(present - self.bar.n)
        if present >= self.n:
            self.end()

    def late(self, timeout: float) -> None:
        present = len(self.client.ids)
        if present >= self.n:
            self.end()
        else:
            self.end(TimeoutError(f"{self.n} engines not ready in {timeout} seconds. Currently ready: {present}"))


def wait_for_engines(client: Client, n: int | None, timeout: float, block: bool, interactive: bool | None, widget: bool | None) -> Future[None] | None:
    """See Client.wait_for_engines."""
    n = _expected(client) if n is None else n
    if len(client.ids) >= n:
        done: Future[None] = Future()
        done.set_result(None)
        return None if block else done
    waiting = _Waiting(client, n, _bar(client, n, interactive, widget))
    if len(client.ids) >= n:  # they came meanwhile
        waiting.end()
    if not block:
        if timeout is not None and timeout >= 0:
            timer = threading.Timer(timeout, waiting.late, (timeout,))
            timer.daemon = True
            timer.start()
            waiting.future.add_done_callback(lambda _: timer.cancel())
        return waiting.future
    until = None if timeout is None or timeout < 0 else time.monotonic() + timeout
    try:
        if not client._driver.wait(waiting.future.done, None if until is None else max(0.0, until - time.monotonic())):
            waiting.late(timeout)
        return waiting.future.result(10)
    finally:
        if not waiting.future.done():
            waiting.future.cancel()
