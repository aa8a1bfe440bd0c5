"""How controllers and engines are started: here, over SSH, by MPI, or by a batch system.

We write no launcher of our own for other hosts: these build the command lines and batch scripts of `ssh`, `mpiexec`, `sbatch` and their kin, and call them.
Names and settings are ipyparallel's.
"""

from __future__ import annotations

import asyncio
import copy
import importlib
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from importlib.metadata import entry_points
from pathlib import Path
from textwrap import indent
from typing import Any

from . import _process
from ._options import Configurable, Option
from .command import find_command, import_path

__all__ = [
    "BaseLauncher", "BatchControllerLauncher", "BatchEngineSetLauncher", "BatchSystemLauncher", "ControllerLauncher", "EngineLauncher",
    "HTCondorControllerLauncher", "HTCondorEngineSetLauncher", "HTCondorLauncher", "LSFControllerLauncher", "LSFEngineSetLauncher", "LSFLauncher",
    "LauncherError", "LocalControllerLauncher", "LocalEngineLauncher", "LocalEngineSetLauncher", "LocalProcessLauncher", "MPIControllerLauncher",
    "MPIEngineSetLauncher", "MPILauncher", "NotRunning", "PBSControllerLauncher", "PBSEngineSetLauncher", "PBSLauncher", "ProcessStateError",
    "SGEControllerLauncher", "SGEEngineSetLauncher", "SGELauncher", "SSHControllerLauncher", "SSHEngineLauncher", "SSHEngineSetLauncher", "SSHLauncher",
    "SSHProxyEngineSetLauncher", "SlurmControllerLauncher", "SlurmEngineSetLauncher", "SlurmLauncher", "UnknownStatus", "abbreviate_launcher_class",
    "WindowsHPCControllerLauncher", "WindowsHPCEngineSetLauncher", "WindowsHPCLauncher", "all_launchers", "find_launcher_class",
]

# As ipyparallel's programs find them here.
SIGTERM, SIGKILL = signal.SIGTERM, signal.SIGKILL


def _command(*arguments: str) -> list[str]:
    """The command where it is; where it is missing, starting it says so."""
    try:
        return [find_command(), *arguments]
    except FileNotFoundError:
        return ["manyhands", *arguments]


ipcontroller_cmd_argv = _command("controller")
ipengine_cmd_argv = _command("engine", f"--python={sys.executable}")
ipcluster_cmd_argv = _command()

_LOOK_S = 0.02
_REGISTERED = re.compile(r"ompleted registration with id (\d+)")


class LauncherError(Exception):
    """A launcher could not do what it was asked to."""


class ProcessStateError(LauncherError):
    """It was started already, or never."""


class UnknownStatus(LauncherError):
    """Nothing says how it is."""


class NotRunning(LauncherError):
    """What was written down about it is no longer so."""


def _need(program: str, for_what: str) -> None:
    if shutil.which(program) is None:
        raise LauncherError(f"{program} is not installed here, or not in PATH: {for_what} need it")


# ---- base ------------------------------------------------------------------------------------------


class BaseLauncher(Configurable):
    """Starts, signals and ends something, and tells who asked when it has ended."""

    stop_timeout = Option(60, kind=(int, float))
    work_dir = Option(".", kind=str)
    name = Option("process", kind=str)
    loop = Option(None)
    profile_dir = Option("", kind=str, saved=True)
    cluster_id = Option("", kind=str, saved=True)
    state = Option("before", kind=str, saved=True)
    environment = Option({}, kind=dict)
    output_limit = Option(100, kind=int)
    start_data = Option(None)
    stop_data = Option(None)
    engine_set_id = Option("", kind=str)
    identifier = Option(lambda self: "-".join(filter(None, [self.name, self.cluster_id, self.engine_set_id, str(os.getpid())])), kind=str)

    def __init__(self, **options: Any) -> None:
        self._callbacks: list[Callable[[Any], Any]] = []
        self._end_lock = threading.RLock()  # guards state, stop_data and _callbacks against the watcher's thread
        super().__init__(**options)

    def to_dict(self) -> dict[str, Any]:
        """What from_dict makes it from."""
        return self.saved()

    @classmethod
    def from_dict(cls, d: Mapping[str, Any], *, config: Mapping[str, Any] | None = None, parent: Any = None, **kwargs: Any) -> Any:
        """A launcher of something that runs already. Raises NotRunning when it does not."""
        made = cls(config=config, parent=parent, **kwargs)
        for name, option in cls._options().items():
            if option.saved and name in d:
                setattr(made, name, d[name])
        return made

    @property
    def cluster_args(self) -> list[str]:
        return []

    @property
    def connection_files(self) -> dict[str, str]:
        """Where the controller writes how clients and engines reach it."""
        name = f"ipcontroller-{self.cluster_id}" if self.cluster_id else "ipcontroller"
        return {kind: os.path.join(self.profile_dir, "security", f"{name}-{kind}.json") for kind in ("client", "engine")}

    @property
    def args(self) -> list[str]:
        """The command line."""
        return self.find_args()

    def find_args(self) -> list[str]:
        raise NotImplementedError("find_args must be implemented in a subclass")

    @property
    def arg_str(self) -> str:
        return shlex.join(self.args)

    @property
    def cluster_env(self) -> dict[str, str]:
        """What says which cluster it belongs to."""
        return {"IPP_CLUSTER_ID": self.cluster_id, "IPP_PROFILE_DIR": self.profile_dir}

    def get_env(self) -> dict[str, str]:
        """What is added to its environment."""
        return {**self.cluster_env, **self.environment}

    @property
    def running(self) -> bool:
        return bool(self.state == "running")

    def start(self, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError("start must be implemented in a subclass")

    async def stop(self) -> Any:
        raise NotImplementedError("stop must be implemented in a subclass")

    def signal(self, sig: int) -> None:
        raise NotImplementedError("signal must be implemented in a subclass")

    async def join(self, timeout: float | None = None) -> Any:
        raise NotImplementedError("join must be implemented in a subclass")

    def poll(self) -> Any:
        """None while it runs."""
        return None if self.state != "after" else (self.stop_data or {}).get("exit_code", 0)

    def on_stop(self, f: Callable[[Any], Any]) -> Any:
        """Call f(stop_data) when it has ended: at once, if it has; else in another thread."""
        with self._end_lock:
            if self.state != "after":
                self._callbacks.append(f)
                return None
        return f(self.stop_data)

    def notify_start(self, data: Any) -> Any:
        self.log.debug("%s started: %s", type(self).__name__, data)
        self.start_data = data
        self.state = "running"
        return data

    def notify_stop(self, data: Any) -> Any:
        """Told by whoever saw it end; only the first counts."""
        with self._end_lock:
            if self.state == "after":
                return data
            self.stop_data = data
            self.state = "after"
            callbacks, self._callbacks = self._callbacks, []
        self.log.debug("%s stopped: %s", type(self).__name__, data)
        self._log_output(data)
        for f in callbacks:
            f(data)
        return data

    def get_output(self, remove: bool = False) -> str:
        """What it printed; the file goes if asked."""
        return ""

    def _last_lines(self, text: str) -> str:
        return "".join(text.splitlines(True)[-self.output_limit:]) if self.output_limit else text

    def _log_output(self, stop_data: Any = None) -> None:
        output = self._last_lines(self.get_output(remove=True))
        tell = self.log.warning if stop_data and stop_data.get("exit_code") else self.log.debug
        if output:
            tell("Output for %s:\n%s", self.identifier, output)


class ControllerLauncher(BaseLauncher):
    """Starts a controller."""

    name = Option("ipcontroller", kind=str)
    controller_cmd = Option(lambda self: [find_command(), "controller"], kind=(list, tuple))
    controller_args = Option([], kind=(list, tuple))
    connection_info_timeout = Option(60.0, kind=(int, float))

    async def get_connection_info(self, timeout: float | None = None) -> dict[str, Any]:
        """What the controller wrote for clients and for engines, once it is there. A negative timeout waits without end.

        Raises TimeoutError; RuntimeError when the controller ends before.
        """
        timeout = self.connection_info_timeout if timeout is None else timeout
        until = time.monotonic() + timeout if timeout >= 0 else float("inf")
        found: dict[str, Any] = {}
        while len(found) < 2:
            for kind, path in self.connection_files.items():
                try:
                    found[kind] = json.loads(Path(path).read_text())
                except (FileNotFoundError, ValueError):  # a stock controller writes it in place
                    break
            else:
                break
            found.clear()
            status = self.poll()
            if status is not None:
                raise RuntimeError(f"the controller ended with {status} before it wrote {self.connection_files['client']}; it printed: "
                                   f"{self._last_lines(self.get_output())}")
            if time.monotonic() > until:
                missing = [path for path in self.connection_files.values() if not os.path.exists(path)]
                raise TimeoutError(f"connection files {missing} did not arrive in {timeout}s")
            await asyncio.sleep(_LOOK_S)
        return found


class EngineLauncher(BaseLauncher):
    """Starts one engine, or several."""

    name = Option("ipengine", kind=str)
    engine_cmd = Option(lambda self: [find_command(), "engine", f"--python={sys.executable}"], kind=(list, tuple))
    engine_args = Option([], kind=(list, tuple))
    n = Option(1, kind=(int, type(None)), saved=True)


# ---- here ------------------------------------------------------------------------------------------


def _make_private(folder: str) -> str:
    os.makedirs(folder, mode=0o700, exist_ok=True)
    return folder


class LocalProcessLauncher(BaseLauncher):
    """Starts a process on this host, which goes on when this one ends."""

    cmd_and_args = Option([], kind=(list, tuple))
    poll_seconds = Option(30, kind=(int, float))
    pid = Option(-1, kind=int, saved=True)
    output_file = Option(lambda self: os.path.join(_make_private(os.path.join(self.profile_dir, "log")), f"{self.identifier}.log"), kind=str, saved=True)
    stop_seconds_until_kill = Option(5, kind=(int, float))
    process: _process.Process | None = None
    _output: str | None = None

    def find_args(self) -> list[str]:
        return list(self.cmd_and_args)

    @classmethod
    def from_dict(cls, d: Mapping[str, Any], **kwargs: Any) -> Any:
        made = super().from_dict(d, **kwargs)
        made._adopt()
        return made

    def _adopt(self) -> None:
        if self.pid <= 0:
            return
        self.process = _process.adopt(self.pid, self.cluster_env)
        if self.process is None:
            raise NotRunning(f"process {self.pid} is not (or no longer) {self.name} of cluster {self.cluster_id!r} in {self.profile_dir}")
        self.state = "running"
        _process.watch(self.process, self._ended)

    def _ended(self) -> None:
        assert self.process is not None
        self.notify_stop({"exit_code": self.process.exit_code, "pid": self.pid, "identifier": self.identifier})

    def _input(self) -> bytes | None:
        return None

    def start(self, *args: Any, **kwargs: Any) -> Any:
        if self.state != "before":
            raise ProcessStateError(f"the process was already started and has state {self.state}")
        self.log.debug("Starting %s: %s", type(self).__name__, self.arg_str)
        environment = {**os.environ, "PYTHONPATH": import_path(), **self.get_env()}
        if "IPP_CONNECTION_INFO" not in self.get_env():
            environment.pop("IPP_CONNECTION_INFO", None)
        self.process = _process.start(self.args, environment, self.output_file, self.work_dir, self._input())
        self.pid = self.process.pid
        self.notify_start(self.pid)
        _process.watch(self.process, self._ended)
        return self.pid

    async def join(self, timeout: float | None = None) -> Any:
        """Wait for its end. Raises TimeoutError."""
        if self.process is not None:
            await self.process.wait_async(self.stop_timeout if timeout is None else timeout)
            self._ended()

    async def stop(self) -> Any:
        """SIGTERM, and SIGKILL after stop_seconds_until_kill."""
        if self.process is None:
            return
        self.signal(signal.SIGTERM)
        try:
            await self.join(timeout=self.stop_seconds_until_kill)
        except TimeoutError:
            self.log.warning("Process %s did not exit in %s seconds after TERM", self.pid, self.stop_seconds_until_kill)
            self.signal(signal.SIGKILL)
            await self.join(timeout=self.stop_timeout)

    def signal(self, sig: int) -> None:
        if self.process is not None and self.state == "running":
            self.process.send_signal(int(sig))

    def poll(self) -> Any:
        if self.process is None or self.process.is_running():
            return None
        self._ended()
        return "unknown" if self.process.exit_code is None else self.process.exit_code

    def get_output(self, remove: bool = False) -> str:
        if self.output_file:
            try:
                self._output = Path(self.output_file).read_text(errors="replace")
            except OSError:
                pass  # it went with an earlier call
            if remove:
                Path(self.output_file).unlink(missing_ok=True)
        return self._output or ""


class LocalControllerLauncher(LocalProcessLauncher, ControllerLauncher):
    """Starts a controller on this host."""

    def find_args(self) -> list[str]:
        return [*self.controller_cmd, *self.cluster_args, *self.controller_args]


class LocalEngineLauncher(LocalProcessLauncher, EngineLauncher):
    """Starts one engine on this host."""

    def find_args(self) -> list[str]:
        return [*self.engine_cmd, *self.cluster_args, *self.engine_args]

    @property
    def engine_id(self) -> int | None:
        """Its number at the controller, once it has one."""
        found = _REGISTERED.findall(self.get_output())
        return int(found[-1]) if found else None


class LocalEngineSetLauncher(LocalEngineLauncher):
    """Starts engines on this host, a process each."""

    delay = Option(0.0, kind=(int, float))
    output_file = Option("", kind=str, saved=True)
    launcher_class: type[LocalEngineLauncher] = LocalEngineLauncher

    def __init__(self, **options: Any) -> None:
        self.launchers: dict[str, Any] = {}
        self.outputs: dict[str, str] = {}
        self._ends: dict[str, Any] = {}
        super().__init__(**options)

    def to_dict(self) -> dict[str, Any]:
        return {**super().to_dict(), "engines": {name: one.to_dict() for name, one in list(self.launchers.items())}}

    @classmethod
    def from_dict(cls, d: Mapping[str, Any], **kwargs: Any) -> Any:
        made = super().from_dict(d, **kwargs)
        for name, state in d.get("engines", {}).items():
            try:
                made._add(name, made.launcher_class.from_dict(state, identifier=name, parent=made))
            except NotRunning as error:
                made.log.warning("Engine %s not running: %s", name, error)
        if not made.launchers:
            raise NotRunning("No engines left")
        made.n = len(made.launchers)
        made.state = "running"
        return made

    def _add(self, name: str, one: Any) -> None:
        self.launchers[name] = one
        one.on_stop(self._notice_engine_stopped)

    def _make(self, name: str) -> Any:
        log = os.path.join(_make_private(os.path.join(self.profile_dir, "log")), f"ipengine-{self.cluster_id}-{self.engine_set_id}-{name}.log")
        return self.launcher_class(
            work_dir=self.work_dir, parent=self, log=self.log, profile_dir=self.profile_dir, cluster_id=self.cluster_id, environment=self.environment,
            identifier=name, output_file=log, engine_cmd=copy.copy(self.engine_cmd), engine_args=copy.copy(self.engine_args))

    def start(self, n: int = 1, *args: Any, **kwargs: Any) -> Any:
        """Start n engines."""
        self.n = n
        started = []
        for i in range(n):
            if i and self.delay:
                time.sleep(self.delay)
            one = self._make(str(i))
            started.append(one.start())
            self._add(str(i), one)
        return self.notify_start(started)

    def find_args(self) -> list[str]:
        return ["engine set"]

    def signal(self, sig: int) -> None:
        for one in list(self.launchers.values()):
            one.signal(sig)

    async def stop(self) -> Any:
        await asyncio.gather(*(one.stop() for one in list(self.launchers.values())))

    async def join(self, timeout: float | None = None) -> Any:
        await asyncio.gather(*(one.join(timeout) for one in list(self.launchers.values())))

    def poll(self) -> Any:
        for one in list(self.launchers.values()):
            one.poll()
        return super(LocalProcessLauncher, self).poll()

    def find_engine(self, engine_id: int) -> Any:
        """The launcher of the engine with this number at the controller, or None."""
        return next((one for one in list(self.launchers.values()) if one.engine_id == engine_id), None)

    def _notice_engine_stopped(self, data: Any) -> None:
        name = data["identifier"]
        with self._end_lock:
            one = self.launchers.pop(name, None)
            if one is None:
                return
            self.outputs[name] = one.get_output()
            self._ends[name] = data
            if self.launchers or self.state == "before":
                return
        codes = [end.get("exit_code") for end in self._ends.values()]
        self.notify_stop({"engines": dict(self._ends), "exit_code": next((code for code in codes if code), codes[0])})

    def _log_output(self, stop_data: Any = None) -> None:
        """Each engine has done so."""

    def get_output(self, remove: bool = False) -> str:
        for name, one in list(self.launchers.items()):
            self.outputs[name] = one.get_output(remove=remove)
        return "\n".join(f"Output for engine {name}\n{indent(self._last_lines(text), '  ')}" for name, text in self.outputs.items() if text)


# ---- MPI -------------------------------------------------------------------------------------------


class MPILauncher(LocalProcessLauncher):
    """Starts n copies of a program with mpiexec."""

    mpi_cmd = Option(["mpiexec"], kind=(list, tuple))
    mpi_args = Option([], kind=(list, tuple))
    program = Option(["date"], kind=(list, tuple))
    program_args = Option([], kind=(list, tuple))
    n = Option(1, kind=(int, type(None)), saved=True)

    def find_args(self) -> list[str]:
        return [*self.mpi_cmd, "-n", str(self.n), *self.mpi_args, *self.program, *self.program_args]

    def start(self, n: int = 1, *args: Any, **kwargs: Any) -> Any:
        _need(self.mpi_cmd[0], "MPI launchers")
        self.n = n
        return super().start()


class MPIControllerLauncher(MPILauncher, ControllerLauncher):
    """Starts a controller with mpiexec."""

    program = property(lambda self: list(self.controller_cmd))
    program_args = property(lambda self: [*self.cluster_args, *self.controller_args])


class MPIEngineSetLauncher(MPILauncher, EngineLauncher):
    """Starts engines with mpiexec; each asks for the number of its rank."""

    program = property(lambda self: [*self.engine_cmd, "--mpi"])
    program_args = property(lambda self: [*self.cluster_args, *self.engine_args])


# ---- SSH -------------------------------------------------------------------------------------------


_REMOTE_PID = re.compile(r"__remote_pid=(\d+)__")


class SSHLauncher(LocalProcessLauncher):
    """Starts a program on another host: a local ssh runs as long as it does, and brings its output.

    What it needs (environment, keys) is told to a shell there through ssh's input, and is on no command line.
    """

    ssh_cmd = Option(["ssh"], kind=(list, tuple), saved=True)
    ssh_args = Option([], kind=(list, tuple), saved=True)
    scp_cmd = Option(["scp"], kind=(list, tuple), saved=True)
    scp_args = Option([], kind=(list, tuple), saved=True)
    program = Option([], kind=(list, tuple))
    program_args = Option([], kind=(list, tuple))
    hostname = Option("", kind=str, saved=True)
    user = Option("", kind=str, saved=True)
    location = Option(lambda self: f"{self.user}@{self.hostname}" if self.user else self.hostname, kind=str)
    remote_profile_dir = Option(lambda self: self._strip_home(self.profile_dir), kind=str, saved=True)
    remote_command = Option("manyhands", kind=str, saved=True)
    remote_python = Option("", kind=str, saved=True)  # of an installation there: its command is used
    to_fetch = Option([], kind=(list, tuple))
    to_send = Option([], kind=(list, tuple))
    port = Option("", kind=str, saved=True)

    def _remote(self, *arguments: str) -> list[str]:
        """A command line of ours over there."""
        return [*([self.remote_python, "-m", "manyhands.parallel.cluster"] if self.remote_python else [self.remote_command]), *arguments]

    @staticmethod
    def _strip_home(path: str) -> str:
        """A folder in the home is one in the home over there, wherever that is."""
        home = os.path.expanduser("~") + "/"
        return path[len(home):] if path.startswith(home) else path

    def _ssh(self) -> list[str]:
        port = ["-p", self.port] if self.port else []
        return [*self.ssh_cmd, *self.ssh_args, *port, self.location]

    def find_args(self) -> list[str]:
        return [*self._ssh(), "--", "sh", "-s"]

    def get_env(self) -> dict[str, str]:
        return {**super().get_env(), "IPP_PROFILE_DIR": self.remote_profile_dir}

    def _script(self) -> str:
        """What the shell over there is told."""
        exports = [f"export {name}={shlex.quote(value)}" for name, value in self.get_env().items()]
        return "\n".join(["set -eu", *exports, "echo __remote_pid=$$__", f"exec {shlex.join([*self.program, *self.program_args])} </dev/null", ""])

    def _input(self) -> bytes:
        return self._script().encode()

    @property
    def remote_pid(self) -> int | None:
        found = _REMOTE_PID.findall(self.get_output())
        return int(found[-1]) if found else None

    @property
    def cluster_env(self) -> dict[str, str]:
        return {"IPP_CLUSTER_ID": self.cluster_id, "IPP_PROFILE_DIR": self.profile_dir}

    def _run(self, command: list[str]) -> None:
        try:
            subprocess.run(command, stdin=subprocess.DEVNULL, check=True, capture_output=True, timeout=self.stop_timeout)
        except subprocess.CalledProcessError as error:
            raise LauncherError(f"{shlex.join(command)}: {error.stderr.decode(errors='replace').strip() or f'status {error.returncode}'}") from None
        except subprocess.TimeoutExpired:
            raise LauncherError(f"{shlex.join(command)} did not end within {self.stop_timeout} seconds") from None

    def _copy(self, source: str, to: str) -> None:
        port = ["-P", self.port] if self.port else []
        self._run([*self.scp_cmd, "-q", *self.scp_args, *port, source, to])

    def start(self, *args: Any, hostname: str | None = None, user: str | None = None, port: str | None = None, **kwargs: Any) -> Any:
        for name, value in (("hostname", hostname), ("user", user), ("port", port and str(port))):
            if value:
                setattr(self, name, value)
        if not self.location:
            raise LauncherError(f"{type(self).__name__} needs to know on which host: set hostname or location")
        _need(self.ssh_cmd[0], "SSH launchers")
        for local, remote in self.to_send:
            self._run([*self._ssh(), "--", "mkdir", "-p", "-m", "700", shlex.quote(os.path.dirname(remote))])
            self._copy(local, f"{self.location}:{remote}")
        started = super().start()
        for remote, local in self.to_fetch:
            self._fetch(remote, local)
        return started

    def _fetch(self, remote: str, local: str) -> None:
        """Wait for a file over there, and bring it here, readable by nobody else."""
        wait = f"for i in $(seq 300); do test -s {shlex.quote(remote)} && exit 0; sleep 0.1; done; exit 1"
        self._run([*self._ssh(), "--", wait])
        _make_private(os.path.dirname(local))
        before = os.umask(0o077)
        try:
            self._copy(f"{self.location}:{remote}", local)
        finally:
            os.umask(before)

    def signal(self, sig: int) -> None:
        pid = self.remote_pid
        if pid is not None and self.state == "running":
            self._run([*self._ssh(), "--", "kill", f"-{int(sig)}", str(pid)])

    async def stop(self) -> Any:
        for number in (signal.SIGTERM, signal.SIGKILL):
            if self.process is None or not self.process.is_running():
                break
            try:
                self.signal(number)
                await self.join(timeout=self.stop_seconds_until_kill)
            except (LauncherError, TimeoutError) as error:
                self.log.warning("%s: %s", self.location, error)
        await super().stop()

    @property
    def remote_connection_files(self) -> dict[str, str]:
        return {kind: self.remote_profile_dir + path[len(self.profile_dir):] for kind, path in self.connection_files.items()}


class SSHControllerLauncher(SSHLauncher, ControllerLauncher):
    """Starts a controller on another host, and brings its connection files here."""

    controller_cmd = Option(lambda self: self._remote("controller"), kind=(list, tuple))
    program = property(lambda self: list(self.controller_cmd))
    program_args = property(lambda self: [*self.cluster_args, *self.controller_args])
    to_fetch = Option(lambda self: [(self.remote_connection_files[kind], path) for kind, path in self.connection_files.items()], kind=(list, tuple))


class SSHEngineLauncher(SSHLauncher, LocalEngineLauncher):
    """Starts one engine on another host."""

    engine_cmd = Option(lambda self: self._remote("engine"), kind=(list, tuple))
    program = property(lambda self: list(self.engine_cmd))
    program_args = property(lambda self: [*self.cluster_args, *self.engine_args])


class SSHEngineSetLauncher(LocalEngineSetLauncher, SSHLauncher):
    """Starts engines on other hosts: `engines` says how many on which, as {"host": 2, "user@other:2222": 4}."""

    launcher_class: type[LocalEngineLauncher] = SSHEngineLauncher
    engines = Option({}, kind=dict, saved=True)
    engine_cmd = Option(lambda self: self._remote("engine"), kind=(list, tuple))
    _PER_ENGINE = frozenset({"location", "user", "hostname", "port", "identifier", "output_file", "state", "pid", "n", "start_data", "stop_data", "name", "log"})

    def start(self, n: int = 1, *args: Any, **kwargs: Any) -> Any:
        """Start at most n engines."""
        shared = set(self.launcher_class._options()) & set(self._options()) - self._PER_ENGINE
        started: list[str] = []
        if not self.engines:
            raise LauncherError("SSHEngineSetLauncher.engines says on which hosts engines are started: it is empty")
        for place, wanted in self.engines.items():
            settings = dict(wanted) if isinstance(wanted, Mapping) else {"n": wanted}
            user, _, host = place.rpartition("@")
            host, _, port = host.partition(":")
            for i in range(min(settings.pop("n", 1), n - len(started))):
                name = f"{place}/{i}"
                output = os.path.join(_make_private(os.path.join(self.profile_dir, "log")), f"ipengine-{self.cluster_id}-{self.engine_set_id}-{host}-{i}.log")
                one = self.launcher_class(**{**{key: getattr(self, key) for key in shared if key != "to_send" and key != "to_fetch"}, **settings},
                                          parent=self, identifier=name, log=self.log, output_file=output)
                one.start(hostname=host, user=user or None, port=port or None)
                self._add(name, one)
                started.append(name)
                settings.setdefault("n", 1)
                settings.pop("n")
        self.n = len(started)
        return self.notify_start(started)


class SSHProxyEngineSetLauncher(SSHLauncher, EngineLauncher):
    """Starts engines on another host by one command there, `manyhands engines`, which ends them when its connection ends."""

    ipcluster_cmd = Option(lambda self: self._remote(), kind=(list, tuple))
    ipcluster_args = Option([], kind=(list, tuple))
    program = property(lambda self: [*self.ipcluster_cmd, "engines"])
    program_args = property(lambda self: ["-n", str(self.n), "--profile-dir", self.remote_profile_dir, "--cluster-id", self.cluster_id,
                                          *self.ipcluster_args])

    def start(self, n: int = 1, *args: Any, **kwargs: Any) -> Any:
        self.n = n
        return super().start()


# ---- batch systems ---------------------------------------------------------------------------------


class BatchSystemLauncher(BaseLauncher):
    """Writes a batch script and hands it to a batch system.

    batch_template (or batch_template_file) may replace the script: {n}, {program}, {program_args}, {program_and_args}, {profile_dir}, {cluster_id},
    {queue}, {output_file}, {environment_json} and what is in `namespace` are filled in. The script holds no key: engines read the controller's
    file, from a file system that hosts share.
    """

    output_file = Option(lambda self: os.path.join(_make_private(os.path.join(self.profile_dir, "log")), f"{self.identifier}.log"), kind=str, saved=True)
    submit_command = Option([""], kind=(list, tuple))
    delete_command = Option([""], kind=(list, tuple))
    signal_command = Option([""], kind=(list, tuple))
    status_command = Option([], kind=(list, tuple))  # prints nothing, or fails, once the job has ended; empty: nobody can tell
    job_id = Option("", kind=str, saved=True)
    job_id_regexp = Option(r"\d+")
    job_id_regexp_group = Option(0, kind=int)
    batch_template = Option("", kind=str, saved=True)
    batch_template_file = Option("", kind=str)
    batch_file_name = Option("batch_script", kind=str, saved=True)
    queue = Option("", kind=str, saved=True)
    n = Option(1, kind=(int, type(None)), saved=True)
    namespace = Option({}, kind=dict, saved=True)
    program = Option([], kind=(list, tuple))
    program_args = Option([], kind=(list, tuple))
    prefix = ""                 # of the lines that are for the batch system
    array_line = ""             # that asks for n copies
    queue_line = output_line = ""
    run_line = "{program_and_args}"
    _output: str | None = None

    @property
    def batch_file(self) -> str:
        """Where the script is written: to work_dir, else beside the logs."""
        folder = self.work_dir if self.work_dir != "." else _make_private(os.path.join(self.profile_dir, "log"))
        return str(os.path.join(folder, self.batch_file_name))

    @property
    def context(self) -> dict[str, Any]:
        """What a template may name."""
        return {"n": self.n, "queue": self.queue, "profile_dir": self.profile_dir, "cluster_id": self.cluster_id, "output_file": self.output_file,
                "program": shlex.join(self.program), "program_args": shlex.join(self.program_args),
                "program_and_args": shlex.join([*self.program, *self.program_args]), "environment_json": json.dumps(self.get_env()), **self.namespace}

    def get_env(self) -> dict[str, str]:
        return {name: value for name, value in super().get_env().items() if name != "IPP_CONNECTION_INFO"}

    def batch_lines(self) -> list[str]:
        """The lines that are for the batch system."""
        wanted = [self.array_line, self.queue_line if self.queue else "", self.output_line]
        return [f"{self.prefix} {line}" for line in wanted if line]

    def default_template(self) -> str:
        exports = [f"export {name}={shlex.quote(value)}".replace("{", "{{").replace("}", "}}") for name, value in self.get_env().items()]
        return "\n".join(["#!/bin/sh", *self.batch_lines(), *exports, self.run_line, ""])

    def find_args(self) -> list[str]:
        return [*self.submit_command, self.batch_file]

    def parse_job_id(self, output: str) -> str:
        found = re.search(self.job_id_regexp, output)
        if found is None:
            raise LauncherError(f"{self.submit_command[0]} told no job's number: {output!r}")
        self.job_id = found.group(self.job_id_regexp_group)
        return str(self.job_id)

    def write_batch_script(self, n: int = 1) -> None:
        """Write it, for this user alone."""
        self.n = n
        template = self.batch_template or (Path(self.batch_template_file).read_text() if self.batch_template_file else self.default_template())
        fd = os.open(self.batch_file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o700)
        with open(fd, "w") as f:
            f.write(template.format(**self.context))

    def _run(self, command: list[str], text: str | None = None) -> str:
        _need(command[0], f"{type(self).__name__}s")
        try:
            run = subprocess.run(command, input=text or "", check=True, capture_output=True, text=True, env={**os.environ, **self.get_env()})
            return str(run.stdout)
        except subprocess.CalledProcessError as error:
            raise LauncherError(f"{shlex.join(command)}: {error.stderr.strip() or f'status {error.returncode}'}") from None

    def _submit(self) -> str:
        return self._run(self.args)

    def start(self, n: int = 1, *args: Any, **kwargs: Any) -> Any:
        """Submit n copies; they run when the batch system lets them."""
        _need(self.submit_command[0], f"{type(self).__name__}s")
        self.write_batch_script(n)
        return self.notify_start(self.parse_job_id(self._submit()))

    async def stop(self) -> Any:
        if self.job_id:
            output = self._run([*self.delete_command, self.job_id])
            await self.join(self.stop_timeout)
            self.notify_stop({"job_id": self.job_id, "output": output})

    async def join(self, timeout: float | None = None) -> Any:
        """Wait until the job has ended, and has printed all, where the batch system tells. Raises TimeoutError."""
        until = time.monotonic() + (self.stop_timeout if timeout is None else timeout)
        while self.status_command and self._is_queued():
            if time.monotonic() > until:
                raise TimeoutError(f"job {self.job_id} did not end in time")
            await asyncio.sleep(5 * _LOOK_S)

    def _is_queued(self) -> bool:
        try:
            return bool(self._run([*self.status_command, self.job_id]).strip())
        except LauncherError:
            return False  # it is known no more

    def signal(self, sig: int) -> None:
        self._run([*self.signal_command, str(int(sig)), self.job_id])

    def get_output(self, remove: bool = False) -> str:
        return LocalProcessLauncher.get_output(self, remove)  # type: ignore[arg-type]


class BatchControllerLauncher(BatchSystemLauncher, ControllerLauncher):
    """Hands a controller to a batch system. It must listen where engines reach it: controller_args=["--ip=...", "--enable-curve"]."""

    program = Option(lambda self: list(self.controller_cmd), kind=(list, tuple))
    program_args = Option(lambda self: list(self.controller_args), kind=(list, tuple))
    batch_file_name = Option(lambda self: f"{self._system}_controller", kind=str, saved=True)
    _system = "batch"

    def start(self, n: int = 1, *args: Any, **kwargs: Any) -> Any:
        return super().start(1)


class BatchEngineSetLauncher(BatchSystemLauncher, EngineLauncher):
    """Hands engines to a batch system."""

    program = Option(lambda self: list(self.engine_cmd), kind=(list, tuple))
    program_args = Option(lambda self: list(self.engine_args), kind=(list, tuple))
    batch_file_name = Option(lambda self: f"{self._system}_engines", kind=str, saved=True)
    _system = "batch"


class PBSLauncher(BatchSystemLauncher):
    """PBS and Torque: qsub, qdel, qsig."""

    submit_command = Option(["qsub"], kind=(list, tuple))
    delete_command = Option(["qdel"], kind=(list, tuple))
    signal_command = Option(["qsig", "-s"], kind=(list, tuple))
    job_id_regexp = Option(r"\d+(\[\])?(\.[\w.-]+)?")
    prefix = "#PBS"
    array_line, queue_line, output_line = "-J 1-{n}", "-q {queue}", "-j oe -o {output_file}"
    _system = "pbs"


class SGELauncher(PBSLauncher):
    """Sun Grid Engine: qsub, qdel."""

    job_id_regexp = Option(r"\d+")
    prefix = "#$"
    array_line, output_line = "-t 1-{n}", "-j y -o {output_file}"
    _system = "sge"


class LSFLauncher(BatchSystemLauncher):
    """LSF: bsub, bkill."""

    submit_command = Option(["bsub"], kind=(list, tuple))
    delete_command = Option(["bkill"], kind=(list, tuple))
    signal_command = Option(["bkill", "-s"], kind=(list, tuple))
    prefix = "#BSUB"
    array_line, queue_line, output_line = "-J ipengine[1-{n}]", "-q {queue}", "-o {output_file}"
    _system = "lsf"

    def _submit(self) -> str:
        """bsub reads the script from its input."""
        return self._run(list(self.submit_command), Path(self.batch_file).read_text())


class HTCondorLauncher(BatchSystemLauncher):
    """HTCondor: condor_submit, condor_rm."""

    submit_command = Option(["condor_submit"], kind=(list, tuple))
    delete_command = Option(["condor_rm"], kind=(list, tuple))
    signal_command = Option(["condor_rm"], kind=(list, tuple))
    job_id_regexp = Option(r"(\d+)\.$")
    job_id_regexp_group = Option(1, kind=int)
    _system = "htcondor"

    def default_template(self) -> str:
        """Not a shell script but a description of the job."""
        quoted = " ".join(f"{name}='{value}'" for name, value in self.get_env().items()).replace('"', '""').replace("{", "{{").replace("}", "}}")
        program = shutil.which(self.program[0]) or self.program[0]
        rest = " ".join([*self.program[1:], *self.program_args])
        return "\n".join(["universe = vanilla", f"executable = {program}", f"arguments = {rest}", f'environment = "{quoted}"', "transfer_executable = False",
                          "output = {output_file}", "error = {output_file}", "queue {n}", ""])


class SlurmLauncher(BatchSystemLauncher):
    """Slurm: sbatch, scancel; srun starts the engines of one job."""

    submit_command = Option(["sbatch"], kind=(list, tuple))
    delete_command = Option(["scancel"], kind=(list, tuple))
    signal_command = Option(["scancel", "-s"], kind=(list, tuple))
    status_command = Option(["squeue", "-h", "-o", "%T", "-j"], kind=(list, tuple))
    account = Option("", kind=str)
    qos = Option("", kind=str)
    timelimit = Option("", kind=str)
    options = Option("", kind=str)
    prefix = "#SBATCH"
    array_line, queue_line, output_line = "--ntasks={n}", "--partition={queue}", "--output={output_file}"
    run_line = "srun {program_and_args}"
    _system = "slurm"

    def batch_lines(self) -> list[str]:
        wanted = [("account", self.account), ("qos", self.qos), ("time", self.timelimit)]
        more = [f"{self.prefix} --{name}={value}" for name, value in wanted if value] + [f"{self.prefix} {line}" for line in shlex.split(self.options)]
        return super().batch_lines() + more


class PBSControllerLauncher(PBSLauncher, BatchControllerLauncher):
    """A controller as a PBS job."""

    array_line = ""


class PBSEngineSetLauncher(PBSLauncher, BatchEngineSetLauncher):
    """Engines as a PBS job array."""


class SGEControllerLauncher(SGELauncher, BatchControllerLauncher):
    """A controller as an SGE job."""

    array_line = ""


class SGEEngineSetLauncher(SGELauncher, BatchEngineSetLauncher):
    """Engines as an SGE job array."""


class LSFControllerLauncher(LSFLauncher, BatchControllerLauncher):
    """A controller as an LSF job."""

    array_line = "-J ipcontroller"


class LSFEngineSetLauncher(LSFLauncher, BatchEngineSetLauncher):
    """Engines as an LSF job array."""


class HTCondorControllerLauncher(HTCondorLauncher, BatchControllerLauncher):
    """A controller as an HTCondor job."""


class HTCondorEngineSetLauncher(HTCondorLauncher, BatchEngineSetLauncher):
    """Engines as an HTCondor cluster of jobs."""


class SlurmControllerLauncher(SlurmLauncher, BatchControllerLauncher):
    """A controller as a Slurm job."""

    array_line, run_line = "--ntasks=1", "{program_and_args}"


class SlurmEngineSetLauncher(SlurmLauncher, BatchEngineSetLauncher):
    """Engines as the tasks of one Slurm job."""


class WindowsHPCLauncher(BaseLauncher):
    """A name of ipyparallel's: this is not Windows."""

    def start(self, *args: Any, **kwargs: Any) -> Any:
        raise LauncherError("Windows HPC Server clusters are not supported: manyhands runs on Linux")


class WindowsHPCControllerLauncher(WindowsHPCLauncher, ControllerLauncher):
    """The same."""


class WindowsHPCEngineSetLauncher(WindowsHPCLauncher, EngineLauncher):
    """The same."""


# ---- finding them ----------------------------------------------------------------------------------

_KINDS = ("controller", "engine")
_NAMES: dict[str, dict[str, type[BaseLauncher]]] = {
    "controller": {"batch": BatchControllerLauncher, "htcondor": HTCondorControllerLauncher, "local": LocalControllerLauncher, "lsf": LSFControllerLauncher,
                   "mpi": MPIControllerLauncher, "pbs": PBSControllerLauncher, "sge": SGEControllerLauncher, "slurm": SlurmControllerLauncher,
                   "ssh": SSHControllerLauncher},
    "engine": {"batch": BatchEngineSetLauncher, "htcondor": HTCondorEngineSetLauncher, "local": LocalEngineSetLauncher, "lsf": LSFEngineSetLauncher,
               "mpi": MPIEngineSetLauncher, "pbs": PBSEngineSetLauncher, "sge": SGEEngineSetLauncher, "slurm": SlurmEngineSetLauncher,
               "ssh": SSHEngineSetLauncher, "sshproxy": SSHProxyEngineSetLauncher},
}
all_launchers: list[type[BaseLauncher]] = [
    kind for kind in list(globals().values())
    if isinstance(kind, type) and issubclass(kind, (LocalProcessLauncher, BatchSystemLauncher, WindowsHPCLauncher)) and kind not in (LocalProcessLauncher, BatchSystemLauncher)]


def find_launcher_class(name: str, kind: str) -> type[BaseLauncher]:
    """The launcher with this name: a short one ("ssh"), that of an entry point in the group manyhands.<kind>_launchers, or "module.Class".

    Raises KeyError when there is none.
    """
    if kind not in _KINDS:
        raise ValueError(f"kind must be 'controller' or 'engine', not {kind!r}")
    found: Any = _NAMES[kind].get(name.lower())
    for entry in () if found else entry_points(group=f"manyhands.{kind}_launchers"):
        if entry.name.lower() == name.lower():
            found = entry.load()
    module, _, last = name.rpartition(".")
    if not found and module:
        module = __name__ if module == "ipyparallel.cluster.launcher" else module  # as in files that ipcluster wrote
        found = getattr(importlib.import_module(module), last, None)
    if not found:
        suffix = "ControllerLauncher" if kind == "controller" else "EngineSetLauncher"
        found = globals().get(name) or globals().get(name + suffix)
    if not (isinstance(found, type) and issubclass(found, BaseLauncher)):
        raise KeyError(f"no {kind} launcher {name!r}; there are: {', '.join(sorted(_NAMES[kind]))}")
    return found


def abbreviate_launcher_class(cls: type[BaseLauncher]) -> str:
    """The short name of a launcher, else "module.Class"."""
    for kind in _KINDS:
        for name, known in _NAMES[kind].items():
            if known is cls:
                return name
        for entry in entry_points(group=f"manyhands.{kind}_launchers"):
            if entry.value == f"{cls.__module__}:{cls.__qualname__}":
                return str(entry.name.lower())
    return f"{cls.__module__}.{cls.__name__}"
