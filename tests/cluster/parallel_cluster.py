"""Real controllers and engines, ours or stock, for tests of the Python client."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from peers import COMMAND, SOON_S, wait_for

import manyhands.parallel as ipp


class Cluster:
    """A controller and engines with a profile folder of their own."""

    def __init__(self, folder: Path, engines: int, *, is_stock: bool = False, options: tuple[str, ...] = ()) -> None:
        self.folder, self.is_stock = folder, is_stock
        here = Path(__file__).parent  # engines import the tests, whose functions they are given
        path = os.pathsep.join([str(here), str(here.parent.parent)])
        self.environment = {**os.environ, "PYTHONPATH": path, "IPYTHONDIR": str(folder / "ipython"), "IPP_PROFILE_DIR": str(folder)}
        self.engines: list[subprocess.Popen[bytes]] = []
        self.clients: list[Any] = []
        self.start_controller(*options)
        wait_for(lambda: self.info("engine") and self.info("client") or self.controller.poll() is not None, SOON_S)
        assert self.controller.poll() is None, (folder / "log").read_text()
        for count in range(1, engines + 1):
            self.add_engine()
            if is_stock:  # the stock controller may forget one of two that register at once, which then waits for ever
                self.client(count).close()

    def start_controller(self, *options: str) -> None:
        stock = [sys.executable, "-m", "ipyparallel.controller", "--dictdb", "--ping=500"]
        self.controller = self._start("controller", [*(stock if self.is_stock else [COMMAND, "controller"]), f"--profile-dir={self.folder}", *options])

    def info(self, side: str) -> dict[str, Any] | None:
        try:
            found: dict[str, Any] = json.loads((self.folder / "security" / f"ipcontroller-{side}.json").read_text())
            return found
        except (OSError, ValueError):
            return None

    def _start(self, name: str, command: list[Any]) -> subprocess.Popen[bytes]:
        with open(self.folder / "log", "ab") as log:
            return subprocess.Popen(command, stdout=log, stderr=log, env=self.environment, start_new_session=True)

    def add_engine(self, *options: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "ipyparallel.engine"] if self.is_stock else [COMMAND, "engine"]
        self.engines.append(self._start("engine", [*command, f"--profile-dir={self.folder}", *options]))
        return self.engines[-1]

    def client(self, engines: int | None = None, **options: Any) -> ipp.Client:
        """A client that sees `engines` engines, all that there are by default."""
        client = ipp.Client(profile_dir=str(self.folder), timeout=SOON_S, **options)
        self.clients.append(client)
        client.wait_for_engines(len(self.engines) if engines is None else engines, timeout=2 * SOON_S)
        return client

    def stop(self) -> None:
        for client in self.clients:
            client.close()
        for process in [*self.engines, self.controller]:
            try:
                os.killpg(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            process.wait(SOON_S)


def make(engines: int, **options: Any) -> Iterator[Cluster]:
    with tempfile.TemporaryDirectory() as folder:
        cluster = Cluster(Path(folder), engines, **options)
        try:
            yield cluster
        finally:
            cluster.stop()


@pytest.fixture(scope="module")
def ours() -> Iterator[Cluster]:
    """Our controller with two of our engines."""
    yield from make(2)


@pytest.fixture(scope="module")
def stock() -> Iterator[Cluster]:
    """The stock controller with two stock engines."""
    pytest.importorskip("ipyparallel")
    yield from make(2, is_stock=True)


@pytest.fixture
def own() -> Iterator[Cluster]:
    """Our controller with two of our engines, which the test may spoil."""
    yield from make(2)


@pytest.fixture
def rc(ours: Cluster) -> Iterator[ipp.Client]:
    """A client of `ours`, with empty namespaces."""
    client = ours.client()
    client.clear(block=True)
    yield client
    client[:].use_pickle().get(SOON_S)
    client.close()
