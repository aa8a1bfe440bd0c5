"""The Python client with all parts ours, beside all parts stock in the same run: controller, two Python engines, no-op tasks.

    python bench/parallel_client.py [TASKS]

Prints a table: one task in flight on one engine and load-balanced, tasks a second by apply_async and by map, CPU time of the client for each,
and its memory after TASKS results that are kept. Both controllers keep history in memory. All share this machine's cores, so read ratios.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "cluster"))

from parallel_cluster import Cluster # noqa: E402

# Runs in a process of its own, so that its memory is the client's alone.
PROGRAM = """
import importlib, json, resource, sys, time
ipp = importlib.import_module(sys.argv[1])
trips, tasks = int(sys.argv[3]), int(sys.argv[4])
rc = ipp.Client(profile_dir=sys.argv[2])
rc.wait_for_engines(2, timeout=60)
one, balanced = rc[0], rc.load_balanced_view()
row = {}
for name, view in (("direct", one), ("balanced", balanced)):
    for _ in range(20):
        view.apply_sync(abs, -1)
    times = []
    for _ in range(trips):
        start = time.perf_counter()
        view.apply_sync(abs, -1)
        times.append((time.perf_counter() - start) * 1e6)
    times.sort()
    row[f"{name} apply_sync p50 us"], row[f"{name} apply_sync p99 us"] = times[trips // 2], times[-1 - trips // 100]
start, used = time.perf_counter(), time.process_time()
balanced.map_sync(abs, range(tasks))
row["map tasks/s"] = tasks / (time.perf_counter() - start)
row["client CPU us/task, map"] = (time.process_time() - used) / tasks * 1e6
start, used = time.perf_counter(), time.process_time()
results = [balanced.apply_async(abs, -i) for i in range(tasks)]
for i, result in enumerate(results):
    assert result.get() == i
row["apply_async tasks/s"] = tasks / (time.perf_counter() - start)
row["client CPU us/task, apply_async"] = (time.process_time() - used) / tasks * 1e6
row["client memory MB"] = int(next(line for line in open("/proc/self/status") if line.startswith("VmRSS")).split()[1]) / 1024
print(json.dumps(row))
rc.close()
"""
KINDS = {"manyhands": "manyhands.parallel", "ipyparallel": "ipyparallel"}


def measure(name: str, trips: int, tasks: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        cluster = Cluster(Path(folder), 2, is_stock=name == "ipyparallel", options=() if name == "ipyparallel" else ("--dictdb",))
        try:
            done = subprocess.run([sys.executable, "-c", PROGRAM, KINDS[name], folder, str(trips), str(tasks)], capture_output=True, text=True,
                                  env=cluster.environment, check=True)
        finally:
            cluster.stop()
    row: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return row


def main(tasks: int = 20_000) -> None:
    ours = measure("manyhands", 1000, tasks)
    few = min(tasks, 1000)  # the stock parts take minutes for more; their memory is told for as many
    stock = measure("ipyparallel", 100, few)
    print(f"{'':34}{'manyhands':>12}{'ipyparallel':>14}{'ratio':>10}    ({tasks} tasks; ipyparallel: {few})")
    for what, value in ours.items():
        print(f"{what:34}{value:12.1f}{stock[what]:14.1f}{value / stock[what]:10.3f}")


if __name__ == "__main__":
    main(*(int(a) for a in sys.argv[1:]))
