"""The `manyhands` command as it is installed beside the Python that runs the tests."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

COMMAND = Path(sys.executable).parent / "manyhands"

# arguments, exit status, what stdout and stderr match
TABLE = [
    ([], 2, "", r"usage: manyhands COMMAND\n"),
    (["--help"], 0, r"usage: manyhands COMMAND\n(.*\n)*  info .*\n", ""),
    (["help"], 0, r"usage: manyhands COMMAND\n", ""),
    (["version"], 0, r"manyhands \d+\.\d+\.\d+\n$", ""),
    (["--version"], 0, r"manyhands \d+\.\d+\.\d+\n$", ""),
    (["info"], 0, r"cores usable +[1-9]\d*\nmemory +[\d.]+ GiB\n(.*\n)*start methods +fork, spawn, forkserver", ""),
    (["colour"], 2, "", r'manyhands: no command "colour"\nusage'),
    (["version", "x"], 2, "", r'manyhands: unexpected argument "x"'),
    (["info", "--all"], 2, "", r'manyhands: unexpected argument "--all"'),
]


@pytest.mark.parametrize("arguments, status, out, err", TABLE)
def test_command(arguments: list[str], status: int, out: str, err: str) -> None:
    run = subprocess.run([COMMAND, *arguments], capture_output=True, text=True)
    assert run.returncode == status
    for expected, got in ((out, run.stdout), (err, run.stderr)):
        assert re.match(expected, got) if expected else got == ""


def test_output_that_cannot_be_written() -> None:
    with open("/dev/full", "w") as full:
        run = subprocess.run([COMMAND, "--help"], stdout=full, stderr=subprocess.PIPE, text=True)
    assert run.returncode == 1
    assert "cannot write: No space left" in run.stderr
