"""The melt as a Python user starts it: NumPy, neighbour pairs from SciPy's k-d tree; alone, or with a multiprocessing.Pool.

    python bench/peers/md_numpy.py [--cells N] [--steps N] [--workers N] [--start FILE]

Prints seconds and the pair energy after the last step. --start is the velocities that `melt --start` wrote.
"""

import argparse
import json
import multiprocessing
import time

import numpy
from scipy.spatial import cKDTree

DENSITY, CUT, SKIN, TIME_STEP, EVERY = 0.8442, 2.5, 0.3, 0.005, 20


def lattice(cells):
    corners = numpy.array([[0, 0, 0], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]])
    z, y, x = numpy.meshgrid(*[numpy.arange(cells)] * 3, indexing="ij")
    origins = numpy.stack([x, y, z], axis=-1).reshape(-1, 1, 3)
    return (origins + corners).reshape(-1, 3) * (4 / DENSITY) ** (1 / 3), cells * (4 / DENSITY) ** (1 / 3)


def find_pairs(x, edge, part=0, parts=1):
    """Pairs below the reach, of which the first atom belongs to this part."""
    pairs = cKDTree(x % edge, boxsize=edge).query_pairs(CUT + SKIN, output_type="ndarray")
    return pairs if parts == 1 else pairs[pairs[:, 0] % parts == part]


def forces(x, pairs, edge):
    i, j = pairs[:, 0], pairs[:, 1]
    d = x[i] - x[j]
    d -= edge * numpy.rint(d / edge)
    square = numpy.einsum("ij,ij->i", d, d)
    near = square < CUT * CUT
    i, j, d, square = i[near], j[near], d[near], square[near]
    i2 = 1 / square
    i6 = i2 ** 3
    f = d * (i6 * (48 * i6 - 24) * i2)[:, None]
    total = numpy.empty_like(x)
    for axis in range(3):
        total[:, axis] = numpy.bincount(i, f[:, axis], len(x)) - numpy.bincount(j, f[:, axis], len(x))
    return total, 4 * (i6 * (i6 - 1)).sum()


kept = {}


def part_forces(task):
    x, edge, generation, part, parts = task
    if kept.get(part, (None,))[0] != generation:
        kept[part] = generation, find_pairs(x, edge, part, parts)
    return forces(x, kept[part][1], edge)


def simulate(x, v, edge, steps, compute):
    f, energy = compute(x, 0)
    for step in range(1, steps + 1):
        v += TIME_STEP / 2 * f
        x += TIME_STEP * v
        f, energy = compute(x, step // EVERY)
        v += TIME_STEP / 2 * f
    return energy / len(x)


def alone(edge):
    def compute(x, generation):
        return part_forces((x, edge, generation, 0, 1))
    return compute


def together(edge, pool, parts):
    def compute(x, generation):
        results = pool.map(part_forces, [(x, edge, generation, part, parts) for part in range(parts)])
        return sum(f for f, _ in results), sum(energy for _, energy in results)
    return compute


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--cells", type=int, default=20)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--start", required=True)
    options = parser.parse_args()
    x, edge = lattice(options.cells)
    v = numpy.loadtxt(options.start)
    if options.workers == 1:
        start = time.perf_counter()
        energy = simulate(x, v, edge, options.steps, alone(edge))
        seconds = time.perf_counter() - start
    else:
        with multiprocessing.Pool(options.workers) as pool:
            start = time.perf_counter()
            energy = simulate(x, v, edge, options.steps, together(edge, pool, options.workers))
            seconds = time.perf_counter() - start
    print(json.dumps({"seconds": seconds, "pair_energy": energy}))


if __name__ == "__main__":
    main()
