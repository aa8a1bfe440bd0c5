"""Starting processes on the C core: what `multiprocessing.popen_*` are to the standard library."""

from __future__ import annotations

import io
import os
import signal
import sys
from multiprocessing.process import BaseProcess

from . import _core, _serial
from ._std import context, interpreter_command, resource_tracker, run_child, spawn, util
from ._worker import watch_parent

TYPE_CHECKING = False  # see __init__.py
if TYPE_CHECKING:
    from typing import Any

__all__: list[str] = []


class ForkPopen:
    """A process that was started; this one is a fork."""

    method = "fork"

    def __init__(self, process_obj: BaseProcess) -> None:
        util._flush_std_streams()
        self.returncode: int | None = None
        self.finalizer: Any = None
        self._owner = os.getpid()
        self._handle: _core.Process
        self._launch(process_obj)
        self.pid = self._handle.pid
        self.sentinel = self._handle.sentinel

    def duplicate_for_child(self, fd: int) -> int:
        return fd

    def _launch(self, process_obj: Any) -> None:
        parent = os.getpid()
        self._handle = _core.Process.fork(lambda: run_child(lambda: process_obj._bootstrap(parent_sentinel=watch_parent(parent))),
                                          survive_parent=not process_obj.daemon)

    def poll(self, flag: int = os.WNOHANG) -> int | None:
        return self.wait(0 if flag == os.WNOHANG else None)

    def wait(self, timeout: float | None = None) -> int | None:
        if self.returncode is None and self._owner == os.getpid():
            self.returncode = self._handle.wait(timeout)
        return self.returncode

    def _send_signal(self, sig: int) -> None:
        if self.returncode is None:
            self._handle.signal(sig)

    def terminate(self) -> None:
        self._send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self._send_signal(signal.SIGKILL)

    def close(self) -> None:
        self._handle.close()
        if self.finalizer is not None:
            self.finalizer()


def dump_process(process_obj: Any, popen: Any) -> memoryview:
    """What a fresh interpreter needs: how to become like this one, and the process object."""
    from .context import _default_context

    preparation = spawn.get_preparation_data(process_obj._name)
    preparation["start_method"] = _default_context.get_start_method()
    process_obj._tree_root = _core.shm_root()
    buffer = io.BytesIO()
    context.set_spawning_popen(popen)
    try:
        context.reduction.dump(preparation, buffer)
        begin = buffer.tell()
        passed = len(popen._fds)
        try:
            context.reduction.dump(process_obj, buffer)
        except (context.reduction.pickle.PicklingError, AttributeError, TypeError):
            buffer.seek(begin)
            buffer.truncate()
            del popen._fds[passed:]
            data = _serial._dump_by_value(process_obj)
            if data is None:
                raise
            buffer.write(data)
    finally:
        context.set_spawning_popen(None)
    return buffer.getbuffer()


class FreshPopen(ForkPopen):
    """A process that has nothing of this one's memory: its process object comes through a pipe."""

    def __init__(self, process_obj: BaseProcess) -> None:
        self._fds: list[int] = []
        super().__init__(process_obj)

    def _start(self, process_obj: Any, child_r: int, data: memoryview) -> tuple[_core.Process, memoryview]:
        """The process, and what is to be written to its pipe."""
        raise NotImplementedError

    def _launch(self, process_obj: Any) -> None:
        data = dump_process(process_obj, self)
        child_r, parent_w = os.pipe()
        self.finalizer = util.Finalize(self, os.close, (parent_w,))  # until then the child's pipe stays open: its parent lives
        try:
            self._handle, rest = self._start(process_obj, child_r, data)
        except BaseException:
            self.finalizer()
            raise
        finally:
            os.close(child_r)
        send(parent_w, rest)


class SpawnPopen(FreshPopen):
    """A process that begins as a fresh interpreter."""

    method = "spawn"

    def __init__(self, process_obj: BaseProcess) -> None:
        from multiprocessing import popen_spawn_posix

        self.DupFd: Any = vars(popen_spawn_posix)["_DupFd"]
        super().__init__(process_obj)

    def duplicate_for_child(self, fd: int) -> int:
        self._fds.append(fd)
        return fd

    def _start(self, process_obj: Any, child_r: int, data: memoryview) -> tuple[_core.Process, memoryview]:
        tracker = resource_tracker.getfd()
        if getattr(sys, "frozen", False):
            command = spawn.get_command_line(tracker_fd=tracker, pipe_handle=child_r)
        else:
            program = f"from manyhands._spawned import main; main({child_r}, {tracker})"
            command = [*interpreter_command(program), "--multiprocessing-fork"]
        return _core.Process.spawn(command, [tracker, *self._fds, child_r], survive_parent=not process_obj.daemon), data


class ForkServerPopen(FreshPopen):
    """A process that the fork server forked."""

    method = "forkserver"

    def __init__(self, process_obj: Any) -> None:
        from multiprocessing import popen_forkserver

        self.DupFd: Any = vars(popen_forkserver)["_DupFd"]
        super().__init__(process_obj)

    def duplicate_for_child(self, fd: int) -> int:
        self._fds.append(fd)
        return len(self._fds) - 1

    def _start(self, process_obj: Any, child_r: int, data: memoryview) -> tuple[_core.Process, memoryview]:
        from . import forkserver

        return forkserver.fork(data, [child_r, resource_tracker.getfd(), *self._fds], not process_obj.daemon), data[:0]


def send(fd: int, data: memoryview) -> None:
    """Write it all; a child that died meanwhile is found out by whoever waits for it."""
    try:
        while data:
            data = data[os.write(fd, data):]
    except BrokenPipeError:
        pass
