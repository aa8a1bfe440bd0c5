"""Messages between an engine and its executor: a kind and frames, over a pipe in shared memory (src/cluster/executor.h has the layout)."""

from __future__ import annotations

import json
from base64 import b64encode
from enum import IntEnum
from typing import Any, Iterable

from ... import _core

__all__ = ["Kind", "Link", "dump_json"]


class Kind(IntEnum):
    """What a message is. The engine sends SETUP, then requests; the executor READY, then replies and output."""

    SETUP = 1    # [settings]
    APPLY = 2    # [number of its claim, buffer, ...]
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


class Link(_core.EngineLink):
    """The executor's end of the pipe, in C (python/src/link.c). Any thread may send; one receives, and serves."""

    def publish(self, kind: str, content: Any, buffers: Iterable[Any] = ()) -> None:
        """Send output of the task that runs. Raises BrokenPipeError when the engine is gone."""
        self.send(Kind.OUTPUT, [kind.encode(), dump_json(content), b"{}", *map(_flat, buffers)])


def _flat(buffer: Any) -> Any:
    return memoryview(buffer).cast("B") if isinstance(buffer, memoryview) else buffer
