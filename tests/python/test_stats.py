"""Where the time went: what a pool tells of itself adds up, and its trace shows what ran."""

import json
import os
import signal
import time

import pytest
from helpers import eventually

import manyhands

pytestmark = pytest.mark.timeout(120)

PARTS = ("busy", "serialising", "transport", "idle", "waiting_for_core")
COUNTS = {"workers", "submitted", "finished", "failed", "cancelled", "lost", "retried", "late_answers", "workers_started", "workers_lost",
          "workers_recycled", "request_bytes", "reply_bytes"}


def burn(seconds):
    until = time.process_time() + seconds
    while time.process_time() < until:
        pass
    return seconds


def slow_to_write(_):
    return SlowToWrite()


class SlowToWrite:
    def __reduce__(self):
        burn(0.05)
        return int, (5,)


class SlowToRead:
    def __reduce__(self):
        return burn, (0.05,)


def nothing(x):
    return x


def fail(x):
    raise ValueError(x)


def die(_):
    os.kill(os.getpid(), signal.SIGKILL)


def check(row):
    assert all(row[part] >= 0 for part in PARTS)
    assert sum(row[part] for part in PARTS) == pytest.approx(row["lived"], abs=1e-6)


def total(stats, what):
    return sum(row[what] for row in [*stats["each_worker"], stats["departed"]])


def test_adds_up():
    with manyhands.Pool(2) as pool:
        begin = time.monotonic()
        pool.map(burn, [0.02] * 20, chunksize=1)
        pool.map(nothing, range(20000), chunksize=1)
        pool.map(nothing, range(20000))
        stats = pool.stats()
        elapsed = time.monotonic() - begin
        assert COUNTS <= set(stats) and stats["workers"] == 2 and stats["finished"] == stats["submitted"]
        assert len(stats["each_worker"]) == 2 and {row["pid"] for row in stats["each_worker"]} == {worker.pid for worker in pool._pool}
        for row in stats["each_worker"]:
            check(row)
            assert row["lived"] <= elapsed + 60
        assert total(stats, "tasks") == stats["finished"]
        assert total(stats, "busy") >= 0.4
        caller = stats["caller"]
        assert caller["waiting"] > 0 and caller["serialising"] > 0 and caller["transport"] > 0
        assert caller["waiting"] + caller["serialising"] + caller["transport"] <= caller["lived"]


def test_what_is_slow_shows():
    with manyhands.Pool(1) as pool:
        pool.map(burn, [0.05] * 4, chunksize=1)
        first = pool.stats()["each_worker"][0]
        assert first["busy"] > 0.2 * 0.9
        pool.map(slow_to_write, range(4), chunksize=1)
        second = pool.stats()["each_worker"][0]
        assert second["serialising"] - first["serialising"] > 0.2 * 0.9
        pool.map(nothing, [SlowToRead() for _ in range(4)], chunksize=1)
        third = pool.stats()["each_worker"][0]
        assert third["serialising"] - second["serialising"] > 0.2 * 0.9
        idle = third["idle"]
        eventually(lambda: pool.stats()["each_worker"][0]["idle"] > idle + 0.1)


def test_a_task_under_way_counts():
    """Also when short ones ran before, of which only some are measured."""
    with manyhands.Pool(1) as pool:
        pool.map(nothing, range(5000), chunksize=1)
        before = pool.stats()["each_worker"][0]["busy"]
        answer = pool.apply_async(time.sleep, (2,))
        eventually(lambda: pool.stats()["each_worker"][0]["busy"] > before + 0.3)
        check(pool.stats()["each_worker"][0])
        answer.get()
        after = pool.stats()["each_worker"][0]
        assert after["busy"] > before + 1.9
        check(after)


def test_bytes():
    with manyhands.Pool(1) as pool:
        pool.apply(nothing, (b"x" * 1_000_000,))
        row = pool.stats()["each_worker"][0]
        assert 1_000_000 <= row["bytes_in"] < 1_010_000 and 1_000_000 <= row["bytes_out"] < 1_010_000


def test_departed():
    """What workers did that have ended is not lost."""
    with manyhands.Pool(2, maxtasksperchild=5) as pool:
        pool.map(nothing, range(100), chunksize=1)
        with pytest.raises(manyhands.WorkerLost):
            pool.apply(die, (0,))
        eventually(lambda: total(pool.stats(), "tasks") == 100)
        stats = pool.stats()
        check(stats["departed"])
        assert stats["departed"]["tasks"] >= 80 and stats["departed"]["pid"] == 0


def test_before_and_after():
    pool = manyhands.Pool(1)
    assert pool.stats()["caller"]["lived"] > 0
    pool.close()
    pool.join()
    stats = pool.stats()
    assert stats["each_worker"] == [] and stats["workers"] == 0
    check(stats["departed"])


# ---- the trace


def events(pool, path):
    pool.trace(path)
    return json.loads(path.read_bytes())["traceEvents"]


def test_trace(tmp_path):
    with manyhands.Pool(2, trace=True) as pool:
        pool.map(burn, [0.01] * 10, chunksize=1)
        pool.map(nothing, range(30), chunksize=3)
        with pytest.raises(ValueError):
            pool.apply(fail, ("no",))
        found = events(pool, tmp_path / "trace.json")
        stats = pool.stats()
    spans = [event for event in found if event["ph"] == "X"]
    tasks = [span for span in spans if "task" in span.get("args", ())]
    assert len({span["args"]["task"] for span in tasks}) == len(tasks) == total(stats, "tasks") == 21
    assert sorted({span["name"] for span in tasks}) == ["burn", "fail", "nothing"]
    assert [span["args"]["error"] for span in tasks if span["name"] == "fail"] == ["MH_ERR_TASK_FAILED"]
    assert all(span["args"]["error"] == "" and span["args"]["attempt"] == 1 for span in tasks if span["name"] != "fail")
    assert sum(span["args"]["bytes_in"] for span in tasks) == total(stats, "bytes_in")
    workers = {row["pid"] for row in stats["each_worker"]}
    assert {span["tid"] for span in tasks} <= workers and {span["pid"] for span in spans} == {os.getpid()}
    # one after the other in each worker, and as long as they were measured
    for pid in workers:
        mine = sorted((span["ts"], span["ts"] + span["dur"]) for span in tasks if span["tid"] == pid)
        assert all(end <= begin + 0.002 for (_, end), (begin, _) in zip(mine, mine[1:]))
    worked = sum(span["dur"] for span in tasks) / 1e6
    assert worked == pytest.approx(total(stats, "busy") + total(stats, "serialising"), rel=0.05, abs=0.002)
    assert all(span["dur"] >= 0.01e6 for span in tasks if span["name"] == "burn")
    # reading and writing lie inside their tasks; the caller waited
    for part in [span for span in spans if span["name"] in ("read", "write")]:
        assert any(t["tid"] == part["tid"] and t["ts"] - 0.002 <= part["ts"] and part["ts"] + part["dur"] <= t["ts"] + t["dur"] + 0.002 for t in tasks)
    assert any(span["name"] == "wait" and span["tid"] == 0 for span in spans)
    assert {event["args"]["name"] for event in found if event["name"] == "thread_name"} == {"caller"} | {f"worker {pid}" for pid in workers}


def test_trace_is_bounded(tmp_path):
    with manyhands.Pool(1, trace=50) as pool:
        pool.map(nothing, range(1000), chunksize=1)
        tasks = [event["args"]["task"] for event in events(pool, tmp_path / "t") if "task" in event.get("args", ())]
        assert tasks[-1] == 1000 and 40 <= len(tasks) <= 50 and tasks == sorted(tasks)  # the last ones


def test_trace_of_departed_workers(tmp_path):
    with manyhands.Pool(1, maxtasksperchild=10, trace=True) as pool:
        pool.map(nothing, range(30), chunksize=1)
        eventually(lambda: total(pool.stats(), "tasks") == 30)
        tasks = [event for event in events(pool, tmp_path / "t") if "task" in event.get("args", ())]
        assert len(tasks) == 30 and len({event["tid"] for event in tasks}) == 3


def test_odd_names(tmp_path):
    odd = type("odd", (), {"__call__": lambda self, x: x})()
    exec('def größe(x): return x', globals())
    with manyhands.Pool(1, trace=True) as pool:
        pool.map(odd, [1], chunksize=1)
        pool.map(globals()["größe"], [1], chunksize=1)
        names = {event["name"] for event in events(pool, tmp_path / "t") if "task" in event.get("args", ())}
    assert len(names) == 2 and any(name.startswith("gr") for name in names)


def test_no_trace(tmp_path):
    with manyhands.Pool(1) as pool:
        with pytest.raises(ValueError, match="trace"):
            pool.trace(tmp_path / "t")
        assert not (tmp_path / "t").exists()


@pytest.mark.parametrize("trace", [-1, 1.5, "yes", 1 << 21])
def test_bad_trace(trace):
    with pytest.raises(ValueError, match="trace"):
        manyhands.Pool(1, trace=trace)


def test_trace_cannot_be_written(tmp_path):
    with manyhands.Pool(1, trace=True) as pool, pytest.raises(OSError):
        pool.trace(tmp_path / "missing" / "t")


def test_trace_of_spawned_workers(tmp_path):
    with manyhands.get_context("spawn").Pool(1, trace=True) as pool:
        pool.apply(nothing, (1,))
        assert [event["name"] for event in events(pool, tmp_path / "t") if "task" in event.get("args", ())] == ["nothing"]


