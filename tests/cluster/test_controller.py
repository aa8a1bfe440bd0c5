"""The controller with peers that are made of raw messages: what each may expect of it, and what the malicious get."""

import json
import os
import signal
import stat
import subprocess
import time
from pathlib import Path

import pytest
import zmq

from peers import COMMAND, DELIMITER, SOON_S, Client, Controller, Engine, Message, receive, wait_for


# ---- files and the command ----------------------------------------------------------------------


def test_connection_files_are_private_and_removed(tmp_path: Path) -> None:
    controller = Controller(tmp_path, "--cluster-id=")
    folder = tmp_path / "security"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    for file in (controller.client_file, controller.engine_file):
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert len(controller.client["key"]) == 64
    assert controller.client["key"] not in (tmp_path / "log").read_text()
    assert controller.stop() == 0
    assert list(folder.iterdir()) == []


def test_reuse_keeps_key_and_ports(tmp_path: Path) -> None:
    first = Controller(tmp_path, "--reuse")
    assert first.stop() == 0
    assert first.client_file.exists()
    second = Controller(tmp_path, "--reuse")
    assert second.client == first.client and second.engine == first.engine
    second.stop()
    os.chmod(first.client_file, 0o644)
    run = subprocess.run([COMMAND, "controller", f"--profile-dir={tmp_path}", "--reuse"], capture_output=True, text=True,
                         timeout=SOON_S)
    assert run.returncode == 1
    assert "others may use it" in run.stderr


def test_ports_and_cluster_id_and_environment(tmp_path: Path) -> None:
    environment = os.environ | {"IPP_PROFILE_DIR": str(tmp_path), "IPP_CLUSTER_ID": "night"}
    process = subprocess.Popen([COMMAND, "controller", "--log-level=30"], env=environment)
    file = tmp_path / "security" / "ipcontroller-night-client.json"
    wait_for(file.exists)
    process.send_signal(signal.SIGINT)
    assert process.wait(SOON_S) == 0
    assert not file.exists()


@pytest.mark.parametrize("arguments, status, said", [
    (["--ip=0.0.0.0"], 1, "needs CURVE keys"),
    (["--ip=*"], 1, "needs CURVE keys"),
    (["--hwm=-1"], 2, '--hwm: "-1"'),
    (["--scheme=best"], 2, '--scheme: "best"'),
    (["--ports=0-3"], 2, "--ports"),
    (["--colour"], 2, 'no option "--colour"'),
    (["now"], 2, 'unexpected argument "now"'),
    (["--ping"], 2, "--ping needs a value"),
    (["--version"], 0, ""),
    (["--help"], 0, ""),
    (["--help-all"], 0, ""),
])
def test_command_line(tmp_path: Path, arguments: list[str], status: int, said: str) -> None:
    run = subprocess.run([COMMAND, "controller", f"--profile-dir={tmp_path}", *arguments], capture_output=True, text=True,
                         timeout=SOON_S)
    assert (run.returncode, said in run.stderr) == (status, True), run.stderr


def test_one_process_and_little_memory(cluster) -> None:
    pid = cluster.controller.process.pid
    children = subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, text=True).stdout
    assert children == ""
    assert cluster.controller.memory_kb() < 16000


# ---- registration -------------------------------------------------------------------------------


def test_an_engine_counts_from_its_first_message(cluster) -> None:
    client = cluster.client()
    wait_for(lambda: client.engines() == {})
    engine = cluster.engine()
    assert engine.reply.content["status"] == "ok"
    assert engine.reply.content["hb_period"] == 3000
    assert client.engines() == {"0": engine.name}
    note = receive(client.notification)
    assert (note.kind, note.content) == ("registration_notification", {"id": 0, "uuid": engine.name})
    assert cluster.engine(id=7).id == 7
    assert cluster.engine(id=7).id == 8 # taken: another
    again = client.ask("registration_request", {"uuid": engine.name})
    assert (again.content["status"], again.content["ename"]) == ("error", "KeyError")
    assert client.ask("registration_request", {"uuid": 'a"b'}).content["ename"] == "ValueError"
    client.query.send_multipart(client.frames("unregistration_request", {"id": 7}))
    wait_for(lambda: set(client.engines()) == {"0", "8"})


def test_the_end_of_an_engines_connection_is_noticed(cluster) -> None:
    client = cluster.client()
    client.engines()
    engine = cluster.engine()
    assert receive(client.notification).kind == "registration_notification"
    start = time.monotonic()
    engine.close()
    note = receive(client.notification)
    assert (note.kind, note.content["id"]) == ("unregistration_notification", 0)
    assert time.monotonic() - start < 10 # without heartbeats, which would take 33 s
    assert client.engines() == {}


def test_an_engine_whose_heart_stops_is_given_up(tmp_path: Path) -> None:
    controller = Controller(tmp_path, "--ping=100", "--HeartMonitor.max_heartmonitor_misses=40")
    client, dying, living, starting = Client(controller), Engine(controller), Engine(controller), Engine(controller)
    ping = living.socket(zmq.SUB, "hb_ping")
    ping.subscribe(b"")
    pongs = [e.socket(zmq.DEALER, "hb_pong", identity=e.name.encode()) for e in (living, dying)]
    until = time.monotonic() + SOON_S
    beats = 0
    while dying.name in client.engines().values():
        assert time.monotonic() < until
        if ping.poll(10):
            beat = ping.recv_multipart()
            beats += 1
            for pong in pongs[:1 if beats > 5 else 2]:
                pong.send_multipart(beat)
    assert beats > 5
    # one that has not begun to beat is still starting: stock engines take seconds for it
    assert list(client.engines().values()) == [living.name, starting.name]
    for peer in (client, dying, living, starting):
        peer.close()
    controller.stop()


def test_engines_outlive_the_controller(tmp_path: Path) -> None:
    """Killed and started again with --reuse: who answers heartbeats is back under its id, who doesn't is given up."""
    first = Controller(tmp_path, "--reuse")
    engines = [Engine(first) for _ in range(3)]
    living = engines[1]
    state = tmp_path / "security" / "ipcontroller-engines.json"
    wait_for(lambda: state.exists() and len(json.loads(state.read_text())["engines"]) == 3)
    assert stat.S_IMODE(state.stat().st_mode) == 0o600
    ping = living.socket(zmq.SUB, "hb_ping")
    ping.subscribe(b"")
    pong = living.socket(zmq.DEALER, "hb_pong", identity=living.name.encode())
    first.process.kill()
    first.process.wait()
    second = Controller(tmp_path, "--reuse")
    client = Client(second)
    assert client.engines() == {str(e.id): e.name for e in engines}
    client.submit(targets=[living.name])
    living.answer(living.take())
    assert receive(client.task).content == {"status": "ok"}
    until = time.monotonic() + SOON_S
    while len(client.engines()) > 1:
        assert time.monotonic() < until
        if ping.poll(10):
            pong.send_multipart(ping.recv_multipart())
    assert client.engines() == {"1": living.name}
    assert Engine(second).id == 3
    living.close() # noticed by the connection of its heart, as it never registered here
    wait_for(lambda: "1" not in client.engines(), 10)
    for peer in (client, *engines):
        peer.close()
    second.stop()


# ---- tasks --------------------------------------------------------------------------------------


def test_a_task_goes_to_an_engine_and_its_result_back(cluster) -> None:
    client, engine = cluster.client(), cluster.engine()
    msg_id = client.submit()
    task = engine.take()
    assert task.header["msg_id"] == msg_id
    assert task.buffers == [b"f", b"args"]
    assert task.idents[0] == b"task_out"
    assert client.ask("queue_request").content["0"] == {"queue": 0, "completed": 0, "tasks": 1}
    assert client.ask("result_request", {"msg_ids": [msg_id]}).content["pending"] == [msg_id]
    engine.answer(task)
    result = receive(client.task)
    assert result.idents == [engine.name.encode()]
    assert (result.parent["msg_id"], result.buffers) == (msg_id, [b"result"])
    again = client.ask("result_request", {"msg_ids": [msg_id]})
    assert again.content["completed"] == [msg_id]
    assert again.content[msg_id]["result_content"] == {"status": "ok"}
    assert again.buffers == [b"result"]
    assert client.ask("queue_request").content["0"] == {"queue": 0, "completed": 1, "tasks": 0}


def test_a_task_waits_for_an_engine(cluster) -> None:
    client = cluster.client()
    msg_id = client.submit()
    engine = cluster.engine()
    task = engine.take()
    assert task.header["msg_id"] == msg_id


def test_the_high_water_mark(cluster) -> None:
    client, engine = cluster.client(), cluster.engine()
    ids = [client.submit() for _ in range(3)]
    first = engine.take()
    wait_for(lambda: client.ask("queue_request").content["unassigned"] == 2)
    assert not engine.shell.poll(50)
    engine.answer(first)
    assert engine.take().header["msg_id"] == ids[1]


def test_a_timeout_counts_from_the_submission(cluster) -> None:
    client, engine = cluster.client(), cluster.engine()
    assert not engine.shell.poll(200) # nothing happens for longer than the timeout that follows
    msg_id = client.submit(timeout=0.1)
    assert engine.take().header["msg_id"] == msg_id


def test_a_failed_task_is_tried_again(cluster) -> None:
    client, engine = cluster.client(), cluster.engine()
    msg_id = client.submit(retries=1)
    engine.answer(engine.take(), "error")
    second = engine.take()
    assert second.header["msg_id"] == msg_id
    engine.answer(second, "error")
    assert receive(client.task).content["ename"] == "ValueError"


def test_a_failed_task_is_tried_elsewhere(cluster) -> None:
    client, first = cluster.client(), cluster.engine()
    msg_id = client.submit(retries=5, timeout=0.05)
    request = first.take()
    second = cluster.engine()
    first.answer(request, "error")
    request = second.take()
    assert request.header["msg_id"] == msg_id
    second.answer(request, "error")
    # Both have failed it, and its time is over before there is another.
    assert receive(client.task).content["ename"] == "TaskTimeout"
    assert not first.shell.poll(20) and not second.shell.poll(0)


@pytest.mark.parametrize("retries", [0, 2])
def test_an_engine_that_dies(cluster, retries: int) -> None:
    client, first = cluster.client(), cluster.engine()
    msg_id = client.submit(retries=retries)
    first.take()
    second = cluster.engine()
    first.close()
    if retries:
        task = second.take()
        second.answer(task)
        assert receive(client.task).content == {"status": "ok"}
    else:
        result = receive(client.task)
        assert (result.content["ename"], result.parent["msg_id"]) == ("EngineError", msg_id)
        assert result.metadata["engine"] == first.name


def test_what_waits_behind_the_running_task_moves(tmp_path: Path) -> None:
    controller = Controller(tmp_path, "--hwm=0")
    client, first = Client(controller), Engine(controller)
    ids = [client.submit() for _ in range(4)]
    assert [first.take().header["msg_id"] for _ in range(4)] == ids
    second = Engine(controller)
    first.close()
    assert receive(client.task).parent["msg_id"] == ids[0] # an EngineError
    assert [second.take().header["msg_id"] for _ in range(3)] == ids[1:]
    for peer in (client, second):
        peer.close()
    controller.stop()


def test_an_engine_that_refuses_a_task_does_not_get_it_again(cluster) -> None:
    client, first = cluster.client(), cluster.engine()
    client.submit()
    refused = first.take()
    second = cluster.engine()
    first.answer(refused, "error", met=False)
    second.answer(second.take())
    assert receive(client.task).idents == [second.name.encode()]


def test_dependencies(cluster) -> None:
    client, engine = cluster.client(), cluster.engine()
    good, bad = client.submit(), client.submit()
    first, second = engine.take(), None
    engine.answer(first)
    receive(client.task)
    after_both = client.submit(after={"dependencies": [good, bad], "all": True, "success": True, "failure": True})
    after_good_bad = client.submit(after=[bad])
    second = engine.take()
    assert second.header["msg_id"] == bad
    engine.answer(second, "error")
    results = [receive(client.task) for _ in range(2)]
    assert {m.parent["msg_id"]: m.content["ename"] for m in results} == {bad: "ValueError", after_good_bad: "ImpossibleDependency"}
    third = engine.take()
    assert third.header["msg_id"] == after_both
    engine.answer(third)
    receive(client.task)
    for metadata, ename in [
        ({"after": ["nobody_0"]}, "InvalidDependency"),
        ({"follow": {"dependencies": [good], "success": False, "failure": False}}, "InvalidDependency"),
        ({"after": {"dependencies": [good], "success": False, "failure": True}}, "ImpossibleDependency"),
        ({"targets": ["nobody"]}, "ImpossibleDependency"),
        ({"retries": -1}, "ValueError"),
    ]:
        msg_id = client.submit(**metadata)
        answer = receive(client.task)
        assert (answer.parent["msg_id"], answer.content["ename"]) == (msg_id, ename)
    # an old outcome is known even when the record is gone
    client.ask("purge_request", {"msg_ids": "all"})
    late = client.submit(follow=[good])
    assert engine.take().header["msg_id"] == late


def test_targets_and_timeouts(cluster) -> None:
    client, first, second = cluster.client(), cluster.engine(), cluster.engine()
    ids = [client.submit(targets=[second.name]) for _ in range(2)]
    assert second.take().header["msg_id"] == ids[0]
    late = client.submit(targets=[second.name], timeout=0.05)
    assert not first.shell.poll(20)
    answer = receive(client.task)
    assert (answer.parent["msg_id"], answer.content["ename"]) == (late, "TaskTimeout")


def test_aborted_before_it_ran(cluster) -> None:
    client, engine = cluster.client(), cluster.engine()
    client.submit()
    engine.take()
    waiting = client.submit(retries=5)
    wait_for(lambda: client.ask("queue_request").content["unassigned"] == 1)
    client.control.send_multipart([engine.name.encode(), *client.frames("abort_request", {"msg_ids": [waiting]})])
    answer = receive(client.task)
    assert (answer.parent["msg_id"], answer.content) == (waiting, {"status": "aborted"})


# ---- direct requests ----------------------------------------------------------------------------


def test_mux_relays_both_ways_untouched(cluster) -> None:
    client, engine = cluster.client(), cluster.engine()
    frames = client.frames("execute_request", {"code": "1"}, buffers=(b"b" * 100000,))
    client.mux.send_multipart([engine.name.encode(), *frames])
    assert engine.shell.poll(SOON_S * 1000)
    got = engine.shell.recv_multipart()
    assert got[0] == b"mux_out" and got[2:] == frames
    engine.answer(Message(got))
    reply = receive(client.mux)
    assert (reply.kind, reply.idents) == ("execute_reply", [engine.name.encode()])


def test_a_request_to_nobody_is_answered(cluster) -> None:
    client = cluster.client()
    client.mux.send_multipart([b"nobody", *client.frames("apply_request")])
    reply = receive(client.mux)
    assert (reply.kind, reply.content["ename"]) == ("apply_reply", "EngineError")


# ---- queries ------------------------------------------------------------------------------------


def test_queries_that_are_wrong_get_an_error(cluster) -> None:
    client = cluster.client()
    table = [
        ("colour_request", {}, "hub_error", "KeyError"),
        ("queue_request", {"targets": [3]}, "hub_error", "IndexError"),
        ("result_request", {"msg_ids": ["none"]}, "result_reply", "KeyError"),
        ("resubmit_request", {"msg_ids": ["none"]}, "resubmit_reply", "KeyError"),
        ("purge_request", {"msg_ids": [], "engine_ids": [4]}, "purge_reply", "IndexError"),
        ("db_request", {"query": {"msg_id": {"$like": "x"}}}, "db_reply", "KeyError"),
        ("become_dask_request", {}, "hub_error", "NotImplementedError"),
    ]
    client.submit()
    wait_for(lambda: len(client.ask("history_request").content["history"]) == 1)
    for kind, content, answer_kind, ename in table:
        answer = client.ask(kind, content)
        assert (answer.kind, answer.content["status"], answer.content["ename"]) == (answer_kind, "error", ename)


def test_database_queries(cluster) -> None:
    client, engine = cluster.client(), cluster.engine()
    ids = []
    for i in range(4):
        ids.append(client.submit(label=f"run-{i}"))
        engine.answer(engine.take(), "ok" if i else "error", buffers=(b"r%d" % i, b"x"))
        receive(client.task)

    def found(query: object, keys: object = None) -> list[str]:
        answer = client.ask("db_request", {"query": query, "keys": keys})
        assert answer.content["status"] == "ok", answer.content
        return [record["msg_id"] for record in answer.content["records"]]

    assert found({}) == ids
    assert found({"msg_id": ids[2]}) == [ids[2]]
    assert found({"msg_id": {"$in": ids[:2]}}) == ids[:2]
    assert found({"msg_id": {"$nin": ids[:2]}}) == ids[2:]
    assert found({"label": {"$glob": "run-[12]"}}) == ids[1:3]
    assert found({"label": {"$gt": "run-1"}}) == ids[2:]
    assert found({"label": {"$gte": "run-1", "$lt": "run-3"}}) == ids[1:3]
    assert found({"engine_uuid": engine.name, "queue": "task"}) == ids
    assert found({"completed": None}) == []
    assert found({"completed": {"$ne": None}}) == ids
    assert found({"submitted": {"$lt": "2031-01-01T00:00:00+00:00"}}) == []
    assert found({"submitted": "2031-01-01T01:00:00+01:00"}) == ids
    assert found({"resubmitted": {"$exists": True}}) == []
    answer = client.ask("db_request", {"query": {"msg_id": {"$in": ids[1:3]}}, "keys": ["result_buffers", "buffers", "label"]})
    assert answer.content["records"] == [{"msg_id": i, "label": f"run-{n}"} for n, i in ((1, ids[1]), (2, ids[2]))]
    assert answer.content["buffer_lens"] == answer.content["result_buffer_lens"] == [2, 2]
    assert answer.buffers == [b"f", b"args", b"r1", b"x", b"f", b"args", b"r2", b"x"]
    client.ask("purge_request", {"msg_ids": [ids[0]]})
    assert client.ask("history_request").content["history"] == ids[1:]
    client.ask("purge_request", {"msg_ids": [], "engine_ids": [0]})
    assert found({}) == []


def test_resubmitted(cluster) -> None:
    client, engine = cluster.client(), cluster.engine()
    msg_id = client.submit()
    engine.answer(engine.take())
    receive(client.task)
    new = client.ask("resubmit_request", {"msg_ids": [msg_id]}).content["resubmitted"][msg_id]
    again = engine.take()
    assert (again.header["msg_id"], again.buffers) == (new, [b"f", b"args"])
    engine.answer(again, buffers=(b"second",))
    wait_for(lambda: client.ask("result_request", {"msg_ids": [new]}).content["completed"] == [new])
    assert client.ask("result_request", {"msg_ids": [new]}).buffers == [b"second"]
    assert client.ask("db_request", {"query": {"resubmitted": new}}).content["records"][0]["msg_id"] == msg_id


def test_shutdown(tmp_path: Path) -> None:
    controller = Controller(tmp_path)
    client = Client(controller)
    client.engines()
    assert client.ask("shutdown_request").content == {"status": "ok"}
    assert receive(client.notification).kind == "shutdown_notification"
    assert controller.process.wait(SOON_S) == 0
    client.close()
    controller.stop()


# ---- those who mean harm ------------------------------------------------------------------------


def test_forged_replayed_and_misshapen_messages_get_nothing(cluster) -> None:
    client, engine = cluster.client(), cluster.engine()
    good = client.frames("apply_request", buffers=(b"x",))
    forged = list(good)
    forged[5] = b'{"a":1}'
    unsigned = [*good[:1], b"", *good[2:]]
    shifted = [*good[:4], good[4] + good[5][:1], good[5][1:]]
    deep = b"[" * 100000
    bad = [forged, unsigned, shifted, good[:3], [DELIMITER], [b""], [b"x"] * 100, [DELIMITER] * 50,
           [DELIMITER, client.sign([deep] * 4), *[deep] * 4], [DELIMITER, client.sign([b"{}"] * 4), *[b"{}"] * 4],
           [DELIMITER, client.sign([b"\xff"] * 4), *[b"\xff"] * 4]]
    for frames in bad:
        for socket in (client.query, client.task, client.mux, client.control):
            socket.send_multipart(frames)
            socket.send_multipart([engine.name.encode(), *frames])
    client.task.send_multipart(good)
    client.task.send_multipart(good) # a replay
    engine.answer(engine.take())
    assert receive(client.task).content == {"status": "ok"}
    client.task.send_multipart(good)
    assert not engine.shell.poll(50)
    # under another signature, but with the same id: no second task
    client.task.send_multipart(client.frames("apply_request", {"another": 1}, msg_id=json.loads(good[2])["msg_id"]))
    assert list(client.engines()) == ["0"]
    assert not engine.shell.poll(50)


def test_an_answer_from_another_engine_is_dropped(cluster) -> None:
    client, first = cluster.client(), cluster.engine()
    msg_id = client.submit()
    task = first.take()
    other = cluster.engine()
    other.answer(task, buffers=(b"wrong",))
    wait_for(lambda: len(client.engines()) == 2)
    first.answer(task, buffers=(b"right",))
    result = receive(client.task)
    assert (result.parent["msg_id"], result.buffers) == (msg_id, [b"right"])
    first.answer(task, buffers=(b"twice",))
    client.engines()
    assert not client.task.poll(50)


def test_memory_is_bounded_by_the_history(tmp_path: Path) -> None:
    controller = Controller(tmp_path, "--history=100", "--hwm=0")
    client, engine = Client(controller), Engine(controller)

    def run(count: int) -> int:
        for _ in range(count // 50):
            for _ in range(50):
                client.submit()
            for _ in range(50):
                engine.answer(engine.take())
            for _ in range(50):
                receive(client.task)
        return controller.memory_kb()

    before = run(2000)
    assert run(4000) < before + 3000
    assert len(client.ask("history_request").content["history"]) == 100
    for peer in (client, engine):
        peer.close()
    controller.stop()
