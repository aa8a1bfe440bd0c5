"""Pools in pools, a memory limit for each task, and a report of where the time went."""

import tempfile
from pathlib import Path

import manyhands


def collatz(n):
    steps = 0
    while n > 1:
        n = n // 2 if n % 2 == 0 else 3 * n + 1
        steps += 1
    return steps


def longest(start):
    """The longest of 1,000 numbers; by a pool of the worker's own, which shares the machine's cores with the others."""
    with manyhands.Pool() as pool:
        return max(pool.map(collatz, range(start, start + 1000)))


def greedy(megabytes):
    return len(b"x" * (megabytes << 20))


if __name__ == "__main__":
    with manyhands.Pool(trace=True) as pool:
        print("the longest in each thousand:", pool.map(longest, range(1, 6001, 1000), chunksize=1))

        try:
            pool.apply(greedy, (4096,), memory=100 << 20)
        except manyhands.OutOfMemory as error:
            print("as it should be:", error)
        print("and the pool goes on:", pool.apply(greedy, (1,), memory=100 << 20))

        for worker in pool.stats()["each_worker"]:
            print("worker {pid}: {tasks} tasks, busy {busy:.3f} s, idle {idle:.3f} s, serialising {serialising:.4f} s".format(**worker))
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "trace.json")
            pool.trace(path)  # to be opened in chrome://tracing or ui.perfetto.dev
            print(path.stat().st_size, "bytes of trace")
