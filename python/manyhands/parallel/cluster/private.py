"""A cluster that belongs to this process alone: what `Client()` starts where no other runs.

Its controller and engines are children of a watcher in C, which ends them, and removes their files, as soon as this process has ended,
however it ended.
"""

from __future__ import annotations

import atexit
import json
import os
import subprocess
import sys
import tempfile
import threading
from typing import Any

from .command import find_command, import_path

__all__ = ["Private", "current", "start"]

_TIMEOUT_S = 60.0
_STOP_S = 5.0
_lock = threading.Lock()
_current: Private | None = None


class Private:
    """A private cluster that runs.

    connection_file: what a client connects by. connection_info: what is in it. engines: how many were started. folder: where its files
    are, until it ends. Each start() takes part in it, until release(); the last release ends it.
    """

    def __init__(self, process: subprocess.Popen[bytes], said: dict[str, Any]) -> None:
        self._process = process
        self._owner = os.getpid()
        self.connection_file: str = said["connection_file"]
        self.folder: str = said["profile_dir"]
        self.engines: int = said["engines"]
        with open(self.connection_file) as f:
            self.connection_info: dict[str, Any] = json.load(f)
        self._users = 0  # guarded by _lock

    def __repr__(self) -> str:
        return f"<Private({self.engines} engines, {'running' if self.is_running() else 'ended'})>"

    def is_running(self) -> bool:
        """Whether it runs, and is this process's and not that of a parent which was forked."""
        return self._owner == os.getpid() and self._process.poll() is None

    def release(self) -> None:
        """Somebody who called start() is done with it."""
        with _lock:
            self._users -= 1
            if self._users > 0:
                return
        self.close()

    def close(self) -> None:
        """End it, and wait until nothing of it is left. Closing it again does nothing."""
        if not self.is_running():
            return
        self._process.terminate()
        try:
            self._process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def current() -> Private | None:
    """The private cluster of this process, if it runs."""
    return _current if _current is not None and _current.is_running() else None


def start(n: int | None = None, *, timeout: float = _TIMEOUT_S, quiet: bool = False) -> Private:
    """Start the private cluster of this process, or give the one that runs already.

    n: how many engines; None: one for each core. It has no effect on one that runs.
    timeout: seconds until all must be there.
    quiet: say nothing; else one line goes to stderr.

    Raises FileNotFoundError without the `manyhands` command, RuntimeError with what went wrong when it does not start.
    """
    global _current
    with _lock:
        running = current()
        if running is not None:
            running._users += 1
            return running
        _current = _launch(n, timeout)
        _current._users = 1
        atexit.register(_current.close)
    if not quiet:
        engines = f"{_current.engines} engine{'' if _current.engines == 1 else 's'}"
        print(f"manyhands: no cluster runs; started a private one with {engines}, which ends with this process", file=sys.stderr)
    return _current


def _launch(n: int | None, timeout: float) -> Private:
    argv = [find_command(), "start", "--private", "--json", f"--owner={os.getpid()}", f"--python={sys.executable}", f"--timeout={timeout}"]
    if n is not None:
        argv += ["-n", str(n)]
    environment = {**os.environ, "PYTHONPATH": import_path()}
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors, env=environment, start_new_session=True)
        assert process.stdout is not None
        try:
            line = process.stdout.readline()
        except BaseException:  # an interrupt: nothing may be left
            process.terminate()
            process.wait()
            raise
        finally:
            process.stdout.close()
        if not line:
            status = process.wait()
            errors.seek(0)
            said = errors.read().decode(errors="replace").strip()
            raise RuntimeError(f"no private cluster: {said or f'{argv[0]} ended with status {status}'}")
    return Private(process, json.loads(line))
