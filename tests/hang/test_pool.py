"""The hang table: pools, where the standard library waits for ever. Each row answers within its bound."""

import itertools
import os
import signal
import subprocess
import sys
import threading

import pytest
from helpers import children, eventually, is_running, lasting_pool, run_program, shared_names
from programs import Program
from tasks import square, throw

import manyhands

pytestmark = pytest.mark.timeout(60)
SOON = 20


def die_on_three(x):
    if x == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return x


def leave(how, code):
    if how == "sys.exit":
        sys.exit(code)
    raise code


class TwoArguments(Exception):
    def __init__(self, a, b):
        super().__init__(a)
        self.b = b


class HoldsALock(Exception):
    def __init__(self):
        super().__init__("x")
        self.lock = threading.Lock()


class ReprFails(Exception):
    def __init__(self):
        super().__init__("x")
        self.f = lambda: 0

    def __repr__(self):
        raise ValueError("no repr")


@pytest.fixture
def pool():
    with lasting_pool() as made:
        yield made


def test_01_map_with_a_killed_worker_ends(pool):
    with pytest.raises(manyhands.WorkerLost):
        pool.map(die_on_three, range(8), 1)
    with pytest.raises(manyhands.WorkerLost):
        pool.map_async(die_on_three, range(8), 1).get(SOON)


def test_02_tasks_run_after_idle_workers_were_killed(pool):
    for _ in range(5):
        for pid in pool._pids():
            os.kill(pid, signal.SIGKILL)
        assert pool.map(square, range(8), 1) == [i * i for i in range(8)]
        for pid in pool._pids():
            os.kill(pid, signal.SIGKILL)
        assert pool.apply_async(square, (3,)).get(SOON) == 9


def test_06_a_lock_that_a_thread_holds_is_not_held_in_children():
    """In the standard library's default a fork copies the held lock, and tasks wait for it for ever."""
    done = run_program("""
        import threading, manyhands
        lock = threading.Lock()
        def task(x):
            with lock:
                return x
        if __name__ == "__main__":
            stop, held = threading.Event(), threading.Event()
            def hold():
                with lock:
                    held.set()
                    stop.wait()
            t = threading.Thread(target=hold)
            t.start()
            held.wait()
            with manyhands.Pool(2) as p:
                print(p.map(task, range(4)))
            stop.set()
            t.join()
    """, timeout=50)
    assert done.stdout == "[0, 1, 2, 3]\n", done


@pytest.mark.parametrize("method", ["imap", "imap_unordered"])
def test_07_lazy_iteration_is_never_far_ahead(pool, method):
    pulled = itertools.count()
    it = getattr(pool, method)(square, (next(pulled) for _ in itertools.count()))
    got = [next(it) for _ in range(10)]
    assert len(got) == 10
    assert next(pulled) < 1000  # the standard library has pulled 15,000 by now, and goes on


@pytest.mark.parametrize("how, code", [("sys.exit", None), ("sys.exit", 3), ("sys.exit", "bye"), ("raise", KeyboardInterrupt), ("raise", GeneratorExit)], ids=str)
def test_12_tasks_that_would_end_a_program_answer(pool, how, code):
    before = set(pool._pids())
    with pytest.raises(manyhands.TaskExited) as caught:
        pool.apply(leave, (how, code))
    if how == "sys.exit":
        assert caught.value.code == code and "sys.exit" in str(caught.value)
    else:
        assert code.__name__ in str(caught.value)
    assert set(pool._pids()) == before


@pytest.mark.parametrize("kind, args", [(TwoArguments, (1, 2)), (HoldsALock, ()), (ReprFails, ())], ids=lambda k: getattr(k, "__name__", ""))
def test_13_exceptions_that_cannot_travel_answer(pool, kind, args):
    for _ in range(3):
        with pytest.raises(manyhands.SerializationError) as caught:
            pool.apply(throw, (kind, *args))
        assert kind.__name__ in str(caught.value)
        assert "raise kind(*args)" in str(caught.value.__cause__)  # the traceback tells the rest
    seen = []
    pool.apply_async(throw, (kind, *args), error_callback=seen.append).wait(SOON)
    assert kind.__name__ in str(seen[0])


def test_14_a_pool_goes_on_and_ends_after_ctrl_c(tmp_path):
    """Who catches it may use the pool again, and has the results that were on their way."""
    with Program(tmp_path, """
        import fcntl
        import manyhands
        path = os.environ["MH_TEST_TOLD"] + ".gate"
        def wait(x):
            with open(path) as file:
                fcntl.flock(file, fcntl.LOCK_SH)
                return x
        def square(x):
            return x * x
        if __name__ == "__main__":
            gate = open(path, "w")
            fcntl.flock(gate, fcntl.LOCK_EX)
            pool = manyhands.Pool(2)
            result = pool.apply_async(wait, ("open",))
            it = pool.imap(wait, range(3))
            for call in (result.get, result.wait, lambda: next(it), lambda: pool.apply(wait, (1,)), lambda: pool.map(wait, range(50), 1)):
                try:
                    tell("now")
                    call()
                    tell("not interrupted")
                except KeyboardInterrupt:
                    tell("caught")
            fcntl.flock(gate, fcntl.LOCK_UN)
            print(result.get(), pool.map(square, range(5)), list(it))
            pool.close()
            pool.join()
        """) as program:
        for _ in range(5):
            assert program.hear() == "now"
            program.interrupt()
            assert program.hear() == "caught"
        assert program.wait(20) == 0 and program.out == "open [0, 1, 4, 9, 16] [0, 1, 2]\n" and program.err == "", (program.out, program.err)


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_15_workers_end_with_a_killed_parent(tmp_path, method):
    before = shared_names()
    program = tmp_path / "program.py"
    program.write_text(f"""
import manyhands, sys, time, os
def report(_):
    time.sleep(0.05)
    return os.getpid()
if __name__ == "__main__":
    p = manyhands.get_context("{method}").Pool(2)
    pids = set(p.map(report, range(8), 1))
    r = p.map_async(time.sleep, [100] * 8, 1)
    print(*pids, flush=True)
    time.sleep(100)
""")
    parent = subprocess.Popen([sys.executable, str(program)], stdout=subprocess.PIPE, text=True)
    workers = [int(w) for w in parent.stdout.readline().split()]
    assert workers
    everybody = children(parent.pid) | set(workers)
    parent.kill()
    parent.wait()
    eventually(lambda: not any(map(is_running, everybody)), SOON)
    parent.stdout.close()
    assert shared_names() <= before
