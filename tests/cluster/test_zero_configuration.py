"""Client() where no cluster runs: a private one, as a script, in a session, and when its process is killed."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from peers import wait_for

# The example, with the function that it maps.
EXAMPLE = """
from manyhands.parallel import Client
rc = Client()
dview = rc.direct_view()
dview.execute('a = 1')
print(dview.pull('a').get())
tview = rc.load_balanced_view()
print(list(tview.map(square, [1, 2, 3, 4, 5])))
"""
SQUARE = """
def square(x):
    return x * x
"""
ENGINES = len(os.sched_getaffinity(0))
SAID = f"manyhands: no cluster runs; started a private one with {ENGINES} engine{'s' * (ENGINES != 1)}, which ends with this process"
PIDS = """
import os
from manyhands.parallel import Client
from manyhands.parallel.cluster import private
rc = Client()
print(private.current()._process.pid, private.current().folder, *rc[:].apply_sync(os.getpid), flush=True)
"""


@pytest.fixture
def home(tmp_path: Path) -> dict[str, str]:
    """An environment with a home of its own, where nothing runs."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("IPP_") and name != "XDG_RUNTIME_DIR"}
    return {**environment, "HOME": str(tmp_path), "IPYTHONDIR": str(tmp_path / "ipython"), "TMPDIR": str(tmp_path)}


def left(tmp_path: Path) -> list[str]:
    return [path.name for path in tmp_path.iterdir() if path.name.startswith("manyhands-")]


def is_alive(pid: int) -> bool:
    try:
        return re.search(r"^State:\s+[^ZX]", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE) is not None
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_as_a_script(tmp_path: Path, home: dict[str, str]) -> None:
    (tmp_path / "example.py").write_text(SQUARE + EXAMPLE)
    run = subprocess.run([sys.executable, "example.py"], cwd=tmp_path, env=home, capture_output=True, text=True, timeout=100)
    assert run.returncode == 0, run.stderr
    assert run.stdout == f"{[1] * ENGINES}\n[1, 4, 9, 16, 25]\n"
    assert run.stderr.splitlines() == [SAID]
    assert left(tmp_path) == []


def test_in_a_session(tmp_path: Path, home: dict[str, str]) -> None:
    lines = (SQUARE + "\n" + EXAMPLE).lstrip()
    run = subprocess.run([sys.executable, "-i", "-q"], input=lines, cwd=tmp_path, env=home, capture_output=True, text=True, timeout=100)
    assert f"{[1] * ENGINES}" in run.stdout and "[1, 4, 9, 16, 25]" in run.stdout, run.stderr
    assert SAID in run.stderr
    assert left(tmp_path) == []


def test_in_ipython(tmp_path: Path, home: dict[str, str]) -> None:
    pytest.importorskip("IPython")
    program = f"from IPython import start_ipython\nstart_ipython(argv=['--no-banner', '--colors=NoColor', '-c', {SQUARE + EXAMPLE!r}])"
    run = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, env=home, capture_output=True, text=True, timeout=100)
    assert f"{[1] * ENGINES}\n[1, 4, 9, 16, 25]\n" in run.stdout, run.stderr
    assert left(tmp_path) == []


def test_modules_beside_the_script(tmp_path: Path, home: dict[str, str]) -> None:
    folder = tmp_path / "program"
    folder.mkdir()
    (folder / "beside.py").write_text(SQUARE)
    (folder / "example.py").write_text("from beside import square" + EXAMPLE)
    run = subprocess.run([sys.executable, folder / "example.py"], cwd=tmp_path, env=home, capture_output=True, text=True, timeout=100)
    assert run.stdout.endswith("[1, 4, 9, 16, 25]\n"), run.stderr


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_its_process_is_killed(tmp_path: Path, home: dict[str, str], number: signal.Signals) -> None:
    process = subprocess.Popen([sys.executable, "-c", PIDS + "input()"], env=home, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert process.stdout is not None
    watcher, folder, *engines = process.stdout.readline().split()
    assert len(engines) == ENGINES and Path(folder).is_dir()
    pids = [int(watcher), *map(int, engines)]
    process.send_signal(number)
    process.wait()
    wait_for(lambda: not any(map(is_alive, pids)))
    assert left(tmp_path) == []
    process.communicate()


def test_one_for_all_clients(tmp_path: Path, home: dict[str, str]) -> None:
    program = """
from manyhands.parallel import Client
from manyhands.parallel.cluster import private
first, second = Client(), Client()
assert first.ids == second.ids
cluster = private.current()
first.close()
assert private.current() is cluster and second[:].apply_sync(int) == [0] * len(second.ids)
second.close()
assert private.current() is None
third = Client()
assert private.current() is not None and third[:].apply_sync(int) == [0] * len(third.ids)
"""
    run = subprocess.run([sys.executable, "-c", program], env=home, capture_output=True, text=True, timeout=100)
    assert run.returncode == 0, run.stderr
    assert run.stderr.splitlines() == [SAID, SAID]
    assert left(tmp_path) == []


def test_a_forked_child_leaves_it_alone(tmp_path: Path, home: dict[str, str]) -> None:
    program = """
import os, sys
from manyhands.parallel.cluster import private
cluster = private.start(1)
child = os.fork()
if not child:
    assert private.current() is None
    cluster.close()
    sys.exit(0)   # runs what atexit holds
assert os.waitpid(child, 0)[1] == 0
assert cluster.is_running()
"""
    run = subprocess.run([sys.executable, "-c", program], env=home, capture_output=True, text=True, timeout=100)
    assert run.returncode == 0, run.stderr
    assert left(tmp_path) == []


def test_turned_off(tmp_path: Path, home: dict[str, str]) -> None:
    for arguments in ("autostart=False, timeout=0.1", f"{str(tmp_path / 'none.json')!r}"):
        run = subprocess.run([sys.executable, "-c", f"from manyhands.parallel import Client; Client({arguments})"], env=home, capture_output=True, text=True, timeout=100)
        assert run.returncode == 1 and "FileNotFoundError" in run.stderr
        assert "private" not in run.stderr


def test_what_went_wrong(tmp_path: Path, home: dict[str, str]) -> None:
    program = "from manyhands.parallel.cluster import private; private.start(1, timeout=0.001)"
    run = subprocess.run([sys.executable, "-c", program], env=home, capture_output=True, text=True, timeout=100)
    assert run.returncode == 1 and "RuntimeError: no private cluster: manyhands start: " in run.stderr
    run = subprocess.run([sys.executable, "-c", program], env=home | {"MANYHANDS_COMMAND": "/nowhere/manyhands"}, capture_output=True, text=True, timeout=100)
    assert run.returncode == 1 and "FileNotFoundError: the manyhands command is not there (/nowhere/manyhands)" in run.stderr
    assert left(tmp_path) == []


def test_a_cluster_that_runs_is_used(tmp_path: Path, home: dict[str, str]) -> None:
    command = Path(sys.executable).parent / "manyhands"
    subprocess.run([command, "start", "-n", "1", "--daemonize"], env=home, check=True, timeout=100, stdout=subprocess.DEVNULL)
    try:
        program = "from manyhands.parallel import Client; rc = Client(); print(rc.ids, rc[:].apply_sync(int))"
        run = subprocess.run([sys.executable, "-c", program], env=home, capture_output=True, text=True, timeout=100)
        assert (run.stdout, run.stderr) == ("[0] [0]\n", "")
    finally:
        subprocess.run([command, "stop"], env=home, check=True, timeout=100, stdout=subprocess.DEVNULL)
