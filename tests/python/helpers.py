"""What several tests of the Python package share; run as a script it is nothing."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path


def run_program(source: str, *args: str, timeout: float = 60, folder: Path | None = None, **options) -> subprocess.CompletedProcess[str]:
    """Run a program text in a fresh interpreter, from a file so that spawned children can import it."""
    import tempfile

    with tempfile.TemporaryDirectory() as made:
        path = Path(folder or made) / "program.py"
        path.write_text(textwrap.dedent(source))
        return subprocess.run([sys.executable, str(path), *args], capture_output=True, text=True, timeout=timeout, **options)


def children(pid: int | None = None) -> set[int]:
    """Living descendants of a process, zombies left out."""
    parents: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                stat = Path("/proc", entry, "stat").read_text()
            except OSError:
                continue
            fields = stat.rpartition(")")[2].split()
            if fields[0] != "Z":
                parents.setdefault(int(fields[1]), []).append(int(entry))
    found: set[int] = set()
    todo = [pid or os.getpid()]
    while todo:
        for child in parents.get(todo.pop(), []):
            found.add(child)
            todo.append(child)
    return found


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def eventually(condition, seconds: float = 5.0):
    """Wait for a state of the system that nothing announces; fails after a bound."""
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end, f"not within {seconds} s: {condition}"
        os.sched_yield()
    return value


@contextlib.contextmanager
def lasting_pool():
    """A pool that whatever is done with it in between must leave in order."""
    import manyhands

    with manyhands.Pool(2) as made:
        yield made
        assert made.map(abs, range(-20, 0), 1) == list(range(20, 0, -1)), "the pool must go on"
        made.close()
        made.join()


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def shared_names() -> set[str]:
    return set(os.listdir("/dev/shm"))
