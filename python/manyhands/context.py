"""Contexts: the standard library's, with processes and pools that run on the C core.

The start method is fork while the program has one thread, and the fork server once it has more, because a fork copies locks that
other threads hold; `set_start_method` or `get_context` settle it.
"""

from __future__ import annotations

import os
import threading
from multiprocessing import context as _std
from multiprocessing import reduction as reduction
from multiprocessing.context import assert_spawning, get_spawning_popen, set_spawning_popen
from multiprocessing.process import BaseProcess

from . import _core
from ._errors import AuthenticationError, BufferTooShort, ProcessError, TimeoutError
from ._std import process as _process
from ._sync_context import SyncContext

TYPE_CHECKING = False  # see __init__.py
if TYPE_CHECKING:
    from typing import Any, Callable, Iterable

    from .pool import Pool as _Pool

__all__: list[str] = []


class _ParentProcess(_process._ParentProcess):  # type: ignore[misc]
    """The parent as its child sees it. A daemonic child of ours is killed when its parent is, unless it has looked how its parent is:
    then it has plans for that."""

    def _outlive(self) -> None:
        # Elsewhere than in the main thread it cannot be arranged.
        if threading.current_thread() is threading.main_thread():
            _core.survive_parent()

    @property
    def sentinel(self) -> int:
        """A descriptor that is readable once the parent has ended."""
        self._outlive()
        return self._sentinel  # type: ignore[no-any-return]

    def is_alive(self) -> bool:
        """Whether the parent runs."""
        self._outlive()
        return super().is_alive()  # type: ignore[no-any-return]

    def join(self, timeout: float | None = None) -> None:
        """Wait until the parent ends, or `timeout` seconds."""
        self._outlive()
        super().join(timeout)


def _watch_parent() -> None:
    parent = _process._parent_process
    _process._parent_process = _ParentProcess(parent._name, parent.pid, parent._sentinel)


class _Start:
    """What our process classes share: a child remembers how it was started, and may watch its parent."""

    _start_method: str | None = None
    _cores = ""

    def start(self) -> None:
        """Start the process. Daemons may, too: their children, which are daemons unless they say otherwise, end with them."""
        self._cores = f"/proc/{os.getpid()}/fd/{_core.cores_share()}"
        me = _process.current_process()._config
        daemon = me.pop("daemon", None)
        try:
            super().start()  # type: ignore[misc]
        finally:
            if daemon is not None:
                me["daemon"] = daemon

    def _bootstrap(self, parent_sentinel: int | None = None) -> int:
        method = self._start_method
        if method is not None:
            _force_start_method(method)
        _core.shm_root(getattr(self, "_tree_root", 0))
        if method != "fork":
            _share_cores(self._cores)
        return super()._bootstrap(parent_sentinel)  # type: ignore[misc, no-any-return]

    @staticmethod
    def _after_fork() -> None:
        _watch_parent()
        _process.BaseProcess._after_fork()


def _share_cores(path: str) -> None:
    """Pools made here share the cores with those of the process that started this one."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError:  # it has ended meanwhile, or hides what it has open
        return
    try:
        _core.cores_join(fd)
    finally:
        os.close(fd)


class Process(_Start, BaseProcess):
    """A process that runs `target(*args, **kwargs)`, or `run()` of a subclass; the interface of `multiprocessing.Process`."""

    _start_method = None

    @staticmethod
    def _Popen(process_obj: Any) -> Any:
        if _default_context._actual_context is not None:  # settled for the child, too
            process_obj._start_method = _default_context._actual_context._name
        return _default_context.get_context().Process._Popen(process_obj)

    @staticmethod
    def _after_fork() -> None:
        return _default_context.get_context().Process._after_fork()  # type: ignore[no-any-return]


class ForkProcess(_Start, BaseProcess):
    """A process that is a fork of this one."""

    _start_method = "fork"

    @staticmethod
    def _Popen(process_obj: BaseProcess) -> Any:
        from ._popen import ForkPopen

        return ForkPopen(process_obj)


class SpawnProcess(_Start, BaseProcess):
    """A process that begins as a fresh interpreter."""

    _start_method = "spawn"

    @staticmethod
    def _Popen(process_obj: BaseProcess) -> Any:
        from ._popen import SpawnPopen

        return SpawnPopen(process_obj)

    @staticmethod
    def _after_fork() -> None:
        _watch_parent()


class ForkServerProcess(_Start, BaseProcess):
    """A process that a server with one thread forks."""

    _start_method = "forkserver"

    @staticmethod
    def _Popen(process_obj: BaseProcess) -> Any:
        from ._popen import ForkServerPopen

        return ForkServerPopen(process_obj)


class BaseContext(SyncContext, _std.BaseContext):  # type: ignore[misc]
    """A context: everything that a program uses, tied to one start method."""

    ProcessError = ProcessError
    BufferTooShort = BufferTooShort
    TimeoutError = TimeoutError
    AuthenticationError = AuthenticationError
    Process: Any
    _name: str

    def Pipe(self, duplex: bool = True) -> Any:
        """Two connected ends of a pipe: see `manyhands.connection.Pipe`."""
        from .connection import Pipe

        return Pipe(duplex)

    def Queue(self, maxsize: int = 0) -> Any:
        """A queue between processes: see `manyhands.queues.Queue`."""
        from .queues import Queue

        return Queue(maxsize, ctx=self)

    def JoinableQueue(self, maxsize: int = 0) -> Any:
        """A queue with task_done() and join(): see `manyhands.queues.JoinableQueue`."""
        from .queues import JoinableQueue

        return JoinableQueue(maxsize, ctx=self)

    def SimpleQueue(self) -> Any:
        """A queue with no more than put, get and empty: see `manyhands.queues.SimpleQueue`."""
        from .queues import SimpleQueue

        return SimpleQueue(ctx=self)

    def Pool(self, processes: int | None = None, initializer: Callable[..., object] | None = None,  # type: ignore[override]
             initargs: Iterable[Any] = (), maxtasksperchild: int | None = None, **options: Any) -> _Pool:
        """A pool of worker processes: see `manyhands.pool.Pool`, which takes the same arguments. With cluster=, a pool on the engines of that
        client of `manyhands.parallel`: see `manyhands.parallel.pool.ClusterPool`."""
        if (cluster := options.pop("cluster", None)) is not None:
            from .parallel.pool import ClusterPool

            pool: Any = ClusterPool(cluster, processes, initializer, initargs, maxtasksperchild, **options)
            return pool  # type: ignore[no-any-return]
        from .pool import Pool

        return Pool(processes, initializer, initargs, maxtasksperchild, context=self.get_context(), **options)

    def Manager(self) -> Any:
        """A started `manyhands.managers.SyncManager`."""
        from .managers import SyncManager

        manager = SyncManager(ctx=self.get_context())
        manager.start()
        return manager

    def get_context(self, method: str | None = None) -> Any:
        """This context, or the one of the start method."""
        if method is None:
            return self
        try:
            return _concrete_contexts[method]
        except KeyError:
            raise ValueError(f"cannot find context for {method!r}") from None

    def set_forkserver_preload(self, module_names: list[str]) -> None:
        """Name modules that fork servers import before they fork."""
        from .forkserver import set_forkserver_preload

        set_forkserver_preload(module_names)


class DefaultContext(BaseContext):
    """The context of the module's own functions; its start method can be set once."""

    Process = Process

    def __init__(self) -> None:
        self._actual_context: BaseContext | None = None

    def get_context(self, method: str | None = None) -> Any:
        """The context in force, or the one of the start method."""
        if method is not None:
            return super().get_context(method)
        return self._actual_context or _concrete_contexts["forkserver" if _has_threads() else "fork"]

    def set_start_method(self, method: str | None, force: bool = False) -> None:
        """Settle how processes start: "fork", "spawn" or "forkserver". Once, unless forced."""
        if self._actual_context is not None and not force:
            raise RuntimeError("context has already been set")
        if method is None and force:
            self._actual_context = None
            return
        self._actual_context = self.get_context(method)

    def get_start_method(self, allow_none: bool = False) -> str | None:  # type: ignore[override]
        """How processes start; None when allowed and nothing is settled."""
        if self._actual_context is None and allow_none:
            return None
        return self.get_context()._name  # type: ignore[no-any-return]

    def get_all_start_methods(self) -> list[str]:
        """The start methods there are, the default first."""
        return ["fork", "spawn", "forkserver"]


class ForkContext(BaseContext):
    """Processes are forks."""

    _name = "fork"
    Process = ForkProcess


class SpawnContext(BaseContext):
    """Processes are fresh interpreters."""

    _name = "spawn"
    Process = SpawnProcess


class ForkServerContext(BaseContext):
    """Processes are forked by a server with one thread."""

    _name = "forkserver"
    Process = ForkServerProcess


_concrete_contexts: dict[str, BaseContext] = {"fork": ForkContext(), "spawn": SpawnContext(), "forkserver": ForkServerContext()}
_default_context = DefaultContext()


def _has_threads() -> bool:
    # Threads of ours and tqdm's monitor hold no lock that a forked child would miss.
    current = threading.current_thread()
    return any(t is not current and not getattr(t, "_manyhands", False) and type(t).__name__ != "TMonitor" for t in threading.enumerate())


def _force_start_method(method: str) -> None:
    _default_context._actual_context = _concrete_contexts[method]
