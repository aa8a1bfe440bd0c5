"""Heat spreads over a plate: workers compute on one shared array, and a manager keeps the books.

    python examples/heat.py [--size N] [--steps N] [--workers N]

Two plates in shared memory take turns: each worker reads its rows of one, and those next to them, and writes the other. Nothing is
copied between processes; what travels is which rows to do.
"""

import argparse

import numpy

import manyhands
from manyhands import shared_array


def spread(source, target, first, last, done):
    """One step for the rows from first to last, the edges of the plate left out."""
    target[first:last, 1:-1] = (source[first - 1:last - 1, 1:-1] + source[first + 1:last + 1, 1:-1] +
                                source[first:last, :-2] + source[first:last, 2:]) / 4
    done[first] = done.get(first, 0) + 1


def simulate(size: int, steps: int, workers: int) -> tuple[numpy.ndarray, dict]:
    source, target = shared_array.zeros((size, size)), shared_array.zeros((size, size))
    source[0] = target[0] = 100.0  # one edge is hot
    bounds = numpy.linspace(1, size - 1, workers + 1).astype(int)
    with manyhands.Manager() as manager, manyhands.Pool(workers) as pool:
        done = manager.dict()
        for _ in range(steps):
            pool.starmap(spread, [(source, target, int(first), int(last), done) for first, last in zip(bounds, bounds[1:])], chunksize=1)
            source, target = target, source
        return source, done.copy()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=400)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--workers", type=int, default=manyhands.cpu_count())
    options = parser.parse_args()
    plate, done = simulate(options.size, options.steps, options.workers)
    assert all(count == options.steps for count in done.values())
    print(f"after {options.steps} steps by {options.workers} workers: {plate[1].mean():.1f} degrees beside the hot edge, "
          f"{(plate > 1).mean():.0%} of the plate warmer than 1 degree")


if __name__ == "__main__":
    main()
