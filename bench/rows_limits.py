"""Rows about nested pools and limits: what they cost beside doing without."""

import time

import contenders as c
import manyhands

LEAVES, LEAF_SECONDS = 800, 0.001


def burn(seconds):
    until = time.process_time() + seconds
    while time.process_time() < until:
        pass


def nest(leaves):
    with manyhands.Pool() as pool:
        pool.map(burn, [LEAF_SECONDS] * leaves, chunksize=10)


def nested(warm):
    """The same leaves, by one pool and by a pool in each of its tasks."""
    def flat():
        return c.per_second(LEAVES, lambda: warm.ours().map(burn, [LEAF_SECONDS] * LEAVES, chunksize=10))

    def in_pools():
        return c.per_second(LEAVES, lambda: warm.ours().map(nest, [LEAVES // 4] * 4, chunksize=1))

    from rows import Row, Target

    return [Row("pools in pools: tasks of 1 ms", "tasks/s", False, {c.OURS: in_pools, "one flat pool": flat}, Target(0.8, False, "one flat pool"))]


def limited(warm, count=20_000):
    from rows import Row

    def rate(**options):
        return lambda: c.per_second(count, lambda: warm.ours().map(c.noop, range(count), chunksize=1, **options))

    return [Row("map(noop, chunksize=1) with a memory limit", "tasks/s", False, {c.OURS: rate(memory=1 << 30), "without": rate()})]
