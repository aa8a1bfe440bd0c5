"""What processes do in the tests of managers; importable by spawned ones."""

import os
import signal


def put_into(shared, key, value):
    shared[key] = value


def acquire_and(end, lock, tell, times=1):
    """Hold a lock, say so, and end: "exit", "die", or be killed by the test."""
    for _ in range(times):
        lock.acquire()
    tell.set()
    if end == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if end == "wait":
        signal.pause()


def wait_on(condition, tell, result):
    with condition:
        tell.set()
        result.value = condition.wait(60)


def get_from(queue, tell):
    tell.set()
    queue.get()


def keep_proxy(shared, tell):
    keep_proxy.kept = shared
    tell.set()
    signal.pause()


def acquire_waiting(lock, tell):
    tell.set()
    lock.acquire()
    signal.pause()


def read_all(shared):
    return dict(shared)


def add_many(shared, lock, count):
    for _ in range(count):
        with lock:
            shared["n"] += 1
