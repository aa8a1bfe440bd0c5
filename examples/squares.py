"""Square ten million integers: a plain loop, the standard library's pool, and ours, in one run; and on a cluster's engines.

    python examples/squares.py [--count N] [--workers N] [--engines N | --cluster NAME] [--kill PART]

Checks that the three lists are equal and prints the three times with their ratios.
"""

import argparse
import multiprocessing
import time

import engines

import manyhands

Times = dict[str, float]
PART = 100_000


def square(x):
    return x * x


def square_all(numbers):
    """For engines: so many at once that sending them is worth while."""
    return [square(x) for x in numbers]


def timed(work):
    """Run work() and return (seconds, its result)."""
    start = time.perf_counter()
    result = work()
    return time.perf_counter() - start, result


def measure(count: int, workers: int, client=None, kill: int | None = None) -> Times:
    """Square range(count) in three ways, with a client in a fourth; the pools are warm (their workers run) before the clock starts.

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
    if client is not None:
        parts = [numbers[i:i + PART] for i in range(0, count, PART)]
        with engines.Workers(client=client, kill=kill) as workers:
            times["the same, on engines"], got = timed(lambda: [y for part in workers.imap(square_all, parts, "squares") for y in part])
        if got != expected:
            raise SystemExit("the engines' results differ from the plain loop's")
    return times


def report(count: int, times: Times) -> None:
    """Print a table of the times and what each is to the plain loop and to multiprocessing."""
    loop, standard = times["plain loop"], times["multiprocessing.Pool"]
    print(f"{count:,} squares, all results equal:")
    print(f"  {'':22}{'seconds':>9}{'to the loop':>14}{'to multiprocessing':>21}")
    for name, seconds in times.items():
        print(f"  {name:22}{seconds:9.2f}{seconds / loop:13.2f}x{seconds / standard:20.2f}x")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=10_000_000, help="how many integers (default: ten million)")
    parser.add_argument("--workers", type=int, default=manyhands.cpu_count(), help="default: the cores")
    parser.add_argument("--kill", type=int, metavar="PART", help=f"the engine that has this part of {PART:,} is killed")
    engines.add_options(parser)
    options = parser.parse_args()
    with engines.connect(options) as client:
        report(options.count, measure(options.count, options.workers, client, options.kill))


if __name__ == "__main__":
    from squares import main # as engines know it

    main()
