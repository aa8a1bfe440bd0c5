"""What bad luck gets: every row answers, hurts only its own task, and leaves nothing behind."""

import faulthandler
import os
import signal
import sys
import threading
import time

import pytest
from helpers import eventually, is_running, lasting_pool, run_program
from tasks import square, throw

import manyhands


def die_on(x, how=signal.SIGKILL, bad=3):
    if x == bad:
        faulthandler.disable()  # pytest's, which would report the signal
        os.kill(os.getpid(), how)
        time.sleep(60)
    return x


def die_once(path):
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return "second attempt"
    os.kill(os.getpid(), signal.SIGKILL)


def leave(how, code):
    if how == "sys.exit":
        sys.exit(code)
    if how == "raise":
        raise code
    os._exit(code)


def recurse(n):
    return recurse(n + 1) + 1


class NotPicklable:
    def __reduce__(self):
        raise RuntimeError("cannot pickle")


class NotUnpicklable:
    def __reduce__(self):
        return refuse, ()


def refuse():
    raise RuntimeError("cannot unpickle")


def make(kind):
    return kind() if callable(kind) else kind


@pytest.fixture
def pool():
    with lasting_pool() as made:
        yield made


# ---- workers that die ----------------------------------------------------------------------------


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT, signal.SIGTERM])
def test_killed_worker_loses_its_task_only(pool, how):
    results = [pool.apply_async(die_on, (i, how)) for i in range(50)]
    for i, r in enumerate(results):
        if i == 3:
            with pytest.raises(manyhands.WorkerLost) as caught:
                r.get(20)
            lost = caught.value
            assert (lost.signal, lost.exitcode, lost.attempt) == (how, -how, 1) and lost.task > 0 and lost.pid > 0
            assert how.name in str(lost) and str(lost.pid) in str(lost)
        else:
            assert r.get(20) == i


def test_exiting_worker(pool):
    with pytest.raises(manyhands.WorkerLost) as caught:
        pool.apply(leave, ("os._exit", 9))
    assert (caught.value.signal, caught.value.exitcode) == (0, 9)
    assert "exited with code 9" in str(caught.value)


def test_lost_task_is_retried(pool, tmp_path):
    assert pool.apply(die_once, (str(tmp_path / "a"),), retries=1) == "second attempt"
    assert pool.map(die_once, [str(tmp_path / "b"), str(tmp_path / "c")], 1, retries=(1, 0)) == ["second attempt"] * 2
    assert list(pool.imap(die_once, [str(tmp_path / "d")], retries=1)) == ["second attempt"]


def test_poison_task_is_given_up(pool):
    begin = time.monotonic()
    with pytest.raises(manyhands.PoisonTask) as caught:
        pool.apply(die_on, (3,), retries=2)
    assert caught.value.attempt == 3 and isinstance(caught.value, manyhands.WorkerLost)
    assert time.monotonic() - begin < 10


def test_the_fork_server_may_be_killed(pool):
    server = int(next(line.split()[1] for line in open(f"/proc/{pool._pids()[-1]}/status") if line.startswith("PPid")))
    os.kill(server, signal.SIGKILL)
    eventually(lambda: not is_running(server))
    assert pool.map(square, range(8), 1, retries=3) == [i * i for i in range(8)]


def test_lazy_iteration_over_dying_workers(pool):
    got, lost = [], 0
    it = pool.imap(die_on, range(10))
    while True:
        try:
            got.append(next(it))
        except manyhands.WorkerLost:
            lost += 1
        except StopIteration:
            break
    assert (got, lost) == ([0, 1, 2, 4, 5, 6, 7, 8, 9], 1)


def test_callback_of_a_lost_task(pool):
    seen = []
    pool.apply_async(die_on, (3,), error_callback=seen.append).wait(20)
    assert type(seen[0]) is manyhands.WorkerLost


# ---- tasks that leave ------------------------------------------------------------------------------


def test_infinite_recursion(pool):
    for _ in range(3):
        with pytest.raises(RecursionError):
            pool.apply(recurse, (0,))


def test_memory_error(pool):
    with pytest.raises(MemoryError):
        pool.apply(bytes, (2**62,))


# ---- what cannot travel ----------------------------------------------------------------------------


def test_unpicklable_result(pool):
    import multiprocessing.pool

    for kind in (threading.Lock, NotPicklable):
        with pytest.raises(multiprocessing.pool.MaybeEncodingError) as caught:
            pool.apply(make, (kind,))
        assert ("lock" if kind is threading.Lock else "NotPicklable") in caught.value.value
    with pytest.raises(manyhands.SerializationError, match="lambda"):
        pool.apply(eval, ("lambda: 0",))
    mixed = [pool.apply_async(make, (k,)) for k in (1, NotPicklable, "x")]
    assert mixed[0].get() == 1 and mixed[2].get() == "x"
    with pytest.raises(manyhands.SerializationError):
        mixed[1].get()


def test_un_unpicklable_result(pool):
    with pytest.raises(manyhands.SerializationError) as caught:
        pool.apply(make, (NotUnpicklable,))
    assert "cannot unpickle" in str(caught.value)
    assert list(pool.imap(square, [1])) == [1]


def test_unpicklable_argument(pool):
    for call in (lambda: pool.apply(square, (NotPicklable(),)), lambda: pool.map(square, [NotPicklable()] * 10), lambda: pool.map(square, [1, NotPicklable()], 1),
                 lambda: pool.map_async(square, [NotPicklable()]).get(20), lambda: next(pool.imap(square, [NotPicklable()]))):
        with pytest.raises(RuntimeError, match="cannot pickle") as caught:  # its own exception, as in the standard library
            call()
        assert isinstance(caught.value.__cause__, manyhands.SerializationError) and "square" in str(caught.value.__cause__)


def test_unpicklable_argument_fails_its_task_alone(pool):
    it = pool.imap(square, [1, NotPicklable(), 3])
    assert next(it) == 1
    with pytest.raises(RuntimeError):
        next(it)
    assert next(it) == 9


def test_un_unpicklable_argument(pool):
    for call in (lambda: pool.apply(square, (NotUnpicklable(),)), lambda: pool.map(square, [NotUnpicklable()])):
        with pytest.raises(manyhands.SerializationError, match="cannot unpickle"):
            call()


def test_unpicklable_function(pool):
    class Callable:
        def __call__(self, x):
            return x

        def __reduce__(self):
            raise RuntimeError("cannot pickle")

    for call in (lambda: pool.apply(Callable(), (1,)), lambda: pool.map(Callable(), [1]), lambda: pool.map_async(Callable(), [1]).get(20)):
        with pytest.raises(RuntimeError, match="cannot pickle"):
            call()


def test_local_exception_class(pool):
    class Local(Exception):
        pass

    with pytest.raises(manyhands.SerializationError, match="Local"):
        pool.apply(throw, (Local,))


def test_reply_that_is_too_large_for_memory(pool):
    with pytest.raises((MemoryError, OSError, ValueError)):
        pool.apply(bytes, (2**45,))


# ---- initializers ----------------------------------------------------------------------------------


def bad_initializer():
    raise RuntimeError("initializer failed")


def test_initializer_that_fails_breaks_the_pool_instead_of_hanging():
    done = run_program("""
        import manyhands
        def bad():
            raise RuntimeError("initializer failed")
        if __name__ == "__main__":
            with manyhands.Pool(1, bad) as p:
                try:
                    p.apply(abs, (1,))
                except Exception as e:
                    print("answered")
    """, timeout=30)
    assert done.stdout == "answered\n", done
    assert "initializer failed" in done.stderr


# ---- parents that end -------------------------------------------------------------------------------


def test_pool_left_open_ends_at_exit():
    done = run_program("""
        import manyhands, time, os
        def f(x):
            return os.getpid()
        p = manyhands.Pool(2)
        print(*set(p.map(f, range(4), 1)))
        r = p.map_async(time.sleep, [100] * 10, 1)
    """, timeout=10)
    assert done.returncode == 0 and done.stderr == ""
    assert not any(is_running(int(pid)) for pid in done.stdout.split())


def test_forked_child_with_a_pool_in_it():
    """In a forked child the pool says so instead of hanging, and the child ends."""
    done = run_program("""
        import manyhands, os, sys
        def square(x):
            return x * x
        p = manyhands.Pool(2)
        r = p.apply_async(square, (2,))
        it = p.imap(square, range(10000))
        next(it)
        pid = os.fork()
        if pid == 0:
            for call in (lambda: p.apply(square, (1,)), lambda: p.map(square, [1]), lambda: list(it), lambda: p.map_async(square, [1]).get()):
                try:
                    print("no error:", call())
                except RuntimeError as e:
                    pass
            del p, it, r
            sys.exit(5)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), r.get(), len(list(it)), p.map(square, [3]))
    """, timeout=20)
    assert done.stdout == "5 4 9999 [9]\n", done


def test_pool_in_a_child_process():
    done = run_program("""
        import manyhands
        def square(x):
            return x * x
        def child():
            with manyhands.Pool(2) as p:
                print(p.map(square, [1, 2, 3]))
        if __name__ == "__main__":
            outer = manyhands.Pool(1)
            outer.map(square, [1])
            p = manyhands.Process(target=child)
            p.start()
            p.join()
            print(p.exitcode, outer.map(square, [4]))
    """, timeout=20)
    assert done.stdout == "[1, 4, 9]\n0 [16]\n", done


def nested(n):
    with manyhands.Pool(2) as p:
        return p.map(square, range(n))


def test_nested_pools(pool):
    assert pool.map(nested, [3, 4], 1) == [[0, 1, 4], [0, 1, 4, 9]]
