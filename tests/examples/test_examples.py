"""Every Python example runs and ends well; the C ones are tests of examples/meson.build."""

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"

# Arguments that make large work small; `make demo` does all of it, and demo.py only calls the two others.
ARGUMENTS = {
    "squares.py": ["--count", "200000"],
    "wordcount.py": ["--megabytes", "2"],
}
NOT_RUN = {"demo.py", "engines.py", "native.py", "team.py"}  # the others are what the applications share


@pytest.mark.parametrize("name", sorted({path.name for path in EXAMPLES.glob("*.py")} - NOT_RUN))
def test_example(name: str) -> None:
    run = subprocess.run([sys.executable, EXAMPLES / name, *ARGUMENTS.get(name, [])],
                         capture_output=True, text=True, timeout=100)
    assert run.returncode == 0, run.stderr
    assert run.stdout
