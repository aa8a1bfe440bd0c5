"""What is measured: one function a row, each beside the peers that can do the same."""

import multiprocessing
import os
import signal
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass, field

import contenders as c
import floors
import manyhands


@dataclass
class Target:
    """What a row must reach: the figure of ours, or its ratio to one peer, below or above a limit."""

    limit: float
    below: bool
    peer: str = ""

    def reached(self, figures):
        value = figures[c.OURS] / (figures[self.peer] if self.peer else 1)
        return value <= self.limit if self.below else value >= self.limit

    def text(self):
        return f"{'≤' if self.below else '≥'} {self.limit:g}{' × ' + self.peer if self.peer else ''}"


@dataclass
class Row:
    name: str
    unit: str
    lower_is_better: bool
    contenders: dict
    target: Target = None
    rounds: dict = field(default_factory=dict)  # contender -> rounds, for those that take minutes


def squares(warm, count=10_000_000):
    numbers = list(range(count))

    def joblib_run():
        import joblib
        return joblib.Parallel(n_jobs=warm.workers)(joblib.delayed(c.square)(x) for x in numbers[: count // 10])

    return [Row(f"map(square, list of {count:,} ints)", "s", True, {
        c.OURS: lambda: c.seconds(lambda: warm.ours().map(c.square, numbers)),
        c.LOOP: lambda: c.seconds(lambda: [c.square(x) for x in numbers]),
        c.STANDARD: lambda: c.seconds(lambda: warm.standard().map(c.square, numbers)),
        c.EXECUTOR: lambda: c.seconds(lambda: list(warm.executor().map(c.square, numbers, chunksize=10_000))),
        c.LOKY: lambda: c.seconds(lambda: list(warm.loky().map(c.square, numbers, chunksize=10_000))),
        c.JOBLIB: lambda: 10 * c.seconds(joblib_run),  # a tenth of the list, times ten: it takes half a minute
        floors.CALLER: lambda: floors.caller(numbers),
    }, Target(0.75, True, c.LOOP), {c.JOBLIB: 1, c.EXECUTOR: 2, c.LOKY: 2})]


def small_tasks(warm, count=200_000):
    few = count // 20
    return [Row(f"map(noop, {count:,}, chunksize=1)", "tasks/s", False, {
        c.OURS: lambda: c.per_second(count, lambda: warm.ours().map(c.noop, range(count), chunksize=1)),
        c.STANDARD: lambda: c.per_second(few, lambda: warm.standard().map(c.noop, range(few), chunksize=1)),
        c.EXECUTOR: lambda: c.per_second(few, lambda: list(warm.executor().map(c.noop, range(few)))),
        c.LOKY: lambda: c.per_second(few, lambda: list(warm.loky().map(c.noop, range(few)))),
    }, Target(1e6, False))]


def submitted(warm, count=100_000):
    few = count // 10

    def asynchronous(pool, number):
        return [f.get() for f in [pool.apply_async(c.noop, (i,)) for i in range(number)]]

    def futures(executor, number):
        return [f.result() for f in [executor.submit(c.noop, i) for i in range(number)]]

    return [Row("apply_async or submit, then every result", "tasks/s", False, {
        c.OURS: lambda: c.per_second(count, lambda: asynchronous(warm.ours(), count)),
        c.STANDARD: lambda: c.per_second(few, lambda: asynchronous(warm.standard(), few)),
        c.EXECUTOR: lambda: c.per_second(few, lambda: futures(warm.executor(), few)),
        c.LOKY: lambda: c.per_second(few, lambda: futures(warm.loky(), few)),
        floors.OBJECTS: lambda: c.per_second(count, lambda: asynchronous(floors.NoPool, count)),
    }, Target(5e5, False))]


def round_trip(warm, count=2_000):
    def quantiles(call):
        times = sorted(c.seconds(call) * 1e6 for _ in range(count))
        return times[count // 2], times[count * 99 // 100]

    calls = {
        c.OURS: lambda: warm.ours().apply(c.noop, (1,)),
        c.STANDARD: lambda: warm.standard().apply(c.noop, (1,)),
        c.EXECUTOR: lambda: warm.executor().submit(c.noop, 1).result(),
        c.LOKY: lambda: warm.loky().submit(c.noop, 1).result(),
    }
    echo = floors.Echo()
    calls[floors.BYTE] = echo.call
    return [Row(f"apply round trip p{percent}", "µs", True,
                {name: lambda call=call, at=at: quantiles(call)[at] for name, call in calls.items()}, Target(limit, True))
            for at, percent, limit in ((0, 50, 20), (1, 99, 150))]


def arrays(warm, count=64, size=8 << 20):
    import numpy
    inputs = [numpy.full(size // 8, float(i)) for i in range(count)]
    gigabytes = 2 * count * size / 1e9  # in and out

    def rate(run):
        return lambda: gigabytes / c.seconds(run)

    return [Row(f"{count} arrays of {size >> 20} MB, in and out", "GB/s", False, {
        c.OURS: rate(lambda: warm.ours().map(c.same, inputs, chunksize=1)),
        c.STANDARD: rate(lambda: warm.standard().map(c.same, inputs, chunksize=1)),
        c.EXECUTOR: rate(lambda: list(warm.executor().map(c.same, inputs))),
        c.LOKY: rate(lambda: list(warm.loky().map(c.same, inputs))),
        floors.MEMCPY: rate(lambda: floors.copy_twice(inputs)),
    }, Target(3, False))]


def start_and_stop(warm):
    def pool(library):
        with library.get_context("fork").Pool(warm.workers) as p:  # the others leave threads behind, with which ours would exec
            p.apply(c.noop, (1,))

    def executor():
        import concurrent.futures
        with concurrent.futures.ProcessPoolExecutor(warm.workers) as e:
            e.submit(c.noop, 1).result()

    def loky():
        from joblib.externals.loky import ProcessPoolExecutor
        with ProcessPoolExecutor(warm.workers) as e:
            e.submit(c.noop, 1).result()

    return [Row("pool start, one task, stop", "ms", True, {
        c.OURS: lambda: 1e3 * c.seconds(lambda: pool(manyhands)),
        c.STANDARD: lambda: 1e3 * c.seconds(lambda: pool(multiprocessing)),
        c.EXECUTOR: lambda: 1e3 * c.seconds(executor),
        c.LOKY: lambda: 1e3 * c.seconds(loky),
        floors.FORKS: lambda: 1e3 * c.seconds(lambda: floors.bare_forks(2)),  # a worker and the server of those to come
    }, Target(5, True))]


def processes(warm):
    """Beside them what each cannot go below here: a fork of this process that does nothing, and an interpreter that does nothing."""
    def start(library, method):
        process = library.get_context(method).Process(target=abs, args=(1,))  # which a fresh interpreter has without importing us
        process.start()
        process.join()

    least = {"fork": (floors.FORK, lambda: floors.bare_forks(1)), "forkserver": (floors.FORK, lambda: floors.bare_forks(1)),
             "spawn": ("python -c pass", lambda: subprocess.run([sys.executable, "-c", "pass"], check=True))}
    return [Row(f"Process start and join, {method}", "ms", True, {
        c.OURS: lambda method=method: 1e3 * c.seconds(lambda: start(manyhands, method)),
        c.STANDARD: lambda method=method: 1e3 * c.seconds(lambda: start(multiprocessing, method)),
        least[method][0]: lambda method=method: 1e3 * c.seconds(least[method][1]),
    }, Target(limit, True)) for method, limit in (("fork", 1.5), ("forkserver", 3), ("spawn", 60))]


def die_once(path):
    """Kill this worker at the first attempt, answer at the second; the first leaves the time of death in the file."""
    if os.path.exists(path):
        return time.monotonic()
    with open(path, "x") as out:
        out.write(repr(time.monotonic()))
    os.kill(os.getpid(), signal.SIGKILL)


def death(warm, count=20):
    def once(folder, number):
        path = os.path.join(folder, str(number))
        moved = warm.ours().apply_async(die_once, (path,), retries=1).get()
        with open(path) as file:
            return 1e3 * (moved - float(file.read()))

    def ours():
        import tempfile
        with tempfile.TemporaryDirectory() as folder:
            return statistics.median(once(folder, i) for i in range(count))

    return [Row("worker killed: its task runs elsewhere after", "ms", True, {c.OURS: ours}, Target(50, True))]


def all_rows(workers):
    """Yields each row with its pools warm, and stops them before the next. Starts come first, while this process is small."""
    from rows_futures import FUTURES  # which needs what is above
    from rows_limits import limited, nested
    from rows_memory import MEMORY
    from rows_queues import pipe_rows, queue_rows
    from rows_sync import sync

    for make in (start_and_stop, processes, sync, queue_rows, pipe_rows, squares, small_tasks, submitted, round_trip, arrays, death, nested,
                 limited, *FUTURES, *MEMORY):
        warm = c.Warm(workers)
        try:
            yield from make(warm)
        finally:
            warm.close()
