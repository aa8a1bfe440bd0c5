"""A program that is killed: within a second none of its processes lives, and nothing of it stays in /dev/shm."""

from __future__ import annotations

import os
import signal
import time

import pytest
from helpers import eventually, is_running
from programs import Program, wait_for_end

pytestmark = pytest.mark.timeout(60)
METHODS = ["fork", "forkserver", "spawn"]

# What the two workers of `pool` do when their parent is killed; `busy` and its kin tell when they are there.
STATES = {
    "idle": "pool.map(abs, range(4), 1)",
    "waiting": "pool.map_async(busy, range(4), 1)",
    "computing": "pool.map_async(spin, range(4), 1)",
    "sleeping": "pool.map_async(sleep, range(4), 1)",
    "deaf to signals": "pool.map_async(deaf, range(4), 1)",
    "in C, with the interpreter's lock": "pool.map_async(in_c, range(4), 1)",
    "reading a pipe": "pool.map_async(read, range(4), 1)",
    "in a stream": "it = pool.imap(abs, iter(int, 1)); next(it)",
    "closing": "pool.map_async(busy, range(4), 1); pool.close()",
    "with a large result": "results = pool.map(bytes, [10_000_000] * 4, 1)",
    "mixed": "pool.apply_async(busy, (1,)); pool.apply(abs, (1,))",
    "stopped": "pool.map_async(stopped, range(2), 1)",
}

PROGRAM = """
import ctypes, time
import manyhands

def busy(x):
    tell("busy")
    while True:
        signal.pause()

def spin(x):
    tell("busy")
    while True:
        x += 1

def sleep(x):
    tell("busy")
    time.sleep(1000)

def deaf(x):
    signal.pthread_sigmask(signal.SIG_BLOCK, set(range(1, 65)))
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGUSR1, signal.SIGPIPE):
        signal.signal(number, signal.SIG_IGN)
    busy(x)

def in_c(x):
    tell("busy")
    ctypes.PyDLL(None).pause()

def read(x):
    r, w = os.pipe()
    tell("busy")
    os.read(r, 1)

def stopped(x):
    tell("busy")
    os.kill(os.getpid(), signal.SIGSTOP)

if __name__ == "__main__":
    ctx = manyhands.get_context("{method}")
    pool = ctx.Pool(2)
    {code}
    tell("ready")
    while True:
        signal.pause()
"""


def shm() -> set[str]:
    return set(os.listdir("/dev/shm"))


def kill_and_check(program: Program, before: set[str]) -> None:
    family = program.members() - {program.pid}
    assert len(family) >= 2
    fds = {}
    for pid in family:
        fds[pid] = os.pidfd_open(pid)
    began = time.monotonic()
    os.kill(program.pid, signal.SIGKILL)
    assert program.wait(5) == -signal.SIGKILL
    try:
        late = [pid for pid in fds if not wait_for_end(pid, began + 1 - time.monotonic())]
        assert not late, program.describe()
    finally:
        for fd in fds.values():
            os.close(fd)
    assert not program.left_after(max(0.0, began + 1 - time.monotonic()))  # nor anybody who came meanwhile
    eventually(lambda: not shm() - before, 1)
    assert "Traceback" not in program.err, program.err


@pytest.mark.parametrize("state", STATES)
def test_killed_parent(tmp_path, state):
    before = shm()
    with Program(tmp_path, PROGRAM.format(method="fork", code=STATES[state])) as program:
        wait_until_there(program, STATES[state])
        kill_and_check(program, before)


@pytest.mark.parametrize("method", ["forkserver", "spawn"])
@pytest.mark.parametrize("state", ["idle", "waiting", "computing", "deaf to signals", "in C, with the interpreter's lock"])
def test_killed_parent_with_other_start_methods(tmp_path, method, state):
    before = shm()
    with Program(tmp_path, PROGRAM.format(method=method, code=STATES[state])) as program:
        wait_until_there(program, STATES[state])
        kill_and_check(program, before)


def wait_until_there(program: Program, code: str) -> None:
    """Until the caller has given its tasks and both workers are in theirs."""
    heard = []
    tasks = 2 if "_async(" in code and "apply" not in code else 0
    while heard.count("ready") < 1 or heard.count("busy") < tasks:
        heard.append(program.hear())


@pytest.mark.parametrize("milliseconds", [0, 1, 3, 6, 10, 15, 25])
@pytest.mark.parametrize("method", METHODS)
def test_killed_while_pools_come_and_go(tmp_path, method, milliseconds):
    """At whatever moment: while workers are started, work, and end."""
    if method != "fork":
        milliseconds *= 8
    before = shm()
    with Program(tmp_path, f"""
        import manyhands
        if __name__ == "__main__":
            ctx = manyhands.get_context("{method}")
            ctx.Pool(2).terminate()
            tell("now")
            while True:
                with ctx.Pool(3) as pool:
                    pool.map(abs, range(100), 1)
        """) as program:
        assert program.hear() == "now"
        moment = time.monotonic() + milliseconds / 1000
        while time.monotonic() < moment:
            pass
        os.kill(program.pid, signal.SIGKILL)
        program.wait(5)
        left = program.left_after(1)
        assert not left, left
        eventually(lambda: not shm() - before, 1)


@pytest.mark.parametrize("how", ["SIGTERM", "SIGHUP", "SIGSEGV", "os._exit(3)", "sys.exit(3)", "raise SystemError"])
def test_parents_that_end_in_other_ways(tmp_path, how):
    end = f"os.kill(os.getpid(), signal.{how})" if how.startswith("SIG") else how
    before = shm()
    with Program(tmp_path, PROGRAM.format(method="fork", code=f"pool.map_async(busy, range(4), 1)\n    tell('ready'); sys.stdin.read()\n    {end}").replace(
            'tell("ready")', "pass")) as program:
        program.wait(10)
        assert not program.left_after(1), program.describe()
        eventually(lambda: not shm() - before, 1)


@pytest.mark.parametrize("method", METHODS)
def test_daemons_die_with_a_killed_parent_and_others_do_not(tmp_path, method):
    """The standard library lets both live; who is no daemon may have something to finish."""
    with Program(tmp_path, f"""
        import manyhands
        def stay(name):
            tell(name + " " + str(os.getpid()))
            while True:
                signal.pause()
        if __name__ == "__main__":
            ctx = manyhands.get_context("{method}")
            for daemon in (True, False):
                p = ctx.Process(target=stay, args=(str(daemon),), daemon=daemon)
                p.start()
            p.join()
        """) as program:
        pids = dict(program.hear().split() for _ in range(2))
        os.kill(program.pid, signal.SIGKILL)
        program.wait(5)
        daemon, other = int(pids["True"]), int(pids["False"])
        eventually(lambda: not is_running(daemon), 1)
        assert is_running(other)
        os.kill(other, signal.SIGKILL)
        assert not program.left_after(1)


def test_what_a_process_started_goes_with_it(tmp_path):
    """A pool inside a process of ours, which is killed."""
    with Program(tmp_path, """
        import manyhands
        def busy(x):
            tell("busy")
            while True:
                signal.pause()
        def middle():
            with manyhands.Pool(2) as pool:
                pool.map(busy, range(2), 1)
        if __name__ == "__main__":
            p = manyhands.Process(target=middle)
            p.start()
            tell(str(p.pid))
            p.join()
        """) as program:
        heard = [program.hear() for _ in range(3)]
        heard.remove("busy"), heard.remove("busy")
        os.kill(int(heard[0]), signal.SIGKILL)
        assert program.wait(5) == 0
        assert not program.left_after(1)


def test_a_killed_worker_leaves_nothing_either(tmp_path):
    before = shm()
    with Program(tmp_path, """
        import manyhands
        def die(x):
            os.kill(os.getpid(), signal.SIGKILL)
        if __name__ == "__main__":
            pool = manyhands.Pool(2)
            for _ in range(10):
                try:
                    pool.apply(die, (1,))
                except manyhands.WorkerLost:
                    pass
            tell("done")
            signal.pause()
        """) as program:
        assert program.hear() == "done"
        kill_and_check(program, before)


def test_the_parent_may_be_of_another_thread(tmp_path):
    """The thread that made the pool ends; the workers, which die with their parent, must not take that for its death."""
    with Program(tmp_path, """
        import manyhands, threading
        made = []
        def make(method):
            pool = manyhands.get_context(method).Pool(2)
            made.append((pool, pool.map(pid, range(10), 1)))
        def pid(x):
            return os.getpid()
        if __name__ == "__main__":
            for method in ("fork", "forkserver", "spawn"):
                t = threading.Thread(target=make, args=(method,))
                t.start()
                t.join()
                pool, before = made.pop()
                for _ in range(20):
                    assert set(pool.map(pid, range(10), 1)) <= set(pool._pids())
                assert set(before) <= set(pool._pids()), method
                p = None
                def start():
                    global p
                    p = manyhands.get_context(method).Process(target=wait)
                    p.start()
                def wait():
                    tell("waiting")
                    sys.exit(len(open(os.environ["MH_TEST_TOLD"] + ".gate").read()))
                if method == "fork":
                    os.mkfifo(os.environ["MH_TEST_TOLD"] + ".gate")
                    t = threading.Thread(target=start)
                    t.start()
                    t.join()
                    p.join(0.05)
                    assert p.exitcode is None
                    open(os.environ["MH_TEST_TOLD"] + ".gate", "w").write("123")
                    p.join()
                    assert p.exitcode == 3
                pool.terminate()
                pool.join()
            tell("end")
        """) as program:
        assert program.hear() == "waiting" and program.hear() == "end"
        assert program.wait() == 0 and program.err == ""
