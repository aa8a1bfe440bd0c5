"""Nothing grows: descriptors, processes, /dev/shm, memory, references."""

import gc
import os
import sys
import tracemalloc

import pytest
from helpers import children, descriptors, eventually, shared_names

import manyhands
from manyhands import _core


def square(x):
    return x * x


def fail(x):
    raise ValueError(x)


def whole_life():
    with manyhands.Pool(2) as p:
        p.map(square, range(10))
        list(p.imap(square, range(10)))
        p.apply_async(square, (1,), callback=lambda r: None).wait()
        p.map(lambda x: x, [1])
        p.close()
        p.join()


def one_process():
    p = manyhands.Process(target=square, args=(2,))
    p.start()
    p.join()
    p.close()


def unclosed():
    p = manyhands.Pool(1)
    p.apply(square, (2,))
    p.terminate()


@pytest.mark.parametrize("life", [whole_life, one_process, unclosed], ids=lambda f: f.__name__)
def test_lives_leave_nothing(life):
    for _ in range(3):
        life()
    gc.collect()
    fds, names = descriptors(), shared_names()
    for _ in range(20):
        life()
    gc.collect()
    eventually(lambda: descriptors() <= fds)
    assert shared_names() <= names


def test_no_process_is_left():
    before = children()
    for _ in range(3):
        whole_life()
    eventually(lambda: children() <= before)


CALLS = [
    lambda p: p.apply(square, (5,)),
    lambda p: p.apply(square, kwds={"x": 5}),
    lambda p: p.apply_async(square, ("x" * 1000,)) and None,
    lambda p: p.map(square, range(100)),
    lambda p: p.map(square, range(10), 1),
    lambda p: p.map(str, ["é", "b"]),
    lambda p: p.map(lambda x: x, [1, (2, 3), [4], None]),
    lambda p: p.starmap(divmod, [(5, 2)]),
    lambda p: p.map_async(square, range(10), 1).get(),
    lambda p: p.map_async(fail, range(3), 1).wait(),
    lambda p: list(p.imap(square, range(20))),
    lambda p: next(p.imap(square, range(1000))),
    lambda p: sorted(p.imap_unordered(square, range(20), 3)),
    lambda p: p.apply_async(square, (1,), callback=str).wait(),
    lambda p: pytest.raises(ValueError, p.apply, fail, (1,)) and None,
    lambda p: pytest.raises(RuntimeError, p.map, square, [Bad()]) and None,
    lambda p: _core.decode(_core.encode([{"a": 1}, "x"])),
]


class Bad:
    def __reduce__(self):
        raise RuntimeError("no")


@pytest.mark.parametrize("number", range(len(CALLS)))
def test_calls_leave_no_memory(pool, number):
    """Blocks of Python's allocator after many calls, against after a few."""
    call = CALLS[number]

    def blocks(rounds):
        for _ in range(rounds):
            call(pool)
        gc.collect()
        return sys.getallocatedblocks()

    blocks(100)
    least = None
    for _ in range(3):  # free lists fill up and empty; a leak grows each time
        first = blocks(20)
        grown = blocks(300) - first
        least = grown if least is None else min(least, grown)
    assert least < 150, f"{least} blocks in 300 calls"


def test_references_of_arguments_and_results(pool):
    class Mark:
        pass

    import weakref

    marks = [Point(i) for i in range(10)]
    refs = [weakref.ref(m) for m in marks]
    results = pool.map(identity, marks, 1) + [pool.apply(identity, (marks[0],))] + list(pool.imap(identity, marks))
    refs += [weakref.ref(r) for r in results]
    del marks, results
    gc.collect()
    assert [r() for r in refs if r() is not None] == []


class Point:
    def __init__(self, x):
        self.x = x


def identity(x):
    return x


def resident_kb():
    return int(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmRSS")))


def test_a_million_tasks():
    with manyhands.Pool(2) as p:
        def run(n):
            assert sum(p.map(square, range(n), 1)) == sum(i * i for i in range(n))

        run(200_000)
        gc.collect()
        before, fds, names = resident_kb(), descriptors(), shared_names()
        for _ in range(5):
            run(200_000)
        gc.collect()
        assert resident_kb() - before < 4096 and descriptors() == fds and shared_names() == names
        assert p.stats()["finished"] == 1_200_000


def test_many_asynchronous_results():
    with manyhands.Pool(2) as p:
        def run():
            results = [p.apply_async(square, (i,)) for i in range(20_000)]
            assert [r.get() for r in results] == [i * i for i in range(20_000)]

        run()
        gc.collect()
        tracemalloc.start()
        before = tracemalloc.get_traced_memory()[0]
        run()
        gc.collect()
        assert tracemalloc.get_traced_memory()[0] - before < 200_000
        tracemalloc.stop()


def test_memory_of_a_big_map():
    """The parent's peak is at most 1.6 times input and output."""
    from helpers import run_program

    done = run_program("""
        import manyhands
        def square(x):
            return x * x
        def peak():
            return int(next(l.split()[1] for l in open("/proc/self/status") if l.startswith("VmHWM"))) * 1024
        def now():
            return int(next(l.split()[1] for l in open("/proc/self/status") if l.startswith("VmRSS"))) * 1024
        if __name__ == "__main__":
            base = now()
            with manyhands.Pool(2) as p:
                items = list(range(2_000_000))
                given = now() - base
                out = p.map(square, items)
                held = now() - base
                print((peak() - base) / held, held > given)
    """, timeout=100)
    ratio, grown = done.stdout.split()
    assert float(ratio) < 1.6 and grown == "True", done
