"""The interface of `multiprocessing` over threads: the standard library's `multiprocessing.dummy`, with our ThreadPool."""

from __future__ import annotations

import sys
import types
from builtins import dict as dict
from builtins import list as list
from multiprocessing.dummy import (
    Array,
    Barrier,
    BoundedSemaphore,
    Condition,
    DummyProcess,
    Event,
    JoinableQueue,
    Lock,
    Namespace,
    Pipe,
    Process,
    Queue,
    RLock,
    Semaphore,
    Value,
    active_children,
    current_process,
    freeze_support,
    shutdown,
)
from typing import TYPE_CHECKING, Any, Callable, Iterable

if TYPE_CHECKING:
    from ..pool import ThreadPool

__all__ = [
    "Barrier", "BoundedSemaphore", "Condition", "Event", "JoinableQueue", "Lock", "Manager", "Pipe", "Pool", "Process", "Queue", "RLock",
    "Semaphore", "active_children", "current_process", "freeze_support",
]


def Manager() -> types.ModuleType:
    """Where a manager's types are: this module."""
    return sys.modules[__name__]


def Pool(processes: int | None = None, initializer: Callable[..., object] | None = None, initargs: Iterable[Any] = ()) -> ThreadPool:
    """A pool of threads: see `manyhands.pool.ThreadPool`."""
    from ..pool import ThreadPool

    return ThreadPool(processes, initializer, initargs)


def __getattr__(name: str) -> Any:
    if name == "connection":
        from importlib import import_module

        return import_module(f"{__name__}.connection")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
