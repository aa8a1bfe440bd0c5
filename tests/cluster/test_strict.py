"""A strict cluster: buffers are signed, too. What was swapped on its way, or has no digests, is refused by whoever gets it."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

import manyhands.parallel
from peers import Client, Controller, Engine, receive, wait_for
from test_engine import EngineProcess

LIBRARY = Path(__file__).parents[2] / "build" / "tests" / "libcluster-tasks.so"


def digests(*buffers: bytes) -> dict[str, list[str]]:
    return {"x_buf": [hashlib.sha256(buffer).hexdigest() for buffer in buffers]}


def log_of(controller: Controller) -> str:
    return (controller.folder / "log").read_text()


@pytest.fixture
def strict(tmp_path: Path) -> Iterator[Controller]:
    controller = Controller(tmp_path, "--strict")
    yield controller
    assert controller.stop() == 0


def test_the_files_say_so(strict: Controller) -> None:
    assert strict.client["x_buffers"] == strict.engine["x_buffers"] == "signed"


def test_a_swapped_buffer_is_refused(strict: Controller) -> None:
    client, engine = Client(strict), Engine(strict)
    good = client.frames("apply_request", metadata=digests(b"f", b"args"), buffers=(b"f", b"args"))
    for bad, why in (([*good[:-1], b"evil"], "buffer 1 is not"), ([*good[:-2], b"args", b"f"], "buffer 0 is not"), (good[:-1], "without digests"),
                     ([*good, b"more"], "without digests"), (client.frames("apply_request", buffers=(b"f",)), "without digests"),
                     (client.frames("apply_request", metadata={"x_buf": 5}, buffers=(b"f",)), "without digests"),
                     (client.frames("apply_request", metadata={"x_buf": [5]}, buffers=(b"f",)), "buffer 0 is not")):
        before = log_of(strict).count(why)
        client.task.send_multipart(bad)
        wait_for(lambda: log_of(strict).count(why) > before) # noqa: B023
    client.task.send_multipart(good) # a swapped copy that came first keeps nothing out
    request = engine.take()
    assert request.buffers == [b"f", b"args"]
    engine.answer(request, buffers=(b"unsigned",)) # an engine that is not ours
    wait_for(lambda: log_of(strict).count("without digests") == 5)
    for peer in (client, engine):
        peer.close()


def test_without_strict_nothing_changes(cluster) -> None:
    client, engine = cluster.client(), cluster.engine()
    assert "x_buffers" not in cluster.controller.client
    client.task.send_multipart(client.frames("apply_request", metadata={"x_buf": ["0" * 64]}, buffers=(b"f",)))
    engine.answer(engine.take())
    assert receive(client.task).content == {"status": "ok"}


def test_our_engine_signs_and_checks(strict: Controller) -> None:
    engine, client = EngineProcess(strict, f"--library={LIBRARY}"), Client(strict)
    number = struct.pack("q", 12)
    client.task.send_multipart(client.frames("call_request", {"function": "square"}, metadata=digests(number), buffers=(number,)))
    reply = receive(client.task)
    assert reply.buffers == [struct.pack("q", 144)] and reply.metadata["x_buf"] == digests(*reply.buffers)["x_buf"]
    query = client.ask("result_request", {"msg_ids": [reply.parent["msg_id"]]}) # which the controller writes
    assert query.buffers == reply.buffers and query.metadata["x_buf"] == reply.metadata["x_buf"]
    # what comes to it from somebody in between
    between = Engine(strict)
    frames = between.frames("call_request", {"function": "square"}, metadata=digests(number), buffers=(struct.pack("q", 13),))
    assert json.loads(frames[4])["x_buf"]
    client.mux.send_multipart([next(iter(client.engines().values())).encode(), *frames])
    wait_for(lambda: "buffer 0 is not" in log_of(strict))
    for peer in (client, between):
        peer.close()
    assert engine.stop() == 0


def test_our_client_does_everything(strict: Controller) -> None:
    engines = [EngineProcess(strict) for _ in range(2)]
    with manyhands.parallel.Client(str(strict.client_file), timeout=30) as rc:
        rc.wait_for_engines(2, timeout=30)
        big = bytes(range(256)) * 2000
        view = rc[:]
        view.block = True
        view.push({"a": big})
        assert view.pull("a") == [big, big]
        assert view.apply(bytes, big) == [big] * 2
        assert list(rc.load_balanced_view().map(bytes, [big] * 5, block=True)) == [big] * 5
        assert rc.broadcast_view().apply_sync(len, big) == [len(big)] * 2
        coalescing = rc.broadcast_view(is_coalescing=True)
        assert coalescing.apply_sync(bytes, big) == [big] * 2
        result = rc[0].apply_async(bytes, big)
        result.wait(30)
        assert rc.get_result(result.msg_ids, owner=False).get(30) == [big]
    assert "refused" not in log_of(strict)
    for engine in engines:
        assert engine.stop() == 0
