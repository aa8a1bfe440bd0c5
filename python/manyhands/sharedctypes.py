"""ctypes objects in memory that children share: the interface of `multiprocessing.sharedctypes`.

What is wrapped is the standard library's; the memory and the locks are the C core's, and `value` of a plain number is read and written there.

>>> from manyhands import Array, Value
>>> count = Value("i", 1)
>>> with count.get_lock():
...     count.value += 1
>>> count.value
2
>>> Array("d", 3)[:]
[0.0, 0.0, 0.0]
"""

from __future__ import annotations

import ctypes
import weakref
from multiprocessing import sharedctypes as _sharedctypes
from typing import Any

from . import _core, heap
from ._std import context

__all__ = ["RawValue", "RawArray", "Value", "Array", "copy", "synchronized"]

_std: Any = _sharedctypes
typecode_to_type: dict[str, Any] = _std.typecode_to_type
reduce_ctype = _std.reduce_ctype
rebuild_ctype = _std.rebuild_ctype

# Plain numbers, by their exact type: subclasses and swapped bytes are ctypes' business.
_PLAIN = {kind: kind._type_ for kind in (
    ctypes.c_byte, ctypes.c_ubyte, ctypes.c_short, ctypes.c_ushort, ctypes.c_int, ctypes.c_uint, ctypes.c_long, ctypes.c_ulong,
    ctypes.c_longlong, ctypes.c_ulonglong, ctypes.c_float, ctypes.c_double)}


def _new_value(type_: Any) -> Any:
    size = ctypes.sizeof(type_)
    obj = rebuild_ctype(type_, heap.BufferWrapper(size), None)
    ctypes.memset(ctypes.addressof(obj), 0, size)
    return obj


def RawValue(typecode_or_type: Any, *args: Any) -> Any:
    """A ctypes object in shared memory, made of `args`; zero without."""
    obj = _new_value(typecode_to_type.get(typecode_or_type, typecode_or_type))
    obj.__init__(*args)
    return obj


def RawArray(typecode_or_type: Any, size_or_initializer: Any) -> Any:
    """A ctypes array in shared memory: of so many zeros, or of these items."""
    type_ = typecode_to_type.get(typecode_or_type, typecode_or_type)
    if isinstance(size_or_initializer, int):
        return _new_value(type_ * size_or_initializer)
    obj = _new_value(type_ * len(size_or_initializer))
    obj.__init__(*size_or_initializer)
    return obj


def _lock_for(lock: Any, ctx: Any) -> Any:
    if lock is True or lock is None:
        return _context(ctx).RLock()
    if not hasattr(lock, "acquire"):
        raise AttributeError(f"{lock!r} has no method 'acquire'")
    return lock


def _context(ctx: Any) -> Any:
    if ctx is None:
        from .context import _default_context

        return _default_context
    return ctx


def Value(typecode_or_type: Any, *args: Any, lock: Any = True, ctx: Any = None) -> Any:
    """A ctypes object in shared memory with a lock: a new RLock, or `lock`; without one if that is False."""
    obj = RawValue(typecode_or_type, *args)
    return obj if lock is False else synchronized(obj, _lock_for(lock, ctx), ctx=ctx)


def Array(typecode_or_type: Any, size_or_initializer: Any, *, lock: Any = True, ctx: Any = None) -> Any:
    """A ctypes array in shared memory with a lock: a new RLock, or `lock`; without one if that is False."""
    obj = RawArray(typecode_or_type, size_or_initializer)
    return obj if lock is False else synchronized(obj, _lock_for(lock, ctx), ctx=ctx)


def copy(obj: Any) -> Any:
    """A copy of a ctypes object, in shared memory."""
    made = _new_value(type(obj))
    ctypes.pointer(made)[0] = obj
    return made


def synchronized(obj: Any, lock: Any = None, ctx: Any = None) -> Any:
    """A wrapper of a ctypes object that is used under `lock`, or under a new RLock."""
    if isinstance(obj, SynchronizedBase):
        raise AssertionError("object already synchronized")
    if isinstance(obj, ctypes._SimpleCData):
        return Synchronized(obj, lock, ctx)
    if isinstance(obj, ctypes.Array):
        return (SynchronizedString if obj._type_ is ctypes.c_char else SynchronizedArray)(obj, lock, ctx)
    kind = type(obj)
    wrapper = class_cache.get(kind)
    if wrapper is None:
        fields = {field[0]: make_property(field[0]) for base in reversed(kind.__mro__) for field in vars(base).get("_fields_", ())}
        wrapper = class_cache[kind] = type("Synchronized" + kind.__name__, (SynchronizedBase,), fields)
    return wrapper(obj, lock, ctx)


def make_property(name: str) -> Any:
    """An attribute of the wrapped object, as a property of the wrapper that is used under the lock."""
    return _core.LockedField(name)


class_cache: Any = weakref.WeakKeyDictionary()


class SynchronizedBase(_core.SynchronizedBase):
    """A ctypes object and the lock that guards it; `with` holds the lock."""

    def __init__(self, obj: Any, lock: Any = None, ctx: Any = None) -> None:
        lock = lock if lock is not None else _context(ctx).RLock()
        code = _PLAIN.get(type(obj), "") if hasattr(obj, "_wrapper") else ""
        super().__init__(obj, lock, ctypes.addressof(obj) if code else 0, code)
        self.acquire = lock.acquire
        self.release = lock.release

    def __reduce__(self) -> Any:
        context.assert_spawning(self)
        return synchronized, (self._obj, self._lock)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} wrapper for {self._obj}>"


class Synchronized(SynchronizedBase):
    """A number, say, whose `value` is read and written under the lock; for `+=` hold it yourself: `with v: v.value += 1`."""

    value = make_property("value")


class SynchronizedArray(_core.SynchronizedArray, SynchronizedBase):
    """An array whose items and slices are read and written under the lock."""


class SynchronizedString(SynchronizedArray):
    """An array of characters: `value` up to the first zero, `raw` whole."""

    value = make_property("value")
    raw = make_property("raw")
