"""The fork server for processes: a fresh interpreter with one thread that forks children on request."""

from __future__ import annotations

import functools
import gc
import io
import os
import pickle
import sys
import threading
from multiprocessing.forkserver import connect_to_new_process, get_inherited_fds

from . import _core
from ._popen import dump_process
from ._std import interpreter_command, process, resource_tracker, run_child, spawn, util

TYPE_CHECKING = False  # see __init__.py
if TYPE_CHECKING:
    from typing import Any

__all__ = ["connect_to_new_process", "ensure_running", "get_inherited_fds", "set_forkserver_preload"]


class _ForkServer:
    """The server of this process, and what it is to be like; under the standard library's private names where programs look for them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._server: _core.ForkServer | None = None
        self._owner = 0
        self._preload_modules = ["__main__"]

    def set_forkserver_preload(self, modules_names: list[str]) -> None:
        """Name modules that fork servers import before they fork; "__main__" is the program's."""
        if not all(type(name) is str for name in modules_names):
            raise TypeError("module_names must be a list of strings")
        self._preload_modules = list(modules_names)

    def ensure_running(self) -> _core.ForkServer:
        """Start the server unless it runs. It is this process's own."""
        with self._lock:
            if self._server is None or self._owner != os.getpid():
                self._server = self._start()
                self._owner = os.getpid()
            return self._server

    def fork(self, message: memoryview | bytes, fds: list[int], survive_parent: bool) -> _core.Process:
        """A child of the server that runs the process object in the message, with these descriptors: first a pipe that is open while we are there."""
        try:
            return self.ensure_running().fork(message, fds, survive_parent=survive_parent)
        except ValueError:  # closed: the server is gone, another does
            self._server = None
            return self.ensure_running().fork(message, fds, survive_parent=survive_parent)

    @property
    def _forkserver_pid(self) -> int | None:
        server = self._server
        return server.pid if server is not None and self._owner == os.getpid() else None

    def _start(self) -> _core.ForkServer:
        data: dict[str, Any] = {}
        if self._preload_modules:
            wanted = {"main_path", "sys_path", "init_main_from_path", "init_main_from_name"}
            data = {k: v for k, v in spawn.get_preparation_data("ignore").items() if k in wanted}
        hexed = pickle.dumps((self._preload_modules, data)).hex()
        return _core.ForkServer(interpreter_command("from manyhands.forkserver import _main; _main()", "{socket}", hexed))


_forkserver = _ForkServer()
ensure_running = _forkserver.ensure_running
set_forkserver_preload = _forkserver.set_forkserver_preload
fork = _forkserver.fork


def _main() -> None:
    socket, hexed = int(sys.argv[1]), sys.argv[2]
    preload, data = pickle.loads(bytes.fromhex(hexed))
    if "sys_path" in data:
        sys.path[:] = data["sys_path"]
    for name in preload:
        try:
            if name != "__main__":
                __import__(name)
        except ImportError:
            pass
    if "__main__" in preload:
        process.current_process()._inheriting = True
        try:
            spawn.prepare({k: v for k, v in data.items() if k.startswith("init_main")})
        except Exception:
            pass  # children will tell
        finally:
            del process.current_process()._inheriting
    util._close_stdin()
    # What every child needs is loaded here, once, and collections in children leave its pages shared.
    from multiprocessing import forkserver

    from . import context, pool  # noqa: F401

    rehearsal = _rehearsal()
    gc.collect()
    gc.freeze()
    _core.forkserver_serve(socket, functools.partial(_child, vars(forkserver)["_forkserver"]), functools.partial(_rehearse, rehearsal))


def _rehearsal() -> bytes:
    """A message as children get them."""
    from .context import ForkServerProcess

    return bytes(dump_process(ForkServerProcess(target=abs, args=(1,)), _Nobody()))


class _Nobody:
    """The process that a rehearsal is for."""

    DupFd = None

    def __init__(self) -> None:
        self._fds: list[int] = []


def _rehearse(message: bytes) -> None:
    """What a child begins with, done by one that has no order yet: it has copies of the pages that this writes to before anybody waits for it.
    All of it is done again, and nothing of it leaves the process: no main module, no exit functions, nothing that others registered."""
    stream = io.BytesIO(message)
    current = process.current_process()
    current._inheriting = True
    try:
        spawn.prepare({k: v for k, v in pickle.load(stream).items() if not k.startswith("init_main")})
        pickle.load(stream)
    finally:
        del current._inheriting
    util._close_stdin()


def _child(standard: Any, message: bytes, fds: list[int]) -> int:
    sentinel, tracker, *inherited = fds
    resource_tracker._resource_tracker._fd = tracker
    standard._inherited_fds = inherited
    return run_child(lambda: _run(io.BytesIO(message), sentinel))


def _run(message: io.BytesIO, sentinel: int) -> int:
    current = process.current_process()
    current._inheriting = True
    try:
        spawn.prepare(pickle.load(message))
        me = pickle.load(message)
    finally:
        del current._inheriting
    return me._bootstrap(sentinel)  # type: ignore[no-any-return]
