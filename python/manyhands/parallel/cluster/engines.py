"""What `manyhands engines` becomes: starts engines for a controller that runs, by any launcher, and ends them when it is told to end.

`manyhands start --engines=...` has it as a child. Its owner's death, a signal and the engines' own end are noticed at once; it ends the engines first, itself last.
"""

from __future__ import annotations

import argparse
import json
import os
import select
import signal
import sys
import time
from pathlib import Path
from typing import Any

from . import launcher
from .cluster import Cluster
from .command import find_command

__all__ = ["main"]

_STOP_S = 10.0
EXIT_NO_CLUSTER = 11
ALL_ENDED = "all engines ended"


class Failed(Exception):
    """Said on stderr; the second argument is the exit status."""


def _parse(arguments: list[str]) -> tuple[argparse.Namespace, list[str]]:
    at = arguments.index("--") if "--" in arguments else len(arguments)
    parser = argparse.ArgumentParser(prog="manyhands engines", add_help=False, allow_abbrev=False)
    for name in ("--profile-dir", "--cluster-id", "--engines", "--hosts", "--library", "--shell"):
        parser.add_argument(name, default="")
    parser.add_argument("-n", type=int)
    parser.add_argument("--timeout", type=float, default=60.0)
    parser.add_argument("--owner", type=int, default=0)
    return parser.parse_args(arguments[:at]), arguments[at + 1:]


def read_hosts(text: str) -> dict[str, int]:
    """"a=2,me@b:2222" is {"a": 2, "me@b:2222": 1}."""
    found: dict[str, int] = {}
    for part in filter(None, text.split(",")):
        place, equals, count = part.partition("=")
        if not place or place.startswith("-") or (equals and not (count.isdecimal() and 0 < int(count) <= 100000)):
            raise Failed(f"--hosts: {part!r} is not HOST or HOST=N", 2)
        found[place] = found.get(place, 0) + (int(count) if equals else 1)
    return found


class Bell:
    """Rung by signals, by the end of the engines and by that of the owner; says by which. Signals that are for the engines wait in `passed`."""

    def __init__(self, owner: int) -> None:
        self.why = ""
        self.passed: list[int] = []
        self._out, self._in = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._poll = select.poll()
        self._poll.register(self._out, select.POLLIN)
        self._owner = -1
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, lambda number, frame: self.ring(signal.strsignal(number) or ""))
        for number in (signal.SIGUSR1, signal.SIGUSR2):
            signal.signal(number, lambda number, frame: self._pass(number))
        if owner:
            self._watch(owner)

    def _watch(self, owner: int) -> None:
        try:
            self._owner = os.pidfd_open(owner)
        except OSError:
            pass
        if os.getppid() != owner:  # after opening: a number that was used again belongs to no parent
            self.ring("its owner ended")
        else:
            self._poll.register(self._owner, select.POLLIN)

    def _pass(self, number: int) -> None:
        self.passed.append(number)
        self._wake()

    def ring(self, why: str) -> None:
        self.why = self.why or why
        self._wake()

    def _wake(self) -> None:
        try:
            os.write(self._in, b"!")
        except BlockingIOError:
            pass  # it is ringing

    def wait(self, seconds: float | None) -> bool:
        """Whether it rang; also returns when there is something in `passed`."""
        if not self.why and not self.passed:
            for fd, _ in self._poll.poll(None if seconds is None else seconds * 1000):
                if fd == self._owner:
                    self.ring("its owner ended")
                elif not self.why:
                    os.read(self._out, 4096)
        return bool(self.why)


class Engines:
    """One set of engines, and a client that sees them come and go."""

    def __init__(self, options: argparse.Namespace, more: list[str], bell: Bell) -> None:
        self.bell = bell
        self.n = options.n or len(os.sched_getaffinity(0))
        self.hosts = read_hosts(options.hosts)
        self.how = options.engines or ("ssh" if self.hosts else "local")
        try:
            self.cluster = Cluster(profile_dir=options.profile_dir, cluster_id=options.cluster_id, engines=self.how, cluster_file="", shutdown_atexit=False)
        except KeyError as error:
            raise Failed(str(error.args[0]), 2) from None
        self.set: Any = None
        self.settings = self._settings(options, more)
        self.client: Any = None
        self.known: set[int] = set()
        self.ended: dict[str, Any] | None = None

    def _settings(self, options: argparse.Namespace, more: list[str]) -> dict[str, Any]:
        kind = self.cluster.engine_launcher_class
        usual = kind(parent=self.cluster)  # with what the profile's settings say
        made: dict[str, Any] = {"engine_args": [*usual.engine_args, *([f"--shell={options.shell}"] if options.shell else []), *more]}
        if options.library:
            made["engine_args"].append(f"--library={options.library}")
            made["engine_cmd"] = [argument for argument in usual.engine_cmd if not argument.startswith("--python=")]
        if self.hosts:
            if not issubclass(kind, launcher.SSHEngineSetLauncher):
                raise Failed(f"--hosts goes with --engines=ssh, not {self.how}", 2)
            made["engines"] = self.hosts
            self.n = options.n or sum(self.hosts.values())
        return made

    def _connection(self) -> str:
        """What the engines are told; the client, where it can be, sees who comes."""
        files = launcher.ControllerLauncher(profile_dir=self.cluster.profile_dir, cluster_id=self.cluster.cluster_id).connection_files
        given = os.environ.pop("IPP_CONNECTION_INFO", "")
        if not given and not os.path.exists(files["engine"]):
            raise Failed(f"no controller of cluster {self.cluster.cluster_id!r} in {self.cluster.profile_dir}: start one with manyhands start or manyhands controller",
                         EXIT_NO_CLUSTER)
        text = given or Path(files["engine"]).read_text()
        if os.path.exists(files["client"]):
            from manyhands.parallel import Client

            self.client = Client(files["client"], timeout=30)
            self.known = set(self.client.ids)
        return text

    def start(self, timeout: float) -> None:
        """Start them, and wait until they have registered. Raises Failed."""
        until = time.monotonic() + timeout
        text = self._connection()
        environment = {"IPP_CONNECTION_INFO": json.dumps(json.loads(text))}
        try:
            self.cluster.start_engines_sync(self.n, **self.settings, environment=environment)
        except launcher.LauncherError as error:
            raise Failed(str(error), 1) from None
        self.set = self.cluster.engine_set
        self.set.on_stop(self._notice_end)
        self.n = self.set.n
        while not self.bell.why and (registered := self.count()) < self.n:
            left = until - time.monotonic()
            if left <= 0:
                raise Failed(f"{registered} of {self.n} engines registered in {timeout:g} s; {self._last_lines()}", 1)
            self.bell.wait(min(left, 0.02))
        if self.ended is not None:
            raise Failed(f"{self.how}: all engines ended with {self.ended.get('exit_code')} before they had registered; {self._last_lines()}", 1)

    def _last_lines(self) -> str:
        print(self.set.get_output(), file=sys.stderr)
        return "what they printed is above"

    def count(self) -> int:
        """How many of them have registered; without a client nobody can tell, and starting counts."""
        return self.n if self.client is None else len(set(self.client.ids) - self.known)

    def _notice_end(self, data: Any) -> None:
        self.ended = data or {}
        self.bell.ring(ALL_ENDED)

    def stop(self) -> None:
        """End them, and wait until the controller has no more of them."""
        if self.set is None:
            return
        try:
            self.cluster.stop_engines_sync()
            print(self.set.get_output(), file=sys.stderr, flush=True)
        except launcher.LauncherError as error:
            print(f"manyhands engines: {error}", file=sys.stderr)
        until = time.monotonic() + _STOP_S
        while self.client is not None and self.count() and time.monotonic() < until and os.path.exists(self.client_file):
            time.sleep(0.02)

    @property
    def client_file(self) -> str:
        return launcher.ControllerLauncher(profile_dir=self.cluster.profile_dir, cluster_id=self.cluster.cluster_id).connection_files["client"]


def _tell_ready(fd: str, n: int) -> None:
    if fd.isdecimal():
        os.write(int(fd), f"{n}\n".encode())
        os.close(int(fd))
    else:
        print(f"{n} engine{'' if n == 1 else 's'} ready", flush=True)


def _run(arguments: list[str]) -> int:
    ready = os.environ.pop("MANYHANDS_READY_FD", "")  # this process's, not the engines'
    options, more = _parse(arguments)
    bell = Bell(options.owner)
    engines = Engines(options, more, bell)
    try:
        engines.start(options.timeout)
        if not bell.why:
            _tell_ready(ready, engines.n)
        while not bell.wait(None):
            while bell.passed:
                engines.cluster.signal_engines_sync(bell.passed.pop(0))
        print(f"stopping: {bell.why}", file=sys.stderr)
    finally:
        engines.stop()
    return 1 if bell.why == ALL_ENDED and (engines.ended or {}).get("exit_code") else 0


def main(arguments: list[str]) -> int:
    """Run until told to end; gives the exit status."""
    try:
        return _run(arguments)
    except Failed as failed:
        print(f"manyhands engines: {failed.args[0]}", file=sys.stderr)
        return int(failed.args[1])
    except FileNotFoundError as error:  # our own command
        print(f"manyhands engines: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
