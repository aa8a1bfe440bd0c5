"""While a big map runs, the interpreter's arenas come from our own allocator, and nothing of it is left afterwards."""

import ctypes
import threading

import pytest

import manyhands

MANY = 1 << 18  # fewer results than that change nothing


class Allocator(ctypes.Structure):
    _fields_ = [("ctx", ctypes.c_void_p), ("alloc", ctypes.c_void_p), ("free", ctypes.c_void_p)]

    def __eq__(self, other):
        return bytes(self) == bytes(other)


def current():
    found = Allocator()
    ctypes.pythonapi.PyObject_GetArenaAllocator(ctypes.byref(found))
    return found


def install(allocator):
    ctypes.pythonapi.PyObject_SetArenaAllocator(ctypes.byref(allocator))


def square(x):
    return x * x


def run(pool, count, look):
    """A map of so many items; look() is called in the middle of it."""
    return pool._map(square, range(count), 0, False, lambda done: look())


@pytest.fixture(scope="module")
def pool():
    with manyhands.Pool(2) as made:
        yield made


@pytest.mark.parametrize("count", [MANY // 2, MANY])
def test_only_while_a_big_map_runs(pool, count):
    before, seen = current(), []
    result = run(pool, count, lambda: seen.append(current() == before))
    assert result == [x * x for x in range(count)]
    assert seen and not any(seen) if count >= MANY else all(seen)
    assert current() == before
    del result
    assert [x + 10**9 for x in range(MANY)][-1] == MANY - 1 + 10**9  # arenas go and come as ever


def test_two_at_once(pool):
    """The second begins while the first runs, and ends after it."""
    before = current()
    begun, ended, done = threading.Event(), threading.Event(), []

    def first():
        done.append(len(run(pool, MANY, begun.set)))
        ended.set()

    def second():
        begun.wait(30)
        done.append(len(run(pool, MANY, lambda: ended.wait(30))))

    threads = [threading.Thread(target=f) for f in (first, second)]
    for t in threads:
        t.start()
    for t in threads:
        t.join(60)
    assert done == [MANY] * 2 and current() == before


def test_a_map_that_fails_leaves_nothing(pool):
    before = current()
    with pytest.raises(TypeError):
        pool.map(square, ["x"] * MANY)
    with pytest.raises(ZeroDivisionError):
        run(pool, MANY, lambda: 1 / 0)
    assert current() == before


def test_who_put_theirs_on_top_keeps_it(pool):
    before = current()
    theirs = Allocator(1, before.alloc, before.free)  # the interpreter's own does not look at ctx
    try:
        assert len(run(pool, MANY, lambda: install(theirs))) == MANY
        assert current() == theirs
    finally:
        install(before)
    assert len(run(pool, MANY, lambda: None)) == MANY and current() == before
