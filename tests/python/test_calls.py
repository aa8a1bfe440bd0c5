"""Each public method, beside the standard library's where the meaning is shared."""

import itertools
import math
import multiprocessing
import operator
import os
import subprocess
import sys
import threading
import time

import pytest

import manyhands
import manyhands.pool

MODULES = [multiprocessing, manyhands]


@pytest.fixture(scope="module", params=MODULES, ids=lambda m: m.__name__)
def both(request):
    with request.param.Pool(2) as made:
        made.module = request.param
        yield made


def square(x):
    return x * x


def add(a, b=0, *, c=0):
    return a + b + c


def fail_on(x, bad=3):
    if x == bad:
        raise ValueError(f"{x} is bad")
    return x


def iterable_that_fails(after, length=10):
    for i in range(length):
        if i == after:
            raise KeyError("iterable")
        yield i


# ---- results -----------------------------------------------------------------------------------


CALLS = [
    (lambda p: p.apply(square, (5,)), 25),
    (lambda p: p.apply(add, (1,), {"b": 2, "c": 3}), 6),
    (lambda p: p.apply(add, [1, 2]), 3),
    (lambda p: p.apply(func=add, args=(1,), kwds={"b": 1}), 2),
    (lambda p: p.apply(dict), {}),
    (lambda p: p.apply_async(square, (5,)).get(), 25),
    (lambda p: p.map(square, []), []),
    (lambda p: p.map(square, range(1000)), [i * i for i in range(1000)]),
    (lambda p: p.map(square, (i for i in range(10))), [i * i for i in range(10)]),
    (lambda p: p.map(square, range(100), 7), [i * i for i in range(100)]),
    (lambda p: p.map(square, range(100), chunksize=1), [i * i for i in range(100)]),
    (lambda p: p.map(square, range(10), 1000), [i * i for i in range(10)]),
    (lambda p: p.map(str, {3: 1, 4: 2}), ["3", "4"]),
    (lambda p: p.map(str.upper, "abc"), ["A", "B", "C"]),
    (lambda p: p.map(math.sqrt, [4, 9]), [2.0, 3.0]),
    (lambda p: p.map(operator.itemgetter(1), ["ab", "cd"]), ["b", "d"]),
    (lambda p: p.map([10, 20, 30].__getitem__, [2, 0]), [30, 10]),
    (lambda p: p.map_async(square, range(10)).get(), [i * i for i in range(10)]),
    (lambda p: p.map_async(square, range(10), 3).get(timeout=20), [i * i for i in range(10)]),
    (lambda p: p.map_async(square, []).get(), []),
    (lambda p: p.starmap(add, [(1, 2), (3, 4)]), [3, 7]),
    (lambda p: p.starmap(add, [[1, 2], (3,), range(2)]), [3, 3, 1]),
    (lambda p: p.starmap(add, zip(range(50), range(50)), 7), [2 * i for i in range(50)]),
    (lambda p: p.starmap_async(add, [(1, 2)]).get(), [3]),
    (lambda p: list(p.imap(square, range(50))), [i * i for i in range(50)]),
    (lambda p: list(p.imap(square, range(50), 7)), [i * i for i in range(50)]),
    (lambda p: list(p.imap(square, [])), []),
    (lambda p: sorted(p.imap_unordered(square, range(50))), [i * i for i in range(50)]),
    (lambda p: sorted(p.imap_unordered(square, range(50), chunksize=7)), [i * i for i in range(50)]),
    (lambda p: p.map_async(square, range(5)).successful.__name__, "successful"),
    (lambda p: p.map(type, [1, True, 2.5, None, "x", b"y", (1,), [2], {3: 4}, 2**70]), [int, bool, float, type(None), str, bytes, tuple, list, dict, int]),
]


@pytest.mark.parametrize("call, expected", CALLS, ids=[str(i) for i in range(len(CALLS))])
def test_results(both, call, expected):
    assert call(both) == expected


# ---- exceptions --------------------------------------------------------------------------------


def outcome(call, *args):
    try:
        return call(*args)
    except BaseException as e:
        return type(e).__name__, str(e)


FAILURES = [
    lambda p: p.apply(fail_on, (3,)),
    lambda p: p.apply(3),
    lambda p: p.apply(add),
    lambda p: p.map(fail_on, range(10)),
    lambda p: p.map(fail_on, range(10), 1),
    lambda p: p.starmap(fail_on, [(1, 1)]),
    lambda p: p.starmap(add, [1]),
    lambda p: list(p.imap(fail_on, range(10))),
    lambda p: list(p.imap_unordered(fail_on, [3])),
    lambda p: p.map(square, 5),
    lambda p: p.map_async(square, None),
    lambda p: p.map(square, iterable_that_fails(3)),
    lambda p: list(p.imap(square, iterable_that_fails(3))),
    lambda p: list(p.imap(square, iterable_that_fails(0), 4)),
    lambda p: p.imap(square, range(3), 0),
    lambda p: p.imap(square, range(3), chunksize=-2),
    lambda p: p.imap_unordered(square, range(3), 0),
    lambda p: p.join(),
    lambda p: p.apply_async(time.sleep, (20,)).get(0.01),
    lambda p: p.apply_async(time.sleep, (0.3,)).successful()[:20],
    lambda p: __import__("pickle").dumps(p),
    lambda p: p.apply(square, (1,), {}, None),
]


@pytest.mark.parametrize("number", range(len(FAILURES)))
def test_failures_are_those_of_the_standard_library(number):
    kinds = []
    for module in MODULES:
        with module.Pool(2) as p:
            kinds.append(outcome(FAILURES[number], p))
    standard, ours = kinds
    assert standard[0] == ours[0], kinds
    if "object at" not in standard[1] and standard[0] != "TypeError":
        assert standard[1] == ours[1]


MAKING = [
    dict(processes=0), dict(processes=-1), dict(processes="2"), dict(initializer=5), dict(maxtasksperchild=0), dict(maxtasksperchild=-1),
    dict(maxtasksperchild="3"), dict(processes=1, nonsense=1), dict(initargs=5, processes=0),
]


@pytest.mark.parametrize("options", MAKING, ids=str)
def test_wrong_arguments_of_pool(options):
    standard, ours = (outcome(lambda m=m: m.Pool(**options)) for m in MODULES)
    assert standard[0] == ours[0] and (standard[0] == "TypeError" or standard[1] == ours[1])


@pytest.mark.parametrize("method", ["apply", "apply_async", "map", "map_async", "starmap", "starmap_async", "imap", "imap_unordered"])
@pytest.mark.parametrize("end", ["close", "terminate"])
def test_a_pool_that_ended_takes_nothing(method, end):
    for module in MODULES:
        p = module.Pool(1)
        getattr(p, end)()
        with pytest.raises(ValueError, match="Pool not running"):
            getattr(p, method)(square, [1])
        p.join()
        with pytest.raises(ValueError, match="Pool not running"), p:
            pass


def test_remote_traceback(both):
    with pytest.raises(ValueError, match="3 is bad") as caught:
        both.apply(fail_on, (3,))
    cause = caught.value.__cause__
    assert type(cause).__name__ == "RemoteTraceback"
    assert 'raise ValueError(f"{x} is bad")' in str(cause)


def test_remote_traceback_is_the_standard_class(pool):
    import multiprocessing.pool

    with pytest.raises(ValueError) as caught:
        pool.apply(fail_on, (3,))
    assert type(caught.value.__cause__) is multiprocessing.pool.RemoteTraceback


def test_imap_goes_on_after_a_failure(both):
    it = both.imap(fail_on, range(6))
    got = []
    while True:
        try:
            got.append(next(it))
        except ValueError:
            got.append("bad")
        except StopIteration:
            break
    assert got == [0, 1, 2, "bad", 4, 5]


def test_imap_iterable_that_fails(both):
    it = both.imap(square, iterable_that_fails(7, 20), 2)
    assert [next(it) for _ in range(6)] == [0, 1, 4, 9, 16, 25]
    with pytest.raises(KeyError):
        next(it)
    with pytest.raises(StopIteration):
        next(it)


# ---- AsyncResult -------------------------------------------------------------------------------


def test_ready_and_successful(both, tmp_path):
    fifo = tmp_path / "gate"
    os.mkfifo(fifo)
    result = both.apply_async(fifo.read_text)
    assert not result.ready()
    with pytest.raises(ValueError, match="not ready"):
        result.successful()
    result.wait(0.01)
    with pytest.raises(both.module.TimeoutError):
        result.get(timeout=0.01)
    fifo.write_text("open")
    assert result.get(20) == "open" and result.ready() and result.successful()
    assert result.get() == "open"  # again
    failed = both.apply_async(fail_on, (3,))
    failed.wait()
    assert failed.ready() and not failed.successful()
    for _ in range(2):
        with pytest.raises(ValueError):
            failed.get()


def test_get_in_many_threads(pool):
    result = pool.map_async(square, range(1000), 1)
    got = []
    threads = [threading.Thread(target=lambda: got.append(result.get())) for _ in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert got == [[i * i for i in range(1000)]] * 8


def test_pool_in_many_threads(pool):
    got = {}

    def work(n):
        got[n] = (pool.map(square, range(n, n + 500), 3), [pool.apply(add, (n, i)) for i in range(50)], list(pool.imap(square, range(n))))

    threads = [threading.Thread(target=work, args=(n,)) for n in range(6)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    for n in range(6):
        assert got[n] == ([i * i for i in range(n, n + 500)], [n + i for i in range(50)], [i * i for i in range(n)])


def test_callbacks(both):
    good, bad = [], []
    results = [
        both.apply_async(square, (3,), callback=good.append, error_callback=bad.append),
        both.apply_async(fail_on, (3,), {}, good.append, bad.append),
        both.map_async(square, [1, 2], callback=good.append, error_callback=bad.append),
        both.map_async(fail_on, [3, 1], 1, good.append, bad.append),
        both.starmap_async(add, [(1, 2)], callback=good.append),
    ]
    for r in results:
        r.wait(20)
    assert sorted(map(str, good)) == ["9", "[1, 4]", "[3]"]
    assert [str(e) for e in bad] == ["3 is bad"] * 2


def test_callback_comes_before_wait_returns(pool):
    for i in range(200):
        got = []
        pool.apply_async(square, (i,), callback=got.append).wait()
        assert got == [i * i]
        pool.map_async(square, [i], callback=got.append).get()
        assert got[1:] == [[i * i]]


def test_callbacks_in_order_of_their_ends(pool, tmp_path):
    fifo = tmp_path / "gate"
    os.mkfifo(fifo)
    order, quick = [], threading.Event()
    slow = pool.apply_async(fifo.read_text, callback=lambda r: order.append("slow"))
    pool.apply_async(square, (1,), callback=lambda r: (order.append("quick"), quick.set()))
    assert quick.wait(20)
    fifo.write_text("go")
    slow.wait(20)
    assert order == ["quick", "slow"]


def test_one_callback_thread_whoever_comes_first(monkeypatch):
    """Two threads' first calls with callbacks: the second comes while the first starts the pool's callback thread."""
    got, start = [], threading.Thread.start

    def count():
        return [t.name for t in threading.enumerate()].count("manyhands callbacks")

    before = count()
    with manyhands.Pool(1) as p:

        def second():
            p.apply_async(square, (2,), callback=got.append).wait(20)

        def start_slowly(thread):
            monkeypatch.undo()
            start(thread)
            other = threading.Thread(target=second)
            other.start()
            other.join(30)

        monkeypatch.setattr(threading.Thread, "start", start_slowly)
        p.apply_async(square, (3,), callback=got.append).wait(20)
        assert sorted(got) == [4, 9]
        assert count() == before + 1
        p.close()
        ender = threading.Thread(target=p.join, daemon=True)  # which would wait for ever for the thread that nobody rings
        ender.start()
        ender.join(30)
        assert not ender.is_alive() and count() == before


def test_callback_that_fails_hurts_nobody(pool, monkeypatch):
    import sys

    seen = []
    monkeypatch.setattr(sys, "unraisablehook", lambda u: seen.append(u.exc_type))
    result = pool.apply_async(square, (2,), callback=lambda r: 1 / 0)
    assert result.get(20) == 4
    got = []
    pool.apply_async(square, (3,), callback=got.append).wait(20)
    assert got == [9] and seen == [ZeroDivisionError]


def test_callback_may_use_the_pool(pool):
    got = []
    done = threading.Event()

    def again(r):
        got.append(r)
        if r < 1000:
            pool.apply_async(square, (r,), callback=again)
        else:
            done.set()

    pool.apply_async(square, (2,), callback=again)
    assert done.wait(20) and got == [4, 16, 256, 65536]


def test_join_waits_for_callbacks():
    for module in MODULES:
        got = []
        p = module.Pool(2)
        for i in range(50):
            p.apply_async(square, (i,), callback=got.append)
        p.close()
        p.join()
        assert sorted(got) == [i * i for i in range(50)]


# ---- lazy iteration ----------------------------------------------------------------------------


def test_lazy_window_is_small_for_slow_consumers(pool):
    pulled = []
    it = pool.imap(square, (pulled.append(i) or i for i in itertools.count()))
    for i in range(5):
        next(it)
        pool.apply(square, (1,))
    assert len(pulled) < 100


def test_next_with_timeout(both, tmp_path):
    fifo = tmp_path / "gate"
    os.mkfifo(fifo)
    it = both.imap(open_and_read, [str(fifo)])
    with pytest.raises(both.module.TimeoutError):
        it.next(timeout=0.02)
    fifo.write_text("x")
    assert it.next(timeout=20) == "x"
    with pytest.raises(StopIteration):
        it.next(timeout=20)
    with pytest.raises(StopIteration):
        next(it)


def open_and_read(path):
    with open(path) as f:
        return f.read()


def test_close_before_consuming():
    for module in MODULES:
        p = module.Pool(2)
        it = p.imap(square, range(2000))
        other = p.imap_unordered(square, range(2000), 3)
        p.close()
        assert list(it) == [i * i for i in range(2000)]
        p.join()
        assert sorted(other) == [i * i for i in range(2000)]


def test_never_consumed_runs_nevertheless(tmp_path):
    for module in MODULES:
        p = module.Pool(2)
        folder = tmp_path / module.__name__
        folder.mkdir()
        p.imap_unordered(touch, [str(folder / str(i)) for i in range(100)])
        p.close()
        p.join()
        assert len(list(folder.iterdir())) == 100


def touch(path):
    open(path, "w").close()


def test_abandoned_iterator_stops():
    p = manyhands.Pool(2)
    for i, r in enumerate(p.imap(square, itertools.count())):
        if i == 20:
            break
    p.close()
    p.join()  # the standard library never comes back from here


def test_iterator_keeps_its_pool_alive():
    assert list(manyhands.Pool(2).imap(square, range(300))) == [i * i for i in range(300)]


# ---- life --------------------------------------------------------------------------------------


def set_value(x):
    global value
    value = x


def get_value(_):
    return value


def worker_name(_):
    p = manyhands.current_process()
    return p.name, p.daemon, manyhands.parent_process().pid, p._identity


def test_initializer():
    for module in MODULES:
        with module.Pool(2, set_value, ("hello",)) as p:
            assert p.map(get_value, range(4)) == ["hello"] * 4
        with module.Pool(processes=1, initializer=set_value, initargs=[7]) as p:
            assert p.apply(get_value, (0,)) == 7


def test_workers_are_daemonic_and_named(pool):
    for name, daemon, parent, identity in pool.map(worker_name, range(8), 1):
        assert name.startswith("ForkPoolWorker-") and daemon and parent == os.getpid() and len(identity) == 1


def pid_of(_):
    return os.getpid()


def test_maxtasksperchild():
    for module in MODULES:
        with module.Pool(1, maxtasksperchild=3) as p:
            pids = [p.apply(pid_of, (0,)) for _ in range(9)]
            assert [len(set(pids[i:i + 3])) for i in (0, 3, 6)] == [1, 1, 1] and len(set(pids)) == 3


def test_workers_are_as_many_as_asked(pool):
    assert len(pool._pool) == 2 and all(w.pid > 0 for w in pool._pool)
    assert set(pool.map(pid_of, range(100), 1)) <= {w.pid for w in pool._pool}


def test_terminate_is_quick_and_results_say_so():
    p = manyhands.Pool(2)
    results = p.map_async(time.sleep, [100] * 1000, chunksize=1)
    begin = time.monotonic()
    p.terminate()
    p.join()
    assert time.monotonic() - begin < 2
    with pytest.raises(manyhands.CancelledError):
        results.get()


def test_repr_and_context_manager():
    with manyhands.Pool(1) as p:
        assert repr(p) == "<manyhands.pool.Pool state=RUN pool_size=1>"
    assert "state=TERMINATE" in repr(p)
    p.join()


def test_unclosed_pool_warns():
    import gc

    with pytest.warns(ResourceWarning, match="unclosed running multiprocessing pool"):
        p = manyhands.Pool(1)
        del p
        gc.collect()


def test_thread_pool():
    from manyhands.pool import ThreadPool

    assert manyhands.ThreadPool is ThreadPool
    with ThreadPool(3) as p:
        mark = object()
        assert p.apply(lambda: mark) is mark
        assert p.map(lambda x: x + 1, range(5)) == [1, 2, 3, 4, 5]


# ---- more than the standard library ---------------------------------------------------------------


def test_functions_that_pickle_refuses(pool):
    base = 10

    def local(x, f=None):
        return f(x) if f else x + base

    assert pool.map(local, [1, 2]) == [11, 12]
    assert pool.map(lambda x: x * base, [1, 2]) == [10, 20]
    assert pool.apply(local, (1, lambda x: -x)) == -1
    assert list(pool.imap(lambda x: x + 1, [1, 2])) == [2, 3]
    assert pool.apply_async(lambda: local(5)).get() == 15
    import functools

    assert pool.map(functools.partial(local, f=lambda x: x * 3), [1]) == [3]
    assert pool.starmap_async(lambda a, b: a * b, [(2, 3)]).get() == [6]


def test_a_function_defined_anew_is_the_new_one():
    from helpers import run_program

    done = run_program("""
        import manyhands
        def f(x):
            return x + 1
        if __name__ == "__main__":
            with manyhands.Pool(1) as p:
                print(p.map(f, [1]), end=" ")
                def f(x):
                    return x + 2
                print(p.map(f, [1]), end=" ")
                def g(x):
                    return f(x) * 10
                print(p.apply(g, (1,)))
    """)
    assert done.stdout == "[2] [3] 30\n", done.stderr


def fail_until(path, attempts):
    with open(path, "a+") as f:
        f.write("x")
        f.flush()
        if f.tell() < attempts:
            raise OSError("not yet")
    return "done"


def test_retries_of_failures(pool, tmp_path):
    with pytest.raises(OSError):
        pool.apply(fail_until, (tmp_path / "a", 3), retries=1)
    assert pool.apply(fail_until, (tmp_path / "b", 3), retries=2) == "done"
    assert pool.map(functools_partial(tmp_path / "c"), [2], retries=(0, 1)) == ["done"]
    with pytest.raises(OSError):
        pool.apply(fail_until, (tmp_path / "d", 2), retries=(5, 0))
    with manyhands.Pool(1, retries=1) as p:
        assert p.apply(fail_until, (tmp_path / "e", 2)) == "done"


def functools_partial(path):
    import functools

    return functools.partial(fail_until, path)


@pytest.mark.parametrize("options", [dict(retries=-1), dict(retries="x"), dict(retries=(1,)), dict(retries=(1, 2, 3, 4)), dict(timeout=0), dict(timeout=-1), dict(timeout="x")], ids=str)
def test_wrong_options(pool, options):
    for call in (lambda: pool.apply(square, (1,), **options), lambda: pool.map(square, [1], **options), lambda: pool.imap(square, [1], **options),
                 lambda: pool.map_async(square, [1], **options), lambda: pool.apply_async(square, (1,), **options), lambda: manyhands.Pool(1, **options)):
        with pytest.raises((ValueError, TypeError)):
            call()


def test_timeout_of_a_task():
    with manyhands.Pool(2) as p:
        with pytest.raises(manyhands.TaskTimeout) as caught:
            p.apply(time.sleep, (60,), timeout=0.1)
        assert isinstance(caught.value, manyhands.TimeoutError)
        assert p.map(square, range(10), timeout=20) == [i * i for i in range(10)]
        it = p.imap_unordered(time.sleep, [60, 0], timeout=0.2)
        ends = sorted(outcome(next, it)[0] if isinstance(o := outcome(next, it), str) else str(o) for _ in range(2))
        assert any("TaskTimeout" in e for e in ends)


def test_progress(pool, capsys):
    pytest.importorskip("tqdm")
    assert pool.map(square, range(50), progress="squares") == [i * i for i in range(50)]
    assert "squares: 100%" in capsys.readouterr().err
    assert pool.starmap(add, [(1, 2)] * 3, progress=True) == [3] * 3
    assert list(pool.imap(square, range(5), progress=True)) == [0, 1, 4, 9, 16]
    assert sorted(pool.imap_unordered(square, range(5), progress="u")) == [0, 1, 4, 9, 16]
    assert "u: 100%" in capsys.readouterr().err


def test_stats(pool):
    before = pool.stats()
    pool.map(square, range(10), 1)
    after = pool.stats()
    assert after["submitted"] - before["submitted"] == 10 == after["finished"] - before["finished"]
    assert after["workers"] == 2


def test_arrays_come_back_writable_and_outlive_the_pool():
    numpy = pytest.importorskip("numpy")

    def work(a):
        a += 1  # the argument is the task's own
        return a, a.flags.writeable

    source = numpy.zeros(100_000)
    with manyhands.Pool(2) as p:
        results = p.map(work, [source] * 5, 1)
        p.close()
        p.join()
    del p
    assert source.sum() == 0
    for array, writable in results:
        assert writable and array.sum() == 100_000
        array += 1
        assert array.sum() == 200_000


def keep_argument(a):
    global kept
    kept = a


def sum_of_kept(_):
    return float(kept.sum())


def test_arguments_may_be_kept():
    numpy = pytest.importorskip("numpy")
    with manyhands.Pool(1) as p:
        p.apply(keep_argument, (numpy.ones(100_000),))
        p.map(square, [numpy.zeros(100_000)] * 20, 1)
        assert p.apply(sum_of_kept, (0,)) == 100_000


def test_signatures():
    import inspect

    for name in ("map", "map_async", "starmap", "starmap_async", "imap", "imap_unordered", "apply", "apply_async"):
        ours, standard = (list(inspect.signature(getattr(m.Pool, name)).parameters) for m in (manyhands.pool, __import__("multiprocessing.pool").pool))
        assert ours[:len(standard)] == standard, name


def test_iterator_over_a_pool_that_was_terminated_says_so():
    p = manyhands.Pool(2)
    it = p.imap(square, range(100_000))
    assert next(it) == 0
    p.terminate()
    with pytest.raises((manyhands.CancelledError, ValueError)):
        for _ in it:
            pass


# ---- pools of threads: what they have beyond the standard library's


def test_thread_pool_retries_each_item():
    seen = []

    def flaky(x):
        seen.append(x)
        if seen.count(x) < 3:
            raise ValueError(x)
        return x

    with manyhands.ThreadPool(2) as p:
        assert p.map(flaky, range(5), retries=2) == list(range(5))
        assert sorted(seen) == sorted(list(range(5)) * 3)
        del seen[:]
        with pytest.raises(ValueError):
            p.apply(flaky, (1,), retries=(5, 1))
        with pytest.raises(ValueError):
            p.apply(flaky, (1,), retries=-1)
    with manyhands.ThreadPool(2, retries=2) as p:
        assert list(p.imap(flaky, [7, 8, 9])) == [7, 8, 9]


@pytest.mark.parametrize("ordered", [True, False])
def test_thread_pool_imap_is_lazy(ordered):
    pulled = []

    def endless():
        i = 0
        while True:
            pulled.append(i)
            yield i
            i += 1

    with manyhands.ThreadPool(2) as p:
        results = (p.imap if ordered else p.imap_unordered)(lambda x: x * x, endless())
        got = [next(results) for _ in range(10)]
        assert len(set(got)) == 10 and len(pulled) < 100
        assert p.apply(len, ("abc",)) == 3  # nothing else waits for the consumer


def test_thread_pool_imap_after_close_and_join():
    p = manyhands.ThreadPool(2)
    begun, fresh = p.imap(str, range(100)), p.imap_unordered(str, range(100), chunksize=7)
    assert next(begun) == "0"
    p.close()
    with pytest.raises(ValueError):
        p.apply(str, (1,))
    assert next(begun) == "1"
    p.join()
    assert list(begun) == [str(i) for i in range(2, 100)]
    assert sorted(map(int, fresh)) == list(range(100))


def test_thread_pool_imap_errors_and_timeout():
    gate = threading.Event()

    def broken():
        yield 1
        raise KeyError("source")

    with manyhands.ThreadPool(1) as p:
        results = p.imap(str, broken())
        assert next(results) == "1"
        with pytest.raises(KeyError):
            next(results)
        with pytest.raises(StopIteration):
            next(results)
        waiting = p.imap(lambda x: gate.wait(30), [1])
        with pytest.raises(manyhands.TimeoutError):
            waiting.next(timeout=0.01)
        gate.set()
        assert next(waiting) is True


def test_thread_pool_terminate_ends_lazy_iterators():
    gate = threading.Event()
    p = manyhands.ThreadPool(1)
    results = p.imap(lambda x: gate.wait(30), range(100))
    gate_opener = threading.Timer(0.05, gate.set)
    gate_opener.start()
    p.terminate()
    with pytest.raises(manyhands.CancelledError):
        for _ in range(101):
            next(results)
    gate_opener.join()


def test_thread_pool_answers_sys_exit():
    with manyhands.ThreadPool(2) as p:
        with pytest.raises(manyhands.TaskExited):
            p.apply(sys.exit, (3,))
        with pytest.raises(manyhands.TaskExited):
            p.map(sys.exit, [1, 2, 3])
        assert p.map(abs, [-1, -2]) == [1, 2]


def test_thread_pool_progress(capsys):
    with manyhands.ThreadPool(2) as p:
        assert p.map(abs, range(50), progress="fifty") == list(range(50))
        assert p.starmap(pow, [(2, 3)], progress=True) == [8]
        assert list(p.imap(abs, range(5), progress="five")) == list(range(5))
    shown = capsys.readouterr().err
    assert "fifty" in shown and "50/50" in shown and "5/5" in shown


def test_threads_of_a_thread_pool_count_only_while_they_run_a_call():
    """How processes start is settled by what threads may hold: idle workers hold nothing, nor do those that outlive their pool for a moment."""
    program = """if True:
        import threading, manyhands
        entered, gate = threading.Event(), threading.Event()

        def task():
            entered.set()
            gate.wait()

        with manyhands.ThreadPool(2) as pool:
            idle = manyhands.get_start_method()
            result = pool.apply_async(task)
            entered.wait()
            busy = manyhands.get_start_method()
            gate.set()
            result.get()
            print(idle, busy, manyhands.get_start_method())
        print(manyhands.get_start_method())
    """
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("fork forkserver fork\nfork\n", "")
