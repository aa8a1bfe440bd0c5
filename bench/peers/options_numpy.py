"""A European put by Monte Carlo as a Python user starts it: blocks in NumPy.    python bench/peers/options_numpy.py NAME MILLIONS WORKERS

NAME is a function of tools.py, or `plain`: no NumPy. Prints seconds and the value.
"""

import json
import math
import os
import random
import sys
import time

import numpy
import tools

os.environ["PYTHONPATH"] = os.pathsep.join(sys.path[:2]) # for what the tools start
SPOT, STRIKE, RATE, VOLATILITY, YEARS = 36, 40, 0.06, 0.2, 1
BLOCK = 1_000_000


def block(seed):
    """The sum of what the paths of one block pay; None: no work."""
    if seed is None:
        return 0.0
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
    name, millions, workers = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    times = 20 if name == "plain" else 1
    work = (lambda: [loop(millions * BLOCK // times) * times]) if name == "plain" else getattr(tools, name)(block, list(range(millions)), None, workers)
    start = time.perf_counter()
    total = sum(work())
    seconds = (time.perf_counter() - start) * times
    print(json.dumps({"seconds": seconds, "value": math.exp(-RATE * YEARS) * total / (millions * BLOCK)}), flush=True)


if __name__ == "__main__":
    from options_numpy import main # as the tools' workers know it

    main()
