"""Hosts on one machine: network, mount, process and host name namespaces on a bridge, which lives in a network namespace of its own, so that the
machine's own network is not touched."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

COMMAND = Path(os.environ.get("MANYHANDS_COMMAND", Path(sys.executable).parent / "manyhands"))
NET = "10.77.0"
SOON_S = 60


def why_not() -> str | None:
    """Which part is missing, or None."""
    import shutil

    if os.geteuid() != 0:
        return "making network namespaces needs root"
    if missing := [name for name in ("ip", "nsenter", "unshare", "mount") if not shutil.which(name)]:
        return f"not installed: {', '.join(missing)}"
    name = f"mh{os.getpid()}-try"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True)
    if made.returncode:
        return f"no network namespaces here: {made.stderr.strip()}"
    try:
        linked = subprocess.run(["ip", "-n", name, "link", "add", "br0", "type", "bridge"], capture_output=True, text=True)
        if linked.returncode:
            return f"no bridge here: {linked.stderr.strip()}"
    finally:
        subprocess.run(["ip", "netns", "del", name])
    return None


def wait_for(condition: Any, what: str = "it did not happen", seconds: float = SOON_S) -> Any:
    until = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < until, what
        time.sleep(0.02)
    return found


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


class Hosts:
    """A hub (10.77.0.254) and hosts h1, h2 ... (10.77.0.1, ...). They share the file system, but for /dev/shm and /run."""

    def __init__(self, count: int, folder: Path) -> None:
        self.folder = folder
        self.prefix = f"mh{os.getpid()}"
        self.names: list[str] = []
        self.processes: list[subprocess.Popen[Any]] = []
        kept = {name: value for name, value in os.environ.items() if not name.startswith("IPP_") and name != "XDG_RUNTIME_DIR"}
        self.environment = {**kept, "HOME": str(folder), "IPYTHONDIR": str(folder / "ipython"), "TMPDIR": str(folder)}
        try:
            self._add("hub")
            ip("-n", self._ns("hub"), "link", "add", "br0", "type", "bridge")
            ip("-n", self._ns("hub"), "addr", "add", f"{NET}.254/24", "dev", "br0")
            ip("-n", self._ns("hub"), "link", "set", "br0", "up")
            for i in range(1, count + 1):
                self._add_host(i)
        except BaseException:
            self.close()
            raise

    def _ns(self, name: str) -> str:
        return f"{self.prefix}-{name}"

    def _add(self, name: str) -> None:
        ip("netns", "add", self._ns(name))
        self.names.append(name)
        ip("-n", self._ns(name), "link", "set", "lo", "up")

    def _add_host(self, i: int) -> None:
        name = f"h{i}"
        self._add(name)
        ip("-n", self._ns("hub"), "link", "add", f"v{name}", "type", "veth", "peer", "name", "eth0", "netns", self._ns(name))
        ip("-n", self._ns("hub"), "link", "set", f"v{name}", "master", "br0", "up")
        ip("-n", self._ns(name), "addr", "add", f"{NET}.{i}/24", "dev", "eth0")
        ip("-n", self._ns(name), "link", "set", "eth0", "up")

    def start(self, host: str, *argv: Any, **options: Any) -> subprocess.Popen[Any]:
        """Start a program on a host, as the first process there: with its end all that it started ends."""
        script = f'hostname {host}; mount -t tmpfs tmpfs /dev/shm; mount -t tmpfs tmpfs /run; exec "$@"'
        line = ["nsenter", f"--net=/run/netns/{self._ns(host)}", "unshare", "--uts", "--ipc", "--mount", "--pid", "--fork", "--mount-proc", "--kill-child",
                "sh", "-c", script, "sh", *map(str, argv)]
        process = subprocess.Popen(line, env=self.environment, text=True, **{"stdin": subprocess.DEVNULL, **options})
        self.processes.append(process)
        return process

    def run(self, host: str, *argv: str) -> str:
        """What a program prints that is only in the host's network."""
        return subprocess.run(["ip", "netns", "exec", self._ns(host), *argv], check=True, capture_output=True, text=True).stdout

    def log(self, host: str, name: str) -> Any:
        return open(self.folder / f"{host}-{name}.log", "a")

    def cut(self, host: str) -> None:
        """Pull the cable: nothing goes out or in, and nobody is told."""
        ip("-n", self._ns("hub"), "link", "set", f"v{host}", "down")

    def heal(self, host: str) -> None:
        ip("-n", self._ns("hub"), "link", "set", f"v{host}", "up")

    def close(self) -> None:
        for process in self.processes:
            if process.poll() is None:
                process.kill()
            process.wait()
            for stream in (process.stdin, process.stdout):
                if stream:
                    stream.close()
        for name in self.names:
            subprocess.run(["ip", "netns", "del", self._ns(name)], capture_output=True)


class Remote:
    """A Python on a host with a client `rc`, told line by line what to evaluate."""

    LOOP = """
import json, os, socket, sys, time
from manyhands.parallel import Client
rc = Client(sys.argv[1], timeout=60)
for line in sys.stdin:
    try:
        said = {"value": eval(line)}
    except Exception as error:
        said = {"error": f"{type(error).__name__}: {error}"}
    print(json.dumps(said), flush=True)
"""

    def __init__(self, hosts: Hosts, host: str, file: Path) -> None:
        self.process = hosts.start(host, sys.executable, "-c", self.LOOP, file, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=hosts.log(host, "client"))

    def tell(self, expression: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(expression.replace("\n", " ") + "\n")
        self.process.stdin.flush()

    def hear(self) -> Any:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, "the client's Python ended"
        said = json.loads(line)
        assert "error" not in said, said["error"]
        return said["value"]

    def ask(self, expression: str) -> Any:
        self.tell(expression)
        return self.hear()
