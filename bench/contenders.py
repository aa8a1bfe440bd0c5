"""The pools that the rows compare, each warm, behind one small interface."""

import concurrent.futures
import multiprocessing
import os
import time

import manyhands

OURS = "manyhands"
STANDARD = "multiprocessing"
EXECUTOR = "ProcessPoolExecutor"
LOKY = "loky"
JOBLIB = "joblib"
LOOP = "plain loop"


def cores():
    return len(os.sched_getaffinity(0))


def square(x):
    return x * x


def noop(x):
    return None


def same(x):
    return x


class Warm:
    """Pools that live through one row: started at the first use, stopped by close()."""

    def __init__(self, workers):
        self.workers = workers
        self._made = {}

    def _get(self, name, make):
        if name not in self._made:
            pool = self._made[name] = make()
            # every worker has started and loaded what it needs before anything is timed
            list(pool.map(square, range(self.workers * 8)))
        return self._made[name]

    def ours(self):
        return self._get(OURS, lambda: manyhands.Pool(self.workers))

    def standard(self):
        return self._get(STANDARD, lambda: multiprocessing.Pool(self.workers))

    def executor(self):
        return self._get(EXECUTOR, lambda: concurrent.futures.ProcessPoolExecutor(self.workers))

    def loky(self):
        def make():
            from joblib.externals.loky import ProcessPoolExecutor  # not the reusable one, which joblib's own rows take
            return ProcessPoolExecutor(self.workers, timeout=600)
        return self._get(LOKY, make)

    def close(self):
        for pool in self._made.values():
            if hasattr(pool, "shutdown"):
                pool.shutdown()
            else:
                pool.terminate()
                pool.join()
        self._made.clear()


def seconds(work):
    """How long work() takes, without the time to free what it returned."""
    start = time.perf_counter()
    result = work()
    elapsed = time.perf_counter() - start
    del result
    return elapsed


def per_second(count, work):
    return count / seconds(work)
