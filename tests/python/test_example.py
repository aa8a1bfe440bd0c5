"""The program that must run unchanged but for its import line, and print the same."""

import time

import pytest
from helpers import run_program

PROGRAM = """\
import {module} as multiprocessing

def square(x):
    return x * x

if __name__ == '__main__':
    processes = []
    for i in range(4):
        p = multiprocessing.Process(target=square, args=(i,))
        p.start()
        processes.append(p)
    for p in processes:
        p.join()
    pool = multiprocessing.Pool(processes=4)
    print("Outputs:", pool.map(square, [0, 1, 2, 3, 4]))
"""


def test_prints_the_same_and_ends():
    begin = time.monotonic()
    ours = run_program(PROGRAM.format(module="manyhands"))
    assert time.monotonic() - begin < 10
    assert ours.returncode == 0 and ours.stderr == "", ours.stderr
    assert ours.stdout == "Outputs: [0, 1, 4, 9, 16]\n" == run_program(PROGRAM.format(module="multiprocessing")).stdout


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_with_other_start_methods(method):
    program = PROGRAM.replace("    processes = []\n", f"    multiprocessing.set_start_method('{method}')\n    processes = []\n", 1)
    outputs = {run_program(program.format(module=m)).stdout for m in ("multiprocessing", "manyhands")}
    assert outputs == {"Outputs: [0, 1, 4, 9, 16]\n"}
