"""What a Python client does about calls that a connection swallowed, and about answers that were lost on their way back."""

from __future__ import annotations

import selectors
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from parallel_cluster import Cluster, make, ours  # noqa: F401
from peers import SOON_S, wait_for

import manyhands.parallel as ipp

numpy = pytest.importorskip("numpy")

PORTS = ("registration", "control", "mux", "task", "iopub", "notification", "broadcast")
FORWARD, BACK = 0, 1  # to the controller; to the client


class Network:
    """Between a client and its controller: it can swallow what is sent through it, and cut its connections."""

    def __init__(self, info: dict[str, Any]) -> None:
        self.swallows = {FORWARD: False, BACK: False}
        self.swallowed = 0
        self._targets: dict[socket.socket, int] = {}
        self._peers: dict[socket.socket, tuple[socket.socket, int]] = {}
        self._selector = selectors.DefaultSelector()
        self._wants = threading.Event()
        self._must_stop = False
        self.info = {**info, "interface": "tcp://127.0.0.1"}
        self.info.pop("x_fast", None)
        for name in PORTS:
            listener = socket.create_server(("127.0.0.1", 0))
            self._targets[listener] = int(info[name])
            self.info[name] = listener.getsockname()[1]
            self._selector.register(listener, selectors.EVENT_READ)
        self._bell, self._ring = socket.socketpair()
        self._selector.register(self._bell, selectors.EVENT_READ)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._must_stop:
            for key, _ in self._selector.select():
                self._serve(key.fileobj)

    def _serve(self, ready: Any) -> None:
        if ready is self._bell:
            if ready.recv(1) == b"c":
                for end in list(self._peers):
                    self._close(end)
                self._wants.set()
        elif ready in self._targets:
            near, _ = ready.accept()
            far = socket.create_connection(("127.0.0.1", self._targets[ready]))
            self._peers[near], self._peers[far] = (far, FORWARD), (near, BACK)
            for end in (near, far):
                self._selector.register(end, selectors.EVENT_READ)
        elif ready in self._peers:
            other, way = self._peers[ready]
            try:
                data = ready.recv(1 << 16)
                if data and self.swallows[way]:
                    self.swallowed += len(data)
                elif data:
                    other.sendall(data)
            except OSError:
                data = b""
            if not data:
                self._close(ready)

    def _close(self, end: socket.socket) -> None:
        if end in self._peers:
            other, _ = self._peers.pop(end)
            self._peers.pop(other)
            for one in (end, other):
                self._selector.unregister(one)
                one.close()

    def cut(self) -> None:
        """End all connections; those that come then work."""
        self.swallows = {FORWARD: False, BACK: False}
        self._wants.clear()
        self._ring.send(b"c")
        assert self._wants.wait(SOON_S)

    def close(self) -> None:
        self._must_stop = True
        self._ring.send(b"e")
        self._thread.join(SOON_S)
        for end in (*self._peers, *self._targets, self._bell, self._ring):
            end.close()


@pytest.fixture
def network(ours: Cluster) -> Iterator[Network]:
    info = ours.info("client")
    assert info is not None
    made = Network(info)
    yield made
    made.close()


@pytest.fixture
def far(network: Network) -> Iterator[ipp.Client]:
    client = ipp.Client(network.info, timeout=SOON_S)
    client.wait_for_engines(2, timeout=2 * SOON_S)
    yield client
    client.close()


@ipp.interactive  # so that engines need not import this module
def count(name: str) -> int:
    """How often it was called with this name on its engine."""
    import builtins

    counts = builtins.__dict__.setdefault("_counts", {})
    counts[name] = counts.get(name, 0) + 1
    return int(counts[name])


def swallow(network: Network, way: int) -> None:
    network.swallows[way] = True
    network.swallowed = 0


def test_calls_that_a_connection_swallowed_are_sent_again(network: Network, far: ipp.Client) -> None:
    swallow(network, FORWARD)
    balanced = [far.load_balanced_view().apply_async(abs, -n) for n in range(20)]
    direct = [far[n % 2].apply_async(pow, n, 2) for n in range(20)]
    executed = far[0].execute("swallowed = 5")
    wait_for(lambda: network.swallowed > 40 * 200, SOON_S)
    assert not any(ar.ready() for ar in balanced + direct)
    network.cut()
    assert [ar.get(SOON_S) for ar in balanced] == list(range(20))
    assert [ar.get(SOON_S) for ar in direct] == [n * n for n in range(20)]
    executed.get(SOON_S)
    assert far[0]["swallowed"] == 5


def test_answers_that_were_lost_come_and_nothing_runs_twice(ours: Cluster, network: Network, far: ipp.Client) -> None:
    watcher = ours.client()
    swallow(network, BACK)
    balanced = [far.load_balanced_view().apply_async(count, f"balanced {n}") for n in range(10)]
    direct = [far[0].apply_async(count, f"direct {n}") for n in range(10)]
    ids = [msg_id for ar in balanced + direct for msg_id in ar.msg_ids]
    wait_for(lambda: len(watcher.db_query({"msg_id": {"$in": ids}, "completed": {"$ne": None}}, ["msg_id"])) == 20, SOON_S)
    assert not any(ar.ready() for ar in balanced + direct)
    network.cut()
    assert [ar.get(SOON_S) for ar in balanced + direct] == [1] * 20


def test_large_calls_are_asked_for(ours: Cluster, network: Network, far: ipp.Client) -> None:
    """They are not kept: what the controller has of them is fetched, and what it has not is told lost."""
    watcher, big = ours.client(), numpy.ones(1 << 17)
    swallow(network, BACK)
    arrived = [far.load_balanced_view().apply_async(numpy.sum, big), far[0].apply_async(numpy.sum, big)]
    ids = [msg_id for ar in arrived for msg_id in ar.msg_ids]
    wait_for(lambda: len(watcher.db_query({"msg_id": {"$in": ids}, "completed": {"$ne": None}}, ["msg_id"])) == 2, SOON_S)
    network.cut()
    assert [ar.get(SOON_S) for ar in arrived] == [1 << 17] * 2
    assert far[0].apply_sync(abs, -1) == 1
    swallow(network, FORWARD)
    swallowed = far[0].apply_async(numpy.sum, big)
    wait_for(lambda: network.swallowed > big.nbytes // 2, SOON_S)
    network.cut()
    with pytest.raises(ipp.RemoteError, match="does not know task"):
        swallowed.get(SOON_S)
    assert far[0].apply_sync(numpy.sum, big) == 1 << 17


def test_clients_of_a_controller_that_is_killed_get_their_answers() -> None:
    """Balanced and direct calls, by one client through a network and another by the fast lane, at whatever place the kill finds them."""
    for cluster in make(2, options=("--reuse",)):
        rc = cluster.client()
        one, balanced = rc[1], rc.load_balanced_view()
        tasks = [balanced.apply_async(count, f"balanced {n}") for n in range(300)]
        calls = [one.apply_async(count, f"direct {n}") for n in range(100)]
        tasks[20].get(SOON_S)
        cluster.controller.kill()
        cluster.controller.wait(SOON_S)
        late = [balanced.apply_async(abs, -n) for n in range(50)]
        cluster.start_controller("--reuse")
        assert all(ar.get(2 * SOON_S) >= 1 for ar in tasks + calls)
        assert [ar.get(2 * SOON_S) for ar in late] == list(range(50))


def test_without_a_task_log_what_was_forgotten_is_told() -> None:
    for cluster in make(1, options=("--reuse", "--dictdb")):
        rc = cluster.client()
        running = rc.load_balanced_view().apply_async(time.sleep, 3600)
        wait_for(lambda: rc.queue_status(0)["tasks"] == 1, SOON_S)
        cluster.controller.kill()
        cluster.controller.wait(SOON_S)
        cluster.start_controller("--reuse", "--dictdb")
        assert running.wait(SOON_S), (cluster.folder / "log").read_text()
        with pytest.raises(ipp.RemoteError, match="without a task log"):
            running.get(SOON_S)
