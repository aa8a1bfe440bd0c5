"""Rows of the hang table that are the executor's: where the standard library's hangs or loses, ours answers within a bound."""

from __future__ import annotations

import itertools
import os
import signal
import sys
import time
from pathlib import Path

import pytest

import manyhands
from manyhands.futures import BrokenProcessPool, ProcessPoolExecutor, WorkerLost

sys.path.insert(0, str(Path(__file__).parents[1] / "python"))
from executor_tasks import die, kill_if, wait_for  # noqa: E402

pytestmark = pytest.mark.timeout(60)
METHODS = ["fork", "forkserver", "spawn"]


def endless(pulled):
    for number in itertools.count():
        pulled.append(number)
        yield number


@pytest.mark.parametrize("iterables", [1, 2])
def test_08_map_over_an_endless_iterator_answers(iterables):
    pulled: list[int] = []
    with ProcessPoolExecutor(2) as executor:
        results = executor.map(pow if iterables == 2 else abs, endless(pulled), *[itertools.repeat(2)] * (iterables - 1))
        assert list(itertools.islice(results, 10)) == [n**iterables for n in range(10)]
        assert len(pulled) < 10 + 2 * 512  # the bound, however often the consumer had to wait
        for _ in zip(range(5000), results):
            pass
        assert len(pulled) < 5010 + 2 * 512  # bounded, also for a consumer that waits for nothing else
        # the block's end does not pull on for ever
    with pytest.raises(RuntimeError, match="shut down before the iterable was exhausted"):
        list(results)


def test_08_an_endless_map_that_nobody_wants_any_more_ends():
    with ProcessPoolExecutor(2) as executor:
        for number in executor.map(abs, itertools.count()):
            if number == 100:
                break
        assert executor.submit(pow, 2, 2).result() == 4


@pytest.mark.parametrize("method", ["forkserver", "spawn"])
def test_10_max_tasks_per_child_finishes_every_task(method):
    with ProcessPoolExecutor(1, manyhands.get_context(method), max_tasks_per_child=2) as executor:
        pids = [f.result() for f in [executor.submit(os.getpid) for _ in range(10)]]
    assert len(set(pids)) == 5


@pytest.mark.parametrize("method", METHODS)
def test_11_one_death_costs_its_own_task_only(method):
    with ProcessPoolExecutor(2, manyhands.get_context(method)) as executor:
        given = [executor.submit(kill_if, n, n == 30) for n in range(100)]
        for number, future in enumerate(given):
            if number == 30:
                with pytest.raises(BrokenProcessPool) as caught:
                    future.result()
                assert isinstance(caught.value, WorkerLost) and caught.value.signal == signal.SIGKILL
            else:
                assert future.result() == number
        assert executor.submit(pow, 2, 2).result() == 4


def test_11_a_death_from_outside_is_noticed_at_once(tmp_path):
    with ProcessPoolExecutor(2) as executor:
        waits = executor.submit(wait_for, str(tmp_path / "never"))
        while not waits.running():
            os.sched_yield()
        others = [executor.submit(pow, 2, 2) for _ in range(50)]
        assert {f.result() for f in others} == {4}
        killed = time.monotonic()
        for pid in executor._processes:
            os.kill(pid, signal.SIGKILL)
        with pytest.raises(WorkerLost):
            waits.result()
        assert time.monotonic() - killed < 10
        assert executor.submit(pow, 2, 2).result() == 4
    with pytest.raises(WorkerLost):
        with ProcessPoolExecutor(1) as executor:
            list(executor.map(kill_if, range(10), [0] * 9 + [1]))
    assert issubclass(WorkerLost, BrokenProcessPool) and die
