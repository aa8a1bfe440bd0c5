"""How objects are pickled on their way between processes: `multiprocessing.reduction`, which also knows our connections.

The table of reducers is the standard library's own, so that what a program registers there counts here.
"""

from __future__ import annotations

import os
import socket
from multiprocessing import reduction as _standard
from multiprocessing.reduction import ForkingPickler, dump, recvfds, register, sendfds
from typing import Any

from . import _core
from ._std import context as _context

__all__ = ["DupFd", "ForkingPickler", "dump", "recv_handle", "recvfds", "register", "send_handle", "sendfds"]


def __getattr__(name: str) -> Any:
    return getattr(_standard, name)


def DupFd(fd: int) -> Any:
    """A picklable stand-in for a descriptor: `detach()`, called once where it arrives, gives a duplicate of it."""
    return vars(_standard)["DupFd"](fd)


def send_handle(conn: Any, handle: int, destination_pid: int | None) -> None:
    """Send a descriptor over a connection to another process of this machine."""
    if isinstance(conn, _core.Pipe):
        conn._send_descriptor(handle)
    else:
        vars(_standard)["send_handle"](conn, handle, destination_pid)


def recv_handle(conn: Any) -> int:
    """Receive a descriptor over a connection; it is this process's own."""
    if isinstance(conn, _core.Pipe):
        return conn._receive_descriptor()
    return vars(_standard)["recv_handle"](conn)  # type: ignore[no-any-return]


# What a queue or a pipe consists of: descriptors that belong together. They go with a process that is being started, else through the resource sharer.


class _DupFds:
    """Several descriptors through the resource sharer at once."""

    def __init__(self, fds: tuple[int, ...]) -> None:
        sharer = _sharer()
        kept = [os.dup(fd) for fd in fds]
        self._count = len(kept)

        def send(conn: Any, pid: int) -> None:
            with _socket_of(conn) as s:
                sendfds(s, kept)

        def close() -> None:
            for fd in kept:
                os.close(fd)

        self._id = sharer.register(send, close)
        if sharer._thread is not None:
            sharer._thread._manyhands = True  # it holds no lock that a forked child would miss

    def detach(self) -> list[int]:
        with _sharer().get_connection(self._id) as conn, _socket_of(conn) as s:
            return list(recvfds(s, self._count))


def _sharer() -> Any:
    from multiprocessing import resource_sharer

    return vars(resource_sharer)["_resource_sharer"]


def _socket_of(conn: Any) -> socket.socket:
    return socket.fromfd(conn.fileno(), socket.AF_UNIX, socket.SOCK_STREAM)


def _duplicate(*fds: int) -> Any:
    """Picklable stand-ins for descriptors."""
    return tuple(map(DupFd, fds)) if _context.get_spawning_popen() is not None else _DupFds(fds)


def _take(duplicates: Any) -> list[int]:
    """The descriptors that they stand for, this process's own from now on."""
    fds = [one.detach() for one in duplicates] if isinstance(duplicates, tuple) else duplicates.detach()
    for fd in fds:
        os.set_inheritable(fd, False)
    return fds
