"""Cluster and ClusterManager with our controller, engines and client; launchers for other hosts build what they call."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import stat
import subprocess
import sys
import time
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest

from manyhands.parallel import error
from manyhands.parallel.cluster import Cluster, ClusterManager, clean_cluster_files, find_command, launcher
from peers import wait_for

SOON_S = 60


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in list(os.environ):
        if name.startswith("IPP_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def pids_of(cluster: Cluster) -> list[int]:
    return [cluster.controller.pid, *(one.pid for group in cluster.engines.values() for one in group.launchers.values())]


def is_alive(pid: int) -> bool:
    try:
        return re.search(r"^State:\s+[^ZX]", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE) is not None
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_a_life(home: Path) -> None:
    with Cluster(n=2, cluster_id="life") as rc:
        cluster = rc.cluster
        assert rc.ids == [0, 1]
        assert rc[:].apply_sync(int) == [0, 0]
        listed = json.loads(subprocess.run([find_command(), "list", "--json"], capture_output=True, text=True, check=True).stdout)
        assert [(c["cluster_id"], c["running"], c["engines"]) for c in listed] == [("life", True, 2)]
        pids = pids_of(cluster)
        assert [c["engine_pids"] for c in listed] == [pids[1:]]
        with pytest.raises(RuntimeError, match="already running"):
            cluster.start_controller_sync()
        with pytest.raises(ValueError, match="still running"):
            clean_cluster_files(cluster.profile_dir)
    assert not any(map(is_alive, pids))
    assert (cluster.controller, cluster.engines) == (None, {})
    assert [p.name for p in (home / "profile_default" / "security").iterdir()] == []
    clean_cluster_files()


def test_asynchronously(home: Path) -> None:
    async def live() -> list[int]:
        async with Cluster(n=1) as rc:
            inside: list[int] = rc.cluster.connect_client_sync().ids  # a twin works where a loop runs, too
            assert rc.ids == inside
            return pids_of(rc.cluster)

    assert not any(map(is_alive, asyncio.run(live())))


def test_one_engine_by_its_number(home: Path) -> None:
    with Cluster(n=2) as rc:
        cluster = rc.cluster
        before = rc[:].apply_sync(os.getpid)
        cluster.restart_engine_sync(1)
        wait_for(lambda: len(rc.ids) == 2 and (uuids := rc._engines) and len(uuids) == 2)
        wait_for(lambda: set(after := rc[:].apply_sync(os.getpid)) & set(before) == {before[0]} and len(after) == 2)
        with pytest.raises(KeyError, match="no engine 7"):
            cluster.stop_engine_sync(7)
        number = max(rc.ids)
        cluster.stop_engine_sync(number)
        wait_for(lambda: number not in rc.ids)


def test_signals_reach_the_task(home: Path) -> None:
    with Cluster(n=1) as rc:
        for send, engine in ((rc.cluster.signal_engine_sync, [0]), (rc.cluster.signal_engines_sync, [])):
            running = rc[0].apply_async(time.sleep, 600)
            wait_for(lambda: rc.queue_status()[0]["queue"] == 1)

            def is_interrupted() -> bool:
                send(signal.SIGINT, *engine)
                running.wait(0.2)
                return bool(running.done())

            wait_for(is_interrupted)
            with pytest.raises(error.RemoteError, match="KeyboardInterrupt"):
                running.get(timeout=SOON_S)
        assert rc[0].apply_sync(int) == 0


def test_found_again(home: Path) -> None:
    with Cluster(n=1, cluster_id="again") as rc:
        same = Cluster.from_file(cluster_id="again")
        assert not same.shutdown_atexit
        assert pids_of(same) == pids_of(rc.cluster)
        assert same.to_dict() == rc.cluster.to_dict()
        with same.connect_client_sync() as client:
            assert client.ids == [0]
        manager = ClusterManager()
        assert list(manager.load_clusters()) == ["default:again"]
        with pytest.raises(KeyError, match="already exists"):
            manager.new_cluster(cluster_id="again", profile="default")
        same.stop_cluster_sync()
        wait_for(lambda: manager.load_clusters() == {})
    with pytest.raises(FileNotFoundError):
        Cluster.from_file(cluster_id="again")


def test_one_that_manyhands_started(home: Path) -> None:
    process = subprocess.Popen([find_command(), "start", "-n", "2", "--json"], stdout=subprocess.PIPE, text=True, stderr=subprocess.DEVNULL)
    assert process.stdout is not None
    said = json.loads(process.stdout.readline())
    before = (home / "profile_default" / "security" / "cluster-.json").read_text()
    cluster = Cluster.from_file()
    assert cluster.controller.pid == said["controller_pid"] and cluster.engine_set.n == 2
    assert (home / "profile_default" / "security" / "cluster-.json").read_text() == before
    assert cluster._find_engine(1)[1].engine_id == 1
    cluster.stop_cluster_sync()
    assert process.wait(SOON_S) == 0
    process.stdout.close()


def test_nobody_elses_process(home: Path) -> None:
    other = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        state = {"profile_dir": str(home / "profile_default"), "cluster_id": "x", "pid": other.pid, "state": "running"}
        with pytest.raises(launcher.NotRunning):
            launcher.LocalControllerLauncher.from_dict(state)
        cluster = Cluster.from_dict({"cluster": {"cluster_id": "x", "profile_dir": state["profile_dir"]}, "controller": {"class": "local", "state": state}})
        assert cluster.controller is None
        cluster.stop_cluster_sync()
        assert other.poll() is None
    finally:
        other.kill()
        other.communicate()


def test_settings(home: Path) -> None:
    profile = home / "profile_p"
    profile.mkdir()
    (profile / "ipcluster_config.py").write_text("c = get_config()\nc.Cluster.engine_timeout = 5\nc.Cluster.n = 3\nc.EngineLauncher.engine_args = ['--a']\n")
    (profile / "ipcluster_config.json").write_text('{"Cluster": {"n": 4, "controller_args": ["--b"]}}')
    cluster = Cluster(profile="p", config={"Cluster": {"engine_timeout": 6}})
    assert (cluster.n, cluster.engine_timeout, cluster.controller_args) == (4, 6, ["--b"])
    assert launcher.LocalEngineLauncher(parent=cluster).engine_args == ["--a"]
    assert Cluster(profile="p", n=9).n == 9
    assert Cluster(profile="p", load_profile=False).n is None
    assert Cluster(engines="slurm", controller="ssh").engine_launcher_class is launcher.SlurmEngineSetLauncher
    for arguments, kind, match in [({"colour": 1}, TypeError, "unexpected keyword argument 'colour'"), ({"n": "two"}, TypeError, "Cluster.n is 'two': it must be int"),
                                   ({"engines": "carrier-pigeon"}, KeyError, "no engine launcher 'carrier-pigeon'; there are: batch, "),
                                   ({"engines": "ssh", "engine_launcher_class": "mpi"}, TypeError, "Only specify one")]:
        with pytest.raises(kind, match=match):
            Cluster(**arguments)  # type: ignore[arg-type]


def test_ended_with_the_program(home: Path) -> None:
    program = """
from manyhands.parallel.cluster import Cluster
c = Cluster(n=1); c.start_cluster_sync(); print(c.controller.pid, c.engine_set.launchers["0"].pid)
"""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=SOON_S)
    assert run.returncode == 0 and "Stopping cluster" in run.stderr
    wait_for(lambda: not any(is_alive(int(pid)) for pid in run.stdout.split()))


def test_a_controller_that_cannot_start(home: Path) -> None:
    cluster = Cluster(n=1, controller_args=["--scheme=best"])
    with pytest.raises(RuntimeError, match="(?s)the controller ended with 2 .*--scheme: .best. is not a value"):
        cluster.start_cluster_sync()


# ---- launchers -------------------------------------------------------------------------------------


def make(kind: str, home: Path, **options: Any) -> Any:
    return getattr(launcher, kind)(work_dir=str(home), profile_dir=str(home / "profile_default"), cluster_id="c", **options)


SLURM = """#!/bin/sh
#SBATCH --ntasks=3
#SBATCH --partition=long
#SBATCH --output={home}/out
#SBATCH --account=me
#SBATCH --time=1:00:00
#SBATCH --exclusive
export IPP_CLUSTER_ID=c
export IPP_PROFILE_DIR={home}/profile_default
srun manyhands engine '--a b'
"""


def test_slurm(home: Path) -> None:
    one = make("SlurmEngineSetLauncher", home, queue="long", output_file=f"{home}/out", engine_cmd=["manyhands", "engine"], engine_args=["--a b"],
               account="me", timelimit="1:00:00", options="--exclusive", environment={"IPP_CONNECTION_INFO": '{"key": "secret"}'})
    one.write_batch_script(3)
    assert Path(one.batch_file).read_text() == SLURM.format(home=home)
    assert stat.S_IMODE(os.stat(one.batch_file).st_mode) == 0o700
    assert one.args == ["sbatch", f"{home}/slurm_engines"]
    assert one.parse_job_id("Submitted batch job 4711\n") == "4711"


@pytest.mark.parametrize("system, line, job, said", [
    ("PBS", "#PBS -J 1-3", "12[].host", "12[].host\n"), ("SGE", "#$ -t 1-3", "13", 'Your job-array 13.1-3:1 ("x") has been submitted\n'),
    ("LSF", "#BSUB -J ipengine[1-3]", "14", "Job <14> is submitted to queue <long>.\n"), ("HTCondor", "queue 3", "15", "3 job(s) submitted to cluster 15.\n")])
def test_other_batch_systems(home: Path, system: str, line: str, job: str, said: str) -> None:
    one = make(f"{system}EngineSetLauncher", home)
    one.write_batch_script(3)
    assert line in Path(one.batch_file).read_text().splitlines()
    assert one.parse_job_id(said) == job
    with pytest.raises(launcher.LauncherError, match="told no job's number"):
        one.parse_job_id("no")


def test_a_template_of_ones_own(home: Path) -> None:
    one = make("SlurmEngineSetLauncher", home, batch_template="#!/bin/sh\n#SBATCH -n {n} -t {time}\n{program_and_args}\n", namespace={"time": 5},
               engine_cmd=["manyhands", "engine"])
    one.write_batch_script(2)
    assert Path(one.batch_file).read_text() == "#!/bin/sh\n#SBATCH -n 2 -t 5\nmanyhands engine\n"


@pytest.mark.parametrize("kind, program", [("SlurmEngineSetLauncher", "sbatch"), ("MPIEngineSetLauncher", "mpiexec"), ("LSFControllerLauncher", "bsub"),
                                           ("SSHEngineLauncher", "ssh")])
def test_what_is_missing_is_named(home: Path, kind: str, program: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(home))
    options = {"hostname": "other"} if kind.startswith("SSH") else {}
    with pytest.raises(launcher.LauncherError, match=f"{program} is not installed here, or not in PATH"):
        make(kind, home, **options).start(n=2)


def fake(folder: Path, name: str, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program of this name, found first."""
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")


def test_mpi(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = make("MPIEngineSetLauncher", home, engine_cmd=["manyhands", "engine"], mpi_args=["--bind-to", "core"])
    one.n = 4
    assert one.args == ["mpiexec", "-n", "4", "--bind-to", "core", "manyhands", "engine", "--mpi"]
    fake(home, "mpiexec", 'shift 2; OMPI_COMM_WORLD_RANK=3 exec "$@"', monkeypatch)
    with Cluster(n=1, engines="mpi") as rc:
        assert rc.ids == [3]


def test_batch_system(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole way, with commands that stand in for a batch system."""
    fake(home, "sbatch", f'setsid sh "$1" > {home}/job 2>&1 & echo $! > {home}/pid; echo Submitted batch job 7', monkeypatch)
    fake(home, "srun", 'exec "$@"', monkeypatch)
    fake(home, "scancel", f'test "$1" = 7 && kill -s TERM -- -$(cat {home}/pid)', monkeypatch)
    monkeypatch.chdir(home)  # where the batch script is written
    cluster = Cluster(n=1, engines="slurm")
    cluster.start_cluster_sync()
    with cluster.connect_client_sync() as rc:
        rc.wait_for_engines(1, timeout=SOON_S)
        assert "IPP_CONNECTION_INFO" not in Path(cluster.engine_set.batch_file).read_text()
        assert rc[:].apply_sync(int) == [0]
        cluster.stop_engines_sync()
        wait_for(lambda: rc.ids == [])
    cluster.stop_cluster_sync()


def test_ssh(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole way, with an ssh that goes nowhere: it runs here, in another home, what it is told to run there."""
    there = home / "there"
    there.mkdir()
    fake(home, "ssh", f'echo "$*" >> {home}/calls; while [ "$1" != -- ]; do shift; done; shift; cd {there}; exec sh -c "$*"', monkeypatch)
    fake(home, "scp", f'for last; do :; done; cp "$(eval echo \\${{$(($#-1))}})" {there}/"${{last#*:}}"', monkeypatch)
    command = [find_command(), "engine"]
    cluster = Cluster(n=3, engines="ssh", config={"SSHEngineSetLauncher": {"engines": {"me@other:2222": 2, "third": {"n": 4}}, "engine_cmd": command}})
    with cluster as rc:
        assert sorted(rc.ids) == [0, 1, 2]
        assert sorted(cluster.engine_set.launchers) == ["me@other:2222/0", "me@other:2222/1", "third/0"]
        assert {Path(path).name for path in rc[:].apply_sync(os.getcwd)} == {"there"}
        key = json.loads(Path(cluster.controller.connection_files["client"]).read_text())["key"]
        calls = (home / "calls").read_text()
        assert "-p 2222 me@other -- sh -s" in calls and key not in calls
        remote = [one.remote_pid for one in cluster.engine_set.launchers.values()]
        assert all(map(is_alive, remote))
    assert not any(map(is_alive, remote))


@pytest.mark.parametrize("kind", ["controller", "engine"])
def test_entry_points(kind: str) -> None:
    group = [entry for entry in entry_points(group=f"manyhands.{kind}_launchers")]
    assert {"local", "mpi", "slurm", "ssh"} <= {entry.name for entry in group}
    for entry in group:
        found = entry.load()
        assert launcher.find_launcher_class(entry.name.upper(), kind) is found
        assert launcher.abbreviate_launcher_class(found) == entry.name
