"""tools/setup.sh and what it reads pyproject.toml with, with stand-ins for the commands that change a machine."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    from pip._vendor import tomli as tomllib

ROOT = Path(__file__).resolve().parents[2]

PYPROJECT = """
[build-system]
requires = []
[project]
dependencies = [ # none
]
[project.optional-dependencies]
test = []
[tool.manyhands.debian]
build = ["gcc", # comment with "quotes"
  "make"]
test = ["gdb"]
"""

# Each notes its call; dpkg-query knows the packages in installed.txt, and apt-get install adds to it.
STAND_INS = {
    "dpkg-query": 'grep -qx "$4" $STATE/installed.txt && echo installed',
    "apt-cache": "true",
    "apt-get": 'echo "apt-get $*" >>$STATE/calls.txt; [ "$1" = update ] || '
               'for p; do case $p in -* | install) ;; *) echo $p >>$STATE/installed.txt ;; esac; done',
    "sudo": 'echo sudo >>$STATE/calls.txt; exec "$@"',
    "id": "cat $STATE/uid.txt",
}


class Machine:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "tools").mkdir()
        for name in ("setup.sh", "toml_list.sh"):
            shutil.copy(ROOT / "tools" / name, folder / "tools")
        (folder / "pyproject.toml").write_text(PYPROJECT)
        self.commands = folder / "bin"
        self.commands.mkdir()
        for name, body in STAND_INS.items():
            self.add_command(name, body)
        for name in ("calls.txt", "installed.txt"):
            (folder / name).touch()
        (folder / "uid.txt").write_text("0")

    def add_command(self, name: str, body: str) -> None:
        (self.commands / name).write_text(f"#!/bin/sh\n{body}\n")
        (self.commands / name).chmod(0o755)

    def setup(self, *groups: str) -> subprocess.CompletedProcess[str]:
        (self.folder / "calls.txt").write_text("")
        environment = {"PATH": f"{self.commands}:/usr/bin:/bin", "STATE": str(self.folder), "PYTHON": sys.executable}
        return subprocess.run([self.folder / "tools/setup.sh", *groups], env=environment, capture_output=True, text=True)

    def calls(self) -> list[str]:
        return (self.folder / "calls.txt").read_text().splitlines()


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_installs_what_is_missing_once(machine: Machine) -> None:
    (machine.folder / "installed.txt").write_text("gcc\n")
    run = machine.setup()
    assert run.returncode == 0, run.stderr
    assert machine.calls() == ["apt-get install -q -y --no-install-recommends make"]
    assert (machine.folder / ".venv/bin/python").exists()

    assert machine.setup().returncode == 0
    assert machine.calls() == []

    run = machine.setup("build", "test")
    assert run.returncode == 0, run.stderr
    assert machine.calls() == ["apt-get install -q -y --no-install-recommends gdb"]

    with (machine.folder / "pyproject.toml").open("a") as f:
        f.write("# changed\n")
    assert machine.setup("build", "test").returncode == 0
    assert machine.calls() == []


def test_uses_sudo_when_not_root(machine: Machine) -> None:
    (machine.folder / "uid.txt").write_text("1000")
    assert machine.setup().returncode == 0
    assert machine.calls() == ["sudo", "apt-get install -q -y --no-install-recommends gcc make"]


def test_updates_lists_that_do_not_know_a_package(machine: Machine) -> None:
    machine.add_command("apt-cache", "false")
    assert machine.setup().returncode == 0
    assert machine.calls() == ["apt-get update -q", "apt-get install -q -y --no-install-recommends gcc make"]


def test_neither_root_nor_sudo(machine: Machine) -> None:
    (machine.folder / "uid.txt").write_text("1000")
    (machine.commands / "sudo").unlink()
    if shutil.which("sudo", path="/usr/bin:/bin"):
        pytest.skip("this machine has a sudo in /usr/bin")
    run = machine.setup()
    assert run.returncode == 1
    assert "cannot install gcc make: neither root nor sudo" in run.stderr
    assert not (machine.folder / ".venv").exists()


def test_unknown_group(machine: Machine) -> None:
    run = machine.setup("colour")
    assert run.returncode == 1
    assert "[tool.manyhands.debian] colour: not found" in run.stderr


# the TOML of one table [a], the strings of its key b, or a part of the error
TOML = [
    ('b = ["x"]', ["x"]),
    ('b = []', []),
    ('b = ["x[y]>=1", "z"] # "no"', ["x[y]>=1", "z"]),
    ('b = [\n  "x", # one\n  # "none"\n  "#y",\n]\nc = ["no"]', ["x", "#y"]),
    ('b = "x"', "not an array"),
    ('b = [x]', "cannot read"),
    ('b = ["x",', "does not end"),
    ('bb = ["x"]', "not found"),
    ('[a.c]\nb = ["x"]', "not found"),
]


@pytest.mark.parametrize("text, expected", TOML)
def test_toml_list(tmp_path: Path, text: str, expected: list[str] | str) -> None:
    (tmp_path / "f.toml").write_text(f"[a]\n{text}\n")
    run = subprocess.run([ROOT / "tools/toml_list.sh", tmp_path / "f.toml", "a", "b"], capture_output=True, text=True)
    if isinstance(expected, list):
        assert run.stdout.splitlines() == expected
        assert run.returncode == 0, run.stderr
    else:
        assert expected in run.stderr
        assert run.returncode == 1


def test_toml_list_reads_pyproject_as_python_does() -> None:
    groups = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["manyhands"]["debian"]
    for group, packages in groups.items():
        run = subprocess.run([ROOT / "tools/toml_list.sh", ROOT / "pyproject.toml", "tool.manyhands.debian", group],
                             capture_output=True, text=True, check=True)
        assert run.stdout.splitlines() == packages
