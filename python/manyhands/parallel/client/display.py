"""What tasks print and display, shown here: when it is there, or as it comes."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Iterator

from .. import error, util

if TYPE_CHECKING:
    from .asyncresult import AsyncResult
    from .futures import MessageFuture

__all__ = ["show", "streaming"]


class _Screen:
    """Text of several engines on this process's streams, headed by where it comes from when that changes."""

    def __init__(self) -> None:
        self._last = ""
        self._ended_line = True

    def write(self, text: str, prefix: str = "", file: Any = None) -> None:
        if not text:
            return
        head = ""
        if prefix and prefix != self._last:
            head = ("" if self._ended_line else "\n") + prefix + "\n"
            self._last = prefix
        self._ended_line = text.endswith("\n")
        print(head + text, file=sys.stdout if file is None else file, end="")


def _publish(content: dict[str, Any], engine_id: Any) -> None:
    shell = util.local_ipython()
    if shell is not None:
        shell.display_pub.publish(data=content["data"], metadata={**(content.get("metadata") or {}), "engine": engine_id})


def _display(value: Any) -> None:
    from IPython.display import display

    display(value)  # type: ignore[no-untyped-call, unused-ignore]


def _heading(engine_id: Any) -> None:
    from IPython.display import display_pretty

    display_pretty(f"[output:{engine_id}]", raw=True)  # type: ignore[no-untyped-call, unused-ignore]


# ---- afterwards ----------------------------------------------------------------------------------------------------


def _show_streams(screen: _Screen, engine_id: Any, md: Any, names: tuple[str, ...]) -> None:
    for name in names:
        screen.write(md[name], f"[{name}:{engine_id}] ", getattr(sys, name))


def _show_single(ar: AsyncResult, result_only: bool) -> None:
    md = ar.metadata
    screen = _Screen()
    if not result_only:
        screen.write(md["stdout"])
        screen.write(md["stderr"], file=sys.stderr)
    if util.local_ipython() is None:
        return
    if not result_only:
        for output in md["outputs"]:
            _publish(output, md["engine_id"])
    if md["execute_result"] is not None:
        _display(ar.get())


def _show_by_engine(screen: _Screen, parts: list[tuple[Any, Any, Any]], result_only: bool) -> None:
    for engine_id, md, result in parts:
        if not result_only:
            _show_streams(screen, engine_id, md, ("stdout", "stderr"))
        if util.local_ipython() is None:
            continue
        outputs = [] if result_only else md["outputs"]
        if outputs or md["execute_result"] is not None:
            _heading(engine_id)
        for output in outputs:
            _publish(output, engine_id)
        if md["execute_result"] is not None:
            _display(result)


def _show_displayed(parts: list[tuple[Any, Any, Any]], in_order: bool) -> None:
    if not in_order:
        for engine_id, md, _ in parts:
            if md["outputs"]:
                _heading(engine_id)
            for output in md["outputs"]:
                _publish(output, engine_id)
        return
    for i in range(max((len(md["outputs"]) for _, md, _ in parts), default=0)):
        for engine_id, md, _ in parts:
            if i < len(md["outputs"]):
                _heading(engine_id)
                _publish(md["outputs"][i], engine_id)


def show(ar: AsyncResult, groupby: str, result_only: bool) -> None:
    """Show the output of a result that has ended; ValueError for an unknown groupby."""
    if groupby not in ("type", "engine", "order"):
        raise ValueError(f"groupby must be one of 'type', 'engine', 'order', not {groupby!r}")
    if ar._single_result:
        _show_single(ar, result_only)
        return
    found = ar.metadata
    results = ar.get(return_exceptions=True)
    if len(results) != len(found):
        results = ar._raw or [None] * len(found)
    parts = [(md["engine_id"], md, result) for md, result in zip(found, results)]
    screen = _Screen()
    if groupby == "engine":
        _show_by_engine(screen, parts, result_only)
        return
    if not result_only:
        for name in ("stdout", "stderr"):
            for engine_id, md, _ in parts:
                _show_streams(screen, engine_id, md, (name,))
    if util.local_ipython() is None:
        return
    if not result_only:
        _show_displayed(parts, groupby == "order")
    for _, md, result in parts:
        if md["execute_result"] is not None:
            _display(result)


# ---- as it comes ---------------------------------------------------------------------------------------------------


class _Stream:
    """Shows messages of the tasks of one result."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self._screen = _Screen()
        self._shown: set[str] = set()  # display ids of a notebook's growing outputs
        self._errors = 0

    def show(self, engine_id: Any, future: MessageFuture, message: dict[str, Any]) -> None:
        kind, content = message["header"]["msg_type"], message["content"]
        if engine_id is None:
            engine_id = future.metadata["engine_id"]
        if kind == "stream":
            self._text(engine_id, future, content)
        elif kind == "error":
            self._error(future, content)
        elif kind == "execute_result":
            from .client import ExecuteReply

            if util.local_ipython() is not None:
                _display(ExecuteReply(future.msg_id, content, future.metadata))
            else:
                print(ExecuteReply(future.msg_id, content, future.metadata)._plaintext())
        elif kind == "display_data" and util.local_ipython() is not None:
            _heading(engine_id)
            _publish(content, engine_id)

    def _text(self, engine_id: Any, future: MessageFuture, content: dict[str, Any]) -> None:
        name = content["name"]
        shell = util.local_ipython()
        if getattr(shell, "kernel", None) is None:
            self._screen.write(content["text"], f"[{name}:{engine_id}] ", getattr(sys, name, sys.stdout))
            return
        from IPython.display import publish_display_data

        display_id = f"{future.msg_id}-{name}"
        publish_display_data({"text/plain": f"[{name}:{engine_id}] " + future.metadata[name]},  # type: ignore[no-untyped-call, unused-ignore]
                             transient={"display_id": display_id}, update=display_id in self._shown)
        self._shown.add(display_id)

    def _error(self, future: MessageFuture, content: dict[str, Any]) -> None:
        md = future.metadata
        content.setdefault("engine_info", {"engine_id": md["engine_id"], "engine_uuid": md["engine_uuid"],
                                           "method": future.msg_type.partition("_")[0]})
        problem = self._client._unwrap_exception(content)
        self._errors += 1
        brief = self._errors > error.CompositeError.tb_limit
        print(problem if brief else "\n".join(problem.render_traceback()), file=sys.stderr)


@contextmanager
def streaming(ar: AsyncResult) -> Iterator[None]:
    """Context: output is shown as it comes, beginning with what came already."""
    stream = _Stream(ar._client)
    targets = ar._targets if ar._targets is not None else [None] * len(ar._children)
    watched = []
    driver = ar._driver
    with driver.lock:
        driver.want(1)
        for engine_id, future in zip(targets, ar._children):
            callback = partial(stream.show, engine_id, future)
            _replay(callback, future)
            future.iopub_callbacks = [*future.iopub_callbacks, callback]
            watched.append((future, callback))
    try:
        yield
    finally:
        with driver.lock:
            driver.want(-1)
            for future, callback in watched:
                future.iopub_callbacks = [c for c in future.iopub_callbacks if c is not callback]


def _replay(callback: Any, future: MessageFuture) -> None:
    md = future.metadata
    for name in ("stdout", "stderr"):
        if md[name]:
            callback({"header": {"msg_type": "stream"}, "content": {"name": name, "text": md[name]}})
    for output in md["outputs"]:
        callback({"header": {"msg_type": "display_data"}, "content": output})
    if md["execute_result"]:
        callback({"header": {"msg_type": "execute_result"}, "content": md["execute_result"]})
