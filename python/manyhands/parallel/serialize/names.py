"""Pickles whose classes go by ipyparallel's names, whether or not it is installed at either end.

What is canned here must be readable by a stock engine or client, and what they can must be readable here. So our classes are written
under the names that they have there, and those names are read as ours. Everything else is plain pickle.
"""

from __future__ import annotations

import copyreg
import io
import pickle
import types
from importlib import import_module
from typing import Any

from .codeutil import reduce_code

__all__ = ["dumps", "loads", "resolve_module", "travels_as"]

PROTOCOL = pickle.DEFAULT_PROTOCOL

# Theirs -> ours. A name that ours lacks is looked up in theirs.
OURS = {
    "ipyparallel.client.remotefunction": "manyhands.parallel.remotefunction",
    "ipyparallel.controller.dependency": "manyhands.parallel.dependency",
    "ipyparallel.error": "manyhands.parallel.error",
    "ipyparallel.serialize": "manyhands.parallel.serialize",
    "ipyparallel.serialize.canning": "manyhands.parallel.serialize.canning",
    "ipyparallel.serialize.codeutil": "manyhands.parallel.serialize.codeutil",
    "ipyparallel.serialize.serialize": "manyhands.parallel.serialize.serialize",
    "ipyparallel.util": "manyhands.parallel.util",
}
_THEIRS = {ours: theirs for theirs, ours in OURS.items()}


def resolve_module(name: str) -> types.ModuleType:
    """The module of this name, or ours in its place."""
    return import_module(OURS.get(name, name))


# ---- writing -----------------------------------------------------------------------------------------------------


class _Module:
    """Pickles as a call that imports the module."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __reduce__(self) -> tuple[Any, ...]:
        return import_module, (self.name,)


class _Attribute:
    """Pickles as an attribute of a module. Callable, because pickle insists on that."""

    def __init__(self, module: str, name: str) -> None:
        self.module, self.name = _Module(module), name

    def __call__(self, *args: Any) -> Any:
        raise TypeError(f"{self.module.name}.{self.name} is called where it is unpickled")

    def __reduce__(self) -> tuple[Any, ...]:
        return getattr, (self.module, self.name)


_stock: dict[type, _Attribute] = {}


def travels_as(cls: type) -> type:
    """Class decorator: instances pickle as instances of the class that ipyparallel has under the same name."""
    _stock[cls] = _Attribute(_THEIRS[cls.__module__], cls.__qualname__)
    return cls


class _Writing:
    """What our names need of a pickler, before its own ways."""

    def reducer_override(self, obj: Any) -> Any:
        kind = type(obj)
        if kind in _stock:
            return copyreg._reconstructor, (_stock[kind], object, None), vars(obj)  # type: ignore[attr-defined]
        if kind is types.CodeType:
            _, arguments = reduce_code(obj)
            return _Attribute("ipyparallel.serialize.codeutil", "code_ctor"), arguments
        own = getattr(super(), "reducer_override", None)
        return NotImplemented if own is None else own(obj)


class _Pickler(_Writing, pickle.Pickler):
    pass


def dumps(obj: Any, library: Any = pickle) -> bytes:
    """obj as a pickle, by the pickler of pickle, cloudpickle or dill."""
    file = io.BytesIO()
    pickler = _picklers.get(library)
    if pickler is None:
        pickler = _picklers[library] = type("_OtherPickler", (_Writing, library.Pickler), {})
    pickler(file, PROTOCOL).dump(obj)
    return file.getvalue()


# ---- reading -----------------------------------------------------------------------------------------------------


def _import_ours(name: str) -> Any:
    return resolve_module(name)


class _Reading:
    """What our names need of an unpickler."""

    def find_class(self, module: str, name: str) -> Any:
        if module == "importlib" and name == "import_module":
            return _import_ours
        if module in OURS:
            found = _find(import_module(OURS[module]), name)
            if found is not None:
                return found
        return super().find_class(module, name)  # type: ignore[misc]


class _Unpickler(_Reading, pickle.Unpickler):
    pass


_picklers: dict[Any, type] = {pickle: _Pickler}
_unpicklers: dict[Any, type] = {pickle: _Unpickler}


def _find(module: types.ModuleType, dotted: str) -> Any:
    found: Any = module
    for part in dotted.split("."):
        found = getattr(found, part, None)
    return found


def loads(data: Any, library: Any = pickle) -> Any:
    """What a pickle holds. It runs whatever the pickle says: only for authenticated peers."""
    unpickler = _unpicklers.get(library)
    if unpickler is None:  # cloudpickle's are plain pickles
        unpickler = type("_OtherUnpickler", (_Reading, library.Unpickler), {}) if hasattr(library, "Unpickler") else _Unpickler
        _unpicklers[library] = unpickler
    return unpickler(io.BytesIO(data)).load()
