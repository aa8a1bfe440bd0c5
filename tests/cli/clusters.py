"""A home of its own for a test's clusters, and what lives of them."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

COMMAND = Path(os.environ.get("MANYHANDS_COMMAND", Path(sys.executable).parent / "manyhands"))
SOON_S = 60


def wait_for(condition: Any, what: str = "it did not happen", seconds: float = SOON_S) -> Any:
    until = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < until, what
        time.sleep(0.01)
    return found


def is_alive(pid: int) -> bool:
    """False for a zombie too."""
    try:
        return re.search(r"^State:\s+[^ZX]", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE) is not None
    except (FileNotFoundError, ProcessLookupError):
        return False


def children_of(pid: int) -> list[int]:
    """All generations."""
    try:
        own = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError):
        return []
    return own + [grand for child in own for grand in children_of(child)]


class Home:
    """A folder with profiles; everything that was started in it ends with it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ipython = folder / ".ipython"
        self.profile = self.ipython / "profile_default"
        kept = {name: value for name, value in os.environ.items() if not name.startswith("IPP_")}
        self.environment = {**kept, "HOME": str(folder), "IPYTHONDIR": str(self.ipython), "TMPDIR": str(folder)}
        self.environment.pop("XDG_RUNTIME_DIR", None)
        self.started: list[subprocess.Popen[str]] = []

    def run(self, *arguments: str, check: int | None = 0, **options: Any) -> subprocess.CompletedProcess[str]:
        run = subprocess.run([COMMAND, *arguments], capture_output=True, text=True, timeout=SOON_S, env=self.environment, **options)
        assert check is None or run.returncode == check, (run.stdout, run.stderr)
        return run

    def json(self, *arguments: str) -> Any:
        return json.loads(self.run(*arguments, "--json").stdout)

    def start(self, *arguments: str) -> tuple[subprocess.Popen[str], dict[str, Any]]:
        """In the foreground; and what its one line says."""
        errors = open(self.folder / f"start-{len(self.started)}", "w+")
        process = subprocess.Popen([COMMAND, "start", "--json", *arguments], stdout=subprocess.PIPE, stderr=errors, text=True, env=self.environment)
        self.started.append(process)
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, self.errors(process)
        return process, json.loads(line)

    def errors(self, process: subprocess.Popen[str]) -> str:
        """What a process that start() gave has said on stderr."""
        return (self.folder / f"start-{self.started.index(process)}").read_text()

    def only(self, *arguments: str) -> dict[str, Any]:
        """The one cluster that there is."""
        clusters = self.json("list", *arguments)
        assert len(clusters) == 1
        found: dict[str, Any] = clusters[0]
        return found

    def pids(self, cluster: dict[str, Any]) -> list[int]:
        """Of all its processes, executors too."""
        own = [cluster["controller_pid"], *cluster["engine_pids"]]
        return own + [child for pid in own for child in children_of(pid)]

    def files(self, *folders: str) -> list[str]:
        found = [path for folder in folders or ("security", "pid") for path in (self.profile / folder).rglob("*")]
        return sorted(str(path.relative_to(self.profile)) for path in found)

    def close(self) -> None:
        self.run("stop", "--all", check=None)
        for process in self.started:
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
            process.wait()
            if process.stdout:
                process.stdout.close()


def nothing_of(pids: list[int]) -> None:
    wait_for(lambda: not any(map(is_alive, pids)), "something lives on")
