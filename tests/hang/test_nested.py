"""Row 18 of the hang table: the standard library's workers can't have children. Here pools nest to any depth, end, and share the cores."""

import os
import signal
import sys
import time
from concurrent.futures import ProcessPoolExecutor as StandardExecutor
from pathlib import Path

import pytest

import manyhands
from manyhands import _core

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "python"))

from helpers import children, eventually, run_program  # noqa: E402

pytestmark = pytest.mark.timeout(120)

METHODS = ["fork", "forkserver", "spawn"]


def run_on_two_cores(source: str, *args: str, timeout: float = 100) -> str:
    """A program that believes the machine to have two cores, as far as it has."""
    run = run_program("import os\nos.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2])\n" + source, *args, timeout=timeout)
    assert run.returncode == 0, run.stderr
    return run.stdout


# ---- every level maps, and all of it ends


def add(numbers):
    return sum(numbers)


def mapped(depth, size, method):
    if depth == 0:
        return size + 1
    with manyhands.get_context(method).Pool(2) as pool:
        return add(pool.starmap(mapped, [(depth - 1, size, method)] * size))


def imapped(depth, size):
    if depth == 0:
        return size + 1
    with manyhands.Pool(2) as pool:
        return add(pool.imap_unordered(imapped_pair, [(depth - 1, size)] * size))


def imapped_pair(pair):
    return imapped(*pair)


def applied(depth, size):
    if depth == 0:
        return size + 1
    with manyhands.Pool(2) as pool:
        return add([answer.get() for answer in [pool.apply_async(applied, (depth - 1, size)) for _ in range(size)]])


def called_back(depth, size):
    if depth == 0:
        return size + 1
    answers = []
    with manyhands.Pool(2) as pool:
        for _ in range(size):
            pool.apply_async(called_back, (depth - 1, size), callback=answers.append)
        pool.close()
        pool.join()
    return add(answers)


def threaded(depth, size):
    if depth == 0:
        return size + 1
    with manyhands.ThreadPool(2) as threads:
        return add(threads.map(lambda _: in_a_pool_of_its_own(depth, size), range(size)))


def in_a_pool_of_its_own(depth, size):
    with manyhands.Pool(1) as pool:
        return pool.apply(threaded, (depth - 1, size))


def executed(depth, size):
    if depth == 0:
        return size + 1
    with executor(2) as pool:
        return add(pool.map(executed, [depth - 1] * size, [size] * size))


def executor(workers):
    try:
        from manyhands.futures import ProcessPoolExecutor
    except ImportError:
        return StandardExecutor(workers, manyhands.get_context("fork"))
    return ProcessPoolExecutor(workers)


def expected(depth, size):
    return size**depth * (size + 1)


@pytest.mark.parametrize("size", [1, 3, 7])
def test_18_nested_maps(size):
    assert mapped(3, size, "fork") == expected(3, size)


@pytest.mark.parametrize("method", METHODS[1:])
def test_18_nested_maps_of_fresh_interpreters(method):
    assert mapped(2, 2, method) == expected(2, 2)


@pytest.mark.parametrize("way", [imapped, applied, called_back, executed])
def test_18_nested(way):
    assert way(3, 2) == expected(3, 2)


def test_18_pools_in_threads_of_workers():
    assert threaded(2, 2) == expected(2, 2)


def test_18_standard_executor_on_our_processes():
    """Its workers are our processes, started by a daemonic one."""
    with manyhands.Pool(1) as pool:
        assert pool.apply(use_standard_executor) == [0, 1, 4]


def use_standard_executor():
    with StandardExecutor(2, manyhands.get_context("fork")) as workers:
        return list(workers.map(pow, range(3), [2] * 3))


@pytest.mark.parametrize("daemon", [False, True])
@pytest.mark.parametrize("method", METHODS)
def test_18_pools_in_processes(method, daemon):
    context = manyhands.get_context(method)
    ours, its = context.Pipe()
    process = context.Process(target=answer_by_a_pool, args=(its,), daemon=daemon)
    process.start()
    assert ours.poll(60) and ours.recv() == [expected(2, 2)] * 2
    process.join()
    assert process.exitcode == 0


@pytest.mark.parametrize("method", METHODS)
def test_18_processes_share_the_cores_of_their_starter(method):
    context = manyhands.get_context(method)
    ours, its = context.Pipe()
    process = context.Process(target=tell_of_cores, args=(its,))
    process.start()
    assert ours.recv() == os.fstat(_core.cores_share()).st_ino
    process.join()


def tell_of_cores(connection):
    with manyhands.Pool(1) as pool:
        connection.send(pool.apply(inode_of_cores))


def inode_of_cores():
    return os.fstat(_core.cores_share()).st_ino


def answer_by_a_pool(connection):
    assert manyhands.current_process().daemon in (False, True)
    with manyhands.Pool() as pool:
        connection.send(pool.starmap(applied, [(2, 2)] * 2))


# ---- tasks that wait for one another, and for nothing that the budget sees


def meet(_):
    return meeting["point"].wait(60)


meeting = {}


def test_18_tasks_that_wait_for_one_another():
    """More of them than cores: who waits asleep lends its core."""
    with manyhands.Pool(1) as pool:
        assert pool.apply(meet_in_a_pool) == [0, 1, 2, 3]


def meet_in_a_pool():
    meeting["point"] = manyhands.get_context("fork").Barrier(4)
    with manyhands.get_context("fork").Pool(4) as pool:
        return sorted(pool.map(meet, range(4), chunksize=1))


def test_18_tasks_that_burn_time_until_others_run():
    print(run_on_two_cores("""
        import manyhands, mmap

        def spin(number):
            seen[number] = 1
            while not all(seen[:4]):
                pass
            return number

        def nested():
            with manyhands.get_context("fork").Pool(4) as pool:
                return pool.map(spin, range(4), chunksize=1)

        if __name__ == "__main__":
            seen = mmap.mmap(-1, 4096)
            with manyhands.get_context("fork").Pool(1) as pool:
                assert pool.apply(nested) == [0, 1, 2, 3]
    """.replace("\n        ", "\n")))


# ---- deaths


def kill_once(path):
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return os.getppid()
    os.kill(os.getpid(), signal.SIGKILL)


def with_deaths(folder, number):
    with manyhands.Pool(2) as pool:
        pool.map(kill_once, [f"{folder}/{number}-{i}" for i in range(6)], chunksize=1, retries=(1, 0))
    return number


def test_18_workers_that_die_with_their_cores(tmp_path):
    with manyhands.Pool(2) as pool:
        assert pool.starmap(with_deaths, [(str(tmp_path), i) for i in range(4)], chunksize=1) == [0, 1, 2, 3]


def nest_and_die(path, depth):
    if depth:
        with manyhands.Pool(1) as pool:
            return pool.apply(nest_and_die, (path, depth - 1))
    Path(path).write_text(str(os.getpid()))
    os.kill(os.getppid(), 0)
    time.sleep(60)


def test_18_nobody_outlives_a_killed_worker(tmp_path):
    """The outermost worker is killed while three levels run below it."""
    path = tmp_path / "deepest"
    with manyhands.Pool(1) as pool:
        answer = pool.apply_async(nest_and_die, (str(path), 2))
        eventually(lambda: path.exists() and path.read_text(), 30)
        deepest = int(path.read_text())
        os.kill(pool._pool[0].pid, signal.SIGKILL)
        with pytest.raises(manyhands.WorkerLost):
            answer.get(30)
        eventually(lambda: not Path(f"/proc/{deepest}").exists(), 10)
        pool.apply(len, ("the pool goes on",))


def test_18_pools_left_open_end_with_their_worker():
    before = children()
    with manyhands.Pool(1) as pool:
        assert pool.apply(leave_a_pool_open) == 3
        pool.close()
        pool.join()
    del pool
    eventually(lambda: children() <= before, 10)


def leave_a_pool_open():
    return left_open.setdefault("pool", manyhands.Pool(2)).apply(len, ("abc",))


left_open = {}


# ---- sharing the cores


def test_18_nested_workers_share_the_cores():
    """Two tasks with four workers each, all of which compute: two run at once, give or take one that comes and one that goes."""
    printed = run_on_two_cores("""
        import manyhands, time

        def burn_for(seconds):
            begin, until = time.monotonic(), time.process_time() + seconds
            while time.process_time() < until:
                pass
            return begin, time.monotonic()

        def nested(_):
            with manyhands.get_context("fork").Pool(4) as pool:
                return pool.map(burn_for, [0.03] * 24, chunksize=1)

        if __name__ == "__main__":
            with manyhands.get_context("fork").Pool(2) as pool:
                spans = sum(pool.map(nested, range(2), chunksize=1), [])
            changes = sorted([(begin, 1) for begin, _ in spans] + [(end, -1) for _, end in spans])
            now, by_count = 0, {}
            for (at, change), (following, _) in zip(changes, changes[1:]):
                now += change
                by_count[now] = by_count.get(now, 0) + following - at
            total = sum(by_count.values())
            print(sum(time for count, time in by_count.items() if count > len(os.sched_getaffinity(0)) + 1) / total)
    """.replace("\n        ", "\n"))
    assert float(printed) < 0.2


def test_18_default_number_of_workers():
    printed = run_on_two_cores("""
        import manyhands
        from manyhands import _core

        def width(parties):
            barrier[parties].wait(60)
            found = _core.default_workers()
            barrier[parties].wait(60)
            return found

        def created():
            with manyhands.Pool() as pool:
                return pool._processes, len(pool._pool)

        if __name__ == "__main__":
            cores = len(os.sched_getaffinity(0))
            context = manyhands.get_context("fork")
            barrier = {n: context.Barrier(n) for n in (1, cores)}
            with context.Pool() as pool:
                assert pool._processes == cores
                calls = [pool.apply_async(width, (cores,)) for _ in range(cores)]
                assert [call.get() for call in calls] == [1] * cores  # all are in use
                while pool.apply(width, (1,)) != cores:  # as soon as the others have nothing to do
                    pass
                while pool.apply(created) != (cores, cores):
                    pass
            print("ok")
    """.replace("\n        ", "\n"))
    assert printed == "ok\n"
