"""A controller that is killed again and again, at moments that a seed chooses: nothing accepted is lost, nothing is answered twice."""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "cluster"))

from peers import Client, Controller, Message, receive
from test_engine import EngineProcess

LIBRARY = Path(__file__).parents[2] / "build" / "tests" / "libcluster-tasks.so"
TASKS = 20


class Requests:
    """What one client asked for, and what became of it. It sends again what was not accepted when the controller died."""

    def __init__(self, folder: Path, client: Client) -> None:
        self.folder, self.client = folder, client
        self.sent: dict[str, int] = {}
        self.accepted: set[str] = set()
        self.answers: dict[str, Message] = {}
        self.attempts = 0

    def send(self, number: int, msg_id: str | None = None) -> None:
        self.attempts += 1
        (self.folder / f"{number}.go").touch()
        frames = self.client.frames("call_request", {"function": "mark"}, metadata={"x_ack": True, "retries": 3, "n": self.attempts},
                                    buffers=(str(self.folder / str(number)).encode(),), msg_id=msg_id)
        self.sent[json.loads(frames[2])["msg_id"]] = number
        self.client.task.send_multipart(frames)

    def send_again(self) -> None:
        for msg_id in self.sent.keys() - self.accepted - self.answers.keys():
            self.send(self.sent[msg_id], msg_id)

    def take(self) -> None:
        message = receive(self.client.task)
        if message.kind == "x_accepted":
            self.accepted |= set(message.content["msg_ids"])
            return
        msg_id = message.parent["msg_id"]
        before = self.answers.setdefault(msg_id, message)
        assert before.signature == message.signature, f"{msg_id} was answered twice, in different ways"

    def check(self) -> None:
        assert self.answers.keys() == self.sent.keys()
        for msg_id, number in self.sent.items():
            assert self.answers[msg_id].content["status"] == "ok"
            assert self.answers[msg_id].buffers == [str(self.folder / str(number)).encode()]


def kill_again_and_again(folder: Path, rounds: int, seed: int) -> None:
    chance = random.Random(seed)
    options = ("--reuse", "--history=100000", "--hwm=2")
    controller = Controller(folder, *options)
    engines = [EngineProcess(controller, f"--library={LIBRARY}") for _ in range(2)]
    requests = Requests(folder, Client(controller, is_named=True))
    for i in range(rounds):
        for n in range(TASKS):
            requests.send(i * TASKS + n)
        for _ in range(chance.randrange(TASKS)):
            requests.take()
        controller.process.kill()
        controller.process.wait()
        controller.log.close()
        controller = Controller(folder, *options)
        requests.send_again()
        while len(requests.answers) < len(requests.sent):
            requests.take()
    requests.check()
    history = requests.client.ask("history_request").content["history"]
    assert len(history) == len(set(history)) and set(history) == requests.sent.keys()
    assert len(requests.client.engines()) == 2
    requests.client.close()
    assert [e.stop() for e in engines] == [0, 0]
    controller.stop()


def test_a_few_kills(tmp_path: Path) -> None:
    kill_again_and_again(tmp_path, 4, 1)


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_a_hundred_kills(tmp_path: Path) -> None:
    kill_again_and_again(tmp_path, 100, 2)
