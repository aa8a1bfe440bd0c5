"""Ctrl-C in programs that do nothing about it: one KeyboardInterrupt is shown, no worker says a word, and within two seconds nobody is left.

Each program is a session of its own, all of which gets the signal, as from a terminal. It says over a pipe where it is, and is interrupted then.
"""

from __future__ import annotations

import signal
import time

import pytest
from programs import Program

pytestmark = pytest.mark.timeout(120)
METHODS = ["fork", "forkserver", "spawn"]

# What the main thread does when the signal comes. `busy` tells and waits for ever, `pool` has two workers.
MOMENTS = {
    "map": "pool.map(busy, range(4), 1)",
    "starmap": "pool.starmap(busy, [(1,), (2,)], 1)",
    "apply": "pool.apply(busy, (1,))",
    "get": "pool.apply_async(busy, (1,)).get()",
    "get with timeout": "pool.apply_async(busy, (1,)).get(100)",
    "get with callback": "pool.apply_async(busy, (1,), callback=print, error_callback=print).get()",
    "wait": "pool.map_async(busy, range(4), 1).wait()",
    "imap": "next(pool.imap(busy, range(4)))",
    "imap_unordered": "list(pool.imap_unordered(busy, range(4), 2))",
    "imap of an endless input": "list(pool.imap(busy, iter(int, 1)))",
    "close and join": "pool.map_async(busy, range(4), 1); pool.close(); pool.join()",
    "with": "\n    with pool:\n        pool.map(busy, range(4), 1)",
    "with closing": "\n    with pool:\n        pool.map_async(busy, range(4), 1)\n        pool.close()\n        pool.join()",
    "its own code": "pool.map_async(busy, range(4), 1)\n    while True: pass",
    "its own code, idle pool": "pool.map(abs, range(4)); tell('busy')\n    while True: pass",
    "progress bar": "pool.map(busy, range(4), 1, progress=False)",
    "a timeout of the task": "pool.map(busy, range(4), 1, timeout=100)",
    "retries": "pool.map(busy, range(4), 1, retries=10)",
    "process": "p = ctx.Process(target=busy, args=(1,), daemon=True); p.start(); p.join()",
    "process and pool": "p = ctx.Process(target=tell, args=('x',)); p.start(); p.join(); pool.map(busy, range(4), 1)",
    "input": "pool.map(abs, slow_input())",
    "lazy input": "list(pool.imap(abs, slow_input()))",
    "second pool": "q = ctx.Pool(2); pool.map_async(busy, range(2), 1); q.map(busy, range(2), 1)",
}

PROGRAM = """
import manyhands

def busy(x):
    tell("busy")
    while True:
        signal.pause()

def slow_input():
    yield 1
    tell("busy")
    while True:
        signal.pause()

if __name__ == "__main__":
    ctx = manyhands.get_context("{method}")
    pool = ctx.Pool(2)
    {code}
"""


def check(program: Program, began: float) -> None:
    """What everybody sees who interrupts a program."""
    status = program.wait(10)
    took = time.monotonic() - began
    assert not program.left_after(max(0.0, 2 - took)), "processes are left"
    assert took < 2, f"{took:.1f} s"
    assert status in (-signal.SIGINT, 130, 1), (status, program.err)
    one_traceback(program.err)


def one_traceback(err: str) -> None:
    lines = err.splitlines()
    assert lines.count("KeyboardInterrupt") == 1 and lines[-1] == "KeyboardInterrupt", err
    assert err.count("Traceback (most recent call last):") == 1, err
    for word in ("PoolWorker", "Process-", "Exception ignored", "leaked", "Fatal", "During handling"):
        assert word not in err, err


@pytest.mark.parametrize("moment", MOMENTS)
def test_at_a_known_moment(tmp_path, moment):
    with Program(tmp_path, PROGRAM.format(method="fork", code=MOMENTS[moment])) as program:
        while program.hear() != "busy":
            pass
        began = time.monotonic()
        program.interrupt()
        if moment == "process":  # the child has no handler of its own: it shows its own, as with the standard library
            assert program.wait(10) == -signal.SIGINT and not program.left_after(2) and "KeyboardInterrupt" in program.err
        else:
            check(program, began)


@pytest.mark.parametrize("method", ["forkserver", "spawn"])
@pytest.mark.parametrize("moment", ["map", "imap", "close and join", "get with callback"])
def test_with_other_start_methods(tmp_path, method, moment):
    with Program(tmp_path, PROGRAM.format(method=method, code=MOMENTS[moment])) as program:
        assert program.hear() == "busy"
        began = time.monotonic()
        program.interrupt()
        check(program, began)


CREATION = """
import manyhands
def square(x):
    return x * x
if __name__ == "__main__":
    ctx = manyhands.get_context("{method}")
    ctx.Pool(1).terminate()  # imports are not what this is about
    tell("now")
    while True:
        pool = ctx.Pool(3)
        {use}
        pool.terminate()
        pool.join()
"""


@pytest.mark.parametrize("use", ["pass", "pool.map(square, range(100), 1)"])
@pytest.mark.parametrize("method", METHODS)
def test_at_any_moment_of_creation_use_and_end(tmp_path, method, use):
    """Pools come and go in a loop; the signal comes so many milliseconds after the loop began, wherever it is then."""
    for milliseconds in (0, 1, 2, 5, 9, 14, 20, 40) if method == "fork" else (0, 30, 90):
        with Program(tmp_path, CREATION.format(method=method, use=use)) as program:
            assert program.hear() == "now"
            moment = time.monotonic() + milliseconds / 1000
            while time.monotonic() < moment:
                pass
            began = time.monotonic()
            program.interrupt()
            check(program, began)


AT_THE_END = """
import manyhands, atexit
def busy(x):
    signal.pause()
def square(x):
    return x * x
if __name__ == "__main__":
    pool = manyhands.Pool(2)
    pool.map(square, range(10))
    pool.map_async(busy, range(10), 1)
    {last}
"""


@pytest.mark.parametrize("last", ["tell('now')", "atexit.register(tell, 'now')", "pool.terminate(); tell('now')", "tell('now'); pool.terminate(); pool.join()",
                                  "tell('now'); sys.exit(3)"])
def test_at_the_end_of_a_program(tmp_path, last):
    """Too late to stop anything: nobody is left, and at most one traceback says why."""
    for milliseconds in (0, 1, 3, 8):
        with Program(tmp_path, AT_THE_END.format(last=last)) as program:
            assert program.hear() == "now"
            moment = time.monotonic() + milliseconds / 1000
            while time.monotonic() < moment:
                pass
            began = time.monotonic()
            program.interrupt()
            program.wait(10)
            took = time.monotonic() - began
            assert took < 2 and not program.left_after(max(0.0, 2 - took)), (took, program.err)
            assert program.err.count("\nKeyboardInterrupt") <= 1 and "PoolWorker" not in program.err, program.err


@pytest.mark.parametrize("code", ["pool.apply_async(square, (1,), callback=stay)", "pool.map_async(square, [1], callback=stay)"])
def test_while_a_callback_runs(tmp_path, code):
    with Program(tmp_path, f"""
        import manyhands, threading
        def square(x):
            return x * x
        def stay(x):
            tell("busy")
            threading.Event().wait()
        if __name__ == "__main__":
            pool = manyhands.Pool(2)
            result = {code}
            result.wait()
        """) as program:
        assert program.hear() == "busy"
        began = time.monotonic()
        program.interrupt()
        check(program, began)


def test_while_tasks_end_quickly(tmp_path):
    """The signal meets workers and caller in the middle of their exchange."""
    for call in ("pool.map(square, range(1000), 1)", "list(pool.imap(square, range(1000)))", "[pool.apply(square, (i,)) for i in range(100)]",
                 "pool.map(die_sometimes, range(50), 1, retries=(50, 0))"):
        with Program(tmp_path, f"""
            import manyhands
            def square(x):
                return x * x
            def die_sometimes(x):
                if os.getpid() % 3 == 0 and x % 7 == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
            if __name__ == "__main__":
                pool = manyhands.Pool(2)
                tell("now")
                while True:
                    {call}
            """) as program:
            assert program.hear() == "now"
            began = time.monotonic()
            program.interrupt()
            check(program, began)


class Interrupted:
    def __call__(self, x: int) -> int:
        return x

    def __reduce__(self) -> object:
        raise KeyboardInterrupt


def test_while_things_are_pickled():
    """It is an interrupt, and no failure to pickle."""
    import manyhands

    with manyhands.get_context("fork").Pool(1) as pool:
        for call in (lambda: pool.map(Interrupted(), [1]), lambda: pool.apply(Interrupted(), (1,)), lambda: pool.map(abs, [Interrupted()]),
                     lambda: pool.apply(abs, (Interrupted(),)), lambda: pool.map_async(abs, [Interrupted()]).get(20),
                     lambda: pool.apply_async(abs, (Interrupted(),)).get(20), lambda: next(pool.imap(abs, [Interrupted()])),
                     lambda: pool.starmap(Interrupted(), [(1,)])):
            with pytest.raises(KeyboardInterrupt) as caught:
                call()
            assert caught.value.__cause__ is None and not getattr(caught.value, "__notes__", [])
        assert pool.map(abs, [-1]) == [1]


def test_a_second_one_during_the_first(tmp_path):
    with Program(tmp_path, PROGRAM.format(method="fork", code="\n    with pool:\n        pool.map(busy, range(4), 1)")) as program:
        assert program.hear() == "busy"
        began = time.monotonic()
        for _ in range(5):
            try:
                program.interrupt()
            except ProcessLookupError:
                break
        program.wait(10)
        assert not program.left_after(2) and time.monotonic() - began < 4
        assert "PoolWorker" not in program.err
