"""The locks of a SyncManager: what they are in its server, where a client that was killed must not keep what it held.

A thread of the server works for one client at a time (`serving`). A lock notes for whom it was taken, and waits in slices, so that a thread that waits
for a client which is no more gives up. `abandon(client)` gives back what a killed client holds; what an ended one held stays as it was,
as in the standard library: others may release it.
"""

from __future__ import annotations

import threading
import time
from typing import Any, Callable

__all__: list[str] = []

_SLICE = 0.25  # seconds after which a thread looks whether its client still lives

serving: Any = threading.local()


class ClientLost(Exception):
    """The client for which this thread waited was killed."""


class Client:
    """A process that uses the manager. `lost`: it was killed."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.lost = False
        self.leaving = False  # it said that it ends in an orderly way
        self.held: dict[Any, None] = {}  # locks that may be its
        self.references: dict[str, int] = {}
        self.ended = threading.Event()  # and, if it was killed, what it held was given back

    def release_all(self) -> None:
        for lock in list(self.held):
            lock.abandon(self)
        self.held.clear()


def await_end() -> None:
    """Called by a thread whose client hung up: a notification of a condition that it may not have got any more goes to another."""
    client, condition = current(), getattr(serving, "told", None)
    serving.client = serving.told = None
    if client is None or condition is None:
        return
    client.ended.wait(5)  # else only the connection was closed
    if client.lost:
        with condition:
            condition.notify()


def current() -> Client | None:
    return getattr(serving, "client", None)


def _bound(blocking: bool, timeout: float | None) -> float | None:
    """Seconds to wait: None for ever."""
    if not blocking:
        if timeout is not None and timeout != -1:
            raise ValueError("can't specify a timeout for a non-blocking call")
        return 0.0
    if timeout is None or timeout == -1:
        return None
    if timeout < 0:
        raise ValueError("timeout value must be a non-negative number")
    return float(timeout)


def take(acquire: Callable[[bool, float], bool], bound: float | None) -> bool:
    """Acquire in slices as long as the client lives."""
    client = current()
    if bound == 0:
        return acquire(False, -1)
    if client is None:
        return acquire(True, -1 if bound is None else bound)
    end = None if bound is None else time.monotonic() + bound
    while True:
        slice = _SLICE if end is None else min(_SLICE, end - time.monotonic())
        if slice <= 0:
            return acquire(False, -1)
        if acquire(True, slice):
            if not client.lost:
                return True
            raise ClientLost  # the caller has noted it: it is given back
        if client.lost:
            raise ClientLost


class Lock:
    """A lock that is given back when the client that took it is killed."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._holder: Client | None = None
        self._guard = threading.Lock()  # between a release and an abandon

    def _take(self, blocking: bool, timeout: float) -> bool:
        if not self._lock.acquire(blocking, timeout):
            return False
        client = current()
        with self._guard:
            self._holder = client
            if client is not None:
                client.held[self] = None
                if client.lost:  # its abandoning may be over
                    self._free()
        return True

    def _free(self) -> None:
        holder, self._holder = self._holder, None
        if holder is not None:
            holder.held.pop(self, None)
        self._lock.release()

    def acquire(self, blocking: bool = True, timeout: float | None = -1) -> bool:
        return take(self._take, _bound(blocking, timeout))

    def release(self) -> None:
        with self._guard:
            self._free()

    def locked(self) -> bool:
        return self._lock.locked()

    def abandon(self, client: Client) -> None:
        with self._guard:
            if self._holder is client:
                self._free()

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *unused: object) -> None:
        self.release()

    def __repr__(self) -> str:
        return f"<{'locked' if self.locked() else 'unlocked'} Lock of a manager>"


class RLock:
    """A recursive lock, held by a thread of a client: the thread of the server that serves it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._guard = threading.Lock()
        self._owner: int | None = None
        self._holder: Client | None = None
        self._count = 0

    def _take(self, blocking: bool, timeout: float) -> bool:
        if not self._lock.acquire(blocking, timeout):
            return False
        client = current()
        with self._guard:
            self._owner, self._holder, self._count = threading.get_ident(), client, 1
            if client is not None:
                client.held[self] = None
                if client.lost:
                    self._free()
        return True

    def _free(self) -> None:
        holder, self._holder, self._owner, self._count = self._holder, None, None, 0
        if holder is not None:
            holder.held.pop(self, None)
        self._lock.release()

    def acquire(self, blocking: bool = True, timeout: float | None = -1) -> bool:
        bound = _bound(blocking, timeout)
        if self._owner == threading.get_ident():
            self._count += 1
            return True
        return take(self._take, bound)

    def release(self) -> None:
        with self._guard:
            if self._owner != threading.get_ident():
                raise RuntimeError("cannot release un-acquired lock")
            self._count -= 1
            if self._count == 0:
                self._free()

    def abandon(self, client: Client) -> None:
        with self._guard:
            if self._holder is client:
                self._free()

    # What a condition asks of its lock.

    def _is_owned(self) -> bool:
        return self._owner == threading.get_ident()

    def _release_save(self) -> int:
        with self._guard:
            if self._owner != threading.get_ident():
                raise RuntimeError("cannot release un-acquired lock")
            count = self._count
            self._free()
        return count

    def _acquire_restore(self, count: int) -> None:
        take(self._take, None)
        self._count = count

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *unused: object) -> None:
        self.release()

    def __repr__(self) -> str:
        return f"<{'locked' if self._lock.locked() else 'unlocked'} RLock of a manager, count={self._count}>"


class Condition(threading.Condition):
    """A condition whose notifications are not lost on waiters that were killed."""

    def __init__(self, lock: Any = None) -> None:
        own: Any = RLock() if lock is None else lock
        super().__init__(own)

    def wait(self, timeout: float | None = None) -> bool:
        condition: Any = self
        if not condition._is_owned():
            raise RuntimeError("cannot wait on un-acquired lock")
        waiter = threading.Lock()
        waiter.acquire()
        condition._waiters.append(waiter)
        saved = condition._release_save()
        notified = lost = False
        try:
            notified = take(waiter.acquire, None if timeout is None else max(0.0, timeout))
        except ClientLost:
            lost = True
        finally:
            self._come_back(saved, waiter, notified, lost)
        if notified:
            serving.told = self  # until the client's next request shows that it has got the answer
        return notified

    def _come_back(self, saved: Any, waiter: Any, notified: bool, lost: bool) -> None:
        condition: Any = self
        if not lost:
            try:
                condition._acquire_restore(saved)
            except ClientLost:
                lost = True
        if lost:  # under the lock, for the books of a condition are guarded by it; but for nobody
            client, serving.client = current(), None
            try:
                condition._acquire_restore(saved)
                try:
                    condition._waiters.remove(waiter)
                except ValueError:
                    self.notify()  # it had been notified: that goes to another
                condition._release_save()
            finally:
                serving.client = client
            raise ClientLost
        if not notified:
            try:
                condition._waiters.remove(waiter)
            except ValueError:
                pass


class Semaphore:
    """A semaphore whose permits come back from clients that were killed. Those that others released in a client's place do not."""

    _most: int | None = None

    def __init__(self, value: int = 1) -> None:
        if value < 0:
            raise ValueError("semaphore initial value must be >= 0")
        self._condition = threading.Condition(threading.Lock())
        self._value = value
        self._holders: dict[Client, int] = {}

    def _take(self, blocking: bool, timeout: float) -> bool:
        end = None if timeout == -1 else time.monotonic() + timeout
        client = current()
        with self._condition:
            while self._value == 0:
                left = None if end is None else end - time.monotonic()
                if not blocking or left is not None and left <= 0:
                    return False
                self._condition.wait(left)
            self._value -= 1
            if client is not None:
                self._holders[client] = self._holders.get(client, 0) + 1
                client.held[self] = None
                if client.lost:
                    self._give_back(client)
        return True

    def acquire(self, blocking: bool = True, timeout: float | None = None) -> bool:
        return take(self._take, _bound(blocking, timeout))

    def _forget(self, count: int) -> None:
        # A permit that comes back is the caller's own, else that of who has had one longest.
        client = current()
        for holder in ([client] if client in self._holders else []) + [c for c in self._holders if c is not client]:
            gone = min(count, self._holders[holder])
            count -= gone
            self._holders[holder] -= gone
            if not self._holders[holder]:
                del self._holders[holder]
                holder.held.pop(self, None)

    def release(self, n: int = 1) -> None:
        if n < 1:
            raise ValueError("n must be one or more")
        with self._condition:
            if self._most is not None and self._value + n > self._most:
                raise ValueError("Semaphore released too many times")
            self._forget(n)
            self._value += n
            self._condition.notify(n)

    def _give_back(self, client: Client) -> None:
        count = self._holders.pop(client, 0)
        if self._most is not None:
            count = min(count, self._most - self._value)
        self._value += count
        self._condition.notify(count)

    def abandon(self, client: Client) -> None:
        with self._condition:
            self._give_back(client)

    def get_value(self) -> int:
        return self._value

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *unused: object) -> None:
        self.release()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of a manager, value={self._value}>"


class BoundedSemaphore(Semaphore):
    """One that never has more permits than it began with."""

    def __init__(self, value: int = 1) -> None:
        super().__init__(value)
        self._most = value
