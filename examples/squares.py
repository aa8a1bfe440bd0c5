"""Square ten million integers: a plain loop, the standard library's pool, and ours, in one run.

    python examples/squares.py [--count N] [--workers N]

Checks that the three lists are equal and prints the three times with their ratios.
"""

import argparse
import multiprocessing
import time

import manyhands

Times = dict[str, float]


def square(x):
    return x * x


def timed(work):
    """Run work() and return (seconds, its result)."""
    start = time.perf_counter()
    result = work()
    return time.perf_counter() - start, result


def measure(count: int, workers: int) -> Times:
    """Square range(count) in three ways; both pools are warm (their workers run) before the clock starts.

    Returns seconds by name. Raises SystemExit when the results differ.
    """
    numbers = list(range(count))
    times: Times = {}
    times["plain loop"], expected = timed(lambda: [square(x) for x in numbers])
    for name, library in (("multiprocessing.Pool", multiprocessing), ("manyhands.Pool", manyhands)):
        with library.Pool(workers) as pool:
            pool.map(square, range(workers * 4))
            times[name], got = timed(lambda: pool.map(square, numbers))
        if got != expected:
            raise SystemExit(f"{name}: the results differ from the plain loop's")
        del got
    return times


def report(count: int, times: Times) -> None:
    """Print a table of the times and what each is to the plain loop and to multiprocessing."""
    loop, standard = times["plain loop"], times["multiprocessing.Pool"]
    print(f"{count:,} squares, all three results equal:")
    print(f"  {'':22}{'seconds':>9}{'to the loop':>14}{'to multiprocessing':>21}")
    for name, seconds in times.items():
        print(f"  {name:22}{seconds:9.2f}{seconds / loop:13.2f}x{seconds / standard:20.2f}x")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=10_000_000, help="how many integers (default: ten million)")
    parser.add_argument("--workers", type=int, default=manyhands.cpu_count(), help="default: the cores")
    options = parser.parse_args()
    report(options.count, measure(options.count, options.workers))


if __name__ == "__main__":
    main()
