"""The fork server for processes: a fresh interpreter with one thread that forks children on request."""

from __future__ import annotations

import functools
import gc
import os
import pickle
import signal
import sys
import threading
from multiprocessing.forkserver import connect_to_new_process, get_inherited_fds

from . import _core
from ._std import interpreter_command, process, resource_tracker, run_child, spawn, util

TYPE_CHECKING = False  # see __init__.py
if TYPE_CHECKING:
    from typing import Any

__all__ = ["connect_to_new_process", "ensure_running", "get_inherited_fds", "set_forkserver_preload"]

_lock = threading.Lock()
_server: _core.ForkServer | None = None
_owner = 0
_preload: list[str] = ["__main__"]


def set_forkserver_preload(modules_names: list[str]) -> None:
    """Name modules that fork servers import before they fork; "__main__" is the program's."""
    global _preload
    if not all(type(name) is str for name in modules_names):
        raise TypeError("module_names must be a list of strings")
    _preload = list(modules_names)


def _start() -> _core.ForkServer:
    data: dict[str, Any] = {}
    if _preload:
        wanted = {"main_path", "sys_path", "init_main_from_path", "init_main_from_name"}
        data = {k: v for k, v in spawn.get_preparation_data("ignore").items() if k in wanted}
    hexed = pickle.dumps((_preload, data)).hex()
    return _core.ForkServer(interpreter_command("from manyhands.forkserver import _main; _main()", "{socket}", hexed))


def ensure_running() -> _core.ForkServer:
    """Start the server unless it runs. It is this process's own."""
    global _server, _owner
    with _lock:
        if _server is None or _owner != os.getpid():
            _server = _start()
            _owner = os.getpid()
        return _server


def fork(fds: list[int]) -> _core.Process:
    """A child of the server that goes on with these descriptors: first the pipe that brings its process object."""
    global _server
    try:
        return ensure_running().fork(b"", fds)
    except ValueError:  # closed: the server is gone, another does
        _server = None
        return ensure_running().fork(b"", fds)


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

    gc.collect()
    gc.freeze()
    _core.forkserver_serve(socket, functools.partial(_child, vars(forkserver)["_forkserver"]))


def _child(standard: Any, message: bytes, fds: list[int]) -> int:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    child_r, tracker, *inherited = fds
    resource_tracker._resource_tracker._fd = tracker
    standard._inherited_fds = inherited
    return run_child(lambda: spawn._main(child_r, os.dup(child_r)))
