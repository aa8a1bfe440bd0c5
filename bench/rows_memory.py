"""What is measured of memory that is shared: managers, and arrays that travel by reference."""

import multiprocessing

import contenders as c
import manyhands
from rows import Row, Target


def manager_calls(warm, count=20_000):
    managers = {}

    def shared(library):
        if library not in managers:
            manager = library.get_context("fork").Manager()
            managers[library] = manager, manager.dict({i: i for i in range(100)})
        return managers[library][1]

    def gets(library, number):
        proxy = shared(library)
        for i in range(number):
            proxy[i % 100]

    def sets(library, number):
        proxy = shared(library)
        for i in range(number):
            proxy[i % 100] = i

    def creations(library, number):
        shared(library)
        for _ in range(number):
            managers[library][0].dict()

    few = count // 5
    try:
        for name, work, ours, theirs, limit in (("get", gets, count, few, 40_000), ("set", sets, count, few, 40_000),
                                                ("created", creations, count // 20, few // 20, 1_000)):
            yield Row(f"Manager dict, {name}", "calls/s", False, {
                c.OURS: lambda work=work, n=ours: c.per_second(n, lambda: work(manyhands, n)),
                c.STANDARD: lambda work=work, n=theirs: c.per_second(n, lambda: work(multiprocessing, n)),
            }, Target(limit, False))
    finally:
        for manager, _ in managers.values():
            manager.shutdown()


def add_one(array):
    array += 1


def add_one_and_return(array):
    return array + 1


def shared_arrays(warm, count=64, size=8 << 20):
    """As `arrays`, where the array is in shared memory: in and out are the same memory."""
    import numpy

    from manyhands import shared_array

    plain = [numpy.full(size // 8, float(i)) for i in range(count)]
    shared = [shared_array.array(a) for a in plain]
    gigabytes = 2 * count * size / 1e9

    def rate(run):
        return lambda: gigabytes / c.seconds(run)

    def loop():
        for a in plain:
            a += 1

    yield Row(f"{count} arrays of {size >> 20} MB, one added, shared", "GB/s", False, {
        c.OURS: rate(lambda: warm.ours().map(add_one, shared, chunksize=1)),
        c.LOOP: rate(loop),
        c.STANDARD: rate(lambda: warm.standard().map(add_one_and_return, plain, chunksize=1)),
    }, Target(1, False, c.LOOP))
    yield Row(f"{count} arrays of {size >> 20} MB, there and back untouched, shared", "GB/s", False, {
        c.OURS: rate(lambda: warm.ours().map(c.same, shared, chunksize=1)),
        c.STANDARD: rate(lambda: warm.standard().map(c.same, plain, chunksize=1)),
    }, Target(3, False))


def ufunc(warm, count=10_000_000):
    """A ufunc over one shared array by all workers, beside one core."""
    import numpy

    from manyhands import shared_array

    plain = numpy.linspace(0, 1, count)
    shared = shared_array.array(plain)
    shared_out, out = shared_array.zeros(count), numpy.zeros(count)

    def gigabytes(run):
        return lambda: 16 * count / 1e9 / c.seconds(run)

    yield Row(f"numpy.sin of {count:,} floats, array in and out", "GB/s", False, {
        c.OURS: gigabytes(lambda: shared_array.parallel(warm.ours(), numpy.sin, shared, out=shared_out)),
        c.LOOP: gigabytes(lambda: numpy.sin(plain, out=out)),
    }, Target(0.95 * warm.workers, False, c.LOOP))


MEMORY = (manager_calls, shared_arrays, ufunc)
