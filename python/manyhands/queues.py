"""Queues between processes, with the interface of `multiprocessing.queues`.

There is no thread that feeds them: `put` pickles the object and copies it into memory that all users of the queue share. When it has
returned, `get_nowait()` of any process finds the object, and the process may end or be killed. A user that is killed at any moment blocks nobody.
"""

from __future__ import annotations

import traceback
import types
from queue import Empty, Full
from typing import Any

from . import _core
from ._std import context as _context
from .reduction import _duplicate, _take

__all__ = ["JoinableQueue", "Queue", "SimpleQueue"]


class _End:
    """One end of a queue, as a connection: what the standard library's queues have as `_reader` and `_writer`."""

    def __init__(self, queue: Any) -> None:
        self._queue = queue

    @property
    def closed(self) -> bool:
        return bool(self._queue._closed)

    def fileno(self) -> int:
        return self._queue._descriptor()  # type: ignore[no-any-return]

    def poll(self, timeout: float | None = 0.0) -> bool:
        return self._queue._poll(timeout)  # type: ignore[no-any-return]

    def recv(self) -> Any:
        return self._queue.get()

    def recv_bytes(self) -> bytes:
        return self._queue._recv_bytes()  # type: ignore[no-any-return]

    def send(self, obj: Any) -> None:
        self._queue.put(obj)

    def send_bytes(self, buf: Any) -> None:
        self._queue._send_bytes(buf)

    def close(self) -> None:
        self._queue.close()


class _Shared:
    """What all queues have: they go to children when these start, and in no other way."""

    __class_getitem__: Any = classmethod(types.GenericAlias)

    _maxsize = 0
    _fork_only = False

    def _made_by(self, ctx: Any) -> None:
        # As with locks: what a fork context made goes to forks. The default context settles how processes start only when it must.
        self._fork_only = ctx is not None and ctx.get_start_method(allow_none=True) == "fork"

    def __getstate__(self) -> Any:
        _context.assert_spawning(self)
        if self._fork_only:
            raise RuntimeError("A SemLock created in a fork context is being shared with a process in a spawn context, or the queue that it would belong to. "
                               "This is not supported. Please use the same context to create multiprocessing objects and Process.")
        return self._maxsize, _duplicate(*self._parts())  # type: ignore[attr-defined]

    def __setstate__(self, state: Any) -> None:
        self._maxsize, parts = state
        self._attach(*_take(parts))  # type: ignore[attr-defined]

    @property
    def _reader(self) -> _End:
        return _End(self)

    @property
    def _writer(self) -> _End:
        return _End(self)


class Queue(_Shared, _core.Queue):
    """A queue for any number of producers and consumers in any number of processes.

    It holds at most `maxsize` objects, and at most 8,388,608 and 4 GiB of pickles in any case, also when maxsize is 0: beyond
    that `put` waits, as it does for maxsize.

    >>> import manyhands
    >>> queue = manyhands.Queue()
    >>> queue.put({"answer": 42})
    >>> queue.get()
    {'answer': 42}
    """

    def __init__(self, maxsize: int = 0, *, ctx: Any) -> None:
        self._made_by(ctx)
        self._maxsize = maxsize
        self._open(max(maxsize, 0), True)

    def join_thread(self) -> None:
        """Nothing is left to be waited for: what was put is in the queue. Call it after close(), as in the standard library."""
        assert self._closed, f"Queue {self!r} not closed"

    def cancel_join_thread(self) -> None:
        """Has no effect: a process that ends never waits for the queue, nor does it lose what it has put."""

    @staticmethod
    def _on_queue_feeder_error(e: Exception, obj: Any) -> None:
        # Private, but overridden by subclasses: an object could not be pickled.
        traceback.print_exc()

    def _feed_failed(self, e: Exception, obj: Any) -> None:
        try:
            raise e
        except Exception as raised:
            self._on_queue_feeder_error(raised, obj)


class JoinableQueue(Queue):
    """A queue whose users can wait until all that was put has been worked on.

    >>> import manyhands
    >>> queue = manyhands.JoinableQueue()
    >>> queue.put("work")
    >>> work = queue.get()
    >>> queue.task_done()
    >>> queue.join()
    """

    def task_done(self) -> None:
        """Say that one object that was taken has been worked on; ValueError when called more often than objects were put."""
        self._task_done()

    def join(self) -> None:
        """Wait until task_done() was called for everything that was put."""
        self._join()


class SimpleQueue(_Shared, _core.SimpleQueue):
    """A queue with no more than `put`, `get` and `empty`. Above 2 MiB of pickles, or a single object of more, `put` waits for a consumer.

    >>> import manyhands
    >>> queue = manyhands.SimpleQueue()
    >>> queue.put("hello")
    >>> queue.get()
    'hello'
    """

    def __init__(self, *, ctx: Any) -> None:
        self._made_by(ctx)
        self._open(0, False)
