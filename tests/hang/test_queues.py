"""Rows of the hang table that are the queues': where the standard library hangs or loses, ours answers within a bound."""

import os
import queue as standard
import signal
import sys
from pathlib import Path

import pytest

import manyhands

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "python"))
from queue_tasks import produce, produce_for_ever, put_and_end  # noqa: E402

pytestmark = pytest.mark.timeout(60)
METHODS = ["fork", "spawn", "forkserver"]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("maxsize", [0, 3])
def test_03_a_producer_is_killed_in_put(method, maxsize):
    """The others' items arrive, and nothing is torn. Killed again and again, as the moment is left to chance."""
    ctx = manyhands.get_context(method)
    q = ctx.Queue(maxsize)
    for _ in range(20 if method == "fork" else 4):
        r, w = ctx.Pipe(False)
        victim = ctx.Process(target=produce_for_ever, args=(q, w, "x" * 500), daemon=True)
        victim.start()
        assert q.get(timeout=30) == "x" * 500 and r.poll(30)
        os.kill(victim.pid, signal.SIGKILL)
        other = ctx.Process(target=produce, args=(q, 1, 50), daemon=True)
        other.start()
        numbers = []
        while len(numbers) < 50:
            item = q.get(timeout=30)
            if item != "x" * 500:
                numbers.append(item[1])
        assert numbers == list(range(50))
        for p in (victim, other):
            p.join(30)
        assert victim.exitcode == -signal.SIGKILL and other.exitcode == 0 and q.empty()


@pytest.mark.parametrize("method", METHODS)
def test_16_join_before_get_with_1_mb_in_the_queue(method):
    ctx = manyhands.get_context(method)
    q = ctx.Queue()
    p = ctx.Process(target=put_and_end, args=(q, [bytes(1 << 20)]))
    p.start()
    p.join(30)
    assert p.exitcode == 0
    assert q.get(timeout=30) == bytes(1 << 20)


@pytest.mark.parametrize("method", METHODS)
def test_19_get_nowait_right_after_put(method):
    """Never Empty: neither in the process that put, nor in one that was told by it."""
    ctx = manyhands.get_context(method)
    q = ctx.Queue()
    for i in range(2000):
        q.put(i)
        assert q.get_nowait() == i
        q.put([i])
        assert q.get_nowait() == [i]
    with pytest.raises(standard.Empty):
        q.get_nowait()
    p = ctx.Process(target=put_and_end, args=(q, list(range(100))))
    p.start()
    p.join(30)
    assert [q.get_nowait() for _ in range(100)] == list(range(100)) and q.empty()
