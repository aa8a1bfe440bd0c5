"""Processes that this one started or only knows by number, and their ends, noticed by a thread for all of them."""

from __future__ import annotations

import asyncio
import os
import select
import signal
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any


class Process:
    """A process, pinned by a descriptor: a number that was given to another one is never signalled.

    pid: its number. Its end can be waited for, any number of times, in any thread.
    """

    def __init__(self, pid: int, popen: subprocess.Popen[bytes] | None = None) -> None:
        self.pid = pid
        self.exit_code: int | None = None  # None too where it is not our child and has ended
        self._popen = popen
        self._fd = os.pidfd_open(pid)

    def __del__(self) -> None:
        if "_fd" in self.__dict__:
            os.close(self._fd)

    def __repr__(self) -> str:
        return f"<Process(pid={self.pid}, {'running' if self.is_running() else 'ended'})>"

    def fileno(self) -> int:
        return self._fd

    def is_running(self) -> bool:
        if self._wait(0):
            return False
        return True

    def _wait(self, timeout: float | None) -> bool:
        poller = select.poll()
        poller.register(self._fd, select.POLLIN)
        if not poller.poll(None if timeout is None else timeout * 1000):
            return False
        if self._popen is not None and self.exit_code is None:
            self.exit_code = self._popen.wait()
        return True

    def wait(self, timeout: float | None = None) -> int | None:
        """Wait for its end. Gives its exit code (minus the signal), None where only its parent is told. Raises TimeoutError."""
        if not self._wait(timeout):
            raise TimeoutError(f"process {self.pid} did not end within {timeout} seconds")
        return self.exit_code

    async def wait_async(self, timeout: float) -> int | None:
        """The same without blocking the running loop."""
        loop = asyncio.get_running_loop()
        ended: asyncio.Future[None] = loop.create_future()
        copy = os.dup(self._fd)  # several may wait in one loop

        def tell() -> None:
            if not ended.done():
                ended.set_result(None)

        loop.add_reader(copy, tell)
        try:
            await asyncio.wait_for(ended, timeout)
        except asyncio.TimeoutError:
            raise TimeoutError(f"process {self.pid} did not end within {timeout} seconds") from None
        finally:
            loop.remove_reader(copy)
            os.close(copy)
        return self.wait(0)

    def send_signal(self, number: int) -> None:
        """Does nothing once it has ended."""
        try:
            signal.pidfd_send_signal(self._fd, number)
        except ProcessLookupError:
            pass


def start(argv: Sequence[str], environment: Mapping[str, str], output: str, folder: str, given: bytes | None = None) -> Process:
    """Start a program in a session of its own, with its output appended to a file (mode 0600), and `given` (else nothing) to read."""
    fd = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o600)
    try:
        popen = subprocess.Popen(list(argv), stdin=subprocess.DEVNULL if given is None else subprocess.PIPE, stdout=fd, stderr=fd, env=dict(environment),
                                 cwd=folder, start_new_session=True)
    finally:
        os.close(fd)
    if given is not None and popen.stdin is not None:
        try:
            popen.stdin.write(given)
            popen.stdin.close()
        except BrokenPipeError:
            pass  # it has ended: who waits for it is told
    return Process(popen.pid, popen)


def adopt(pid: int, marks: Mapping[str, str]) -> Process | None:
    """A process that somebody started, if it lives and has these variables in its environment; else None."""
    if pid <= 0:
        return None
    try:
        process = Process(pid)
        with open(f"/proc/{pid}/environ", "rb") as f:
            environment = f.read().split(b"\0")
    except OSError:
        return None
    wanted = {f"{name}={value}".encode() for name, value in marks.items()}
    return process if wanted <= set(environment) and process.is_running() else None


class _Watcher(threading.Thread):
    """Calls a function when a process has ended."""

    def __init__(self) -> None:
        super().__init__(name="manyhands-cluster-watcher", daemon=True)
        self._lock = threading.Lock()
        self._watched: dict[int, tuple[Process, Callable[[], None]]] = {}  # guarded by _lock
        self._bell, self._ring = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._poller = select.epoll()
        self._poller.register(self._bell, select.EPOLLIN)

    def watch(self, process: Process, told: Callable[[], None]) -> None:
        with self._lock:
            self._watched[process.fileno()] = (process, told)
        self._poller.register(process.fileno(), select.EPOLLIN)

    def run(self) -> None:
        while True:
            for fd, _ in self._poller.poll():
                with self._lock:
                    found = self._watched.pop(fd, None)
                if found is None:
                    continue
                self._poller.unregister(fd)
                process, told = found
                process.wait(0)
                try:
                    told()
                except Exception:  # nobody is there to be told: the loop goes on
                    import traceback

                    traceback.print_exc()


_watcher: _Watcher | None = None
_watcher_lock = threading.Lock()


def watch(process: Process, told: Callable[[], Any]) -> None:
    """Call told() in a thread when the process has ended."""
    global _watcher
    with _watcher_lock:
        if _watcher is None or not _watcher.is_alive():  # also in a forked child
            _watcher = _Watcher()
            _watcher.start()
    _watcher.watch(process, told)
