"""Executors: `concurrent.futures` and joblib beside their own."""

import asyncio
import concurrent.futures
import math

import contenders as c
from rows import Row, Target

import manyhands.futures


class Executors:
    """One executor of each kind, warm."""

    def __init__(self, workers):
        from joblib.externals.loky import ProcessPoolExecutor as Loky

        self.made = {c.OURS: manyhands.futures.ProcessPoolExecutor(workers), c.EXECUTOR: concurrent.futures.ProcessPoolExecutor(workers),
                     c.LOKY: Loky(workers, timeout=600)}
        for executor in self.made.values():
            list(executor.map(c.noop, range(workers * 8)))

    def rows(self, name, unit, run, count, target=None, lower_is_better=False):
        """A row in which run(executor, number) gives the figure; peers get a tenth of the number, for they take long."""
        few = max(count // 10, 1)
        return Row(name, unit, lower_is_better,
                   {who: lambda e=e, n=count if who == c.OURS else few: run(e, n) for who, e in self.made.items()}, target)

    def close(self):
        for executor in self.made.values():
            executor.shutdown()


def submit_and_result(executor, count):
    return c.per_second(count, lambda: [f.result() for f in [executor.submit(c.noop, i) for i in range(count)]])


def as_completed(executor, count):
    def run():
        for future in concurrent.futures.as_completed([executor.submit(c.noop, i) for i in range(count)]):
            future.result()

    return c.per_second(count, run)


def mapped(executor, count):
    return c.per_second(count, lambda: list(executor.map(c.noop, range(count))))


def in_asyncio(executor, count):
    async def run():
        loop = asyncio.get_running_loop()
        await asyncio.gather(*(loop.run_in_executor(executor, c.noop, i) for i in range(count)))

    return c.per_second(count, lambda: asyncio.run(run()))


def executors(warm):
    made = Executors(warm.workers)
    try:
        yield made.rows("executor: submit, then every result", "tasks/s", submit_and_result, 100_000, Target(5e5, False))
        yield made.rows("executor: submit, as_completed", "tasks/s", as_completed, 20_000)
        yield made.rows("executor: map(noop), chunksize=1", "tasks/s", mapped, 100_000)
        yield made.rows("executor: run_in_executor, gather", "tasks/s", in_asyncio, 10_000)
    finally:
        made.close()


def joblib_parallel(warm):
    import joblib
    import numpy

    import manyhands.joblib

    manyhands.joblib.register(default=False)
    data = numpy.ones((8, 4 << 20))

    def parallel(backend, calls):
        with joblib.parallel_config(backend=backend, n_jobs=warm.workers):
            joblib.Parallel()(calls)

    def small(backend, count):
        parallel(backend, (joblib.delayed(abs)(i) for i in range(100)))  # started
        return c.per_second(count, lambda: parallel(backend, (joblib.delayed(math.sqrt)(i) for i in range(count))))

    def big(backend):
        return c.seconds(lambda: parallel(backend, (joblib.delayed(total)(data, i) for i in range(len(data)))))

    backends = {c.OURS: "manyhands", c.JOBLIB: "loky"}
    yield Row("joblib.Parallel of small calls", "tasks/s", False, {who: lambda b=b: small(b, 50_000) for who, b in backends.items()})
    yield Row(f"joblib.Parallel with an array of {data.nbytes >> 20} MB", "s", True, {who: lambda b=b: big(b) for who, b in backends.items()})


def total(data, row):
    return float(data[row].sum())


FUTURES = (executors, joblib_parallel)
