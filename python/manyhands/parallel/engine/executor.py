"""The executor's loop: one request after the other, until the engine hangs up."""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import signal
import sys
from types import BuiltinFunctionType
from typing import Any, Mapping

from ..remotefunction import _map
from ..serialize import names, serialize, serialize_object, unpack_apply_message
from ..serialize.canning import CannedFunction
from . import datapub
from .link import Kind, Link, dump_json
from .shell import PlainShell
from .streams import Stream

__all__ = ["Executor", "main"]


_PLAIN_END = (b"\x93.", b"\x93\x94.")  # of a pickle that is nothing but a name
_OK = b'{"status": "ok"}'


class Executor:
    """Runs what comes over the link in one shell. Calls that are small and plain are run by the link itself (python/src/link.c)."""

    def __init__(self, link: Link, settings: Mapping[str, Any]) -> None:
        self._link = link
        self._streams = [Stream(name, self._print, self._note) for name in ("stdout", "stderr")]
        sys.stdout, sys.stderr = self._streams
        self._shell = _make_shell(settings)(link.publish, settings)
        self.serialize = serialize_object
        _answer_stock_imports()

    def _print(self, name: str, text: str) -> None:
        self._link.publish("stream", {"name": name, "text": text})

    def _note(self) -> None:
        self._link.has_printed = True

    def run(self) -> None:
        """Serve until the engine hangs up."""
        self.interrupt = self._interrupt
        signal.signal(signal.SIGINT, self.interrupt)
        self._link.send(Kind.READY, [])
        self._link.serve(self)

    def _interrupt(self, number: int, frame: Any) -> None:
        # they reach a request, and nothing else: between requests they are ignored
        if self._link.is_running:
            signal.default_int_handler(number, frame)

    # ---- for the link -------------------------------------------------------------------------------------------------

    def flush(self) -> None:
        """What a task printed precedes its answer."""
        self._link.has_printed = False
        for stream in self._streams:
            stream.end_task()

    def failure(self, exception: BaseException) -> list[Any]:
        """The frames of a reply that tells of an exception."""
        content = self._shell.describe(exception)
        self.flush()
        return [self._dump(content), b"0" if content.get("ename") == "UnmetDependency" else b"1"]

    def answer(self, kind: int, frames: list[memoryview]) -> list[Any]:
        """The frames of the reply to a request."""
        try:
            self._link.is_running = True
            try:
                content, buffers = self._answer(kind, frames)
            finally:
                self._link.is_running = False
        except BaseException as e:
            return self.failure(e)
        self.flush()
        return [_OK if content is None else self._dump(content), b"1", *buffers]

    def learn(self, data: bytes) -> tuple[Any, ...] | None:
        """How to make the function in this pickle again, as the link knows it (make_function); None: by reading it each time."""
        if b"CannedFunction" not in data and not data.endswith(_PLAIN_END):
            return None
        found = serialize.loads(data)
        if isinstance(found, CannedFunction):
            return self._learn_code(found)
        module = sys.modules.get(getattr(found, "__module__", None) or "")
        is_there = isinstance(found, (BuiltinFunctionType, type)) and module is not None and vars(module).get(found.__name__) is found
        if is_there:
            return 1, found.__module__, module, found.__name__, found, None, None
        return None

    def _learn_code(self, canned: CannedFunction) -> tuple[Any, ...] | None:
        annotations = canned.annotations or None
        if canned.defaults or canned.kwdefaults or canned.closure or not all(isinstance(kind, (type, str)) for kind in (annotations or {}).values()):
            return None
        if canned.module.startswith("__"):
            return 2, None, None, canned.code, self._shell.user_ns, canned.__name__, annotations
        module = names.resolve_module(canned.module)
        if canned.module not in names.OURS:
            return 2, module.__name__, module, canned.code, vars(module), canned.__name__, annotations
        function = canned.get_object()
        if vars(module).get(canned.__name__) is not function:
            return None
        return 3 if function is _map else 1, module.__name__, module, canned.__name__, function, None, None

    # ---- requests -----------------------------------------------------------------------------------------------------

    def _dump(self, content: dict[str, Any]) -> bytes:
        try:
            return dump_json(content)
        except Exception as e:  # something in it can't be written, or is nested too deep
            return dump_json(self._shell.describe(ValueError(f"what this request answers is no JSON: {type(e).__name__}: {e}")))

    def _answer(self, kind: int, frames: list[memoryview]) -> tuple[dict[str, Any] | None, list[Any]]:
        if kind == Kind.APPLY:
            f, args, kwargs = unpack_apply_message(frames[1:], self._shell.user_ns)
            return None, serialize_object(f(*args, **kwargs))
        content = json.loads(bytes(frames[-1]))
        if kind == Kind.EXECUTE:
            return self._shell.execute(content), []
        return self._other(bytes(frames[0]).decode(), content), []

    def _other(self, kind: str, content: Mapping[str, Any]) -> dict[str, Any]:
        if kind == "clear_request":
            self._shell.reset()
            return {"status": "ok"}
        reply: dict[str, Any] = self._shell.other(kind, content)
        return reply


def _answer_stock_imports() -> None:
    """Tasks of stock clients import parts of ipyparallel here. Those that know our classes are ours, whether or not it is installed."""
    # what programs for stock engines import to publish data wants another shell
    sys.modules.setdefault("ipyparallel.engine.datapub", datapub)
    is_installed = importlib.util.find_spec("ipyparallel") is not None
    for theirs, ours in names.OURS.items():
        if not is_installed or theirs.startswith("ipyparallel.serialize."):
            sys.modules.setdefault(theirs, importlib.import_module(ours))


def _make_shell(settings: Mapping[str, Any]) -> Any:
    if settings.get("shell", "auto") != "plain":
        try:
            from .ipython import IPythonShell

            return IPythonShell
        except ImportError:
            if settings.get("shell") == "ipython":
                raise
    return PlainShell


def main(numbers: list[int]) -> int:
    """Attach to the pipe, take the settings, serve. The exit code: 0 when the engine hung up."""
    link = Link(*numbers)
    kind, frames = link.receive()
    if kind != Kind.SETUP:
        raise ValueError(f"an engine begins with its settings, not with {kind!r}")
    settings = json.loads(bytes(frames[0]))
    sys.path.insert(0, "")
    os.environ.update(settings.get("environment", {}))
    try:
        Executor(link, settings).run()
    except (EOFError, BrokenPipeError):
        pass
    return 0
