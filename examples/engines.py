"""The applications on the engines of a cluster: which ones, and how they work as one team.

    parser = argparse.ArgumentParser()
    engines.add_options(parser)                          # --cluster, --engines, --network
    with engines.connect(parser.parse_args()) as client: # None: neither was given
        ...

Work that divides by itself goes to `Workers`, which are a pool's or a cluster's. A team's work goes in legs. In each, every engine gets a parcel, works with the others (which it talks to directly, see mesh/mesh.h) and gives back a reply. When an
engine dies in a leg, that leg is done again by those that are left, and those that have come: the client has all that it began with.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import functools
import importlib
import os
import secrets
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import native
from tqdm import tqdm

import manyhands
import manyhands.parallel as ipp
from manyhands.parallel.cluster import private

RETRIES = 3     # of a task whose worker or engine was killed
CHUNKS = 64     # for each engine, in what divides by itself
TRIES = 5       # legs in a row that lose an engine until we give up
PATIENCE = 60   # seconds for engines to come, and to find each other
BROKEN = 13     # MH_ERR_BROKEN: another member of the team is gone
ADDRESS, SECRET = 192, 32
EXAMPLES = Path(__file__).resolve().parent
FOLDERS = [str(EXAMPLES), *(str(EXAMPLES / name) for name in ("md", "nn", "video", "options"))]


# ---- which engines ------------------------------------------------------------------------------

def add_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("on a cluster")
    group.add_argument("--cluster", metavar="NAME", help="on the engines of this cluster: a profile, or the path of a client's connection file")
    group.add_argument("--engines", type=int, metavar="N", help="on a private cluster of so many engines, which ends with the program; with --cluster: wait until it has so many")
    group.add_argument("--network", default="127.0.0.1", metavar="ADDRESS",
                       help="engines on several hosts: an address in the network by which they reach each other (default: this host alone)")


@contextlib.contextmanager
def connect(options: argparse.Namespace) -> Iterator[ipp.Client | None]:
    """A client of the cluster that the options name, with engines; None when they name none."""
    if options.cluster is None and options.engines is None:
        yield None
        return
    if options.engines is not None and options.engines < 1:
        raise SystemExit(f"--engines {options.engines}: at least 1")
    with contextlib.ExitStack() as stack:
        client = stack.enter_context(_client(options.cluster, options.engines, stack))
        client.wait_for_engines(options.engines or 1, timeout=PATIENCE)
        yield client


def _client(cluster: str | None, count: int | None, stack: contextlib.ExitStack) -> ipp.Client:
    if cluster is None:
        ours = private.start(count, quiet=True)
        stack.callback(ours.release)
        return ipp.Client(ours.connection_file)
    return ipp.Client(cluster) if "/" in cluster or cluster.endswith(".json") else ipp.Client(profile=cluster)


@ipp.interactive # travels as code: an engine need not have this module
def call(folders: list[str], module: str, name: str, *args: Any) -> Any:
    """In an engine: module.name(*args) of an application, whose folder it has under the same path as the client."""
    import importlib
    import sys

    sys.path[:0] = [folder for folder in folders if folder not in sys.path]
    return getattr(importlib.import_module(module), name)(*args)


def name_of(function: Callable[..., Any]) -> tuple[list[str], str, str]:
    """What `call` needs to find a function of an application: view.apply_async(call, *name_of(function), *args)"""
    return FOLDERS, function.__module__, function.__name__


# ---- in an engine -------------------------------------------------------------------------------

_meshes: dict[str, ctypes.c_void_p] = {} # one at a time


def library() -> ctypes.CDLL:
    lib = native.load("mesh/libmesh.so")
    handle, until = ctypes.c_void_p, ctypes.c_int64
    for name, result, arguments in (
            ("mesh_listen", ctypes.c_int, [ctypes.POINTER(handle), ctypes.c_char_p, ctypes.c_char_p]),
            ("mesh_join", ctypes.c_int, [handle, ctypes.c_uint32, ctypes.c_uint32, ctypes.c_char_p, ctypes.c_char_p, until]),
            ("mesh_exchange", ctypes.c_int, [handle, ctypes.c_void_p, ctypes.c_void_p, until]),
            ("mesh_close", None, [ctypes.POINTER(handle)])):
        function = getattr(lib, name)
        function.restype, function.argtypes = result, arguments
    return lib


def listen(token: str, network: str) -> bytes:
    """Begin to be a member of a team: where the others find this engine."""
    for old in list(_meshes):
        leave(old)
    lib, mesh, address = library(), ctypes.c_void_p(), ctypes.create_string_buffer(ADDRESS)
    native.check(f"a socket in the network of {network}", lib.mesh_listen(mesh, network.encode(), address))
    _meshes[token] = mesh
    return address.raw


def join(token: str, rank: int, addresses: list[bytes], secret: bytes) -> int:
    """Connect with the others. An mh_err."""
    import time

    until = time.clock_gettime_ns(time.CLOCK_MONOTONIC) + PATIENCE * 10 ** 9
    return library().mesh_join(_meshes[token], rank, len(addresses), b"".join(addresses), secret, until)


def leave(token: str) -> None:
    if token in _meshes:
        library().mesh_close(_meshes.pop(token))


def work(token: str, module: str, member: str, parcel: bytes) -> int | bytes:
    """One leg: the reply, or an mh_err. After an error this engine has left, so that the others do not wait for it."""
    if token not in _meshes:
        return BROKEN
    done: int | bytes = BROKEN
    try:
        done = getattr(importlib.import_module(module), member)(_meshes[token], parcel)
    finally:
        if isinstance(done, int):
            leave(token)
    return done


# ---- work that divides by itself ----------------------------------------------------------------

def mortal(flag: str, module: str, name: str, item: tuple[bool, Any]) -> Any:
    """In a worker: module.name(item[1]). If it says item[0], the first worker that has come to the end of it is killed there."""
    result = getattr(importlib.import_module(module), name)(item[1])
    if item[0] and not os.path.exists(flag):
        open(flag, "x").close()
        os.kill(os.getpid(), signal.SIGKILL)
    return result


class Workers:
    """Those of a pool on this machine, or with a client the engines of its cluster. What is lost with one of them is done again."""

    def __init__(self, count: int | None = None, client: ipp.Client | None = None, kill: int | None = None):
        """kill: for tests: whoever has the item of this number is killed, once."""
        self.client, self.kill = client, kill
        self.pool: Any = manyhands.Pool(count or None) if client is None else manyhands.Pool(cluster=client, retries=RETRIES)

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *exc: object) -> None:
        self.pool.__exit__(*exc)

    def imap(self, function: Callable[[Any], Any], items: list[Any], progress: str | None = None, *, ordered: bool = True) -> Iterator[Any]:
        """function of each item, in order or as they come; progress: what stands before the bar."""
        with contextlib.ExitStack() as stack:
            task, before = function, []
            if self.kill is not None:
                flag = os.path.join(stack.enter_context(tempfile.TemporaryDirectory()), "killed")
                items, before = [(k == self.kill, item) for k, item in enumerate(items)], [flag, *name_of(function)[1:]]
                task = functools.partial(mortal, *before)
            if self.client is not None:
                task = functools.partial(call, *name_of(mortal if before else function), *before)
            imap = self.pool.imap if ordered else self.pool.imap_unordered
            if self.client is not None:
                chunk = max(1, len(items) // (CHUNKS * max(1, len(self.client)))) # what is sent at once
                yield from tqdm(imap(task, items, chunk), desc=progress, total=len(items), disable=progress is None)
            else:
                yield from imap(task, items, retries=(RETRIES, 0), progress=progress or False)


# ---- in the client ------------------------------------------------------------------------------

class Lost(Exception):
    """An engine died, or one that another talked to."""


class Team:
    """The engines of a cluster, working together."""

    def __init__(self, client: ipp.Client, *, network: str = "127.0.0.1", setup: Callable[..., Any] | None = None, data: Any = ()):
        """setup(*data) is called once in each engine, before its first leg."""
        self.client, self.network, self.setup, self.data = client, network, setup, data
        self.ids: list[int] = []   # by rank
        self.known: set[int] = set()
        self.token = ""
        self.losses = 0            # legs that were done again

    def leg(self, member: Callable[[ctypes.c_void_p, bytes], int | bytes], pack: Callable[[int], list[bytes]]) -> list[bytes]:
        """Each engine's reply, by rank. pack(count) makes a parcel for each of `count` engines; member works on one in an engine."""
        for _ in range(TRIES):
            try:
                self._meet()
                replies = self._ask(work, [(self.token, member.__module__, member.__name__, parcel) for parcel in pack(len(self.ids))])
                return [reply for reply in replies if isinstance(reply, bytes)]
            except Lost:
                self.token = ""
                self.losses += 1
                print("an engine was lost; the others do this leg again", file=sys.stderr)
        raise SystemExit(f"{TRIES} times in a row an engine was lost")

    def meet(self) -> None:
        """Before the first leg: what else that would do, so that it counts for itself."""
        for _ in range(TRIES):
            with contextlib.suppress(Lost):
                return self._meet()
        raise SystemExit(f"{TRIES} times in a row an engine was lost before the work began")

    def _meet(self) -> None:
        """A new mesh, if the engines that there are have changed."""
        if self.token and self.ids == self.client.ids:
            return
        self.client.wait_for_engines(1, timeout=PATIENCE)
        self.ids, self.token, secret = list(self.client.ids), "", secrets.token_bytes(SECRET)
        new = [e for e in self.ids if e not in self.known]
        token = secrets.token_hex(8)
        if new and self.setup:
            self._wait(self._call(e, self.setup, *self.data) for e in new)
        self.known.update(new)
        addresses = self._ask(listen, [(token, self.network)] * len(self.ids))
        self._ask(join, [(token, rank, addresses, secret) for rank in range(len(self.ids))])
        self.token = token

    def _ask(self, function: Callable[..., Any], arguments: list[tuple[Any, ...]]) -> list[Any]:
        """function(*arguments[rank]) on each engine at the same time. Lost when one is gone; ends the program when one fails by itself."""
        ended = self._wait(self._call(e, function, *arguments[rank]) for rank, e in enumerate(self.ids))
        errors = {result for result in ended if isinstance(result, int)} - {0}
        if errors - {BROKEN}:
            raise SystemExit(f"an engine failed: mh_err {max(errors - {BROKEN})} (see manyhands/base.h)")
        if errors:
            raise Lost
        return ended

    def _call(self, engine: int, function: Callable[..., Any], *arguments: Any) -> Any:
        """An AsyncResult, or None: the engine has just gone."""
        try:
            return self.client[engine].apply_async(call, *name_of(function), *arguments)
        except (IndexError, ipp.NoEnginesRegistered):
            return None

    @staticmethod
    def _wait(results: Iterator[Any]) -> list[Any]:
        ended, lost = [], False
        for result in list(results):
            try:
                ended.append(result.get() if result is not None else BROKEN)
            except ipp.CompositeError as problem:
                if any(name != "EngineError" for name, *_ in problem.elist):
                    raise
                lost = True
            except ipp.RemoteError as problem:
                if problem.ename != "EngineError":
                    raise
                lost = True
        if lost:
            raise Lost
        return ended
