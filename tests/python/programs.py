"""Programs that the tests run as a user would, from a file, and watch from outside: each in a session of its own, every process of it marked."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import textwrap
import time
import uuid
from pathlib import Path

# What every program begins with; `tell` reaches the test from any of its processes, however it was started.
PRELUDE = '''
import os, signal, sys
if os.environ.get("MH_TEST_PROGRAM") == str(os.getpid()):  # whoever runs the tests may ignore it
    signal.signal(signal.SIGINT, signal.default_int_handler)

def tell(text):
    fd = os.open(os.environ["MH_TEST_TOLD"], os.O_WRONLY | os.O_CLOEXEC)
    os.write(fd, f"{text}\\n".encode())
    os.close(fd)
'''


class Program:
    """A running program. Use as `with`: at the end nothing of it is left."""

    def __init__(self, folder: Path, source: str, *args: str, python: tuple[str, ...] = ()) -> None:
        self.mark = uuid.uuid4().hex
        self.folder = folder / self.mark
        self.folder.mkdir()
        path = self.folder / "program.py"
        path.write_text(PRELUDE + textwrap.dedent(source))
        told = self.folder / "told"
        os.mkfifo(told)
        self._told = os.open(told, os.O_RDWR | os.O_CLOEXEC)  # also for writing: it never comes to an end
        self._heard = b""
        env = {**os.environ, "MH_TEST_MARK": self.mark, "MH_TEST_TOLD": str(told)}
        env.pop("PYTHONUNBUFFERED", None)  # what is printed comes in whole lines
        start = ("import os, sys; os.environ['MH_TEST_PROGRAM'] = str(os.getpid()); os.execv(sys.executable, [sys.executable, *sys.argv[1:]])")
        with open(self.folder / "out", "ab") as out, open(self.folder / "err", "ab") as err:
            self.process = subprocess.Popen([sys.executable, "-S", "-c", start, *python, str(path), *args], stdin=subprocess.DEVNULL,
                                            stdout=out, stderr=err, env=env, start_new_session=True)
        self.pid = self.process.pid

    def hear(self, timeout: float = 20) -> str:
        """The next line that some process of the program told."""
        end = time.monotonic() + timeout
        while b"\n" not in self._heard:
            ready, _, _ = select.select([self._told], [], [], max(0.0, end - time.monotonic()))
            assert ready, f"nothing heard within {timeout} s (status {self.process.poll()}); {self.out!r} {self.err!r}"
            self._heard += os.read(self._told, 65536)
        line, self._heard = self._heard.split(b"\n", 1)
        return line.decode()

    def interrupt(self) -> None:
        """Ctrl-C: the signal goes to everything in the terminal's foreground, here the whole session."""
        os.killpg(self.pid, signal.SIGINT)

    def wait(self, timeout: float = 30) -> int:
        """How the program ended."""
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still runs after {timeout} s; {self.out!r} {self.err!r}; {self.describe()}") from None

    @property
    def out(self) -> str:
        return (self.folder / "out").read_text(errors="replace")

    @property
    def err(self) -> str:
        return (self.folder / "err").read_text(errors="replace")

    def members(self) -> set[int]:
        """Its living processes, whoever is their parent by now."""
        mark = f"MH_TEST_MARK={self.mark}".encode()
        found = set()
        for entry in os.listdir("/proc"):
            if entry.isdigit():
                try:
                    if mark in Path("/proc", entry, "environ").read_bytes():  # empty for a zombie
                        found.add(int(entry))
                except OSError:
                    pass
        return found

    def describe(self) -> list[str]:
        lines = []
        for pid in sorted(self.members()):
            try:
                stat = Path(f"/proc/{pid}/stat").read_text().split()
                lines.append(f"{pid} (parent {stat[3]}) state {stat[2]}: {Path(f'/proc/{pid}/cmdline').read_bytes()[:200]!r}")
            except OSError:
                pass
        return lines

    def left_after(self, seconds: float) -> list[str]:
        """Wait until none of its processes lives; what still does after so many seconds."""
        end = time.monotonic() + seconds
        while members := self.members():
            for pid in members:
                wait_for_end(pid, end - time.monotonic())
            if time.monotonic() >= end:
                return self.describe()
        return []

    def __enter__(self) -> Program:
        return self

    def __exit__(self, *exc: object) -> None:
        while members := self.members():
            for pid in members:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
            self.process.poll()
            for pid in members:
                wait_for_end(pid, 5)
        self.process.wait()
        os.close(self._told)


def wait_for_end(pid: int, seconds: float) -> bool:
    """Wait until a process, anybody's, has ended; whether it did."""
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([fd], [], [], max(0.0, seconds))[0])
    finally:
        os.close(fd)
