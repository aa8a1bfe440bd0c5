"""Objects as lists of buffers: first a pickle, then the big memory that was taken out of it, in order.

`MAX_BYTES` is how big memory must be to travel beside the pickle, `MAX_ITEMS` how many items a container may have for canning to look
into it; both are part of the protocol.
"""

from __future__ import annotations

import pickle as _pickle

from itertools import chain
from typing import Any, Iterable, Mapping

from . import names
from .canning import CannedObject, can, can_sequence, istype, sequence_types, uncan, uncan_sequence

__all__ = ["MAX_BYTES", "MAX_ITEMS", "PrePickled", "deserialize_object", "pack_apply_message", "serialize_object", "unpack_apply_message"]

MAX_BYTES = 1024
MAX_ITEMS = 64

pickle: Any = _pickle  # or dill, or cloudpickle: see canning.use_dill



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
    if isinstance(obj, PrePickled):
        return obj.buffers[:]
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
    buffers = list(chain.from_iterable(_take_out(part, buffer_threshold) for part in parts))
    return [dumps(canned), *buffers]


def deserialize_object(buffers: Iterable[Any], g: dict[str, Any] | None = None) -> tuple[Any, list[Any]]:
    """The object at the head of buffers, and the buffers that are left.

    g are the globals of what was defined interactively. Raises ValueError when buffers are missing.
    """
    left = list(buffers)
    if not left:
        raise ValueError("a message has no buffer for an object")
    canned = loads(left.pop(0))
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
    args = list(args)
    keys = sorted(kwargs)
    arguments = list(chain.from_iterable(serialize_object(arg, buffer_threshold, item_threshold) for arg in args))
    keywords = list(chain.from_iterable(serialize_object(kwargs[key], buffer_threshold, item_threshold) for key in keys))
    info = {"nargs": len(args), "narg_bufs": len(arguments), "kw_keys": keys}
    return [*serialize_object(f), dumps(info), *arguments, *keywords]


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
