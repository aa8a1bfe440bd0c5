"""The exceptions of manyhands, and what carries them between processes."""

from __future__ import annotations

import signal as _signal
from multiprocessing.context import AuthenticationError, BufferTooShort, ProcessError, TimeoutError

TYPE_CHECKING = False  # see __init__.py
if TYPE_CHECKING:
    from typing import Any

__all__ = [
    "AuthenticationError", "BufferTooShort", "CancelledError", "MaybeEncodingError", "OutOfMemory", "OwnerDiedWarning", "PoisonTask", "PoolBroken",
    "ProcessError", "RemoteTraceback", "SerializationError", "TaskExited", "TaskTimeout", "TimeoutError", "WorkerLost",
]


def _standard(name: str) -> Any:
    # The standard pool module costs milliseconds: it is imported when its classes are first wanted, so that
    # `except multiprocessing.pool.MaybeEncodingError` catches ours.
    import multiprocessing.pool

    return getattr(multiprocessing.pool, name)


def _make_serialization_error() -> type:
    import pickle

    class SerializationError(_standard("MaybeEncodingError"), pickle.PicklingError):  # type: ignore[misc]
        """Something could not be pickled or unpickled on its way to or from a worker.

        `exc` is the text of the reason, `value` says what could not travel. It is the standard library's
        `MaybeEncodingError` and a `pickle.PicklingError` too.
        """

        def __init__(self, exc: object, value: object) -> None:
            Exception.__init__(self, exc, value)
            self.exc = exc if isinstance(exc, str) else repr(exc)
            self.value = value if isinstance(value, str) else repr(value)

        def __str__(self) -> str:
            return f"Error sending result: '{self.value}'. Reason: '{self.exc}'"

        def __reduce__(self) -> tuple[Any, ...]:
            return type(self), (self.exc, self.value), {}

    SerializationError.__module__ = __name__
    SerializationError.__qualname__ = "SerializationError"
    return SerializationError


def __getattr__(name: str) -> Any:
    if name == "SerializationError":
        found: Any = _make_serialization_error()
    elif name == "CancelledError":
        from concurrent.futures import CancelledError

        found = CancelledError
    elif name in ("MaybeEncodingError", "RemoteTraceback"):
        found = _standard(name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = found
    return found


class PoolBroken(ProcessError, RuntimeError):
    """The pool was given up because its workers do not start, and the task with it."""


class OwnerDiedWarning(RuntimeWarning):
    """The lock that was just acquired had a holder that died: what the lock guards may be half changed.

    Turned into an error (`warnings.simplefilter("error", OwnerDiedWarning)`) it is raised by `acquire`, and the lock is free again; the next
    to acquire it is told, too.
    """


class WorkerLost(ProcessError):
    """The worker that ran the task died.

    Attributes: `signal` (number of the signal that killed it, or 0), `exitcode` (as of a process: the exit code, or minus the signal),
    `task` (the task's number in its pool), `attempt` (from 1) and `pid` (the worker's).
    """

    def __init__(self, signal: int = 0, exitcode: int = 0, task: int = 0, attempt: int = 0, pid: int = 0) -> None:
        super().__init__(signal, exitcode, task, attempt, pid)
        self.signal = signal
        self.exitcode = -signal if signal else exitcode
        self.task = task
        self.attempt = attempt
        self.pid = pid

    def _how(self) -> str:
        if not self.signal:
            return f"exited with code {self.exitcode}"
        try:
            return f"was killed by {_signal.Signals(self.signal).name}"
        except ValueError:
            return f"was killed by signal {self.signal}"

    def __str__(self) -> str:
        return f"worker {self.pid} {self._how()} while running task {self.task} (attempt {self.attempt})"


class PoisonTask(WorkerLost):
    """The task killed every worker it met, as often as its budget of lost workers allows."""

    def __str__(self) -> str:
        return f"task {self.task} killed every worker it met, {self.attempt} in all; the last, {self.pid}, {self._how()}"


class OutOfMemory(WorkerLost, MemoryError):
    """The task went over its memory limit, or the kernel killed its worker because there was no memory left.

    Attributes, besides those of `WorkerLost`: `memory`, the most bytes that the task was seen to use; 0 when it has not been looked at.
    """

    def __init__(self, signal: int = 0, exitcode: int = 0, task: int = 0, attempt: int = 0, pid: int = 0, memory: int = 0) -> None:
        super().__init__(signal, exitcode, task, attempt, pid)
        self.args = (signal, exitcode, task, attempt, pid, memory)
        self.memory = memory

    def __str__(self) -> str:
        where = f"on worker {self.pid} (attempt {self.attempt})"
        if self.memory:
            return f"task {self.task} went over its memory limit {where}: it was seen to use {self.memory:,} bytes"
        if self.signal:
            return f"task {self.task} ran as the kernel killed its worker, for want of memory, {where}"
        return f"task {self.task} asked for far more memory than its limit {where}"


class TaskTimeout(TimeoutError, WorkerLost):
    """The task ran longer than its timeout; its worker was killed and replaced."""

    def __str__(self) -> str:
        return f"task {self.task} ran longer than its timeout on worker {self.pid} (attempt {self.attempt})"


class TaskExited(RuntimeError):
    """The task raised something that would end a program, such as `sys.exit()`; `code` is the exit code, if it gave one."""

    def __init__(self, message: str = "", code: object = None) -> None:
        super().__init__(message)
        self.code = code

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.args[0], self.code)
