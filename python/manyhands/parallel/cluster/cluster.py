"""A cluster as an object: start, find, use and end it. Names, settings and files are ipyparallel's."""

from __future__ import annotations

import asyncio
import atexit
import concurrent.futures
import glob
import importlib
import inspect
import itertools
import json
import logging
import os
import random
import string
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from . import launcher
from ._options import Config, Configurable, Option
from ._sync import AsyncFirst
from .command import find_command

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["Cluster", "ClusterManager", "clean_cluster_files"]

_LETTERS = string.ascii_lowercase + string.digits
_at_exit: WeakSet[Cluster] = WeakSet()
_owner = os.getpid()


def ipython_dir() -> str:
    """Where profiles are."""
    return os.path.abspath(os.environ.get("IPYTHONDIR") or os.path.join(os.path.expanduser("~"), ".ipython"))


def _ipython() -> Any:
    """The IPython session that this is, if any."""
    module = sys.modules.get("IPython")
    return module.get_ipython() if module is not None and hasattr(module, "get_ipython") else None


def _find_profile_dir(profile: str) -> str:
    if not profile:
        named = os.environ.get("IPP_PROFILE_DIR")
        session = getattr(_ipython(), "profile_dir", None)
        found = named or getattr(session, "location", None)
        if found:
            return os.path.abspath(found)
    return os.path.join(ipython_dir(), f"profile_{profile or 'default'}")


def _all_profile_dirs() -> list[str]:
    return sorted(glob.glob(os.path.join(ipython_dir(), "profile_*")))


def abbreviate_profile_dir(profile_dir: str) -> str:
    """The profile's name where it lies with the others, else its path, with ~ for the home."""
    if os.path.dirname(profile_dir) == ipython_dir() and os.path.basename(profile_dir).startswith("profile_"):
        return os.path.basename(profile_dir).removeprefix("profile_")
    home = os.path.expanduser("~") + os.sep
    return "~" + os.sep + profile_dir[len(home):] if profile_dir.startswith(home) else profile_dir


def _stop_clusters_at_exit() -> None:
    if os.getpid() != _owner:
        return  # a forked child: they are its parent's
    for cluster in list(_at_exit):
        if not cluster.shutdown_atexit or not (cluster.controller or cluster.engines):
            continue
        print(f"Stopping cluster {cluster}", file=sys.stderr)
        try:
            cluster.stop_cluster_sync()
        except Exception:
            print(f"Error stopping cluster {cluster}", file=sys.stderr)
            traceback.print_exc()


def _forget_parents() -> None:
    _at_exit.clear()


atexit.register(_stop_clusters_at_exit)
os.register_at_fork(after_in_child=_forget_parents)


def _to_launcher(kind: str) -> Any:
    def check(cluster: Any, value: Any) -> Any:
        if isinstance(value, str):
            return launcher.find_launcher_class(value, kind)
        if isinstance(value, type) and issubclass(value, launcher.BaseLauncher):
            return value
        raise TypeError(f"Cluster.{kind}_launcher_class is {value!r}: it must be a launcher's name or class")

    return check


class Cluster(AsyncFirst, Configurable):
    """A controller and its engines.

    cluster_id: its name in the profile; one is made up without it. profile, profile_dir: where its files go. n: how many engines; None: one
    for each core. controller, engines: launchers by name ("local", "ssh", "mpi", "slurm" ...) or class. shutdown_atexit: end it with this process.

    Every coroutine method has a twin with the suffix _sync that waits for it.

    >>> cluster = Cluster(n=2)
    >>> cluster.cluster_id != Cluster().cluster_id
    True
    """

    shutdown_atexit = Option(True, kind=bool)
    cluster_id = Option(lambda self: f"{int(time.time())}-{''.join(random.choice(_LETTERS) for _ in range(4))}", kind=str, saved=True)
    profile = Option("", kind=str)
    profile_dir = Option(lambda self: _find_profile_dir(self.profile), kind=(str, os.PathLike), check=lambda self, path: os.path.abspath(path) if path else path, saved=True)
    cluster_file = Option(lambda self: os.path.join(self.profile_dir, "security", f"cluster-{self.cluster_id}.json"), kind=str)
    engine_timeout = Option(60, kind=(int, float))
    send_engines_connection_env = Option(True, kind=bool)
    controller_launcher_class = Option(launcher.LocalControllerLauncher, check=_to_launcher("controller"))
    engine_launcher_class = Option(launcher.LocalEngineSetLauncher, check=_to_launcher("engine"))
    controller_args = Option([], kind=(list, tuple), saved=True)
    controller_ip = Option("", kind=str, saved=True)
    controller_location = Option("", kind=str, saved=True)
    delay = Option(0.0, kind=(int, float), saved=True)  # engines can do without: they start once the controller's file is there
    n = Option(None, kind=(int, type(None)), saved=True)
    log_level = Option(logging.INFO, kind=int)
    load_profile = Option(True, kind=bool)
    log = Option(lambda self: self._make_log())
    _context_client: Any = None

    def __init__(self, *, engines: Any = None, controller: Any = None, **options: Any) -> None:
        for short, value in (("engines", engines), ("controller", controller)):
            name = f"{short.removesuffix('s')}_launcher_class"
            if value is not None and name in options:
                raise TypeError(f"Only specify one of {short!r} or {name!r}, not both")
            if value is not None:
                options[name] = value
        if "parent" not in options and "config" not in options:
            options["parent"] = _ipython()
        self.controller: Any = None
        self.engines: dict[str, Any] = {}
        self._file_lock = threading.RLock()  # guards the cluster file against launchers' threads
        super().__init__(**options)
        _at_exit.add(self)

    def _find_config(self, config: Mapping[str, Any] | None) -> Mapping[str, Any]:
        direct = super()._find_config(config)
        if not self.load_profile:
            return direct
        merged = self._read_profile_config()
        if not merged:
            return direct
        merged.merge(direct)
        return merged

    def _read_profile_config(self) -> Config:
        """What ipcluster_config.py and .json in the profile say."""
        found = Config()
        script, plain = (Path(self.profile_dir, f"ipcluster_config.{kind}") for kind in ("py", "json"))
        if script.exists():
            given = Config()
            exec(compile(script.read_bytes(), str(script), "exec"), {"__file__": str(script), "c": given, "get_config": lambda: given})
            found.merge(given)
        if plain.exists():
            found.merge(json.loads(plain.read_text()))
        return found

    def _make_log(self) -> Any:
        log = logging.getLogger(f"{type(self).__module__}.{self.cluster_id}")
        if self.parent is not None and self.parent is _ipython():
            log.setLevel(self.log_level)
            log.handlers = [logging.StreamHandler(sys.stdout)]
            log.propagate = False
        elif getattr(self.parent, "log", None) is not None:
            return self.parent.log
        else:
            log.setLevel(self.log_level)
        return log

    def __del__(self) -> None:
        try:
            if self.shutdown_atexit and (self.controller or self.engines) and os.getpid() == _owner and not sys.is_finalizing():
                self.stop_cluster_sync()
        except Exception:  # a half-made or half-gone object
            pass

    def __repr__(self) -> str:
        fields = {"cluster_id": repr(self.cluster_id)}
        name = abbreviate_profile_dir(self.profile_dir)
        fields["profile" if os.sep not in name else "profile_dir"] = repr(name)
        if self.controller:
            fields["controller"] = f"<{self.controller.state}>"
        if self.engines:
            fields["engine_sets"] = repr(list(self.engines))
        return f"<{type(self).__name__}({', '.join(f'{key}={value}' for key, value in fields.items())})>"

    @property
    def engine_set(self) -> Any:
        """The first set of engines; mostly there is one. None without any."""
        return next(iter(self.engines.values()), None)

    # ---- files ----

    def to_dict(self) -> dict[str, Any]:
        """What from_dict, in this process or another, makes it from."""
        about = self.saved()
        if type(self) is not Cluster:
            about["class"] = f"{type(self).__module__}.{type(self).__qualname__}"
        made: dict[str, Any] = {"cluster": about}
        if self.controller and self.controller.state != "after":
            made["controller"] = {"class": launcher.abbreviate_launcher_class(self.controller_launcher_class), "state": self.controller.to_dict()}
        sets = {name: one.to_dict() for name, one in list(self.engines.items()) if one.state != "after"}
        made["engines"] = {"class": launcher.abbreviate_launcher_class(self.engine_launcher_class), "sets": sets}
        return made

    @classmethod
    def from_dict(cls, d: Mapping[str, Any], **kwargs: Any) -> Cluster:
        """A cluster that runs already, from what to_dict gave (ipyparallel's too)."""
        about = d["cluster"]
        named = about.get("class", "")
        if named and not named.startswith("ipyparallel."):
            module, _, name = named.rpartition(".")
            chosen = getattr(importlib.import_module(module), name)
            if isinstance(chosen, type) and issubclass(chosen, Cluster) and chosen is not cls:
                return chosen.from_dict(d, **kwargs)
        kwargs.setdefault("shutdown_atexit", False)
        self = cls(**kwargs)
        for name, option in cls._options().items():
            if option.saved and name in about:
                setattr(self, name, about[name])
        self._take_controller(d.get("controller") or {})
        self._take_engines(d.get("engines") or {})
        if self.to_dict() != d and not os.path.exists(self._watcher_file()):  # who watches over it keeps its file true
            self.update_cluster_file()
        return self

    def _watcher_file(self) -> str:
        return os.path.join(self.profile_dir, "pid", f"manyhands-{self.cluster_id}.json")

    def _take_controller(self, d: Mapping[str, Any]) -> None:
        if not d.get("state"):
            return
        self.controller_launcher_class = d["class"]
        try:
            self.controller = self.controller_launcher_class.from_dict(d["state"], parent=self)
        except launcher.NotRunning as error:
            self.log.error(f"Controller for {ClusterManager._cluster_key(self)} not running: {error}")
        else:
            self.controller.on_stop(self._controller_stopped)

    def _take_engines(self, d: Mapping[str, Any]) -> None:
        if d.get("class"):
            self.engine_launcher_class = d["class"]
        for name, state in d.get("sets", {}).items():
            try:
                made = self.engine_launcher_class.from_dict(state, engine_set_id=name, parent=self)
            except launcher.NotRunning as error:
                self.log.error(f"Engine set {ClusterManager._cluster_key(self)}{name} not running: {error}")
            else:
                self.engines[name] = made
                made.on_stop(partial(self._engines_stopped, name))

    @classmethod
    def from_file(cls, cluster_file: str | os.PathLike[str] | None = None, *, profile: str | None = None, profile_dir: str | None = None,
                  cluster_id: str = "", **kwargs: Any) -> Cluster:
        """A cluster that runs already, from its file: named whole, or by profile and name. Without arguments: the default profile's default cluster.

        Raises FileNotFoundError.
        """
        if cluster_file is None:
            place = {name: value for name, value in (("profile", profile), ("profile_dir", profile_dir)) if value is not None}
            kwargs |= {"cluster_id": cluster_id, **place}
            cluster_file = Cluster(**kwargs).cluster_file
        kwargs.setdefault("cluster_file", os.fspath(cluster_file))
        return cls.from_dict(json.loads(Path(cluster_file).read_text()), **kwargs)

    load = from_file

    def write_cluster_file(self) -> None:
        """Write what from_file reads, whole or not at all."""
        folder = os.path.dirname(self.cluster_file)
        os.makedirs(folder, mode=0o700, exist_ok=True)
        unfinished = f"{self.cluster_file}.{os.getpid()}-{threading.get_ident()}"
        fd = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
        with open(fd, "w") as f:
            json.dump(self.to_dict(), f)
        os.replace(unfinished, self.cluster_file)

    def remove_cluster_file(self) -> None:
        Path(self.cluster_file).unlink(missing_ok=True)

    def _is_running(self) -> bool:
        return any(part.state != "after" for part in [*filter(None, [self.controller]), *list(self.engines.values())])

    def update_cluster_file(self) -> None:
        """Write it while something runs, else remove it. cluster_file="" turns this off."""
        if not self.cluster_file:
            return
        with self._file_lock:
            if self._is_running():
                self.write_cluster_file()
            else:
                self.remove_cluster_file()

    # ---- start ----

    async def start_controller(self, **kwargs: Any) -> None:
        """Start the controller; keyword arguments go to its launcher. Raises RuntimeError when there is one."""
        if self.controller is not None:
            raise RuntimeError("controller is already running. Call stop_controller() first.")
        os.makedirs(os.path.join(self.profile_dir, "security"), mode=0o700, exist_ok=True)
        controller = self.controller_launcher_class(parent=self, log=self.log, profile_dir=self.profile_dir, cluster_id=self.cluster_id, **kwargs)
        args = [f"--ip={self.controller_ip}"] if self.controller_ip else []
        args += [f"--location={self.controller_location}"] if self.controller_location else []
        controller.controller_args = [*controller.controller_args, *args, *self.controller_args]
        if not {"--reuse", "--restore"} & set(controller.controller_args):  # else it goes on with what the last one left
            controller.controller_args = ["--dictdb", *controller.controller_args]
            for path in controller.connection_files.values():
                Path(path).unlink(missing_ok=True)  # of a controller that was killed: nobody may take it for this one's
        self.controller = controller
        self.log.info(f"Starting controller with {self.controller_launcher_class.__name__}")
        try:
            started = controller.start()
            if inspect.isawaitable(started):
                await started
        except BaseException:
            self.controller = None
            raise
        self.update_cluster_file()
        controller.on_stop(self._controller_stopped)

    def _controller_stopped(self, stop_data: Any = None) -> None:
        tell = self.log.warning if stop_data and stop_data.get("exit_code") else self.log.info
        tell(f"Controller stopped: {stop_data}")
        self.update_cluster_file()

    async def start_engines(self, n: int | None = None, engine_set_id: str | None = None, **kwargs: Any) -> str:
        """Start a set of engines (n: None: self.n, else one for each core); gives its id, for stop_engines."""
        if engine_set_id is None:
            base = str(int(time.time()))
            engine_set_id = next(name for name in (f"{base}-{i}" if i else base for i in itertools.count()) if name not in self.engines)
        engine_set = self.engine_launcher_class(
            parent=self, log=self.log, profile_dir=self.profile_dir, cluster_id=self.cluster_id, engine_set_id=engine_set_id, **kwargs)
        if self.send_engines_connection_env and self.controller:
            said = await self.controller.get_connection_info()
            engine_set.environment = {**engine_set.environment, "IPP_CONNECTION_INFO": json.dumps(said["engine"])}
        n = n if n is not None else self.n
        if n is None:
            n = len(os.sched_getaffinity(0))
        self.engines[engine_set_id] = engine_set
        self.log.info(f"Starting {n} engines with {self.engine_launcher_class.__name__}")
        try:
            started = engine_set.start(n)
            if inspect.isawaitable(started):
                await started
        except BaseException:
            self.engines.pop(engine_set_id, None)
            raise
        self.update_cluster_file()
        engine_set.on_stop(partial(self._engines_stopped, engine_set_id))
        return engine_set_id

    def _engines_stopped(self, engine_set_id: str, stop_data: Any = None) -> None:
        tell = self.log.warning if stop_data and stop_data.get("exit_code") else self.log.info
        tell(f"engine set stopped {engine_set_id}: {stop_data}")
        self.update_cluster_file()

    async def start_cluster(self, n: int | None = None) -> Cluster:
        """Start the controller, unless it runs, and engines; gives the cluster itself."""
        if self.controller is None:
            await self.start_controller()
        if self.delay:
            await asyncio.sleep(self.delay)
        await self.start_engines(n)
        return self

    async def start_and_connect(self, n: int | None = None, activate: bool = False) -> Any:
        """Start it, and give a client once all engines have registered. activate: make the %px magics use all of them."""
        n = n if n is not None else self.n
        await self.start_cluster(n=n)
        client = await self.connect_client()
        if n is None:
            n = sum(one.n for one in self.engines.values())
        if n:
            waiting = client.wait_for_engines(n, block=False, timeout=self.engine_timeout)
            if isinstance(waiting, concurrent.futures.Future):
                waiting = asyncio.wrap_future(waiting)
            if inspect.isawaitable(waiting):
                await waiting
        if activate:
            view = client[:]
            view.block = True
            view.activate()
        return client

    async def connect_client(self, **client_kwargs: Any) -> Any:
        """A client of this cluster. Raises RuntimeError when it has no controller."""
        from manyhands.parallel import Client

        if self.controller is None:
            raise RuntimeError(f"{self} has no controller to connect to: start it first")
        said = await self.controller.get_connection_info()
        return Client(said["client"], cluster=self, profile_dir=self.profile_dir, cluster_id=self.cluster_id, **client_kwargs)

    # ---- stop, restart, signal ----

    async def stop_engines(self, engine_set_id: str | None = None) -> None:
        """End one set of engines, or all. Raises KeyError when there is no such set."""
        if engine_set_id is None:
            await asyncio.gather(*(self.stop_engines(name) for name in list(self.engines)))
            return
        engine_set = self.engines[engine_set_id]
        self.log.info(f"Stopping engine(s): {engine_set_id}")
        await engine_set.stop()
        engine_set.get_output(remove=True)
        self.engines.pop(engine_set_id, None)
        self.update_cluster_file()

    def _find_engine(self, engine_id: int) -> Any:
        for engine_set in list(self.engines.values()):
            one = engine_set.find_engine(engine_id) if hasattr(engine_set, "find_engine") else None
            if one is not None:
                return engine_set, one
        raise KeyError(f"no engine {engine_id} that was started by itself: only launchers with a process for each engine know them one by one")

    async def stop_engine(self, engine_id: int) -> None:
        """End the engine with this number at the controller. Raises KeyError when it is not known."""
        _, one = self._find_engine(engine_id)
        await one.stop()

    async def restart_engines(self, engine_set_id: str | None = None) -> None:
        """End and start one set of engines, or all."""
        if engine_set_id is None:
            for name in list(self.engines):
                await self.restart_engines(name)
            return
        n = self.engines[engine_set_id].n
        await self.stop_engines(engine_set_id)
        await self.start_engines(n, engine_set_id)

    async def restart_engine(self, engine_id: int) -> None:
        """End the engine with this number, and start one in its place, which asks for the same number. Raises KeyError when it is not known."""
        engine_set, one = self._find_engine(engine_id)
        name = one.identifier
        again = engine_set._make(name)
        again.engine_args = [*again.engine_args, f"--id={engine_id}"]
        again.output_file = f"{one.output_file.removesuffix('.log')}-{time.time_ns()}.log"
        with engine_set._end_lock:
            engine_set.launchers[f"{name} (before)"] = engine_set.launchers.pop(name)
        one.identifier = f"{name} (before)"
        again.start()
        engine_set._add(name, again)
        await one.stop()
        self.update_cluster_file()

    async def signal_engine(self, signum: int, engine_id: int) -> None:
        """Signal the engine with this number. Raises KeyError when it is not known."""
        self._find_engine(engine_id)[1].signal(signum)

    async def signal_engines(self, signum: int, engine_set_id: str | None = None) -> None:
        """Signal one set of engines, or all: SIGINT, SIGUSR1 and SIGUSR2 reach the tasks that run."""
        for name in list(self.engines) if engine_set_id is None else [engine_set_id]:
            signalled = self.engines[name].signal(signum)
            if inspect.isawaitable(signalled):
                await signalled

    async def stop_controller(self) -> None:
        """End the controller; without one, do nothing."""
        if self.controller and self.controller.running:
            self.log.info("Stopping controller")
            await self.controller.stop()
        if self.controller:
            self.controller.get_output(remove=True)
        self.controller = None
        self.update_cluster_file()

    async def stop_cluster(self) -> None:
        """End the engines and the controller."""
        await self.stop_engines()
        await self.stop_controller()

    # ---- with ----

    async def __aenter__(self) -> Any:
        self._context_client = await self.start_and_connect()
        return self._context_client

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        client, self._context_client = self._context_client, None
        if client is not None:
            client.close()
        await self.stop_cluster()

    def __enter__(self) -> Any:
        self._context_client = self.start_and_connect_sync()
        return self._context_client

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        client, self._context_client = self._context_client, None
        if client is not None:
            client.close()
        self.stop_cluster_sync()


Cluster.__signature__ = inspect.Signature([  # type: ignore[attr-defined]
    inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None)
    for name in ["engines", "controller", "config", "parent", *sorted(Cluster._options())]])


class ClusterManager(Configurable):
    """The clusters of one or all profiles, by key "profile:cluster_id"."""

    clusters = Option(lambda self: {}, kind=dict)

    @staticmethod
    def _cluster_key(cluster: Cluster) -> str:
        return f"{abbreviate_profile_dir(cluster.profile_dir)}:{cluster.cluster_id}"

    @staticmethod
    def _cluster_files_in_profile_dir(profile_dir: str) -> list[str]:
        return sorted(glob.glob(os.path.join(glob.escape(profile_dir), "security", "cluster-*.json")))

    def load_clusters(self, *, profile_dirs: Iterable[str] | None = None, profile_dir: str | None = None, profiles: Iterable[str] | None = None,
                      profile: str | None = None, init_default_clusters: bool = False, **kwargs: Any) -> dict[str, Cluster]:
        """Read the cluster files of the profiles that are named (else of all), and drop clusters that have ended; gives them all."""
        for key, cluster in list(self.clusters.items()):
            if cluster.controller and not cluster._is_running():
                self.clusters.pop(key)
        if profile_dirs is None:
            names = [profile] if profiles is None and profile is not None else profiles
            profile_dirs = [profile_dir] if profile_dir is not None else [_find_profile_dir(name) for name in names] if names is not None else _all_profile_dirs()
        known = {cluster.cluster_file for cluster in self.clusters.values()}
        for folder in profile_dirs:
            files = self._cluster_files_in_profile_dir(folder)
            if init_default_clusters and not files:
                cluster = Cluster(profile_dir=folder, cluster_id="")
                self.clusters.setdefault(self._cluster_key(cluster), cluster)
            for file in files:
                if file not in known:
                    self._load(file)
        found: dict[str, Cluster] = self.clusters
        return found

    def _load(self, file: str) -> None:
        try:
            cluster = Cluster.from_file(file, parent=self)
        except Exception as error:
            self.log.warning(f"Failed to load cluster from {file}: {error}")
        else:
            self.clusters[self._cluster_key(cluster)] = cluster

    def new_cluster(self, **kwargs: Any) -> tuple[str, Cluster]:
        """Make one; gives its key and itself. Raises KeyError when there is one with this key."""
        cluster = Cluster(parent=self, **kwargs)
        key = self._cluster_key(cluster)
        if key in self.clusters:
            raise KeyError(f"Cluster {key} already exists!")
        self.clusters[key] = cluster
        return key, cluster

    def get_cluster(self, cluster_id: str) -> Cluster:
        """The cluster with this key. Raises KeyError."""
        found: Cluster = self.clusters[cluster_id]
        return found

    def remove_cluster(self, cluster_id: str) -> None:
        """Forget the cluster with this key. Raises KeyError."""
        del self.clusters[cluster_id]


def clean_cluster_files(profile_dirs: str | Iterable[str] | None = None, *, log: Any = None, force: bool = False) -> None:
    """Remove what dead clusters left in profiles (None: in all), as `manyhands clean` does.

    Raises ValueError when a cluster runs there, unless `force`; its files stay.
    """
    folders = _all_profile_dirs() if profile_dirs is None else [profile_dirs] if isinstance(profile_dirs, str) else list(profile_dirs)
    for folder in folders:
        running = [c for c in json.loads(_command("list", "--json", f"--profile-dir={folder}")) if not c["stale"]]
        if running and not force:
            raise ValueError(f"cluster {running[0]['cluster_id']!r} in {folder} is still running")
        for line in json.loads(_command("clean", "--json", f"--profile-dir={folder}", *(["--force"] if force else []))):
            if log is not None:
                log.info(line)


def _command(*arguments: str) -> str:
    run = subprocess.run([find_command(), *arguments], capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if run.returncode:
        raise RuntimeError(run.stderr.strip())
    return run.stdout
