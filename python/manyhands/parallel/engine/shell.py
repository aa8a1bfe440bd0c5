"""Where an executor runs code: a persistent namespace. This one is plain Python; `ipython.py` has the one with IPython's shell."""

from __future__ import annotations

import ast
import builtins
import sys
import traceback
import types
from typing import Any, Callable, Mapping

from .. import util

__all__ = ["PlainShell", "Publish", "text_of", "unknown_request", "users_part"]

Publish = Callable[..., None]  # (message type, content, buffers)


class PlainShell:
    """Runs code in a namespace that is the `__main__` of its process; publish(message type, content) sends output."""

    def __init__(self, publish: Publish, settings: Mapping[str, Any]) -> None:
        self._publish = publish
        self.execution_count = 1
        main = types.ModuleType("__main__")
        sys.modules["__main__"] = main
        self.user_ns: dict[str, Any] = vars(main)
        self.user_ns["__builtins__"] = builtins  # unpickling by code that runs here imports by it
        self.user_global_ns = self.user_ns
        util._shell = self

    def execute(self, content: Mapping[str, Any]) -> dict[str, Any]:
        """Answer an execute_request."""
        code, silent = content["code"], bool(content.get("silent", False))
        count = self.execution_count
        if not silent:
            self._publish("execute_input", {"code": code, "execution_count": count})
        reply: dict[str, Any] = {"execution_count": count, "user_expressions": {}, "payload": []}
        try:
            self._run(code, silent)
            reply["status"] = "ok"
            reply["user_expressions"] = {name: self._evaluate(text) for name, text in (content.get("user_expressions") or {}).items()}
        except BaseException as e:
            reply.update(self.describe(e))
        if not silent and content.get("store_history", True):
            self.execution_count += 1
        return reply

    def _run(self, code: str, silent: bool) -> None:
        tree = ast.parse(code, "<input>")
        last = tree.body[-1] if tree.body else None
        if isinstance(last, ast.Expr):
            tree.body.pop()
        exec(compile(tree, "<input>", "exec"), self.user_ns)
        if isinstance(last, ast.Expr):
            value = eval(compile(ast.Expression(last.value), "<input>", "eval"), self.user_ns)
            if value is not None and not silent:
                self.user_ns["_"] = value
                self._publish("execute_result", {"execution_count": self.execution_count, "data": {"text/plain": repr(value)}, "metadata": {}})

    def _evaluate(self, text: str) -> dict[str, Any]:
        try:
            return {"status": "ok", "data": {"text/plain": repr(eval(text, self.user_ns))}, "metadata": {}}
        except Exception as e:
            return {"status": "error", "ename": type(e).__name__, "evalue": str(e), "traceback": traceback.format_exception(e)}

    def describe(self, exception: BaseException) -> dict[str, Any]:
        """An exception as the content of a reply; it is published as an error too."""
        lines = traceback.format_exception(type(exception), exception, users_part(exception.__traceback__))
        content = {"ename": type(exception).__name__, "evalue": text_of(exception), "traceback": [line.rstrip("\n") for line in lines]}
        self._publish("error", content)
        return {"status": "error", **content}

    def other(self, kind: str, content: Mapping[str, Any]) -> dict[str, Any]:
        """Answer another request of a kernel."""
        if kind == "kernel_info_request":
            return {"status": "ok", "protocol_version": "5.3", "implementation": "manyhands", "implementation_version": "",
                    "language_info": {"name": "python", "version": sys.version.split()[0]}, "banner": ""}
        return unknown_request(kind)

    def reset(self) -> None:
        """Forget everything but what a fresh namespace has."""
        for name in [name for name in self.user_ns if not name.startswith("__")]:
            del self.user_ns[name]


def unknown_request(kind: str) -> dict[str, Any]:
    """The answer to a request that nobody here knows."""
    return {"status": "error", "ename": "NotImplementedError", "evalue": f"this engine does not answer {kind}", "traceback": []}


def text_of(exception: BaseException) -> str:
    try:
        return str(exception)
    except Exception:
        return f"<{type(exception).__name__}, whose text cannot be had>"


def users_part(tb: types.TracebackType | None) -> types.TracebackType | None:
    # The frames of this package are not the user's.
    package = __name__.rpartition(".")[0]
    while tb is not None and str(tb.tb_frame.f_globals.get("__name__", "")).startswith(package):
        tb = tb.tb_next
    return tb
