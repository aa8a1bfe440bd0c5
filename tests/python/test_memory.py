"""Memory limits of tasks: the one that takes too much is stopped and says so; the machine, the pool and its other tasks go on."""

import os
import pickle
import signal
import sys
from pathlib import Path

import pytest
from helpers import run_program

import manyhands

MB = 1 << 20

pytestmark = pytest.mark.timeout(120)


def fill(megabytes):
    """As fast as memory can be filled, in one call of C."""
    import numpy

    numpy.ones(megabytes * MB // 8)
    return hold(megabytes)


def fill_in_steps(megabytes):
    kept = [b"x" * MB for _ in range(megabytes)]
    return hold(len(kept))


def fill_with_small_objects(megabytes):
    kept = [[i] for i in range(megabytes * MB // 80)]
    return hold(len(kept) and megabytes)


def hold(answer):
    if answer >= 128:
        signal.pause()  # a task that has taken too much does not give it back by itself
    return answer


def reserve(megabytes):
    bytearray(megabytes * MB)


def square(x):
    return x * x


def greedy_once(path):
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return "second attempt"
    return fill_in_steps(200)


@pytest.mark.parametrize("take", [fill, fill_in_steps, fill_with_small_objects])
def test_too_much(take):
    with manyhands.Pool(2, memory=64 * MB) as pool:
        answer = pool.apply_async(take, (300,))
        with pytest.raises(manyhands.OutOfMemory) as caught:
            answer.get()
        assert caught.value.memory > 64 * MB and caught.value.signal == signal.SIGKILL and caught.value.attempt == 1
        assert isinstance(caught.value, MemoryError) and isinstance(caught.value, manyhands.WorkerLost)
        assert pool.map(take, [8, 8]) == [8, 8]  # the pool goes on


def test_at_once_and_far_too_much():
    """The allocation itself fails: nothing has to be killed."""
    with manyhands.Pool(1, memory=64 * MB) as pool:
        worker = pool.apply(os.getpid)
        with pytest.raises(manyhands.OutOfMemory) as caught:
            pool.apply(reserve, (1 << 20,))
        assert caught.value.signal == 0 and "far more" in str(caught.value)
        assert pool.apply(os.getpid) == worker


def test_memory_error_without_a_limit():
    with manyhands.Pool(1) as pool, pytest.raises(MemoryError) as caught:
        pool.apply(reserve, (1 << 40,))
    assert not isinstance(caught.value, manyhands.OutOfMemory)


def call_apply(pool, take, many, **options):
    return [pool.apply(take, (x,), **options) for x in many]


def call_apply_async(pool, take, many, **options):
    return [answer.get() for answer in [pool.apply_async(take, (x,), **options) for x in many]]


def call_map_async(pool, take, many, **options):
    return pool.map_async(take, many, chunksize=1, **options).get()


def call_map(pool, take, many, **options):
    return pool.map(take, many, chunksize=1, **options)


def call_starmap(pool, take, many, **options):
    return pool.starmap(take, [(x,) for x in many], chunksize=1, **options)


def call_starmap_async(pool, take, many, **options):
    return pool.starmap_async(take, [(x,) for x in many], chunksize=1, **options).get()


def call_imap(pool, take, many, **options):
    return list(pool.imap(take, many, **options))


def call_imap_unordered(pool, take, many, **options):
    return sorted(pool.imap_unordered(take, many, **options))


@pytest.mark.parametrize("call", [call_apply, call_apply_async, call_map, call_map_async, call_starmap, call_starmap_async, call_imap,
                                  call_imap_unordered])
def test_for_each_call(call):
    with manyhands.Pool(2) as pool:
        assert call(pool, fill_in_steps, [1, 2], memory=64 * MB) == [1, 2]
        with pytest.raises(manyhands.OutOfMemory):
            call(pool, fill_in_steps, [1, 200], memory=32 * MB)
        assert call(pool, fill_in_steps, [100]) == [100]  # no limit


def test_neighbours_complete():
    with manyhands.Pool(2, memory=48 * MB) as pool:
        answers = [pool.apply_async(fill_in_steps if x % 8 == 3 else square, (200 if x % 8 == 3 else x,)) for x in range(64)]
        for x, answer in enumerate(answers):
            if x % 8 == 3:
                with pytest.raises(manyhands.OutOfMemory):
                    answer.get()
            else:
                assert answer.get() == x * x
        assert pool.stats()["workers_lost"] == 8


def test_retries_of_its_own(tmp_path):
    with manyhands.Pool(2, memory=48 * MB) as pool:
        assert pool.apply(greedy_once, (str(tmp_path / "a"),), retries=(0, 0, 1)) == "second attempt"
        assert pool.apply(greedy_once, (str(tmp_path / "b"),), retries=1) == "second attempt"
        with pytest.raises(manyhands.OutOfMemory) as caught:
            pool.apply(greedy_once, (str(tmp_path / "c"),), retries=(3, 3, 0))
        assert caught.value.attempt == 1


def in_a_pool_of_its_own(megabytes):
    with manyhands.Pool(1) as pool:
        return pool.apply(fill_in_steps, (megabytes,))


def test_a_nested_pool_inherits_the_limit():
    with manyhands.Pool(1, memory=64 * MB) as pool:
        assert pool.apply(in_a_pool_of_its_own, (4,)) == 4
        with pytest.raises(manyhands.OutOfMemory):
            pool.apply(in_a_pool_of_its_own, (300,))


@pytest.mark.parametrize("memory", [0, -1, 1.5, "1G", 1 << 70])
def test_bad_limits(memory):
    with pytest.raises(ValueError, match="memory"):
        manyhands.Pool(1, memory=memory)


@pytest.mark.parametrize("retries", [(1,), (1, 2, 3, 4), (1, 2, -1)])
def test_bad_retries(retries):
    with pytest.raises(ValueError, match="retries"):
        manyhands.Pool(1, retries=retries)


def test_pickles():
    error = pickle.loads(pickle.dumps(manyhands.OutOfMemory(9, 0, 7, 2, 4711, 12345678)))
    assert (error.signal, error.task, error.attempt, error.pid, error.memory) == (9, 7, 2, 4711, 12345678)
    assert "12,345,678" in str(error)


# ---- the kernel's own killing


def group(root=Path("/sys/fs/cgroup")):
    """A control group with 96 MB in which a program may be put, or why there is none."""
    for parent, limit, swap in ((root, "memory.max", "memory.swap.max"), (root / "memory", "memory.limit_in_bytes", None)):
        if not (parent / "cgroup.procs").exists():
            continue
        folder = parent / f"manyhands-test-{os.getpid()}"
        try:
            folder.mkdir()
        except OSError as error:
            return str(error)
        try:
            (folder / limit).write_text(str(96 * MB))
            if swap and (folder / swap).exists():
                (folder / swap).write_text("0")
            return folder
        except OSError as error:
            folder.rmdir()
            return str(error)
    return "no control groups"


def test_killed_by_the_kernel():
    """In a control group of 96 MB the kernel kills the worker that takes them, and no limit of ours was named."""
    folder = group()
    if isinstance(folder, str):
        pytest.skip(f"no control group can be made here: {folder}")
    try:
        done = run_program("""
            import os, signal, sys
            open(sys.argv[1] + "/cgroup.procs", "w").write(str(os.getpid()))
            import manyhands

            def greedy(_):
                open("/proc/self/oom_score_adj", "w").write("1000")
                kept = [b"x" * (1 << 20) for _ in range(500)]

            if __name__ == "__main__":
                with manyhands.Pool(2) as pool:
                    answers = [pool.apply_async(greedy, (0,)), pool.apply_async(abs, (-3,))]
                    try:
                        answers[0].get(60)
                    except manyhands.OutOfMemory as error:
                        assert error.signal == signal.SIGKILL, error
                        print("the kernel" in str(error), answers[1].get(60))
                    try:
                        pool.apply(os.kill, (0, 0))
                        pool.apply(lambda: os.kill(os.getpid(), signal.SIGKILL))
                    except manyhands.WorkerLost as error:
                        print(type(error).__name__)  # that was not the kernel
        """, str(folder))
        assert done.returncode == 0, done.stderr
        assert done.stdout == "True 3\nWorkerLost\n"
    finally:
        folder.rmdir()


def test_signature_is_documented():
    assert "memory" in manyhands.pool.Pool.__doc__ and sys.modules["manyhands._core"].Pool.apply.__doc__
