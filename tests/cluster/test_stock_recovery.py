"""A controller that is killed under a stock client and stock engines of ipyparallel."""

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from peers import Controller

ipp = pytest.importorskip("ipyparallel")
ENGINES, TASKS = 2, 50


def start_engine(folder: Path) -> "subprocess.Popen[bytes]":
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent)}
    return subprocess.Popen([sys.executable, "-m", "ipyparallel.engine", f"--profile-dir={folder}", "--log-level=40"],
                            stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL, start_new_session=True, env=environment)


def test_a_stock_cluster_goes_on(tmp_path: Path) -> None:
    def nap(i: int) -> int: # travels as code: engines need not import this module
        import time
        time.sleep(0.02)
        return i * i

    controller = Controller(tmp_path, "--reuse")
    engines = [start_engine(tmp_path) for _ in range(ENGINES)]
    rc: Any = ipp.Client(str(controller.client_file))
    try:
        rc.wait_for_engines(ENGINES, timeout=60)
        rc[:].push({"kept": 42}, block=True)
        balanced = rc.load_balanced_view()
        results = [balanced.apply_async(nap, i) for i in range(TASKS)]
        for r in results[:10]:
            r.get(timeout=60)
        controller.process.kill()
        controller.process.wait()
        began = time.monotonic()
        controller = Controller(tmp_path, "--reuse")
        left = [r for r in results if not r.ready()]
        while left and not any(r.ready() for r in left):
            time.sleep(0.005)
            assert time.monotonic() - began < 60
        print(f"first new result {time.monotonic() - began:.2f} s after the kill")
        assert [r.get(timeout=60) for r in results] == [i * i for i in range(TASKS)]
        print(f"all results {time.monotonic() - began:.2f} s after the kill")
        assert rc[:].pull("kept", block=True) == [42] * ENGINES # the engines are the same
        assert rc.ids == list(range(ENGINES))
        assert balanced.apply_sync(nap, 3) == 9
        found = rc.db_query({"msg_id": {"$in": [results[0].msg_ids[0], results[-1].msg_ids[0]]}}, keys=["msg_id", "completed"])
        assert len(found) == 2 and all(record["completed"] for record in found)
    finally:
        rc.close()
        for engine in engines:
            os.killpg(engine.pid, 9)
            engine.wait()
        controller.stop()
