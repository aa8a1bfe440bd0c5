"""Where a client finds its controller: connection files in profiles, as Jupyter's conventions have them, and tunnels to other hosts."""

from __future__ import annotations

import importlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.parse
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["Found", "current_profile", "find", "may_start", "text_of", "tunnel"]

_NEEDED = ("interface", "registration", "control", "mux", "task", "iopub", "notification", "signature_scheme")
_PORTS = ("registration", "control", "mux", "task", "iopub", "notification", "broadcast")
_RECHECK = 0.05  # seconds between looks for a file that is awaited
_SAY_AFTER = 0.5


@dataclass
class Found:
    """What a connection file says, and the private cluster that runs where there was none: it ends with this process."""

    config: dict[str, Any]
    private: Any = None

    @property
    def needs_ssh(self) -> bool:
        """The file names an SSH server, and the controller listens on that host alone."""
        return bool(self.config.get("ssh")) and not is_here(self.config)


def current_profile() -> str:
    """The profile of the IPython application that this process is, else 'default'."""
    application = sys.modules.get("IPython.core.application")
    base = getattr(application, "BaseIPythonApplication", None)
    if base is not None and base.initialized():
        try:
            return str(base.instance().profile)
        except Exception:
            pass  # another kind of application
    return "default"


def may_start(autostart: bool | None, *given: Any) -> bool:
    """Whether a private cluster may be started: where nothing says which one is meant, unless told otherwise."""
    return all(value is None for value in given) if autostart is None else autostart


# ---- finding -------------------------------------------------------------------------------------------------------


def folder_of(profile: str | None, profile_dir: str | None, ipython_dir: str | None) -> Path:
    """The folder of a profile."""
    if profile_dir:
        return Path(profile_dir).expanduser()
    base = Path(ipython_dir or os.environ.get("IPYTHONDIR") or "~/.ipython").expanduser()
    return base / f"profile_{profile or 'default'}"


def _short(path: Path) -> str:
    home = str(Path.home())
    return "~" + str(path)[len(home):] if str(path).startswith(home + os.sep) else str(path)


def read_file(path: Path) -> dict[str, Any]:
    """What a connection file says. OSError, PermissionError when others can read it, ValueError when it is none."""
    with open(path, encoding="utf-8") as file:
        status = os.fstat(file.fileno())
        if status.st_uid not in (os.geteuid(), 0) or status.st_mode & 0o077:
            raise PermissionError(f"{_short(path)} holds a key, and others than you can read or write it: chmod 600 {_short(path)}")
        try:
            config = json.load(file)
        except ValueError as e:
            raise ValueError(f"{_short(path)} is no connection file: {e}") from None
    return check(config, _short(path))


def check(config: Any, name: str = "connection_info") -> dict[str, Any]:
    """config, which must be that of a client. ValueError says what is missing."""
    if not isinstance(config, dict):
        raise ValueError(f"{name} is no connection file: a JSON object is expected")
    missing = [key for key in _NEEDED if key not in config]
    if missing:
        which = "; for engines: a client needs the one that ends in -client.json" if "hb_ping" in config else ""
        raise ValueError(f"{name} is no connection file for clients (missing: {', '.join(missing)}{which})")
    return dict(config)


def find(connection_info: Any, profile: str | None, profile_dir: str | None, ipython_dir: str | None, cluster_id: str | None, timeout: float,
         autostart: bool) -> Found:
    """The connection that the arguments of Client mean."""
    if isinstance(connection_info, dict):
        return Found(_with_environment(check(connection_info)))
    if connection_info is not None:
        text = os.fspath(connection_info)
        if "://" in text:
            raise ValueError(f"connection_info is the path of a connection file or a dict, not a URL: {text!r}")
        path = Path(text).expanduser()
        if not path.exists():
            raise FileNotFoundError(f"Connection file {_short(path)} not found. Is a controller running?")
        return Found(_with_environment(read_file(path)))
    name = f"ipcontroller-{cluster_id}-client.json" if cluster_id else "ipcontroller-client.json"
    path = folder_of(profile, profile_dir, ipython_dir) / "security" / name
    if autostart:
        config = read_file(path) if path.exists() else None
        if config is not None and not is_refused(config):
            return Found(_with_environment(config))
        return _start_private(path)
    _await_file(path, timeout)
    return Found(_with_environment(read_file(path)))


def _await_file(path: Path, timeout: float) -> None:
    until, begin, said = time.monotonic() + timeout, time.monotonic(), False
    while not path.exists():
        now = time.monotonic()
        if now >= until:
            raise FileNotFoundError(f"Connection file {_short(path)} not found: no controller was started with this profile (`manyhands start`).")
        if not said and now - begin > _SAY_AFTER:
            print(f"Waiting for connection file: {_short(path)}")
            said = True
        time.sleep(min(_RECHECK, until - now))


def _with_environment(config: dict[str, Any]) -> dict[str, Any]:
    if not config.get("curve_serverkey") and os.environ.get("IPP_CURVE_SERVERKEY"):
        config["curve_serverkey"] = os.environ["IPP_CURVE_SERVERKEY"]
    _warn_of_other_host(config)
    return config


def _start_private(path: Path) -> Found:
    try:
        private: Any = importlib.import_module("manyhands.parallel.cluster.private")
    except ImportError:
        raise FileNotFoundError(f"Connection file {_short(path)} not found: no controller runs (`manyhands start` starts one).") from None
    started = private.start()
    return Found(read_file(Path(started.connection_file)), started)


# ---- hosts ---------------------------------------------------------------------------------------------------------


def _address(config: dict[str, Any]) -> str:
    return str(urllib.parse.urlsplit(str(config["interface"])).hostname or str(config["interface"]).rpartition("/")[2])


def is_here(config: dict[str, Any]) -> bool:
    """Whether the controller runs on this host."""
    location = config.get("location")
    return not location or location in (socket.gethostname(), "localhost") or str(location).startswith("127.") or _is_own(str(location))


def _is_own(location: str) -> bool:
    # An address is ours when a socket can be bound to it.
    try:
        with socket.socket(socket.AF_INET6 if ":" in location else socket.AF_INET, socket.SOCK_DGRAM) as s:
            s.bind((location, 0))
        return True
    except OSError:
        return False


def _warn_of_other_host(config: dict[str, Any]) -> None:
    if _address(config).startswith("127.") and not is_here(config) and not config.get("ssh"):
        warnings.warn(f"the controller listens on {_address(config)} of {config['location']} only, which is another host: connect with "
                      f"Client(..., sshserver='you@{config['location']}'), or start it with --ip and --enable-curve", RuntimeWarning, stacklevel=5)


def is_refused(config: dict[str, Any]) -> bool:
    """Whether nobody listens any more where the file says: it was left behind."""
    host = _address(config)
    if host in ("*", "0.0.0.0"):
        host = "127.0.0.1" if is_here(config) else str(config["location"])
    if not str(config["interface"]).startswith("tcp://"):
        return False
    try:
        with socket.create_connection((host, int(config["registration"])), timeout=2):
            return False
    except ConnectionRefusedError:
        return True
    except OSError:
        return False


def text_of(config: dict[str, Any]) -> str:
    """The text of a connection file."""
    return json.dumps(config)


# ---- tunnels -------------------------------------------------------------------------------------------------------


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for s in sockets:
            s.bind(("127.0.0.1", 0))
        return [s.getsockname()[1] for s in sockets]
    finally:
        for s in sockets:
            s.close()


def tunnel(config: dict[str, Any], server: str | None, key: str | None, password: Any, paramiko: Any) -> tuple[dict[str, Any], list[Any]]:
    """The connection through one `ssh` process that forwards its ports; and that process. OSError when it ends."""
    if password or paramiko:
        raise ValueError("tunnels are made by the ssh command: give it a key or an agent (sshkey=...), not a password or paramiko")
    host = _address(config)
    server = server or config.get("ssh") or host
    ssh = shutil.which("ssh")
    if ssh is None:
        raise FileNotFoundError("sshserver needs the command ssh, which is not installed")
    target = "127.0.0.1" if host in ("*", "0.0.0.0") else host
    names = [name for name in _PORTS if name in config]
    ports = dict(zip(names, _free_ports(len(names))))
    address, _, port = str(server).partition(":")
    command = [ssh, "-N", "-o", "BatchMode=yes", "-o", "ExitOnForwardFailure=yes", *(["-i", key] if key else []), *(["-p", port] if port else [])]
    for name in names:
        command += ["-L", f"127.0.0.1:{ports[name]}:{target}:{config[name]}"]
    process = subprocess.Popen([*command, address], stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)
    _await_tunnel(process, list(ports.values()), str(server))
    return {**config, **ports, "interface": "tcp://127.0.0.1", "location": socket.gethostname(), "ssh": ""}, [process]


def _await_tunnel(process: subprocess.Popen[bytes], ports: list[int], server: str) -> None:
    until = time.monotonic() + 30
    left = list(ports)
    while left:
        if process.poll() is not None:
            said = process.stderr.read().decode(errors="replace").strip() if process.stderr else ""
            raise ConnectionError(f"ssh to {server} ended: {said or process.returncode}")
        try:
            with socket.create_connection(("127.0.0.1", left[-1]), timeout=1):
                left.pop()
        except OSError:
            if time.monotonic() >= until:
                process.terminate()
                raise TimeoutError(f"ssh to {server} did not forward the ports within 30 s") from None
            time.sleep(_RECHECK)
