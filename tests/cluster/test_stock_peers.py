"""The controller with stock engines and a stock client of ipyparallel."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from peers import Controller, wait_for

ipp = pytest.importorskip("ipyparallel")
ENGINES = 2


def start_engine(folder: Path) -> "subprocess.Popen[bytes]":
    # functions are found again by their module, which is this one
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent)}
    return subprocess.Popen([sys.executable, "-m", "ipyparallel.engine", f"--profile-dir={folder}", "--log-level=40"],
                            stderr=subprocess.DEVNULL, start_new_session=True, env=environment)


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    folder = tmp_path_factory.mktemp("profile")
    controller = Controller(folder)
    engines = [start_engine(folder) for _ in range(ENGINES)]
    rc = ipp.Client(str(controller.client_file))
    try:
        rc.wait_for_engines(ENGINES, timeout=60)
        rc.controller = controller
        yield rc
    finally:
        rc.close()
        for engine in engines:
            os.killpg(engine.pid, 9)
            engine.wait()
        controller.stop()


def test_direct_view(client: Any) -> None:
    view = client[:]
    view.block = True
    assert view.apply(lambda x: x + 1, 2) == [3, 3]
    view.push({"a": 5, "b": b"x" * 2_000_000})
    assert view.pull("a") == [5, 5]
    assert view.pull("b") == [b"x" * 2_000_000] * ENGINES
    view.scatter("s", list(range(10)))
    assert view.gather("s") == list(range(10))
    assert view.map(lambda x: x * x, range(5)) == [0, 1, 4, 9, 16]


def test_execute_with_output(client: Any) -> None:
    reply = client[:].execute("import sys\nprint('out')\nprint('err', file=sys.stderr)\n1 + 1", silent=False, block=True)
    assert (reply.stdout, reply.stderr) == (["out\n"] * ENGINES, ["err\n"] * ENGINES)
    assert [r.execute_result["data"]["text/plain"] for r in reply.get()] == ["2"] * ENGINES
    with pytest.raises(ipp.error.CompositeError, match="ZeroDivisionError"):
        client[:].execute("1/0", block=True)
    record = client.db_query({"msg_id": reply.msg_ids[0]})[0]
    assert (record["stdout"], record["queue"]) == ("out\n", "mux")


def test_balanced_view(client: Any) -> None:
    view = client.load_balanced_view()
    assert view.map_sync(lambda x: x * x, range(50)) == [x * x for x in range(50)]
    first = view.apply_async(os.getpid)
    with view.temp_flags(after=[first], follow=[first]):
        assert view.apply_sync(os.getpid) == first.get()
    failing = view.apply_async(lambda: 1 / 0)
    with view.temp_flags(after=[failing]):
        with pytest.raises(ipp.error.RemoteError, match="ImpossibleDependency"):
            view.apply_sync(os.getpid)
    with view.temp_flags(targets=[1]):
        assert view.apply_sync(os.getpid) == client[1].apply_sync(os.getpid)


def test_broadcast(client: Any) -> None:
    for coalescing in (False, True):
        view = client.broadcast_view(is_coalescing=coalescing)
        assert sorted(view.apply_sync(os.getpid)) == sorted(client[:].apply_sync(os.getpid))
        with pytest.raises(Exception, match="ZeroDivisionError"):
            view.apply_sync(lambda: 1 / 0)
    view = client.broadcast_view()
    view.execute("z = 3", block=True)
    assert client[:]["z"] == [3] * ENGINES


def test_queries(client: Any) -> None:
    result = client.load_balanced_view().apply_async(lambda: 42)
    assert result.get() == 42
    other = ipp.Client(str(client.controller.client_file))
    assert other.get_result(result.msg_ids[0], owner=False).get(timeout=30) == 42
    assert other.queue_status()["unassigned"] == 0
    assert other.resubmit(result.msg_ids).get(timeout=30) == [42]
    assert result.msg_ids[0] in other.hub_history()
    other.purge_hub_results("all")
    assert other.hub_history() == []
    other.close()


def test_abort_and_interrupt(client: Any) -> None:
    view = client[0]
    busy = view.apply_async(time.sleep, 0.3)
    waiting = view.apply_async(lambda: 1)
    client.abort(waiting, block=True)
    with pytest.raises(ipp.error.TaskAborted):
        waiting.get(timeout=30)
    busy.get(timeout=30)
    endless = view.apply_async(time.sleep, 600)
    wait_for(lambda: client.queue_status()[0]["queue"] == 1)
    pid_running = endless
    while not pid_running.done():
        client.send_signal("SIGINT", targets=0, block=True)
        pid_running.wait(0.2)
    with pytest.raises(ipp.error.RemoteError, match="KeyboardInterrupt"):
        endless.get()


def test_the_death_of_an_engine(client: Any) -> None:
    """Last: it costs an engine."""
    view = client.load_balanced_view()
    doomed = client[0].apply_sync(os.getpid)
    with view.temp_flags(targets=[0]):
        lost = view.apply_async(time.sleep, 600)
    direct = client[0].apply_async(time.sleep, 600)
    with view.temp_flags(retries=3):
        moved = [view.apply_async(lambda: __import__("os").getpid()) for _ in range(4)]
    wait_for(lambda: client.queue_status()[0]["tasks"] >= 1)
    os.kill(doomed, 9)
    wait_for(lambda: client.ids == [1])
    for result in (lost, direct):
        with pytest.raises(ipp.error.RemoteError, match="EngineError"):
            result.get(timeout=30)
    assert doomed not in [result.get(timeout=30) for result in moved]
