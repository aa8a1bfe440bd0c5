"""What a Python program sees of one kind of cluster with two engines:  python bench/cluster_client.py KIND TASKS

KIND: manyhands, ipyparallel, dask.distributed, ray. Starts the cluster, measures, and prints the figures as JSON in one line.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ENGINES, ARRAY_BYTES = 2, 64 << 20


class IPython:
    """manyhands.parallel, or ipyparallel: one interface."""

    def __init__(self, name: str) -> None:
        import importlib

        sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "cluster"))
        from parallel_cluster import Cluster

        self.module = importlib.import_module(name)
        self.folder = tempfile.TemporaryDirectory()
        self.cluster = Cluster(Path(self.folder.name), ENGINES, is_stock=name == "ipyparallel",
                               options=() if name == "ipyparallel" else ("--dictdb",)) # as the stock one: tasks are kept in memory
        self.client = self.module.Client(profile_dir=self.folder.name)
        self.client.wait_for_engines(ENGINES, timeout=60)
        self.one_engine, self.balanced = self.client[0], self.client.load_balanced_view()

    def one(self, function: Callable[..., Any], *args: Any) -> Any:
        return self.balanced.apply_sync(function, *args)

    def direct(self, function: Callable[..., Any], *args: Any) -> Any:
        return self.one_engine.apply_sync(function, *args)

    def map(self, function: Callable[..., Any], count: int) -> Any:
        return self.balanced.map_sync(function, range(count))

    def submit(self, function: Callable[..., Any], value: Any) -> Any:
        return self.balanced.apply_async(function, value)

    @staticmethod
    def result(future: Any) -> Any:
        return future.get()

    def push(self, array: Any) -> None:
        self.one_engine.push({"array": array}, block=True)

    def pull(self) -> Any:
        return self.one_engine.pull("array", block=True)

    def close(self) -> None:
        self.client.close()
        self.cluster.stop()
        self.folder.cleanup()


class Dask:
    def __init__(self) -> None:
        import distributed

        self.cluster = distributed.LocalCluster(n_workers=ENGINES, threads_per_worker=1, processes=True, dashboard_address=None)
        self.client = distributed.Client(self.cluster)
        self.client.wait_for_workers(ENGINES)
        self.first = list(self.client.scheduler_info()["workers"])[0]

    def one(self, function: Callable[..., Any], *args: Any) -> Any:
        return self.client.submit(function, *args, pure=False).result()

    def direct(self, function: Callable[..., Any], *args: Any) -> Any:
        return self.client.submit(function, *args, pure=False, workers=[self.first]).result()

    def map(self, function: Callable[..., Any], count: int) -> Any:
        return self.client.gather(self.client.map(function, range(count), pure=False))

    def submit(self, function: Callable[..., Any], value: Any) -> Any:
        return self.client.submit(function, value, pure=False)

    @staticmethod
    def result(future: Any) -> Any:
        return future.result()

    def push(self, array: Any) -> None:
        self.array = self.client.scatter(array, workers=[self.first], direct=True)

    def pull(self) -> Any:
        return self.client.gather(self.array, direct=True)

    def close(self) -> None:
        self.client.close()
        self.cluster.close()


class Ray:
    def __init__(self) -> None:
        import ray

        self.ray = ray
        self.remotes: dict[Any, Any] = {}
        ray.init(num_cpus=ENGINES, include_dashboard=False, logging_level=logging.ERROR, log_to_driver=False)

    def remote(self, function: Callable[..., Any]) -> Any:
        if function not in self.remotes:
            self.remotes[function] = self.ray.remote(lambda *args: function(*args))
        return self.remotes[function]

    def one(self, function: Callable[..., Any], *args: Any) -> Any:
        return self.ray.get(self.remote(function).remote(*args))

    direct = None # an engine is an actor there: another thing

    def map(self, function: Callable[..., Any], count: int) -> Any:
        task = self.remote(function)
        return self.ray.get([task.remote(i) for i in range(count)])

    def submit(self, function: Callable[..., Any], value: Any) -> Any:
        return self.remote(function).remote(value)

    def result(self, future: Any) -> Any:
        return self.ray.get(future)

    def push(self, array: Any) -> None:
        self.array = self.ray.put(array)

    def pull(self) -> Any:
        return self.ray.get(self.array)

    def close(self) -> None:
        self.ray.shutdown()


KINDS: dict[str, Callable[[], Any]] = {"manyhands": lambda: IPython("manyhands.parallel"), "ipyparallel": lambda: IPython("ipyparallel"), "dask.distributed": Dask,
                                       "ray": Ray}


def seconds(work: Callable[[], Any]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def trips(call: Any, count: int) -> tuple[float, float]:
    """p50 and p99 of round trips in microseconds."""
    for _ in range(20):
        call(abs, -1)
    times = sorted(seconds(lambda: call(abs, -1)) * 1e6 for _ in range(count))
    return times[count // 2], times[count - 1 - count // 100]


def memory_mb() -> float:
    with open("/proc/self/status") as status:
        return int(next(line for line in status if line.startswith("VmRSS")).split()[1]) / 1024


def same(value: Any) -> Any:
    return value


def measure(kind: str, tasks: int) -> dict[str, float]:
    import numpy

    start = time.perf_counter()
    cluster = KINDS[kind]()
    assert cluster.one(abs, -1) == 1
    row = {"first_s": time.perf_counter() - start}
    count = 500 if kind == "manyhands" else 100
    row["one_p50_us"], row["one_p99_us"] = trips(cluster.one, count)
    if cluster.direct:
        row["direct_p50_us"], row["direct_p99_us"] = trips(cluster.direct, count)
    results: list[Any] = []
    row["map_per_s"] = tasks / seconds(lambda: cluster.map(abs, tasks))

    def submit_all() -> None:
        results.extend(cluster.submit(abs, -i) for i in range(tasks))
        assert all(cluster.result(future) == i for i, future in enumerate(results))

    used = time.process_time()
    row["apply_per_s"] = tasks / seconds(submit_all)
    row["client_cpu_us"] = (time.process_time() - used) / tasks * 1e6
    row["client_mb"] = memory_mb()
    array = numpy.arange(ARRAY_BYTES // 8, dtype="f8")
    gigabytes = ARRAY_BYTES / 1e9
    cluster.push(array) # once before, so that what is made at the first use is there
    row["push_gb_s"] = gigabytes / seconds(lambda: cluster.push(array))
    row["pull_gb_s"] = gigabytes / seconds(cluster.pull)
    assert (cluster.pull() == array).all()
    row["echo_gb_s"] = 2 * gigabytes / seconds(lambda: cluster.one(same, array))
    cluster.close()
    return row


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1], int(sys.argv[2]))), flush=True)
    os._exit(0) # what peers leave behind in this process is not measured
