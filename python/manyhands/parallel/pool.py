"""The interface of pools and executors on a cluster's engines: one program for one machine and for many.

    with manyhands.Pool(cluster=client) as pool:
        pool.map(f, items)

Functions travel by value where engines could not import them; exceptions are raised as what they are, with the remote traceback as their cause.
"""

from __future__ import annotations

import pickle
import threading
from concurrent.futures import Executor
from typing import Any, Callable, Iterable, Iterator

from .. import _errors
from . import util
from .client.asyncresult import AsyncResult
from .client.client import Client
from .client.view import LoadBalancedView
from .serialize import PrePickled

__all__ = ["CallResult", "ClusterExecutor", "ClusterPool"]

_CHUNKS = 4  # for each engine, in a map whose chunksize is not given

_RUN, _CLOSE, _TERMINATE = "RUN", "CLOSE", "TERMINATE"


@util.interactive
def _run(data: bytes) -> bytes:
    """On an engine: a chunk of calls. [(True, value) or (False, exception, traceback), ...] as a pickle."""
    import pickle
    import traceback

    function, calls = pickle.loads(data)
    ended: list[Any] = []
    for args, kwargs in calls:
        try:
            ended.append((True, function(*args, **kwargs)))
        except Exception as e:
            ended.append((False, e, "".join(traceback.format_exception(type(e), e, e.__traceback__))))

    def dump(value: Any) -> bytes:
        try:
            import cloudpickle  # type: ignore[import-untyped, unused-ignore]
        except ImportError:
            return pickle.dumps(value)
        return bytes(cloudpickle.dumps(value))

    try:
        return dump(ended)
    except Exception:  # one of them does not travel
        for i, entry in enumerate(ended):
            try:
                dump(entry)
            except Exception as problem:
                what = repr(entry[1])[:200]
                ended[i] = (False, RuntimeError(f"{what} can't be sent back: {problem}"), entry[2] if len(entry) > 2 else "")
        return dump(ended)


_pickled_run: PrePickled | None = None


def _runner() -> PrePickled:
    global _pickled_run
    if _pickled_run is None:
        _pickled_run = PrePickled(_run)
    return _pickled_run


def _dump(function: Any, calls: list[tuple[tuple[Any, ...], dict[str, Any]]]) -> bytes:
    import cloudpickle

    return bytes(cloudpickle.dumps((function, calls)))


class _Remote(Exception):
    """Shows a remote traceback as the cause of an exception."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __str__(self) -> str:
        return f'\n"""\n{self.text}"""'


class CallResult(AsyncResult):
    """The result of calls: a future, and what pools return. What is known of the tasks are attributes, as of every AsyncResult."""

    def __init__(self, client: Client, children: list[Any], is_single: bool, name: str) -> None:
        self._is_single = is_single
        super().__init__(client, children, fname=name)

    def _read(self) -> None:
        if self._raw is not None or self._state != "FINISHED":
            return
        raw = self._raw_values()
        value, problem = None, None
        try:
            value = self._unwrap(raw)
        except Exception as e:
            problem = e
        with self._driver.lock:
            if self._raw is None:
                self._value, self._error, self._raw = value, problem, raw

    def _unwrap(self, raw: list[Any]) -> Any:
        values: list[Any] = []
        failure: BaseException | None = None
        for part in raw:
            if isinstance(part, Exception):
                failure = failure or part
                continue
            for entry in pickle.loads(part):
                values.append(entry[1])
                if not entry[0] and failure is None:
                    failure = entry[1]
                    failure.__cause__ = _Remote(entry[2])
        if failure is not None:
            raise failure
        return values[0] if self._is_single else values

    def get(self, timeout: float | None = None, *_: Any, **__: Any) -> Any:
        """The result, when it is there; raises what a call raised. manyhands.TimeoutError after `timeout` seconds."""
        if not self.wait(timeout):
            raise _errors.TimeoutError
        return self.result()

    def wait(self, timeout: float | None = None, return_when: Any = None) -> Any:
        """Wait up to `timeout` seconds; whether the result is there."""
        return super().wait(timeout, return_when)

    def successful(self) -> bool:
        """Whether it ended without an error. ValueError while it has not ended."""
        if not self.ready():
            raise ValueError(f"{self!r} not ready")
        return self._problem() is None


def _view_of(cluster: Any, count: int | None, retries: int) -> LoadBalancedView:
    """A view of a client's engines, of some of them, or of those that a view has."""
    if hasattr(cluster, "connect_client_sync"):
        cluster = cluster.connect_client_sync()
    client = getattr(cluster, "client", cluster)
    if not isinstance(client, Client):
        raise TypeError(f"cluster must be a Client, a view or a Cluster of manyhands.parallel, not {type(cluster).__name__}")
    targets = None if cluster is client else cluster.targets
    targets = [targets] if isinstance(targets, int) else None if targets == "all" else targets
    if count is not None:
        if count < 1:
            raise ValueError("Number of processes must be at least 1")
        ids = client.ids if targets is None else targets
        if count > len(ids):
            raise ValueError(f"{count} processes are more than the {len(ids)} engines that there are")
        targets = list(ids[:count])
    view = client.load_balanced_view(targets)
    view.retries = retries
    return view


class _Calls:
    """What pools and executors on a cluster share."""

    def __init__(self, cluster: Any, count: int | None, initializer: Callable[..., object] | None, initargs: Iterable[Any], retries: int) -> None:
        if initializer is not None and not callable(initializer):
            raise TypeError("initializer must be a callable")
        if not isinstance(retries, int):
            raise TypeError("on a cluster, retries is one number")
        self._view = _view_of(cluster, count, retries)
        self._client = self._view.client
        self._given: set[CallResult] = set()
        self._lock = threading.Lock()
        if initializer is not None:
            self._initialize(initializer, tuple(initargs))

    def _initialize(self, initializer: Callable[..., object], initargs: tuple[Any, ...]) -> None:
        view = self._client.direct_view("all" if self._view.targets is None else self._view.targets)
        data = _dump(initializer, [(initargs, {})])
        CallResult(self._client, view.apply_async(_runner(), data)._children, False, "initializer").get()

    def _send(self, function: Any, chunks: Iterable[list[Any]], is_single: bool) -> CallResult:
        send = self._view._sender(_runner(), (), {})
        children = [send(None, [_dump(function, chunk)]) for chunk in chunks]
        result = CallResult(self._client, children, is_single, getattr(function, "__name__", "call"))
        with self._lock:
            self._given.add(result)
        result.add_done_callback(self._forget)
        return result

    def _forget(self, result: CallResult) -> None:
        with self._lock:
            self._given.discard(result)

    def _wait_all(self) -> None:
        while True:
            with self._lock:
                given = list(self._given)
            if not given:
                return
            for result in given:
                result.wait()

    def _abort(self) -> None:
        with self._lock:
            given = list(self._given)
        for result in given:
            result.cancel()


def _chunks(calls: Iterable[Any], size: int) -> Iterator[list[Any]]:
    chunk: list[Any] = []
    for call in calls:
        chunk.append(call)
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


class ClusterPool(_Calls):
    """What `manyhands.Pool(cluster=...)` gives: the interface of `multiprocessing.Pool` on engines.

    cluster       a Client, a view or a Cluster of manyhands.parallel
    processes     how many of the engines; default: all, also those that come later
    initializer   called as initializer(*initargs) on each engine that is there
    retries       further attempts for each task whose engine died

    Raises ValueError for what only pools on one machine can do: maxtasksperchild, timeout, memory, ...
    """

    def __init__(self, cluster: Any, processes: int | None = None, initializer: Callable[..., object] | None = None, initargs: Iterable[Any] = (),
                 maxtasksperchild: int | None = None, context: Any = None, *, retries: int = 0, **options: Any) -> None:
        unknown = sorted(name for name, value in {"maxtasksperchild": maxtasksperchild, **options}.items() if value)
        if unknown:
            raise ValueError(f"a pool on a cluster does not take {', '.join(unknown)}: the engines are not its own")
        super().__init__(cluster, processes, initializer, initargs, retries)
        self._state = _RUN

    def _check_running(self) -> None:
        if self._state != _RUN:
            raise ValueError("Pool not running")

    def __repr__(self) -> str:
        return f"<{type(self).__name__} state={self._state} pool_size={len(self._view)}>"

    # ---- calls

    def apply(self, func: Callable[..., Any], args: Iterable[Any] = (), kwds: dict[str, Any] = {}) -> Any:
        """func(*args, **kwds) on an engine."""
        return self.apply_async(func, args, kwds).get()

    def apply_async(self, func: Callable[..., Any], args: Iterable[Any] = (), kwds: dict[str, Any] = {},
                    callback: Callable[[Any], object] | None = None, error_callback: Callable[[BaseException], object] | None = None) -> CallResult:
        """`apply`, but returns at once."""
        self._check_running()
        return _with_callbacks(self._send(func, [[(tuple(args), dict(kwds))]], True), callback, error_callback)

    def map(self, func: Callable[[Any], Any], iterable: Iterable[Any], chunksize: int | None = None, *, progress: bool | str | None = None) -> list[Any]:
        """[func(x) for x in iterable], on the engines. All items are tried; then the exception of the first that failed is raised."""
        return self._get(self._map(func, [((item,), {}) for item in iterable], chunksize), progress)

    def starmap(self, func: Callable[..., Any], iterable: Iterable[Iterable[Any]], chunksize: int | None = None, *,
                progress: bool | str | None = None) -> list[Any]:
        """[func(*x) for x in iterable], on the engines."""
        return self._get(self._map(func, [(tuple(item), {}) for item in iterable], chunksize), progress)

    def map_async(self, func: Callable[[Any], Any], iterable: Iterable[Any], chunksize: int | None = None,
                  callback: Callable[[list[Any]], object] | None = None, error_callback: Callable[[BaseException], object] | None = None) -> CallResult:
        """`map`, but returns at once."""
        return _with_callbacks(self._map(func, [((item,), {}) for item in iterable], chunksize), callback, error_callback)

    def starmap_async(self, func: Callable[..., Any], iterable: Iterable[Iterable[Any]], chunksize: int | None = None,
                      callback: Callable[[list[Any]], object] | None = None,
                      error_callback: Callable[[BaseException], object] | None = None) -> CallResult:
        """`starmap`, but returns at once."""
        return _with_callbacks(self._map(func, [(tuple(item), {}) for item in iterable], chunksize), callback, error_callback)

    def _map(self, func: Any, calls: list[Any], chunksize: int | None) -> CallResult:
        self._check_running()
        if chunksize is None:
            chunksize = max(1, -(-len(calls) // (_CHUNKS * max(1, len(self._view)))))
        if chunksize < 1:
            raise ValueError(f"Chunksize must be 1+, not {chunksize:n}")
        return self._send(func, _chunks(calls, chunksize), False)

    @staticmethod
    def _get(result: CallResult, progress: bool | str | None) -> list[Any]:
        if progress:
            if isinstance(progress, str):
                result._fname = progress
            result.wait_interactive()
        values: list[Any] = result.get()
        return values

    def imap(self, func: Callable[[Any], Any], iterable: Iterable[Any], chunksize: int = 1) -> Iterator[Any]:
        """An iterator over func(x) for x in iterable, in order, that takes items as results come: iterables may be endless."""
        return self._imap(func, iterable, chunksize, True)

    def imap_unordered(self, func: Callable[[Any], Any], iterable: Iterable[Any], chunksize: int = 1) -> Iterator[Any]:
        """`imap`, but results come as they finish."""
        return self._imap(func, iterable, chunksize, False)

    def _imap(self, func: Any, iterable: Iterable[Any], chunksize: int, ordered: bool) -> Iterator[Any]:
        self._check_running()
        if chunksize < 1:
            raise ValueError(f"Chunksize must be 1+, not {chunksize:n}")
        data = (_dump(func, chunk) for chunk in _chunks((((item,), {}) for item in iterable), chunksize))
        parts = self._view.imap(_runner(), data, ordered=ordered, max_outstanding=2 * len(self._view))  # type: ignore[arg-type]

        def items() -> Iterator[Any]:
            for part in parts:
                for entry in pickle.loads(part):
                    if not entry[0]:
                        parts.cancel()
                        raise entry[1] from _Remote(entry[2])
                    yield entry[1]

        return items()

    # ---- life

    def close(self) -> None:
        """Take no more calls; what was given goes on."""
        if self._state == _RUN:
            self._state = _CLOSE

    def terminate(self) -> None:
        """What has not started is aborted, and what has not finished is not waited for. The engines go on."""
        self._state = _TERMINATE
        self._abort()

    def join(self) -> None:
        """Wait until everything that was given has finished. Close or terminate before."""
        if self._state == _RUN:
            raise ValueError("Pool is still running")
        self._wait_all()

    def __enter__(self) -> ClusterPool:
        self._check_running()
        return self

    def __exit__(self, *exc: object) -> None:
        self.terminate()

    def __reduce__(self) -> Any:
        raise NotImplementedError("pool objects cannot be passed between processes or pickled")


def _with_callbacks(result: CallResult, callback: Callable[[Any], object] | None, error_callback: Callable[[BaseException], object] | None) -> CallResult:
    if callback is None and error_callback is None:
        return result

    def tell(_: Any) -> None:
        problem = result.exception()
        if problem is None and callback is not None:
            callback(result.result())
        elif problem is not None and error_callback is not None:
            error_callback(problem)

    result.add_done_callback(tell)
    return result


class ClusterExecutor(_Calls, Executor):
    """What `manyhands.futures.ProcessPoolExecutor(cluster=...)` gives: the interface of `concurrent.futures` on engines.

    cluster, retries, initializer and initargs are those of ClusterPool; max_workers: how many of the engines.
    """

    def __init__(self, cluster: Any, max_workers: int | None = None, initializer: Callable[..., object] | None = None, initargs: Iterable[Any] = (),
                 *, retries: int = 0) -> None:
        super().__init__(cluster, max_workers, initializer, initargs, retries)
        self._is_shut = False

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """fn(*args, **kwargs) on an engine: its future."""
        if self._is_shut:
            raise RuntimeError("cannot schedule new futures after shutdown")
        return self._send(fn, [[(args, kwargs)]], True)

    def map(self, fn: Callable[..., Any], *iterables: Iterable[Any], timeout: float | None = None, chunksize: int = 1,
            buffersize: int | None = None) -> Iterator[Any]:
        """An iterator over fn(x, ...) for the items of the iterables, in order. TimeoutError when they take longer than `timeout` seconds."""
        import time

        if self._is_shut:
            raise RuntimeError("cannot schedule new futures after shutdown")
        if chunksize < 1:
            raise ValueError("chunksize must be >= 1.")
        until = None if timeout is None else time.monotonic() + timeout
        results = [self._send(fn, [chunk], False) for chunk in _chunks(((args, {}) for args in zip(*iterables)), chunksize)]

        def items() -> Iterator[Any]:
            try:
                for result in results:
                    yield from result.result(None if until is None else max(0.0, until - time.monotonic()))
            finally:
                for result in results:
                    result.cancel()

        return items()

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more calls; wait for those that were given, unless told otherwise. The engines go on."""
        self._is_shut = True
        if cancel_futures:
            self._abort()
        if wait:
            self._wait_all()
