"""A pool of threads: the standard library's, with lazy iteration, retries and progress, and answers where it would hang."""

from __future__ import annotations

import itertools
import queue
import threading
import weakref
from collections import deque
from multiprocessing.pool import ApplyResult, mapstar  # type: ignore[attr-defined, unused-ignore]
from multiprocessing.pool import ThreadPool as Standard
from typing import Any, Callable, Iterable

from . import _serial
from ._errors import TimeoutError
from ._errors import __getattr__ as _error
from .pool import RUN, _chunk, _progress_bar, _with_bar

__all__: list[str] = []


def _attempts(retries: int | tuple[int, int] | None, default: int) -> int:
    """How often more a task that failed is tried: threads are not lost, so of a pair only the second counts."""
    if retries is None:
        return default
    count = retries[1] if isinstance(retries, tuple) else retries
    if not isinstance(count, int):
        raise TypeError("retries must be a number or the pair (lost, failed)")
    if not 0 <= count <= 1000000:
        raise ValueError("retries must be between 0 and 1000000")
    return count


class _Call:
    """The function as threads call it."""

    def __init__(self, func: Callable[..., Any], retries: int, bar: Any = None) -> None:
        self.func = func
        self.retries = retries
        self.bar = bar
        self.lock = threading.Lock()

    def __call__(self, *args: Any, **kwds: Any) -> Any:
        thread: Any = threading.current_thread()
        thread._manyhands = False
        try:
            for _ in range(self.retries):
                try:
                    return self.func(*args, **kwds)
                except BaseException:
                    pass
            return self.func(*args, **kwds)
        except Exception:
            raise
        except BaseException as e:  # sys.exit() would end the thread, and the caller would wait for ever
            raise _serial._exited(e) from e
        finally:
            thread._manyhands = True
            if self.bar is not None:
                with self.lock:
                    self.bar.update()


class _Lazy:
    """An iterator over results. Whoever asks for the next one hands in further tasks: a few are ahead, so iterables may be endless."""

    def __init__(self, pool: ThreadPool, func: Any, iterable: Iterable[Any], chunksize: int, ordered: bool) -> None:
        self._pool = pool
        self._func = func
        self._items = iter(iterable)
        self._chunksize = chunksize
        self._ordered = ordered
        self._window = max(16, 2 * len(vars(pool)["_pool"]))
        self._flying: deque[Any] = deque()  # in the order in which they are to be taken, for ordered ones
        self._done: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._ready: deque[Any] = deque()  # items of a chunk
        self._kept: deque[Any] = deque()  # outcomes that join() waited for
        self._exhausted = False
        self._lock = threading.Lock()  # one consumer at a time
        self._fill()

    def __iter__(self) -> _Lazy:
        return self

    def _fill(self) -> None:
        while not self._exhausted and len(self._flying) < self._window:
            try:
                chunk = tuple(itertools.islice(self._items, self._chunksize))
            except Exception as e:  # the iterable's own: raised in its turn
                self._exhausted = True
                failed: Any = ApplyResult(self._pool, None, None)
                self._flying.append(failed)
                if not self._ordered:
                    self._done.put(failed)
                failed._set(0, (False, e))
                return
            if not chunk:
                self._exhausted = True
                return
            self._flying.append(self._pool._submit(mapstar, ((self._func, chunk),), None if self._ordered else self._done))

    def _take(self, timeout: float | None) -> Any:
        """The next task that has ended; None after the last."""
        self._fill()
        if not self._flying:
            return None
        if self._ordered:
            self._flying[0].wait(timeout)
            if not self._flying[0].ready():
                raise TimeoutError
            return self._flying.popleft()
        try:
            result = self._done.get(timeout=timeout)
        except queue.Empty:
            raise TimeoutError from None
        self._flying.remove(result)
        result.wait()
        return result

    def next(self, timeout: float | None = None) -> Any:
        with self._lock:
            if not self._ready:
                result = self._kept.popleft() if self._kept else self._take(timeout)
                if result is None:
                    self._pool._lazy_ended(self)
                    raise StopIteration
                self._ready.extend(result.get())
            item = self._ready.popleft()
            self._fill()
            return item

    __next__ = next

    def _drain(self) -> None:
        """Run to the end and keep what comes."""
        with self._lock:
            while (result := self._take(None)) is not None:
                self._kept.append(result)

    def _cancel(self) -> None:
        self._exhausted = True
        for result in list(self._flying):
            if not result.ready():
                result._success, result._value = False, _error("CancelledError")("the pool was terminated")
                result._event.set()
                if not self._ordered:
                    self._done.put(result)


class ThreadPool(Standard):
    """A pool of threads, with the interface of `multiprocessing.pool.ThreadPool`: for functions that wait, or that release the
    interpreter's lock. Objects are handed over by reference.

    retries   further attempts for each item whose call raised an exception; of a pair (lost, failed) the second counts. Also
              for each call

    progress is as in `Pool`; imap and imap_unordered are lazy; sys.exit() in a task raises `TaskExited`. There is no timeout for
    tasks: a thread cannot be killed.
    """

    def __init__(self, processes: int | None = None, initializer: Callable[..., object] | None = None, initargs: Iterable[Any] = (), *,
                 retries: int | tuple[int, int] = 0) -> None:
        self._retries = _attempts(retries, 0)
        self._lazy: weakref.WeakSet[_Lazy] = weakref.WeakSet()
        self._closing = False
        super().__init__(processes, initializer, initargs)
        for handler in ("_worker_handler", "_task_handler", "_result_handler"):
            vars(self)[handler]._manyhands = True

    @staticmethod
    def Process(ctx: Any, *args: Any, **kwds: Any) -> Any:
        """A worker. Outside of calls it holds no lock that a forked child would miss, also when it outlives its pool for a moment."""
        worker: Any = Standard.Process(ctx, *args, **kwds)  # type: ignore[attr-defined, unused-ignore]
        worker._manyhands = True
        return worker

    # ---- calls

    def apply(self, func: Callable[..., Any], args: Iterable[Any] = (), kwds: Any = {}, *,  # type: ignore[override, unused-ignore]
              retries: int | tuple[int, int] | None = None) -> Any:
        return self.apply_async(func, args, kwds, retries=retries).get()

    def apply_async(self, func: Callable[..., Any], args: Iterable[Any] = (), kwds: Any = {},  # type: ignore[override, unused-ignore]
                    callback: Any = None, error_callback: Any = None, *, retries: int | tuple[int, int] | None = None) -> Any:
        return super().apply_async(_Call(func, _attempts(retries, self._retries)), args, kwds, callback, error_callback)

    def map(self, func: Callable[[Any], Any], iterable: Iterable[Any], chunksize: int | None = None, *,
            progress: bool | str | None = None, retries: int | tuple[int, int] | None = None) -> list[Any]:
        results: list[Any] = self._run_map(super().map, func, iterable, chunksize, progress, retries)
        return results

    def starmap(self, func: Callable[..., Any], iterable: Iterable[Iterable[Any]], chunksize: int | None = None, *,
                progress: bool | str | None = None, retries: int | tuple[int, int] | None = None) -> list[Any]:
        results: list[Any] = self._run_map(super().starmap, func, iterable, chunksize, progress, retries)
        return results

    def _run_map(self, run: Any, func: Any, iterable: Any, chunksize: int | None, progress: bool | str | None, retries: Any) -> Any:
        attempts = _attempts(retries, self._retries)
        self._check_running()  # type: ignore[attr-defined, unused-ignore]
        if not progress:
            return run(_Call(func, attempts), iterable, chunksize)
        if not hasattr(iterable, "__len__"):
            iterable = list(iterable)
        with _progress_bar(progress, len(iterable)) as bar:
            return run(_Call(func, attempts, bar), iterable, chunksize)

    def map_async(self, func: Callable[[Any], Any], iterable: Iterable[Any], chunksize: int | None = None, callback: Any = None,
                  error_callback: Any = None, *, retries: int | tuple[int, int] | None = None) -> Any:
        return super().map_async(_Call(func, _attempts(retries, self._retries)), iterable, chunksize, callback, error_callback)

    def starmap_async(self, func: Callable[..., Any], iterable: Iterable[Iterable[Any]], chunksize: int | None = None,
                      callback: Any = None, error_callback: Any = None, *, retries: int | tuple[int, int] | None = None) -> Any:
        return super().starmap_async(_Call(func, _attempts(retries, self._retries)), iterable, chunksize, callback, error_callback)

    def imap(self, func: Callable[[Any], Any], iterable: Iterable[Any],  # type: ignore[override, unused-ignore]
             chunksize: int | None = 1, *, progress: bool | str | None = None, retries: int | tuple[int, int] | None = None) -> Any:
        return self._run_imap(func, iterable, chunksize, True, progress, retries)

    def imap_unordered(self, func: Callable[[Any], Any], iterable: Iterable[Any],  # type: ignore[override, unused-ignore]
                       chunksize: int | None = 1, *, progress: bool | str | None = None,
                       retries: int | tuple[int, int] | None = None) -> Any:
        return self._run_imap(func, iterable, chunksize, False, progress, retries)

    def _run_imap(self, func: Any, iterable: Any, chunksize: Any, ordered: bool, progress: bool | str | None, retries: Any) -> Any:
        self._check_running()  # type: ignore[attr-defined, unused-ignore]
        results = _Lazy(self, _Call(func, _attempts(retries, self._retries)), iterable, _chunk(chunksize) or 1, ordered)
        self._lazy.add(results)
        bar = _progress_bar(progress, len(iterable) if hasattr(iterable, "__len__") else None)
        return results if bar is None else _with_bar(results, bar)

    # ---- what lazy iterators call

    def _submit(self, func: Any, args: tuple[Any, ...], done: Any) -> Any:
        """apply_async, but also while the pool closes; `done` gets the result when it is there."""
        cell: list[Any] = []

        def tell(_: Any) -> None:
            done.put(cell[0])

        told = None if done is None else tell
        result: Any = ApplyResult(self, told, told)
        cell.append(result)
        tasks: Any = vars(self)["_taskqueue"]
        tasks.put(([(result._job, 0, func, args, {})], None))
        return result

    def _lazy_ended(self, lazy: _Lazy) -> None:
        self._lazy.discard(lazy)
        if self._closing and not self._lazy:
            super().close()

    # ---- life

    def _check_running(self) -> None:
        if self._closing or vars(self)["_state"] != RUN:
            raise ValueError("Pool not running")

    def close(self) -> None:
        """Take no more calls; what was given goes on, also lazily."""
        self._closing = True
        if not self._lazy:
            super().close()

    def terminate(self) -> None:
        """Stop as soon as the tasks that run have ended; lazy iterators raise CancelledError."""
        super().terminate()
        for lazy in list(self._lazy):
            lazy._cancel()

    def join(self) -> None:
        """Wait until everything that was given has finished. Close or terminate before."""
        if self._closing and vars(self)["_state"] == RUN:
            for lazy in list(self._lazy):
                lazy._drain()
            super().close()
        super().join()
