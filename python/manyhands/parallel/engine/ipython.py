"""IPython's shell in an executor: magics, rich output, its tracebacks."""

from __future__ import annotations

import os
import sys
from typing import Any, Mapping

from IPython.core import displayhook, displaypub, interactiveshell
from traitlets import config as traitlets_config

from ..serialize import serialize_object
from .shell import Publish, text_of, unknown_request, users_part

__all__ = ["IPythonShell"]

# IPython is half typed, and differently in each of its versions.
DisplayHook: Any = displayhook.DisplayHook
DisplayPublisher: Any = displaypub.DisplayPublisher
InteractiveShell: Any = interactiveshell.InteractiveShell
Config: Any = traitlets_config.Config


class _Hook(DisplayHook):  # type: ignore[misc]
    """Publishes the value of a cell as an execute_result."""

    def write_output_prompt(self) -> None:
        pass

    def write_format_data(self, format_dict: Any, md_dict: Any = None) -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        if format_dict:
            self.shell.publish("execute_result", {"execution_count": self.prompt_count, "data": format_dict, "metadata": md_dict or {}})

    def finish_displayhook(self) -> None:
        self._is_active = False


class _Publisher(DisplayPublisher):  # type: ignore[misc]
    """Publishes what is displayed."""

    def publish(self, data: Any, metadata: Any = None, source: Any = None, *, transient: Any = None, update: bool = False, **kwargs: Any) -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        kind = "update_display_data" if update else "display_data"
        self.shell.publish(kind, {"data": data, "metadata": metadata or {}, "transient": transient or {}})

    def clear_output(self, wait: bool = False) -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        self.shell.publish("clear_output", {"wait": wait})


class _DataPublisher:
    """`get_ipython().data_pub`: publishes Python objects while a task runs."""

    def __init__(self, shell: Any) -> None:
        self._shell = shell

    def publish_data(self, data: Mapping[str, Any]) -> None:
        """Send a dict with names as keys; it appears in the `data` of the task's AsyncResult."""
        self._shell.publish("data_message", {"keys": list(data)}, serialize_object(data))


class _Shell(InteractiveShell):  # type: ignore[misc]
    displayhook_class = _Hook
    display_pub_class = _Publisher
    system = InteractiveShell.system_piped
    publish: Any = None
    _last_traceback: list[str] | None = None

    def init_displayhook(self) -> None:
        super().init_displayhook()
        self.data_pub = _DataPublisher(self)

    def init_virtualenv(self) -> None:
        pass  # the engine was started with the Python that it is to have

    def _showtraceback(self, etype: Any, evalue: Any, stb: Any) -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        self._last_traceback = list(stb)
        self.publish("error", {"traceback": self._last_traceback, "ename": str(etype.__name__), "evalue": text_of(evalue)})

    def enable_gui(self, gui: Any = None) -> None:
        pass  # there is no event loop of a window system here

    def ask_exit(self) -> None:
        pass


class IPythonShell:
    """Runs code as IPython does; the interface of `PlainShell`."""

    def __init__(self, publish: Publish, settings: Mapping[str, Any]) -> None:
        config = Config()
        config.HistoryManager.hist_file = ":memory:"
        for name, value in settings.get("config", {}).items():
            section, _, key = name.rpartition(".")
            setattr(config[section], key, value)
        _Shell.publish = staticmethod(publish)
        self._shell = _Shell.instance(config=config)
        self.user_ns = self._shell.user_ns
        startup = os.environ.get("PYTHONSTARTUP")
        if startup and os.path.exists(startup):
            self._shell.safe_execfile(startup, self.user_ns, raise_exceptions=False)

    @property
    def execution_count(self) -> int:
        """Number of the next cell."""
        return int(self._shell.execution_count)

    def execute(self, content: Mapping[str, Any]) -> dict[str, Any]:
        """Answer an execute_request."""
        shell = self._shell
        code, silent = content["code"], bool(content.get("silent", False))
        if not silent:
            shell.publish("execute_input", {"code": code, "execution_count": shell.execution_count})
        shell._last_traceback = None
        result = shell.run_cell(code, store_history=bool(content.get("store_history", not silent)), silent=silent)
        reply: dict[str, Any] = {"execution_count": shell.execution_count - 1, "payload": shell.payload_manager.read_payload(),
                                 "user_expressions": {}}
        shell.payload_manager.clear_payload()
        if result.success:
            reply["status"] = "ok"
            reply["user_expressions"] = shell.user_expressions(content.get("user_expressions") or {})
        else:
            error = result.error_before_exec if result.error_before_exec is not None else result.error_in_exec
            reply.update(status="error", ename=type(error).__name__, evalue=text_of(error), traceback=shell._last_traceback or [])
        return reply

    def describe(self, exception: BaseException) -> dict[str, Any]:
        """An exception as the content of a reply; it is published as an error too."""
        shell = self._shell
        shell._last_traceback = None
        try:
            shell.showtraceback((type(exception), exception, users_part(exception.__traceback__)))
        except Exception as problem:  # the exception's own methods may raise anything
            shell._last_traceback = [f"{type(exception).__name__}: its traceback cannot be shown: {text_of(problem)}"]
        return {"status": "error", "ename": type(exception).__name__, "evalue": text_of(exception), "traceback": shell._last_traceback or []}

    def other(self, kind: str, content: Mapping[str, Any]) -> dict[str, Any]:
        """Answer another request of a kernel."""
        if kind == "kernel_info_request":
            from IPython import __version__

            return {"status": "ok", "protocol_version": "5.3", "implementation": "manyhands", "implementation_version": __version__,
                    "language_info": {"name": "python", "version": sys.version.split()[0], "mimetype": "text/x-python",
                                      "file_extension": ".py"}, "banner": self._shell.banner}
        if kind == "complete_request":
            text, matches = self._complete(str(content["code"]), int(content["cursor_pos"]))
            end = int(content["cursor_pos"])
            return {"status": "ok", "matches": matches, "cursor_start": end - len(text), "cursor_end": end, "metadata": {}}
        return unknown_request(kind)

    def _complete(self, code: str, cursor: int) -> tuple[str, list[str]]:
        line = code[:cursor].rpartition("\n")[2]
        text, matches = self._shell.complete("", line, len(line))
        return text, list(matches)

    def reset(self) -> None:
        """Forget what the user defined."""
        self._shell.reset(False)
