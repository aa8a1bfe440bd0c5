"""Processes beside the standard library's: each case of process_cases.py runs with both, and both answer the same."""

from __future__ import annotations

import functools
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import process_cases
import pytest

METHODS = ["fork", "forkserver", "spawn"]
pytestmark = pytest.mark.timeout(120)


@functools.cache
def answers(library: str, method: str) -> dict[str, Any]:
    """What one run of all cases said, by case."""
    command = [sys.executable, process_cases.__file__, library, method]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=100, stdin=subprocess.DEVNULL)
        out, err = done.stdout, done.stderr
    except subprocess.TimeoutExpired as late:
        out, err = (late.stdout or b"").decode(), (late.stderr or b"").decode() + "\nhung"
    rows = [json.loads(line) for line in out.splitlines() if line.startswith('{"case"')]
    return {**{row["case"]: row for row in rows}, "": err}


def names_ours(text: str) -> str:
    """The classes of the two libraries have the same names; what is shown of their modules differs."""
    return text.replace("manyhands.context", "multiprocessing.context")


@pytest.mark.parametrize("case", process_cases.CASES)
@pytest.mark.parametrize("method", METHODS)
def test_same_as_the_standard_library(method, case):
    standard, ours = (answers(library, method) for library in ("multiprocessing", "manyhands"))
    assert case in standard and not standard[case]["failed"], (standard.get(case), standard[""][-2000:])
    assert case in ours, f"no answer: {ours[''][-3000:]}"
    assert not ours[case]["failed"], ours[case]["answer"]
    assert names_ours(json.dumps(ours[case]["answer"])) == json.dumps(standard[case]["answer"])


@pytest.mark.parametrize("method", METHODS)
def test_what_goes_to_the_error_stream(method):
    """The tracebacks of children that raise, and the text of sys.exit: as often as with the standard library."""
    standard, ours = (answers(library, method)[""] for library in ("multiprocessing", "manyhands"))
    for text in ("ValueError: x", "a text\n", "KeyboardInterrupt", "(1, 2)\n", "2.5\n"):
        assert standard.count(text) == ours.count(text) >= 1, text


@pytest.mark.parametrize("library", ["multiprocessing", "manyhands"])
def test_settling_the_start_method(library, tmp_path):
    program = tmp_path / "program.py"
    program.write_text(f"""
import {library} as m
def f(): pass
if __name__ == "__main__":
    print(m.get_start_method(allow_none=True), sorted(m.get_all_start_methods()))
    m.set_start_method("spawn")
    print(m.get_start_method(), m.get_context().get_start_method(), m.get_context("fork").get_start_method())
    for method in ("fork", "nonsense"):
        try:
            m.set_start_method(method)
        except (RuntimeError, ValueError) as e:
            print(type(e).__name__, e)
    m.set_start_method("forkserver", force=True)
    print(m.get_start_method())
    p = m.Process(target=f)
    p.start(); p.join()
    print(p.exitcode, m.get_context("spawn").Process.__name__, type(m.get_context("fork").Process(target=f)).__name__, isinstance(p, m.Process))
""")
    done = subprocess.run([sys.executable, program], capture_output=True, text=True, timeout=60)
    assert done.stdout == """\
None ['fork', 'forkserver', 'spawn']
spawn spawn fork
RuntimeError context has already been set
RuntimeError context has already been set
forkserver
0 SpawnProcess ForkProcess True
""", done.stderr


def test_the_cases_file_is_a_program():
    assert Path(process_cases.__file__).read_text().count("@case\n") == len(process_cases.CASES)
