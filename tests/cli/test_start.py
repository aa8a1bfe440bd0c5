"""`manyhands start` and what belongs to it: real processes, killed by real signals."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from clusters import COMMAND, Home, children_of, is_alive, nothing_of, wait_for

PLAIN = ("-n", "2", "--shell=plain")


def test_in_the_background(home: Home) -> None:
    run = home.run("start", "--daemonize", *PLAIN)  # which also waits until nobody holds its output
    assert run.stdout == '2 engines ready: Client(profile="default")\n'
    assert run.stderr == ""
    cluster = home.only()
    assert (cluster["profile"], cluster["cluster_id"], cluster["running"], cluster["engines"], cluster["launcher"]) == ("default", "", True, 2, "local")
    pids = [cluster["watcher_pid"], *home.pids(cluster)]
    assert len(pids) == 6 and all(map(is_alive, pids))  # watcher, controller, two engines with an executor each

    status = home.json("status")
    assert [engine["id"] for engine in status["engines"]] == [0, 1]
    assert [engine["pid"] for engine in status["engines"]] == cluster["engine_pids"]
    assert all(engine["memory_bytes"] > 1_000_000 for engine in status["engines"])
    assert status["controller"]["pid"] == cluster["controller_pid"]
    assert "2 engines, 0 tasks without an engine" in home.run("status").stdout

    top = home.run("top", "--interval=0.05")  # a pipe: one look
    assert top.stdout.count("the cluster of profile default: 2 engines") == 1
    looks = [json.loads(line) for line in home.run("top", "--interval=0.05", "--count=2", "--json").stdout.splitlines()]
    assert [len(look["engines"]) for look in looks] == [2, 2] and looks[0]["tasks_per_s"] == 0

    logs = home.run("logs").stdout
    assert "controller | " in logs and "engine 0   | " in logs
    assert home.run("logs", "--engine=1", "--lines=1").stdout.count("\n") == 1

    for path in (home.profile / "security").iterdir():
        assert path.stat().st_mode & 0o777 == 0o600
    assert (home.profile / "security").stat().st_mode & 0o777 == 0o700

    assert home.run("stop").stdout == "stopped the cluster of profile default\n"
    assert not any(map(is_alive, pids))  # stop has waited
    assert home.files() == []
    assert home.json("list") == []


def test_names_and_statuses(home: Home) -> None:
    home.start("--cluster-id=night", *PLAIN)
    home.start("--cluster-id=day", "-n", "0")
    assert [(c["cluster_id"], c["engines"]) for c in home.json("list")] == [("day", 0), ("night", 2)]
    assert home.run("list", "--ids").stdout == "day\nnight\n"
    again = home.run("start", "--cluster-id=night", "-n", "1", check=10)
    assert "runs already" in again.stderr
    assert "manyhands list shows" in home.run("status", check=11).stderr
    assert home.json("status", "day")["engines"] == []
    assert home.run("logs", "noon", check=11).stdout == ""
    home.run("stop", check=11)
    assert home.json("stop", "night", "day") == [
        {"profile": "default", "profile_dir": str(home.profile), "cluster_id": name} for name in ("night", "day")]
    home.run("stop", "--all")  # nothing to stop is fine


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_told_to_end(home: Home, number: signal.Signals) -> None:
    process, said = home.start(*PLAIN)
    pids = home.pids(home.only())
    process.send_signal(number)
    assert process.wait(30) == 0, home.errors(process)
    assert not any(map(is_alive, pids))
    assert home.files() == []


def test_killed(home: Home) -> None:
    """Nothing of a cluster outlives its foreground start; what it left is noticed, and cleaned."""
    process, said = home.start(*PLAIN)
    pids = home.pids(home.only())
    process.kill()
    nothing_of(pids)
    left = home.only()
    assert (left["running"], left["stale"], left["engines"]) == (False, True, 0)
    assert "does not run any more" in home.run("status", check=11).stderr
    before = home.files()
    assert f"would remove {home.profile}/security/cluster-.json" in home.run("clean", "--dry-run").stdout
    assert home.files() == before
    home.run("clean", "--keep-logs")
    assert home.files() == [] and home.files("log") != []
    home.run("clean")
    assert home.files("log") == []


def test_started_again_after_it_was_killed(home: Home) -> None:
    process, said = home.start(*PLAIN)
    pids = home.pids(home.only())
    key = json.loads(Path(said["connection_file"]).read_text())["key"]
    process.kill()
    nothing_of(pids)
    home.start(*PLAIN)
    assert json.loads(Path(said["connection_file"]).read_text())["key"] != key
    assert home.json("status")["engines"]


def test_restart_of_an_engine(home: Home) -> None:
    process, said = home.start("--restart", *PLAIN)
    victim = home.json("status")["engines"][1]
    os.kill(victim["pid"], signal.SIGKILL)
    wait_for(lambda: "engine 1 was killed by Killed; started again" in home.errors(process))
    wait_for(lambda: "engine 1 is back" in home.errors(process))
    engines = wait_for(lambda: (e := home.json("status")["engines"]) and len(e) == 2 and e[1]["uuid"] != victim["uuid"] and e)
    assert engines[1]["id"] == 1 and engines[1]["pid"] not in (0, victim["pid"])


def test_restart_of_the_controller(home: Home) -> None:
    process, said = home.start("--restart", *PLAIN)
    before = home.json("status")
    connection = Path(said["connection_file"]).read_text()
    os.kill(said["controller_pid"], signal.SIGKILL)
    wait_for(lambda: "the controller was killed by Killed; started again" in home.errors(process))

    def engines_are_back() -> bool:
        run = home.run("status", "--json", check=None)
        return run.returncode == 0 and [e["uuid"] for e in json.loads(run.stdout)["engines"]] == [e["uuid"] for e in before["engines"]]

    wait_for(engines_are_back)
    assert Path(said["connection_file"]).read_text() == connection
    home.run("stop")
    assert home.files() == []


def test_an_engine_that_can_only_die(home: Home) -> None:
    process, said = home.start("--restart", "-n", "1", "--shell=plain")
    for _ in range(6):
        engine = wait_for(lambda: (c := home.only())["engine_pids"] and c["engine_pids"][0])
        os.kill(engine, signal.SIGKILL)
        wait_for(lambda: not is_alive(engine))
    wait_for(lambda: home.errors(process).count("engine 0 was killed by Killed\n") == 1)
    assert home.errors(process).count("started again") == 5
    assert home.only()["running"]


def test_without_restart(home: Home) -> None:
    process, said = home.start(*PLAIN)
    os.kill(home.only()["engine_pids"][0], signal.SIGKILL)
    wait_for(lambda: "WARNING | engine 0 was killed by Killed\n" in home.errors(process))
    wait_for(lambda: len(home.json("status")["engines"]) == 1)
    pids = home.pids(home.only())
    os.kill(said["controller_pid"], signal.SIGKILL)
    assert process.wait(30) == 1
    assert "the controller was killed" in home.errors(process)
    nothing_of(pids)
    assert home.files() == []


def test_engines_that_cannot_start(home: Home) -> None:
    run = home.run("start", "-n", "1", "--library=/nowhere/libtasks.so", check=1)
    assert "engine 0 ended with code 1 before it was ready: " in run.stderr and "/nowhere/libtasks.so" in run.stderr
    assert home.files() == []
    run = home.run("start", "-n", "1", "--daemonize", "--library=/nowhere/libtasks.so", check=1)
    assert "/nowhere/libtasks.so" in run.stderr
    assert "in time; see" in home.run("start", "-n", "1", "--timeout=0.001", check=1).stderr


def test_options_for_the_controller(home: Home) -> None:
    run = home.run("start", "-n", "0", "--", "--scheme=best", check=1)
    assert "the controller ended with code 2 before it was ready" in run.stderr
    home.start("-n", "0", "--", "--scheme=lru")
    connection = json.loads((home.profile / "security" / "ipcontroller-client.json").read_text())
    assert connection["task_scheme"] == "lru"


def test_a_controller_that_was_started_by_itself(home: Home) -> None:
    controller = subprocess.Popen([COMMAND, "controller"], env=home.environment, stderr=subprocess.DEVNULL)
    try:
        file = home.profile / "security" / "ipcontroller-client.json"
        wait_for(file.exists)
        assert home.json("status")["engines"] == []
        assert "runs already" in home.run("start", "-n", "1", check=10).stderr
        assert "kept, for its controller may run" in home.run("clean").stdout
        assert file.exists()
        home.run("stop")
        controller.wait(30)
    finally:
        controller.kill()
        controller.wait()


@pytest.mark.parametrize("what", ["controller", "engine"])
def test_nobody_elses_process(home: Home, what: str) -> None:
    """A number in a file that now belongs to another process: it gets no signal, from stop nor from clean."""
    other = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    process, said = home.start("-n", "1", "--shell=plain")
    text = (home.profile / "security" / "cluster-.json").read_text()
    cluster = home.only()
    process.kill()
    nothing_of(home.pids(cluster))
    old = cluster["controller_pid"] if what == "controller" else cluster["engine_pids"][0]
    for path in (home.profile / "security" / "cluster-.json", home.profile / "pid" / "manyhands-.json"):
        path.write_text(path.read_text().replace(f'"pid":{old}', f'"pid":{other.pid}'))
    try:
        assert home.only()["stale"]
        home.run("stop", check=11)
        (home.profile / "security" / "cluster-.json").write_text(text.replace(f'"pid":{old}', f'"pid":{other.pid}'))
        home.run("clean", "--force")
        assert home.files() == []
        assert other.poll() is None
    finally:
        other.kill()
        other.communicate()


def test_files_that_are_broken(home: Home) -> None:
    security = home.profile / "security"
    security.mkdir(parents=True, mode=0o700)
    for name, text in (("list", "[]"), ("cut", '{"controller": {'), ("odd", '{"controller": {"class": 5, "state": {"pid": -7}}, "engines": {"sets": {"a": {"engines": 5}}}}')):
        (security / f"cluster-{name}.json").write_text(text)
    assert all(not cluster["running"] for cluster in home.json("list"))
    home.run("stop", "cut", check=11)
    home.run("clean")
    assert home.json("list") == []


def test_a_private_one(home: Home) -> None:
    """What Client() starts: files of its own, gone with its owner."""
    owner = subprocess.Popen([sys.executable, "-c", f"""
import subprocess, sys, os
p = subprocess.Popen([{str(COMMAND)!r}, "start", "--private", "--json", "-n", "1", "--shell=plain", f"--owner={{os.getpid()}}"], stdout=subprocess.PIPE, text=True)
print(p.pid, p.stdout.readline(), flush=True)
input()
"""], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=home.environment)
    assert owner.stdout is not None
    watcher, line = owner.stdout.readline().split(" ", 1)
    said = json.loads(line)
    pids = [int(watcher), *children_of(int(watcher))]
    assert len(pids) == 4
    assert Path(said["profile_dir"]).parent == home.folder and Path(said["profile_dir"]).stat().st_mode & 0o777 == 0o700
    assert home.json("list") == []
    assert len(home.json("status", f"--file={said['connection_file']}")["engines"]) == 1
    owner.kill()
    nothing_of(pids)
    assert not Path(said["profile_dir"]).exists()
    owner.communicate()
    refused = home.run("start", "--private", "--owner=1", check=130)
    assert "is not the parent" in refused.stderr


def test_a_private_one_whose_watcher_was_killed_too(home: Home) -> None:
    """The next one removes what it left."""
    process, said = home.start("--private", "-n", "0")
    folder = Path(said["profile_dir"])
    process.kill()
    process.wait()
    assert folder.exists()
    home.start("--private", "-n", "0")
    assert not folder.exists()


def test_logs_are_followed_to_the_end(home: Home) -> None:
    home.start(*PLAIN)
    follower = subprocess.Popen([COMMAND, "logs", "--follow"], stdout=subprocess.PIPE, text=True, env=home.environment)
    home.run("stop")
    out, _ = follower.communicate(timeout=30)
    assert follower.returncode == 0
    assert "engine 1   | " in out and "SIGTERM: stopping" in out


SUBMIT = """
from manyhands.parallel import Client
rc = Client(profile="default")
view = rc.load_balanced_view()
view.retries = 9
results = [view.apply_async(lambda i: (__import__("time").sleep(0.1), i)[1], i) for i in range(20)]
print(results[0].get(timeout=60), flush=True)
print([result.get(timeout=60) for result in results], flush=True)
"""


def test_durable(home: Home) -> None:
    """All of it is killed in the midst of its tasks, and started again: the client gets its answers without a restart."""
    process, said = home.start("--durable", "-n", "1")
    client = subprocess.Popen([sys.executable, "-c", SUBMIT], stdout=subprocess.PIPE, text=True, env=home.environment)
    assert client.stdout is not None and client.stdout.readline() == "0\n"
    pids = home.pids(home.only())
    process.kill()
    nothing_of(pids)
    home.start("--durable", "-n", "1")
    out, _ = client.communicate(timeout=100)
    assert out == f"{list(range(20))}\n"
    home.run("stop")
    assert home.files() == ["security/ipcontroller-tasks.sqlite"]
