"""Who takes a client's messages: whoever waits for one does, so that an answer wakes the thread that wants it and no other. A thread of
the client's own does it while nobody waits, so that callbacks run, times are right and nothing piles up.
"""

from __future__ import annotations

import logging
import os
import threading
import time
import weakref
from typing import Any, Callable, Iterable

__all__ = ["Call", "Driver"]

Call = Callable[[], object]

_QUIET = 0.02    # seconds without anybody who waits after which the thread takes over
_RECHECK = 0.25  # seconds after which it looks again while somebody waits

log = logging.getLogger("manyhands.parallel")


class Driver:
    """Takes messages from `core` and hands them to handle(messages), which returns what is to be called outside the lock.

    `lock` guards all state of the client and of its futures; `changed` is told of each change. No callback runs under it.
    """

    def __init__(self, core: Any, handle: Callable[[list[Any]], list[Call]]) -> None:
        self.core = core
        self.lock = threading.RLock()
        self.changed = threading.Condition(self.lock)
        self._handle = weakref.WeakMethod(handle)
        self._parked = threading.Condition(self.lock)
        self._is_driving = False   # a thread is in `take`, or handles what it took
        self._sleepers = 0         # threads that wait while another drives
        self._wanted = 0           # futures whose end must not wait for somebody to ask
        self._last = time.monotonic()
        self._failure: BaseException | None = None
        self._pid = os.getpid()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start the thread."""
        self._thread = threading.Thread(target=_housekeep, args=(self,), name="manyhands client", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the connection; threads that wait see what they wait for fail."""
        if self._pid != os.getpid():
            self.core.close()  # a copy: its locks may be held by threads that are not here
            return
        self.core.close()
        with self.lock:
            self.changed.notify_all()
            self._parked.notify_all()

    # ---- waiting --------------------------------------------------------------------------------------------------

    def want(self, count: int) -> None:
        """Futures (or, negative, fewer of them) need the thread; call this with the lock."""
        self._wanted += count
        if count > 0 and self._wanted == count:
            self._parked.notify()

    def wait(self, is_done: Callable[[], Any], timeout: float | None = None) -> bool:
        """Take messages until is_done() holds: True; False after `timeout` seconds. OSError when the client is closed meanwhile.

        is_done runs under the lock.
        """
        if is_done():
            return True
        if timeout is not None and timeout <= 0:
            self.drain()
            with self.lock:
                return bool(is_done())
        until = None if timeout is None else time.monotonic() + timeout
        while True:
            with self.lock:
                if is_done():
                    return True
                left = None if until is None else until - time.monotonic()
                if left is not None and left <= 0:
                    return False
                if self._is_driving:
                    self._sleep(left)
                    continue
                self._check()
                self._is_driving = True
            self._drive(left)

    def drain(self) -> None:
        """Handle what has come already."""
        while True:
            with self.lock:
                if self._is_driving or self._failure or self.core.closed:
                    return
                self._is_driving = True
            if not self._drive(0):
                return

    def make_room(self) -> None:
        """Wait a moment while too much waits to be sent."""
        with self.lock:
            if self._is_driving:
                self._sleep(0.01)
                return
            self._check()
            self._is_driving = True
        self._drive(0.01)

    def _check(self) -> None:
        if self._failure is not None:
            raise OSError(f"the connection to the controller has failed: {self._failure}")
        if self.core.closed:
            raise OSError("the client was closed")

    def _sleep(self, timeout: float | None) -> None:
        self._sleepers += 1
        try:
            self.changed.wait(timeout)
        finally:
            self._sleepers -= 1

    # ---- driving --------------------------------------------------------------------------------------------------

    def _drive(self, timeout: float | None, is_housekeeper: bool = False) -> bool:
        """Take once and handle; whether anything came. The caller has set `_is_driving`."""
        messages: list[Any] = []
        try:
            messages = self.core.take(timeout)
        except Exception as e:
            if not self.core.closed:
                with self.lock:
                    self._failure = e
        finally:
            calls = self._finish(messages, is_housekeeper)
        self.run(calls)
        return bool(messages)

    def _finish(self, messages: list[Any], is_housekeeper: bool) -> list[Call]:
        with self.lock:
            handle = self._handle()
            calls = handle(messages) if handle is not None and messages else []
            self._is_driving = False
            if not is_housekeeper or self._sleepers:
                self._last = time.monotonic()
            if self._sleepers:
                self.changed.notify_all()
            if self._wanted and not is_housekeeper:
                self._parked.notify()
        return calls

    def run(self, calls: Iterable[Call]) -> None:
        """Call each; what one raises is logged, as futures do."""
        for call in calls:
            try:
                call()
            except Exception:
                log.exception("a callback raised an exception")

    def _rest(self) -> float:
        """Seconds that the thread stays parked; 0: it is its turn."""
        if self._is_driving:
            return _RECHECK
        if self._wanted and not self._sleepers:
            return 0
        return max(0.0, self._last + _QUIET - time.monotonic())


def _housekeep(driver: Driver) -> None:
    while True:
        with driver.lock:
            if driver.core.closed or driver._failure:
                driver.changed.notify_all()
                return
            rest = driver._rest()
            if rest:
                driver._parked.wait(rest)
                continue
            driver._is_driving = True
        driver._drive(None, is_housekeeper=True)
