"""Objects as lists of buffers: first a pickle, then the big memory that was taken out of it, in order.

`MAX_BYTES` is how big memory must be to travel beside the pickle, `MAX_ITEMS` how many items a container may have for canning to look
into it; both are part of the protocol.
"""

from __future__ import annotations

import pickle as _pickle

from itertools import chain
from types import BuiltinFunctionType, FunctionType
from typing import Any, Iterable, Mapping

from . import names
from .canning import CannedObject, can, can_map, can_sequence, istype, sequence_types, uncan, uncan_map, uncan_sequence

__all__ = ["MAX_BYTES", "MAX_ITEMS", "PrePickled", "deserialize_object", "pack_apply_message", "serialize_object", "unpack_apply_message"]

MAX_BYTES = 1024
MAX_ITEMS = 64

pickle: Any = _pickle  # or dill, or cloudpickle: see canning.use_dill

# Of these every pickler makes the same, and canning leaves them alone unless a program says otherwise.
_PLAIN = frozenset((int, float, str, bool, type(None)))
_KEPT_MAX = 256
_BEGINNINGS = (b"\x80\x04", b"\x80\x05")
_OWN_UNCANNERS = len(uncan_map)
_functions: dict[Any, tuple[Any, bytes]] = {}    # by function: what it was made of, and its pickle
_shapes: dict[tuple[int, int], bytes] = {}       # what follows a function, by the numbers of arguments and their buffers


def dumps(obj: Any) -> bytes:
    """A pickle by the pickler in force."""
    return names.dumps(obj, pickle)


def loads(data: Any) -> Any:
    """What a pickle holds. It is code: only for authenticated peers."""
    return names.loads(data, pickle)


class PrePickled:
    """An object that was serialised once and can be sent many times: `buffers`."""

    def __init__(self, obj: Any) -> None:
        self.buffers = serialize_object(obj)


# ---- one object --------------------------------------------------------------------------------------------------


def _nbytes(buffer: Any) -> int:
    return buffer.nbytes if isinstance(buffer, memoryview) else len(buffer)


def _take_out(canned: Any, threshold: int) -> list[Any]:
    taken = []
    if isinstance(canned, CannedObject) and getattr(canned, "buffers", None):
        for i, buffer in enumerate(canned.buffers):
            if _nbytes(buffer) > threshold:
                canned.buffers[i] = None
                taken.append(buffer)
            elif isinstance(buffer, memoryview):
                canned.buffers[i] = buffer.tobytes()
    return taken


def _put_back(canned: Any, left: list[Any]) -> None:
    if isinstance(canned, CannedObject) and getattr(canned, "buffers", None):
        for i, buffer in enumerate(canned.buffers):
            if buffer is None:
                if not left:
                    raise ValueError("a message has fewer buffers than its pickle says")
                canned.buffers[i] = left.pop(0)


def serialize_object(obj: Any, buffer_threshold: int = MAX_BYTES, item_threshold: int = MAX_ITEMS) -> list[Any]:
    """obj as [pickle, buffer, ...].

    Items of a plain list, tuple, set or dict with fewer than item_threshold of them are canned one by one.
    """
    kind = type(obj)
    if kind in _PLAIN and kind not in can_map:
        return [_pickle.dumps(obj, names.PROTOCOL)]
    if kind is PrePickled:
        buffers: list[Any] = obj.buffers[:]
        return buffers
    if kind is FunctionType or kind is BuiltinFunctionType:
        return _serialize_function(obj, buffer_threshold)
    return _serialize_any(obj, buffer_threshold, item_threshold)


def _recipe(f: Any) -> Any:
    """What the pickle of a function depends on; None: on more than can be compared quickly."""
    if type(f) is BuiltinFunctionType:
        return (f.__module__, f.__qualname__, pickle, can_map.get(BuiltinFunctionType)) if isinstance(f.__self__, _MODULE) else None
    if f.__defaults__ or f.__kwdefaults__ or f.__closure__ or f.__annotations__:
        return None
    return f.__code__, f.__module__, f.__name__, pickle, can_map.get(FunctionType)


_MODULE = type(_pickle)


def _serialize_function(f: Any, threshold: int) -> list[Any]:
    # the same functions are sent again and again
    recipe = _recipe(f)
    if recipe is None:
        return _serialize_any(f, threshold, 0)
    known = _functions.get(f)
    if known is not None and known[0] == recipe:
        return [known[1]]
    made = _serialize_any(f, threshold, 0)
    if len(made) == 1:
        if len(_functions) >= _KEPT_MAX:
            _functions.clear()
        _functions[f] = recipe, made[0]
    return made


def _serialize_any(obj: Any, buffer_threshold: int, item_threshold: int) -> list[Any]:
    canned: Any
    if istype(obj, sequence_types) and len(obj) < item_threshold:
        canned = can_sequence(obj)
        parts = list(canned)
    elif type(obj) is dict and len(obj) < item_threshold:
        canned = {key: can(obj[key]) for key in sorted(obj)}
        parts = list(canned.values())
    else:
        canned = can(obj)
        parts = [canned]
    taken = [buffer for part in parts if isinstance(part, CannedObject) for buffer in _take_out(part, buffer_threshold)]
    return [dumps(canned), *taken]


def deserialize_object(buffers: Iterable[Any], g: dict[str, Any] | None = None) -> tuple[Any, list[Any]]:
    """The object at the head of buffers, and the buffers that are left.

    g are the globals of what was defined interactively. Raises ValueError when buffers are missing.
    """
    left = list(buffers)
    if not left:
        raise ValueError("a message has no buffer for an object")
    data = left.pop(0)
    if type(data) is bytes and b"\x93" not in data and data[:2] in _BEGINNINGS and len(uncan_map) == _OWN_UNCANNERS:
        return _pickle.loads(data), left  # it names no class, so nothing in it is canned
    canned = loads(data)
    if istype(canned, sequence_types) and len(canned) < MAX_ITEMS:
        for item in canned:
            _put_back(item, left)
        return uncan_sequence(canned, g), left
    if type(canned) is dict and len(canned) < MAX_ITEMS:
        found = {}
        for key in sorted(canned):
            _put_back(canned[key], left)
            found[key] = uncan(canned[key], g)
        return found, left
    _put_back(canned, left)
    return uncan(canned, g), left


# ---- a call ------------------------------------------------------------------------------------------------------


def pack_apply_message(f: Any, args: Iterable[Any], kwargs: Mapping[str, Any], buffer_threshold: int = MAX_BYTES,
                       item_threshold: int = MAX_ITEMS) -> list[Any]:
    """A call as buffers: the function, what follows, then each argument, keywords in the order of their names."""
    if not kwargs:
        return _pack_positional(serialize_object(f), args, buffer_threshold, item_threshold)
    args = list(args)
    keys = sorted(kwargs)
    arguments = list(chain.from_iterable(serialize_object(arg, buffer_threshold, item_threshold) for arg in args))
    keywords = list(chain.from_iterable(serialize_object(kwargs[key], buffer_threshold, item_threshold) for key in keys))
    info = {"nargs": len(args), "narg_bufs": len(arguments), "kw_keys": keys}
    return [*serialize_object(f), dumps(info), *arguments, *keywords]


def _pack_positional(buffers: list[Any], args: Iterable[Any], buffer_threshold: int, item_threshold: int) -> list[Any]:
    at, count = len(buffers), 0
    for arg in args:
        buffers += serialize_object(arg, buffer_threshold, item_threshold)
        count += 1
    buffers.insert(at, _shape(count, len(buffers) - at))
    return buffers


def _shape(nargs: int, narg_bufs: int) -> bytes:
    made = _shapes.get((nargs, narg_bufs))
    if made is None:
        made = _pickle.dumps({"nargs": nargs, "narg_bufs": narg_bufs, "kw_keys": []}, names.PROTOCOL)
        if len(_shapes) < _KEPT_MAX:
            _shapes[nargs, narg_bufs] = made
    return made


def unpack_apply_message(bufs: Iterable[Any], g: dict[str, Any] | None = None, copy: bool = True) -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
    """The function, arguments and keyword arguments of a call. Raises ValueError when buffers are missing or left over."""
    f, left = deserialize_object(bufs, g)
    if not left:
        raise ValueError("a call says nothing of its arguments")
    info = loads(left.pop(0))
    positional, named = left[: info["narg_bufs"]], left[info["narg_bufs"]:]
    args = []
    for _ in range(info["nargs"]):
        arg, positional = deserialize_object(positional, g)
        args.append(arg)
    kwargs = {}
    for key in info["kw_keys"]:
        kwargs[key], named = deserialize_object(named, g)
    if positional or named:
        raise ValueError("a call has more buffers than arguments")
    return f, tuple(args), kwargs
