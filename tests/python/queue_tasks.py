"""What children do in the tests of queues and connections; importable by spawned ones."""

import os
import select
import signal
import socket


def produce(queue, producer, count, ready=None):
    if ready is not None:
        ready.send(None)
    for number in range(count):
        queue.put((producer, number))


def produce_for_ever(queue, started, item):
    queue.put(item)
    started.send(os.getpid())
    while True:
        queue.put(item)


def put_and_end(queue, items):
    for item in items:
        queue.put(item)


def echo(queue, answers):
    """Until None comes."""
    while (item := queue.get()) is not None:
        answers.put(item)


def consume_for_ever(queue, started):
    queue.get()
    started.send(os.getpid())
    while True:
        queue.get()


def finish(queue, count):
    for _ in range(count):
        queue.get()
        queue.task_done()


def echo_messages(conn, other):
    other.close()  # with fork the child has it, too
    try:
        while True:
            conn.send(conn.recv())
    except EOFError:
        conn.close()


def echo_bytes(conn, other):
    other.close()
    try:
        while True:
            conn.send_bytes(conn.recv_bytes())
    except EOFError:
        conn.close()


def send_each(conn, objects):
    for obj in objects:
        conn.send(obj)
    conn.close()


def send_for_ever(conn, started, data):
    conn.send_bytes(data)
    started.send(os.getpid())
    while True:
        conn.send_bytes(data)


def sleep_with(*kept):
    while True:
        signal.pause()


def receive_connections(conn):
    """Use each connection that comes, until None does; tell by how many descriptors more are open then."""
    before = len(os.listdir("/proc/self/fd"))
    while (new := conn.recv()) is not None:
        with new:
            if isinstance(new, socket.socket):
                new.sendall(b"through the socket")
            elif new.writable:
                new.send("through the pipe")
            else:
                conn.send(new.recv())
    conn.send(len(os.listdir("/proc/self/fd")) - before)


def write_to_descriptor(conn, text):
    from manyhands import reduction

    fd = reduction.recv_handle(conn)
    os.write(fd, text)
    os.close(fd)


def call_listener(address, authkey):
    from manyhands.connection import Client

    with Client(address, authkey=authkey) as conn:
        conn.send(conn.recv() + 1)


def select_and_count(conn, count):
    """A user's own select loop: one message each time it says that there is one."""
    total = 0
    for _ in range(count):
        assert select.select([conn], [], [], 30)[0], f"no message after {total}"
        total += conn.recv()
    conn.send(total)


def to_result(queue):
    return queue.get()


queue_of_worker = None


def keep_queue(queue):
    global queue_of_worker
    queue_of_worker = queue


def put_from_worker(item):
    queue_of_worker.put(item)
