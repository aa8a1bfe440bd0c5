"""What packing and unpacking costs for each item, beside pickle: python python/src/codec_bench.py

Paired rounds, medians in ns an item; the ratio is pickle's time to ours (above 1: ours is faster).
"""

import pickle
import statistics
import time

from manyhands import _core

ROUNDS = 7
COUNT = 20_000
ITEMS = {
    "int": list(range(COUNT)),
    "int over 30 bits": [i << 32 for i in range(COUNT)],
    "float": [i / 3 for i in range(COUNT)],
    "bool": [i % 3 == 0 for i in range(COUNT)],
    "None": [None] * COUNT,
    "bytes of 8": [b"%08d" % i for i in range(COUNT)],
    "str of 8": ["%08d" % i for i in range(COUNT)],
    "tuple (int, float)": [(i, i / 3) for i in range(COUNT)],
    "dict (as a pickle)": [{"a": i} for i in range(COUNT)],
}


def nanoseconds(call, argument):
    begin = time.perf_counter_ns()
    call(argument)
    return (time.perf_counter_ns() - begin) / COUNT


def measure(items):
    ways = {"pack": (_core.encode, items), "unpack": (_core.decode, _core.encode(items)),
            "pickle": (lambda x: pickle.dumps(x, 5), items), "unpickle": (pickle.loads, pickle.dumps(items, 5))}
    times = {name: [] for name in ways}
    for _ in range(ROUNDS):
        for name, (call, argument) in ways.items():
            times[name].append(nanoseconds(call, argument))
    return {name: statistics.median(t) for name, t in times.items()}


def main():
    print(f"{'ns an item':20} {'pack':>7} {'pickle':>7} {'ratio':>6}   {'unpack':>7} {'pickle':>7} {'ratio':>6}")
    for name, items in ITEMS.items():
        t = measure(items)
        print(f"{name:20} {t['pack']:7.1f} {t['pickle']:7.1f} {t['pickle'] / t['pack']:6.1f}   "
              f"{t['unpack']:7.1f} {t['unpickle']:7.1f} {t['unpickle'] / t['unpack']:6.1f}")


if __name__ == "__main__":
    main()
