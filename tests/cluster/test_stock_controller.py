"""The reverse pairings: our engine and our client on a stock controller, together, and each with a stock partner."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from peers import COMMAND, SOON_S, wait_for

ipp = pytest.importorskip("ipyparallel")
ours = pytest.importorskip("manyhands.parallel")

PATH = {"PYTHONPATH": str(Path(__file__).parent)} # functions are found again by their module, which is this one


def start(folder: Path, *command: object) -> "subprocess.Popen[bytes]":
    with open(folder / "output", "ab") as log:
        return subprocess.Popen([*map(str, command), f"--profile-dir={folder}"], stderr=log, stdout=log, start_new_session=True, env=os.environ | PATH)


class Cluster:
    """A stock controller with an engine of each kind: 0 is ours, 1 is stock. More of ours come later, for tests that kill them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.file = folder / "security" / "ipcontroller-client.json"
        self.processes = [start(folder, sys.executable, "-m", "ipyparallel.controller", "--ping=500")]
        self.clients: dict[str, Any] = {}

    def fill(self) -> None:
        folder = self.folder
        wait_for(lambda: self.file.exists() and (folder / "security" / "ipcontroller-engine.json").exists(), 60)
        self.clients = {"stock": ipp.Client(str(self.file)), "ours": ours.Client(str(self.file))}
        self.add_engine()
        self.processes.append(start(folder, sys.executable, "-m", "ipyparallel.engine", "--log-level=40"))
        self.wait_for(2)

    def add_engine(self) -> "subprocess.Popen[bytes]":
        known = len(self.clients["stock"])
        self.processes.append(start(self.folder, COMMAND, "engine"))
        self.wait_for(known + 1)
        return self.processes[-1]

    def wait_for(self, count: int) -> None:
        for client in self.clients.values():
            client.wait_for_engines(count, timeout=60)

    def close(self) -> None:
        for client in self.clients.values():
            client.close()
        for process in reversed(self.processes):
            os.killpg(process.pid, 9)
            process.wait()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    made = Cluster(tmp_path_factory.mktemp("stock"))
    try:
        made.fill()
        yield made
    finally:
        made.close()


@pytest.fixture(params=["ours", "stock"])
def client(cluster: Cluster, request: pytest.FixtureRequest) -> Any:
    return cluster.clients[request.param]


@pytest.fixture(params=[0, 1], ids=["our-engine", "stock-engine"])
def view(client: Any, request: pytest.FixtureRequest) -> Any:
    made = client[request.param]
    made.block = True
    return made


def test_the_namespace(view: Any) -> None:
    view.push({"a": 5, "b": b"x" * 2_000_000})
    assert view.pull("a") == 5 and view["b"] == b"x" * 2_000_000
    assert view.apply(lambda x, y=0: x + y, 2, y=3) == 5
    view.execute("c = a + 1")
    assert view["c"] == 6


def test_output_and_errors(view: Any) -> None:
    reply = view.execute("import sys\nprint('out')\nprint('err', file=sys.stderr)\n6 * 7", silent=False, block=False)
    reply.get(SOON_S)
    reply.wait_for_output(SOON_S)
    assert (reply.stdout, reply.stderr) == ("out\n", "err\n")
    assert reply.get().execute_result["data"]["text/plain"] == "42"
    with pytest.raises(Exception, match="ZeroDivisionError"):
        view.apply(lambda: 1 / 0)


def test_an_interrupt(client: Any, view: Any) -> None:
    endless = view.apply_async(time.sleep, 600)
    wait_for(lambda: client.queue_status()[view.targets]["queue"] == 1)
    while not endless.done():
        client.send_signal("SIGINT", targets=view.targets, block=True)
        endless.wait(0.2)
    with pytest.raises(Exception, match="KeyboardInterrupt"):
        endless.get()


def test_scatter_map_and_broadcast(client: Any) -> None:
    view = client[[0, 1]]
    view.block = True
    view.scatter("s", list(range(10)))
    assert view.gather("s") == list(range(10))
    assert view.map(lambda x: x * x, range(5)) == [0, 1, 4, 9, 16]
    for coalescing in (False, True):
        everywhere = client.broadcast_view([0, 1], is_coalescing=coalescing)
        assert sorted(everywhere.apply_sync(os.getpid)) == sorted(view.apply_sync(os.getpid))


def test_balanced_tasks(client: Any) -> None:
    view = client.load_balanced_view()
    assert view.map_sync(lambda x: x * x, range(30)) == [x * x for x in range(30)]
    first = view.apply_async(os.getpid)
    with view.temp_flags(after=[first], follow=[first]):
        assert view.apply_sync(os.getpid) == first.get()
    failing = view.apply_async(lambda: 1 / 0)
    with view.temp_flags(after=[failing]):
        with pytest.raises(Exception, match="ImpossibleDependency"):
            view.apply_sync(os.getpid)
    for engine in (0, 1):
        with view.temp_flags(targets=[engine]):
            assert view.apply_sync(os.getpid) == client[engine].apply_sync(os.getpid)


def test_aborted_tasks(client: Any, view: Any) -> None:
    busy = view.apply_async(time.sleep, 0.3)
    waiting = view.apply_async(os.getpid)
    client.abort(waiting, block=True)
    with pytest.raises((ipp.TaskAborted, ours.TaskAborted)):
        waiting.get(timeout=SOON_S)
    busy.get(timeout=SOON_S)


def test_queries(client: Any, cluster: Cluster) -> None:
    result = client.load_balanced_view().apply_async(lambda: 42)
    assert result.get(SOON_S) == 42
    wait_for(lambda: client.result_status(result.msg_ids)["completed"])
    for other in cluster.clients.values():
        assert other.get_result(result.msg_ids[0], owner=False).get(timeout=SOON_S) == 42
    assert client.resubmit(result.msg_ids).get(timeout=SOON_S) == [42]
    assert result.msg_ids[0] in client.hub_history()
    assert client.db_query({"msg_id": result.msg_ids[0]}, keys=["msg_id", "completed"])[0]["msg_id"] == result.msg_ids[0]


def test_the_death_of_our_engine(client: Any, cluster: Cluster) -> None:
    process = cluster.add_engine()
    number = max(client.ids)
    doomed = client[number].apply_async(time.sleep, 600)
    wait_for(lambda: client.queue_status()[number]["queue"] == 1)
    os.killpg(process.pid, 9)
    with pytest.raises(Exception, match="EngineError"):
        doomed.get(timeout=60)
    wait_for(lambda: all(number not in c.ids for c in cluster.clients.values()), 60)
    assert client[0].apply_sync(lambda: 1) == 1
