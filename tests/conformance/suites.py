"""Which tests of CPython there are: where they are installed, the environment that they run in, and which of them do not apply."""

from __future__ import annotations

import fnmatch
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Sequence

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
VERSION = f"{sys.version_info[0]}.{sys.version_info[1]}"

METHODS = ("fork", "spawn", "forkserver")
SUITES = (*METHODS, "main", "futures")  # what --method takes
_FILES = {"main": "test_multiprocessing_main_handling", "futures": "test_concurrent_futures"}


class Missing(Exception):
    """This Python comes without the tests; the message says what brings them."""


def check_installed(suite: str) -> None:
    """Raise Missing unless the tests of the suite are in this Python or in Debian's package for the same version."""
    name = _FILES.get(suite, "_test_multiprocessing")
    for folder in (Path(os.__file__).parent / "test", Path(f"/usr/lib/python{VERSION}/test")):
        if (folder / f"{name}.py").exists() or (folder / name).is_dir():
            return
    raise Missing(f"Python {VERSION} at {sys.base_prefix} comes without test.{name}: the Debian package libpython{VERSION}-testsuite, "
                  f"or another build of the same version, brings it")


def environment(hook: str = "redirect", name: str = f"python{VERSION}") -> Path:
    """The interpreter that the tests run in: a virtual environment whose .pth file loads the hook, a module here, and finds this one's packages."""
    package = importlib.util.find_spec("manyhands")
    assert package is not None and package.origin is not None, "manyhands is not installed: run `make build`"
    lines = [str(Path(package.origin).parents[1]), str(HERE), f"import {hook}; {hook}.install()"]
    folder = ROOT / "build" / "conformance" / name
    pth = folder / "lib" / f"python{VERSION}" / "site-packages" / "conformance.pth"
    python = folder / "bin" / "python"
    wanted = "\n".join(lines) + "\n"
    if not (pth.exists() and pth.read_text() == wanted and os.path.realpath(python) == os.path.realpath(sys.executable)):
        import shutil
        import venv

        folder.parent.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(dir=folder.parent))
        venv.EnvBuilder(symlinks=True, with_pip=False).create(made)
        (made / pth.relative_to(folder)).write_text(wanted)
        shutil.rmtree(folder, ignore_errors=True)
        made.rename(folder)
    return python


def list_tests(names: Sequence[str], standard: bool = False) -> list[str]:
    """The names of the suites' tests, "suite::Class::test", as this Python's files have them."""
    done = subprocess.run([environment(), HERE / "runner.py", "--list", *names], capture_output=True, text=True, env=child_environment(standard))
    if done.returncode:
        raise RuntimeError(f"cannot list the tests of {', '.join(names)}:\n{done.stdout}{done.stderr}")
    found: list[str] = json.loads(done.stdout.splitlines()[-1])
    return found


# Of these, only what is given to children depends on how they start, and other tests give it to them.
_ALIKE = ("TestBarrier", "TestCondition", "TestEvent", "TestFinalize", "TestHeap", "TestListener", "TestPool", "TestPoll", "TestSemaphore", "TestImportStar",
          "TestManagerRestart", "TestTimeouts", "TestWait", "MiscTestCase", "TestStdinBadfiledescriptor", "OtherTest")


def is_short(test: str) -> bool:
    """Whether `make check` runs it: all of fork, and of the others the classes whose behaviour depends on the start method."""
    suite, kind, _ = test.split("::")
    if suite in ("fork", "main"):
        return True
    if suite == "futures":
        return not any(method in kind for method in ("Spawn", "Forkserver")) or "Shutdown" in kind or "Initializer" in kind
    kind = kind.replace("WithProcesses", "")
    return not kind.startswith(("WithThreads", "WithManager", *_ALIKE))


def child_environment(standard: bool = False) -> dict[str, str]:
    made = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "PYTEST", "MANYHANDS_"))}
    if standard:
        made["MANYHANDS_CONFORMANCE_STANDARD"] = "1"
    return made


def not_applicable(file: str = "not_applicable.txt") -> list[tuple[str, str]]:
    """The patterns of not_applicable.txt with their reasons."""
    found = []
    for number, line in enumerate((HERE / file).read_text().splitlines(), 1):
        if line.strip() and not line.startswith("#"):
            pattern, colon, reason = line.partition(": ")
            assert colon and reason.strip(), f"{file}:{number}: not of the form PATTERN: REASON"
            found.append((pattern.strip(), reason.strip()))
    return found


def why_not(test: str, table: list[tuple[str, str]]) -> str | None:
    return next((reason for pattern, reason in table if fnmatch.fnmatchcase(test, pattern)), None)
