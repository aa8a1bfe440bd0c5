"""What a spawned process puts off: modules that the standard library's multiprocessing imports at once and hardly any child needs.

They take as long to import as all the rest together. Each is loaded when somebody looks into it.
"""

from __future__ import annotations

import sys
import threading
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType

TYPE_CHECKING = False  # see __init__.py
if TYPE_CHECKING:
    from typing import Any, Sequence

__all__: list[str] = []

_LATER = {"multiprocessing.reduction", "runpy"}  # the first imports pickle and socket, the second importlib.util and contextlib

_loading = threading.RLock()


class _Later(ModuleType):
    """A module whose code has not run. Reading or setting what is not there yet runs it."""

    def __getattr__(self, name: str) -> Any:
        _load(self)
        return ModuleType.__getattribute__(self, name)

    def __setattr__(self, name: str, value: Any) -> None:
        _load(self)
        ModuleType.__setattr__(self, name, value)

    def __dir__(self) -> list[str]:
        _load(self)
        return sorted(self.__dict__)


def _load(module: ModuleType) -> None:
    with _loading:
        loader = module.__dict__.pop("_put_off", None)
        if loader is None:  # another thread was first, or its own code looks into it
            return
        try:
            loader.exec_module(module)
        except BaseException:
            module.__dict__["_put_off"] = loader
            raise
        module.__class__ = ModuleType


class _LaterLoader:
    def __init__(self, loader: Any) -> None:
        self._loader = loader

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)  # type: ignore[no-any-return]

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__.loader = module.__loader__ = self._loader  # type: ignore[union-attr]
        module.__dict__["_put_off"] = self._loader
        module.__class__ = _Later


class _LaterFinder:
    @staticmethod
    def find_spec(name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name not in _LATER:
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _LaterLoader(spec.loader)  # type: ignore[assignment]
        return spec


def _args_from_interpreter_flags() -> list[str]:
    import subprocess

    return subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined, no-any-return, unused-ignore]


def begin() -> None:
    """From here on. multiprocessing.util, which takes one function of subprocess, is imported with a stand-in for it."""
    sys.meta_path.insert(0, _LaterFinder)
    if "subprocess" in sys.modules:
        return
    stand_in: Any = ModuleType("subprocess")
    stand_in._args_from_interpreter_flags = _args_from_interpreter_flags
    sys.modules["subprocess"] = stand_in
    try:
        import multiprocessing.util  # noqa: F401
    except ImportError:  # it takes more nowadays: see below
        pass
    finally:
        del sys.modules["subprocess"]
