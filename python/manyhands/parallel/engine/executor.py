"""The executor's loop: one request after the other, until the engine hangs up."""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import signal
import sys
from typing import Any, Mapping

from ..serialize import names, serialize_object, unpack_apply_message
from . import datapub
from .link import Kind, Link, dump_json
from .shell import PlainShell
from .streams import Stream

__all__ = ["Executor", "main"]


class Executor:
    """Runs what comes over the link in one shell."""

    def __init__(self, link: Link, settings: Mapping[str, Any]) -> None:
        self._link = link
        self._streams = [Stream(name, self._print) for name in ("stdout", "stderr")]
        sys.stdout, sys.stderr = self._streams
        self._shell = _make_shell(settings)(self.publish, settings)
        _answer_stock_imports()

    def publish(self, kind: str, content: Any, buffers: Any = ()) -> None:
        """Send output of the task that runs."""
        self._link.send(Kind.OUTPUT, [kind.encode(), dump_json(content), b"{}", *buffers])

    def _print(self, name: str, text: str) -> None:
        self.publish("stream", {"name": name, "text": text})

    def run(self) -> None:
        """Serve until the engine hangs up."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        self._link.send(Kind.READY, [])
        while True:
            kind, frames = self._link.receive()
            for stream in self._streams:
                stream.begin_task()
            content, buffers = self._answer(kind, frames)
            del frames
            for stream in self._streams:
                stream.flush()
            met = b"0" if content.get("ename") == "UnmetDependency" else b"1"
            self._link.send(Kind.REPLY, [self._dump(content), met, *buffers])

    def _dump(self, content: dict[str, Any]) -> bytes:
        try:
            return dump_json(content)
        except Exception as e:  # something in it can't be written, or is nested too deep
            return dump_json(self._shell.describe(ValueError(f"what this request answers is no JSON: {type(e).__name__}: {e}")))

    def _answer(self, kind: Kind, frames: list[memoryview]) -> tuple[dict[str, Any], list[Any]]:
        # Interrupts reach a request, and nothing else: between requests they are ignored.
        try:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            try:
                if kind == Kind.APPLY:
                    return {"status": "ok"}, self._apply(frames[1:])
                content = json.loads(bytes(frames[-1]))
                if kind == Kind.EXECUTE:
                    return self._shell.execute(content), []
                return self._other(bytes(frames[0]).decode(), content), []
            finally:
                signal.signal(signal.SIGINT, signal.SIG_IGN)
        except BaseException as e:
            return self._shell.describe(e), []

    def _apply(self, buffers: list[memoryview]) -> list[Any]:
        f, args, kwargs = unpack_apply_message(buffers, self._shell.user_ns)
        return serialize_object(f(*args, **kwargs))

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
