"""A joblib backend: `joblib.Parallel`, and with it scikit-learn's `n_jobs`, on Manyhands' workers.

    import manyhands.joblib
    manyhands.joblib.register()             # from here on it is joblib's default

    with joblib.parallel_config(backend="manyhands", n_jobs=4):   # or where it is asked for by name
        ...

Workers start once and are used by later calls. Big arrays are copied into shared memory once for a call and mapped by every worker.
"""

from __future__ import annotations

import io
import mmap
import os
import pickle
import sys
import threading
import time
import weakref
from typing import Any, Callable

import cloudpickle  # type: ignore[import-untyped]

try:
    import joblib  # type: ignore[import-untyped, unused-ignore]
    from joblib.parallel import AutoBatchingMixin, FallbackToBackend, ParallelBackendBase, SequentialBackend  # type: ignore[import-untyped, unused-ignore]
except ImportError as e:
    raise ImportError("manyhands.joblib needs joblib: pip install joblib", name="joblib") from e

from .futures import ProcessPoolExecutor, _ExecutorPool, _RemoteTraceback

__all__ = ["ManyhandsBackend", "register"]

# Buffers of fewer bytes stay inside the pickle.
_BUFFER_MIN = 4096
_IDLE_SECONDS = 300.0


def register(default: bool = True) -> None:
    """Make joblib know the backend "manyhands"; default: use it wherever no other backend is asked for.

    >>> import joblib, math, manyhands.joblib
    >>> manyhands.joblib.register()
    >>> joblib.Parallel(n_jobs=2)(joblib.delayed(math.sqrt)(n) for n in (1, 4, 9))
    [1.0, 2.0, 3.0]
    """
    joblib.register_parallel_backend("manyhands", ManyhandsBackend, make_default=default)


# ---- big arrays: one copy in shared memory for all calls that use them --------------------------------------------------------


class _Arrays:
    """The arrays of one call of Parallel that lie in shared memory. A worker finds them by descriptors that are open here."""

    def __init__(self, max_bytes: int | None, mode: str | None) -> None:
        self.max_bytes = max_bytes
        self.mode = {"w+": "r+"}.get(mode or "", mode)
        self.lock = threading.Lock()
        self.shared: dict[int, tuple[Any, tuple[Any, ...]]] = {}  # by id: the array, which keeps the id its own, and how to find the copy
        self.descriptors: list[int] = []

    def reduce(self, array: Any) -> Any:
        """How a worker makes the array; NotImplemented when it is to be pickled."""
        mapped = _file_of(array)
        if mapped is not None:
            return _open_file, _describe(array, mapped)
        if self.mode is None or self.max_bytes is None or array.nbytes <= self.max_bytes or array.dtype.hasobject:
            return NotImplemented
        with self.lock:
            found = self.shared.get(id(array))
            if found is None:
                found = self.shared[id(array)] = array, self._copy(array)
        return _open_shared, found[1]

    def _copy(self, array: Any) -> tuple[Any, ...]:
        order = "F" if array.flags.f_contiguous and not array.flags.c_contiguous else "C"
        name = f"manyhands-{os.urandom(8).hex()}"
        descriptor = os.memfd_create(name, os.MFD_CLOEXEC)
        self.descriptors.append(descriptor)
        os.posix_fallocate(descriptor, 0, array.nbytes)
        with mmap.mmap(descriptor, array.nbytes) as place:
            copy = _numpy().ndarray(array.shape, array.dtype, buffer=place, order=order)
            copy[...] = array
            del copy
        return os.getpid(), descriptor, name, array.dtype, array.shape, order, self.mode

    def close(self) -> None:
        with self.lock:
            self.shared.clear()
            while self.descriptors:
                os.close(self.descriptors.pop())

    def __del__(self) -> None:
        self.close()


def _numpy() -> Any:
    import numpy

    return numpy


def _open_shared(pid: int, descriptor: int, name: str, dtype: Any, shape: tuple[int, ...], order: str, mode: str) -> Any:
    path = f"/proc/{pid}/fd/{descriptor}"
    if not os.readlink(path).startswith(f"/memfd:{name}"):
        raise RuntimeError("the call that this array belongs to has ended")
    access = {"r": mmap.ACCESS_READ, "c": mmap.ACCESS_COPY}.get(mode, mmap.ACCESS_WRITE)
    own = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        place = mmap.mmap(own, 0, access=access)
    finally:
        os.close(own)
    return _numpy().ndarray(shape, dtype, buffer=place, order=order)


def _file_of(array: Any) -> Any:
    """The numpy.memmap of a file that the array's memory belongs to, or None."""
    memmap = _numpy().memmap
    base = array
    while base is not None:
        if isinstance(base, memmap) and isinstance(base.base, mmap.mmap) and base.filename is not None:
            return base
        base = getattr(base, "base", None)
    return None


def _describe(array: Any, mapped: Any) -> tuple[Any, ...]:
    first = array.__array_interface__["data"][0]
    below = sum((n - 1) * s for n, s in zip(array.shape, array.strides) if s < 0 and n)
    above = sum((n - 1) * s for n, s in zip(array.shape, array.strides) if s > 0 and n) + array.itemsize
    offset = first - mapped.__array_interface__["data"][0] + mapped.offset
    mode = "r+" if mapped.mode == "w+" else mapped.mode
    return str(mapped.filename), mode, offset + below, above - below, -below, array.dtype, array.shape, array.strides


def _open_file(path: str, mode: str, offset: int, size: int, first: int, dtype: Any, shape: tuple[int, ...], strides: tuple[int, ...]) -> Any:
    numpy = _numpy()
    place = numpy.memmap(path, numpy.uint8, mode, offset, (size,))
    made = numpy.ndarray(shape, dtype, buffer=place, offset=first, strides=strides)
    return made.view(numpy.memmap) if made.flags.c_contiguous or made.flags.f_contiguous else made


# ---- how calls and results travel ------------------------------------------------------------------------------------------------


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]
    """By value what workers could not import; arrays by their place where they have one."""

    def __init__(self, file: Any, arrays: _Arrays | None, keep: Callable[[pickle.PickleBuffer], bool]) -> None:
        super().__init__(file, 5, buffer_callback=keep)
        self._arrays = arrays if "numpy" in sys.modules else None
        self._array_type = sys.modules["numpy"].ndarray if self._arrays is not None else None

    def reducer_override(self, obj: Any) -> Any:
        if self._array_type is not None and isinstance(obj, self._array_type) and type(obj).__module__ == "numpy":
            assert self._arrays is not None
            reduced = self._arrays.reduce(obj)
            if reduced is not NotImplemented:
                return reduced
        return super().reducer_override(obj)


def _dump(value: Any, arrays: _Arrays | None = None) -> tuple[Any, ...]:
    buffers: list[pickle.PickleBuffer] = []

    def keep(buffer: pickle.PickleBuffer) -> bool:
        if buffer.raw().nbytes < _BUFFER_MIN:
            return True
        buffers.append(buffer)
        return False

    file = io.BytesIO()
    _Pickler(file, arrays, keep).dump(value)
    return (file.getvalue(), *buffers)


def _run(data: bytes, *buffers: Any) -> tuple[Any, ...]:
    """In the worker: one batch of calls."""
    call = pickle.loads(data, buffers=buffers)
    try:
        result = call()
    except Exception as e:
        import traceback

        text = "".join(traceback.format_exception(type(e), e, e.__traceback__))
        return False, *_dump((e.with_traceback(None), text))
    finally:
        del call
    return True, *_dump(result)


def _take(answer: tuple[Any, ...]) -> Any:
    ok, data, *buffers = answer
    value = pickle.loads(data, buffers=buffers)
    if ok:
        return value
    exception, text = value
    exception.__cause__ = _RemoteTraceback(f'\n"""\n{text}"""')
    raise exception


# ---- the workers -------------------------------------------------------------------------------------------------------------------


class _Begin:
    """What workers are told before they start: a server reads it once, and forks them with everything imported."""

    def __init__(self, environment: dict[str, str], modules: list[str]) -> None:
        self.environment = environment
        self.modules = modules

    def __reduce__(self) -> Any:
        return _begin, (self.environment, self.modules)

    def __call__(self) -> None:
        pass


def _begin(environment: dict[str, str], modules: list[str]) -> _Begin:
    os.environ.update(environment)  # before the libraries that read it once
    for name in modules:
        try:
            __import__(name)
        except ImportError:
            pass
    return _Begin(environment, modules)


class _WorkersPool(_ExecutorPool):
    _imports_main = False  # programs for joblib need no guard around what they run


class _Workers(ProcessPoolExecutor):
    """Workers that calls of Parallel share, as many as the last of them asked for."""

    _pool_class = _WorkersPool

    def __init__(self, count: int, environment: dict[str, str], idle_seconds: float) -> None:
        from .context import _default_context

        modules = [m for m in ("numpy", "scipy", "sklearn", "pandas") if m in sys.modules]
        # not fork: a child in which OpenMP was used before the fork would hang in it
        super().__init__(count, _default_context.get_context("forkserver"), _Begin(environment, ["manyhands.joblib", *modules]))
        self.key = count, environment
        self.idle_seconds = idle_seconds
        self.users = 0
        self.idle_since = time.monotonic()
        self.owner = os.getpid()


_lock = threading.Condition()
_workers: _Workers | None = None
_watch: threading.Thread | None = None


def _get_workers(count: int, environment: dict[str, str], idle_seconds: float) -> _Workers:
    global _workers
    with _lock:
        found = _workers
        if found is not None and (found._shut or found._broken or found.owner != os.getpid()):
            found = None
        if found is not None and found.key != (count, environment) and not found.users:
            found.shutdown(wait=False)
            found = None
        if found is None or found.key != (count, environment):
            found = _workers = _Workers(count, environment, idle_seconds)
        found.users += 1
        found.idle_seconds = idle_seconds
        return found


def _leave_workers(workers: _Workers) -> None:
    global _watch
    with _lock:
        workers.users -= 1
        workers.idle_since = time.monotonic()
        if workers is not _workers and not workers.users:
            workers.shutdown(wait=False)
        if workers is _workers and (_watch is None or not _watch.is_alive()):
            watch: Any = threading.Thread(target=_end_idle, name="manyhands idle workers", daemon=True)
            watch._manyhands = True
            watch.start()
            _watch = watch


def _end_idle() -> None:
    """Let workers that nobody has used for long go."""
    global _workers, _watch
    with _lock:
        while _workers is not None:
            if _workers.users:
                left = _workers.idle_seconds
            else:
                left = _workers.idle_since + _workers.idle_seconds - time.monotonic()
            if left <= 0:
                _workers.shutdown(wait=False)
                _workers = None
                break
            _lock.wait(left)
        _watch = None


# ---- the backend ---------------------------------------------------------------------------------------------------------------------


class ManyhandsBackend(AutoBatchingMixin, ParallelBackendBase):  # type: ignore[misc]
    """Runs the batches of `joblib.Parallel` on worker processes.

    Options, for `joblib.parallel_config(backend="manyhands", ...)` or `joblib.Parallel(backend="manyhands", ...)`:

    inner_max_num_threads  threads of OpenMP and its like in each worker; default: the cores divided by n_jobs
    idle_worker_timeout    seconds after which workers that nobody uses end; default 300
    retries                further attempts for each batch whose worker died or that raised an exception: see `Pool`; default 0
    task_timeout           seconds that each batch may run
    progress               True or a text: show a tqdm bar
    max_nbytes, mmap_mode  as joblib's own: arrays of more bytes are shared, by default read-only
    """

    supports_retrieve_callback = True
    supports_inner_max_num_threads = True

    # The cost of a batch is small, so batches may be.
    MIN_IDEAL_BATCH_DURATION = 0.02
    MAX_IDEAL_BATCH_DURATION = 0.5

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.backend_kwargs = getattr(self, "backend_kwargs", {})
        self._workers: _Workers | None = None
        self._executor: Any = None
        self._arrays: _Arrays | None = None
        self._given: weakref.WeakSet[Any] = weakref.WeakSet()
        self._progress: bool | str | None = None
        self._bar: Any = None

    def effective_n_jobs(self, n_jobs: int | None) -> int:
        """How many workers n_jobs means."""
        if n_jobs == 0:
            raise ValueError("n_jobs == 0 in Parallel has no meaning")
        if n_jobs is None:
            return 1
        if n_jobs < 0:
            n_jobs = max(joblib.cpu_count() + 1 + n_jobs, 1)
        return n_jobs

    def configure(self, n_jobs: int = 1, parallel: Any = None, prefer: Any = None, require: Any = None, **given: Any) -> int:
        """Called before the first batch; returns the number of workers."""
        n_jobs = self.effective_n_jobs(n_jobs)
        if n_jobs == 1:
            raise FallbackToBackend(SequentialBackend(nesting_level=self.nesting_level))
        options = {**self.backend_kwargs, **given}
        idle = options.get("idle_worker_timeout")
        workers = _get_workers(n_jobs, self._prepare_worker_env(n_jobs=n_jobs), _IDLE_SECONDS if idle is None else float(idle))
        try:
            retries, task_timeout = options.get("retries"), options.get("task_timeout")
            self._executor = workers if retries is None and task_timeout is None else workers.options(retries=retries, timeout=task_timeout)
        except BaseException:
            _leave_workers(workers)
            raise
        self._workers = workers
        self._arrays = _Arrays(options.get("max_nbytes", 1 << 20), options.get("mmap_mode", "r"))
        self._progress = options.get("progress")
        self.parallel = parallel
        return n_jobs

    def start_call(self) -> None:
        """A call of Parallel begins."""
        from .pool import _progress_bar

        # Where a batch fails before joblib has handed in all that it prepared, it leaves the rest of a call to the next one.
        ready = getattr(self.parallel, "_ready_batches", None)
        while ready is not None and not ready.empty():
            ready.get(block=False)
        self._bar = _progress_bar(self._progress, None)

    def stop_call(self) -> None:
        """A call of Parallel has ended."""
        if self._arrays is not None:
            self._arrays.close()
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def submit(self, func: Callable[[], Any], callback: Callable[[Any], Any] | None = None) -> Any:
        """Hand in a batch; its future."""
        assert self._executor is not None
        future = self._executor.submit(_run, *_dump(func, self._arrays))
        self._given.add(future)
        if callback is not None:
            future.add_done_callback(callback)
        return future

    apply_async = submit  # its name before joblib 1.5

    def retrieve_result_callback(self, future: Any) -> Any:
        """What a batch's calls returned; raises what one of them did."""
        return _take(future.result())

    def batch_completed(self, batch_size: int, duration: float) -> None:
        """Learn how long a batch took."""
        super().batch_completed(batch_size, duration)
        if self._bar is not None:
            self._bar.update(batch_size)

    def abort_everything(self, ensure_ready: bool = True) -> None:
        """A call has failed: what is left of it is not wanted."""
        running = [f for f in list(self._given) if not f.cancel() and not f.done()]
        workers = self._workers
        if running and workers is not None and workers.users == 1:
            workers.kill_workers()  # nobody else is using them
        self.terminate()
        if ensure_ready:
            self.configure(n_jobs=self.parallel.n_jobs, parallel=self.parallel, **getattr(self.parallel, "_backend_kwargs", {}))

    def terminate(self) -> None:
        """Parallel needs the workers no more, for now."""
        workers, self._workers = self._workers, None
        self._executor = None
        self._given.clear()
        if self._arrays is not None:
            self._arrays.close()
        if workers is not None:
            _leave_workers(workers)
        self.reset_batch_stats()

    def __reduce__(self) -> str | tuple[Any, ...]:
        return _nested, (self.nesting_level,)


def _nested(nesting_level: int) -> ManyhandsBackend:
    return ManyhandsBackend(nesting_level=nesting_level)

