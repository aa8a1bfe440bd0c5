"""Memory that children share, for ctypes objects: `multiprocessing.heap` on the C core.

Blocks come from segments that grow with need. Every page is there before a block is handed out, so that using it never ends in a bus error;
when there is no room, asking for it raises an `OSError` that says how much was asked for and how much is free. A block's memory is used
again only when no other process can know it.
"""

from __future__ import annotations

import os
import sys
from typing import Any

from . import _core
from ._std import context

__all__ = ["BufferWrapper"]


class Heap:
    """The standard library's name for where blocks come from. Here the C core keeps the books, one set for each process."""


class BufferWrapper(_core.Block):
    """A block of `size` bytes, not cleared, which a child inherits or is handed when it starts.

    Raises ValueError for a negative size, OverflowError for one that no address space has, OSError when there is no room.
    """

    _heap = Heap()

    def __init__(self, size: int) -> None:
        if sys.maxsize <= size:
            raise OverflowError(f"Size {size:n} too large")
        super().__init__(size)
        self._size = size

    def create_memoryview(self) -> memoryview:
        """Its bytes, writable; they stay as long as the view."""
        return memoryview(self)[:self._size]

    def __getstate__(self) -> Any:
        context.assert_spawning(self)
        return self._place(), self._size

    def __setstate__(self, state: Any) -> None:
        place, self._size = state
        self._join(place)


def reduce_arena(arena: _core.Arena) -> tuple[Any, ...]:
    """How the memory of shared objects travels to a process that is being started: as a descriptor."""
    context.assert_spawning(arena)
    reopen = getattr(context.get_spawning_popen(), "reopen", None)
    if reopen is not None:
        return _open_arena, (reopen(arena.fd),)
    return _rebuild_arena, (context.reduction.DupFd(arena.fd),)


def _rebuild_arena(descriptor: Any) -> _core.Arena:
    return _core.Arena.from_fd(descriptor.detach())


def _open_arena(path: str) -> _core.Arena:
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        return _core.Arena.from_fd(fd)
    except BaseException:
        os.close(fd)
        raise
