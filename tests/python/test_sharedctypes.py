"""Values and arrays in shared memory: as the standard library's, under every start method; their memory; full memory."""

import array
import ctypes
import gc
import multiprocessing.sharedctypes
import os
import pickle
import random
import struct
import subprocess
import sys
import threading

import pytest
from helpers import descriptors, run_program

import manyhands
from manyhands import _core, heap, sharedctypes

SOON = 20.0
METHODS = ["fork", "spawn", "forkserver"]
fork = manyhands.get_context("fork")
CODES = sorted(sharedctypes.typecode_to_type)


class Point(ctypes.Structure):
    _fields_ = [("x", ctypes.c_int), ("y", ctypes.c_double)]


class Point3(Point):
    _fields_ = [("z", ctypes.c_longlong)]


class MyInt(ctypes.c_int):
    pass


# ---- values: what ctypes does with each input, ours does ----------------------------------------------------------------

INPUTS = [0, 1, -1, 127, 128, 255, 256, -129, 2**15, 2**16, 2**31 - 1, 2**31, -2**31 - 1, 2**32, 2**63 - 1, 2**63, 2**64, 2**70, -2**70, True, 0.0, 1.5, -2.75, 1e300,
          float("inf"), "x", "xy", "", b"x", b"xy", b"", None, [], 10**400, struct]


def attempt(call):
    try:
        return "gives", repr(call())
    except Exception as e:
        return type(e), str(e)


def assign(made, value):
    made.value = value
    return made.value


@pytest.mark.parametrize("code", CODES)
def test_values_take_what_ctypes_takes(code):
    ours, theirs = fork.Value(code), sharedctypes.typecode_to_type[code]()
    for value in INPUTS:
        assert attempt(lambda: assign(ours, value)) == attempt(lambda: assign(theirs, value)), (code, value)
        assert repr(ours.value) == repr(theirs.value) == repr(ours.get_obj().value)


@pytest.mark.parametrize("kind", [ctypes.c_bool, ctypes.c_char, ctypes.c_wchar, ctypes.c_size_t, ctypes.c_int.__ctype_be__, ctypes.c_int.__ctype_le__, MyInt, ctypes.c_longdouble,
                                  ctypes.c_int16, ctypes.c_uint64, ctypes.c_ssize_t])
def test_values_of_types(kind):
    ours, theirs = fork.Value(kind), kind()
    for value in INPUTS:
        assert attempt(lambda: assign(ours, value)) == attempt(lambda: assign(theirs, value)), value
    assert isinstance(ours.get_obj(), kind)


@pytest.mark.parametrize("code", "bBhHiIlLqQfd")
def test_the_short_way_and_ctypes_see_the_same_memory(code):
    made = fork.Value(code, 3)
    made.get_obj().value = 5
    assert made.value == 5
    made.value = 7
    assert made.get_obj().value == 7
    memory = memoryview(made.get_obj()).cast("B")
    memory[:] = bytes(len(memory))
    assert made.value == 0


@pytest.mark.parametrize("call, error, text", [
    (lambda: fork.Value("no"), TypeError, "."),
    (lambda: fork.Value("i", "1"), TypeError, "."),
    (lambda: fork.Value("i", lock="navalue"), AttributeError, "'navalue' has no method 'acquire'"),
    (lambda: fork.Array("i", 3, lock="notalock"), AttributeError, "'notalock' has no method 'acquire'"),
    (lambda: fork.Array("i", -1), ValueError, "."),
    (lambda: fork.Array("i", ["x"]), TypeError, "."),
    (lambda: fork.RawArray("i", 3.5), TypeError, "."),
    (lambda: sharedctypes.synchronized(fork.Value("i")), AssertionError, "already"),
    (lambda: heap.BufferWrapper(-1), ValueError, "-1 out of range"),
    (lambda: heap.BufferWrapper(2**63 - 1), OverflowError, "too large"),
    (lambda: heap.BufferWrapper("1"), TypeError, "."),
    (lambda: delattr(fork.Value("i"), "value"), AttributeError, "can't delete"),
    (lambda: fork.Array("i", 3)[5], IndexError, "."),
    (lambda: fork.Array("i", 3).__delitem__(0), Exception, "."),
    (lambda: memoryview(_core.Block.__new__(_core.Block)), ValueError, "not initialised"),
    (lambda: _core.SynchronizedBase.__new__(_core.SynchronizedBase).get_obj(), ValueError, "not initialised"),
    (lambda: _core.LockedField("value").__get__(3), TypeError, "not to int"),
    (lambda: _core.Block(8)._join((1, 2, 3)), RuntimeError, "already"),
    (lambda: _core.Block.__new__(_core.Block)._join((1, 2, 3)), TypeError, "."),
    (lambda: _core.Block.__new__(_core.Block)._join([]), TypeError, "tuple"),
    (lambda: _core.Block.__new__(_core.Block)._join((_core.Block(8)._place()[0], 2**40, 8)), ValueError, "no shared object can lie at"),
    (lambda: _core.Block.__new__(_core.Block)._join((_core.Block(8)._place()[0], 64, 2**64 - 1)), ValueError, "no shared object can lie at"),
    (lambda: _core.Block.__new__(_core.Block)._join((_core.Block(8)._place()[0], 3, 8)), ValueError, "no shared object can lie at 3"),
    (lambda: _core.Event.__new__(_core.Event)._join(_core.Block(16)._place()), ValueError, "no shared object"),
])
def test_bad_input_is_named(call, error, text):
    with pytest.raises(error, match=text):
        call()


def test_wrappers():
    lock = fork.Lock()
    for made, kind in ((fork.Value("i", 5), "Synchronized"), (fork.Array("i", [5]), "SynchronizedArray"), (fork.Array("c", b"x"), "SynchronizedString"),
                       (fork.Value(Point, 1, 2), "SynchronizedPoint")):
        assert type(made).__name__ == kind and type(made.get_lock()).__name__ == "RLock"
        assert repr(made) == f"<{kind} wrapper for {made.get_obj()!r}>"
        with made as held:
            assert held is True and made.get_lock()._is_mine()
        assert made.acquire() and made.release() is None
    assert fork.Value("i", lock=lock).get_lock() is lock and fork.Value("i", lock=None).get_lock() is not None
    for bare in (fork.Value("i", lock=False), fork.RawValue("i"), fork.RawArray("i", 3), fork.Array("i", 3, lock=False)):
        assert not hasattr(bare, "get_lock")
    assert sharedctypes.synchronized(ctypes.c_int(4)).value == 4  # memory of its own
    assert manyhands.Value("d", 0.5).value == 0.5


def test_any_lock_will_do():
    class Counting:
        def __init__(self):
            self.calls = []

        def acquire(self):
            self.calls.append("acquire")

        def release(self):
            self.calls.append("release")

    lock = Counting()
    made = fork.Value("i", 3, lock=lock)
    made.value += 1
    assert made.value == 4 and lock.calls == ["acquire", "release"] * 3
    items = fork.Array("i", 3, lock=threading.RLock())
    with items:
        items[0] = 3
    assert list(items) == [3, 0, 0]


def test_the_lock_is_given_back_after_an_error():
    made, items = fork.Value("i"), fork.Array("i", 3)
    for wrong in (lambda: setattr(made, "value", "x"), lambda: items.__setitem__(7, 1), lambda: items["x"], lambda: setattr(made, "value", 1.5)):
        with pytest.raises((TypeError, IndexError)):
            wrong()
    assert made.get_lock()._get_value() == items.get_lock()._get_value() == 1


def test_who_holds_the_lock_reads_at_once_and_others_wait():
    value = manyhands.Value("q", 1)
    seen = []
    with value.get_lock():
        reader = threading.Thread(target=lambda: seen.append(value.value))
        reader.start()
        for _ in range(1000):
            value.value += 1
        value.value = -7
        assert value.value == -7 and value.get_lock()._count() == 1 and not seen
    reader.join()
    assert seen == [-7]
    with value.get_lock(), pytest.raises(TypeError):
        value.value = "text"
    assert value.value == -7 and value.get_lock()._get_value() == 1


def test_structures():
    made = fork.Value(Point3, 3, 0.5, 7)
    assert (made.x, made.y, made.z) == (3, 0.5, 7)
    made.x += 1
    made.z = -1
    assert (made.get_obj().x, made.get_obj().z) == (4, -1)
    points = fork.Array(Point, [(1, 2.0), (3, 4.0)])
    assert [(p.x, p.y) for p in points] == [(1, 2.0), (3, 4.0)]
    copied = sharedctypes.copy(points.get_obj())
    points[0].x = 99
    assert copied[0].x == 1


def test_arrays():
    made = fork.Array("i", range(10))
    assert len(made) == 10 and made[3] == 3 and made[2:5] == [2, 3, 4] and made[-1] == 9 and list(made) == list(range(10)) and 5 in made
    made[4:8] = array.array("i", [1, 2, 3, 4])
    assert made[:] == [0, 1, 2, 3, 1, 2, 3, 4, 8, 9]
    text = fork.Array("c", 20)
    text.value = b"hello"
    assert text.value == b"hello" and text.raw == b"hello" + bytes(15) and text[0] == b"h"
    for _ in range(3):
        zeros = fork.Array("i", 100)
        assert list(zeros) == [0] * 100
        zeros[:] = range(100)
        del zeros


def double(x, y, point, items, text):
    x.value *= 2
    y.value *= 2
    point.x *= 2
    text.value *= 2
    for i in range(len(items)):
        items[i] *= 2


@pytest.mark.parametrize("lock", [True, False])
@pytest.mark.parametrize("method", METHODS)
def test_children_see_the_same(method, lock):
    ctx = manyhands.get_context(method)
    made = (ctx.Value("i", 7, lock=lock), ctx.Value("d", 0.5, lock=lock), ctx.Value(Point, 3, 2, lock=lock), ctx.Array("d", 10, lock=lock),
            ctx.Array("c", 20, lock=lock))
    made[3][:] = range(10)
    made[4].value = b"hello"
    process = ctx.Process(target=double, args=made)
    process.start()
    process.join(SOON)
    assert process.exitcode == 0
    assert (made[0].value, made[1].value, made[2].x, list(made[3]), made[4].value) == (14, 1.0, 6, [2 * i for i in range(10)], b"hellohello")


def test_pickled_only_while_spawning():
    for made in (fork.Value("i"), fork.Array("i", 3), heap.BufferWrapper(10)):
        with pytest.raises(RuntimeError, match="through inheritance"):
            pickle.dumps(made)
        with pytest.raises(RuntimeError, match="through inheritance"):
            manyhands.reduction.ForkingPickler.dumps(made)


def test_names_of_the_standard_module():
    missing = [name for name in multiprocessing.sharedctypes.__all__ + ["typecode_to_type", "Synchronized", "SynchronizedArray", "SynchronizedString",
               "SynchronizedBase", "make_property", "reduce_ctype", "rebuild_ctype", "class_cache"] if not hasattr(sharedctypes, name)]
    assert missing == []


# ---- memory ---------------------------------------------------------------------------------------------------------------------


def test_blocks_do_not_overlap_and_keep_their_content():
    random.seed(1)
    kept = []
    for number in range(3000):
        size = int(random.lognormvariate(0, 1) * 1000)
        block = heap.BufferWrapper(size)
        view = block.create_memoryview()
        assert len(view) == size
        view[:] = bytes([number % 256]) * size
        kept.append((block, view, number % 256))
        if len(kept) > 50:
            _, view, mark = kept.pop(random.randrange(50))
            assert view.tobytes() == bytes([mark]) * len(view)
    for _, view, mark in kept:
        assert view.tobytes() == bytes([mark]) * len(view)


def test_a_view_keeps_the_memory():
    view = heap.BufferWrapper(100).create_memoryview()
    number = ctypes.c_int.from_buffer(heap.BufferWrapper(100).create_memoryview())
    gc.collect()
    others = [heap.BufferWrapper(100) for _ in range(100)]
    for other in others:
        other.create_memoryview()[:] = b"x" * 100
    view[:] = b"y" * 100
    number.value = 3
    assert view.tobytes() == b"y" * 100 and number.value == 3 and all(o.create_memoryview().tobytes() == b"x" * 100 for o in others)


def read_later(number, go, out):
    go.wait()
    out.put(number.value)


def test_memory_that_a_child_knows_is_not_used_again():
    number, go, out = fork.Value("i", 77), fork.Event(), fork.SimpleQueue()
    process = fork.Process(target=read_later, args=(number, go, out))
    process.start()
    del number
    gc.collect()
    others = [fork.Value("i", 5) for _ in range(2000)]
    go.set()
    assert out.get() == 77
    process.join(SOON)
    del others


def test_big_arrays_go_at_once():
    before = descriptors()
    for _ in range(20):
        big = fork.RawArray("c", 8 << 20)
        big[-1] = b"x"
        if not (pid := os.fork()):
            os._exit(0)
        os.waitpid(pid, 0)
        del big
    assert descriptors() <= before


def test_no_memory_is_a_clear_error():
    """Where there is no room, asking says so, with sizes; nothing dies of a bus error later."""
    done = run_program("""
        import os, re, manyhands
        ctx = manyhands.get_context("fork")
        small = ctx.Array("i", 100)
        for size in (1 << 46, 1 << 60):
            try:
                ctx.RawArray("c", size)
            except (OSError, MemoryError) as e:
                print(type(e).__name__, str(size) in str(e) or isinstance(e, MemoryError), str(e)[:300])
        small[0] = 1
        print(ctx.Value("i", 4).value)
    """, timeout=60)
    lines = done.stdout.splitlines()
    assert len(lines) == 3 and all(" True " in line for line in lines[:2]) and lines[2] == "4", done


def test_a_full_dev_shm_does_no_harm():
    """The memory has no name: /dev/shm may be full, here one of 64 kB (for those who may mount one)."""
    program = "import manyhands; made = manyhands.Array('c', 1 << 20); made[-1] = b'x'; print(manyhands.Value('i', 4).value)"
    mount = ["unshare", "-m", "sh", "-c", 'mount -t tmpfs -o size=64k tmpfs /dev/shm && exec "$@"', "sh"] if os.geteuid() == 0 else []
    done = subprocess.run([*mount, sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.stdout == "4\n", done
