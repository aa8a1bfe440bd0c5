"""Results of a pool in coroutines."""

from __future__ import annotations

import asyncio
import itertools
import threading
import weakref

import pytest
from executor_tasks import begin_and_wait, raise_it, wait_for, write_pid
from tasks import divide, echo, square

import manyhands
import manyhands.asyncio
from helpers import eventually

pytestmark = pytest.mark.timeout(60)


def run(coroutine):
    return asyncio.run(coroutine)


def test_await(pool):
    async def program():
        assert await pool.apply_async(square, (7,)) == 49
        assert await pool.map_async(square, range(100), 3) == [n * n for n in range(100)]
        assert await pool.map_async(square, []) == []
        assert await pool.starmap_async(pow, [(2, 3), (3, 2)]) == [8, 9]
        with pytest.raises(ZeroDivisionError):
            await pool.apply_async(divide, (0,))
        with pytest.raises(ZeroDivisionError):
            await pool.map_async(divide, [1, 0])
        with pytest.raises(RuntimeError, match="StopIteration"):
            await pool.apply_async(raise_it, (StopIteration(),))
        with pytest.raises(TypeError, match="cannot pickle"):
            await pool.apply_async(echo, (threading.Lock(),))

    run(program())


def test_await_twice_and_after_the_end(pool):
    async def program():
        result = pool.apply_async(square, (3,))
        assert await result == await result == result.get() == 9
        called = []
        with_callback = pool.apply_async(square, (4,), callback=called.append)
        assert await with_callback == 16 and called == [16]

    run(program())


def test_many_at_once_and_no_thread_for_each(pool):
    async def program():
        before = threading.active_count()
        waiting = [asyncio.ensure_future(manyhands.asyncio.wrap(pool.apply_async(square, (n,)))) for n in range(500)]
        assert threading.active_count() <= before + 1  # the pool's own callback thread
        assert await asyncio.gather(*waiting) == [n * n for n in range(500)]

    run(program())


def test_cancellation_passes_on(tmp_path):
    async def program():
        with manyhands.Pool(1) as pool:
            runs = pool.apply_async(begin_and_wait, (str(tmp_path / "begun"), str(tmp_path / "go")))
            wait_for(str(tmp_path / "begun"))
            waits = pool.apply_async(write_pid, (str(tmp_path / "pid"),))
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(waits, 0.01)
            with pytest.raises(manyhands.CancelledError):
                waits.get(30)
            many = pool.map_async(write_pid, [str(tmp_path / str(n)) for n in range(4)], 1)
            assert many.cancel() and not runs.cancel()
            (tmp_path / "go").touch()
            assert await runs
            with pytest.raises(asyncio.CancelledError):
                await many
        assert {p.name for p in tmp_path.iterdir()} == {"begun", "go"}

    run(program())


def test_a_pool_that_is_terminated_cancels(tmp_path):
    async def program():
        pool = manyhands.Pool(1)
        waits = manyhands.asyncio.wrap(pool.apply_async(wait_for, (str(tmp_path / "never"),)))
        pool.terminate()
        with pytest.raises(asyncio.CancelledError):
            await waits
        pool.join()

    run(program())


@pytest.mark.parametrize("how", ["imap", "imap_unordered"])
@pytest.mark.parametrize("chunksize", [1, 7])
def test_async_for(pool, how, chunksize):
    async def program():
        return [n async for n in getattr(pool, how)(square, range(300), chunksize)]

    found = run(program())
    assert (found if how == "imap" else sorted(found)) == [n * n for n in range(300)]


def test_async_for_lets_others_run(tmp_path):
    async def program():
        with manyhands.Pool(1) as pool:
            async def release():
                (tmp_path / "go").touch()

            other = asyncio.ensure_future(release())  # runs only while the loop waits
            assert [p async for p in pool.imap(wait_for, [str(tmp_path / "go")])] == [str(tmp_path / "go")]
            await other

    run(program())


def test_async_for_over_what_fails_and_what_has_no_end(pool):
    async def program():
        found = []
        with pytest.raises(ZeroDivisionError):
            async for value in pool.imap(divide, [1, 0, 1]):
                found.append(value)
        assert len(found) == 1
        async for value in pool.imap(square, itertools.count()):
            if value > 10_000:
                break
        results = pool.imap(square, range(10))
        alive = weakref.ref(results)
        assert [n async for n in results] == [n * n for n in range(10)]
        del results
        eventually(lambda: alive() is None)  # the pool's callback thread may be about to let go of it

    run(program())


def test_two_waiters_for_one_iterator_are_told(tmp_path):
    with manyhands.Pool(1) as pool:
        results = pool.imap(wait_for, [str(tmp_path / "go")])
        told = threading.Event()
        results._when_ready(told.set)
        with pytest.raises(RuntimeError, match="somebody waits"):
            results._when_ready(told.set)
        (tmp_path / "go").touch()
        assert told.wait(30) and next(results)


def test_what_is_no_result():
    async def program():
        with pytest.raises(TypeError, match="not int"):
            manyhands.asyncio.wrap(3)

    run(program())


def test_outside_of_a_loop(pool):
    with pytest.raises(RuntimeError, match="no running event loop"):
        manyhands.asyncio.wrap(pool.apply_async(square, (3,)))
