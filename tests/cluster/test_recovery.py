"""A controller that is killed and started again: what it accepted ends, once, and nobody else has to be started again."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
import zmq

from peers import COMMAND, SOON_S, Client, Controller, Engine, Message, receive, wait_for
from test_engine import EngineProcess

LIBRARY = Path(__file__).parents[2] / "build" / "tests" / "libcluster-tasks.so"


def kill(controller: Controller) -> None:
    controller.process.kill()
    controller.process.wait()
    controller.log.close()


def restart(controller: Controller, *options: str) -> Controller:
    """As init or a user would, with the same folder."""
    return Controller(controller.folder, "--reuse", *options)


def until_accepted(client: Client, ids: list[str]) -> None:
    told: set[str] = set()
    while not told >= set(ids):
        message = receive(client.task)
        assert message.kind == "x_accepted" and message.content["durable"] is True
        told |= set(message.content["msg_ids"])


def log_of(controller: Controller) -> str:
    return (controller.folder / "log").read_text()


class Marks:
    """Native tasks that note that they ran, and end when they may (see tasks.c)."""

    def __init__(self, folder: Path, client: Client) -> None:
        self.folder, self.client = folder, client

    def submit(self, name: str, **metadata: Any) -> str:
        frames = self.client.frames("call_request", {"function": "mark"}, metadata=metadata, buffers=(str(self.folder / name).encode(),))
        self.client.task.send_multipart(frames)
        return str(json.loads(frames[2])["msg_id"])

    def release(self, name: str) -> None:
        (self.folder / f"{name}.go").touch()

    def runs(self, name: str) -> int:
        path = self.folder / name
        return path.read_text().count("ran") if path.exists() else 0


def parent_of(message: Message) -> str:
    return str(message.parent["msg_id"])


# ---- the whole ----------------------------------------------------------------------------------


def test_every_accepted_task_ends_and_nobody_is_started_again(tmp_path: Path) -> None:
    """50 tasks, 10 done, the controller killed: client and engines stay, each task has run once, each is answered once."""
    controller = Controller(tmp_path, "--reuse")
    engines = [EngineProcess(controller, f"--library={LIBRARY}") for _ in range(2)]
    client = Client(controller, is_named=True)
    marks = Marks(tmp_path, client)
    ids = {marks.submit(str(i), x_ack=i % 2 == 0): str(i) for i in range(50)}
    for i in range(10):
        marks.release(str(i))
    answers = results(client, 10)
    def running() -> list[int]:
        return [i for i in range(10, 50) if marks.runs(str(i))]

    wait_for(lambda: len(running()) == 2)
    kill(controller)
    began = time.monotonic()
    marks.release(str(running()[0])) # one ends while there is no controller, one when it is back
    controller = restart(controller)
    for i in range(10, 50):
        marks.release(str(i))
    while len({parent_of(a) for a in answers}) < 50:
        answers += results(client, 1)
        if parent_of(answers[-1]) in list(ids)[10:] and len({parent_of(a) for a in answers}) == 11:
            print(f"first new result {time.monotonic() - began:.2f} s after the kill")
    assert sorted(parent_of(a) for a in unique(answers)) == sorted(ids)
    assert all(a.buffers == [str(tmp_path / ids[parent_of(a)]).encode()] for a in answers)
    assert [marks.runs(str(i)) for i in range(50)] == [1] * 50
    assert sorted(client.engines()) == ["0", "1"]
    assert all("Registered again" not in e.text() for e in engines)
    client.close()
    assert all(e.stop() == 0 for e in engines)
    assert controller.stop() == 0


def results(client: Client, count: int) -> list[Message]:
    """So many messages that are not about acceptance."""
    found: list[Message] = []
    while len(found) < count:
        message = receive(client.task)
        if message.kind != "x_accepted":
            found.append(message)
    return found


def unique(answers: list[Message]) -> list[Message]:
    """Without copies: an answer that may have been lost is sent again, the same to the last byte, and a client drops it by its id."""
    return list({(a.header["msg_id"], a.signature): a for a in answers}.values())


def test_answers_that_may_be_lost_are_sent_again_as_they_were(tmp_path: Path) -> None:
    """The client is stopped while its results are on their way, and gone from the controller's sight: both sides come back."""
    controller = Controller(tmp_path, "--reuse")
    engine, client = Engine(controller), Client(controller, is_named=True)
    sent = [client.submit(x_ack=True) for _ in range(5)]
    plain = client.submit() # as a stock client, which stumbles over what it gets twice
    for _ in (*sent, plain):
        engine.answer(engine.take())
    first = results(client, 6)[:5]
    kill(controller)
    controller = restart(controller)
    again = results(client, 5)
    assert [a.signature for a in again] == [a.signature for a in first]
    assert len(unique(first + again)) == 5
    # in the end a controller knows from the one before that they have arrived
    before = log_of(controller).count("sent again")

    def is_quiet() -> bool:
        nonlocal controller, before
        wait_for(lambda: client.ask("history_request").content["history"] == [*sent, plain])
        wait_for(lambda: not client.task.poll(2000) or not client.task.recv_multipart())
        kill(controller)
        controller = restart(controller)
        count = log_of(controller).count("sent again")
        before, was = count, before
        return was == count

    wait_for(is_quiet, 60)
    for peer in (client, engine):
        peer.close()
    controller.stop()


# ---- engines ------------------------------------------------------------------------------------


def test_an_engine_that_cannot_list_is_asked_what_every_kernel_knows(tmp_path: Path) -> None:
    """What it has not answered when it answers that, it does not have: it gets it again, and its old answer is dropped."""
    controller = Controller(tmp_path, "--reuse", "--hwm=2")
    engine, client = Engine(controller), Client(controller, is_named=True)
    state = tmp_path / "security" / "ipcontroller-engines.json"
    wait_for(lambda: state.exists() and engine.name in state.read_text())
    ids = [client.submit(x_ack=True), client.submit(x_ack=True)]
    until_accepted(client, ids)
    old = [engine.take(), engine.take()]
    assert [m.header["msg_id"] for m in old] == ids
    kill(controller)
    controller = restart(controller, "--hwm=2")
    question = engine.take()
    assert question.kind == "kernel_info_request"
    engine.answer(old[0]) # before the question's answer: it was only slow
    assert parent_of(receive(client.task)) == ids[0]
    engine.answer(question)
    new = engine.take()
    while new.kind != "apply_request": # the same question by the other channel
        engine.answer(new)
        new = engine.take()
    assert new.header["msg_id"] == ids[1] and new.idents[:2] == old[1].idents[:2] and new.idents[2] != old[1].idents[2]
    engine.answer(old[1]) # the attempt that was given up
    engine.answer(new, buffers=(b"new",))
    answer = receive(client.task)
    assert parent_of(answer) == ids[1] and answer.buffers == [b"new"]
    assert not client.task.poll(200)
    assert log_of(controller).count("late or unknown") == 1
    for peer in (client, engine):
        peer.close()
    controller.stop()


def test_direct_requests_go_on_too(tmp_path: Path) -> None:
    controller = Controller(tmp_path, "--reuse")
    engine = EngineProcess(controller, f"--library={LIBRARY}", "--log-level=10")
    client = Client(controller, is_named=True)
    uuid = client.engines()["0"].encode()
    paths = [str(tmp_path / name).encode() for name in ("a", "b", "c")]
    ids = []
    for path in paths:
        frames = client.frames("call_request", {"function": "mark"}, buffers=(path,))
        ids.append(json.loads(frames[2])["msg_id"])
        client.mux.send_multipart([uuid, *frames])
    wait_for(lambda: (tmp_path / "a").exists())
    wait_for(lambda: client.ask("queue_request", {"targets": 0}).content["0"]["queue"] == 3)
    kill(controller)
    for path in paths:
        Path(path.decode() + ".go").touch()
    controller = restart(controller)
    answers = [receive(client.mux) for _ in ids]
    # What was answered while there was no controller may come after what was answered since.
    assert sorted((parent_of(a), a.content["status"]) for a in answers) == [(i, "ok") for i in sorted(ids)]
    assert [Path(p.decode()).read_text() for p in paths] == ["ran\n"] * 3
    assert client.ask("result_request", {"msg_ids": ids}).content["completed"] == sorted(ids)
    client.close()
    engine.stop()
    controller.stop()


def test_an_engine_that_ended_meanwhile_is_given_up(tmp_path: Path) -> None:
    """Its running task counts as lost, as ever; what waited behind it moves."""
    controller = Controller(tmp_path, "--reuse", "--hwm=3")
    engine = EngineProcess(controller, f"--library={LIBRARY}")
    client = Client(controller, is_named=True)
    marks = Marks(tmp_path, client)
    ids = [marks.submit("lost"), marks.submit("tried again", retries=1), marks.submit("moved")]
    wait_for(lambda: marks.runs("lost") and client.ask("queue_request", {"targets": 0}).content["0"]["tasks"] == 3)
    kill(controller)
    engine.process.kill()
    engine.stop()
    controller = restart(controller, "--hwm=3")
    other = EngineProcess(controller, f"--library={LIBRARY}")
    for name in ("tried again", "moved"):
        marks.release(name)
    answers = {parent_of(a): a for a in (receive(client.task) for _ in ids)}
    assert answers[ids[0]].content["ename"] == "EngineError"
    assert [answers[i].content["status"] for i in ids[1:]] == ["ok", "ok"]
    client.close()
    other.stop()
    controller.stop()


def test_an_engine_that_was_cut_off_is_registered_again_and_fenced(tmp_path: Path) -> None:
    """It answers a heartbeat that is younger than the end that was believed in. Its old attempt is over: that answer is dropped."""
    controller = Controller(tmp_path, "--ping=50")
    engine, client = Engine(controller), Client(controller, is_named=True)
    ping = engine.socket(zmq.SUB, "hb_ping")
    ping.subscribe(b"")
    sent = client.submit(retries=1)
    old = engine.take()
    engine.registrar.close() # as if its host were gone
    wait_for(lambda: client.engines() == {})
    other = Engine(controller, id=7)
    moved = other.take()
    assert moved.header["msg_id"] == sent and moved.idents[2] != old.idents[2]
    pong = engine.socket(zmq.DEALER, "hb_pong", identity=engine.name.encode())
    until = time.monotonic() + SOON_S
    while engine.name not in client.engines().values():
        assert time.monotonic() < until
        if ping.poll(100):
            pong.send_multipart(ping.recv_multipart())
    assert client.engines() == {str(engine.id): engine.name, "7": other.name}
    engine.answer(old, buffers=(b"late",))
    wait_for(lambda: "late or unknown" in log_of(controller))
    other.answer(moved, buffers=(b"in time",))
    assert receive(client.task).buffers == [b"in time"]
    again = client.submit(targets=[engine.name])
    request = engine.take()
    engine.answer(request)
    assert parent_of(receive(client.task)) == again
    for peer in (client, engine, other):
        peer.close()
    controller.stop()


def test_encrypted_peers_come_back_too(tmp_path: Path) -> None:
    controller = Controller(tmp_path, "--reuse", "--enable-curve")
    engine = EngineProcess(controller, f"--library={LIBRARY}")
    before = controller.client
    kill(controller)
    controller = restart(controller, "--enable-curve")
    assert controller.client == before
    key = tmp_path / "security" / "ipcontroller-curve.key"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600 and key.read_text() not in log_of(controller)
    wait_for(lambda: "engine 0 is back" in log_of(controller))
    assert engine.stop() == 0
    controller.stop()


# ---- what is in it ------------------------------------------------------------------------------


def test_dependencies_large_buffers_and_queries_survive(tmp_path: Path) -> None:
    controller = Controller(tmp_path, "--reuse", "--history=5")
    engine, client = Engine(controller), Client(controller, is_named=True)
    big = os.urandom(3_000_000)
    frames = client.frames("apply_request", metadata={"label": "big", "retries": 1}, buffers=(b"f", big))
    client.task.send_multipart(frames)
    first = json.loads(frames[2])["msg_id"]
    assert engine.take().buffers == [b"f", big]
    after = client.submit(after=[first])
    failing = client.submit(after={"dependencies": [first], "success": False, "failure": True}, x_ack=True)
    until_accepted(client, [failing]) # and so those before it
    kill(controller)
    engine.close()
    controller = restart(controller, "--history=5")
    other = Engine(controller)
    request = other.take()
    assert request.header["msg_id"] == first and request.buffers == [b"f", big] # the engine that had it is gone
    other.answer(request, buffers=(big[::-1],))
    answers: dict[str, Message] = {}
    while len(answers) < 2:
        a = receive(client.task)
        answers[parent_of(a)] = a
    assert answers[first].buffers == [big[::-1]] and answers[failing].content["ename"] == "ImpossibleDependency"
    other.answer(other.take())
    assert parent_of(receive(client.task)) == after
    before = client.ask("db_request", {"query": {"label": "big"}, "keys": None})
    wait_for(lambda: client.ask("result_request", {"msg_ids": [first, after, failing], "status_only": True}).content["completed"])
    kill(controller)
    controller = restart(controller, "--history=5")
    assert client.ask("history_request").content["history"] == [first, after, failing]
    assert client.ask("db_request", {"query": {"label": "big"}, "keys": None}).content == before.content
    result = client.ask("result_request", {"msg_ids": [first, after]})
    assert result.buffers[0 if first < after else 1] == big[::-1] and result.content[first]["result_content"] == {"status": "ok"}
    late = client.submit(after=[first, after]) # how they ended is still known
    again = client.ask("resubmit_request", {"msg_ids": [first]}).content["resubmitted"][first]
    third = Engine(controller)
    # Both engines are there; one of them gets it, behind what the controller asks those from before.
    wait_for(lambda: any(e.take().header["msg_id"] in (late, again) for e in (other, third) if e.shell.poll(0)))
    assert client.ask("purge_request", {"msg_ids": [after]}).content["status"] == "ok"
    kill(controller)
    controller = restart(controller, "--history=5")
    assert after not in client.ask("history_request").content["history"]
    record = client.ask("db_request", {"query": {"msg_id": first}, "keys": ["resubmitted"]}).content["records"][0]
    assert record["resubmitted"] == again
    for peer in (client, other, third):
        peer.close()
    controller.stop()


def test_output_is_in_the_records(tmp_path: Path) -> None:
    controller = Controller(tmp_path, "--reuse")
    engine, client = Engine(controller), Client(controller, is_named=True)
    iopub = engine.socket(zmq.PUB, "iopub")
    sent = client.submit()
    request = engine.take()
    engine.answer(request)
    receive(client.task)

    def printed() -> Any:
        return client.ask("result_request", {"msg_ids": [sent]}).content[sent]["io"]["stdout"]

    def speak() -> bool: # until the subscription has arrived
        iopub.send_multipart([b"engine.0.stdout", *engine.frames("stream", {"name": "stdout", "text": "said\n"}, parent=request.raw_header)])
        return bool(printed())

    wait_for(speak)
    said = printed()
    db = tmp_path / "security" / "ipcontroller-tasks.sqlite-wal"
    wait_for(lambda: b"said\nsaid\n" * (said.count("said") // 2) in db.read_bytes() and said.encode() in db.read_bytes())
    kill(controller)
    controller = restart(controller)
    assert said in printed()
    for peer in (client, engine):
        peer.close()
    controller.stop()


def test_the_history_is_bounded_in_the_file_too(tmp_path: Path) -> None:
    controller = Controller(tmp_path, "--reuse", "--history=20")
    engine, client = Engine(controller), Client(controller, is_named=True)
    for _ in range(40):
        frames = client.frames("apply_request", buffers=(b"x" * 300_000,))
        client.task.send_multipart(frames)
        engine.answer(engine.take(), buffers=(b"y" * 300_000,))
        receive(client.task)
    history = client.ask("history_request").content["history"]
    assert len(history) == 20
    assert controller.stop() == 0
    file = tmp_path / "security" / "ipcontroller-tasks.sqlite"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert file.stat().st_size < 22 * 600_000 + 20_000_000 # what was dropped is used again
    controller = restart(controller, "--history=20")
    assert client.ask("history_request").content["history"] == history
    for peer in (client, engine):
        peer.close()
    controller.stop()


# ---- acceptance ---------------------------------------------------------------------------------


def test_a_client_that_asks_is_told_what_is_on_the_disk(tmp_path: Path) -> None:
    controller = Controller(tmp_path, "--reuse")
    client = Client(controller, is_named=True)
    ids = {client.submit(x_ack=True) for _ in range(100)}
    until_accepted(client, list(ids))
    kill(controller)
    controller = restart(controller)
    assert set(client.ask("history_request").content["history"]) == ids
    # one that it does not know to have arrived it may send again: it is the same task, and it is told again
    again = sorted(ids)[0]
    client.task.send_multipart(client.frames("apply_request", metadata={"x_ack": True}, buffers=(b"f", b"args"), msg_id=again))
    assert receive(client.task).content["msg_ids"] == [again]
    # another task under this id is none
    client.task.send_multipart(client.frames("apply_request", metadata={"x_ack": True, "n": 2}, buffers=(b"f", b"others"), msg_id=again))
    wait_for(lambda: "is another's" in log_of(controller))
    engine = Engine(controller)
    request = engine.take()
    engine.answer(request)
    done = parent_of(receive(client.task))
    client.task.send_multipart(client.frames("apply_request", metadata={"x_ack": True, "n": 1}, buffers=(b"f", b"args"), msg_id=done))
    assert sorted(receive(client.task).kind for _ in range(2)) == ["apply_reply", "x_accepted"]
    assert len(client.ask("history_request").content["history"]) == 100
    for peer in (client, engine):
        peer.close()
    controller.stop()


def test_without_a_task_log_acceptance_is_not_durable(tmp_path: Path) -> None:
    controller = Controller(tmp_path, "--database=memory")
    client = Client(controller)
    sent = client.submit(x_ack=True)
    message = receive(client.task)
    assert message.kind == "x_accepted" and message.content == {"durable": False, "msg_ids": [sent]}
    assert not (tmp_path / "security" / "ipcontroller-tasks.sqlite").exists()
    client.close()
    controller.stop()


# ---- files that are not as they were left -------------------------------------------------------


def refused(folder: Path, *options: str) -> str:
    done = subprocess.run([COMMAND, "controller", f"--profile-dir={folder}", *options], capture_output=True, text=True, timeout=SOON_S)
    assert done.returncode == 1
    return done.stderr


def test_a_damaged_log_is_set_aside_and_the_start_refused(tmp_path: Path) -> None:
    controller = Controller(tmp_path, "--reuse")
    client = Client(controller, is_named=True)
    for _ in range(20):
        client.submit()
    wait_for(lambda: len(client.ask("history_request").content["history"]) == 20)
    client.close()
    assert controller.stop() == 0
    file = tmp_path / "security" / "ipcontroller-tasks.sqlite"
    damaged = bytearray(file.read_bytes())
    at = damaged.index(b"apply_request")
    damaged[at] ^= 1
    file.write_bytes(damaged)
    said = refused(tmp_path, "--reuse")
    aside = tmp_path / "security" / "ipcontroller-tasks.sqlite.damaged"
    assert "damaged" in said and "checksum" in said and str(aside) in said
    assert bytes(damaged[at:at + 13]) in aside.read_bytes()
    controller = restart(controller) # begins without it
    client = Client(controller)
    assert client.ask("history_request").content["history"] == []
    client.close()
    controller.stop()


def test_a_log_that_is_in_use_is_left_alone(tmp_path: Path) -> None:
    controller = Controller(tmp_path)
    said = refused(tmp_path)
    assert "in use" in said and "running already" in said
    client, engine = Client(controller), Engine(controller)
    client.submit()
    engine.answer(engine.take())
    assert receive(client.task).content == {"status": "ok"}
    for peer in (client, engine):
        peer.close()
    controller.stop()


def test_without_restore_the_old_log_is_kept_beside(tmp_path: Path) -> None:
    controller = Controller(tmp_path)
    client = Client(controller)
    client.submit()
    wait_for(lambda: client.ask("queue_request").content["status"] == "ok" if client.engines() else
             len(client.ask("history_request").content["history"]) == 1)
    kill(controller)
    client.close()
    controller.client_file.unlink() # that this is another controller's is seen by its file
    controller = Controller(tmp_path)
    client = Client(controller)
    assert client.ask("history_request").content["history"] == []
    assert (tmp_path / "security" / "ipcontroller-tasks.sqlite.previous").exists()
    assert "ipcontroller-tasks.sqlite.previous" in log_of(controller)
    client.close()
    controller.stop()
