import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent)) # helpers, also under --import-mode=importlib

from peers import Client, Controller, Engine, Peer


class Cluster:
    """Makes peers of one controller, and closes them."""

    def __init__(self, controller: Controller) -> None:
        self.controller = controller
        self.peers: list[Peer] = []

    def client(self) -> Client:
        self.peers.append(Client(self.controller))
        return self.peers[-1] # type: ignore[return-value]

    def engine(self, **content: object) -> Engine:
        self.peers.append(Engine(self.controller, **content))
        return self.peers[-1] # type: ignore[return-value]

    def close(self) -> None:
        for peer in self.peers:
            peer.close()


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    controller = Controller(tmp_path)
    cluster = Cluster(controller)
    try:
        yield cluster
        assert controller.process.poll() is None, "the controller ended"
    finally:
        cluster.close()
        controller.stop()
