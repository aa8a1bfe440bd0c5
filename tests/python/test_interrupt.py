"""Ctrl-C at any moment: one KeyboardInterrupt, nothing from the workers, nobody left, within two seconds."""

import os
import signal
import subprocess
import sys
import time

import pytest
from helpers import children, eventually, is_running

PROGRAM = """
import itertools, os, signal, sys, time
import manyhands

# Interrupts the whole process group, as a terminal does, when the n-th of the program's steps is reached.
steps = itertools.count()
at = int(sys.argv[2])

def trace(frame, event, arg):
    if next(steps) == at:
        os.killpg(0, signal.SIGINT)
    return trace

def square(x):
    return x * x

def slow(x):
    time.sleep(0.001)
    return x

def work(how):
    with manyhands.Pool(2) as pool:
        if how == "map":
            pool.map(slow, range(40), 1)
        elif how == "imap":
            for r in pool.imap(slow, range(40)):
                pass
        elif how == "async":
            rs = [pool.apply_async(slow, (i,), callback=lambda r: None) for i in range(40)]
            for r in rs:
                r.get()
        pool.close()
        pool.join()

signal.signal(signal.SIGINT, signal.default_int_handler)
try:
    print("pids", *manyhands.active_children(), flush=True)
    sys.settrace(trace)
    work(sys.argv[1])
    sys.settrace(None)
    print("finished")
except KeyboardInterrupt:
    sys.settrace(None)
    print("interrupted")
"""

WAITING = """
import os, signal, sys, threading, time
import manyhands

def announce(x):
    os.write(int(sys.argv[2]), b"x")
    time.sleep(100)

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)
    pool = manyhands.Pool(2)
    try:
        if sys.argv[1] == "map":
            pool.map(announce, range(10), 1)
        elif sys.argv[1] == "get":
            pool.apply_async(announce, (1,)).get()
        elif sys.argv[1] == "callback":
            pool.apply_async(announce, (1,), callback=print).wait()
        elif sys.argv[1] == "imap":
            next(pool.imap(announce, range(10)))
        elif sys.argv[1] == "apply":
            pool.apply(announce, (1,))
        elif sys.argv[1] == "join":
            pool.map_async(announce, range(10), 1)
            pool.close()
            pool.join()
        elif sys.argv[1] == "process":
            p = manyhands.Process(target=announce, args=(1,), daemon=True)
            p.start()
            p.join()
    except KeyboardInterrupt:
        print("interrupted")
"""


def start(tmp_path, program, *args, **options):
    path = tmp_path / "program.py"
    path.write_text(program)
    return subprocess.Popen([sys.executable, str(path), *args], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True, **options)


@pytest.mark.parametrize("how", ["map", "get", "callback", "imap", "apply", "join"])
def test_while_waiting(tmp_path, how):
    r, w = os.pipe()
    os.set_inheritable(w, True)
    p = start(tmp_path, WAITING, how, str(w), pass_fds=(w,))
    os.close(w)
    assert os.read(r, 1) == b"x"  # a worker runs, so the caller waits or soon will
    everybody = children(p.pid)
    begin = time.monotonic()
    os.killpg(p.pid, signal.SIGINT)
    out, err = p.communicate(timeout=10)
    assert time.monotonic() - begin < 2
    assert (out, err, p.returncode) == ("interrupted\n", "", 0)
    eventually(lambda: not any(map(is_running, everybody)), 1)
    os.close(r)


@pytest.mark.parametrize("how", ["map", "imap", "async"])
@pytest.mark.parametrize("part", range(3))
def test_at_every_step(tmp_path, how, part):
    """SIGINT before each traced step of the package's Python, a third of the offsets in each part."""
    offsets = range(3 + part * 7, 400, 41)
    for at in offsets:
        p = start(tmp_path, PROGRAM, how, str(at))
        begin = time.monotonic()
        out, err = p.communicate(timeout=20)
        assert time.monotonic() - begin < 5, (how, at)
        assert out.split()[-1] in ("interrupted", "finished"), (at, out, err)
        assert "Traceback" not in err or err.count("KeyboardInterrupt") <= 1, (at, err)
        assert "PoolWorker" not in err
        try:
            os.killpg(p.pid, 0)
            left = True
        except ProcessLookupError:
            left = False
        if left:
            eventually(lambda: not group_lives(p.pid), 1)


def group_lives(pgid):
    try:
        os.killpg(pgid, 0)
        return True
    except ProcessLookupError:
        return False
