"""The interface of `concurrent.futures` on the C core.

    import manyhands.futures as futures

Everything public of `concurrent.futures` is here under the same name; `ProcessPoolExecutor` is Manyhands' own. A worker that dies
costs its own task and no other: see `WorkerLost`.
"""

from __future__ import annotations

import logging
import os
import select
import signal
import sys
import threading
import time
import weakref
from concurrent.futures import (
    ALL_COMPLETED,
    FIRST_COMPLETED,
    FIRST_EXCEPTION,
    BrokenExecutor,
    CancelledError,
    Executor,
    Future,
    InvalidStateError,
    ThreadPoolExecutor,
    TimeoutError,
    as_completed,
    process,
    thread,
    wait,
)
from concurrent.futures.process import BrokenProcessPool
from typing import Any, Callable, Iterable, Iterator, NoReturn, Sized

from . import _core, _errors, _serial
from ._std import threads
from .pool import Pool, _progress_bar, _Retries

__all__ = [
    "ALL_COMPLETED", "BrokenExecutor", "BrokenProcessPool", "CancelledError", "Executor", "FIRST_COMPLETED", "FIRST_EXCEPTION", "Future",
    "InvalidStateError", "OutOfMemory", "PoisonTask", "PoolBroken", "ProcessPoolExecutor", "TaskFuture", "TaskTimeout", "ThreadPoolExecutor",
    "TimeoutError", "WorkerLost", "as_completed", "process", "thread", "wait",
]

_log = logging.getLogger("concurrent.futures")  # the standard library's own, for what it would say too
_RemoteTraceback: Any = vars(process)["_RemoteTraceback"]

# Tasks of a map over something with a length that are handed in ahead of its consumer; of other iterables it is a few.
_AHEAD_MAX = 1 << 16


# ---- exceptions: those of pools, that `except BrokenProcessPool` catches too ----------------------------------------------


class WorkerLost(_errors.WorkerLost, BrokenProcessPool):
    """The worker that ran the call died. The executor goes on; see `manyhands.WorkerLost` for the attributes."""


class PoisonTask(_errors.PoisonTask, WorkerLost):
    """The call killed every worker it met, as often as its budget of lost workers allows."""


class OutOfMemory(_errors.OutOfMemory, WorkerLost):
    """The call went over its memory limit, and its worker was killed."""


class TaskTimeout(_errors.TaskTimeout, WorkerLost):
    """The call ran longer than its deadline; its worker was killed and replaced. Not the TimeoutError of `result(timeout)`."""


class PoolBroken(_errors.PoolBroken, BrokenProcessPool):
    """Workers could not be started or initialized: the executor takes no more calls."""


_BROKEN: dict[type, type[BaseException]] = {
    _errors.WorkerLost: WorkerLost, _errors.PoisonTask: PoisonTask, _errors.OutOfMemory: OutOfMemory, _errors.TaskTimeout: TaskTimeout,
    _errors.PoolBroken: PoolBroken,
}


def _undecodable() -> type[BaseException]:
    # Made when it is first wanted: its base costs an import.
    base: Any = vars(_errors).get("SerializationError") or getattr(_errors, "SerializationError")
    if base not in _BROKEN:
        _BROKEN[base] = type("SerializationError", (base, BrokenProcessPool), {"__module__": __name__, "__doc__": base.__doc__})
        globals()["SerializationError"] = _BROKEN[base]
    return _BROKEN[base]


def __getattr__(name: str) -> Any:
    if name == "SerializationError":
        return _undecodable()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _adapt(exception: BaseException) -> BaseException:
    """How a call failed, as the standard executor's callers expect it."""
    cause: Any = exception.__cause__
    kind = _BROKEN.get(type(exception))
    if type(exception).__name__ == "SerializationError" and getattr(exception, "value", None) in (_serial.IN_WORKER, _serial.IN_CALLER):
        kind = _undecodable()
    elif type(exception) is vars(_errors).get("SerializationError"):
        kind = None  # what cannot be pickled says nothing about the workers
    if kind is not None:
        exception = kind(*exception.args)
        exception.__cause__ = cause
    if type(cause) is vars(_errors).get("RemoteTraceback"):
        exception.__cause__ = _RemoteTraceback(cause.tb)
    return exception


# ---- what the extension's futures call ------------------------------------------------------------------------------------


def _make_condition() -> threading.Condition:
    return threading.Condition()


def _tell_waiters(future: Any, condition: threading.Condition) -> None:
    """Under the future's condition: it has just ended."""
    if future.cancelled():
        for waiter in future._waiters:
            waiter.add_cancelled(future)
    elif future._exception is not None:
        for waiter in future._waiters:
            waiter.add_exception(future)
    else:
        for waiter in future._waiters:
            waiter.add_result(future)
    condition.notify_all()


def _log_callback(future: Any, exception: BaseException) -> None:
    _log.error("exception calling callback for %r", future, exc_info=exception)


TaskFuture: Any = _core.make_future_type(Future, sys.modules[__name__])


# ---- the pool of an executor ----------------------------------------------------------------------------------------------


class _Initialize:
    """An executor's initializer: when it fails, that is logged as the standard library does, and the executor breaks."""

    def __init__(self, function: Callable[..., object], arguments: tuple[Any, ...]) -> None:
        self.function = function
        self.arguments = arguments

    def __call__(self) -> None:
        try:
            self.function(*self.arguments)
        except BaseException:
            _log.critical("Exception in initializer:", exc_info=True)
            sys.excepthook = lambda *_: None  # it has been told
            _serial.finish_worker()
            raise


_pools: set[_ExecutorPool] = set()  # that may still have work to do, whether or not their executors are there
_exiting = False


class _ExecutorPool(Pool):
    _keeps_exits = True
    _must_initialize = True
    _on_demand = True

    def __init__(self, *args: Any, **options: Any) -> None:
        self._unsized: weakref.WeakSet[Any] = weakref.WeakSet()  # iterators over what may have no end
        super().__init__(*args, **options)
        _pools.add(self)

    def _finish(self, wait: bool) -> None:
        """Take no more calls, and end when all that were accepted have ended: while the caller waits, or behind him."""
        for iterator in self._lazy_alive:
            if iterator in self._unsized:
                iterator._stop()  # its consumer stopped half-way, and what is left may have no end
        self.close()
        if wait:
            self.join()
        else:
            ending: Any = threading.Thread(target=self.join, name="manyhands executor", daemon=True)
            ending._manyhands = True
            ending.start()

    def _kill(self) -> None:
        self.terminate()
        self.join()

    def join(self) -> None:
        super().join()
        _pools.discard(self)


def _finish_all() -> None:
    # As in the standard library, a program ends when its executors have done what they were given.
    global _exiting
    _exiting = True
    interrupted = getattr(sys, "last_type", None) is KeyboardInterrupt  # which is what ends the program
    for pool in [p for p in _pools if p._owner == os.getpid()]:
        if interrupted:
            pool._kill()
        else:
            pool._finish(True)


threads._register_atexit(_finish_all)


class _Worker:
    """A worker, as `executor._processes` shows it."""

    def __init__(self, pid: int) -> None:
        self.pid = pid

    def is_alive(self) -> bool:
        return not self._ended(0)

    def join(self, timeout: float | None = None) -> None:
        self._ended(timeout)

    def terminate(self) -> None:
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        self._signal(signal.SIGKILL)

    def _signal(self, number: int) -> None:
        try:
            os.kill(self.pid, number)
        except ProcessLookupError:
            pass

    def _ended(self, timeout: float | None) -> bool:
        try:
            descriptor = os.pidfd_open(self.pid)
        except OSError:
            return True
        try:
            poll = select.poll()
            poll.register(descriptor, select.POLLIN)
            return bool(poll.poll(None if timeout is None else timeout * 1000))
        finally:
            os.close(descriptor)


class _Ending:
    """What a program finds that waits, by private names of the standard executor, until there is nothing left of one that was shut down."""

    def __init__(self, pool: Any) -> None:
        self._pool = pool

    def join(self) -> None:
        self._pool.join()

    join_thread = join


# ---- the executor -----------------------------------------------------------------------------------------------------------


def _check_child_tasks(number: int | None, method: str) -> None:
    if number is None:
        return
    if not isinstance(number, int):
        raise TypeError("max_tasks_per_child must be an integer")
    if number <= 0:
        raise ValueError("max_tasks_per_child must be >= 1")
    if method == "fork":
        raise ValueError("max_tasks_per_child is incompatible with the 'fork' multiprocessing start method; supply a different mp_context.")


class ProcessPoolExecutor(_core.Executor, Executor):
    """Runs calls on worker processes; the interface of `concurrent.futures.ProcessPoolExecutor`.

    max_workers          how many workers; default: the cores that this process may use. They start with the first call, those that do
                         not fork when there are more calls than workers
    mp_context           how workers start: a context of `manyhands.get_context` or of `multiprocessing`
    initializer          called as initializer(*initargs) in each worker before its first call; when it fails, the executor is broken
    max_tasks_per_child  a worker is replaced after so many calls, which needs a start method other than fork; default: never
    timeout              seconds that each call may run; one that takes longer raises `TaskTimeout`, and its worker is replaced
    retries              further attempts for each call whose worker died or that raised an exception: a number for both, or the pair
                         (lost, failed), see `Pool`; default 0
    memory               bytes of memory that each call may use; one that uses more raises `OutOfMemory`, and its worker is replaced
    max_bytes_per_child  a worker that has grown over so many bytes is replaced after its call; default: never
    pin                  bind each worker to a core

    A worker that dies fails its own call with `WorkerLost`, which is a BrokenProcessPool; the executor goes on with another worker.

    Raises ValueError and TypeError for arguments as the standard library does.

    >>> from manyhands.futures import ProcessPoolExecutor
    >>> with ProcessPoolExecutor(2) as executor:
    ...     executor.submit(pow, 2, 10).result()
    1024
    """

    _pool_class = _ExecutorPool

    def __new__(cls, *args: Any, cluster: Any = None, **options: Any) -> Any:
        """With cluster=, an executor on the engines of that client of `manyhands.parallel`: a `manyhands.parallel.pool.ClusterExecutor`."""
        if cluster is None:
            return super().__new__(cls)
        from .parallel.pool import ClusterExecutor

        return ClusterExecutor(cluster, *args, **options)

    def __init__(self, max_workers: int | None = None, mp_context: Any = None, initializer: Callable[..., object] | None = None,
                 initargs: Iterable[Any] = (), *, max_tasks_per_child: int | None = None, timeout: float | None = None,
                 retries: _Retries = 0, memory: int | None = None, max_bytes_per_child: int | None = None, pin: bool = False,
                 cluster: None = None) -> None:
        if max_workers is None:
            max_workers = _core.default_workers()
        if max_workers <= 0:
            raise ValueError("max_workers must be greater than 0")
        from .context import _default_context

        is_default = mp_context is None and max_tasks_per_child is None
        if mp_context is None:
            mp_context = _default_context.get_context("spawn" if max_tasks_per_child is not None else None)
        if initializer is not None and not callable(initializer):
            raise TypeError("initializer must be a callable")
        method = mp_context.get_start_method(allow_none=False)
        _check_child_tasks(max_tasks_per_child, method)
        self._mp_context = mp_context
        self._max_workers = max_workers
        self._lock = threading.Lock()
        self._shut = False
        self._owns_pool = True
        self._retries: _Retries | None = None
        self._memory: int | None = None
        self._timeout: float | None = None
        self._start: dict[str, Any] = {
            "initializer": _Initialize(initializer, tuple(initargs)) if initializer is not None else None,
            "maxtasksperchild": max_tasks_per_child, "timeout": timeout,
            "context": None if is_default else _default_context.get_context(method),  # None: settled when workers start
            "retries": retries, "memory": memory, "maxbytesperchild": max_bytes_per_child, "pin": pin,
        }

    # ---- calls

    def _begin(self) -> None:
        """Called when there is no pool that takes calls: make it, or say why not."""
        with self._lock:
            if self.__dict__.get("_owner", self)._shut:
                raise RuntimeError("cannot schedule new futures after shutdown")
            if _exiting:
                raise RuntimeError("cannot schedule new futures after interpreter shutdown")
            if self._pool is None:
                self._attach(self._pool_class(self._max_workers, **self._start))

    def _refuse(self, future: Any) -> None:
        """The pool did not take a call."""
        if self._broken:
            raise PoolBroken(self._broken)
        self._begin()

    @property
    def _broken(self) -> str | bool:
        broken = self._pool is not None and self._pool._is_broken()
        return "A worker could not be started or initialized; the executor is not usable anymore" if broken else False

    def map(self, fn: Callable[..., Any], *iterables: Iterable[Any], timeout: float | None = None, chunksize: int = 1,
            progress: bool | str | None = None, retries: _Retries | None = None, task_timeout: float | None = None,
            memory: int | None = None) -> Iterator[Any]:
        """An iterator over fn(*items) for items in zip(*iterables), in order.

        timeout is for all results, in seconds from this call. chunksize items make one task. Iterables without a length are pulled a few
        tasks ahead of the consumer only, so they may be endless. progress=True or a text shows a bar; retries, task_timeout and memory
        are for each task, as the executor's.
        """
        if chunksize < 1:
            raise ValueError("chunksize must be >= 1.")
        deadline = None if timeout is None else timeout + time.monotonic()
        if self._pool is None or not self._pool._running:
            self._begin()
        pool: Any = self._pool
        lengths = [len(i) for i in iterables if isinstance(i, Sized)]
        total = min(lengths) if lengths else None if iterables else 0
        ahead = 0 if total is None else min(-(-total // chunksize), _AHEAD_MAX)
        star = len(iterables) != 1
        results = pool._imap(fn, zip(*iterables) if star else iterables[0], chunksize, True,
                             self._timeout if task_timeout is None else task_timeout, self._retries if retries is None else retries,
                             self._memory if memory is None else memory, star=star, ahead=ahead)
        if total is None:
            pool._unsized.add(results)
        return _consume(results, deadline, _progress_bar(progress, total), weakref.ref(pool))

    def options(self, *, timeout: float | None = None, retries: _Retries | None = None, memory: int | None = None) -> ProcessPoolExecutor:
        """The same executor with another deadline, number of retries or memory limit for the calls that are made through what this returns.

        >>> with ProcessPoolExecutor(2) as executor:
        ...     executor.options(timeout=60, retries=2).submit(pow, 2, 3).result()
        8
        """
        if self._pool is None or not self._pool._running:
            self._begin()
        view: ProcessPoolExecutor = object.__new__(type(self))
        view.__dict__.update(self.__dict__, _owns_pool=False, _owner=self.__dict__.get("_owner", self))
        view._timeout = self._timeout if timeout is None else timeout
        view._retries = self._retries if retries is None else retries
        view._memory = self._memory if memory is None else memory
        pool: Any = self._pool
        view._attach(pool, view._timeout, view._retries, view._memory)
        return view

    # ---- life

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more calls, and end the workers when all that were accepted have ended. wait: return only then.

        cancel_futures: calls that have not started are cancelled. What `map` has not yet yielded can be consumed afterwards, except that
        a half-consumed iterable without a length is not pulled further.
        """
        with self._lock:
            self.__dict__.get("_owner", self)._shut = True
            pool: Any = self._pool
        if pool is None or pool._owner != os.getpid():
            return
        if cancel_futures:
            pool._stop_calls()
            for iterator in [*pool._lazy, *pool._lazy_alive]:
                iterator._stop()
            pool._cancel()
        pool._finish(wait)

    def kill_workers(self) -> None:
        """End at once: workers are killed, and what has not finished raises CancelledError."""
        with self._lock:
            self.__dict__.get("_owner", self)._shut = True
            pool: Any = self._pool
        if pool is not None and pool._owner == os.getpid():
            pool._kill()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        # The standard library's workers get a Ctrl-C themselves and end. Ours leave it to their owner: here it is.
        if kind is not None and issubclass(kind, KeyboardInterrupt):
            self.kill_workers()
        else:
            self.shutdown(wait=True)

    @property
    def _processes(self) -> dict[int, _Worker]:
        return {} if self._pool is None else {pid: _Worker(pid) for pid in self._pool._pids()}

    @property
    def _executor_manager_thread(self) -> _Ending | None:
        return None if self._pool is None else _Ending(self._pool)

    _call_queue = _executor_manager_thread

    def stats(self) -> dict[str, int]:
        """Counts of calls and workers, and the shared memory in use: see `Pool.stats`. Empty before the first call."""
        return {} if self._pool is None else self._pool._stats()

    def __del__(self, _getpid: Callable[[], int] = os.getpid) -> None:
        # What was accepted is done all the same.
        pool: Any = self._pool
        if pool is not None and vars(self).get("_owns_pool") and pool._running and not _exiting and pool._owner == _getpid():
            pool._finish(False)

    def __reduce__(self) -> NoReturn:
        raise NotImplementedError("executor objects cannot be passed between processes or pickled")


def _consume(results: Any, deadline: float | None, bar: Any, pool: weakref.ref[Any]) -> Iterator[Any]:
    """What `map` returns. The first exception ends it, and cancels what has not started."""
    try:
        if deadline is None and bar is None:
            yield from results
            return
        while True:
            try:
                item = results.next(None if deadline is None else max(deadline - time.monotonic(), 0))
            except StopIteration:
                return
            except _errors.TimeoutError as e:
                if isinstance(e, _errors.WorkerLost):
                    raise
                raise TimeoutError() from None
            if bar is not None:
                bar.update()
            yield item
            del item
    except GeneratorExit:
        raise
    except BaseException as e:
        better = _adapt(e)
        owner = pool()
        if isinstance(e, ValueError) and owner is not None and owner._is_broken():
            better = PoolBroken("a worker could not be started or initialized")
        if better is e:
            raise
        raise better from better.__cause__
    finally:
        del results
        if bar is not None:
            bar.close()
