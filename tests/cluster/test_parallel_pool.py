"""Pools, executors, joblib and IPython's magics on a cluster."""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import threading
import time

import pytest
from parallel_cluster import ours, own, rc  # noqa: F401
from peers import SOON_S, wait_for

import manyhands
import manyhands.parallel as ipp
from manyhands.futures import ProcessPoolExecutor


def refuse(x):
    if x == 3:
        raise KeyError("three")
    return x


def test_pool(rc):
    with manyhands.Pool(cluster=rc) as pool:
        factor = 3
        assert pool.map(lambda x: x * factor, range(20)) == [3 * x for x in range(20)]
        assert pool.map(refuse, []) == [] and pool.starmap(pow, [(2, 3), (3, 2)], chunksize=1) == [8, 9]
        assert pool.apply(pow, (2, 5)) == 32 and pool.apply(int, ("11",), {"base": 2}) == 3
        with pytest.raises(KeyError, match="three") as caught:
            pool.map(refuse, range(10))
        assert "in refuse" in str(caught.value.__cause__)
        with pytest.raises(KeyError):
            pool.apply(refuse, (3,))
        assert list(pool.imap(refuse, range(3))) == [0, 1, 2] and sorted(pool.imap_unordered(abs, range(-5, 5), chunksize=3)) == [0, 1, 1, 2, 2, 3, 3, 4, 4, 5]
        lazy = pool.imap(refuse, iter(range(10 ** 9)))
        assert [next(lazy) for _ in range(3)] == [0, 1, 2]
        with pytest.raises(KeyError):
            next(lazy)
        with pytest.raises(RuntimeError, match="can't be sent back"):
            pool.apply(threading.Lock)
        assert len(set(pool.map(lambda _: __import__("os").getpid(), range(20), chunksize=1))) <= 2
    with pytest.raises(ValueError, match="not running"):
        pool.apply(pow, (2, 2))


def test_results_of_pools(rc, capsys):
    pool = manyhands.Pool(cluster=rc.load_balanced_view())
    told: list[object] = []
    done = threading.Event()
    result = pool.map_async(refuse, range(3), callback=lambda r: (told.append(r), done.set()))
    assert result.get(SOON_S) == [0, 1, 2] and result.successful() and done.wait(SOON_S) and told == [[0, 1, 2]]
    done.clear()
    failing = pool.apply_async(refuse, (3,), error_callback=lambda e: (told.append(e), done.set()))
    failing.wait(SOON_S)
    assert failing.ready() and not failing.successful() and done.wait(SOON_S) and isinstance(told[-1], KeyError)
    slow = pool.apply_async(time.sleep, (0.2,))
    with pytest.raises(manyhands.TimeoutError):
        slow.get(0.001)
    with pytest.raises(ValueError):
        slow.successful()

    async def main():
        return await pool.starmap_async(pow, [(2, 2), (2, 3)])

    assert asyncio.run(main()) == [4, 8]
    assert pool.map(refuse, range(3), progress="three") == [0, 1, 2] and "three" in capsys.readouterr().out
    with pytest.raises(ValueError, match="still running"):
        pool.join()
    pool.close()
    pool.join()
    assert slow.ready() and "state=CLOSE" in repr(pool)


def test_what_a_pool_on_a_cluster_refuses(rc):
    for options, problem in (({"maxtasksperchild": 1}, "maxtasksperchild"), ({"timeout": 1}, "timeout"), ({"processes": 3}, "3 processes"),
                             ({"processes": 0}, "at least 1")):
        with pytest.raises(ValueError, match=problem):
            manyhands.Pool(cluster=rc, **options)
    with pytest.raises(TypeError, match="cluster must be"):
        manyhands.Pool(cluster=5)
    with pytest.raises(TypeError, match="initializer"):
        manyhands.Pool(cluster=rc, initializer=5)


def test_pools_are_prepared_and_limited(rc):
    def prepare(value):
        import builtins

        builtins.prepared = value

    with manyhands.Pool(1, prepare, (7,), cluster=rc) as pool:
        assert set(pool.map(lambda _: (__import__("builtins").prepared, __import__("os").getpid()), range(6), chunksize=1)) == {
            (7, rc[0].apply_sync(os.getpid))}
    with pytest.raises(ZeroDivisionError):
        manyhands.Pool(initializer=lambda: 1 / 0, cluster=rc)


def test_a_pool_survives_its_engines(own):
    rc = own.client()
    with manyhands.Pool(cluster=rc, retries=3) as pool:
        result = pool.map_async(lambda _: __import__("time").sleep(0.05), range(40), chunksize=1)
        wait_for(lambda: result.progress > 2)
        os.killpg(own.engines[0].pid, 9)
        assert result.get(SOON_S) == [None] * 40


def test_executor(rc):
    with ProcessPoolExecutor(cluster=rc) as executor:
        assert isinstance(executor, concurrent.futures.Executor)
        assert executor.submit(pow, 2, 5).result(SOON_S) == 32 and list(executor.map(pow, [2, 3], [3, 2], chunksize=2)) == [8, 9]
        futures = [executor.submit(refuse, x) for x in range(4)]
        done, _ = concurrent.futures.wait(futures, SOON_S)
        assert len(done) == 4 and isinstance(futures[3].exception(), KeyError) and futures[2].result() == 2
        with pytest.raises(KeyError):
            list(executor.map(refuse, range(5)))
        with pytest.raises(TimeoutError):
            list(executor.map(time.sleep, [0.3, 0.3], timeout=0.01))
    with pytest.raises(RuntimeError):
        executor.submit(pow, 2, 2)
    with ProcessPoolExecutor(1) as local:  # as before
        assert local.submit(pow, 2, 5).result(SOON_S) == 32


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_joblib(rc):
    joblib = pytest.importorskip("joblib")
    rc.load_balanced_view().register_joblib_backend("the view")
    with joblib.parallel_config(backend="the view"):
        assert joblib.Parallel()(joblib.delayed(refuse)(x) for x in range(3)) == [0, 1, 2]
        with pytest.raises((ipp.RemoteError, KeyError), match="three"):
            joblib.Parallel()(joblib.delayed(refuse)(x) for x in range(5))
        assert joblib.Parallel()(joblib.delayed(refuse)(x) for x in range(3)) == [0, 1, 2]
    ipp.register_joblib_backend("the default")
    assert "the default" in joblib.parallel.BACKENDS


def test_dask_is_named_when_it_is_missing(rc):
    try:
        import distributed  # noqa: F401
    except ImportError:
        with pytest.raises(ImportError, match="pip install distributed"):
            rc.become_dask()
    else:
        client = rc.become_dask()
        try:
            assert client.submit(pow, 2, 5).result(SOON_S) == 32
        finally:
            client.close()
            rc.stop_dask()


@pytest.fixture
def shell():
    interactive = pytest.importorskip("IPython.core.interactiveshell").InteractiveShell
    made = interactive.instance()
    made.run_line_magic("colors", "nocolor")
    yield made
    interactive.clear_instance()


def test_magics(ours, shell, capsys):
    client = ours.client()
    client[:].activate()
    view = client.activate("all", "_all")
    assert {"px", "pxresult", "pxconfig", "autopx", "px_all", "pxresult_all"} <= set(shell.magics_manager.magics["line"])
    shell.run_cell("%px_all a = 5")
    shell.run_cell("%px_all print(a)")
    assert capsys.readouterr().out.count("5\n") == 2
    shell.run_cell("%%px_all --noblock --out result\nprint('later'); a + 1")
    ar = shell.user_ns["result"]
    assert isinstance(ar, ipp.AsyncResult) and [r.data["text/plain"] for r in ar.get(SOON_S)] == ["6", "6"]
    shell.run_cell("%pxresult_all --group-outputs=engine")
    assert capsys.readouterr().out.count("later") == 2
    shell.run_cell("%pxconfig_all --targets 1 --noblock --verbose --no-stream --progress-after -1 --signal-on-interrupt 0")
    assert view.targets == 1 and view.block is False
    shell.run_cell("%px_all b = 2")
    assert "Async parallel execution on engine(s): 1" in capsys.readouterr().out
    wait_for(lambda: client[1].get("globals().get('b')") == 2)
    shell.run_cell("%pxconfig_all --targets all --block --no-verbose")
    shell.run_cell("%%px_all --targets 0:1 --local --stream\nc = 3\nprint('both')")
    assert shell.user_ns["c"] == 3 and view.targets == "all"
    assert client[:].pull("globals().get('c')", block=True) == [3, None]
    capsys.readouterr()
    shell.run_cell("%px_all 1/0")
    said = capsys.readouterr()
    assert "ZeroDivisionError" in said.out + said.err
    shell.run_cell("%autopx_all")
    shell.run_cell("d = 4")
    shell.run_cell("%autopx_all")
    assert "d" not in shell.user_ns and client[:].pull("d", block=True) == [4, 4]
    client.close()
