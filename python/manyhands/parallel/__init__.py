"""Engines, a controller and their clients: parallel Python over many processes and machines, with ipyparallel's interface.

This package holds what an engine runs, and the errors and serialisation that it shares with clients. It is written for stock clients as
well as for our own.
"""

from __future__ import annotations

from . import error, serialize
from .dependency import depend, dependent, require
from .error import (
    AlreadyDisplayedError,
    CompositeError,
    DependencyTimeout,
    EngineError,
    ImpossibleDependency,
    InvalidDependency,
    IPythonError,
    KernelError,
    NoEnginesRegistered,
    RemoteError,
    TaskAborted,
    TaskRejectError,
    TaskTimeout,
    TimeoutError,
    UnmetDependency,
)
from .serialize import Reference
from .util import interactive

__all__ = [
    "AlreadyDisplayedError", "CompositeError", "DependencyTimeout", "EngineError", "IPythonError", "ImpossibleDependency", "InvalidDependency",
    "KernelError", "NoEnginesRegistered", "Reference", "RemoteError", "TaskAborted", "TaskRejectError", "TaskTimeout", "TimeoutError",
    "UnmetDependency", "depend", "dependent", "error", "interactive", "require", "serialize",
]
