"""The Python client on our controller and engines."""

from __future__ import annotations

import asyncio
import concurrent.futures
import datetime
import gc
import os
import signal
import subprocess
import sys
import threading
import time
import weakref

import pytest
from parallel_cluster import Cluster, make, ours, own, rc  # noqa: F401
from peers import SOON_S, wait_for

import manyhands.parallel as ipp
from manyhands.parallel import error


def square(x):
    return x * x


def fails_on_two(x):
    if x == 2:
        raise ValueError("two!")
    return x


def test_calls_on_every_kind_of_view(rc):
    assert rc.ids == [0, 1] and len(rc) == 2
    for view, expected in ((rc[:], [9, 9]), (rc[0], 9), (rc[[1]], [9]), (rc[-1:], [9]), (rc.direct_view(), [9, 9]),
                           (rc.load_balanced_view(), 9), (rc.load_balanced_view(0), 9), (rc.broadcast_view(), [9, 9]),
                           (rc.broadcast_view(is_coalescing=True), [9, 9])):
        assert view.apply_sync(square, 3) == expected
        ar = view.apply_async(square, x=3)
        assert ar.get(SOON_S) == expected and ar.successful() and ar.ready() and ar.r == expected
        view.block = True
        assert view.apply(square, 3) == expected


@pytest.mark.parametrize("how", ["direct", "balanced", "broadcast"])
def test_maps(rc, how):
    view = {"direct": rc[:], "balanced": rc.load_balanced_view(), "broadcast": rc.broadcast_view()}[how]
    expected = [x * x for x in range(11)]
    assert view.map_sync(square, range(11)) == expected
    assert view.map_sync(square, iter(range(11))) == expected
    assert view.map_sync(pow, [1, 2, 3], [2, 2, 2]) == [1, 4, 9]
    assert view.map_sync(square, []) == [] if how != "broadcast" else True
    ar = view.map_async(square, range(11))
    assert len(ar) == 11 and list(ar) == expected and ar.get(SOON_S) == expected
    failing = view.map_async(fails_on_two, range(4), return_exceptions=True)
    found = failing.get(SOON_S)
    assert any(isinstance(x, ipp.RemoteError) for x in found)
    with pytest.raises(ipp.RemoteError, match="two!"):
        view.map_sync(fails_on_two, range(4))


def test_balanced_maps(rc):
    view = rc.load_balanced_view()
    ar = view.map_async(square, range(10), chunksize=3)
    assert len(ar.msg_ids) == 4 and len(ar) == 10 and ar.get(SOON_S) == [x * x for x in range(10)]
    assert sorted(view.map_async(square, range(10), ordered=False)) == sorted(x * x for x in range(10))
    assert list(view.imap(square, range(10), max_outstanding=3)) == [x * x for x in range(10)]
    assert sorted(view.imap(square, range(10), ordered=False)) == sorted(x * x for x in range(10))
    with pytest.raises(ipp.RemoteError):
        list(view.imap(fails_on_two, range(4)))
    assert len([x for x in view.imap(fails_on_two, range(4), return_exceptions=True) if isinstance(x, ipp.RemoteError)]) == 1


def test_lazy_maps_take_what_they_need(rc):
    taken = []

    def endless():
        while True:
            taken.append(None)
            yield len(taken)

    lazy = rc.load_balanced_view().imap(square, endless())
    assert [next(lazy) for _ in range(3)] == [1, 4, 9]
    lazy.cancel()
    assert all(isinstance(x, int) for x in lazy)  # what was sent comes, and no more
    assert len(taken) < 1100

    def broken():
        yield 1
        raise KeyError("input")

    lazy = rc.load_balanced_view().imap(square, broken())
    assert next(lazy) == 1
    with pytest.raises(KeyError, match="input"):
        next(lazy)


def test_namespaces(rc):
    view = rc[:]
    view["a"] = 5
    assert view["a"] == [5, 5] and view.pull(("a", "a"), block=True) == [[5, 5]] * 2
    view.push({"b": [1, 2], "square": square}, block=True)
    assert view.apply_sync(lambda r: r, ipp.Reference("b[1]")) == [2, 2]
    view.execute("c = square(a)", block=True)
    assert rc[0]["c"] == 25
    view.scatter("s", list(range(7)), block=True)
    assert rc[1]["s"] == [4, 5, 6] and view.gather("s", block=True) == list(range(7))
    view.scatter("r", list(range(7)), dist="r", block=True)
    assert rc[1]["r"] == [1, 3, 5] and view.gather("r", dist="r", block=True) == list(range(7))
    view.scatter("one", [10, 20], flatten=True, block=True)
    assert view["one"] == [10, 20]
    view.clear(block=True)
    with pytest.raises(ipp.RemoteError, match="NameError"):
        rc[0]["a"]
    for wrong in (5, [5]):
        with pytest.raises(TypeError):
            view.pull(wrong)
    with pytest.raises(TypeError, match="dict"):
        view.push([1])


def test_arrays_go_both_ways_without_being_copied_twice(rc):
    numpy = pytest.importorskip("numpy")
    array = numpy.arange(300_000.0)
    view = rc[:]
    view.push({"array": array}, block=True, track=True)
    back = view.pull("array", block=True)
    assert all((part == array).all() for part in back)
    assert not back[0].flags.owndata  # it lies in the message
    ar = rc[0].apply_async(numpy.sum, array)
    ar.wait_for_send(SOON_S)
    assert ar.sent and ar.get(SOON_S) == array.sum()
    view.scatter("part", array, block=True)
    assert (view.gather("part", block=True) == array).all()


def test_output_is_captured(rc):
    code = "import sys; print('out'); print('err', file=sys.stderr); 6 * 7"
    ar = rc[:].execute(code, silent=False, block=True)
    assert ar.stdout == ["out\n"] * 2 and ar.stderr == ["err\n"] * 2
    assert [str(r) for r in ar.get()] == ["<ExecuteReply[1]: 42>"] * 2
    assert ar.get()[0].data["text/plain"] == "42" and ar.execute_input == [code] * 2
    single = rc[0].execute("print('hi', end='')", block=True)
    assert single.stdout == "hi" and single["stdout"] == "hi"


def test_outputs_are_shown(rc, capsys):
    ar = rc[:].execute("print('out')", block=True)
    ar.display_outputs()
    assert capsys.readouterr().out.split() == ["[stdout:0]", "out", "[stdout:1]", "out"]
    for how in ("engine", "order"):
        ar.display_outputs(how)
        assert capsys.readouterr().out.count("out\n") == 2
    with pytest.raises(ValueError, match="groupby"):
        ar.display_outputs("colour")
    rc[0].execute("print('only')", block=True).display_outputs()
    assert capsys.readouterr().out == "only\n"


def test_output_streams_while_it_comes(rc, capsys):
    rc[:]["wait"] = 0
    ar = rc[:].execute("print('before', flush=True)\nimport time\nwhile not wait: time.sleep(0.01)\nprint('after')", block=False)
    # the engines are busy with it: the name is set past their queue by what the test can do, an interrupt
    with ar.stream_output():
        wait_for(lambda: "before" in "".join(ar.stdout))
        rc.send_signal(signal.SIGINT, block=True)
        with pytest.raises(ipp.CompositeError, match="KeyboardInterrupt"):
            ar.get(SOON_S)
        ar.wait_for_output(SOON_S)
    said = capsys.readouterr()
    assert said.out.count("before") == 2 and "after" not in said.out and "KeyboardInterrupt" in said.err


def test_errors_say_where(rc):
    with pytest.raises(ipp.RemoteError) as caught:
        rc[1].apply_sync(lambda: 1 / 0)
    e = caught.value
    assert e.ename == "ZeroDivisionError" and e.engine_info == {"engine_id": 1, "engine_uuid": rc._engines[1], "method": "apply"}
    assert any("ZeroDivisionError" in line for line in e.render_traceback())
    with pytest.raises(ipp.CompositeError) as several:
        rc[:].execute("1/0", block=True)
    assert [item[3]["engine_id"] for item in several.value.elist] == [0, 1]
    ar = rc[:].apply_async(lambda: 1 / 0)
    assert isinstance(ar.exception(SOON_S), ipp.CompositeError) and not ar.successful()
    assert [type(x) for x in ar.get(return_exceptions=True)] == [ipp.RemoteError] * 2
    assert "failed" in repr(ar)


def test_errors_are_built_of_the_class_that_the_module_has(rc, monkeypatch):
    class Mine(error.RemoteError):
        pass

    monkeypatch.setattr(error, "RemoteError", Mine)
    with pytest.raises(Mine):
        rc[0].apply_sync(lambda: 1 / 0)


def test_results_that_cannot_be_read_are_errors(rc):
    rc[0].execute("class Here:\n    def __reduce__(self): return (int, ('x',))", block=True)
    with pytest.raises(ipp.RemoteError, match="can't be read here"):
        rc[0].pull("Here()", block=True)
    assert rc[0].apply_sync(square, 2) == 4


def test_metadata(rc):
    ar = rc.load_balanced_view().apply_async(square, 2)
    assert ar.submitted.tzinfo is not None and ar.completed is None or ar.ready()
    ar.get(SOON_S)
    md = ar.metadata
    assert md.engine_id in (0, 1) and md["engine_uuid"] == rc._engines[md.engine_id] and md["status"] == "ok"
    assert md["submitted"] <= md["started"] <= md["completed"] and isinstance(md["received"], datetime.datetime)
    assert ar.engine_id == md.engine_id and 0 <= ar.serial_time and 0 < ar.wall_time < SOON_S and ar.elapsed == ar.wall_time
    with pytest.raises(KeyError):
        ar["colour"]
    with pytest.raises(AttributeError):
        ar.colour
    with pytest.raises(KeyError):
        md["colour"] = 1
    with pytest.raises(AttributeError):
        md.colour = 1
    assert "stdout" in dir(ar) and "engine_id" in dir(ar)
    both = rc[:].apply_async(square, 2)
    assert both.get_dict(SOON_S) == {0: 4, 1: 4} == both.result_dict and both.engine_id == [0, 1]
    with pytest.raises(ValueError, match="engine"):
        ipp.AsyncResult.join(rc[0].apply_async(square, 1), rc[0].apply_async(square, 2)).get_dict(SOON_S)


def test_nothing_is_kept_of_what_has_ended(rc):
    view = rc.load_balanced_view()
    ars = [view.apply_async(square, i) for i in range(50)]
    assert [ar.get(SOON_S) for ar in ars] == [i * i for i in range(50)]
    for ar in ars:
        assert ar.wait_for_output(SOON_S)
    assert not rc.outstanding and not view.outstanding and not rc._futures and not rc.metadata and not rc.results
    assert len(view.history) == 50 and not rc._outstanding_dict or not any(rc._outstanding_dict.values())
    future = weakref.ref(ars[0]._children[0])
    del ars, ar
    gc.collect()
    assert future() is None


def test_waiting(rc):
    view = rc[0]
    view.execute("import time", block=True)
    ar = view.apply_async(time.sleep, 0.2)
    for call in (lambda: ar.get(0), lambda: ar.result(0.001), lambda: ar.exception(0)):
        with pytest.raises(TimeoutError):
            call()
    assert not ar.ready() and not ar.wait(0) and not rc.wait(timeout=0.001) and not ar.done()
    with pytest.raises(RuntimeError):
        ar.successful()
    assert rc.wait(ar, SOON_S) and ar.ready() and rc.wait() and rc.wait([-1, ar.msg_ids[0]]) and view.wait()
    with pytest.raises(RuntimeError, match="done"):
        ar.abort()
    outside: concurrent.futures.Future[int] = concurrent.futures.Future()
    threading.Timer(0.05, outside.set_result, (5,)).start()
    assert rc.wait([outside, view.apply_async(square, 2)], SOON_S) and outside.done()


def test_waiting_for_the_first(rc):
    rc[:].scatter("rank", [0, 1], flatten=True, block=True)

    def uneven(rank):
        import time

        if rank == 0:
            return 1 / rank
        time.sleep(60)
        return rank

    ar = rc[:].apply_async(uneven, ipp.Reference("rank"))
    done, pending = ar.wait(SOON_S, return_when=ipp.FIRST_EXCEPTION)
    assert [part.msg_ids for part in done] == [ar.msg_ids[:1]] and len(pending) == 1
    with pytest.raises(ipp.RemoteError):
        ar.get(SOON_S, return_when=ipp.FIRST_EXCEPTION)
    rc.send_signal("SIGINT", targets=1, block=True)
    assert ar.wait(SOON_S) and ar.wait(0, return_when=ipp.ALL_COMPLETED) == (set(ar.split()), set())
    with pytest.raises(ValueError):
        ar.wait(0, return_when="SOMETIME")


def test_split_and_join(rc):
    ar = rc[:].apply_async(os.getpid)
    parts = ar.split()
    assert len(parts) == 2 and parts[0].split() == (parts[0],) and ar.split() is parts
    assert [part.get(SOON_S) for part in parts] == ar.get(SOON_S) == ipp.AsyncResult.join(*parts).get(SOON_S)
    amr = rc.load_balanced_view().map_async(square, range(3))
    assert [part.get(SOON_S) for part in amr.split()] == [[[0]], [[1]], [[4]]]
    with pytest.raises(ValueError):
        ipp.AsyncResult.join()


def test_futures_of_the_standard_library(rc):
    view = rc.load_balanced_view()
    ars = [view.apply_async(square, i) for i in range(10)]
    assert isinstance(ars[0], concurrent.futures.Future)
    done, pending = concurrent.futures.wait(ars, SOON_S)
    assert len(done) == 10 and not pending
    ars = [view.apply_async(square, i) for i in range(10)]
    assert sorted(f.result() for f in concurrent.futures.as_completed(ars, SOON_S)) == [i * i for i in range(10)]
    failing = view.apply_async(fails_on_two, 2)
    done, _ = concurrent.futures.wait([failing, view.apply_async(time.sleep, 0.1)], SOON_S, concurrent.futures.FIRST_EXCEPTION)
    assert failing in done
    called = threading.Event()
    view.apply_async(square, 3).add_done_callback(lambda f: called.set() if f.result() == 9 else None)
    assert called.wait(SOON_S)  # nobody asks for it
    ar = view.apply_async(time.sleep, 0.05)
    assert ar.cancel() and ar.cancelled() and not ars[0].cancel()
    with pytest.raises(concurrent.futures.CancelledError):
        ar.result()


def test_a_callback_may_use_the_client(rc):
    view = rc.load_balanced_view()
    found: concurrent.futures.Future[int] = concurrent.futures.Future()
    view.apply_async(square, 3).add_done_callback(lambda f: found.set_result(view.apply_sync(square, f.result())))
    assert found.result(SOON_S) == 81


def test_awaiting(rc):
    async def main():
        view = rc.load_balanced_view()
        assert await view.apply_async(square, 3) == 9
        assert await asyncio.gather(*(view.apply_async(square, i) for i in range(20))) == [i * i for i in range(20)]
        with pytest.raises(ipp.RemoteError, match="two!"):
            await view.apply_async(fails_on_two, 2)
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(view.apply_async(time.sleep, 0.3), 0.01)
        return await rc[:].map_async(square, range(4))

    assert asyncio.run(main()) == [0, 1, 4, 9]


def test_executor(rc):
    with rc.executor() as executor:
        assert isinstance(executor, ipp.ViewExecutor) and executor.submit(pow, 2, 5).result(SOON_S) == 32
        several = executor.map(square, range(10))
    assert list(several) == [x * x for x in range(10)] and len(executor.view.history) == 11


def test_decorators(rc):
    @rc[:].remote(block=True)
    def where():
        """Where it runs."""
        return os.getpid() > 0

    assert where() == [True, True] and where.__name__ == "where" and "Where it runs" in where.__doc__

    @rc[:].parallel(block=True)
    def total(numbers):
        return [sum(numbers)]

    assert total(list(range(4))) == [1, 5] and total.map([[1], [2]]) == [[1], [2]]
    with pytest.raises(ValueError, match="equal length"):
        rc[:].parallel()(pow)([1, 2], [1])

    @rc.load_balanced_view().parallel(block=True, ordered=False)
    def one(part):
        return [x + 1 for x in part]

    assert one([1, 2, 3]) == [2, 3, 4]


def test_dependencies(rc):
    view = rc.load_balanced_view()
    first = view.apply_async(os.getpid)
    with view.temp_flags(follow=first, after=[first], timeout=SOON_S, retries=1):
        second = view.apply_async(os.getpid)
    assert second.get(SOON_S) == first.get(SOON_S)
    bad = view.apply_async(lambda: 1 / 0)
    with view.temp_flags(after=ipp.Dependency(bad, success=True)), pytest.raises(ipp.RemoteError, match="ImpossibleDependency"):
        view.apply_sync(square, 1)
    with view.temp_flags(after=ipp.Dependency([bad], failure=True, success=False)):
        assert view.apply_sync(square, 2) == 4

    @ipp.require("math", square)
    @ipp.interactive
    def root(x):
        return math.sqrt(square(x))  # noqa: F821

    assert view.apply_sync(root, 3) == 3
    for flags, problem in (({"after": 5}, ValueError), ({"timeout": -1}, ValueError), ({"timeout": "x"}, TypeError), ({"retries": "x"}, TypeError),
                           ({"colour": 1}, KeyError)):
        with pytest.raises(problem):
            view.set_flags(**flags)


def test_conditions_of_engines(rc):
    view = rc.load_balanced_view()
    rc[1].push({"here": True}, block=True) # else a task, by another channel, may be there before it

    @ipp.depend(ipp.interactive(lambda: globals().get("here", False)))
    def where():
        import os

        return os.getpid()

    assert {view.apply_sync(where) for _ in range(4)} == {rc[1].apply_sync(os.getpid)}


def test_aborting(rc):
    view = rc[0]
    slow = view.apply_async(time.sleep, 0.3)
    ar, other = view.apply_async(square, 1), view.apply_async(square, 2)
    ar.abort()
    view.abort(other.msg_ids, block=True)
    for aborted in (ar, other):
        with pytest.raises(ipp.TaskAborted):
            aborted.get(SOON_S)
        assert aborted.status == "aborted" and aborted.wait_for_output(SOON_S)
    slow.get(SOON_S)
    with pytest.raises(TypeError):
        rc.abort([5])


def test_interrupting(rc):
    ar = rc[0].apply_async(time.sleep, SOON_S)
    wait_for(lambda: rc.queue_status(0)["tasks"] or rc.queue_status(0)["queue"])
    wait_for(lambda: rc.send_signal("SIGINT", targets=0, block=True) or ar.wait(0.2))
    with pytest.raises(ipp.RemoteError, match="KeyboardInterrupt"):
        ar.get(SOON_S)
    with pytest.raises(ValueError, match="SIGNONE"):
        rc.send_signal("SIGNONE")


def test_the_controller_is_asked(ours, rc):
    view = rc.load_balanced_view()
    with view.temp_flags(label="mine"):
        ar = view.apply_async(square, 7)
    ar.get(SOON_S)
    [msg_id] = ar.msg_ids
    wait_for(lambda: msg_id in rc.hub_history())
    assert rc.result_status(ar, status_only=True)["completed"] == [msg_id]
    status = rc.queue_status()
    assert set(status) == {0, 1, "unassigned"} and set(status[0]) == {"queue", "completed", "tasks"} and set(rc.queue_status(0)) == set(status[0])
    [record] = rc.db_query({"msg_id": msg_id})
    assert isinstance(record["submitted"], datetime.datetime) and record["label"] == "mine" and "buffers" not in record
    [record] = rc.db_query({"msg_id": msg_id}, keys=["msg_id", "buffers", "result_buffers"])
    assert len(record["buffers"]) >= 2 and len(record["result_buffers"]) == 1
    assert rc.db_query({"submitted": {"$gt": datetime.datetime.now(datetime.timezone.utc)}}) == []
    with ours.client() as other:
        again = other.get_result(msg_id)
        assert isinstance(again, ipp.AsyncHubResult) and again.get(SOON_S) == 49 and again.serial_time >= 0
        several = other.get_result([msg_id], owner=False)
        assert several.get(SOON_S) == [49] and several.metadata[0]["engine_id"] in (0, 1)
        assert other.get_result(msg_id).get(SOON_S) == 49
        pending = rc[0].apply_async(time.sleep, 0.3)
        wait_for(lambda: pending.msg_ids[0] in other.hub_history())
        seen = other.get_result(pending.msg_ids[0])
        with pytest.raises(TimeoutError):
            seen.get(0)
        assert seen.get(SOON_S) is None and seen.ready()
    resubmitted = rc.resubmit(msg_id)
    assert resubmitted.msg_ids != ar.msg_ids and resubmitted.get(SOON_S) == [49]
    with pytest.raises(ipp.RemoteError, match="KeyError"):
        rc.resubmit("nobody")
    rc.purge_hub_results(msg_id)
    assert msg_id not in rc.hub_history()
    rc.purge_everything()
    assert rc.hub_history() == [] and rc.history == []
    for call in (lambda: rc.purge_hub_results(), lambda: rc.purge_local_results()):
        with pytest.raises(ValueError):
            call()
    slow = rc[0].apply_async(time.sleep, 0.2)
    with pytest.raises(RuntimeError, match="outstanding"):
        rc.purge_local_results(slow)
    slow.get(SOON_S)


def test_targets(rc):
    with pytest.raises(IndexError, match="No such engine: 9"):
        rc[9]
    with pytest.raises(IndexError, match="9"):
        rc[[0, 9]]
    for wrong in (None, "0", 1.5):
        with pytest.raises(TypeError):
            rc[wrong]
    with pytest.raises(TypeError, match="all"):
        rc.direct_view("some")
    assert [view.targets for view in rc] == [0, 1] and rc[-1].targets == 1 and rc[::2].targets == [0]
    assert rc.load_balanced_view("all").targets is None and rc.direct_view().targets == "all"
    with pytest.raises(TypeError, match="callable"):
        rc[0].apply(5)
    with pytest.raises(TypeError, match="text"):
        rc[0].execute(5)


def test_several_threads_share_a_client(rc):
    view = rc.load_balanced_view()
    with concurrent.futures.ThreadPoolExecutor(8) as threads:
        assert list(threads.map(lambda i: view.apply_sync(square, i), range(200))) == [i * i for i in range(200)]


def test_ctrl_c_reaches_a_wait(ours, tmp_path):
    program = (f"import manyhands.parallel as ipp, time\nrc = ipp.Client(profile_dir={str(ours.folder)!r})\n"
               "ar = rc[0].apply_async(time.sleep, 2)\n"
               "try:\n    print('waiting', flush=True)\n    ar.get()\nexcept KeyboardInterrupt:\n    print('interrupted', ar.get())\n")
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "waiting\n"
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=SOON_S) == ("interrupted None\n", None)


def test_closing(ours):
    client = ours.client()
    ar = client[0].apply_async(time.sleep, 0.2)
    waiter = threading.Thread(target=lambda: ar.wait())
    waiter.start()
    client.close()
    waiter.join(SOON_S)
    assert not waiter.is_alive()
    with pytest.raises(OSError, match="closed"):
        ar.get()
    with pytest.raises(OSError, match="closed"):
        client[0].apply_async(square, 1)
    client.close()
    assert "closed" in repr(client)
    client = ipp.Client(profile_dir=str(ours.folder))
    gone = weakref.ref(client)
    del client
    gc.collect()
    wait_for(lambda: gone() is None)


def test_an_engine_that_dies(own):
    rc = own.client()
    slow = rc[:].apply_async(time.sleep, 60)
    wait_for(lambda: rc.queue_status(0)["queue"] == 1 and rc.queue_status(1)["queue"] == 1)
    os.kill(own.engines[0].pid, signal.SIGKILL)
    with pytest.raises(ipp.RemoteError, match="EngineError"):
        slow.get(SOON_S, return_when=ipp.FIRST_EXCEPTION)
    wait_for(lambda: len(rc.ids) == 1)
    assert len(rc.direct_view()) == 1
    rc.send_signal("SIGINT", block=True)
    assert rc[:].apply_sync(square, 2) == [4]
    own.add_engine()
    rc.wait_for_engines(2, timeout=SOON_S)
    assert rc[:].apply_sync(square, 2) == [4, 4]


def test_waiting_for_engines(own):
    rc = own.client()
    rc.wait_for_engines(2)
    with pytest.raises(TimeoutError, match="3 engines not ready in 0.05 seconds. Currently ready: 2"):
        rc.wait_for_engines(3, timeout=0.05)
    with pytest.raises(TypeError):
        rc.wait_for_engines()
    future = rc.wait_for_engines(3, block=False)
    assert not future.done()
    own.add_engine()
    assert future.result(SOON_S) is None
    with pytest.raises(TimeoutError):
        rc.wait_for_engines(5, timeout=0.01, block=False).result(SOON_S)


def test_shutting_down(own):
    rc = own.client()
    rc.shutdown(0, block=True)
    wait_for(lambda: rc.ids == [1])
    wait_for(lambda: [engine.poll() for engine in own.engines].count(0) == 1)  # ids are given in the order in which engines come
    with pytest.raises(NotImplementedError):
        rc.shutdown(restart=True)
    rc.shutdown(hub=True)
    assert rc._closed and own.controller.wait(SOON_S) == 0


def test_no_engines():
    for cluster in make(0):
        rc = cluster.client()
        for call in (lambda: rc[:], lambda: rc.direct_view().apply(square, 1)):
            with pytest.raises(ipp.NoEnginesRegistered, match="No engine is registered"):
                call()
        ar = rc.load_balanced_view().apply_async(square, 3)
        assert not ar.ready()
        cluster.add_engine()
        assert ar.get(SOON_S) == 9


def test_where_a_controller_is_looked_for(ours, tmp_path, monkeypatch):
    file = ours.folder / "security" / "ipcontroller-client.json"
    for given in (str(file), file, ours.info("client")):
        with ipp.Client(given) as rc:
            assert rc.ids
    profile = tmp_path / "profile_night" / "security"
    profile.mkdir(parents=True)
    copy = profile / "ipcontroller-late-client.json"
    copy.write_text(file.read_text())
    copy.chmod(0o644)
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    with pytest.raises(PermissionError, match="chmod 600"):
        ipp.Client(profile="night", cluster_id="late")
    copy.chmod(0o600)
    with ipp.Client(profile="night", cluster_id="late") as rc:
        assert rc.ids
    with pytest.raises(OSError, match="not found"):
        ipp.Client(profile="night", timeout=0.01)
    with pytest.raises(OSError, match="not found"):
        ipp.Client(autostart=False, timeout=0)
    with pytest.raises(FileNotFoundError, match="nowhere.json not found"):
        ipp.Client("nowhere.json")
    with pytest.raises(ValueError, match="URL"):
        ipp.Client("tcp://127.0.0.1:5")
    with pytest.raises(ValueError, match="ends in -client.json"):
        ipp.Client(ours.info("engine"))
    with pytest.raises(TypeError, match="colour"):
        ipp.Client(colour=1)
    copy.write_text("{")
    with pytest.raises(ValueError, match="no connection file"):
        ipp.Client(copy)


def test_nobody_answers(ours):
    info = {**ours.info("client"), "registration": 9}
    with pytest.raises(TimeoutError, match="no controller answers"):
        ipp.Client(info, timeout=0.3)


def test_a_controller_that_is_killed_and_comes_back():
    """Clients go on: what they asked for before is answered after."""
    for cluster in make(2, options=("--reuse",)):
        rc = cluster.client()
        view = rc.load_balanced_view()
        ars = [view.apply_async(time.sleep, 0.02) for _ in range(30)]
        ars[2].get(SOON_S)
        cluster.controller.kill()
        cluster.controller.wait(SOON_S)
        cluster.start_controller("--reuse")
        assert [ar.get(2 * SOON_S) for ar in ars] == [None] * 30
        assert rc[:].apply_sync(square, 3) == [9, 9]
