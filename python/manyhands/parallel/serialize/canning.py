"""Canning: what pickle refuses, or what is too big for it, in classes that it takes. The classes and their attributes are ipyparallel's.

A function travels as its code and finds its globals in its own module at the other end, or, when it was defined interactively, in the
engine's namespace. Big memory (arrays, bytes, memory views) is left in `buffers`, which travel beside the pickle.
"""

from __future__ import annotations

import copy
import functools
import sys
import types
from types import FunctionType
from typing import Any, Callable, Iterable

from .names import OURS, resolve_module, travels_as

__all__ = [
    "CannedArray", "CannedBuffer", "CannedBytes", "CannedCell", "CannedClass", "CannedFunction", "CannedMemoryView", "CannedObject",
    "CannedPartial", "Reference", "can", "can_dict", "can_map", "can_sequence", "interactive", "istype", "uncan", "uncan_dict", "uncan_map",
    "uncan_sequence", "use_cloudpickle", "use_dill", "use_pickle",
]

sequence_types = (list, tuple, set)
cell_type = types.CellType



def istype(obj: Any, check: Any) -> bool:
    """Whether the type of obj is exactly `check`, or one of them."""
    return type(obj) in check if isinstance(check, tuple) else type(obj) is check


def interactive(f: Any) -> Any:
    """Make a function belong to `__main__`: at the other end it sees the engine's namespace as its globals."""
    if isinstance(f, FunctionType):
        f = FunctionType(f.__code__, vars(sys.modules["__main__"]), f.__name__, f.__defaults__)
    f.__module__ = "__main__"
    return f


# ---- classes -----------------------------------------------------------------------------------------------------


@travels_as
class CannedObject:
    """A copy of obj whose attributes `keys` are canned; hook(obj, globals) runs when it is uncanned."""

    buffers: list[Any]

    def __init__(self, obj: Any, keys: Iterable[str] = (), hook: Callable[[Any, Any], object] | None = None) -> None:
        self.keys = list(keys)
        self.obj = copy.copy(obj)
        self.hook: Any = can(hook)
        for key in self.keys:
            setattr(self.obj, key, can(getattr(obj, key)))
        self.buffers = []

    def get_object(self, g: dict[str, Any] | None = None) -> Any:
        """The object again, with g as the globals of what was defined interactively."""
        g = {} if g is None else g
        for key in self.keys:
            setattr(self.obj, key, uncan(getattr(self.obj, key), g))
        if self.hook:
            self.hook = uncan(self.hook, g)
            self.hook(self.obj, g)
        return self.obj


@travels_as
class Reference(CannedObject):
    """A name, or an expression, that the engine looks up in its namespace: stands for a remote object among arguments."""

    def __init__(self, name: str) -> None:
        if not isinstance(name, str):
            raise TypeError(f"illegal name: {name!r}")
        self.name = name
        self.buffers = []

    def __repr__(self) -> str:
        return f"<Reference: {self.name!r}>"

    def get_object(self, g: dict[str, Any] | None = None) -> Any:
        """What the name stands for in g."""
        return eval(self.name, {} if g is None else g)


@travels_as
class CannedCell(CannedObject):
    """A cell of a closure."""

    def __init__(self, cell: types.CellType) -> None:
        self.cell_contents = can(cell.cell_contents)

    def get_object(self, g: dict[str, Any] | None = None) -> Any:
        """A new cell."""
        return types.CellType(uncan(self.cell_contents, g))


@travels_as
class CannedFunction(CannedObject):
    """A function written in Python."""

    def __init__(self, f: FunctionType) -> None:
        if not isinstance(f, FunctionType):
            raise TypeError(f"not a function: {f!r}")
        self.code = f.__code__
        self.defaults = [can(value) for value in f.__defaults__] if f.__defaults__ else None
        self.kwdefaults = can_dict(f.__kwdefaults__) if f.__kwdefaults__ else None
        self.annotations = can_dict(f.__annotations__) if f.__annotations__ else None
        self.closure = tuple(can(cell) for cell in f.__closure__) if f.__closure__ else None
        self.module = f.__module__ or "__main__"
        self.__name__ = f.__name__
        self.buffers = []

    def get_object(self, g: dict[str, Any] | None = None) -> Any:
        """The function, in its module when that can be imported here by name, else with g as its globals."""
        if not self.module.startswith("__"):
            g = vars(resolve_module(self.module))
            own = g.get(self.__name__)
            if self.module in OURS and not self.closure and isinstance(own, FunctionType):
                return own  # ipyparallel's function, whose body knows the inside of its own module
        g = {} if g is None else g
        defaults = tuple(uncan(value, g) for value in self.defaults) if self.defaults else None
        closure = tuple(uncan(cell, g) for cell in self.closure) if self.closure else None
        function = FunctionType(self.code, g, self.__name__, defaults, closure)
        if self.kwdefaults:
            function.__kwdefaults__ = uncan_dict(self.kwdefaults)
        if self.annotations:
            function.__annotations__ = uncan_dict(self.annotations)
        return function


@travels_as
class CannedPartial(CannedObject):
    """A functools.partial. The buffers of its arguments are kept together, positional ones first, then keywords in their order."""

    def __init__(self, f: functools.partial[Any]) -> None:
        if not isinstance(f, functools.partial):
            raise ValueError(f"Not a functools.partial: {f!r}")
        self.func = can(f.func)
        self.args = [can(value) for value in f.args]
        self.keywords = {key: can(value) for key, value in f.keywords.items()}
        self.buffers = []
        self.arg_buffer_counts = [self._adopt(value) for value in self.args]
        self.keyword_buffer_counts = {key: self._adopt(self.keywords[key]) for key in sorted(self.keywords)
                                      if isinstance(self.keywords[key], CannedObject)}

    def _adopt(self, canned: Any) -> int:
        if not isinstance(canned, CannedObject):
            return 0
        count = len(canned.buffers)
        self.buffers.extend(canned.buffers)
        canned.buffers = []
        return count

    def get_object(self, g: dict[str, Any] | None = None) -> Any:
        """The partial function."""
        left = iter(self.buffers)
        self.buffers = []
        owners = [(value, count) for value, count in zip(self.args, self.arg_buffer_counts)]
        owners += [(self.keywords[key], self.keyword_buffer_counts[key]) for key in sorted(self.keyword_buffer_counts)]
        for canned, count in owners:
            if count:
                canned.buffers = [next(left) for _ in range(count)]
        args = [uncan(value, g) for value in self.args]
        keywords = {key: uncan(value, g) for key, value in self.keywords.items()}
        return functools.partial(uncan(self.func, g), *args, **keywords)


@travels_as
class CannedClass(CannedObject):
    """A class of `__main__`, with what it defines and its bases."""

    def __init__(self, cls: type) -> None:
        if not isinstance(cls, type):
            raise TypeError(f"not a class: {cls!r}")
        self.name = cls.__name__
        self.old_style = False
        self._canned_dict = {key: can(value) for key, value in vars(cls).items() if key not in ("__weakref__", "__dict__")}
        self.parents = [can(base) for base in cls.mro()[1:]]
        self.buffers = []

    def get_object(self, g: dict[str, Any] | None = None) -> Any:
        """A new class of the same contents."""
        return type(self.name, tuple(uncan(base, g) for base in self.parents), uncan_dict(self._canned_dict, g))


@travels_as
class CannedArray(CannedObject):
    """A NumPy array: shape and dtype, and its memory in C order beside it; pickled when it holds objects or nothing."""

    def __init__(self, obj: Any) -> None:
        from numpy import ascontiguousarray

        contiguous: Any
        self.shape = obj.shape
        self.dtype = obj.dtype.descr if obj.dtype.fields else obj.dtype.str
        self.pickled = sum(obj.shape) == 0 or obj.dtype.hasobject
        if self.pickled:
            from . import serialize

            self.buffers = [serialize.dumps(obj)]
        else:
            contiguous = ascontiguousarray(obj, dtype=None)
            self.buffers = [memoryview(contiguous)]

    def get_object(self, g: dict[str, Any] | None = None) -> Any:
        """An array over the memory that came, which is read-only."""
        from numpy import dtype, frombuffer

        if self.pickled:
            from . import serialize

            return serialize.loads(self.buffers[0])
        kind = [tuple(field) for field in self.dtype] if isinstance(self.dtype, list) else self.dtype
        return frombuffer(self.buffers[0], dtype=dtype(kind)).reshape(self.shape)


@travels_as
class CannedBytes(CannedObject):
    """Bytes, which travel beside the pickle when they are many."""

    def __init__(self, obj: Any) -> None:
        self.buffers = [obj]

    def get_object(self, g: dict[str, Any] | None = None) -> Any:
        """The bytes."""
        return self.wrap(self.buffers[0])

    @staticmethod
    def wrap(data: Any) -> Any:
        """bytes, copied only when they are not yet."""
        return data if isinstance(data, bytes) else bytes(data)


@travels_as
class CannedMemoryView(CannedBytes):
    """A memory view."""

    @staticmethod
    def wrap(data: Any) -> Any:
        """A view of the memory that came."""
        return memoryview(data)


CannedBuffer = CannedMemoryView


# ---- canning by type ---------------------------------------------------------------------------------------------


def can_class(obj: Any) -> Any:
    """A class of `__main__` canned; others go by name."""
    return CannedClass(obj) if isinstance(obj, type) and obj.__module__ == "__main__" else obj


def _uncan_dependent_hook(dep: Any, g: Any = None) -> None:
    dep.check_dependency()


def can_dependent(obj: Any) -> CannedObject:
    """A function with a condition: the condition is tried when it is uncanned."""
    return CannedObject(obj, keys=("f", "df"), hook=_uncan_dependent_hook)


# Programs may add to these: a type, or its dotted name, and what cans it.
can_map: dict[Any, Callable[[Any], Any]] = {
    "numpy.ndarray": CannedArray,
    FunctionType: CannedFunction,
    functools.partial: CannedPartial,
    bytes: CannedBytes,
    memoryview: CannedMemoryView,
    cell_type: CannedCell,
    type: can_class,
    "manyhands.parallel.dependency.dependent": can_dependent,
}
_OWN_CANNERS = len(can_map)
uncan_map: dict[Any, Callable[[Any, Any], Any]] = {
    CannedObject: lambda obj, g: obj.get_object(g),
    dict: lambda obj, g: uncan_dict(obj, g),
}


def _loaded(name: str) -> Any:
    # An object can only be of that type when its module is loaded.
    module, _, attribute = name.rpartition(".")
    return getattr(sys.modules.get(module), attribute, None)


_NEVER_NAMED = frozenset((int, float, str, bool, type(None), list, tuple, dict, set, range))


def _find_canner(kind: type) -> Callable[[Any], Any] | None:
    if kind in can_map:
        return can_map[kind]
    if kind in _NEVER_NAMED and len(can_map) <= _OWN_CANNERS:
        return None
    for key in can_map:
        if isinstance(key, str) and _loaded(key) is kind:
            return can_map[key]
    return None


def can(obj: Any) -> Any:
    """obj, or what stands for it in a pickle."""
    canner = _find_canner(type(obj))
    return obj if canner is None else canner(obj)


def uncan(obj: Any, g: dict[str, Any] | None = None) -> Any:
    """The inverse of `can`; g are the globals of what was defined interactively."""
    for key, uncanner in uncan_map.items():
        kind = _loaded(key) if isinstance(key, str) else key
        if kind is not None and isinstance(obj, kind):
            return uncanner(obj, g)
    return obj


def can_dict(obj: Any) -> Any:
    """A plain dict with its values canned; anything else as it is."""
    return {key: can(value) for key, value in obj.items()} if type(obj) is dict else obj


def uncan_dict(obj: Any, g: dict[str, Any] | None = None) -> Any:
    """The inverse of `can_dict`."""
    return {key: uncan(value, g) for key, value in obj.items()} if type(obj) is dict else obj


def can_sequence(obj: Any) -> Any:
    """A plain list, tuple or set with its items canned; anything else as it is."""
    return type(obj)([can(item) for item in obj]) if istype(obj, sequence_types) else obj


def uncan_sequence(obj: Any, g: dict[str, Any] | None = None) -> Any:
    """The inverse of `can_sequence`."""
    return type(obj)([uncan(item, g) for item in obj]) if istype(obj, sequence_types) else obj


# ---- other picklers ----------------------------------------------------------------------------------------------


def _use(pickler: Any) -> None:
    from . import serialize

    serialize.pickle = pickler
    can_map.pop(FunctionType, None)


def use_dill() -> None:
    """Let dill do the pickling, functions included."""
    import dill  # type: ignore[import-not-found, import-untyped, unused-ignore]

    _use(dill)


def use_cloudpickle() -> None:
    """Let cloudpickle do the pickling, functions included."""
    import cloudpickle  # type: ignore[import-untyped, unused-ignore]

    _use(cloudpickle)


def use_pickle() -> None:
    """Go back to canning and plain pickle."""
    import pickle

    from . import serialize

    serialize.pickle = pickle
    can_map[FunctionType] = CannedFunction
