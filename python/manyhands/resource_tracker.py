"""The interface of `multiprocessing.resource_tracker`, for programs that call it themselves.

Shared memory needs no tracker process here: a janitor of the C core removes names when the program has ended. `register` hands it a name,
`unregister` takes one back that this process created or registered; for one that it only attached to nothing happens, so that the
well-known remedy for the standard library's eager unlinking does no harm. Other types of resources are the standard library's tracker's.
"""

from __future__ import annotations

import os
from multiprocessing import resource_tracker as _module
from typing import Any

from . import _core

__all__ = ["ensure_running", "register", "unregister"]

_standard: Any = _module
_resource_tracker: Any = _standard._resource_tracker
ResourceTracker: Any = _standard.ResourceTracker
_CLEANUP_FUNCS: Any = _standard._CLEANUP_FUNCS
ensure_running = _standard.ensure_running
getfd = _standard.getfd
main = _standard.main

_mine: set[str] = set()  # names that this process created or registered
os.register_at_fork(after_in_child=_mine.clear)


def _bare(name: str) -> str:
    return name[1:] if name.startswith("/") else name


def _created(name: str) -> None:
    _mine.add(_bare(name))


def _unlinked(name: str) -> None:
    _mine.discard(_bare(name))


def register(name: str, rtype: str) -> None:
    """Have the resource removed when the program has ended. A name of shared memory that does not exist is ignored."""
    if rtype != "shared_memory":
        _standard.register(name, rtype)
        return
    try:
        _core.shm_track(_bare(name))
        _created(name)
    except FileNotFoundError:
        pass


def unregister(name: str, rtype: str) -> None:
    """Let the resource stay."""
    if rtype != "shared_memory":
        _standard.unregister(name, rtype)
        return
    if _bare(name) in _mine:
        _unlinked(name)
        try:
            _core.shm_untrack(_bare(name))
        except FileNotFoundError:
            pass
