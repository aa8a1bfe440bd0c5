"""The `manyhands` command as it is installed beside the Python that runs the tests."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

COMMAND = Path(sys.executable).parent / "manyhands"

# arguments, exit status, what stdout and stderr match
TABLE = [
    ([], 2, "", r"usage: manyhands COMMAND \[OPTION\]...\n"),
    (["--help"], 0, r"usage: manyhands COMMAND \[OPTION\]...\n(.*\n)*  info .*\n", ""),
    (["help"], 0, r"usage: manyhands COMMAND ", ""),
    (["help", "start"], 0, r"usage: manyhands start ", ""),
    (["help", "colour"], 2, "", r'manyhands: no command "colour"\n'),
    (["version"], 0, r"manyhands \d+\.\d+\.\d+\n$", ""),
    (["--version"], 0, r"manyhands \d+\.\d+\.\d+\n$", ""),
    (["info"], 0, r"cores usable +[1-9]\d*\nmemory +[\d.]+ GiB\n(.*\n)*start methods +fork, spawn, forkserver", ""),
    (["colour"], 2, "", r'manyhands: no command "colour"\nusage'),
    (["version", "x"], 2, "", r'manyhands version: unexpected argument "x"'),
    (["info", "--all"], 2, "", r'manyhands info: no option "--all"'),
    (["info", "--json"], 0, r'\{"cores": [1-9]\d*, "memory_bytes": \d+, .*\}\n$', ""),
    (["start", "-n"], 2, "", "manyhands start: --n needs a value; see manyhands start --help"),
    (["start", "-n", "some"], 2, "", 'manyhands start: -n: "some" is not a number of engines'),
    (["start", "night"], 2, "", r'manyhands start: unexpected argument "night" \(a cluster is named with --cluster-id\)'),
    (["start", "--shell=zsh"], 2, "", 'manyhands start: --shell: "zsh" is none of auto, ipython and plain'),
    (["start", "--restart=maybe"], 2, "", "manyhands start: --restart takes no value"),
    (["start", "--profile=a/b"], 2, "", 'manyhands start: "a/b" is not the name of a profile'),
    (["start", "--private", "--profile=a"], 2, "", "manyhands start: --private has a folder of its own"),
    (["top", "--interval=0"], 2, "", 'manyhands top: --interval: "0" is not a time'),
    (["status", "a", "b"], 2, "", 'manyhands status: one cluster at a time, not "b" too'),
    (["completion"], 2, "", "manyhands completion: name one shell"),
    (["completion", "csh"], 2, "", 'manyhands completion: no completion for "csh"'),
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
