"""Messages between an engine and its executor: a kind and frames, over a pipe in shared memory (src/cluster/executor.h has the layout)."""

from __future__ import annotations

import json
import struct
import threading
from base64 import b64encode
from enum import IntEnum
from typing import Any, Iterable

from ... import _core

__all__ = ["Kind", "Link", "dump_json"]

_ALIGN = 16
_HEAD = struct.Struct("<II")


class Kind(IntEnum):
    """What a message is. The engine sends SETUP, then requests; the executor READY, then replies and output."""

    SETUP = 1    # [settings]
    APPLY = 2    # [message id, buffer, ...]
    EXECUTE = 3  # [content]
    OTHER = 4    # [message type, content]
    READY = 16   # []
    REPLY = 17   # [content, "1" unless a dependency is not met, buffer, ...]
    OUTPUT = 18  # [message type, content, metadata, buffer, ...]


def _plain(value: Any) -> Any:
    if isinstance(value, (bytes, bytearray, memoryview)):
        return b64encode(value).decode("ascii")  # as notebooks expect images
    if hasattr(value, "__index__"):
        return value.__index__()
    if hasattr(value, "__float__"):
        return float(value)
    if isinstance(value, (set, frozenset)) or hasattr(value, "__iter__"):
        return list(value)
    return repr(value)


def dump_json(value: Any) -> bytes:
    """A JSON text; what JSON does not know becomes what is nearest to it."""
    # not ensure_ascii: what is no text, half a surrogate pair, is to become a question mark
    try:
        return json.dumps(value, default=_plain, allow_nan=False, ensure_ascii=False).encode("utf-8", "replace")
    except (ValueError, TypeError):
        return json.dumps(_clean(value), default=_plain, ensure_ascii=False).encode("utf-8", "replace")


def _clean(value: Any) -> Any:
    # Numbers and keys that JSON does not have become text.
    if isinstance(value, float):
        return value if value - value == 0 else repr(value)
    if isinstance(value, dict):
        return {str(key): _clean(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_clean(item) for item in value]
    return value


class Link:
    """The executor's end of the pipe. Any thread may send; one receives."""

    def __init__(self, memory: int, socket: int, side: int) -> None:
        self._pipe = _core.Pipe._attach(memory, socket, side)
        self._lock = threading.Lock()

    def send(self, kind: Kind, frames: Iterable[Any]) -> None:
        """Send a message. Raises BrokenPipeError when the engine is gone."""
        views = [memoryview(frame).cast("B") if not isinstance(frame, bytes) else frame for frame in frames]
        parts: list[Any] = [_HEAD.pack(kind, len(views)) + struct.pack(f"<{len(views)}Q", *map(len, views))]
        size = len(parts[0])
        for view in views:
            gap = -size % _ALIGN
            parts += [bytes(gap), view]
            size += gap + len(view)
        data = b"".join(parts)
        with self._lock:
            self._pipe.send_bytes(data)

    def receive(self) -> tuple[Kind, list[memoryview]]:
        """Wait for a message. Raises EOFError when the engine is gone."""
        data = memoryview(self._pipe.recv_bytes())
        kind, count = _HEAD.unpack_from(data)
        at = _HEAD.size + 8 * count
        sizes = struct.unpack_from(f"<{count}Q", data, _HEAD.size)
        frames = []
        for size in sizes:
            at += -at % _ALIGN
            frames.append(data[at: at + size])
            at += size
        if at != len(data):
            raise ValueError("a message's frames do not fill it")
        return Kind(kind), frames
