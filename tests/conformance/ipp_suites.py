"""Which tests ipyparallel has, how they are run in each pairing, and which of them do not apply.

A name is "PAIRING::test_file::test" or "PAIRING::test_file::Class.test". The package is the installed one; nothing of it is kept here.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Sequence

import ipp_redirect
import suites

PAIRINGS = tuple(ipp_redirect.PAIRINGS)
TABLE = "ipp_not_applicable.txt"


def why_missing() -> str | None:
    """What is missing to run the tests, or None."""
    import importlib.util

    absent = [name for name in ("ipyparallel", "pytest_asyncio", "testpath") if importlib.util.find_spec(name) is None]
    return f"not installed: {', '.join(absent)}; tools/setup.sh test brings them" if absent else None


def command() -> Path:
    """Our command, `manyhands`."""
    return Path(os.environ.get(ipp_redirect.COMMAND, Path(sys.executable).parent / "manyhands"))


def program(pairing: str) -> tuple[list[str], dict[str, str]]:
    """The command line and environment of a runner."""
    python = suites.environment("ipp_redirect", f"ipyparallel-{suites.VERSION}")
    environment = {**suites.child_environment(), ipp_redirect.PAIRING: pairing, ipp_redirect.COMMAND: str(command())}
    if os.getuid() == 0:  # or else Open MPI starts nothing
        environment |= {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    return [str(python), str(suites.HERE / "ipp_runner.py")], {k: v for k, v in environment.items() if not k.startswith("IPP_")}


def list_tests(pairings: Sequence[str]) -> list[str]:
    """The names of the stock package's tests, in each of the pairings."""
    import json

    line, environment = program("stock")
    done = subprocess.run([*line, "--list"], capture_output=True, text=True, env=environment)
    if done.returncode:
        raise RuntimeError(f"cannot list the tests of ipyparallel:\n{done.stdout}{done.stderr}")
    found: list[str] = json.loads(done.stdout.splitlines()[-1])
    return [f"{pairing}::{name}" for pairing in pairings for name in found]


def not_applicable() -> list[tuple[str, str]]:
    """The patterns of ipp_not_applicable.txt with their reasons."""
    return suites.not_applicable(TABLE)


# What `make check` runs of each pairing: the files that judge most what is new in it.
_SHORT = {"A": ("test_lbview", "test_dependency"), "B": ("test_view",), "C": ("test_lbview", "test_executor", "test_remotefunction")}
# These end within seconds or fail, whatever else the machine does: `make check-long` runs them.
_HURRIED = ("test_magic_pylab", "test_imap_unordered")


def is_short(test: str) -> bool:
    """Whether `make check` runs it."""
    pairing, file, name = test.split("::")
    return file in _SHORT.get(pairing, ()) and not name.endswith(_HURRIED)
