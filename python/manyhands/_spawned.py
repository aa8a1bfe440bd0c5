"""The program of a spawned process: become like the parent, run the process object, end.

It imports little: whoever starts a process waits for it.
"""

from __future__ import annotations

import gc
import io
import os
import sys
import types
from _pickle import load
from _io import _IOBase  # type: ignore[import-not-found, unused-ignore]

from . import _core
from ._std import process, resource_tracker, run_exit_functions, spawn

TYPE_CHECKING = False  # see __init__.py
if TYPE_CHECKING:
    from typing import Any, NoReturn

__all__: list[str] = []

_HEAP_TYPE = 1 << 9  # Py_TPFLAGS_HEAPTYPE: a class of a program's


def main(pipe: int, tracker: int) -> NoReturn:
    """Run the process object that comes through `pipe`, which stays open until the parent has ended."""
    resource_tracker._resource_tracker._fd = tracker
    sentinel = os.dup(pipe)
    current = process.current_process()
    current._inheriting = True
    with open(pipe, "rb") as from_parent:
        try:
            _prepare(load(from_parent))
            me = load(from_parent)
        finally:
            del current._inheriting
    end(me._bootstrap(sentinel))


def end(code: int) -> NoReturn:
    """End with this exit code, having done what programs count on.

    Taking the interpreter down object by object takes as long as starting it did, and for whoever waits it is time lost. It is done only where
    it can be noticed: when a finalizer of the program's would be called, or other threads are there, which must not run any more."""
    code &= 0xFF
    is_plain = False
    try:
        run_exit_functions()
        objects = gc.get_objects()
        _flush_files(objects)
        is_plain = len(sys._current_frames()) == 1 and not _has_finalizers(objects)
    finally:
        if is_plain:
            _core.exit(code)
    sys.exit(code)


def _has_finalizers(objects: list[Any]) -> bool:
    """Whether an object's __del__ might be called at the end, other than a file's. Classes of the program's count, since not every object is
    among those of the collector; the standard library's only with an object."""
    kinds = {type(o) for o in objects}
    metas = {k for k in kinds if issubclass(k, type)}
    finalizing = {c for c in objects if type(c) in metas and "__del__" in c.__dict__ and not issubclass(c, _IOBase)}
    libraries = {c for c in finalizing if str(c.__module__).partition(".")[0] in sys.stdlib_module_names | {"manyhands"}}
    return bool(finalizing - libraries) or any(not libraries.isdisjoint(k.__mro__) for k in kinds)


def _flush_files(objects: list[Any]) -> None:
    # An interpreter that is taken down has each file's finalizer write what it still holds. Text first: it goes into buffers.
    kinds = {k for k in {type(o) for o in objects} if issubclass(k, _IOBase)}
    files: list[Any] = [o for o in objects if type(o) in kinds]
    texts = [f for f in files if isinstance(f, io.TextIOWrapper)]
    buffers = [f for f in files if isinstance(f, (io.BufferedWriter, io.BufferedRandom))]
    others = [f for f in files if type(f).__flags__ & _HEAP_TYPE and f not in texts and f not in buffers]  # gzip's and the like
    for finish in [*(f.flush for f in texts), *(f.close for f in others), *(f.flush for f in buffers)]:
        try:
            finish()
        except (OSError, ValueError):  # closed, or nobody reads any more
            pass


def _prepare(data: dict[str, Any]) -> None:
    path = data.pop("init_main_from_path", None) if _is_source(data.get("init_main_from_path")) else None
    spawn.prepare(data)
    if path is not None:
        _run_main(path)


def _is_source(path: str | None) -> bool:
    return path is not None and path.endswith(".py") and os.path.isfile(path)


def _run_main(path: str) -> None:
    """The parent's main program as the module __mp_main__, without its part for __main__. What runpy does with a file of source, for which it
    would import more than all the rest of what is here."""
    before = sys.modules["__main__"]
    if os.path.basename(path) == "ipython.py" or getattr(before, "__file__", None) == path:
        return
    spawn.old_main_modules.append(before)
    module = types.ModuleType("__mp_main__")
    module.__dict__.update(__file__=path, __cached__=None, __package__="")
    with io.open_code(path) as file:
        code = compile(file.read(), path, "exec", dont_inherit=True)
    sys.modules["__mp_main__"] = module
    argument, sys.argv[:1] = sys.argv[:1], [path]
    try:
        exec(code, module.__dict__)
    finally:
        sys.argv[:1] = argument
    sys.modules["__main__"] = module
