"""The joblib backend: what loky does, on our workers."""

from __future__ import annotations

import gc
import io
import math
import multiprocessing
import os
import signal
import threading
import time
import warnings
from contextlib import redirect_stderr

import pytest
from helpers import descriptors, eventually, is_running, run_program, shared_names

numpy = pytest.importorskip("numpy")
joblib = pytest.importorskip("joblib")
from joblib import Parallel, delayed, parallel_config  # noqa: E402

import manyhands.futures  # noqa: E402
import manyhands.joblib  # noqa: E402
from manyhands.futures import BrokenProcessPool, TaskTimeout, WorkerLost  # noqa: E402

pytestmark = pytest.mark.timeout(100)


@pytest.fixture(autouse=True)
def backend():
    manyhands.joblib.register(default=False)
    with parallel_config(backend="manyhands", n_jobs=2):
        yield


@pytest.fixture(scope="module", autouse=True)
def stop():
    yield
    if manyhands.joblib._workers is not None:
        manyhands.joblib._workers.shutdown()


class Point:
    def __init__(self, x):
        self.x = x

    def __eq__(self, other):
        return type(other) is Point and other.x == self.x


class Odd(Exception):
    pass


def fail(x):
    raise Odd(x)


def die(path=None):
    if path is not None:
        if os.path.exists(path):
            return "lived"
        open(path, "x").close()
    os.kill(os.getpid(), signal.SIGKILL)


def pid_after(seconds):
    time.sleep(seconds)
    return os.getpid()


def look(array, row):
    return float(array[row].sum()), array.flags.writeable, array.flags.c_contiguous


def set_row(array, row, value):
    array[row] = value


def inner(count):
    return sum(Parallel(n_jobs=2)(delayed(abs)(i) for i in range(count))), joblib.parallel.get_active_backend()[0].__class__.__name__


def used() -> int:
    workers = manyhands.joblib._workers
    return 0 if workers is None else workers.stats().get("finished", 0)


# ---- calls ----------------------------------------------------------------------------------------------------------------


def test_results_in_order_on_our_workers():
    before = used()
    assert Parallel()(delayed(math.sqrt)(n) for n in range(1000)) == [math.sqrt(n) for n in range(1000)]
    assert Parallel()([]) == []
    assert used() > before
    assert set(Parallel()(delayed(os.getpid)() for _ in range(50))) <= set(manyhands.joblib._workers._processes)


def test_the_default_backend():
    done = run_program("""
        import joblib, manyhands.joblib
        manyhands.joblib.register()
        print(type(joblib.Parallel(n_jobs=2)._backend).__name__)
        print(joblib.Parallel(n_jobs=2)(joblib.delayed(abs)(n) for n in range(3)), manyhands.joblib._workers.stats()["finished"] > 0)
    """)
    assert done.stdout == "ManyhandsBackend\n[0, 1, 2] True\n" and done.stderr == ""


@pytest.mark.parametrize("n_jobs, workers", [(1, 1), (2, 2), (-1, joblib.cpu_count()), (None, 1)])
def test_n_jobs(n_jobs, workers):
    assert manyhands.joblib.ManyhandsBackend(nesting_level=0).effective_n_jobs(n_jobs) == workers
    with pytest.raises(ValueError, match="n_jobs == 0"):
        Parallel(n_jobs=0)(delayed(abs)(1) for _ in range(2))


def test_results_as_they_come():
    assert list(Parallel(return_as="generator")(delayed(abs)(n) for n in range(20))) == list(range(20))
    assert sorted(Parallel(return_as="generator_unordered")(delayed(abs)(n) for n in range(20))) == list(range(20))


def test_a_program_without_a_guard():
    """Its functions, classes and exceptions travel by value both ways, and nothing imports it."""
    done = run_program("""
        import joblib, manyhands.joblib
        manyhands.joblib.register()
        print("once")

        class Point:
            def __init__(self, x):
                self.x = x

        class Odd(Exception):
            pass

        def make(x):
            if x == 13:
                raise Odd(x)
            return Point(x)

        print([type(p) is Point and p.x for p in joblib.Parallel(n_jobs=2)(joblib.delayed(make)(n) for n in range(3))])
        try:
            joblib.Parallel(n_jobs=2)(joblib.delayed(make)(n) for n in (1, 13))
        except Odd as e:
            print("odd", e, "in make" in str(e.__cause__))
    """)
    assert done.stdout == "once\n[0, 1, 2]\nodd 13 True\n" and done.returncode == 0, done.stderr


def test_workers_are_used_again():
    with Parallel(n_jobs=2) as parallel:
        first = set(parallel(delayed(pid_after)(0.01) for _ in range(20)))
        second = set(parallel(delayed(pid_after)(0.01) for _ in range(20)))
    third = set(Parallel(n_jobs=2)(delayed(pid_after)(0.01) for _ in range(20)))
    assert first | second | third <= set(manyhands.joblib._workers._processes)


def test_idle_workers_end():
    Parallel(n_jobs=2)(delayed(abs)(n) for n in range(4))
    pids = list(manyhands.joblib._workers._processes)
    with parallel_config(backend="manyhands", n_jobs=2, idle_worker_timeout=0.01):
        Parallel()(delayed(abs)(n) for n in range(4))
    with manyhands.joblib._lock:
        manyhands.joblib._lock.notify_all()
    eventually(lambda: not any(map(is_running, pids)), 30)
    assert Parallel(n_jobs=2)(delayed(abs)(n) for n in range(4)) == [0, 1, 2, 3]


def test_another_number_of_workers():
    assert Parallel(n_jobs=3)(delayed(abs)(n) for n in range(10)) == list(range(10))
    assert len(manyhands.joblib._workers._processes) == 3
    assert Parallel(n_jobs=2)(delayed(abs)(n) for n in range(10)) == list(range(10))
    assert len(manyhands.joblib._workers._processes) == 2


def test_nested_calls_use_threads():
    assert Parallel(n_jobs=2)(delayed(inner)(n) for n in range(4)) == [(0, "ThreadingBackend"), (0, "ThreadingBackend"), (1, "ThreadingBackend"),
                                                                      (3, "ThreadingBackend")]


def test_from_several_threads_at_once():
    answers: list[object] = []
    threads = [threading.Thread(target=lambda: answers.append(used_in_thread())) for _ in range(3)]
    for t in threads:
        t.start()
    for t in threads:
        t.join(60)
    assert answers == [[0, 1, 2, 3, 4]] * 3


def used_in_thread():
    with parallel_config(backend="manyhands", n_jobs=2):
        return Parallel()(delayed(abs)(n) for n in range(5))


def test_threads_of_libraries_are_limited():
    with parallel_config(backend="manyhands", n_jobs=2, inner_max_num_threads=3):
        assert set(Parallel()(delayed(os.getenv)("OMP_NUM_THREADS") for _ in range(4))) == {"3"}


# ---- failures ---------------------------------------------------------------------------------------------------------------


def test_exceptions():
    with pytest.raises(Odd) as caught:
        Parallel()(delayed(fail)(n) for n in range(3))
    assert "raise Odd(x)" in str(caught.value.__cause__)
    with Parallel(n_jobs=2) as parallel:
        for _ in range(3):
            with pytest.raises(Odd):
                parallel(delayed(fail)(n) for n in range(3))
            assert parallel(delayed(abs)(n) for n in range(3)) == [0, 1, 2]  # it can be used on, and nothing is left of the call


def test_an_error_ends_what_runs(tmp_path):
    calls = [delayed(fail)(1), delayed(time.sleep)(60)]
    with pytest.raises(Odd):
        Parallel(n_jobs=2)(calls)
    assert Parallel(n_jobs=2)(delayed(abs)(n) for n in range(3)) == [0, 1, 2]


def test_a_worker_that_dies():
    with pytest.raises(BrokenProcessPool) as caught:
        Parallel()(delayed(die)() for _ in range(2))
    assert isinstance(caught.value, WorkerLost) and caught.value.signal == signal.SIGKILL
    assert Parallel()(delayed(abs)(n) for n in range(3)) == [0, 1, 2]


def test_retries(tmp_path):
    with parallel_config(backend="manyhands", n_jobs=2, retries=1):
        assert Parallel()(delayed(die)(str(tmp_path / str(n))) for n in range(2)) == ["lived"] * 2


def test_timeouts():
    with pytest.raises(multiprocessing.TimeoutError):  # joblib's own
        Parallel(n_jobs=2, timeout=0.05)(delayed(time.sleep)(60) for _ in range(2))
    with parallel_config(backend="manyhands", n_jobs=2, task_timeout=0.05):
        with pytest.raises(TaskTimeout):
            Parallel()(delayed(time.sleep)(60) for _ in range(2))
    assert Parallel()(delayed(abs)(n) for n in range(3)) == [0, 1, 2]


def test_what_cannot_travel():
    with pytest.raises(Exception, match="pickle"):
        Parallel()(delayed(abs)(threading.Lock()) for _ in range(2))
    with pytest.raises(Exception, match="pickle"):
        Parallel()(delayed(threading.Lock)() for _ in range(2))
    assert Parallel()(delayed(abs)(n) for n in range(3)) == [0, 1, 2]


# ---- arrays --------------------------------------------------------------------------------------------------------------------


def test_big_arrays_are_shared_and_read_only():
    array = numpy.arange(1_000_000, dtype=float).reshape(4, -1)
    before = descriptors()
    results = Parallel()(delayed(look)(array, n) for n in range(4))
    assert results == [(float(array[n].sum()), False, True) for n in range(4)]
    assert Parallel()(delayed(look)(array.T.copy(order="F").T, n) for n in range(4)) == results
    assert [r[2] for r in Parallel()(delayed(look)(numpy.asfortranarray(array), n) for n in range(2))] == [False, False]
    assert [r[0] for r in Parallel()(delayed(look)(array[:, ::-2], n) for n in range(2))] == [float(array[n, ::-2].sum()) for n in range(2)]
    eventually(lambda: gc.collect() >= 0 and descriptors() <= before, 10)


@pytest.mark.parametrize("options, writeable", [
    ({"mmap_mode": "c"}, True), ({"mmap_mode": "r+"}, True), ({"mmap_mode": None}, True), ({"max_nbytes": None}, True), ({"max_nbytes": "100M"}, True),
    ({"max_nbytes": 1000}, False),
])
def test_how_arrays_are_shared(options, writeable):
    array = numpy.ones((4, 100_000 if options.get("max_nbytes") != 1000 else 200))
    assert Parallel(**options)(delayed(look)(array, n) for n in range(2)) == [(float(array.shape[1]), writeable, True)] * 2
    assert (array == 1).all()


def test_small_arrays_and_objects_are_copied():
    assert Parallel()(delayed(look)(numpy.ones((2, 10)), n) for n in range(2)) == [(10.0, True, True)] * 2
    objects = numpy.array([[None] * 200_000] * 2)
    assert Parallel()(delayed(len)(objects) for _ in range(2)) == [2, 2]


def test_arrays_as_results():
    results = Parallel()(delayed(numpy.full)(500_000, n) for n in range(3))
    assert all((r == n).all() for n, r in enumerate(results))


@pytest.mark.parametrize("how", ["whole", "rows", "strided"])
def test_files_that_are_mapped_are_written_through(tmp_path, how):
    path = tmp_path / "data"
    array = numpy.memmap(path, dtype=float, shape=(6, 1000), mode="w+")
    part = {"whole": array, "rows": array[2:], "strided": array[::-1, ::2]}[how]
    Parallel()(delayed(set_row)(part, n, n + 1) for n in range(len(part)))
    assert [set(part[n]) for n in range(len(part))] == [{n + 1} for n in range(len(part))]
    assert numpy.fromfile(path).sum() == part.sum()
    reader = numpy.memmap(path, dtype=float, shape=(6, 1000), mode="r")
    assert Parallel()(delayed(look)(reader, n) for n in range(2)) == [(float(reader[n].sum()), False, True) for n in range(2)]


def test_leaves_nothing():
    array = numpy.ones((4, 200_000))
    Parallel()(delayed(look)(array, n) for n in range(4))
    gc.collect()
    before = descriptors(), shared_names()
    for _ in range(3):
        Parallel()(delayed(look)(array, n) for n in range(4))
        with pytest.raises(Odd):
            with warnings.catch_warnings():
                Parallel()(delayed(fail)(n) for n in range(3))
    Parallel()(delayed(look)(array, n) for n in range(4))
    eventually(lambda: gc.collect() >= 0 and descriptors() <= before[0] and shared_names() <= before[1], 10)


# ---- progress ----------------------------------------------------------------------------------------------------------------------


def test_progress():
    pytest.importorskip("tqdm")
    heard = io.StringIO()
    with redirect_stderr(heard), parallel_config(backend="manyhands", n_jobs=2, progress="roots"):
        assert len(Parallel()(delayed(math.sqrt)(n) for n in range(100))) == 100
    assert "roots: 100it" in heard.getvalue()


def test_bad_options():
    with parallel_config(backend="manyhands", n_jobs=2, retries=-1):
        with pytest.raises(ValueError, match="retries must be"):
            Parallel()(delayed(abs)(n) for n in range(3))
    assert Parallel()(delayed(abs)(n) for n in range(3)) == [0, 1, 2]
    assert manyhands.futures is not None
