"""Parallel Python that is fast and survives crashes: a drop-in for `multiprocessing` on a C core.

    import manyhands as multiprocessing

Everything public of `multiprocessing` is here under the same name; processes and pools are Manyhands' own.
"""

from __future__ import annotations

import sys as _sys

if _sys.argv[1:] == ["--multiprocessing-fork"]:
    from ._lean import begin as _begin

    _begin()

from multiprocessing import process as _process
from multiprocessing import reducer as _reducer

from . import _core, context
from ._errors import (
    AuthenticationError,
    BufferTooShort,
    OutOfMemory,
    OwnerDiedWarning,
    PoisonTask,
    PoolBroken,
    ProcessError,
    TaskExited,
    TaskTimeout,
    TimeoutError,
    WorkerLost,
)

TYPE_CHECKING = False  # as type checkers know it: the module typing itself would be a tenth of what importing this package costs
if TYPE_CHECKING:
    from typing import Any as _Any

    from ._errors import CancelledError as CancelledError
    from ._errors import MaybeEncodingError as MaybeEncodingError
    from ._errors import RemoteTraceback as RemoteTraceback
    from ._errors import SerializationError as SerializationError
    from .pool import ThreadPool as ThreadPool

__version__: str = _core.version

reducer = _reducer
Process = context.Process
_default = context._default_context

# The functions of the default context, as in the standard library.
Array = _default.Array
Barrier = _default.Barrier
BoundedSemaphore = _default.BoundedSemaphore
Condition = _default.Condition
Event = _default.Event
JoinableQueue = _default.JoinableQueue
Lock = _default.Lock
Manager = _default.Manager
Pipe = _default.Pipe
Pool = _default.Pool
Queue = _default.Queue
RLock = _default.RLock
RawArray = _default.RawArray
RawValue = _default.RawValue
Semaphore = _default.Semaphore
SimpleQueue = _default.SimpleQueue
Value = _default.Value
active_children = _default.active_children
allow_connection_pickling = _default.allow_connection_pickling
cpu_count = _default.cpu_count
current_process = _default.current_process
freeze_support = _default.freeze_support
get_all_start_methods = _default.get_all_start_methods
get_context = _default.get_context
get_logger = _default.get_logger
get_start_method = _default.get_start_method
log_to_stderr = _default.log_to_stderr
parent_process = _default.parent_process
set_executable = _default.set_executable
set_forkserver_preload = _default.set_forkserver_preload
set_start_method = _default.set_start_method

# What costs time to import comes when it is first asked for.
_LATER = {"CancelledError": "._errors", "SerializationError": "._errors", "MaybeEncodingError": "._errors", "RemoteTraceback": "._errors", "ThreadPool": ".pool"}
_MODULES = frozenset((
    "asyncio", "connection", "dummy", "forkserver", "futures", "heap", "joblib", "managers", "pool", "popen_fork", "popen_forkserver",
    "popen_spawn_posix", "process", "queues", "reduction", "resource_sharer", "resource_tracker", "shared_array", "shared_memory", "sharedctypes", "spawn",
    "synchronize", "util",
))


def __getattr__(name: str) -> _Any:
    from importlib import import_module

    if name in _LATER:
        value = getattr(import_module(_LATER[name], __name__), name)
    elif name in _MODULES:
        return import_module(f".{name}", __name__)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


__all__ = [
    "Array", "AuthenticationError", "Barrier", "BoundedSemaphore", "BufferTooShort", "CancelledError", "Condition", "Event",
    "JoinableQueue", "Lock", "Manager", "OutOfMemory", "OwnerDiedWarning", "Pipe", "PoisonTask", "Pool", "PoolBroken", "Process", "ProcessError", "Queue", "RLock",
    "RawArray", "RawValue", "Semaphore", "SimpleQueue", "TaskExited", "TaskTimeout", "TimeoutError", "Value", "WorkerLost",
    "active_children", "allow_connection_pickling", "cpu_count", "current_process", "freeze_support", "get_all_start_methods",
    "get_context", "get_logger", "get_start_method", "log_to_stderr", "parent_process", "reducer", "set_executable",
    "set_forkserver_preload", "set_start_method",
]

del _core, _process, TYPE_CHECKING
