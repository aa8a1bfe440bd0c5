"""Map a function over a list of work with one of the tools that a Python user would take: each returns run() -> iterator of results, warm."""

import atexit
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "examples"))


def loop(function, items, empty, workers):
    return lambda: map(function, items)


def manyhands(function, items, empty, workers):
    import manyhands
    pool = manyhands.Pool(workers)
    pool.map(function, [empty] * 8)
    return lambda: pool.imap_unordered(function, items)


def engines(function, items, empty, workers):
    """A cluster of ours."""
    from manyhands import Pool
    from manyhands.parallel import Client
    from manyhands.parallel.cluster import private
    pool = Pool(cluster=Client(private.start(workers, quiet=True).connection_file))
    pool.map(function, [empty] * 8)
    return lambda: pool.imap_unordered(function, items)


def multiprocessing(function, items, empty, workers):
    import multiprocessing
    pool = multiprocessing.Pool(workers)
    pool.map(function, [empty] * 8)
    return lambda: pool.imap_unordered(function, items)


def joblib(function, items, empty, workers):
    import joblib
    parallel, task = joblib.Parallel(workers), joblib.delayed(function)
    parallel(task(empty) for _ in range(8))
    return lambda: parallel(task(item) for item in items)


def dask(function, items, empty, workers):
    from dask.distributed import Client
    client = Client(n_workers=workers, threads_per_worker=1, dashboard_address=None)
    client.gather(client.map(function, [empty] * 8, pure=False))
    return lambda: client.gather(client.map(function, items, pure=False))


def ray(function, items, empty, workers):
    import logging

    import ray
    ray.init(num_cpus=workers, include_dashboard=False, logging_level=logging.ERROR, log_to_driver=False)
    task = ray.remote(function)
    ray.get([task.remote(empty) for _ in range(8)])
    return lambda: ray.get([task.remote(item) for item in items])


def ipyparallel(function, items, empty, workers):
    import ipyparallel
    cluster = ipyparallel.Cluster(n=workers, log_level=40)
    client = cluster.start_and_connect_sync()
    atexit.register(cluster.stop_cluster_sync)
    client[:].execute(f"import sys; sys.path[:0] = {sys.path!r}", block=True)
    view = client.load_balanced_view()
    view.map_sync(function, [empty] * 8)
    return lambda: view.map_sync(function, items)
