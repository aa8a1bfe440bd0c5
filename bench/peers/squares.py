"""Ten million squares with one of the tools that a Python user would take.    python bench/peers/squares.py NAME WORKERS [COUNT]

Pools and clusters are warm before the clock starts. Prints seconds and the sum of the results.
"""

import array
import atexit
import json
import sys
import time


def square(x):
    return x * x


def loop(numbers, workers):
    return lambda: [square(x) for x in numbers]


def numpy(numbers, workers):
    import numpy
    those = numpy.array(numbers)
    return lambda: those * those


def manyhands(numbers, workers):
    import manyhands
    pool = manyhands.Pool(workers)
    pool.map(square, range(1000))
    return lambda: pool.map(square, numbers)


def engines(numbers, workers):
    """A cluster of ours."""
    from manyhands import Pool
    from manyhands.parallel import Client
    from manyhands.parallel.cluster import private
    pool = Pool(cluster=Client(private.start(workers, quiet=True).connection_file))
    pool.map(squares_of, [[1]] * 8)
    return lambda: flat(pool.imap(squares_of, in_parts(numbers)))


def multiprocessing(numbers, workers):
    import multiprocessing
    pool = multiprocessing.Pool(workers)
    pool.map(square, range(1000))
    return lambda: pool.map(square, numbers)


def squares_of(some):
    return [square(x) for x in some]


def squares_in_array(some):
    return array.array("q", [square(x) for x in some])


def in_parts(numbers):
    """For tools that would take half an hour item by item."""
    return [numbers[i:i + 100_000] for i in range(0, len(numbers), 100_000)]


def flat(parts):
    return [x for part in parts for x in part]


def joblib(numbers, workers):
    import joblib
    parallel, task = joblib.Parallel(workers), joblib.delayed(squares_of)
    parallel(task([1]) for _ in range(8))
    return lambda: flat(parallel(task(part) for part in in_parts(numbers)))


def dask(numbers, workers):
    from dask.distributed import Client
    client = Client(n_workers=workers, threads_per_worker=1, dashboard_address=None)
    client.gather(client.map(squares_in_array, [array.array("q", [k]) for k in range(8)]))
    # arrays: of lists it looks at every number, on the way there and back, for 100 microseconds
    def run():
        parts = client.scatter([array.array("q", part) for part in in_parts(numbers)], hash=False)
        return flat(part.tolist() for part in client.gather(client.map(squares_in_array, parts, pure=False)))
    return run


def ray(numbers, workers):
    import logging

    import ray
    ray.init(num_cpus=workers, include_dashboard=False, logging_level=logging.ERROR, log_to_driver=False)
    task = ray.remote(squares_of)
    ray.get([task.remote([k]) for k in range(8)])
    return lambda: flat(ray.get([task.remote(part) for part in in_parts(numbers)]))


def ipyparallel(numbers, workers):
    import ipyparallel
    cluster = ipyparallel.Cluster(n=workers, log_level=40)
    client = cluster.start_and_connect_sync()
    atexit.register(cluster.stop_cluster_sync)
    view = client[:]
    view.map_sync(square, range(1000))
    return lambda: view.map_sync(square, numbers)


def main():
    name, workers, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]) if len(sys.argv) > 3 else 10_000_000
    work = globals()[name](list(range(count)), workers)
    start = time.perf_counter()
    result = work()
    seconds = time.perf_counter() - start
    print(json.dumps({"seconds": seconds, "sum": sum(map(int, result))}), flush=True)


if __name__ == "__main__":
    main()
