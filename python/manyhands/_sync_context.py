"""What contexts give of synchronisation and shared ctypes objects."""

from __future__ import annotations

TYPE_CHECKING = False  # see __init__.py
if TYPE_CHECKING:
    from typing import Any, Callable

    from . import synchronize

__all__: list[str] = []


class SyncContext:
    """Methods of contexts. Modules are imported when the first object is made."""

    def Lock(self) -> synchronize.Lock:
        """A lock that is not recursive."""
        from .synchronize import Lock

        return Lock(ctx=self)

    def RLock(self) -> synchronize.RLock:
        """A lock that its holder may take again."""
        from .synchronize import RLock

        return RLock(ctx=self)

    def Condition(self, lock: Any = None) -> synchronize.Condition:
        """A condition, with its own RLock unless `lock` is given."""
        from .synchronize import Condition

        return Condition(lock, ctx=self)

    def Semaphore(self, value: int = 1) -> synchronize.Semaphore:
        """A count of permits."""
        from .synchronize import Semaphore

        return Semaphore(value, ctx=self)

    def BoundedSemaphore(self, value: int = 1) -> synchronize.BoundedSemaphore:
        """A semaphore that is never released more often than it was taken."""
        from .synchronize import BoundedSemaphore

        return BoundedSemaphore(value, ctx=self)

    def Event(self) -> synchronize.Event:
        """A flag to wait for."""
        from .synchronize import Event

        return Event(ctx=self)

    def Barrier(self, parties: int, action: Callable[[], object] | None = None, timeout: float | None = None) -> synchronize.Barrier:
        """A meeting of so many processes or threads."""
        from .synchronize import Barrier

        return Barrier(parties, action, timeout, ctx=self)

    def RawValue(self, typecode_or_type: Any, *args: Any) -> Any:
        """A ctypes object in shared memory."""
        from .sharedctypes import RawValue

        return RawValue(typecode_or_type, *args)

    def RawArray(self, typecode_or_type: Any, size_or_initializer: Any) -> Any:
        """A ctypes array in shared memory."""
        from .sharedctypes import RawArray

        return RawArray(typecode_or_type, size_or_initializer)

    def Value(self, typecode_or_type: Any, *args: Any, lock: Any = True) -> Any:
        """A ctypes object in shared memory with a lock."""
        from .sharedctypes import Value

        return Value(typecode_or_type, *args, lock=lock, ctx=self)

    def Array(self, typecode_or_type: Any, size_or_initializer: Any, *, lock: Any = True) -> Any:
        """A ctypes array in shared memory with a lock."""
        from .sharedctypes import Array

        return Array(typecode_or_type, size_or_initializer, lock=lock, ctx=self)
