"""Rows of queues and pipes: two processes, one puts or sends and the other takes, beside the standard library's."""

import multiprocessing
import os
import statistics
import time

import contenders as c
import manyhands
from rows import Row, Target


def _child(module, target):
    process = module.get_context("fork").Process(target=target, daemon=True)
    process.start()
    return process


def _rate(module, kind, make, count):
    """Objects a second: from the first get to the last."""
    queue, (result, tell) = getattr(module, kind)(), module.Pipe(False)
    items = [make(i) for i in range(count)]

    def take():
        get = queue.get
        get()
        begin = time.perf_counter()
        for _ in range(count - 1):
            get()
        tell.send(time.perf_counter() - begin)

    process = _child(module, take)
    put = queue.put
    for item in items:
        put(item)
    elapsed = result.recv()
    process.join()
    return count / elapsed


def _put_and_get(module, kind, make, count):
    """The same in one process: what it costs, without any waiting."""
    queue = getattr(module, kind)()
    items = [make(i) for i in range(count)]
    begin = time.perf_counter()
    for item in items:
        queue.put(item)
        queue.get()
    return count / (time.perf_counter() - begin)


def _one_way(module, ends, count):
    """Median of microseconds from before the sending to after the receiving, to a receiver that sleeps or spins as it does by itself."""
    (put, get), (answer, hear) = ends(module), ends(module)

    def echo():
        for _ in range(count):
            sent = get()
            answer(time.perf_counter_ns() - sent)

    process = _child(module, echo)
    times = []
    for _ in range(count):
        put(time.perf_counter_ns())
        times.append(hear())
    process.join()
    return statistics.median(times) / 1e3


def _queue_ends(kind):
    def ends(module):
        queue = getattr(module, kind)()
        return queue.put, queue.get
    return ends


def _pipe_ends(module):
    reader, writer = module.Pipe(False)
    return writer.send, reader.recv


def _throughput(module, size, count):
    """GB/s of messages of `size` bytes, in one direction."""
    reader, writer = module.Pipe()
    data = os.urandom(size)

    def send():
        for _ in range(count):
            writer.send_bytes(data)

    process = _child(module, send)
    reader.recv_bytes()
    begin = time.perf_counter()
    for _ in range(count - 1):
        reader.recv_bytes()
    elapsed = time.perf_counter() - begin
    process.join()
    return size * (count - 1) / elapsed / 1e9


def _socket(size, count):
    """The same through a socketpair into one buffer: what the machine allows where the kernel copies."""
    import socket

    mine, theirs = socket.socketpair()
    for s in (mine, theirs):
        s.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
    data, into = os.urandom(size), bytearray(size)
    process = _child(multiprocessing, lambda: [theirs.sendall(data) for _ in range(count)])
    mine.recv_into(into, size, socket.MSG_WAITALL)
    begin = time.perf_counter()
    for _ in range(count - 1):
        mine.recv_into(into, size, socket.MSG_WAITALL)
    elapsed = time.perf_counter() - begin
    process.join()
    return size * (count - 1) / elapsed / 1e9


OBJECTS = {"ints": lambda i: i, "tuples (int, str, float)": lambda i: (i, "abc", 0.5), "dicts": lambda i: {"number": i}}


def _beside(figure, count, few):
    return {c.OURS: lambda: figure(manyhands, count), c.STANDARD: lambda: figure(multiprocessing, few)}


def queue_rows(warm, count=200_000):
    rows = []
    for kind in ("Queue", "SimpleQueue"):
        for name, make in OBJECTS.items():
            target = Target(1.5e6, False) if name == "ints" else None
            rows.append(Row(f"{kind}, {name}, from one process to another", "objects/s", False,
                            _beside(lambda module, n, kind=kind, make=make: _rate(module, kind, make, n), count, count // 8), target))
    rows.append(Row("SimpleQueue, put and get of ints in one process", "objects/s", False,
                    _beside(lambda module, n: _put_and_get(module, "SimpleQueue", OBJECTS["ints"], n), count, count // 4)))
    rows.append(Row("Queue, one way p50", "µs", True, _beside(lambda module, n: _one_way(module, _queue_ends("Queue"), n), 3000, 2000), Target(15, True)))
    return rows


def pipe_rows(warm):
    return [
        Row("Pipe, one way p50", "µs", True, _beside(lambda module, n: _one_way(module, _pipe_ends, n), 3000, 2000), Target(12, True)),
        Row("Pipe, messages of 8 MB", "GB/s", False,
            {**_beside(lambda module, n: _throughput(module, 8 << 20, n), 60, 30), "a socketpair": lambda: _socket(8 << 20, 60)}, Target(3, False)),
    ]
