"""A European put by Monte Carlo as a Python user starts it.    python bench/peers/options_numpy.py MILLIONS WORKERS   (0: a plain loop)"""

import json
import math
import multiprocessing
import random
import sys
import time

import numpy

SPOT, STRIKE, RATE, VOLATILITY, YEARS = 36, 40, 0.06, 0.2, 1
BLOCK = 1_000_000


def block(seed):
    normal = numpy.random.default_rng(seed).standard_normal(BLOCK)
    end = SPOT * numpy.exp((RATE - VOLATILITY ** 2 / 2) * YEARS + VOLATILITY * math.sqrt(YEARS) * normal)
    return numpy.maximum(STRIKE - end, 0).sum()


def loop(paths):
    total = 0.0
    for _ in range(paths):
        end = SPOT * math.exp((RATE - VOLATILITY ** 2 / 2) * YEARS + VOLATILITY * math.sqrt(YEARS) * random.gauss(0, 1))
        total += max(STRIKE - end, 0)
    return total


def main():
    millions, workers = int(sys.argv[1]), int(sys.argv[2])
    if workers > 1:
        pool = multiprocessing.Pool(workers)
        pool.map(len, [""] * 8)
    start = time.perf_counter()
    if workers == 0:
        total, times = loop(millions * BLOCK // 20) * 20, 20
    else:
        total, times = sum(pool.map(block, range(millions)) if workers > 1 else map(block, range(millions))), 1
    seconds = (time.perf_counter() - start) * times
    print(json.dumps({"seconds": seconds, "value": math.exp(-RATE * YEARS) * total / (millions * BLOCK)}))


if __name__ == "__main__":
    main()
