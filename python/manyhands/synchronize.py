"""Locks and their kin between processes: the interface of `multiprocessing.synchronize`, on the C core.

They lie in memory that children inherit or are handed when they start. What a process holds when it is killed comes free by itself
within about 50 ms; nobody who waits, notifies or sets waits for a dead process.

>>> from manyhands import Lock, Semaphore
>>> lock = Lock()
>>> with lock:
...     lock
<Lock(owner=MainProcess)>
>>> Semaphore(3)
<Semaphore(value=3)>
"""

from __future__ import annotations

import threading
from typing import Any, Callable, TypeVar

from . import _core
from ._errors import OwnerDiedWarning
from ._std import context, process, util

__all__ = ["Lock", "RLock", "Semaphore", "BoundedSemaphore", "Condition", "Event", "OwnerDiedWarning"]

RECURSIVE_MUTEX, SEMAPHORE = range(2)
SEM_VALUE_MAX = 0x7FFFFFFF
_LOCK = 2  # a semaphore of one permit that names its holder

_T = TypeVar("_T")


def _leave_semaphores(_: object = None) -> None:
    # Called in every process: at its regular end others may release what it took. Who is killed leaves nothing.
    util.Finalize(None, _core.disown_semaphores, exitpriority=-1000)


_leave_semaphores()
util.register_after_fork(_leave_semaphores, _leave_semaphores)


def _check_spawning(thing: object, is_fork_only: bool) -> None:
    context.assert_spawning(thing)
    if is_fork_only:
        raise RuntimeError("A SemLock created in a fork context is being shared with a process in a spawn context. This is not "
                           "supported. Please use the same context to create multiprocessing objects and Process.")


def _is_fork_only(ctx: Any) -> bool:
    # The default context settles how processes start only when it must, so what it made goes to all of them.
    return ctx is not None and bool(ctx.get_start_method(allow_none=True) == "fork")


class SemLock(_core.SemLock):
    """What locks and semaphores have in common.

    `acquire(block=True, timeout=None)` says whether it was taken; `release()` raises ValueError (RLock: AssertionError) when there is nothing to
    release. A lock whose holder died can be taken like any other; whoever takes it is told by an `OwnerDiedWarning`, and
    by `owner_died` while it holds it.
    """

    def __init__(self, kind: int, value: int, maxvalue: int, *, ctx: Any) -> None:
        super().__init__(kind, value, maxvalue)
        self._is_fork_ctx = _is_fork_only(ctx)

    def __getstate__(self) -> Any:
        _check_spawning(self, self._is_fork_ctx)
        return self._place()

    def __setstate__(self, state: Any) -> None:
        self._join(*state)

    @property
    def name(self) -> str | None:
        """None: it needs no name in the file system."""
        return None

    def _owner(self) -> str:
        if self._is_mine():
            name: str = process.current_process().name
            thread = threading.current_thread().name
            return name if thread == "MainThread" else f"{name}|{thread}"
        if self._get_value() == 1:
            return "None"
        return "SomeOtherThread" if self._count() > 0 else "SomeOtherProcess"


class Lock(SemLock):
    """A lock that is not recursive; anybody may release it."""

    def __init__(self, *, ctx: Any) -> None:
        super().__init__(_LOCK, 1, 1, ctx=ctx)

    def __repr__(self) -> str:
        return f"<{type(self).__name__}(owner={self._owner()})>"


class RLock(SemLock):
    """A lock that its holder, one thread of one process, may take again."""

    def __init__(self, *, ctx: Any) -> None:
        super().__init__(RECURSIVE_MUTEX, 1, 1, ctx=ctx)

    def __repr__(self) -> str:
        owner = self._owner()
        count: Any = self._count() if self._is_mine() else 0 if owner == "None" else "nonzero"
        return f"<{type(self).__name__}({owner}, {count})>"


class Semaphore(SemLock):
    """A count of permits; anybody may release.

    The permits of a process that is killed come back. What it took and another released in its place does not count twice. A process that
    ends in good order leaves what it holds to others to release, as in the standard library.
    """

    def __init__(self, value: int = 1, *, ctx: Any) -> None:
        super().__init__(SEMAPHORE, value, SEM_VALUE_MAX, ctx=ctx)

    def get_value(self) -> int:
        """Permits that are free now."""
        return self._get_value()

    def __repr__(self) -> str:
        return f"<{type(self).__name__}(value={self._get_value()})>"


class BoundedSemaphore(Semaphore):
    """A semaphore that raises ValueError when more is released than was taken."""

    def __init__(self, value: int = 1, *, ctx: Any) -> None:
        SemLock.__init__(self, SEMAPHORE, value, value, ctx=ctx)

    def __repr__(self) -> str:
        return f"<{type(self).__name__}(value={self._get_value()}, maxvalue={self.maxvalue})>"


class _Count:
    """What the standard library keeps in a semaphore of a condition, as far as it can be asked for."""

    def __init__(self, count: Callable[[], int]) -> None:
        self.get_value = count


class Condition(_core.Condition):
    """Processes wait in it, the lock released, until another notifies them.

    `lock` is a Lock or RLock (default: an RLock of its own). Up to 1,024 threads of all processes may wait at a time. The
    notification of a waiter that is killed goes to another.
    """

    _is_fork_ctx = False

    def __init__(self, lock: Any = None, *, ctx: Any) -> None:
        super().__init__(lock if lock is not None else RLock(ctx=ctx))
        self._is_fork_ctx = _is_fork_only(ctx)
        self._borrow_methods()

    def _borrow_methods(self) -> None:
        self.acquire: Callable[..., bool] = self._lock.acquire
        self.release: Callable[[], None] = self._lock.release

    def __getstate__(self) -> Any:
        _check_spawning(self, self._is_fork_ctx)
        return self._place(), self._lock

    def __setstate__(self, state: Any) -> None:
        self._join(*state)
        self._borrow_methods()

    def wait_for(self, predicate: Callable[[], _T], timeout: float | None = None) -> _T:
        """Wait until predicate() is true, or timeout seconds have passed; its last answer."""
        return threading.Condition.wait_for(self, predicate, timeout)  # type: ignore[arg-type]

    @property
    def _sleeping_count(self) -> _Count:
        return _Count(self._waiting)

    @property
    def _woken_count(self) -> _Count:
        return _Count(lambda: 0)

    _wait_semaphore = _woken_count

    def __repr__(self) -> str:
        return f"<{type(self).__name__}({self._lock}, {self._waiting()})>"


class Event(_core.Event):
    """A flag that processes wait for. `set` waits for nobody."""

    _is_fork_ctx = False

    def __init__(self, *, ctx: Any) -> None:
        super().__init__()
        self._is_fork_ctx = _is_fork_only(ctx)

    def __getstate__(self) -> Any:
        _check_spawning(self, self._is_fork_ctx)
        return self._place()

    def __setstate__(self, state: Any) -> None:
        self._join(state)

    def __repr__(self) -> str:
        return f"<{type(self).__qualname__} at {id(self):#x} {'set' if self.is_set() else 'unset'}>"


class Barrier(_core.Barrier, threading.Barrier):
    """`parties` processes or threads meet at it, at most 4,096; the last to come runs `action`, if any, before all go on.

    A party that is killed, gives up or is interrupted while it waits breaks the barrier: the others get
    `threading.BrokenBarrierError` until `reset()`.
    """

    _is_fork_ctx = False

    def __init__(self, parties: int, action: Callable[[], object] | None = None, timeout: float | None = None, *, ctx: Any) -> None:
        _core.Barrier.__init__(self, parties, action, timeout)
        self._is_fork_ctx = _is_fork_only(ctx)

    def __getstate__(self) -> Any:
        _check_spawning(self, self._is_fork_ctx)
        return self._place()

    def __setstate__(self, state: Any) -> None:
        self._join(*state)
