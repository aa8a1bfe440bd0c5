"""Pipe, wait, and connections over sockets."""

import array
import asyncio
import gc
import os
import pickle
import select
import selectors
import signal
import socket
import sys
import threading
import time

import pytest
from helpers import descriptors, eventually, run_program
from queue_tasks import (call_listener, echo_bytes, echo_messages, receive_connections, select_and_count, send_each, send_for_ever, sleep_with,
                         write_to_descriptor)

import manyhands
from manyhands import connection, reduction

pytestmark = pytest.mark.timeout(120)
METHODS = ["fork", "forkserver", "spawn"]


@pytest.fixture(params=METHODS)
def ctx(request):
    return manyhands.get_context(request.param)


OBJECTS = [None, 1, "text", b"bytes", (1, (2.5, "x")), [1, 2], {"a": [b"b" * 10_000]}, b"c" * 100_000, list(range(10_000))]


def test_objects_and_bytes_are_the_same_messages():
    """As in the standard library: what send sends is a pickle for recv_bytes, and recv reads a pickle that send_bytes sent."""
    a, b = manyhands.Pipe()
    numpy = pytest.importorskip("numpy")
    for obj in [*OBJECTS, numpy.arange(5000)]:
        a.send(obj)
        assert (pickle.loads(b.recv_bytes()) == obj) is True or (obj == 0).sum() == 1
        a.send_bytes(pickle.dumps(obj))
        got = b.recv()
        assert type(got) is type(obj)
        into = bytearray(200_000)
        a.send(obj)
        size = b.recv_bytes_into(into)
        assert type(pickle.loads(into[:size])) is type(obj)
        b.send(obj)
        assert type(a.recv()) is type(obj)


SEND_BYTES = [
    # arguments, what arrives or what is raised
    ((b"abcdef",), b"abcdef"), ((b"abcdef", 2), b"cdef"), ((b"abcdef", 2, 3), b"cde"), ((b"abcdef", 6), b""), ((b"abcdef", 6, 0), b""), ((b"",), b""),
    ((bytearray(b"xy"),), b"xy"), ((memoryview(b"abcd")[1:3],), b"bc"), ((array.array("i", [1, 2]),), array.array("i", [1, 2]).tobytes()),
    ((array.array("i", [1, 2]), 4), array.array("i", [2]).tobytes()), ((b"abc", 1, None), b"bc"),
    ((b"abcdef", 7), ValueError), ((b"abcdef", 2, 5), ValueError), ((b"abcdef", 6, 1), ValueError), ((b"abcdef", -1), ValueError), ((b"abcdef", 4, -1), ValueError),
    (("text",), TypeError), ((5,), TypeError), ((), TypeError), ((b"a", "x"), TypeError), ((b"a", 0, "x"), TypeError), ((b"abc", 0, 1 << 100), OverflowError),
]


@pytest.mark.parametrize("number", range(len(SEND_BYTES)))
def test_send_bytes(number):
    arguments, expected = SEND_BYTES[number]
    a, b = manyhands.Pipe(False)
    if isinstance(expected, bytes):
        b.send_bytes(*arguments)
        assert a.recv_bytes() == expected
    else:
        with pytest.raises(expected):
            b.send_bytes(*arguments)
    assert not a.poll()


RECEIVE_INTO = [
    # buffer, offset, message, what is returned or raised, the buffer afterwards
    (bytearray(6), 0, b"abc", 3, b"abc\0\0\0"), (bytearray(6), 2, b"abc", 3, b"\0\0abc\0"), (bytearray(3), 0, b"abc", 3, b"abc"), (bytearray(3), 3, b"", 0, bytes(3)),
    (bytearray(2), 0, b"abc", manyhands.BufferTooShort, bytes(2)), (bytearray(4), 2, b"abc", manyhands.BufferTooShort, bytes(4)),
    (bytearray(4), -1, b"abc", ValueError, bytes(4)), (bytearray(4), 5, b"abc", ValueError, bytes(4)), (b"const", 0, b"abc", TypeError, b"const"),
    (array.array("i", [0, 0]), 4, (7).to_bytes(4, sys.byteorder), 4, array.array("i", [0, 7]).tobytes()),
    (bytearray(100_000), 50_000, b"z" * 50_000, 50_000, bytes(50_000) + b"z" * 50_000),
]


@pytest.mark.parametrize("number", range(len(RECEIVE_INTO)))
def test_recv_bytes_into(number):
    buffer, offset, message, expected, after = RECEIVE_INTO[number]
    a, b = manyhands.Pipe(False)
    b.send_bytes(message)
    if isinstance(expected, int):
        assert a.recv_bytes_into(buffer, offset) == expected
    else:
        with pytest.raises(expected) as caught:
            a.recv_bytes_into(buffer, offset)
        if expected is manyhands.BufferTooShort:
            assert caught.value.args == (message,)
        else:
            assert a.recv_bytes() == message  # what is refused beforehand costs nothing
    assert bytes(buffer) == after


def test_a_message_beyond_maxlength_ends_the_reading():
    for duplex in (False, True):
        a, b = manyhands.Pipe(duplex)
        b.send_bytes(b"12345")
        b.send_bytes(b"12345")
        assert a.recv_bytes(5) == b"12345"
        with pytest.raises(ValueError, match="negative"):
            a.recv_bytes(-1)
        with pytest.raises(OSError, match="bad message length"):
            a.recv_bytes(maxlength=4)
        assert not a.readable or a.closed
        with pytest.raises(OSError):
            a.recv()
        if duplex:
            a.send(1)
            assert b.recv() == 1


def test_one_way():
    r, w = manyhands.Pipe(duplex=False)
    assert (r.readable, r.writable, w.readable, w.writable) == (True, False, False, True)
    for call in (lambda: r.send(1), lambda: r.send_bytes(b"")):
        with pytest.raises(OSError, match="read-only"):
            call()
    for call in (lambda: w.recv(), lambda: w.recv_bytes(), lambda: w.recv_bytes_into(bytearray(1)), lambda: w.poll()):
        with pytest.raises(OSError, match="write-only"):
            call()
    assert isinstance(r, connection.Connection)
    assert "read-only" in repr(r) and "write-only" in repr(w) and "duplex" in repr(manyhands.Pipe()[0])


def test_closing():
    a, b = manyhands.Pipe()
    with a as same:
        assert same is a and not a.closed
        a.send(1)
        a.send(2)
    assert a.closed and a.readable and "closed" in repr(a)
    a.close()
    for call in (lambda: a.send(1), lambda: a.recv(), lambda: a.poll(), lambda: a.fileno(), lambda: a.send_bytes(b""), lambda: a.recv_bytes(), lambda: a._parts()):
        with pytest.raises(OSError, match="handle is closed"):
            call()
    assert b.recv() == 1 and b.poll() and b.recv() == 2
    assert b.poll() and b.poll(None)  # there is EOFError to be had
    for call in (lambda: b.recv(), lambda: b.recv_bytes(), lambda: b.recv_bytes_into(bytearray(1))):
        with pytest.raises(EOFError):
            call()
    with pytest.raises(BrokenPipeError):
        b.send(1)


def test_polling():
    a, b = manyhands.Pipe()
    assert a.poll() is False and a.poll(-1) is False and a.poll(0.01) is False and a.poll(timeout=0) is False
    with pytest.raises(TypeError):
        a.poll("soon")
    b.send_bytes(b"")
    assert a.poll() is True and a.poll(None) is True and a.recv_bytes() == b"" and not a.poll()
    began = time.monotonic()
    assert not a.poll(0.2) and 0.2 <= time.monotonic() - began < 30


@pytest.mark.parametrize("size", [0, 1, 100, 4095, 4096, 4097, 65_536, 1 << 20, 2 << 20, (2 << 20) + 1, 20_000_000])
def test_every_size_passes(size):
    ctx = manyhands.get_context("fork")
    a, b = ctx.Pipe()
    p = ctx.Process(target=echo_bytes, args=(b, a))
    p.start()
    b.close()
    data = os.urandom(size)
    for _ in range(2):
        a.send_bytes(data)
        assert a.recv_bytes() == data
    into = bytearray(size)
    a.send_bytes(data)
    assert a.recv_bytes_into(into) == size and into == data
    a.close()
    p.join(30)
    assert p.exitcode == 0


def test_there_and_back(ctx):
    a, b = ctx.Pipe()
    p = ctx.Process(target=echo_messages, args=(b, a))
    p.start()
    b.close()
    for obj in OBJECTS:
        a.send(obj)
        assert a.recv() == obj
    a.close()
    p.join(30)
    assert p.exitcode == 0


# ---- the other end dies ----------------------------------------------------------------------------------------------


def test_the_other_end_is_killed(ctx):
    a, b = ctx.Pipe()
    p = ctx.Process(target=sleep_with, args=(b,))
    p.start()
    b.close()
    assert not a.poll(0.05)
    a.send(1)
    os.kill(p.pid, signal.SIGKILL)
    for call in (lambda: a.recv(), lambda: a.recv_bytes()):
        with pytest.raises(EOFError):
            call()
    c, d = ctx.Pipe()
    assert a.poll() and connection.wait([a, c, d], 30) == [a]
    p.join(30)
    with pytest.raises(BrokenPipeError):
        a.send(1)


@pytest.mark.parametrize("size", [10, 5000, 5 << 20])
def test_the_sender_is_killed_while_it_sends(size):
    ctx = manyhands.get_context("fork")
    for _ in range(5):
        r, w = ctx.Pipe(False)
        started, tell = ctx.Pipe(False)
        data = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
        p = ctx.Process(target=send_for_ever, args=(w, tell, data), daemon=True)
        p.start()
        w.close()
        assert r.recv_bytes() == data and started.recv() == p.pid
        os.kill(p.pid, signal.SIGKILL)
        with pytest.raises(EOFError):
            while True:
                assert r.recv_bytes() == data
        p.join(30)


def test_a_sender_that_waits_is_told():
    ctx = manyhands.get_context("fork")
    a, b = ctx.Pipe()
    p = ctx.Process(target=sleep_with, args=(b,))
    p.start()
    b.close()
    main = threading.main_thread().native_id
    killer = threading.Thread(target=lambda: (eventually(lambda: open(f"/proc/self/task/{main}/stat").read().rpartition(")")[2].split()[0] == "S"),
                                              os.kill(p.pid, signal.SIGKILL)))
    killer.start()
    with pytest.raises(BrokenPipeError):
        a.send_bytes(bytes(10 << 20))
    killer.join()
    p.join(30)


# ---- descriptors -----------------------------------------------------------------------------------------------------


def loops():
    def by_select(fd, timeout):
        return bool(select.select([fd], [], [], timeout)[0])

    def by_poll(fd, timeout):
        p = select.poll()
        p.register(fd, select.POLLIN)
        return bool(p.poll(timeout * 1000))

    def by_epoll(fd, timeout):
        with select.epoll() as p:
            p.register(fd, select.EPOLLIN)
            return bool(p.poll(timeout))

    def by_selectors(fd, timeout):
        with selectors.DefaultSelector() as s:
            s.register(fd, selectors.EVENT_READ)
            return bool(s.select(timeout))

    return [by_select, by_poll, by_epoll, by_selectors]


@pytest.mark.parametrize("ready", loops(), ids=lambda f: f.__name__)
def test_the_descriptor_is_readable_exactly_when_recv_returns(ready):
    for make in (manyhands.Pipe, lambda: (q := manyhands.Queue()) and (q._reader, q._writer)):
        a, b = make()
        b.send("before anybody asked")
        assert ready(a.fileno(), 0)
        assert a.recv() and not ready(a.fileno(), 0)
        for _ in range(3):
            b.send(1)
            b.send(2)
            assert ready(a, 0) and a.recv() == 1 and ready(a, 0) and a.recv() == 2 and not ready(a, 0)
    a, b = manyhands.Pipe()
    assert not ready(a, 0)
    b.send(1)
    b.close()
    assert ready(a, 0) and a.recv() == 1 and ready(a, 0)
    with pytest.raises(EOFError):
        a.recv()


def test_a_select_loop_misses_nothing(ctx):
    a, b = ctx.Pipe()
    p = ctx.Process(target=select_and_count, args=(b, 3000))
    p.start()
    b.close()
    for _ in range(3000):
        a.send(1)
    assert a.recv() == 3000
    p.join(30)


def test_two_processes_may_watch_the_same_end():
    """Each is told of what is there; who finds it taken goes on."""
    ctx = manyhands.get_context("fork")
    a, b = ctx.Pipe(False)
    counts, tell = ctx.Pipe(False)
    lock = ctx.Lock()

    def watch():
        b.close()
        got, ended = 0, False
        while not ended:
            select.select([a], [], [])
            with lock:
                try:
                    if a.poll():
                        a.recv()
                        got += 1
                except EOFError:
                    ended = True
        tell.send(got)

    watchers = [ctx.Process(target=watch) for _ in range(2)]
    for p in watchers:
        p.start()
    a.close()
    for i in range(1000):
        b.send(i)
    b.close()
    assert counts.recv() + counts.recv() == 1000
    for p in watchers:
        p.join(30)


def test_asyncio():
    async def main():
        loop = asyncio.get_running_loop()
        a, b = manyhands.Pipe()
        got, done = [], asyncio.Event()

        def on_readable():
            got.append(a.recv())
            if len(got) == 500:
                done.set()

        loop.add_reader(a.fileno(), on_readable)
        thread = threading.Thread(target=lambda: [b.send(i) for i in range(500)])
        thread.start()
        await asyncio.wait_for(done.wait(), 60)
        loop.remove_reader(a.fileno())
        thread.join()
        assert got == list(range(500))

    asyncio.run(main())


# ---- wait ------------------------------------------------------------------------------------------------------------


def test_wait_takes_anything(ctx):
    a, b = ctx.Pipe()
    q, s, j = ctx.Queue(), ctx.SimpleQueue(), ctx.JoinableQueue()
    x, y = socket.socketpair()
    with connection.Listener() as listener, connection.Client(listener.address) as client, listener.accept() as accepted:
        fd_r, fd_w = os.pipe()
        objects = [a, b, q._reader, s._reader, j._reader, x, accepted, fd_r]
        assert connection.wait(objects, 0) == [] and connection.wait(iter(objects), timeout=-1) == []
        ready = [(lambda: b.send(1), a), (lambda: a.send(1), b), (lambda: q.put(1), q._reader), (lambda: s.put(1), s._reader), (lambda: j.put(1), j._reader),
                 (lambda: y.send(b"x"), x), (lambda: client.send(1), accepted), (lambda: os.write(fd_w, b"x"), fd_r)]
        for number, (make, _) in enumerate(ready):
            make()
            got = connection.wait(objects, 30)
            assert got == objects[: number + 1]
        assert a.recv() == b.recv() == q.get() == s.get() == j.get() == accepted.recv() == 1
        assert connection.wait(objects, 0) == [x, fd_r]
        p = ctx.Process(target=int)
        p.start()
        assert connection.wait([a, q._reader, p.sentinel], 30) == [p.sentinel]
        p.join()
        os.close(fd_r)
        os.close(fd_w)
    x.close()
    y.close()


BAD = [(["text"], ValueError), ([None], ValueError), ([-1], ValueError), ([1.5], ValueError), (5, TypeError)]


@pytest.mark.parametrize("objects, exception", BAD, ids=repr)
def test_wait_refuses(objects, exception):
    with pytest.raises(exception):
        connection.wait(objects, 1)


def test_wait_for_closed_ones():
    a, b = manyhands.Pipe()
    c, d = manyhands.Pipe()
    b.close()
    assert connection.wait([a], 30) == [a] == connection.wait([a, c, d], 30)
    a.close()
    with pytest.raises(OSError):
        connection.wait([a], 0)


def test_wait_wakes_for_a_late_one(ctx):
    pairs = [ctx.Pipe(False) for _ in range(5)]
    processes = [ctx.Process(target=send_each, args=(w, range(20))) for _, w in pairs]
    for p, (_, w) in zip(processes, pairs):
        p.start()
        w.close()
    readers, got = [r for r, _ in pairs], []
    while readers:
        for r in connection.wait(readers, 60):
            try:
                got.append(r.recv())
            except EOFError:
                readers.remove(r)
    assert sorted(got) == sorted(list(range(20)) * 5)
    for p in processes:
        p.join(30)


# ---- connections travel -----------------------------------------------------------------------------------------------


def is_gone(writer):
    try:
        writer.send(1)
    except BrokenPipeError:
        return True
    return False


def test_connections_travel(ctx):
    """Over pipes, queues and sockets; what arrives is the same end, and nothing is left open."""
    a, b = ctx.Pipe()
    p = ctx.Process(target=receive_connections, args=(b,))
    p.start()
    b.close()
    for _ in range(3):
        r, w = ctx.Pipe(False)
        a.send(w)
        assert r.recv() == "through the pipe"
        w.close()
        with pytest.raises(EOFError):
            r.recv()
        r.close()
        r, w = ctx.Pipe(False)
        w.send("back")
        a.send(r)
        assert a.recv() == "back"
        r.close()
        eventually(lambda: is_gone(w))  # it closes it after it has answered
        x, y = socket.socketpair()
        a.send(x)
        x.close()
        assert y.recv(100) == b"through the socket"
        assert y.recv(1) == b""
        y.close()
    a.send(None)
    left_open = a.recv()
    p.join(30)
    assert p.exitcode == 0 and left_open < 5  # of nine that came
    manyhands.resource_sharer.stop(timeout=30)


def test_connections_travel_in_queues_and_by_any_pickler():
    q = manyhands.Queue()
    r, w = manyhands.Pipe(False)
    q.put({"end": w})
    w.close()
    got = q.get()["end"]
    got.send(5)
    assert r.recv() == 5
    again = pickle.loads(pickle.dumps(got))
    got.close()
    again.send(6)
    assert r.recv() == 6
    again.close()
    with pytest.raises(EOFError):
        r.recv()
    manyhands.resource_sharer.stop(timeout=30)


def test_sharing_connections_does_not_change_how_processes_start():
    done = run_program("""
        import manyhands
        a, b = manyhands.Pipe()
        q = manyhands.Queue()
        q.put(b)
        print(manyhands.get_start_method())
    """)
    assert done.stdout == "fork\n", done


def test_descriptors_are_sent(ctx, tmp_path):
    a, b = ctx.Pipe()
    p = ctx.Process(target=write_to_descriptor, args=(b, b"hello"))
    p.start()
    b.close()
    a.send("a message besides, which is not taken")
    with open(tmp_path / "file", "wb") as file:
        reduction.send_handle(a, file.fileno(), p.pid)
    p.join(30)
    assert (tmp_path / "file").read_bytes() == b"hello"
    with pytest.raises(EOFError):
        reduction.recv_handle(a)
    with pytest.raises(BrokenPipeError):
        reduction.send_handle(a, 0, None)


def test_descriptors_by_the_standard_functions():
    """They know nothing of our pipes, but the descriptor is a unix socket."""
    from multiprocessing import reduction as standard

    a, b = manyhands.Pipe()
    r, w = os.pipe()
    standard.send_handle(a, w, None)
    fd = standard.recv_handle(b)
    os.write(fd, b"x")
    assert os.read(r, 1) == b"x"
    for f in (fd, r, w):
        os.close(f)
    with connection.Listener() as listener, connection.Client(listener.address) as client, listener.accept() as accepted:
        reduction.send_handle(client, 0, None)
        os.close(reduction.recv_handle(accepted))
    os.write(b.fileno(), b"\0")
    with pytest.raises(RuntimeError):
        reduction.recv_handle(a)


# ---- sockets -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["AF_UNIX", "AF_INET"])
def test_listener_and_client(ctx, family):
    with connection.Listener(family=family, backlog=3, authkey=b"secret") as listener:
        p = ctx.Process(target=call_listener, args=(listener.address, b"secret"))
        p.start()
        with listener.accept() as conn:
            conn.send(41)
            assert conn.recv() == 42
        p.join(30)
        assert p.exitcode == 0


def test_authentication_refuses():
    with connection.Listener(authkey=b"right") as listener:
        caught = []

        def call():
            try:
                connection.Client(listener.address, authkey=b"wrong")
            except manyhands.AuthenticationError as e:
                caught.append(e)

        thread = threading.Thread(target=call)
        thread.start()
        with pytest.raises(manyhands.AuthenticationError):
            listener.accept()
        thread.join(30)
        assert len(caught) == 1


def test_the_standard_library_answers_on_the_same_wire():
    from multiprocessing import connection as standard

    for ours, theirs in ((connection.Listener, standard.Client), (standard.Listener, connection.Client)):
        with ours(authkey=b"key") as listener:
            got = []
            thread = threading.Thread(target=lambda listener=listener, got=got: got.append(listener.accept()))
            thread.start()
            with theirs(listener.address, authkey=b"key") as client:
                thread.join(30)
                client.send([1, 2])
                assert got[0].recv() == [1, 2]
                got[0].close()


def test_public_names():
    from multiprocessing import connection as standard

    assert set(standard.__all__) <= set(connection.__all__)
    for name in ("Connection", "deliver_challenge", "answer_challenge", "families", "SocketListener", "XmlListener", "address_type", "wait", "BUFSIZE"):
        assert hasattr(connection, name)
    for name in reduction.__all__:
        assert hasattr(reduction, name)
    assert reduction.HAVE_SEND_HANDLE and reduction.AbstractReducer
    with pytest.raises(AttributeError):
        connection.no_such_name


# ---- leaks -------------------------------------------------------------------------------------------------------------


def whole_life():
    a, b = manyhands.Pipe()
    q, s, j = manyhands.Queue(3), manyhands.SimpleQueue(), manyhands.JoinableQueue()
    for obj in OBJECTS:
        a.send(obj)
        b.recv()
        q.put(obj)
        q.get()
        s.put(obj)
        s.get()
        j.put(obj)
        j.get()
        j.task_done()
    connection.wait([a, b, q._reader], 0)
    a.fileno()
    with pytest.raises(Exception):
        q.get_nowait()
    with pytest.raises(OSError):
        manyhands.Pipe(False)[0].send(1)
    b.close()
    with pytest.raises(EOFError):
        a.recv()


def test_lives_leave_no_descriptors():
    for _ in range(3):
        whole_life()
    gc.collect()
    before = descriptors()
    for _ in range(20):
        whole_life()
    gc.collect()
    assert descriptors() <= before


def test_descriptors_close_on_exec(ctx):
    a, b = manyhands.Pipe()
    q = manyhands.Queue()
    for fd in (*a._parts()[:2], *b._parts()[:2], *q._parts()):
        assert not os.get_inheritable(fd)


CALLS = [
    lambda a, b, q: (a.send(1), b.recv()),
    lambda a, b, q: (a.send("x" * 100), b.recv()),
    lambda a, b, q: (a.send([1, {"a": 2}]), b.recv()),
    lambda a, b, q: (a.send(b"x" * 10_000), b.recv()),
    lambda a, b, q: (a.send({"a": b"x" * 100_000}), b.recv()),
    lambda a, b, q: (a.send((1, (2, "a"), None)), b.recv_bytes()),
    lambda a, b, q: (a.send_bytes(b"x" * 5000), b.recv_bytes()),
    lambda a, b, q: (a.send_bytes(b"x" * 5000), b.recv_bytes_into(bytearray(5000))),
    lambda a, b, q: (a.send_bytes(b"x" * 50), pytest.raises(manyhands.BufferTooShort, b.recv_bytes_into, bytearray(5))) and None,
    lambda a, b, q: pytest.raises(ValueError, a.send_bytes, b"x", 5) and None,
    lambda a, b, q: pytest.raises(TypeError, a.send, threading.Lock()) and None,
    lambda a, b, q: (b.poll(), b.poll(0), a.fileno()),
    lambda a, b, q: (q.put((1, 2)), q.get()),
    lambda a, b, q: (q.put([1, 2]), q.get()),
    lambda a, b, q: pytest.raises(Exception, q.get_nowait) and None,
    lambda a, b, q: pytest.raises(TypeError, q.put, 1, True, "x") and None,
    lambda a, b, q: manyhands.Pipe() and None,
    lambda a, b, q: manyhands.Queue() and None,
    lambda a, b, q: connection.wait([a, b, q._reader], 0) and None,
]


@pytest.mark.parametrize("number", range(len(CALLS)))
def test_calls_leave_no_memory(number):
    import gc

    a, b = manyhands.Pipe()
    q = manyhands.Queue()

    def blocks(rounds):
        for _ in range(rounds):
            CALLS[number](a, b, q)
        gc.collect()
        return sys.getallocatedblocks()

    blocks(100)
    least = None
    for _ in range(3):
        first = blocks(20)
        grown = blocks(300) - first
        least = grown if least is None else min(least, grown)
    assert least < 150, f"{least} blocks in 300 calls"


def test_arrays_leave_no_memory():
    numpy = pytest.importorskip("numpy")
    a, b = manyhands.Pipe()
    array = numpy.zeros(100_000)

    def resident():
        return int(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmRSS")))

    def run(rounds):
        for _ in range(rounds):
            a.send([array, array])
            kept = b.recv()
            assert kept[0] is kept[1]

    run(30)
    before = resident()
    run(300)
    assert resident() - before < 20_000
