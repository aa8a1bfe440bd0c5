"""The errors of a cluster, with ipyparallel's names."""

from __future__ import annotations

import builtins
import sys
import traceback as _traceback
from typing import Any, Iterable, Mapping

__all__ = [
    "AlreadyDisplayedError", "CompositeError", "DependencyTimeout", "EngineError", "ImpossibleDependency", "InvalidDependency", "IPythonError",
    "KernelError", "NoEnginesRegistered", "RemoteError", "TaskAborted", "TaskRejectError", "TaskTimeout", "TimeoutError", "UnmetDependency",
]

TimeoutError = builtins.TimeoutError


class IPythonError(Exception):
    """What all of these are."""


class KernelError(IPythonError):
    """Something went wrong at an engine or the controller."""


class EngineError(KernelError):
    """The engine died before it answered."""


class NoEnginesRegistered(KernelError):
    """An operation needs engines, and there are none."""

    def __str__(self) -> str:
        return "No engine is registered: wait for some with client.wait_for_engines(n), or start them with `manyhands start`."


class TaskAborted(KernelError):
    """The task was aborted before it ran."""


class TaskTimeout(KernelError):
    """The task was not started within its timeout."""


class UnmetDependency(KernelError):
    """This engine does not have what the task needs: another is tried."""


class ImpossibleDependency(UnmetDependency):
    """What the task waits for can't come about any more."""


class DependencyTimeout(ImpossibleDependency):
    """What the task waits for did not come about in time."""


class InvalidDependency(ImpossibleDependency):
    """The task waits for something that does not exist."""


class TaskRejectError(KernelError):
    """Raised by a task that this engine should not run; with retries another is tried."""


class RemoteError(KernelError):
    """An exception that was raised elsewhere: `ename`, `evalue`, `traceback` (one text) and `engine_info`."""

    ename: Any = None
    evalue: Any = None
    traceback: str | None = None
    engine_info: Any = None

    def __init__(self, ename: str, evalue: Any, traceback: str | None, engine_info: Mapping[str, Any] | None = None) -> None:
        self.ename = ename
        self.evalue = evalue
        self.traceback = traceback
        self.engine_info = dict(engine_info or {})
        self.args = (ename, evalue)

    def __repr__(self) -> str:
        return f"<{type(self).__name__}[{self.engine_info.get('engine_id', ' ')}]:{self.ename}({self.evalue})>"

    def __str__(self) -> str:
        return f"{self._get_engine_str(self.engine_info)} {self.ename}: {self.evalue}"

    @staticmethod
    def _get_engine_str(engine_info: Mapping[str, Any] | None) -> str:
        return f"[{engine_info.get('engine_id')}:{engine_info.get('method')}]" if engine_info else "[Engine Exception]"

    def render_traceback(self) -> list[str]:
        """The remote traceback as lines."""
        return [self._get_engine_str(self.engine_info), *(self.traceback or "No traceback available").splitlines()]

    def _render_traceback_(self) -> list[str]:
        return self.render_traceback()  # IPython shows this instead of the local traceback

    def print_traceback(self, excid: int | None = None) -> None:
        """Print the remote traceback."""
        print("\n".join(self.render_traceback()))


class CompositeError(RemoteError):
    """Several exceptions from elsewhere: `elist` of (ename, evalue, traceback, engine_info)."""

    tb_limit = 4  # how many are shown

    def __init__(self, message: str, elist: Iterable[tuple[Any, ...]]) -> None:
        self.msg = message
        self.elist = list(elist)
        Exception.__init__(self, message, self.elist)
        self.args = tuple(e[0] for e in self.elist)
        self.engine_info = {}

    def __str__(self) -> str:
        lines = [str(self.msg)]
        lines += [f"{self._get_engine_str(info)}{name}: {value}" for name, value, _, info in self.elist[: self.tb_limit]]
        hidden = len(self.elist) - self.tb_limit
        return "\n".join(lines) + (f"\n.... {hidden} more exceptions ..." if hidden > 0 else "")

    def __repr__(self) -> str:
        return f"CompositeError({len(self.elist)})"

    def _pick(self, excid: int) -> tuple[Any, ...]:
        try:
            return self.elist[excid]
        except Exception:
            raise IndexError(f"an exception with index {excid} does not exist") from None

    def _render(self, excid: int) -> list[str]:
        _, _, text, info = self._pick(excid)
        return [self._get_engine_str(info) + ":", *(text or "No traceback available").splitlines()]

    def render_traceback(self, excid: int | None = None) -> list[str]:
        """The traceback of one of them, or of the first few, as lines."""
        if excid is not None:
            return self._render(excid)
        lines: list[str] = []
        for i in range(min(len(self.elist), self.tb_limit)):
            lines += [*self._render(i), ""]
        hidden = len(self.elist) - self.tb_limit
        return lines + ([f"... {hidden} more exceptions ..."] if hidden > 0 else [])

    def print_traceback(self, excid: int | None = None) -> None:
        """Print the traceback of one of them, or of the first few."""
        print("\n".join(self.render_traceback(excid)))

    def raise_exception(self, excid: int = 0) -> None:
        """Raise one of them as a RemoteError."""
        raise RemoteError(*self._pick(excid))


class AlreadyDisplayedError(RemoteError):
    """Errors that were shown already while output streamed."""

    def __init__(self, original_error: CompositeError) -> None:
        self.original_error = original_error
        self.n = len(original_error.elist)
        Exception.__init__(self, self.n)
        self.args = (original_error,)

    def __repr__(self) -> str:
        return f"<{type(self).__name__}({self.n} errors)>"

    def __str__(self) -> str:
        return f"{self.n} errors"

    def render_traceback(self) -> list[str]:
        """One line: the rest was shown."""
        return [str(self)]


def collect_exceptions(rdict_or_list: Any, method: str = "unspecified") -> Any:
    """rdict_or_list (a list, or a dict whose values count) unless RemoteErrors are among them: then one CompositeError of them all is raised."""
    found: list[tuple[Any, ...]] = []
    for r in rdict_or_list.values() if isinstance(rdict_or_list, dict) else rdict_or_list:
        if isinstance(r, CompositeError):
            found += r.elist
        elif isinstance(r, RemoteError):
            found.append((r.ename, r.evalue, r.traceback, r.engine_info))
    if found:
        raise CompositeError(f"one or more exceptions raised in: {method}", found)
    return rdict_or_list


def wrap_exception(engine_info: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The exception that is being handled, as the content of a message."""
    kind, value, tb = sys.exc_info()
    return {
        "status": "error",
        "traceback": _traceback.format_exception(kind, value, tb),
        "ename": kind.__name__ if kind else "",
        "evalue": str(value),
        "engine_info": dict(engine_info or {}),
    }


def unwrap_exception(content: Mapping[str, Any]) -> RemoteError:
    """The content of a message as an exception."""
    return RemoteError(content["ename"], content["evalue"], "\n".join(content["traceback"]), content.get("engine_info", {}))
