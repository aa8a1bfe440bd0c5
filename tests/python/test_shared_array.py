"""Shared arrays: what travels without a copy, how long memory lives, and what is left."""

import copy
import doctest
import gc
import io
import os
import pickle
import signal
import subprocess
import sys

import pytest
from helpers import descriptors, eventually, run_program, shared_names

numpy = pytest.importorskip("numpy")

import manyhands
from manyhands import shared_array

METHODS = ["fork", "spawn", "forkserver"]


def address(array):
    return array.__array_interface__["data"][0]


def test_examples():
    result = doctest.testmod(shared_array)
    assert result.failed == 0 and result.attempted > 8


@pytest.mark.parametrize("make, expected", [
    (lambda: shared_array.zeros(5), numpy.zeros(5)),
    (lambda: shared_array.zeros((2, 3), "i4"), numpy.zeros((2, 3), "i4")),
    (lambda: shared_array.empty((2, 3), bool), numpy.zeros((2, 3), bool)),
    (lambda: shared_array.ones((2, 3)), numpy.ones((2, 3))),
    (lambda: shared_array.full(3, 7), numpy.full(3, 7)),
    (lambda: shared_array.full(3, 7, "u1"), numpy.full(3, 7, "u1")),
    (lambda: shared_array.array([[1, 2], [3, 4]]), numpy.array([[1, 2], [3, 4]])),
    (lambda: shared_array.array("text"), numpy.array("text")),
    (lambda: shared_array.array([(1, 2.5)], dtype=[("a", "i4"), ("b", "f8")]), numpy.array([(1, 2.5)], dtype=[("a", "i4"), ("b", "f8")])),
    (lambda: shared_array.like(numpy.ones((3, 2), "f4")), numpy.zeros((3, 2), "f4")),
    (lambda: shared_array.like([1, 2], "f8", 4), numpy.zeros(4)),
    (lambda: shared_array.zeros(()), numpy.zeros(())),
    (lambda: shared_array.zeros((0, 3)), numpy.zeros((0, 3))),
    (lambda: shared_array.array(numpy.array(["2020-01-01"], "M8[D]")), numpy.array(["2020-01-01"], "M8[D]")),
])
def test_made_as_numpy_makes_them(make, expected):
    made = make()
    assert type(made) is shared_array.SharedArray and shared_array.is_shared(made) and made.flags.writeable
    assert made.shape == expected.shape and made.dtype == expected.dtype and (made == expected).all()


@pytest.mark.parametrize("make, error, says", [
    (lambda: shared_array.zeros(3, object), TypeError, "object"),
    (lambda: shared_array.array([{}, None]), TypeError, "object"),
    (lambda: shared_array.zeros(-1), ValueError, "negative"),
    (lambda: shared_array.zeros("x"), (TypeError, ValueError), None),
    (lambda: shared_array.zeros((1 << 40, 4)), OSError, str(1 << 45)[:8]),
    (lambda: shared_array.zeros(1 << 70), OverflowError, None),
    (lambda: shared_array.readonly(numpy.zeros(3)), TypeError, "ndarray"),
    (lambda: shared_array.parallel(None, numpy.sqrt), TypeError, "at least one"),
    (lambda: shared_array.parallel(None, numpy.add, [1, 2], [1]), ValueError, r"\[2, 1\]"),
    (lambda: shared_array.parallel(None, numpy.sqrt, [1, 2], out=numpy.zeros(2)), TypeError, "out"),
    (lambda: shared_array.parallel(None, numpy.sqrt, [1, 2], out=shared_array.zeros(3)), ValueError, "3 items"),
])
def test_bad_arguments(make, error, says):
    with pytest.raises(error, match=says):
        make()


def test_what_computes_with_it_is_plain():
    a = shared_array.array([1.0, 2.0, 3.0])
    for result in (a + 1, numpy.sqrt(a), a * a, numpy.concatenate([a, a]), a.copy(), -a):
        assert not shared_array.is_shared(result)
    assert type(a + 1) is numpy.ndarray and type(a.copy()) is numpy.ndarray
    assert not isinstance(a.sum(), numpy.ndarray) and a.sum() == 6 and a.max() == 3 and float(a.mean()) == 2
    before = address(a)
    a += 1
    assert type(a) is shared_array.SharedArray and address(a) == before and a.tolist() == [2, 3, 4]
    numpy.multiply(a, 2, out=a)
    assert a.tolist() == [4, 6, 8]
    assert type(copy.deepcopy(a)) is not None and not shared_array.is_shared(copy.deepcopy(a))
    assert shared_array.asarray(a) is a and shared_array.asarray(a, "i4").dtype == numpy.dtype("i4")


# ---- travelling --------------------------------------------------------------------------------------------------------


def fill(part, value):
    part[...] = value
    return type(part).__name__, shared_array.is_shared(part), part.flags.writeable


VIEWS = {
    "whole": lambda a: a,
    "row": lambda a: a[2],
    "slice": lambda a: a[1:4, ::2],
    "backwards": lambda a: a[::-1, ::-1],
    "transposed": lambda a: a.T,
    "reshaped": lambda a: a.reshape(-1)[3:7],
    "one": lambda a: a[1, 1, ...],
    "as bytes": lambda a: a.view("u1")[0],
}


@pytest.mark.parametrize("method", METHODS)
def test_views_travel_to_workers(method):
    with manyhands.get_context(method).Pool(1) as pool:
        for name, view in VIEWS.items():
            shared, plain = shared_array.zeros((5, 6), "i4"), numpy.zeros((5, 6), "i4")
            fill(view(plain), 7)
            assert pool.apply(fill, (view(shared), 7)) == ("SharedArray", True, True), name
            assert (shared == plain).all(), name


def put_and_take(queue, pipe, array):
    array[0] = 1
    queue.put(array[1:])
    other = pipe.recv()
    other[0] = 2
    pipe.send(other[1:])


@pytest.mark.parametrize("method", METHODS)
def test_queues_pipes_and_arguments(method):
    context = manyhands.get_context(method)
    queue, (pipe, theirs) = context.Queue(), context.Pipe()
    a, b = shared_array.zeros(10), shared_array.zeros(10)
    process = context.Process(target=put_and_take, args=(queue, theirs, a))
    process.start()
    pipe.send(b)
    from_queue, from_pipe = queue.get(timeout=60), pipe.recv()
    process.join(60)
    assert process.exitcode == 0
    assert a[0] == 1 and b[0] == 2
    assert address(from_queue) == address(a) + 8 and address(from_pipe) == address(b) + 8  # one mapping in one process


def test_managers():
    with manyhands.get_context("fork").Manager() as manager:
        a = shared_array.zeros(10)
        shared = manager.dict(a=a)
        shared["a"][3] = 5
        assert a[3] == 5


def make(n, value):
    made = shared_array.full(n, value)
    return made


@pytest.mark.parametrize("method", METHODS)
def test_a_result_is_nobodys_but_the_receivers(method):
    """Its maker has dropped it, and ended, before it is looked at."""
    with manyhands.get_context(method).Pool(2) as pool:
        results = pool.starmap(make, [(1000, float(i)) for i in range(8)])
        pool.close()
        pool.join()
    assert all(shared_array.is_shared(r) for r in results)
    assert [float(r.sum()) for r in results] == [1000.0 * i for i in range(8)]


def write(array):
    array[0] = 1


def read(array):
    return float(array.sum()), array.flags.writeable


def test_readonly_is_readonly_there(pool):
    a = shared_array.ones(10)
    r = shared_array.readonly(a)
    with pytest.raises(ValueError):
        r[0] = 2
    assert pool.apply(read, (r,)) == (10.0, False)
    with pytest.raises(ValueError, match="read-only"):
        pool.apply(write, (r,))
    with pytest.raises(manyhands.WorkerLost) as lost:  # whoever forces it hits the mapping
        pool.apply(force, (r,))
    assert lost.value.signal == signal.SIGSEGV
    a[0] = 5
    assert r[0] == 5


def force(array):
    import ctypes
    import faulthandler

    faulthandler.disable()

    ctypes.memset(address(array), 1, 1)


def test_a_plain_pickle_is_a_copy():
    a = shared_array.array([1.0, 2.0, 3.0])
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        got = pickle.loads(pickle.dumps(a[1:], protocol))
        assert type(got) is numpy.ndarray and got.tolist() == [2.0, 3.0] and not shared_array.is_shared(got)
    file = io.BytesIO()
    numpy.save(file, a)
    file.seek(0)
    assert numpy.load(file).tolist() == [1.0, 2.0, 3.0]


def test_no_copy_is_made():
    """Sending a gigabyte by reference takes no memory."""
    done = run_program("""
        import manyhands, numpy
        from manyhands import shared_array
        def peak(a):
            a[0] = 1
            return int(next(l.split()[1] for l in open("/proc/self/status") if l.startswith("VmHWM"))) // 1024
        if __name__ == "__main__":
            with manyhands.Pool(1) as pool:
                before = pool.apply(peak, (shared_array.zeros(1),))
                print(pool.apply(peak, (shared_array.zeros(200 << 20, "u1"),)) - before)
    """)
    assert int(done.stdout) < 50, done


# ---- lifetime ----------------------------------------------------------------------------------------------------------------


def names_of_ours():
    return {n for n in shared_names() if n.startswith("mh-")}


def test_memory_goes_with_its_last_user():
    gc.collect()
    before = names_of_ours()
    a = shared_array.zeros(1000)
    assert len(names_of_ours() - before) == 1
    view = a[10:20].T
    del a
    gc.collect()
    assert len(names_of_ours() - before) == 1
    view[0] = 1
    del view
    gc.collect()
    assert names_of_ours() <= before


def keep(array):
    keep.kept = array


def kept():
    return float(keep.kept.sum())


def test_memory_lives_as_long_as_a_worker_has_it():
    before = names_of_ours()
    with manyhands.Pool(1) as pool:
        pool.apply(keep, (shared_array.ones(1000),))
        gc.collect()
        assert pool.apply(kept) == 1000
        assert len(names_of_ours() - before) == 1
        pool.apply(keep, (None,))
        eventually(lambda: names_of_ours() <= before)


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_user_keeps_nothing():
    before = names_of_ours()
    with manyhands.Pool(1) as pool:
        a = shared_array.ones(1000)
        pool.apply(keep, (a,))
        with pytest.raises(manyhands.WorkerLost):
            pool.apply(die)
        del a
        gc.collect()
        eventually(lambda: names_of_ours() <= before)


def pass_on(queue, array):
    queue.put(array)


def test_a_forked_child_passes_it_on_though_its_parent_dropped_it():
    """The name went with the parent's last view: what the child still has arrives as a copy."""
    context = manyhands.get_context("fork")
    queue, go = context.SimpleQueue(), context.Pipe()
    a = shared_array.ones(10)
    process = context.Process(target=wait_and_pass_on, args=(go[1], queue, a))
    process.start()
    process._args = ()  # it keeps its arguments
    del a
    gc.collect()
    go[0].send(None)
    assert queue.get().tolist() == [1.0] * 10
    process.join(30)


def wait_and_pass_on(pipe, queue, array):
    pipe.recv()
    queue.put(array)


def test_a_reference_that_came_too_late():
    from multiprocessing.reduction import ForkingPickler

    data = bytes(ForkingPickler.dumps(shared_array.ones(10)))
    assert pickle.loads(data).tolist() == [1.0] * 10
    gc.collect()
    with pytest.raises(FileNotFoundError, match="gone"):
        pickle.loads(data)


@pytest.mark.parametrize("end", ["exit", "_exit", "SIGKILL"])
def test_nothing_is_left_at_the_end(end):
    before = names_of_ours()
    done = run_program("""
        import os, signal, sys, manyhands
        from manyhands import shared_array
        from multiprocessing.reduction import ForkingPickler
        def make(n):
            return shared_array.ones(n)
        if __name__ == "__main__":
            kept = shared_array.ones(100)
            pool = manyhands.Pool(1)
            result = pool.apply(make, (100,))
            ForkingPickler.dumps(shared_array.ones(100))  # never received
            print(len([n for n in os.listdir("/dev/shm") if n.startswith("mh-")]), flush=True)
            if sys.argv[1] == "_exit":
                os._exit(0)
            if sys.argv[1] == "SIGKILL":
                os.killpg(os.getpid(), signal.SIGKILL)
    """, end, start_new_session=True)
    assert int(done.stdout) >= 3
    eventually(lambda: names_of_ours() <= before)
    assert "leaked" not in done.stderr


def test_no_room():
    source = """if 1:
        import errno
        from manyhands import shared_array
        a = shared_array.zeros(1 << 20, "u1")
        try:
            shared_array.zeros(4 << 20, "u1")
        except OSError as e:
            assert e.errno == errno.ENOSPC and "bytes are free" in str(e), e
            print("no room")
        a[:] = 1
    """
    script = 'mount -t tmpfs -o mode=1777,size=4m tmpfs /dev/shm && exec "$@"'
    done = subprocess.run(["unshare", "-m", "bash", "-c", script, "own", sys.executable, "-c", source], capture_output=True, text=True, timeout=60)
    if "mount" in done.stderr or "unshare" in done.stderr:
        pytest.skip("needs the right to mount: " + done.stderr)
    assert done.stdout == "no room\n", done


# ---- computing ---------------------------------------------------------------------------------------------------------------------


def cube(x):
    return x * x * x


@pytest.mark.parametrize("function, count", [(numpy.sqrt, 1), (numpy.add, 2), (cube, 1)])
@pytest.mark.parametrize("length", [1, 3, 1000])
def test_parallel(pool, function, count, length):
    arrays = [shared_array.array(numpy.arange(length, dtype=float) + i) for i in range(count)]
    result = shared_array.parallel(pool, function, *arrays)
    assert shared_array.is_shared(result) and numpy.array_equal(result, function(*[numpy.asarray(a) for a in arrays]))
    out = shared_array.zeros(length)
    assert shared_array.parallel(pool, function, *arrays, out=out, chunks=2) is out
    assert numpy.array_equal(out, result)
    assert numpy.array_equal(shared_array.parallel(pool, function, *[a.tolist() for a in arrays]), result)


def test_nothing_grows(pool):
    a = shared_array.zeros(1000)

    def calls(n):
        for _ in range(n):
            pool.apply(fill, (a[1:5], 3))
            pool.apply(make, (10, 1.0))
            pool.apply(fill, (shared_array.zeros(10), 1))
            shared_array.parallel(pool, numpy.sqrt, a)
        gc.collect()
        return sys.getallocatedblocks()

    calls(10)
    fds, names = descriptors(), names_of_ours()
    grown = []
    for _ in range(3):  # caches fill up and empty; a leak grows each time
        first = calls(5)
        grown.append(calls(50) - first)
    assert min(grown) < 100, grown
    assert descriptors() == fds
    eventually(lambda: names_of_ours() <= names)
