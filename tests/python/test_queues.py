"""Queue, JoinableQueue and SimpleQueue."""

import os
import pickle
import queue as standard
import signal
import sys
import threading
import time

import pytest
from helpers import eventually, run_program
from programs import Program
from queue_tasks import consume_for_ever, echo, finish, keep_queue, produce, produce_for_ever, put_and_end, put_from_worker

import manyhands
from manyhands import _core, queues

pytestmark = pytest.mark.timeout(120)
METHODS = ["fork", "forkserver", "spawn"]


@pytest.fixture(params=METHODS)
def ctx(request):
    return manyhands.get_context(request.param)


class Plain:
    def __init__(self, value):
        self.value = value

    def __eq__(self, other):
        return type(other) is Plain and other.value == self.value


# Each must come out as it went in, type and all.
OBJECTS = {
    "None": None, "bools": (True, False), "zero": 0, "negative": -1, "30 bits": 2**30 - 1, "31 bits": 2**31, "63 bits": 2**63 - 1, "-2^63": -(2**63),
    "64 bits": 2**63, "huge": 10**100, "floats": (0.0, -0.0, 1e300, float("inf")), "empty text": "", "ascii": "abc", "latin": "é" * 10,
    "chinese": "漢字", "emoji": "😀", "surrogate": "\ud800", "nul": "a\0b", "long text": "ab" * 5000, "long chinese": "漢" * 600, "bytes": b"\0\xff", "no bytes": b"",
    "some bytes": b"x" * 513, "many bytes": b"y" * 10_000, "a million bytes": bytes(1_000_000), "empty tuple": (), "nested": (1, (2, (3, (4, (5, (6,)))))),
    "wide": tuple(range(33)), "mixed": (1, "a", None, 2.5, b"c", True), "tuple with a list": (1, [2]), "list": [1, 2], "dict": {"a": [1]}, "set": {1, 2},
    "bytearray": bytearray(b"abc"), "complex": 1j, "class": Plain, "object": Plain(3), "exception": ValueError, "range": range(3), "big list": list(range(20_000)),
    "large in-band": {"a": b"z" * 300_000, "b": bytearray(200_000), "c": "t" * 100_000}, "function": os.getpid,
}


class Text(str):
    pass


class Number(int):
    pass


@pytest.mark.parametrize("name", OBJECTS)
@pytest.mark.parametrize("kind", ["Queue", "SimpleQueue"])
def test_every_kind_of_object(kind, name):
    q = getattr(manyhands, kind)()
    q.put(OBJECTS[name])
    got = q.get()
    assert got == OBJECTS[name] and type(got) is type(OBJECTS[name]) and repr(got) == repr(OBJECTS[name]) or isinstance(got, Plain)
    q.close()


@pytest.mark.parametrize("value", [Text("a"), Number(5), (Text("b"), 1)], ids=repr)
def test_subclasses_of_plain_types_stay_what_they_are(value):
    q = manyhands.Queue()
    q.put(value)
    got = q.get()
    assert got == value and type(got) is type(value) and (not isinstance(value, tuple) or type(got[0]) is Text)


def test_what_was_put_is_a_snapshot():
    q = manyhands.Queue()
    items = [1, 2]
    q.put(items)
    items.append(3)
    same = [0]
    q.put((same, same))
    assert q.get() == [1, 2]
    first, second = q.get()
    assert first is second


def test_arrays_are_writable_and_whole():
    numpy = pytest.importorskip("numpy")
    fixed = numpy.arange(3000.0)
    fixed.flags.writeable = False
    cases = [numpy.arange(10), numpy.arange(100_000.0), numpy.zeros((300, 200), order="F"), numpy.arange(10_000)[::3], fixed, numpy.array(["a", None], dtype=object),
             numpy.zeros(0), numpy.arange(5000).astype(">i4")]
    q = manyhands.Queue()
    for array in cases:
        q.put({"array": array, "again": array})
        got = q.get()
        assert got["array"] is got["again"] and got["array"].dtype == array.dtype
        assert (got["array"] == array).all() and got["array"].flags.writeable
        assert got["array"].flags.f_contiguous == array.flags.f_contiguous or not array.flags.c_contiguous
    q.put([numpy.arange(2000), numpy.arange(3000)])
    one, two = q.get()
    assert one.ctypes.data % 64 == 0 and two.ctypes.data % 64 == 0
    del one
    assert two.sum() == 3000 * 2999 // 2


def test_registered_reducers_count():
    from manyhands.reduction import ForkingPickler

    class Local:  # cannot be pickled by name
        pass

    ForkingPickler.register(Local, lambda obj: (Plain, (7,)))
    try:
        q = manyhands.Queue()
        q.put([Local()])
        assert q.get() == [Plain(7)]
    finally:
        del ForkingPickler._extra_reducers[Local]


def test_pickling_may_use_queues():
    class Chatty:
        def __reduce__(self):
            inner.put(["from __reduce__"])
            return Plain, (1,)

    inner, q = manyhands.Queue(), manyhands.Queue()
    q.put([Chatty(), Chatty()])
    assert q.get() == [Plain(1), Plain(1)] and inner.get() == ["from __reduce__"] and inner.qsize() == 1


# ---- the interface ---------------------------------------------------------------------------------------------------

ARGUMENTS = [
    # call, exception
    (lambda q: q.put(), TypeError),
    (lambda q: q.put(1, True, None, 4), TypeError),
    (lambda q: q.put(1, obj=2), TypeError),
    (lambda q: q.put(1, wait=True), TypeError),
    (lambda q: q.put(1, True, "soon"), TypeError),
    (lambda q: q.put(1, True, float("nan")), ValueError),
    (lambda q: q.get(True, None, 1), TypeError),
    (lambda q: q.get(obj=1), TypeError),
    (lambda q: q.get(timeout="soon"), TypeError),
    (lambda q: q.put_nowait(), TypeError),
    (lambda q: q.get_nowait(1), TypeError),
    (lambda q: q.get(False), standard.Empty),
    (lambda q: q.get(block=False, timeout=5), standard.Empty),
    (lambda q: q.get(True, 0), standard.Empty),
    (lambda q: q.get(True, -1), standard.Empty),
    (lambda q: q.get(timeout=0.01), standard.Empty),
    (lambda q: q.get_nowait(), standard.Empty),
    (lambda q: q.join_thread(), AssertionError),
    (lambda q: pickle.dumps(q), RuntimeError),
    (lambda q: q.put(q) or q.get(False), standard.Empty),  # only told by the hook
    (lambda q: q._open(0, True), RuntimeError),
    (lambda q: q._attach(0, 0), RuntimeError),
]


@pytest.mark.parametrize("number", range(len(ARGUMENTS)))
def test_arguments(number):
    call, exception = ARGUMENTS[number]
    with pytest.raises(exception):
        call(manyhands.Queue())


def test_a_full_queue():
    q = manyhands.Queue(2)
    assert q.empty() and not q.full() and q.qsize() == 0
    q.put(1)
    q.put(obj=2, block=False)
    assert not q.empty() and q.full() and q.qsize() == 2
    for call in (lambda: q.put(3, False), lambda: q.put_nowait(3), lambda: q.put(3, True, 0.01), lambda: q.put(3, timeout=-1), lambda: q.put(3, False, 10)):
        with pytest.raises(standard.Full):
            call()
    assert q.get() == 1 and not q.full()
    q.put(3)
    assert [q.get(), q.get()] == [2, 3]


def test_a_timeout_is_kept():
    q = manyhands.Queue()
    began = time.monotonic()
    with pytest.raises(standard.Empty):
        q.get(True, 0.2)
    assert 0.2 <= time.monotonic() - began < 30


def test_closing():
    q = manyhands.Queue()
    q.put(1)
    q.close()
    q.close()
    for call in (lambda: q.put(1), lambda: q.get(), lambda: q.put_nowait(1), lambda: q.get_nowait()):
        with pytest.raises(ValueError, match="is closed"):
            call()
    q.join_thread()
    q.cancel_join_thread()
    assert q.qsize() == 1

    s = manyhands.SimpleQueue()
    s.put(1)
    s.close()
    s.close()
    for call in (lambda: s.put(1), lambda: s.get(), lambda: s.empty()):
        with pytest.raises(OSError, match="closed"):
            call()
    assert s._reader.closed and s._writer.closed


def test_uninitialised_is_an_error():
    class Lazy(queues.Queue):
        def __init__(self):
            pass

    for call in (lambda q: q.put(1), lambda q: q.get(), lambda q: q.qsize(), lambda q: q._parts()):
        with pytest.raises(OSError, match="__init__"):
            call(Lazy())


def test_joining():
    q = manyhands.JoinableQueue()
    q.join()
    with pytest.raises(ValueError, match="too many times"):
        q.task_done()
    q.put(1)
    q.get()
    q.task_done()
    q.join()
    with pytest.raises(ValueError, match="too many times"):
        q.task_done()
    assert not hasattr(manyhands.Queue(), "task_done")


def test_join_waits_for_the_last(ctx):
    q = ctx.JoinableQueue()
    for i in range(20):
        q.put(i)
    workers = [ctx.Process(target=finish, args=(q, 10)) for _ in range(2)]
    for w in workers:
        w.start()
    q.join()
    assert q.empty()
    q.close()
    q.join()
    for w in workers:
        w.join(30)
        assert w.exitcode == 0


@pytest.mark.parametrize("kind", ["Queue", "JoinableQueue", "SimpleQueue"])
def test_types(kind):
    q = getattr(manyhands, kind)()
    assert type(q) is getattr(queues, kind)
    assert str(getattr(queues, kind)[int]).endswith(f"{kind}[int]")
    with pytest.raises(TypeError):
        getattr(queues, kind)()
    assert getattr(queues, kind)(ctx=manyhands.get_context()).empty()


# ---- what cannot be pickled ---------------------------------------------------------------------------------------


class Unpicklable:
    def __reduce__(self):
        raise AttributeError("not me")


def test_the_hook_is_told_what_cannot_be_pickled(capfd):
    told = []

    class Safe(queues.Queue):
        @staticmethod
        def _on_queue_feeder_error(e, obj):
            told.append((type(e), type(obj), sys.exc_info()[0]))

    q = Safe(ctx=manyhands.get_context())
    q.put(Unpicklable())
    q.put([lambda: 1])
    q.put(1)
    assert told[0] == (AttributeError, Unpicklable, AttributeError) and len(told) == 2
    assert q.get() == 1 and q.empty()
    plain = manyhands.Queue(1)
    plain.put(Unpicklable())
    assert plain.qsize() == 0 and not plain.full()
    assert "not me" in capfd.readouterr().err
    with pytest.raises(AttributeError, match="not me"):
        manyhands.SimpleQueue().put(Unpicklable())


class BadWhenLoaded:
    def __reduce__(self):
        return int, ("x",)


def test_what_cannot_be_unpickled_raises_where_it_arrives():
    q = manyhands.Queue()
    q.put(BadWhenLoaded())
    q.put(2)
    with pytest.raises(ValueError, match="invalid literal"):
        q.get()
    assert q.get() == 2


def test_an_interrupt_while_pickling_is_not_an_unpicklable_object():
    class Interrupting:
        def __reduce__(self):
            raise KeyboardInterrupt

    q = manyhands.Queue()
    with pytest.raises(KeyboardInterrupt):
        q.put(Interrupting())
    assert q.empty()


# ---- between processes ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["Queue", "JoinableQueue", "SimpleQueue"])
def test_there_and_back(ctx, kind):
    there, back = getattr(ctx, kind)(), getattr(ctx, kind)()
    p = ctx.Process(target=echo, args=(there, back))
    p.start()
    items = [i for i in range(200)] + ["text", b"b" * 100_000, [1, {"a": 2}], (1, 2.5)]
    for item in items:
        there.put(item)
    assert [back.get() for _ in items] == items
    there.put(None)
    p.join(30)
    assert p.exitcode == 0 and there.empty() and back.empty()


def test_many_producers_keep_their_order(ctx):
    q = ctx.Queue(50)
    producers = [ctx.Process(target=produce, args=(q, i, 500)) for i in range(3)]
    for p in producers:
        p.start()
    seen = {0: 0, 1: 0, 2: 0}
    for _ in range(1500):
        producer, number = q.get(timeout=60)
        assert seen[producer] == number
        seen[producer] += 1
    for p in producers:
        p.join(30)
    assert q.empty()


def test_a_process_may_end_at_once(ctx):
    """What it has put is there, although it put much more than a pipe holds and nobody has read yet."""
    q = ctx.Queue()
    p = ctx.Process(target=put_and_end, args=(q, [bytes(1 << 20)] * 5 + ["last"]))
    p.start()
    p.join(60)
    assert p.exitcode == 0
    assert [len(q.get_nowait()) for _ in range(6)] == [1 << 20] * 5 + [4]


def test_initargs_of_a_pool(ctx):
    q = ctx.Queue()
    with ctx.Pool(2, keep_queue, (q,)) as pool:
        pool.map(put_from_worker, range(20), 1)
        assert sorted(q.get_nowait() for _ in range(20)) == list(range(20))


def test_threads_share_a_queue():
    q = manyhands.Queue(10)
    got, count = [], 2000

    def take():
        while (item := q.get()) is not None:
            got.append(item)

    takers = [threading.Thread(target=take) for _ in range(2)]
    givers = [threading.Thread(target=lambda k: [q.put((k, i)) for i in range(count)], args=(k,)) for k in range(2)]
    for t in takers + givers:
        t.start()
    for t in givers:
        t.join(60)
    for _ in takers:
        q.put(None)
    for t in takers:
        t.join(60)
    assert sorted(got) == [(k, i) for k in range(2) for i in range(count)]


def test_fork_with_threads_inside_calls():
    """Threads that wait in a queue are not in the child; it uses the queue, and closes it, as if they had never been."""
    done = run_program("""
        import os, sys, threading, time, manyhands
        q, s, full = manyhands.Queue(), manyhands.SimpleQueue(), manyhands.Queue(1)
        r, w = manyhands.Pipe()
        full.put(0)
        for call in (q.get, s.get, lambda: full.put(1), r.recv, lambda: r.poll(None), lambda: full.get() and 0):
            threading.Thread(target=call, daemon=True).start()
        for _ in range(20):
            pid = os.fork()
            if pid == 0:
                other = manyhands.Queue()
                other.put(5)
                assert other.get(timeout=10) == 5
                q.put(1)
                s.put(2)
                before = len(os.listdir("/proc/self/fd"))
                s.close()
                r.close()
                assert len(os.listdir("/proc/self/fd")) == before - 4
                os._exit(7)
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
        print("fine")
    """)
    assert done.stdout == "fine\n", done


def test_memory_is_taken_only_as_used():
    """An unbounded queue costs nothing until it is used, many of them too."""
    done = run_program("""
        import manyhands, os
        def shared():
            return sum(os.fstat(q._parts()[0]).st_blocks * 512 for q in many)
        many = [manyhands.Queue() for _ in range(50)]
        assert shared() <= 50 * 8192, shared()
        q = many[0]
        for _ in range(20):
            q.put(bytes(1 << 20))
        assert 20 << 20 <= shared() <= 40 << 20, shared()
        for _ in range(20):
            q.get()
        for _ in range(1000):  # it is given back when the queue is used again
            q.put(1)
            q.get()
        assert shared() <= 8 << 20, shared()
        print("fine")
    """)
    assert done.stdout == "fine\n", done


def test_a_limited_address_space_gives_a_smaller_queue():
    done = run_program("""
        import resource
        import manyhands
        resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30))
        q = manyhands.Queue()
        for i in range(100):
            q.put(bytes(1 << 20))
        for i in range(100):
            q.get()
        print("fine")
    """)
    assert done.stdout == "fine\n", done


def test_one_thread_may_put_much_before_it_gets():
    """Where the standard library would not have blocked, neither do we: with maxsize, too."""
    for maxsize in (0, 40):
        q = manyhands.Queue(maxsize)
        for i in range(40):
            q.put(bytes([i]) * (1 << 20))
        for i in range(40):
            assert q.get()[0] == i


# ---- deaths ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["Queue", "SimpleQueue"])
@pytest.mark.parametrize("item", [7, b"x" * 3000, bytes(5 << 20)], ids=["small", "some", "large"])
def test_producers_are_killed(kind, item):
    """At whatever instruction: what others put arrives, whole, and nothing is torn."""
    ctx = manyhands.get_context("fork")
    q = getattr(ctx, kind)()
    for round in range(6):
        r, w = ctx.Pipe(False)
        p = ctx.Process(target=produce_for_ever, args=(q, w, item), daemon=True)
        p.start()
        assert q.get() == item
        assert r.poll(60)
        for _ in range(round * 3):
            assert q.get() == item
        os.kill(p.pid, signal.SIGKILL)
        p.join(30)
        while not q.empty():  # what the dead one has put; of its last item nothing or all
            assert q.get() == item
        q.put(round)
        assert q.get() == round and q.empty()


def test_consumers_are_killed():
    ctx = manyhands.get_context("fork")
    q = ctx.Queue(100)
    for _ in range(6):
        r, w = ctx.Pipe(False)
        p = ctx.Process(target=consume_for_ever, args=(q, w), daemon=True)
        p.start()
        q.put((-1, -1))
        assert r.poll(60)
        for i in range(300):
            q.put((0, i), timeout=60)
            if i == 250:
                os.kill(p.pid, signal.SIGKILL)
                break
        p.join(30)
        left = []
        while not q.empty():
            left.append(q.get(timeout=10)[1])
        assert left == sorted(left)
    q.put("still")
    assert q.get(timeout=30) == "still"


# ---- Ctrl-C ------------------------------------------------------------------------------------------------------------

MOMENTS = {
    "get": "q.get()",
    "get with timeout": "q.get(True, 100)",
    "put": "full.put(1)",
    "put with timeout": "full.put(1, True, 100)",
    "put of much": "full.put(bytes(1 << 20))",
    "SimpleQueue.get": "manyhands.SimpleQueue().get()",
    "SimpleQueue.put": "s = manyhands.SimpleQueue(); s.put(bytes(3 << 20))",
    "join": "j = manyhands.JoinableQueue(); j.put(1); j.join()",
    "recv": "r.recv()",
    "recv_bytes": "r.recv_bytes()",
    "recv_bytes_into": "r.recv_bytes_into(bytearray(10))",
    "poll": "r.poll(None)",
    "poll with timeout": "r.poll(100)",
    "send": "w.send_bytes(bytes(3 << 20))",
    "wait": "connection.wait([r, q._reader])",
    "wait for one": "connection.wait([r])",
    "recv_handle": "reduction.recv_handle(r)",
    "thread besides": "threading.Thread(target=q.get, daemon=True).start(); r.recv()",
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_ctrl_c(tmp_path, moment):
    source = f"""
import threading, manyhands
from manyhands import connection, reduction
q, full = manyhands.Queue(), manyhands.Queue(1)
full.put(0)
r, w = manyhands.Pipe(False)
tell("busy")
{MOMENTS[moment]}
"""
    with Program(tmp_path, source) as program:
        assert program.hear() == "busy"
        eventually(lambda: open(f"/proc/{program.pid}/stat").read().rpartition(")")[2].split()[0] == "S")
        program.interrupt()
        began = time.monotonic()
        assert program.wait(20) in (-signal.SIGINT, 130, 1), program.err
        assert time.monotonic() - began < 5
        assert program.err.splitlines().count("KeyboardInterrupt") == 1 and program.err.count("Traceback") == 1, program.err


def test_a_handler_that_returns_does_not_end_the_wait():
    q = manyhands.Queue()
    calls = []
    old = signal.signal(signal.SIGUSR1, lambda *a: calls.append(1) or (len(calls) == 3 and q.put("now")))
    stop = threading.Event()
    main = threading.main_thread().ident

    def poke():
        while not stop.is_set():
            signal.pthread_kill(main, signal.SIGUSR1)
            stop.wait(0.01)

    thread = threading.Thread(target=poke)
    thread.start()
    try:
        assert q.get(timeout=60) == "now"
    finally:
        stop.set()
        thread.join()
        signal.signal(signal.SIGUSR1, old)


# ---- hostile memory ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tag", range(16))
def test_any_bytes_under_any_tag(tag):
    """What another process writes into the memory gives an error or an object, never a crash."""
    import mmap

    q = manyhands.Queue()
    memory, _ = q._parts()
    at = mmap.mmap(memory, 1 << 16)
    for data in (b"", b"\x04", b"\x04" + bytes(8), b"\x07\xff\xff\xff\xff", b"\x0a\xff", b"\x0a\x20" * 20, b"\x08\x01\0\0\0", b"\x0a\x01" * 40 + b"\x01",
                 b"\x08\0\x02\0\0" + bytes(1024), bytes(100), b"\x08" + bytes(7) + b"\xff" * 40):
        q._send_bytes(data)
        size = len(data).to_bytes(7, "little")  # the record's head: tag and kind, then the size
        found = [i for i in range(4096, 1 << 16, 8) if at[i] == 1 and at[i + 1:i + 8] == size and at[i + 8:i + 8 + len(data)] == data]
        at[found[-1]] = 1 | tag << 4
        try:
            q.get_nowait()
        except Exception as e:
            assert isinstance(e, (ValueError, EOFError, pickle.UnpicklingError, IndexError, KeyError, AttributeError, TypeError)), e
    at.close()


def test_attaching_what_is_no_queue():
    for parts, exception in (((0, 0), (ValueError, OSError, RuntimeError)), ((-1, -1), (ValueError, OSError))):
        q = queues.Queue.__new__(queues.Queue)
        with pytest.raises(exception):
            q._attach(*parts)
    assert _core.Queue.__name__ == "Queue"


@pytest.mark.parametrize("kind", ["Queue", "JoinableQueue"])
def test_empty_of_a_closed_queue(kind):
    """As in the standard library: an error for who has put something, and no matter to others."""
    unused, used = getattr(manyhands, kind)(), getattr(manyhands, kind)()
    used.put("x")
    unused.close(), used.close()
    assert unused.empty()
    with pytest.raises(OSError, match="is closed"):
        used.empty()
