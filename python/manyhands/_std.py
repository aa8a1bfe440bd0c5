"""The parts of the standard library's `multiprocessing` that ours is built on, private ones among them: one list of them.

Typed as Any, because their stubs leave out what is private.
"""

from __future__ import annotations

import atexit as _atexit
import os as _os
import threading as _threading
from multiprocessing import context as _context
from multiprocessing import process as _process
from multiprocessing import resource_tracker as _resource_tracker
from multiprocessing import spawn as _spawn
from multiprocessing import util as _util

TYPE_CHECKING = False  # see __init__.py
if TYPE_CHECKING:
    from typing import Any, Callable

__all__: list[str] = []

context: Any = _context
process: Any = _process
resource_tracker: Any = _resource_tracker
spawn: Any = _spawn
util: Any = _util
atexit: Any = _atexit
threads: Any = _threading


def begin_child() -> None:
    """A forked child has exit handlers of its own, not its parent's."""
    atexit._clear()
    atexit.register(util._exit_function)


def run_exit_functions() -> None:
    """What an interpreter does first when it ends."""
    atexit._run_exitfuncs()
    util._flush_std_streams()


def run_child(run: Callable[[], int]) -> int:
    """What a forked child does from its first line to its exit code."""
    begin_child()
    try:
        return run()
    finally:
        run_exit_functions()


def interpreter_command(program: str, *arguments: str) -> list[str]:
    """The command line of a fresh interpreter that runs `program`, and finds this package wherever this process found it."""
    root = _os.path.dirname(_os.path.dirname(_os.path.abspath(__file__)))
    found = f"import sys; sys.path.append({root!r}); {program}"
    return [_os.fsdecode(spawn.get_executable()), *util._args_from_interpreter_flags(), "-c", found, *arguments]
