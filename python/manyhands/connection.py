"""Connections between processes, with the interface of `multiprocessing.connection`.

`Pipe` is Manyhands' own: messages go through memory that both ends share. Connections over sockets, `Listener` and `Client` with
their authentication, are the standard library's. `wait` waits for either, and for anything that has a descriptor.
"""

from __future__ import annotations

import select
import time
from multiprocessing import connection as _standard
from multiprocessing.connection import Client, Connection, Listener, answer_challenge, deliver_challenge
from typing import Any, Iterable

from . import _core
from .reduction import _duplicate, _take

__all__ = ["Client", "Listener", "Pipe", "wait"]

_Connection: Any = Connection


def __getattr__(name: str) -> Any:
    return getattr(_standard, name)


class PipeConnection(_core.Pipe, _Connection):  # type: ignore[misc]
    """One end of a pipe. It can be given to a process that starts, and sent through other connections and queues."""

    def __reduce__(self) -> Any:
        memory, socket, side = self._parts()
        return _rebuild, (type(self), _duplicate(memory, socket), side)

    def __repr__(self) -> str:
        state = "closed" if self.closed else "duplex" if self.readable and self.writable else "read-only" if self.readable else "write-only"
        return f"<{type(self).__module__}.{type(self).__qualname__} {state} at {id(self):#x}>"


def _rebuild(kind: type[PipeConnection], duplicates: Any, side: int) -> PipeConnection:
    memory, socket = _take(duplicates)
    return kind._attach(memory, socket, side)


def Pipe(duplex: bool = True) -> tuple[PipeConnection, PipeConnection]:
    """Two connected ends; without `duplex` the first only receives and the second only sends.

    >>> import manyhands
    >>> reader, writer = manyhands.Pipe(duplex=False)
    >>> writer.send([1, 2.5, None])
    >>> reader.recv()
    [1, 2.5, None]
    """
    return PipeConnection._pair(duplex)


def _watched(obj: Any) -> Any:
    """What is asked whether it is really ready when its descriptor says so: our own connections and queues; else None."""
    if isinstance(obj, _core.Pipe):
        return obj if obj.readable else None
    queue = getattr(obj, "_queue", None)
    return obj if isinstance(queue, (_core.Queue, _core.SimpleQueue)) else None


def _descriptor_of(obj: Any) -> int:
    if isinstance(obj, int):
        fd = obj
    else:
        try:
            fd = int(obj.fileno())
        except (AttributeError, TypeError, ValueError):
            raise ValueError(f"wait() takes descriptors and objects with fileno(), not {obj!r}") from None
    if fd < 0:
        raise ValueError(f"invalid file descriptor: {fd}")
    return fd


def wait(object_list: Iterable[Any], timeout: float | None = None) -> list[Any]:
    """Those of the objects that are ready to be read, as soon as one is; an empty list after `timeout` seconds.

    Objects are connections, queues' readers, sockets, sentinels of processes and whatever else has a descriptor or is one. A
    connection whose other end is gone is ready: reading it raises EOFError.
    """
    objects = list(object_list)
    until = None if timeout is None else time.monotonic() + max(timeout, 0.0)
    if len(objects) == 1 and _watched(objects[0]) is not None:
        return objects if objects[0].poll(timeout) else []
    poller = select.poll()
    for fd in (found := {id(obj): _descriptor_of(obj) for obj in objects}).values():
        poller.register(fd, select.POLLIN)
    while True:
        left = None if until is None else max(0.0, until - time.monotonic())
        events = {fd for fd, _ in poller.poll(None if left is None else left * 1000)}
        ready = [obj for obj in objects if found[id(obj)] in events and ((own := _watched(obj)) is None or own.poll(0))]
        if ready or (until is not None and time.monotonic() >= until):
            return ready
