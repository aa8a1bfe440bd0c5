"""The executor: what programs for concurrent.futures expect of it, and what it adds."""

from __future__ import annotations

import asyncio
import concurrent.futures as standard
import gc
import io
import logging
import multiprocessing
import os
import signal
import threading
import time
import weakref
from contextlib import redirect_stderr

import pytest
from executor_tasks import (
    Holder,
    Unreadable,
    begin_and_wait,
    capture,
    die,
    die_unless,
    divide,
    fail,
    initialize,
    kill_if,
    nested,
    raise_it,
    status,
    tell,
    wait_for,
    write_pid,
)
from helpers import children, descriptors, eventually, is_running, run_program
from programs import Program
from tasks import echo

import manyhands
import manyhands.futures as futures
from manyhands.futures import ProcessPoolExecutor

pytestmark = pytest.mark.timeout(60)
METHODS = ["fork", "forkserver", "spawn"]


@pytest.fixture(scope="module")
def executor():
    with ProcessPoolExecutor(2) as made:
        yield made


# ---- the interface ------------------------------------------------------------------------------------------------------


def test_every_public_name_is_there():
    names = [n for n in standard.__all__ if n not in ("InterpreterPoolExecutor",)]
    assert [n for n in names if not hasattr(futures, n)] == []
    assert [n for n in futures.__all__ if not hasattr(futures, n)] == []
    assert futures.Future is standard.Future and futures.wait is standard.wait and futures.TimeoutError is standard.TimeoutError
    assert futures.BrokenProcessPool is standard.process.BrokenProcessPool


def test_submit(executor):
    future = executor.submit(pow, 2, 8)
    assert isinstance(future, standard.Future) and isinstance(executor, standard.Executor)
    assert future.result() == 256 and future.result(timeout=0) == 256 and future.exception() is None
    assert future.done() and not future.running() and not future.cancelled() and future.cancel() is False
    assert executor.submit(capture, 1, self=2, fn=3).result() == ((1,), {"self": 2, "fn": 3})
    assert executor.submit(lambda x: x + 1, 2).result() == 3  # more than the standard library takes


@pytest.mark.parametrize("args, kwargs", [((), {"fn": capture}), ((), {}), ((), {"arg": 1})])
def test_submit_needs_a_function(executor, args, kwargs):
    with pytest.raises(TypeError, match="missing 1 required positional argument"):
        executor.submit(*args, **kwargs)


def test_what_a_call_raises(executor):
    future = executor.submit(divide, 1, 0)
    with pytest.raises(ZeroDivisionError) as caught:
        future.result()
    assert future.exception() is caught.value
    assert type(caught.value.__cause__) is standard.process._RemoteTraceback and "in divide" in str(caught.value.__cause__)
    for error in (SystemExit(3), KeyboardInterrupt("k")):
        assert executor.submit(raise_it, error).exception().args == error.args
        assert type(executor.submit(raise_it, error).exception()) is type(error)


def test_what_cannot_travel(executor):
    future = executor.submit(echo, threading.Lock())
    with pytest.raises(TypeError, match="cannot pickle"):
        future.result()
    assert future.done()
    with pytest.raises(futures.BrokenProcessPool, match="in the worker"):
        executor.submit(echo, Unreadable(ValueError("no"))).result()
    with pytest.raises(futures.BrokenProcessPool, match="in the worker"):
        executor.submit(echo, Unreadable(SystemExit(1))).result()
    with pytest.raises(futures.BrokenProcessPool, match="in the caller"):
        executor.submit(Unreadable, ValueError("no")).result()
    assert executor.submit(pow, 2, 3).result() == 8


def test_result_in_time_and_not(executor, tmp_path):
    future = executor.submit(wait_for, str(tmp_path / "go"))
    for timeout in (0, 0.01, -1):
        with pytest.raises(futures.TimeoutError):
            future.result(timeout)
        with pytest.raises(futures.TimeoutError):
            future.exception(timeout=timeout)
    assert not future.done()
    (tmp_path / "go").touch()
    assert future.result(timeout=30) == str(tmp_path / "go")
    with pytest.raises(TypeError):
        future.result(1, 2)
    with pytest.raises(TypeError):
        future.result(time=1)


def test_states(tmp_path):
    with ProcessPoolExecutor(1) as executor:
        runs = executor.submit(begin_and_wait, str(tmp_path / "begun"), str(tmp_path / "go"))
        waits = executor.submit(pow, 2, 2)
        wait_for(str(tmp_path / "begun"))
        assert runs.running() and not runs.cancel() and "state=running" in repr(runs) and runs._state == "RUNNING"
        assert not waits.running() and "state=pending" in repr(waits) and waits._state == "PENDING"
        assert waits.cancel() and waits.cancelled() and waits.done() and waits.cancel() and "state=cancelled" in repr(waits)
        for ask in (waits.result, waits.exception):
            with pytest.raises(futures.CancelledError):
                ask()
        (tmp_path / "go").touch()
        assert runs.result(30) and "state=finished returned str" in repr(runs) and runs._state == "FINISHED"
        with pytest.raises(futures.InvalidStateError, match="cannot be set"):
            runs.set_result(3)


# ---- callbacks, wait and as_completed ------------------------------------------------------------------------------------


def test_callbacks(executor, tmp_path):
    called: list[object] = []
    ended = threading.Event()
    future = executor.submit(wait_for, str(tmp_path / "go"))
    future.add_done_callback(called.append)
    future.add_done_callback(lambda f: 1 / 0)
    future.add_done_callback(lambda f: ended.set())
    heard = io.StringIO()
    handler = logging.StreamHandler(heard)
    logging.getLogger("concurrent.futures").addHandler(handler)
    try:
        (tmp_path / "go").touch()
        assert ended.wait(30) and called == [future]
        future.add_done_callback(called.append)  # at once
        assert called == [future, future]
    finally:
        logging.getLogger("concurrent.futures").removeHandler(handler)
    assert "exception calling callback for <TaskFuture" in heard.getvalue() and "ZeroDivisionError" in heard.getvalue()


def test_callback_of_a_cancelled_one(tmp_path):
    with ProcessPoolExecutor(1) as executor:
        runs = executor.submit(begin_and_wait, str(tmp_path / "begun"), str(tmp_path / "go"))
        wait_for(str(tmp_path / "begun"))
        waits = executor.submit(pow, 2, 2)
        called: list[bool] = []
        waits.add_done_callback(lambda f: called.append(f.cancelled()))
        assert waits.cancel() and called == [True]
        assert futures.wait([waits], timeout=30).done == {waits}
        (tmp_path / "go").touch()
        assert runs.result(30)


def test_a_callback_may_use_the_executor(executor):
    answers: list[int] = []
    ended = threading.Event()

    def again(future):
        answers.append(executor.submit(pow, future.result(), 2).result())
        ended.set()

    executor.submit(pow, 2, 2).add_done_callback(again)
    assert ended.wait(30) and answers == [16]


def test_wait(executor, tmp_path):
    later = executor.submit(wait_for, str(tmp_path / "go"))
    soon = [executor.submit(pow, 2, n) for n in range(20)]
    bad = executor.submit(divide, 1, 0)
    done, open_ = futures.wait([later, *soon, bad], timeout=30, return_when=futures.FIRST_EXCEPTION)
    assert bad in done and later in open_
    done, open_ = futures.wait([later, soon[0]], return_when=futures.FIRST_COMPLETED)
    assert done == {soon[0]} and open_ == {later}
    assert futures.wait([later], timeout=0.01) == (set(), {later})
    (tmp_path / "go").touch()
    assert futures.wait([later, *soon, bad]).not_done == set()
    plain = standard.Future()  # mixed with the standard library's own
    plain.set_result(1)
    assert futures.wait([plain, later, executor.submit(pow, 1, 1)], timeout=30).not_done == set()


def test_as_completed(executor, tmp_path):
    later = executor.submit(wait_for, str(tmp_path / "go"))
    soon = [executor.submit(pow, 2, n) for n in range(50)]
    found = []
    for future in futures.as_completed([later, *soon], timeout=30):
        found.append(future)
        if len(found) == len(soon):
            (tmp_path / "go").touch()
    assert found[-1] is later and set(found) == {later, *soon}


def test_many_threads_wait_for_one(executor, tmp_path):
    future = executor.submit(wait_for, str(tmp_path / "go"))
    answers: list[object] = []
    threads = [threading.Thread(target=lambda: answers.append(future.result())) for _ in range(4)]
    threads += [threading.Thread(target=lambda: answers.extend(f.result() for f in futures.as_completed([future]))) for _ in range(4)]
    for t in threads:
        t.start()
    (tmp_path / "go").touch()
    for t in threads:
        t.join(30)
    assert answers == [str(tmp_path / "go")] * 8


# ---- map ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunksize", [1, 3, 50])
def test_map(executor, chunksize):
    assert list(executor.map(pow, range(40), range(40), chunksize=chunksize)) == list(map(pow, range(40), range(40)))
    assert list(executor.map(str, range(40), chunksize=chunksize)) == [str(i) for i in range(40)]
    assert list(executor.map(str, iter(range(40)), chunksize=chunksize)) == [str(i) for i in range(40)]
    assert list(executor.map(pow, [], [], chunksize=chunksize)) == list(executor.map(pow)) == []


def test_map_arguments(executor):
    with pytest.raises(ValueError, match="chunksize must be >= 1"):
        executor.map(str, [1], chunksize=0)
    with pytest.raises(TypeError):
        executor.map(str, 5)


def test_map_raises_at_its_place_and_ends(executor):
    results = executor.map(divmod, [1, 1, 1, 1], [2, 3, 0, 5])
    assert next(results) == (0, 1) and next(results) == (0, 1)
    with pytest.raises(ZeroDivisionError) as caught:
        next(results)
    assert type(caught.value.__cause__) is standard.process._RemoteTraceback
    assert list(results) == []


def test_map_with_a_deadline(executor, tmp_path):
    results = executor.map(echo, [1, 2], timeout=30)
    assert list(results) == [1, 2]
    results = executor.map(wait_for, [str(tmp_path / "go")], timeout=0.05)
    with pytest.raises(futures.TimeoutError):
        next(results)
    (tmp_path / "go").touch()


def test_map_hands_in_what_has_a_length_without_a_consumer(executor, tmp_path):
    results = executor.map(write_pid, [str(tmp_path / str(i)) for i in range(100)])
    eventually(lambda: len(os.listdir(tmp_path)) == 100, 30)
    del results


def test_map_keeps_no_reference_to_what_it_yielded(executor):
    for item in executor.map(Holder, range(10)):
        alive = weakref.ref(item)
        del item
        gc.collect()
        assert alive() is None


def test_map_shows_progress(executor):
    pytest.importorskip("tqdm")
    heard = io.StringIO()
    with redirect_stderr(heard):
        assert list(executor.map(str, range(7), progress="sevens")) == [str(i) for i in range(7)]
    assert "sevens: 100%" in heard.getvalue() and "7/7" in heard.getvalue()


# ---- life ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options, error, text", [
    ({"max_workers": 0}, ValueError, "max_workers must be greater than 0"),
    ({"max_workers": -1}, ValueError, "max_workers must be greater than 0"),
    ({"initializer": 3}, TypeError, "initializer must be a callable"),
    ({"max_tasks_per_child": 0}, ValueError, "must be >= 1"),
    ({"max_tasks_per_child": 1.5}, TypeError, "must be an integer"),
    ({"max_tasks_per_child": 2, "mp_context": multiprocessing.get_context("fork")}, ValueError, "incompatible with"),
    ({"retries": -1}, ValueError, "retries must be"),
    ({"timeout": 0}, ValueError, "timeout must be"),
])
def test_bad_options(options, error, text):
    with pytest.raises(error, match=text):
        ProcessPoolExecutor(**options).submit(pow, 1, 1)


def test_nothing_starts_before_the_first_call():
    before = children()
    executor = ProcessPoolExecutor(2)
    assert children() == before and executor._processes == {} and executor.stats() == {}
    executor.shutdown()
    executor.shutdown()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("library", [multiprocessing, manyhands])
def test_contexts(method, library):
    context = library.get_context(method)
    with ProcessPoolExecutor(2, context) as executor:
        assert executor.submit(os.getpid).result() in executor._processes
        assert len(executor._processes) == (2 if method == "fork" else 1) and executor._max_workers == 2  # others start on demand


def test_how_workers_start_is_settled_when_they_do():
    """With the first call, before which the program may have begun threads."""
    done = run_program("""
        import multiprocessing, threading
        from manyhands.futures import ProcessPoolExecutor

        def name():
            return multiprocessing.current_process().name.partition("-")[0]

        if __name__ == "__main__":
            one, two = ProcessPoolExecutor(1), ProcessPoolExecutor(1)
            print(one.submit(name).result())
            end = threading.Event()
            thread = threading.Thread(target=end.wait)
            thread.start()
            print(two.submit(name).result())
            end.set()
    """)
    assert done.stdout.split() == ["ForkPoolWorker", "ForkServerPoolWorker"], done.stderr


def test_max_tasks_per_child_spawns_by_itself():
    with ProcessPoolExecutor(1, max_tasks_per_child=2) as executor:
        pids = [executor.submit(os.getpid).result() for _ in range(4)]
        assert executor._mp_context.get_start_method() == "spawn"
    assert pids[0] == pids[1] != pids[2] == pids[3]


@pytest.mark.parametrize("wait", [True, False])
def test_shutdown(tmp_path, wait):
    executor = ProcessPoolExecutor(2)
    given = [executor.submit(echo, i) for i in range(50)]
    mapped = executor.map(str, range(50))
    lazy = executor.map(str, iter(range(50)))
    pids = list(executor._processes)
    executor.shutdown(wait=wait)
    with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
        executor.submit(pow, 1, 1)
    with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
        executor.map(pow, [1], [1])
    assert [f.result(30) for f in given] == list(range(50))
    assert list(mapped) == list(lazy) == [str(i) for i in range(50)]
    eventually(lambda: not any(map(is_running, pids)), 30)


def test_shutdown_that_cancels(tmp_path):
    executor = ProcessPoolExecutor(1)
    runs = executor.submit(begin_and_wait, str(tmp_path / "begun"), str(tmp_path / "go"))
    wait_for(str(tmp_path / "begun"))
    others = [executor.submit(pow, 2, 2) for _ in range(20)]
    executor.shutdown(wait=False, cancel_futures=True)
    assert all(f.cancelled() for f in others)
    (tmp_path / "go").touch()
    assert runs.result(30)


def test_a_worker_that_starts_does_its_first_call_all_the_same():
    executor = ProcessPoolExecutor(2)
    given = [executor.submit(echo, i) for i in range(50)]
    executor.shutdown(cancel_futures=True)
    assert given[0].result() == 0 and all(f.done() for f in given)


def test_an_executor_that_is_dropped_does_what_it_was_given(tmp_path):
    executor = ProcessPoolExecutor(2)
    given = [executor.submit(echo, i) for i in range(10)]
    executor.submit(write_pid, str(tmp_path / "pid"))
    pids = list(executor._processes)
    del executor
    assert [f.result(30) for f in given] == list(range(10))
    eventually(lambda: (tmp_path / "pid").exists() and not any(map(is_running, pids)), 30)


def test_a_program_ends_when_all_is_done(tmp_path):
    """Also what was handed to executors that it did not shut down, or dropped."""
    source = """
        import sys, time
        from manyhands.futures import ProcessPoolExecutor

        def later(name):
            time.sleep(0.1)
            print(name, flush=True)

        if __name__ == "__main__":
            for name in ("dropped", "left", "closed"):
                kept = ProcessPoolExecutor(1)
                kept.submit(later, name)
                if name == "closed":
                    kept.shutdown(wait=False)
                elif name == "left":
                    left = kept
    """
    done = run_program(source)
    assert sorted(done.stdout.split()) == ["closed", "dropped", "left"] and done.stderr == "" and done.returncode == 0


def test_submit_at_the_end_of_the_program():
    done = run_program("""
        import atexit
        from manyhands.futures import ProcessPoolExecutor

        @atexit.register
        def last():
            executor.submit(id, None)

        if __name__ == "__main__":
            executor = ProcessPoolExecutor(1)
            executor.submit(id, 42).result()
    """)
    assert "RuntimeError: cannot schedule new futures after" in done.stderr


def test_leaves_nothing():
    def once():
        with ProcessPoolExecutor(2) as executor:
            futures.wait([executor.submit(pow, 2, 3) for _ in range(20)])
            assert list(executor.map(str, range(10)))[9] == "9"
            executor.submit(die).exception()

    once()
    gc.collect()
    before = descriptors(), threading.active_count()
    pools = set(futures._pools)
    for _ in range(3):
        once()
    gc.collect()
    assert (descriptors(), threading.active_count()) == before
    assert futures._pools == pools


def test_futures_are_collected(executor):
    """Also when they are in a cycle with what they brought or call back."""
    future = executor.submit(echo, [1])
    future.result().append(future)
    future.name = future
    other = executor.submit(echo, 1)
    other.add_done_callback(lambda f, keep=other: None)
    other.result()
    alive = weakref.ref(future), weakref.ref(other)
    del future, other
    eventually(lambda: gc.collect() >= 0 and alive[0]() is None and alive[1]() is None, 30)


def test_executors_are_not_pickled(executor):
    import pickle

    with pytest.raises(NotImplementedError):
        pickle.dumps(executor)


# ---- initializers ------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("method", METHODS)
def test_initializer(method):
    with ProcessPoolExecutor(2, manyhands.get_context(method), initialize, ("ready",)) as executor:
        assert {executor.submit(status).result() for _ in range(10)} == {"ready"}


@pytest.mark.parametrize("method", METHODS)
def test_an_initializer_may_get_a_queue(method):
    context = multiprocessing.get_context(method)
    queue = context.SimpleQueue()
    with ProcessPoolExecutor(2, context, tell, (queue,)) as executor:
        first = executor.submit(os.getpid).result()
        told = {queue.get() for _ in executor._processes}
        assert first in told and told == set(executor._processes)
        os.kill(first, signal.SIGKILL)
        assert queue.get() not in told  # workers to come have it too


@pytest.mark.parametrize("method", METHODS)
def test_an_initializer_that_fails_breaks_the_executor(method, capfd):
    handler = logging.StreamHandler(open(2, "w", closefd=False))  # forked workers have pytest's otherwise
    logging.getLogger("concurrent.futures").addHandler(handler)
    executor = ProcessPoolExecutor(2, manyhands.get_context(method), fail)
    given = [executor.submit(pow, 2, 2) for _ in range(5)]
    for future in given:
        with pytest.raises(futures.BrokenProcessPool):
            future.result(30)
    assert executor._broken
    with pytest.raises(futures.BrokenProcessPool, match="not usable anymore"):
        executor.submit(pow, 2, 2)
    with pytest.raises(futures.BrokenProcessPool):
        list(executor.map(str, [1, 2]))
    executor.shutdown()
    logging.getLogger("concurrent.futures").removeHandler(handler)
    heard = capfd.readouterr().err
    assert "Exception in initializer:" in heard and "ValueError: not today" in heard


# ---- what it adds ----------------------------------------------------------------------------------------------------------------


def test_a_lost_worker(executor):
    future = executor.submit(die)
    with pytest.raises(futures.BrokenProcessPool, match="was killed by SIGKILL") as caught:
        future.result()
    assert isinstance(caught.value, futures.WorkerLost) and isinstance(caught.value, manyhands.WorkerLost)
    assert caught.value.signal == signal.SIGKILL and caught.value.attempt == 1
    with pytest.raises(futures.WorkerLost):
        list(executor.map(kill_if, [1, 2], [1, 0]))


def test_retries(tmp_path):
    with ProcessPoolExecutor(2, retries=1) as executor:
        assert executor.submit(die_unless, str(tmp_path / "a")).result() == "lived"
        assert list(executor.map(die_unless, [str(tmp_path / "b")])) == ["lived"]
    with ProcessPoolExecutor(2) as executor:
        assert executor.options(retries=1).submit(die_unless, str(tmp_path / "c")).result() == "lived"
        assert list(executor.map(die_unless, [str(tmp_path / "d")], retries=1)) == ["lived"]
        assert list(executor.options(retries=1).map(die_unless, [str(tmp_path / "e")])) == ["lived"]
        with pytest.raises(futures.PoisonTask):
            executor.options(retries=1).submit(die).result()


def test_deadlines(tmp_path):
    never = str(tmp_path / "never")
    with ProcessPoolExecutor(2, timeout=0.05) as executor:
        with pytest.raises(futures.TaskTimeout) as caught:
            executor.submit(wait_for, never).result()
        assert isinstance(caught.value, futures.BrokenProcessPool) and isinstance(caught.value, manyhands.TaskTimeout)
        assert executor.options(timeout=60).submit(pow, 2, 2).result() == 4
    with ProcessPoolExecutor(2) as executor:
        with pytest.raises(futures.TaskTimeout):
            list(executor.map(wait_for, [never], task_timeout=0.05))
        with pytest.raises(futures.TaskTimeout):
            list(executor.map(wait_for, [never], task_timeout=0.05, timeout=60))
        with pytest.raises(futures.TaskTimeout):
            executor.options(timeout=0.05).submit(wait_for, never).result()


def test_options_share_the_executor():
    with ProcessPoolExecutor(1) as executor:
        view = executor.options(retries=3)
        assert view.submit(os.getpid).result() == executor.submit(os.getpid).result()
        del view
        assert executor.submit(pow, 2, 2).result() == 4
        view = executor.options(timeout=60)
    with pytest.raises(RuntimeError, match="after shutdown"):
        view.submit(pow, 1, 1)


# ---- asyncio -------------------------------------------------------------------------------------------------------------------------


def test_run_in_executor(executor):
    async def program():
        loop = asyncio.get_running_loop()
        assert await asyncio.gather(*(loop.run_in_executor(executor, pow, 2, n) for n in range(50))) == [2**n for n in range(50)]
        with pytest.raises(ZeroDivisionError):
            await loop.run_in_executor(executor, divide, 1, 0)
        assert await asyncio.wrap_future(executor.submit(pow, 2, 5)) == 32

    asyncio.run(program())


def test_cancelling_a_coroutine_cancels_its_call(tmp_path):
    async def program():
        loop = asyncio.get_running_loop()
        with ProcessPoolExecutor(1) as executor:
            runs = executor.submit(begin_and_wait, str(tmp_path / "begun"), str(tmp_path / "go"))
            wait_for(str(tmp_path / "begun"))
            waits = [executor.submit(write_pid, str(tmp_path / n)) for n in "ab"]
            for how in (asyncio.wrap_future, manyhands.asyncio.wrap):
                with pytest.raises(asyncio.TimeoutError):
                    await asyncio.wait_for(how(waits.pop()), 0.01)
            assert loop.run_in_executor(executor, write_pid, str(tmp_path / "c")).cancel()
            await asyncio.sleep(0)
            (tmp_path / "go").touch()
            assert await runs
        assert sorted(os.listdir(tmp_path)) == ["begun", "go"]

    asyncio.run(program())


# ---- Ctrl-C ------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["result", "map", "wait", "shutdown", "end"])
def test_ctrl_c_ends_a_program_at_once(tmp_path, where):
    """With one KeyboardInterrupt, and nothing left behind, whatever it was waiting for."""
    with Program(tmp_path, """
        import time
        import manyhands.futures as futures

        def work(_):
            tell("works")
            time.sleep(100)

        if __name__ == "__main__":
            where = sys.argv[1]
            executor = futures.ProcessPoolExecutor(1)
            future = executor.submit(work, 0)
            if where == "result":
                with executor:
                    future.result()
            elif where == "map":
                with executor:
                    list(executor.map(work, [1]))
            elif where == "wait":
                futures.wait([future])
            elif where == "shutdown":
                executor.shutdown()
    """, where) as program:
        assert program.hear() == "works"
        program.interrupt()
        program.wait(20)
        assert program.err.count("KeyboardInterrupt") == 1 or where == "end", program.err
        assert program.left_after(5) == []


def test_kill_workers(tmp_path):
    executor = ProcessPoolExecutor(1)
    executor.kill_workers()
    executor = ProcessPoolExecutor(1)
    runs = executor.submit(begin_and_wait, str(tmp_path / "begun"), str(tmp_path / "never"))
    wait_for(str(tmp_path / "begun"))
    pids = list(executor._processes)
    executor.kill_workers()
    assert not any(map(is_running, pids)) and runs.cancelled()
    with pytest.raises(RuntimeError, match="after shutdown"):
        executor.submit(pow, 1, 1)


# ---- across a fork -----------------------------------------------------------------------------------------------------------------------


def test_a_forked_child_has_no_executor(executor):
    executor.submit(pow, 1, 1).result()
    child = os.fork()
    if not child:
        code = 1
        try:
            executor.shutdown()  # does nothing here
            code = 0
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert executor.submit(pow, 2, 2).result() == 4


def test_nested(executor):
    assert executor.submit(nested, 3).result() == [0, 1, 4]
