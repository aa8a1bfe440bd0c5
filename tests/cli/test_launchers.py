"""Engines that the real mpiexec and a real Slurm start, by the command and from Python: they answer, compute together, and nothing of them is left."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from clusters import COMMAND, Home, is_alive, nothing_of, wait_for

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

import slurm as slurm_here

pytestmark = pytest.mark.timeout(240)
MPI = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1", "OMPI_MCA_rmaps_base_oversubscribe": "1", "OMPI_MCA_btl_vader_single_copy_mechanism": "none"}


class Program:
    """A Python program of a user's in a home; the clients are there, so that this process stays without threads."""

    def __init__(self, home: Home, text: str) -> None:
        self.process = subprocess.Popen([sys.executable, "-c", text], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=home.environment)
        home.started.append(self.process)

    def read(self) -> Any:
        assert self.process.stdout
        line = self.process.stdout.readline()
        assert line, "the program ended"
        return json.loads(line)

    def end(self) -> None:
        assert self.process.stdin
        self.process.stdin.close()
        assert self.process.wait(60) == 0


def ask(home: Home, text: str) -> Any:
    """What a program with a client `rc`, a view `view` of all engines and say() says."""
    head = "import json, os, time\nfrom manyhands.parallel import Client\ndef say(what): print(json.dumps(what), flush=True)\n"
    program = Program(home, f"{head}rc = Client(timeout=60)\nview = rc[:]\nview.block = True\n{text}")
    said = program.read()
    program.end()
    return said


@pytest.fixture
def mpi(home: Home) -> Home:
    missing = [name for name, is_there in (("mpiexec", shutil.which("mpiexec")), ("mpi4py", importlib.util.find_spec("mpi4py"))) if not is_there]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}; tools/setup.sh test brings them")
    home.environment |= MPI
    return home


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[slurm_here.Slurm]:
    if missing := slurm_here.why_not():
        pytest.skip(missing)
    made = slurm_here.Slurm(tmp_path_factory.mktemp("slurm"))
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
def batch(home: Home, slurm: slurm_here.Slurm) -> Iterator[Home]:
    home.environment |= slurm.environment
    yield home
    wait_for(lambda: not slurm.jobs(), "a job is left")


# ---- MPI -------------------------------------------------------------------------------------------

TOGETHER = """
view.execute('''
from mpi4py import MPI
import numpy
comm = MPI.COMM_WORLD
total = comm.allreduce(comm.rank + 1)
part = numpy.full(1000, float(comm.rank))
whole = numpy.empty(1000)
comm.Allreduce(part, whole, MPI.SUM)
''')
view.scatter('rows', list(range(10)))
view.execute('gathered = comm.gather(rows, 0)')
say([rc.ids, view.apply(os.getpid), view['comm.rank'], view['comm.size'], view['total'], view['float(whole.sum())'], view.gather('rows'), view.pull('gathered', targets=0)])
"""


def test_engines_of_mpiexec_compute_together(mpi: Home) -> None:
    """Their numbers are their ranks, and what they execute at once may use collectives."""
    _, said = mpi.start("--engines=mpi", "-n", "3")
    assert said["engines"] == 3
    listed = mpi.only()
    assert (listed["launcher"], listed["engines"], listed["running"]) == ("mpi", 3, True)
    ids, pids, ranks, sizes, totals, sums, rows, gathered = ask(mpi, TOGETHER)
    assert ids == ranks == [0, 1, 2] and sizes == [3, 3, 3]
    assert totals == [6, 6, 6] and sums == [3000.0] * 3
    assert rows == list(range(10)) and [row for part in gathered for row in part] == rows
    assert mpi.json("stop")[0]["profile"] == "default"
    nothing_of([*pids, said["controller_pid"]])
    assert mpi.files() == []


def test_mpiexec_ends_with_who_watches(mpi: Home) -> None:
    process, said = mpi.start("--engines=mpi", "-n", "2", "--shell=plain")
    pids = ask(mpi, "say(view.apply(os.getpid))")
    process.send_signal(signal.SIGKILL)
    nothing_of([*pids, said["controller_pid"]])


def test_what_mpiexec_says_is_shown(mpi: Home) -> None:
    """It refuses more processes than there are places, unless told otherwise."""
    del mpi.environment["OMPI_MCA_rmaps_base_oversubscribe"]
    run = mpi.run("start", "--engines=mpi", "-n", "1000", check=1)
    assert "all engines ended with" in run.stderr
    log, = (mpi.profile / "log").glob("ipengines-*.log")
    assert "not enough slots" in log.read_text()
    assert mpi.files() == []


@pytest.mark.long
def test_mpi_from_python(mpi: Home) -> None:
    program = Program(mpi, """
import json, os
from manyhands.parallel import Cluster
with Cluster(engines="mpi", n=2) as rc:
    view = rc[:]
    view.block = True
    view.execute("from mpi4py import MPI; ranks = MPI.COMM_WORLD.allgather(MPI.COMM_WORLD.rank)")
    print(json.dumps([rc.ids, view["ranks"], [*view.apply(os.getpid), rc.cluster.engine_set.pid]]), flush=True)
""")
    ids, ranks, pids = program.read()
    assert ids == [0, 1] and ranks == [[0, 1], [0, 1]]
    program.end()
    nothing_of(pids)


# ---- Slurm -----------------------------------------------------------------------------------------


def test_engines_of_slurm(batch: Home, slurm: slurm_here.Slurm) -> None:
    """On all nodes; a signal reaches the task; they are cancelled when the cluster is stopped."""
    _, said = batch.start("--engines=slurm", "-n", "3")
    listed = batch.only()
    assert (listed["launcher"], listed["engines"], listed["running"]) == ("slurm", 3, True)
    assert slurm.jobs() == ["RUNNING"]
    variables, pids, squares = ask(batch, """
view.execute("import os; where = [os.environ['SLURM_PROCID'], os.environ['SLURMD_NODENAME']]")
say([view['where'], view.apply(os.getpid), rc.load_balanced_view().map_sync(lambda x: x * x, range(20))])""")
    assert sorted(rank for rank, _ in variables) == ["0", "1", "2"]
    assert {node for _, node in variables} == {"n1", "n2"}
    assert squares == [x * x for x in range(20)]
    key = json.loads((batch.profile / "security" / "ipcontroller-engine.json").read_text())["key"]
    script, = batch.folder.rglob("slurm_engines*")
    assert key not in script.read_text() and not Path("slurm_engines").exists()
    batch.run("stop")
    nothing_of([*pids, said["controller_pid"]])
    wait_for(lambda: not slurm.jobs(), "the job is left")
    assert batch.files() == []


def test_a_job_ends_with_who_watches(batch: Home, slurm: slurm_here.Slurm) -> None:
    process, said = batch.start("--engines=slurm", "-n", "1", "--shell=plain")
    pids = ask(batch, "say(view.apply(os.getpid))")
    assert slurm.jobs() == ["RUNNING"]
    process.send_signal(signal.SIGKILL)
    nothing_of([*pids, said["controller_pid"]])
    wait_for(lambda: not slurm.jobs(), "the job is left")


def test_what_slurm_says_is_shown(batch: Home) -> None:
    (batch.profile).mkdir(parents=True)
    (batch.profile / "ipcluster_config.py").write_text("c = get_config()\nc.SlurmLauncher.queue = 'nowhere'\n")
    run = batch.run("start", "--engines=slurm", "-n", "1", check=1)
    assert "sbatch: " in run.stderr and "invalid partition" in run.stderr.lower()
    assert batch.files() == []


@pytest.mark.long
def test_slurm_from_python(batch: Home, slurm: slurm_here.Slurm) -> None:
    """Controller and engines are jobs; the running task gets a signal."""
    program = Program(batch, """
import json, os, signal, sys, time
from manyhands.parallel import Cluster, error
with Cluster(controller="slurm", engines="slurm", n=2) as rc:
    asleep = rc[:].apply_async(time.sleep, 600)
    while [q["queue"] for i, q in rc.queue_status().items() if i != "unassigned"] != [1, 1]:
        time.sleep(0.05)
    while not asleep.done():
        rc.cluster.signal_engines_sync(signal.SIGINT)
        asleep.wait(1)
    print(json.dumps([str(asleep.exception()), rc[:].apply_sync(os.getpid)]), flush=True)
    sys.stdin.read()
""")
    why, pids = program.read()
    assert "KeyboardInterrupt" in why
    assert slurm.jobs() == ["RUNNING", "RUNNING"]
    program.end()
    nothing_of(pids)


# ---- both ------------------------------------------------------------------------------------------


def test_engines_for_a_controller_that_runs(home: Home) -> None:
    assert home.run("engines", "-n", "1", check=11).stderr.startswith("manyhands engines: no controller of cluster ''")
    home.start("-n", "1", "--shell=plain")
    more = subprocess.Popen([COMMAND, "engines", "-n", "2", "--shell=plain"], stdout=subprocess.PIPE, text=True, env=home.environment)
    home.started.append(more)
    assert more.stdout and more.stdout.readline() == "2 engines ready\n"
    pids = ask(home, "say(view.apply(os.getpid))")
    assert len(pids) == 3
    more.send_signal(signal.SIGINT)
    assert more.wait(60) == 0
    wait_for(lambda: sum(map(is_alive, pids)) == 1)
    assert len(home.json("status")["engines"]) == 1


@pytest.mark.parametrize("arguments, status, said", [
    (["--engines=carrier-pigeon", "-n", "1"], 1, "no engine launcher 'carrier-pigeon'; there are: "),
    (["--hosts=a=none"], 1, "--hosts: 'a=none' is not HOST or HOST=N"),
    (["--engines=slurm", "--private"], 2, "--private and --owner are for engines on this host"),
])
def test_what_cannot_be(home: Home, arguments: list[str], status: int, said: str) -> None:
    run = home.run("start", *arguments, check=status)
    assert said in run.stderr
    assert home.files() == []


def test_a_program_that_is_missing_is_named(home: Home) -> None:
    home.environment["PATH"] = os.pathsep.join([str(home.folder), "/nowhere"])
    run = home.run("start", "--engines=mpi", "-n", "1", check=1)
    assert "mpiexec is not installed here, or not in PATH" in run.stderr
