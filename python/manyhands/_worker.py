"""What a pool's worker does before its first task, and the program of a worker that is no fork."""

from __future__ import annotations

import fcntl
import gc
import itertools
import os
import pickle
import signal
import sys

from . import _core, _serial
from ._std import begin_child
from ._std import context as _context
from ._std import process as _process
from ._std import spawn as _spawn
from ._std import util as _util

TYPE_CHECKING = False  # see __init__.py
if TYPE_CHECKING:
    from typing import Any, Callable

__all__: list[str] = []


def watch_parent(pid: int) -> int | None:
    """A descriptor that is readable once the parent has ended."""
    try:
        return os.pidfd_open(pid)
    except OSError:
        return None


class Prepare:
    """Called in each worker: makes it a daemonic process of its own, with the name and number it would have in the standard library."""

    def __init__(self, method: str, initializer: Callable[..., object] | None, initargs: tuple[Any, ...], workers: int,
                 keep_exits: bool = False) -> None:
        current = _process.current_process()
        self.method = method
        self.initializer = initializer
        self.initargs = initargs
        self.keep_exits = keep_exits
        self.parent_pid = os.getpid()
        self.parent_name = current.name
        self.parent_identity = current._identity
        self.tree_root = _core.shm_root()
        self.first = next(_process._process_counter)
        for _ in range(workers - 1):
            next(_process._process_counter)
        self.forks = _core.fork_count() + 1 if method == "fork" else 0  # the fork server's own

    def _number(self) -> int:
        if self.method == "spawn":
            return os.getpid()
        return int(self.first) + max(0, _core.fork_count() - self.forks - 1)  # the first worker is forked before the server

    def _become_worker(self) -> None:
        from . import context

        kind = {"fork": context.ForkProcess, "spawn": context.SpawnProcess, "forkserver": context.ForkServerProcess}[self.method]
        _core.shm_root(self.tree_root)
        number = self._number()
        me: Any = kind()
        me._identity = (*self.parent_identity, number)
        me._name = f"{kind.__name__.replace('Process', 'PoolWorker')}-" + ":".join(map(str, me._identity))
        me._parent_pid = self.parent_pid
        me._parent_name = self.parent_name
        me._config = {**me._config, "daemon": True}
        module = _process
        module._process_counter = itertools.count(1)
        module._children = set()
        module._current_process = me
        module._parent_process = module._ParentProcess(self.parent_name, self.parent_pid, watch_parent(self.parent_pid))
        if context._default_context._actual_context is None and self.method != "fork":
            context._force_start_method(self.method)

    def __call__(self) -> None:
        if self.method != "spawn":
            # Pages of inherited objects stay shared: a collection would write to each of them, for garbage that is not ours.
            gc.freeze()
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the caller's to handle
        self._become_worker()
        _serial.keep_exits = self.keep_exits
        _util._close_stdin()
        if self.method != "spawn":
            begin_child()
            _util._finalizer_registry.clear()
            _util._run_after_forkers()
        streams: list[Any] = [sys.stdout, sys.stderr]
        for stream in streams:
            try:  # what a task prints is seen even when its worker is killed
                stream.reconfigure(line_buffering=True)
            except (AttributeError, ValueError, OSError):
                pass
        if self.initializer is not None:
            self.initializer(*self.initargs)


def dump_start(prepare: Prepare, main: bool = True) -> tuple[bytes, list[int]]:
    """What an exec'ed worker or fork server reads first: how to become like this process, then how to prepare workers.

    With it the descriptors that it inherits, which are the caller's to close. main: it imports the program's main module.
    """
    from .context import _default_context

    preparation = _spawn.get_preparation_data(prepare.parent_name)
    if not main:
        preparation = {k: v for k, v in preparation.items() if not k.startswith("init_main")}
    preparation["start_method"] = _default_context.get_start_method()
    plain = prepare.__dict__.copy()
    spawning = _Spawning()
    _context.set_spawning_popen(spawning)
    try:
        try:
            data = bytes(_serial._dump_plain(plain))
        except (pickle.PicklingError, AttributeError, TypeError):
            by_value = _serial._dump_by_value(plain)
            if by_value is None:
                raise
            data = by_value
        return pickle.dumps((bytes(_serial._dump_plain(preparation)), data)), spawning.descriptors
    except BaseException:
        spawning.close()
        raise
    finally:
        _context.set_spawning_popen(None)


class _Inherited:
    """A descriptor that the worker has under the same number."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    def detach(self) -> int:
        return self.descriptor


class _Spawning:
    """Stands for the process that is being started while its arguments are pickled."""

    DupFd = _Inherited

    def __init__(self) -> None:
        self.descriptors: list[int] = []

    def duplicate_for_child(self, descriptor: int) -> int:
        # A copy that stays open for workers to come, and out of the way of their own first descriptors.
        self.descriptors.append(fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 10))
        return self.descriptors[-1]

    def close(self) -> None:
        for descriptor in self.descriptors:
            os.close(descriptor)

    @staticmethod
    def reopen(fd: int) -> str:
        """Where a worker opens a descriptor of a file or shared memory: workers start at any time, and so can't be handed copies."""
        return f"/proc/{os.getpid()}/fd/{fd}"


def main() -> None:
    """The program of an exec'ed worker ("worker") or of a pool's fork server ("server")."""
    socket, role, path = int(sys.argv[1]), sys.argv[2], sys.argv[3]
    os.set_inheritable(socket, False)  # it is ours, not a program's that a task runs
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        file = open(path, "rb")
    except OSError:  # the pool has ended meanwhile
        return
    with file:
        file.seek(0)
        preparation, data = pickle.load(file)
    current = _process.current_process()
    current._inheriting = True
    try:
        _spawn.prepare(pickle.loads(preparation))
        prepare = Prepare.__new__(Prepare)
        prepare.__dict__.update(pickle.loads(data))
    finally:
        del current._inheriting
    if role == "server":
        prepare.forks = _core.fork_count()
        _core.worker_server(socket, prepare)
    else:
        _core.worker_main(socket, prepare)
