"""Shared memory with a name: `multiprocessing.shared_memory` on the C core.

    >>> from manyhands.shared_memory import SharedMemory
    >>> memory = SharedMemory(create=True, size=16)
    >>> memory.buf[:5] = b"hello"
    >>> other = SharedMemory(memory.name)  # here, or in any other process
    >>> bytes(other.buf[:5])
    b'hello'
    >>> other.close(); memory.close(); memory.unlink()

What differs from the standard library: all memory is there before the name is (a full /dev/shm is an OSError with ENOSPC, never a SIGBUS later);
a process that only attaches has no part in the removal of the name; and names that nobody unlinked are removed when the program that created
them has ended, even if all its processes are killed at once. Names are the same as the standard library's, in both directions.
"""

from __future__ import annotations

import errno
import os
import secrets
import sys
import threading
from multiprocessing import shared_memory as _standard
from typing import Any

from . import _core, resource_tracker
from ._rebind import rebind

__all__ = ["SharedMemory", "ShareableList"]

_USE_POSIX = True
_SHM_NAME_PREFIX = "/mh-"


def _make_filename() -> str | None:
    """The name of a segment that got none. None: the core chooses a random one, which tells whose it is."""
    return None


def _untracked_name() -> str:
    # Names that the core makes are removed when their creator has ended.
    return "/psm_" + secrets.token_hex(16)


def _bare(name: str) -> str:
    return name[1:] if name.startswith("/") else name


class SharedMemory(_standard.SharedMemory):
    """A piece of memory that several processes see: created, or attached to by its name.

    `create=True` makes `size` bytes (at least), zeroed; `name=None` gives it a random name. Otherwise the memory of that name is attached and
    `size` ignored. `close()` ends the use of it here, `unlink()` removes the name; memory lives as long as anybody has it. What was created
    and never unlinked is removed when the program (this process, its children, and the process that started it all) has ended; with
    `track=False` it stays for ever.

    Raises FileExistsError, FileNotFoundError, PermissionError (it belongs to another user, or others may use it), and OSError with
    `errno.ENOSPC`, which names the size and what is free.
    """

    _segment: _core.Segment | None = None
    _buf: Any = None
    _flags: int = os.O_RDWR

    def __init__(self, name: str | None = None, create: bool = False, size: int = 0, *, track: bool = True) -> None:
        if not size >= 0:
            raise ValueError(f"'size' must be a positive integer, not {size!r}")
        if create and size == 0:
            raise ValueError("'size' must be a positive number different from zero")
        flags = os.O_CREAT | os.O_EXCL if create else self._flags
        if name is None and not flags & os.O_EXCL:
            raise ValueError("'name' can only be None if create=True")
        self._track = track
        if flags & os.O_EXCL:
            self._create(name, size)
        else:
            self._attach(name, size if flags & os.O_CREAT else 0)
        assert self._segment is not None
        self._size = self._segment.size
        self._buf = memoryview(self._segment)

    def _create(self, name: str | None, size: int) -> None:
        _report_leaks()
        if name is not None:
            self._segment = _core.Segment.create(_bare(name), size)
        while self._segment is None:
            name = _make_filename() if self._track else _untracked_name()
            try:
                self._segment = _core.Segment.create(None if name is None else _bare(name), size)
            except FileExistsError:
                continue
        self._name = "/" + self._segment.name
        if self._track:
            resource_tracker._created(self._name)
        else:
            _core.shm_untrack(self._segment.name)

    def _attach(self, name: Any, size: int) -> None:
        try:
            self._segment = _core.Segment.open(_bare(name))
        except FileNotFoundError:
            if not size:
                raise
            return self._create(name, size)
        self._name = "/" + self._segment.name

    def __del__(self) -> None:
        # Memory goes with the last view of it: one that outlives this object stays valid.
        self._buf = None
        self._segment = None

    @property
    def _fd(self) -> int:
        return -1 if self._segment is None else self._segment.fileno()

    def close(self) -> None:
        """End the use of the memory through this object; the name stays. BufferError while other views of `buf` are in use."""
        if self._buf is not None:
            self._buf.release()
            self._buf = None
        if self._segment is not None:
            self._segment.close()
            self._segment = None

    def unlink(self) -> None:
        """Remove the name, once for all processes. FileNotFoundError when that was done."""
        if self._name:
            _core.shm_unlink(_bare(self._name))
            resource_tracker._unlinked(self._name)


class _Text(str):
    """A string whose length is that of its bytes: the standard library would make room for as many bytes as it has characters."""

    def __len__(self) -> int:
        return len(self.encode())


def _is_short_of_room(text: str) -> bool:
    return not text.isascii() and len(text.encode()) > 8 * (len(text) // 8 + 1)


class ShareableList(_standard.ShareableList[Any]):
    """The standard library's list of plain values in shared memory, over our `SharedMemory`.

        >>> shared = ShareableList([1, 2.5, "three", b"4", None, True])
        >>> shared[2], len(shared)
        ('three', 6)
        >>> shared.shm.close(); shared.shm.unlink()
    """

    _types_mapping: dict[type, str] = {**vars(_standard.ShareableList)["_types_mapping"], _Text: "%ds"}
    _fill = rebind(_standard.ShareableList.__init__, __name__, SharedMemory=SharedMemory)

    def __init__(self, sequence: Any = None, *, name: str | None = None) -> None:
        if sequence is not None:
            sequence = [_Text(item) if type(item) is str and _is_short_of_room(item) else item for item in sequence]
        self._fill(sequence, name=name)


_lock = threading.Lock()
_reporting = 0


def _report_leaks() -> None:
    # Once in each process that creates: its tree says on stderr when names were left, as the standard library does.
    global _reporting
    if _reporting == os.getpid():
        return
    with _lock:
        try:
            fd = sys.stderr.fileno()
        except (AttributeError, ValueError, OSError):
            fd = 2
        try:
            _core.shm_report(fd)
        except OSError as problem:
            if problem.errno not in (errno.EBADF,):
                raise
        _reporting = os.getpid()


os.register_at_fork(after_in_child=lambda: globals().update(_lock=threading.Lock()))
