"""Managers: `multiprocessing.managers` over pipes of the C core, with a server that gives back what killed clients held.

    >>> from manyhands import Manager
    >>> with Manager() as manager:
    ...     shared = manager.dict(a=1)
    ...     shared["b"] = 2
    ...     dict(shared)
    {'a': 1, 'b': 2}

Classes and their messages are the standard library's, so that either side of a remote manager may be its. On one machine a proxy's thread talks to the
server through shared memory instead of a socket; creating and dropping proxies goes the same way. The server ends with the process that started it.
When it is killed, every proxy raises at once (EOFError in a call, then ConnectionRefusedError). When a client is killed, the
locks, semaphores and conditions that it held are given back, and its proxies are not counted any more.
"""

from __future__ import annotations

import os
import queue
import select
import socket
import struct
import threading
import weakref
from multiprocessing import managers as _module
from multiprocessing import process as _process
from multiprocessing import util as _util
from traceback import format_exc
from typing import Any, Callable

from . import _core, _held, resource_tracker
from . import shared_memory as _memory
from ._rebind import rebind

_std: Any = _module
process: Any = _process
util: Any = _util

__all__ = ["BaseManager", "SyncManager", "BaseProxy", "Token", "SharedMemoryManager"]

Token = _std.Token
State = _std.State
RemoteError = _std.RemoteError
ProcessLocalSet = _std.ProcessLocalSet
Namespace = _std.Namespace
Value = _std.Value
Array = _std.Array
dispatch = _std.dispatch
convert_to_error = _std.convert_to_error
all_methods = _std.all_methods
public_methods = _std.public_methods
listener_client = _std.listener_client
HAS_SHMEM = True


# ---- the server ---------------------------------------------------------------------------------------------------


class _Served:
    """A channel on the server's side, with the client whose requests come over it."""

    def __init__(self, channel: _core.ProxyChannel, client: _held.Client) -> None:
        self.send = channel.send
        self.recv = channel.recv
        self.close = channel.close
        self.client = client


class _Clients:
    """The processes that have channels, and a thread that is told of their ends."""

    def __init__(self, server: Any) -> None:
        self._server = server
        self._lock = threading.Lock()
        self._by_pid: dict[int, tuple[_held.Client, int]] = {}
        self._by_fd: dict[int, _held.Client] = {}
        self._poller: Any = None

    def enter(self, pid: int) -> _held.Client:
        """The client of that process. A pidfd is open as long as its record, so that a number that is used again is another's."""
        with self._lock:
            client, fd = self._by_pid.get(pid, (None, -1))
            if client is None or client.lost or select.select([fd], [], [], 0)[0]:
                client = _held.Client(pid)
                try:
                    fd = os.pidfd_open(pid)
                except OSError:  # in another name space of processes, or ended already: nobody tells of its end
                    return client
                self._by_pid[pid] = client, fd
                self._by_fd[fd] = client
                if self._poller is None:
                    self._poller = select.epoll()
                    threading.Thread(target=self._watch, name="manager's clients", daemon=True).start()
                self._poller.register(fd, select.EPOLLIN)
            return client

    def _watch(self) -> None:
        while True:
            for fd, _ in self._poller.poll():
                with self._lock:
                    self._poller.unregister(fd)
                    client = self._by_fd.pop(fd)
                    if self._by_pid.get(client.pid, (None,))[0] is client:
                        del self._by_pid[client.pid]
                    os.close(fd)
                if not client.leaving:
                    client.lost = True
                    util.debug("client %d was killed", client.pid)
                    client.release_all()
                client.ended.set()
                self._drop_references(client)

    def _drop_references(self, client: _held.Client) -> None:
        # A client that ended in an orderly way has dropped its own, but for those that nothing finalised.
        for ident, count in list(client.references.items()):
            for _ in range(count):
                try:
                    self._server.decref(None, ident)
                except Exception as problem:
                    util.debug("dropping a reference of client %d: %r", client.pid, problem)
        client.references.clear()


class Server(_std.Server):  # type: ignore[misc]
    """The server of a manager: the standard library's, which also serves channels."""

    public = [*_std.Server.public, "open_channel", "leave"]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._clients = _Clients(self)

    # ---- requests to the server itself ----

    def open_channel(self, c: Any, name: str) -> None:
        """Serve this connection's client over a channel whose descriptors follow."""
        threading.current_thread().name = name
        with socket.socket(fileno=os.dup(c.fileno())) as stream:
            if stream.family != socket.AF_UNIX:
                raise ValueError("channels are for clients on the same machine")
            c.send(("#RETURN", None))
            _, fds, _, _ = socket.recv_fds(stream, 1, 2)
            if len(fds) != 2:  # this process has used up its own
                for fd in fds:
                    os.close(fd)
                raise ValueError("a channel has two descriptors")
            pid = struct.unpack("3i", stream.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0]
        try:
            channel = _core.ProxyChannel.attach(fds[0], fds[1], 1)
        except BaseException:
            os.close(fds[0])
            os.close(fds[1])
            raise
        c.close()
        self._serve_channel(_Served(channel, self._clients.enter(pid)))

    def leave(self, c: Any) -> None:
        """The client ends in an orderly way: what it holds stays held."""
        if isinstance(c, _Served):
            c.client.leaving = True

    def incref(self, c: Any, ident: str) -> None:
        """Count a reference, and whose it is."""
        super().incref(c, ident)
        if isinstance(c, _Served):
            with self.mutex:
                c.client.references[ident] = c.client.references.get(ident, 0) + 1

    def decref(self, c: Any, ident: str) -> None:
        """Drop a reference."""
        if isinstance(c, _Served):
            with self.mutex:
                left = c.client.references.get(ident, 0) - 1
                if left > 0:
                    c.client.references[ident] = left
                else:
                    c.client.references.pop(ident, None)
        super().decref(c, ident)

    # ---- requests to objects ----

    def _serve_channel(self, c: _Served) -> None:
        serving = _held.serving
        serving.client = c.client
        recv, send, answer = c.recv, c.send, self._answer
        try:
            while not self.stop_event.is_set():
                request = None
                try:
                    request = recv()
                    serving.told = None
                    message = answer(c, request)
                except EOFError:
                    break
                except _held.ClientLost:
                    break
                except Exception:
                    message = ("#TRACEBACK", format_exc())
                try:
                    send(message)
                except OSError:
                    self._take_back(request, message)
                    break
                except Exception:
                    send(("#UNSERIALIZABLE", format_exc()))
        except OSError as problem:
            util.debug("a channel of client %d: %r", c.client.pid, problem)
        finally:
            c.close()
            _held.await_end()

    def _answer(self, c: _Served, request: Any) -> tuple[str, Any]:
        ident, name, args = request[:3]
        kwds = request[3] if len(request) > 3 else {}
        if ident is None:
            return self._answer_itself(c, name, args, kwds)
        try:
            obj, exposed, types = self.id_to_obj[ident]
        except KeyError:
            obj, exposed, types = self.id_to_local_proxy_obj[ident]
        if name not in exposed:
            return self._answer_fallback(c, ident, obj, name, args, kwds, exposed)
        try:
            function = getattr(obj, name)
        except AttributeError:
            return self._answer_fallback(c, ident, obj, name, args, kwds, exposed)
        try:
            result = function(*args, **kwds)
        except _held.ClientLost:
            raise
        except Exception as problem:
            return "#ERROR", problem
        typeid = types and types.get(name)
        if typeid:
            made, made_exposed = self.create(c, typeid, result)
            return "#PROXY", (made_exposed, Token(typeid, self.address, made))
        return "#RETURN", result

    def _answer_itself(self, c: _Served, name: str, args: Any, kwds: Any) -> tuple[str, Any]:
        if name not in self.public or name in ("shutdown", "accept_connection", "open_channel"):
            raise ValueError(f"{name!r} unrecognized")
        return "#RETURN", getattr(self, name)(c, *args, **kwds)

    def _answer_fallback(self, c: _Served, ident: str, obj: Any, name: str, args: Any, kwds: Any, exposed: Any) -> tuple[str, Any]:
        if name not in self.fallback_mapping:
            raise AttributeError(f"method {name!r} of {type(obj)!r} object is not in exposed={exposed!r}")
        return "#RETURN", self.fallback_mapping[name](self, c, ident, obj, *args, **kwds)

    def _take_back(self, request: Any, message: Any) -> None:
        # What a killed client was just about to get is for another.
        if message[0] == "#RETURN" and request[0] is not None and request[1] in ("get", "get_nowait"):
            obj = self.id_to_obj.get(request[0], (None,))[0]
            if isinstance(obj, _Queue):
                obj._put_back(message[1])


class _Queue(queue.Queue[Any]):
    """A queue that keeps what was meant for a client that was killed."""

    def _put_back(self, item: Any) -> None:
        with self.mutex:
            self.queue.appendleft(item)
            self.not_empty.notify()

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        """The oldest item; raises queue.Empty."""
        found: list[Any] = []

        def acquire(blocking: bool, bound: float) -> bool:
            try:
                found.append(queue.Queue.get(self, blocking, None if bound == -1 else bound))
            except queue.Empty:
                return False
            return True

        if timeout is not None and timeout < 0 and block:
            raise ValueError("'timeout' must be a non-negative number")
        try:
            if not _held.take(acquire, (timeout if block else 0.0)):
                raise queue.Empty
        except _held.ClientLost:
            for item in found:
                self._put_back(item)
            raise
        return found[0]


# ---- the client's side ----------------------------------------------------------------------------------------------


class _Local(threading.local):
    """Each thread's connection to a manager. The standard library's class registers itself once more in every thread."""


_locals: weakref.WeakSet[_Local] = weakref.WeakSet()


def _forget_connections() -> None:
    # They are the parent's.
    for local in list(_locals):
        local.__dict__.clear()


os.register_at_fork(after_in_child=_forget_connections)


def _local(address: Any) -> tuple[Any, Any]:
    """This process's books of the manager at that address: connections for each thread, and the objects that it refers to."""
    with BaseProxy._mutex:
        found = BaseProxy._address_to_local.get(address)
        if found is None:
            found = BaseProxy._address_to_local[address] = _Local(), ProcessLocalSet()
            _locals.add(found[0])
        return found  # type: ignore[no-any-return]


def _leave(address: Any, authkey: bytes, pid: int) -> None:
    # Registered by the process's first channel to a manager, run when it ends in an orderly way.
    if pid != os.getpid():
        return
    found = BaseProxy._address_to_local.get(address)
    if found is None:  # the manager was shut down
        return
    try:
        _ask(address, authkey, "pickle", found[0], "leave")
    except Exception as problem:
        util.debug("taking leave of the manager at %r failed: %r", address, problem)


_leaving: dict[Any, int] = {}  # address -> the process that has registered


def _open_channel(address: Any, authkey: bytes, conn: Any) -> _core.ProxyChannel:
    """Turn an authenticated connection over a unix socket into a channel. Raises RemoteError when the server knows of none."""
    dispatch(conn, None, "open_channel", (_thread_name(),))
    ours, theirs = _core.ProxyChannel.pair()
    memory, end, _ = theirs.parts()
    with socket.socket(fileno=os.dup(conn.fileno())) as stream:
        socket.send_fds(stream, [b"c"], [memory, end])
    theirs.close()
    if _leaving.get(address) != os.getpid():
        _leaving[address] = os.getpid()
        util.Finalize(None, _leave, args=(address, authkey, os.getpid()), exitpriority=11)
    return ours


def _thread_name() -> str:
    name: str = process.current_process().name
    thread = threading.current_thread().name
    return name if thread == "MainThread" else f"{name}|{thread}"


_without: set[Any] = set()  # addresses of servers that have no channels


def _connect(address: Any, authkey: bytes, serializer: str, tls: Any) -> Any:
    """A connection on which this thread's requests are served from now on, kept in `tls`."""
    client = listener_client[serializer][1]
    local = isinstance(address, str) and serializer == "pickle" and address not in _without
    connection = client(address, authkey=authkey)
    try:
        if local:
            try:
                channel = _open_channel(address, authkey, connection)
            except RemoteError:
                _without.add(address)
                connection.close()
                return _connect(address, authkey, serializer, tls)
            connection.close()
            connection = channel
        else:
            dispatch(connection, None, "accept_connection", (_thread_name(),))
    except BaseException:
        connection.close()
        raise
    tls.connection = connection
    return connection


def _ask(address: Any, authkey: bytes, serializer: str, tls: Any, name: str, args: tuple[Any, ...] = (), kwds: Any = {}) -> Any:
    """Have the server itself do something: over this thread's channel, or a connection made for it."""
    connection = getattr(tls, "connection", None)
    if connection is None and isinstance(address, str) and serializer == "pickle" and address not in _without:
        connection = _connect(address, authkey, serializer, tls)
    if isinstance(connection, _core.ProxyChannel) and not connection.busy:
        try:
            kind, result = connection.call((None, name, args, kwds) if kwds else (None, name, args))
        except BaseException:
            _drop_closed(tls, connection)
            raise
        if kind == "#RETURN":
            return result
        raise convert_to_error(kind, result)
    connection = listener_client[serializer][1](address, authkey=authkey)
    try:
        return dispatch(connection, None, name, args, kwds)
    finally:
        connection.close()


def _drop_closed(tls: Any, channel: _core.ProxyChannel) -> None:
    if channel.closed and getattr(tls, "connection", None) is channel:
        del tls.connection


class BaseProxy(_std.BaseProxy):  # type: ignore[misc]
    """What stands for an object in a manager's server; see `multiprocessing.managers.BaseProxy`."""

    def __init__(self, token: Any, serializer: str, manager: Any = None, authkey: bytes | None = None, exposed: Any = None, incref: bool = True,
                 manager_owned: bool = False) -> None:
        _local(token.address)
        super().__init__(token, serializer, manager, authkey, exposed, incref, manager_owned)

    def _connect(self) -> None:
        util.debug("making connection to manager")
        _connect(self._token.address, self._authkey, self._serializer, self._tls)

    def _callmethod(self, methodname: str, args: tuple[Any, ...] = (), kwds: Any = {}) -> Any:
        """Call a method of the object and return what it returned, or raise what it raised."""
        try:
            connection = self._tls.connection
        except AttributeError:
            self._connect()
            connection = self._tls.connection
        if type(connection) is _core.ProxyChannel:
            if connection.busy:
                return self._call_beside(methodname, args, kwds)
            try:
                kind, result = connection.call((self._id, methodname, args, kwds) if kwds else (self._id, methodname, args))
            except BaseException:
                _drop_closed(self._tls, connection)
                raise
        else:
            connection.send((self._id, methodname, args, kwds))
            kind, result = connection.recv()
        if kind == "#RETURN":
            return result
        if kind == "#PROXY":
            return self._proxy_of(*result)
        try:
            raise convert_to_error(kind, result)
        finally:
            del result

    def _call_beside(self, methodname: str, args: tuple[Any, ...], kwds: Any) -> Any:
        # A finalizer or a signal handler in the middle of another call of this thread: over a connection of its own.
        connection = self._tls.connection
        del self._tls.connection
        try:
            return self._callmethod(methodname, args, kwds)
        finally:
            beside = getattr(self._tls, "connection", None)
            self._tls.connection = connection
            if beside is not None and beside is not connection:
                beside.close()

    def _proxy_of(self, exposed: Any, token: Any) -> Any:
        proxytype = self._manager._registry[token.typeid][-1]
        token.address = self._token.address
        proxy = proxytype(token, self._serializer, manager=self._manager, authkey=self._authkey, exposed=exposed)
        _ask(token.address, self._authkey, self._serializer, self._tls, "decref", (token.id,))
        return proxy

    def _incref(self) -> None:
        if self._owned_by_manager:
            util.debug("owned_by_manager skipped INCREF of %r", self._token.id)
            return
        _ask(self._token.address, self._authkey, self._serializer, self._tls, "incref", (self._id,))
        util.debug("INCREF %r", self._token.id)
        self._idset.add(self._id)
        state = self._manager and self._manager._state
        self._close = util.Finalize(self, BaseProxy._decref, args=(self._token, self._authkey, state, self._tls, self._idset, self._serializer),
                                    exitpriority=10)

    @staticmethod
    def _decref(token: Any, authkey: bytes, state: Any, tls: Any, idset: Any, serializer: str) -> None:
        idset.discard(token.id)
        if state is None or state.value == State.STARTED:
            try:
                util.debug("DECREF %r", token.id)
                _ask(token.address, authkey, serializer, tls, "decref", (token.id,))
            except Exception as problem:
                util.debug("... decref failed %s", problem)
        else:
            util.debug("DECREF %r -- manager already shutdown", token.id)
        connection = getattr(tls, "connection", None)
        if not idset and connection is not None and not getattr(connection, "busy", False):
            util.debug("thread %r has no more proxies so closing conn", threading.current_thread().name)
            connection.close()
            del tls.connection

    def __reduce__(self) -> Any:
        _, (kind, *rest) = super().__reduce__()
        return RebuildProxy, (AutoProxy if getattr(self, "_isauto", False) else kind, *rest)


RebuildProxy = rebind(_std.RebuildProxy, __name__)
MakeProxyType = rebind(_std.MakeProxyType, __name__, BaseProxy=BaseProxy)
MakeProxyType.__defaults__ = ({},)  # types made by it, of its own


def AutoProxy(token: Any, serializer: str, manager: Any = None, authkey: bytes | None = None, exposed: Any = None, incref: bool = True,
              manager_owned: bool = False) -> Any:
    """A proxy with all public methods of its object."""
    if authkey is None:
        authkey = manager._authkey if manager is not None else process.current_process().authkey
    if exposed is None:
        exposed = _ask(token.address, authkey, serializer, _local(token.address)[0], "get_methods", (token,))
    kind = MakeProxyType(f"AutoProxy[{token.typeid}]", exposed)
    proxy = kind(token, serializer, manager=manager, authkey=authkey, incref=incref, manager_owned=manager_owned)
    proxy._isauto = True
    return proxy


class IteratorProxy(BaseProxy, _std.IteratorProxy):  # type: ignore[misc]
    """Stands for an iterator."""


class AcquirerProxy(BaseProxy, _std.AcquirerProxy):  # type: ignore[misc]
    """Stands for a lock or semaphore."""


class ConditionProxy(AcquirerProxy, _std.ConditionProxy):  # type: ignore[misc]
    """Stands for a condition."""


class EventProxy(BaseProxy, _std.EventProxy):  # type: ignore[misc]
    """Stands for an event."""


class BarrierProxy(BaseProxy, _std.BarrierProxy):  # type: ignore[misc]
    """Stands for a barrier."""


class NamespaceProxy(BaseProxy, _std.NamespaceProxy):  # type: ignore[misc]
    """Stands for a namespace: its attributes are those of the object."""


class ValueProxy(BaseProxy, _std.ValueProxy):  # type: ignore[misc]
    """Stands for a value."""


class BaseListProxy(BaseProxy, _std.BaseListProxy):  # type: ignore[misc]
    """The methods of a list."""


class ListProxy(BaseListProxy, _std.ListProxy):  # type: ignore[misc]
    """Stands for a list."""


class DictProxy(BaseProxy, _std.DictProxy):  # type: ignore[misc]
    """Stands for a dict."""


class ArrayProxy(BaseProxy, _std.ArrayProxy):  # type: ignore[misc]
    """Stands for an array."""


class BasePoolProxy(BaseProxy, _std.BasePoolProxy):  # type: ignore[misc]
    """The methods of a pool."""


class PoolProxy(BasePoolProxy, _std.PoolProxy):  # type: ignore[misc]
    """Stands for a pool."""


# ---- managers ----------------------------------------------------------------------------------------------------------


class _Daemons:
    """A context whose processes are daemons: killed with their parent."""

    def __init__(self, context: Any) -> None:
        self._context = context

    def Process(self, *args: Any, **kwds: Any) -> Any:
        made = self._context.Process(*args, **kwds)
        made.daemon = True
        return made


class BaseManager(_std.BaseManager):  # type: ignore[misc]
    """A manager: starts or connects to a server of shared objects, and makes proxies for them; see `multiprocessing.managers.BaseManager`."""

    _Server = Server
    _ctx: Any

    def __init__(self, address: Any = None, authkey: bytes | None = None, serializer: str = "pickle", ctx: Any = None, *,
                 shutdown_timeout: float = 1.0) -> None:
        from .context import _default_context

        super().__init__(address, authkey, serializer, ctx or _default_context.get_context())
        self._shutdown_timeout = shutdown_timeout

    get_server = rebind(_std.BaseManager.get_server, __name__, Server=Server)

    def start(self, initializer: Callable[..., object] | None = None, initargs: Any = ()) -> None:
        """Start a process with the server; it ends with this one, however that ends."""
        context = self._ctx
        self._ctx = _Daemons(context)
        try:
            super().start(initializer, initargs)
        finally:
            self._ctx = context

    def connect(self) -> None:
        """Connect to a server that runs already."""
        connection = self._Client(self._address, authkey=self._authkey)
        try:
            dispatch(connection, None, "dummy")
        finally:
            connection.close()
        self._state.value = State.STARTED

    def _ask(self, name: str, args: tuple[Any, ...] = (), kwds: Any = {}) -> Any:
        return _ask(self._address, self._authkey, self._serializer, _local(self._address)[0], name, args, kwds)

    def _create(self, typeid: str, /, *args: Any, **kwds: Any) -> Any:
        assert self._state.value == State.STARTED, "server not yet started"
        ident, exposed = self._ask("create", (typeid, *args), kwds)
        return Token(typeid, self._address, ident), exposed

    def _debug_info(self) -> str:
        return self._ask("debug_info")  # type: ignore[no-any-return]

    def _number_of_objects(self) -> int:
        return self._ask("number_of_objects")  # type: ignore[no-any-return]

    @classmethod
    def register(cls, typeid: str, callable: Callable[..., Any] | None = None, proxytype: Any = None, exposed: Any = None, method_to_typeid: Any = None,
                 create_method: bool = True) -> None:
        """Register a type of shared objects: how the server makes one, and which proxy stands for it."""
        super().register(typeid, callable, proxytype or AutoProxy, exposed, method_to_typeid, create_method=False)
        if not create_method:
            return
        made_by = proxytype or AutoProxy

        def create(self: BaseManager, /, *args: Any, **kwds: Any) -> Any:
            util.debug("requesting creation of a shared %r object", typeid)
            token, exposed = self._create(typeid, *args, **kwds)
            proxy = made_by(token, self._serializer, manager=self, authkey=self._authkey, exposed=exposed)
            self._ask("decref", (token.id,))
            return proxy

        create.__name__ = typeid
        setattr(cls, typeid, create)


class SyncManager(BaseManager):
    """A manager of locks and their kin, queues, lists, dicts, values, namespaces and pools; what `manyhands.Manager()` starts.

    What a killed client held is given back, and the next to acquire goes on.
    """


def _make_pool(*args: Any, **kwds: Any) -> Any:
    from .pool import Pool

    return Pool(*args, **kwds)


SyncManager.register("Queue", _Queue)
SyncManager.register("JoinableQueue", _Queue)
SyncManager.register("Event", threading.Event, EventProxy)
SyncManager.register("Lock", _held.Lock, AcquirerProxy)
SyncManager.register("RLock", _held.RLock, AcquirerProxy)
SyncManager.register("Semaphore", _held.Semaphore, AcquirerProxy)
SyncManager.register("BoundedSemaphore", _held.BoundedSemaphore, AcquirerProxy)
SyncManager.register("Condition", _held.Condition, ConditionProxy)
SyncManager.register("Barrier", threading.Barrier, BarrierProxy)
SyncManager.register("Pool", _make_pool, PoolProxy)
SyncManager.register("list", list, ListProxy)
SyncManager.register("dict", dict, DictProxy)
SyncManager.register("Value", Value, ValueProxy)
SyncManager.register("Array", Array, ArrayProxy)
SyncManager.register("Namespace", Namespace, NamespaceProxy)
SyncManager.register("Iterator", proxytype=IteratorProxy, create_method=False)
SyncManager.register("AsyncResult", create_method=False)


# ---- shared memory -----------------------------------------------------------------------------------------------------


class _SharedMemoryTracker(_std._SharedMemoryTracker):  # type: ignore[misc]
    """The segments of a manager, which its server removes."""

    def destroy_segment(self, segment_name: str) -> None:
        """Remove one of them."""
        self.segment_names.remove(segment_name)
        _core.shm_unlink(segment_name)
        resource_tracker._unlinked(segment_name)


class SharedMemoryServer(Server, _std.SharedMemoryServer):  # type: ignore[misc]
    """A server that also removes segments: when it is asked to, when it ends, and when it is killed."""

    public = [*Server.public, "track_segment", "release_segment", "list_segments"]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.shared_memory_context: Any = _SharedMemoryTracker(f"shm_{self.address!r}_{os.getpid()}", [])

    def track_segment(self, c: Any, segment_name: str) -> None:
        """Take over the removal of a segment."""
        resource_tracker.register(segment_name, "shared_memory")
        super().track_segment(c, segment_name)


class SharedMemoryManager(BaseManager, _std.SharedMemoryManager):  # type: ignore[misc]
    """A manager of segments and lists in shared memory: they are removed when it shuts down.

        >>> from manyhands.managers import SharedMemoryManager
        >>> with SharedMemoryManager() as manager:
        ...     shared = manager.ShareableList([1, 2, 3])
        ...     shared[1]
        2
    """

    _Server = SharedMemoryServer

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        BaseManager.__init__(self, *args, **kwargs)

    get_server = _std.SharedMemoryManager.get_server

    def _hand_over(self, memory: _memory.SharedMemory) -> None:
        # The server knows of it before this process forgets it: no kill in between leaves the name.
        try:
            self._ask("track_segment", (memory.name,))
        except BaseException:
            memory.close()
            memory.unlink()
            raise
        resource_tracker.unregister(memory.name, "shared_memory")

    def _check_started(self) -> None:
        if self._state.value != State.STARTED:
            raise ValueError("the manager's server has not been started")

    def SharedMemory(self, size: int) -> _memory.SharedMemory:
        """A new segment of `size` bytes."""
        self._check_started()
        memory = _memory.SharedMemory(None, create=True, size=size)
        self._hand_over(memory)
        return memory

    def ShareableList(self, sequence: Any) -> _memory.ShareableList:
        """A new list of plain values in a segment."""
        self._check_started()
        made: Any = _memory.ShareableList(sequence)
        self._hand_over(made.shm)
        return made  # type: ignore[no-any-return]
