"""Stock tools find, use and end our clusters, and we theirs."""

import subprocess
import sys
from typing import Any

import pytest

from clusters import Home, is_alive, nothing_of

pytest.importorskip("ipyparallel")
# They answer slowly on a busy machine.
STOCK_S = 100


def stock(home: Home, *arguments: str) -> str:
    run = subprocess.run([sys.executable, *arguments], env=home.environment, capture_output=True, text=True, timeout=STOCK_S)
    assert run.returncode == 0, run.stderr
    return run.stdout


USE = """
import ipyparallel as ipp
cluster = ipp.Cluster.from_file(profile="default", cluster_id="night")
assert cluster.controller.running and len(cluster.engines) == 1
with ipp.Client(profile="default", cluster_id="night") as rc:
    print(rc.ids, rc[:].apply_sync(lambda: 6 * 7))
"""


def test_ours_for_stock_tools(home: Home) -> None:
    process, said = home.start("-n", "2", "--cluster-id=night")
    pids = home.pids(home.only())
    row = stock(home, "-m", "ipyparallel.cluster", "list").splitlines()[1].split()
    assert row == ["default", "night", "True", "2", "Local"]
    assert stock(home, "-c", USE).strip() == "[0, 1] [42, 42]"
    cluster = home.only()  # stock tools may have written the file anew
    assert (cluster["engines"], cluster["watcher_pid"]) == (2, process.pid)
    stock(home, "-m", "ipyparallel.cluster", "stop", "--cluster-id=night")
    assert process.wait(30) == 0, home.errors(process)
    nothing_of(pids)
    assert home.files() == []


def test_theirs_for_us(home: Home) -> None:
    stock(home, "-m", "ipyparallel.cluster", "start", "-n", "1", "--daemonize", "--cluster-id=theirs")
    cluster: dict[str, Any] = home.only()
    assert (cluster["cluster_id"], cluster["running"], cluster["engines"], cluster["launcher"]) == ("theirs", True, 1, "local")
    assert "watcher_pid" not in cluster
    assert home.json("status", "theirs")["unassigned"] == 0
    assert home.run("logs", "theirs").returncode == 0
    pids = home.pids(cluster)
    home.run("stop", "theirs")
    assert not any(map(is_alive, [cluster["controller_pid"], *cluster["engine_pids"]]))
    nothing_of(pids)
    assert home.json("list") == []


def test_programs_that_run_ipcluster_run_ours(home: Home) -> None:
    import manyhands.parallel

    assert stock(home, "-m", "manyhands.parallel.cluster", "--version").strip() == manyhands.__version__ == manyhands.parallel.__version__
    assert "usage: manyhands" in stock(home, "-m", "manyhands.parallel.cluster", "--help-all")
    assert stock(home, "-m", "manyhands.parallel.cluster", "list", "-o", "json").strip() == "[]"
