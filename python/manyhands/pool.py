"""Pools of worker processes and of threads, with the interface of `multiprocessing.pool`."""

from __future__ import annotations

import os
import threading
import time
import warnings
import weakref

from . import _core, _serial, _worker
from ._errors import TimeoutError
from ._errors import __getattr__ as _error
from ._std import interpreter_command as _interpreter_command
from ._std import util as _util

TYPE_CHECKING = False  # see __init__.py
if TYPE_CHECKING:
    from typing import Any, Callable, Iterable, Iterator

__all__ = ["AsyncResult", "Pool", "ThreadPool", "TimeoutError"]

INIT = "INIT"
RUN = "RUN"
CLOSE = "CLOSE"
TERMINATE = "TERMINATE"

# One line each, so that type checkers take them for types.
AsyncResult = _core.AsyncResult
ApplyResult = _core.AsyncResult
MapResult = _core.AsyncResult
IMapIterator = _core.IMapIterator
IMapUnorderedIterator = _core.IMapIterator

_Retries = int | tuple[int, int] | tuple[int, int, int]

_TRACE_EVENTS = 16384

_START = {"fork": 1, "spawn": 2, "forkserver": 3}

# Pools that their program left open: ended at its end, like daemonic processes.
_open: weakref.WeakSet[Pool] = weakref.WeakSet()
_open_owner = 0


def _end_all() -> None:
    for pool in list(_open):
        pool.terminate()
        pool._join()


def _end_at_exit(pool: Pool) -> None:
    global _open_owner
    if _open_owner != os.getpid():  # finalizers are a process's own
        _open_owner = os.getpid()
        _open.clear()
        _util.Finalize(None, _end_all, exitpriority=15)
    _open.add(pool)


def __getattr__(name: str) -> Any:
    if name == "ThreadPool":
        return _make_thread_pool()
    if name.startswith("_"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return _error(name)
    except AttributeError:
        pass
    import multiprocessing.pool

    return getattr(multiprocessing.pool, name)  # worker, mapstar, ...: public by name there, though of no use here


class _WorkerView:
    """A worker as `pool._pool` shows it."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.exitcode = None

    def is_alive(self) -> bool:
        return True


def _progress_bar(progress: bool | str | None, total: int | None) -> Any:
    if not progress:
        return None
    from tqdm.auto import tqdm  # type: ignore[import-untyped, unused-ignore]

    return tqdm(total=total, desc=progress if isinstance(progress, str) else None)


class Pool(_core.Pool):
    """A pool of worker processes.

    processes         how many workers; default: the cores that this process may use, in a worker those that are left for it
    initializer       called as initializer(*initargs) in each worker before its first task
    maxtasksperchild  a worker is replaced after so many tasks; default: never
    context           how workers start: see `manyhands.get_context`
    timeout           seconds that each task may run; one that takes longer raises `TaskTimeout`, and its worker is replaced
    retries           further attempts for each task whose worker died, that raised an exception or that went over its memory limit: a
                      number for each, or (lost, failed), or (lost, failed, memory); default 0
    memory            bytes by which a worker may grow in a task; a task that takes more raises `OutOfMemory`, and its worker is replaced
    maxbytesperchild  a worker that has grown over so many bytes is replaced after its task; default: never
    pin               bind each worker to a core
    trace             keep what each worker did lately, for `trace`: True, or how many events of each; default: nothing

    timeout, retries and memory can also be given to each call. A task is a call of `apply`, or a chunk of the others.

    Raises ValueError and TypeError for arguments as the standard library does, OSError when workers cannot be started.

    >>> import manyhands, math
    >>> with manyhands.Pool(2) as pool:
    ...     pool.map(math.sqrt, [1, 4, 9])
    [1.0, 2.0, 3.0]
    """

    _keeps_exits = False  # what a task raises to end its program comes back as it is, not as TaskExited
    _must_initialize = False  # one initializer that fails breaks the pool
    _on_demand = False  # workers that do not fork start when there is work for them
    _imports_main = True  # exec'ed workers import the program's main module

    def __init__(self, processes: int | None = None, initializer: Callable[..., object] | None = None, initargs: Iterable[Any] = (),
                 maxtasksperchild: int | None = None, context: Any = None, *, timeout: float | None = None,
                 retries: _Retries = 0, memory: int | None = None, maxbytesperchild: int | None = None, pin: bool = False,
                 trace: bool | int = False) -> None:
        self._state = INIT
        self._callback_thread: threading.Thread | None = None
        self._lazy: dict[Any, None] = {}  # iterators that nobody consumes yet
        self._lazy_alive: weakref.WeakSet[Any] = weakref.WeakSet()
        self._start_data = -1
        self._start_fds: list[int] = []
        self._owner = os.getpid()
        if processes is None:
            processes = _core.default_workers()
        if processes < 1:
            raise ValueError("Number of processes must be at least 1")
        if maxtasksperchild is not None:
            if not isinstance(maxtasksperchild, int) or maxtasksperchild <= 0:
                raise ValueError("maxtasksperchild must be a positive int or None")
        if maxbytesperchild is not None:
            if not isinstance(maxbytesperchild, int) or maxbytesperchild <= 0:
                raise ValueError("maxbytesperchild must be a positive int or None")
        if initializer is not None and not callable(initializer):
            raise TypeError("initializer must be a callable")
        if context is None:
            from .context import _default_context as context
        self._ctx = context.get_context()
        self._processes = processes
        if isinstance(trace, bool):
            trace = _TRACE_EVENTS if trace else 0
        if not isinstance(trace, int) or not 0 <= trace <= 1 << 20:
            raise ValueError("trace must be a bool, or a number of events up to 1048576")
        self._start_workers(initializer, tuple(initargs), maxtasksperchild or 0, maxbytesperchild or 0, pin, timeout, retries, memory, trace)
        self._state = RUN
        _end_at_exit(self)

    def _start_workers(self, initializer: Callable[..., object] | None, initargs: tuple[Any, ...], max_tasks: int, max_bytes: int,
                       pin: bool, timeout: float | None, retries: _Retries, memory: int | None, trace: int) -> None:
        method = self._ctx._name
        if method not in _START:
            raise ValueError(f"the context starts processes in a way that pools do not know: {method!r}, not one of {', '.join(_START)}")
        prepare = _worker.Prepare(method, initializer, initargs, self._processes, self._keeps_exits)
        argv = None
        if method != "fork":
            data, self._start_fds = _worker.dump_start(prepare, self._imports_main)
            self._start_data = os.memfd_create("manyhands start", os.MFD_CLOEXEC)
            with open(self._start_data, "wb", closefd=False) as file:
                file.write(data)
            argv = _interpreter_command("from manyhands._worker import main; main()", "{socket}",
                                       "server" if method == "forkserver" else "worker", f"/proc/{os.getpid()}/fd/{self._start_data}")
        else:
            _util._flush_std_streams()
        try:
            self._open(self._processes, _START[method], argv, prepare, _serial.Names(method == "fork"), max_tasks=max_tasks,
                       max_bytes=max_bytes, pin=pin, timeout=timeout, retries=retries, memory=memory,
                       must_initialize=self._must_initialize, fds=self._start_fds, trace=trace,
                       on_demand=self._on_demand and method != "fork")
        except BaseException:
            self._close_start_data()
            raise

    def _close_start_data(self) -> None:
        descriptor, self._start_data = self._start_data, -1  # first forgotten, so that an interrupt cannot close it twice
        inherited, self._start_fds = self._start_fds, []
        if descriptor >= 0:
            os.close(descriptor)
        for descriptor in inherited:
            os.close(descriptor)

    # ---- calls

    def map(self, func: Callable[[Any], Any], iterable: Iterable[Any], chunksize: int | None = None, *,
            progress: bool | str | None = None, timeout: float | None = None, retries: _Retries | None = None, memory: int | None = None) -> list[Any]:
        """[func(x) for x in iterable], by the workers.

        Without a chunksize, chunks grow and shrink with the measured time of an item. All items are tried; then the exception of the
        first that failed is raised. progress=True or a text shows a bar.
        """
        return self._run_map(func, iterable, chunksize, False, progress, timeout, retries, memory)

    def starmap(self, func: Callable[..., Any], iterable: Iterable[Iterable[Any]], chunksize: int | None = None, *,
                progress: bool | str | None = None, timeout: float | None = None,
                retries: _Retries | None = None, memory: int | None = None) -> list[Any]:
        """[func(*x) for x in iterable], by the workers: see `map`."""
        return self._run_map(func, iterable, chunksize, True, progress, timeout, retries, memory)

    def _run_map(self, func: Any, iterable: Any, chunksize: int | None, star: bool, progress: bool | str | None, timeout: float | None,
                 retries: _Retries | None, memory: int | None) -> list[Any]:
        self._check_running()
        if not hasattr(iterable, "__len__"):
            iterable = list(iterable)
        bar = _progress_bar(progress, len(iterable))
        if bar is None:
            return self._map(func, iterable, _chunk(chunksize), star, timeout=timeout, retries=retries, memory=memory)
        with bar:
            return self._map(func, iterable, _chunk(chunksize), star, bar.update, timeout, retries, memory)

    def map_async(self, func: Callable[[Any], Any], iterable: Iterable[Any], chunksize: int | None = None,
                  callback: Callable[[list[Any]], object] | None = None, error_callback: Callable[[BaseException], object] | None = None,
                  *, timeout: float | None = None, retries: _Retries | None = None, memory: int | None = None) -> _core.AsyncResult:
        """`map`, but returns at once: an AsyncResult. Callbacks run in a thread of the pool's."""
        self._check_running()
        if not hasattr(iterable, "__len__"):
            iterable = list(iterable)
        return self._map_async(func, iterable, _chunk(chunksize), False, callback, error_callback, timeout, retries, memory)

    def starmap_async(self, func: Callable[..., Any], iterable: Iterable[Iterable[Any]], chunksize: int | None = None,
                      callback: Callable[[list[Any]], object] | None = None,
                      error_callback: Callable[[BaseException], object] | None = None, *, timeout: float | None = None,
                      retries: _Retries | None = None, memory: int | None = None) -> _core.AsyncResult:
        """`starmap`, but returns at once: an AsyncResult."""
        self._check_running()
        if not hasattr(iterable, "__len__"):
            iterable = list(iterable)
        return self._map_async(func, iterable, _chunk(chunksize), True, callback, error_callback, timeout, retries, memory)

    def imap(self, func: Callable[[Any], Any], iterable: Iterable[Any], chunksize: int = 1, *, progress: bool | str | None = None,
             timeout: float | None = None, retries: _Retries | None = None, memory: int | None = None) -> Any:
        """An iterator over func(x) for x in iterable, in order. Lazy: a few tasks are ahead of the consumer, so iterables may be endless."""
        return self._run_imap(func, iterable, chunksize, True, progress, timeout, retries, memory)

    def imap_unordered(self, func: Callable[[Any], Any], iterable: Iterable[Any], chunksize: int = 1, *,
                       progress: bool | str | None = None, timeout: float | None = None,
                       retries: _Retries | None = None, memory: int | None = None) -> Any:
        """`imap`, but results come as they finish."""
        return self._run_imap(func, iterable, chunksize, False, progress, timeout, retries, memory)

    def _run_imap(self, func: Any, iterable: Any, chunksize: int, ordered: bool, progress: bool | str | None, timeout: float | None,
                  retries: _Retries | None, memory: int | None) -> Any:
        self._check_running()
        if chunksize < 1:
            raise ValueError(f"Chunksize must be 1+, not {chunksize:n}")
        results = self._imap(func, iterable, chunksize, ordered, timeout, retries, memory)
        bar = _progress_bar(progress, len(iterable) if hasattr(iterable, "__len__") else None)
        return results if bar is None else _with_bar(results, bar)

    def _repopulate_pool(self) -> None:
        """Nothing: the core replaces a worker as soon as it has ended. Programs that know the standard library's inside call it."""

    # ---- what the extension calls

    def _check_running(self) -> None:
        if not self._running:
            raise ValueError("Pool not running")

    def _start_callbacks(self) -> None:
        # Several threads may come here at once, and starting a thread lets others run.
        if self._callback_thread is not None or not self._mailbox.claim(True):
            return
        thread: Any = None
        try:
            thread = threading.Thread(target=self._mailbox.serve, name="manyhands callbacks", daemon=True)
            thread._manyhands = True
            self._callback_thread = thread
            thread.start()
        except BaseException:
            if thread is None or thread.ident is None:
                self._callback_thread = None
                self._mailbox.claim(False)
            raise

    def _lazy_made(self, iterator: Any) -> None:
        self._lazy[iterator] = None

    def _lazy_begun(self, iterator: Any) -> None:
        # From here on only the consumer keeps it: dropping it cancels what has not started.
        self._lazy.pop(iterator, None)
        self._lazy_alive.add(iterator)

    def _lazy_ended(self, iterator: Any) -> None:
        self._lazy.pop(iterator, None)
        self._lazy_alive.discard(iterator)
        if self._state == CLOSE and not self._lazy and not self._lazy_alive:
            self._close()

    # ---- life

    def close(self) -> None:
        """Take no more calls; what was given goes on, also lazily."""
        if self._state == RUN:
            self._state = CLOSE
            self._stop_calls()
            if not self._lazy and not self._lazy_alive:
                self._close()

    def terminate(self) -> None:
        """Kill the workers; what has not finished raises CancelledError."""
        self._state = TERMINATE
        self._terminate()
        self._lazy.clear()
        self._mailbox.close()
        _open.discard(self)

    def join(self) -> None:
        """Wait until everything that was given has finished and the workers have ended. Close or terminate before."""
        if self._state == RUN:
            raise ValueError("Pool is still running")
        if self._state not in (CLOSE, TERMINATE):
            raise ValueError("In unknown state")
        if self._state == CLOSE:
            for iterator in [*self._lazy, *self._lazy_alive]:
                iterator._drain()
            self._close()
        self._join()
        self._mailbox.close()
        thread = self._callback_thread
        if thread is not None and thread is not threading.current_thread():
            thread.join()
        self._close_start_data()
        _open.discard(self)

    def stats(self) -> dict[str, Any]:
        """What the pool did, and where its time went, in seconds.

        Counts of tasks and workers, and the bytes of shared memory in use; `each_worker`, a list with a dict for each live worker: `pid`, `tasks`,
        `bytes_in`, `bytes_out`, and its time since it was first ready, `lived`, which is the sum of `busy` (in your functions), `serialising`,
        `transport` (handing over), `idle` and `waiting_for_core`; `departed`, the same of all workers that have ended, together; and `caller`, of this
        process: `lived`, `waiting`, `serialising`, `transport`. Of tasks shorter than 20 microseconds only some are measured.
        """
        return self._stats()

    def trace(self, path: str | os.PathLike[str]) -> None:
        """Write what the workers did lately to a file for chrome://tracing or https://ui.perfetto.dev; for pools made with trace=True.

        Raises ValueError for a pool that keeps no trace, OSError when the file cannot be written.
        """
        text = self._trace()
        with open(path, "wb") as file:
            file.write(text)

    @property
    def _pool(self) -> list[_WorkerView]:
        # A worker that is being started or replaced has no number yet.
        until = time.monotonic() + 10
        while len(pids := self._pids()) < self._processes and self._state == RUN and time.monotonic() < until:
            time.sleep(0.001)
        return [_WorkerView(pid) for pid in pids]

    def __enter__(self) -> Pool:
        self._check_running()
        return self

    def __exit__(self, *exc: object) -> None:
        self.terminate()

    def __reduce__(self) -> Any:
        raise NotImplementedError("pool objects cannot be passed between processes or pickled")

    def __repr__(self) -> str:
        cls = type(self)
        return f"<{cls.__module__}.{cls.__qualname__} state={self._state} pool_size={len(self._pids())}>"

    def _left_open(self, _warn: Any = warnings.warn, RUN: str = RUN, _getpid: Any = os.getpid) -> None:
        """What the finalizer calls if it still runs, or holds what workers start with."""
        if getattr(self, "_owner", None) != _getpid():
            return
        if self._state == RUN:
            _warn(f"unclosed running multiprocessing pool {self!r}", ResourceWarning, source=self)
        self._close_start_data()


def _chunk(chunksize: int | None) -> int:
    if chunksize is None:
        return 0
    if chunksize < 1:
        raise ValueError(f"Chunksize must be 1+, not {chunksize:n}")
    return chunksize


def _with_bar(results: Any, bar: Any) -> Iterator[Any]:
    with bar:
        for item in results:
            yield item
            bar.update()


def _make_thread_pool() -> Any:
    from ._threadpool import ThreadPool

    ThreadPool.__module__ = __name__
    globals()["ThreadPool"] = ThreadPool
    return ThreadPool
