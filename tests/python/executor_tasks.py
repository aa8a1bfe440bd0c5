"""What the executor's tests run in workers, which import it from here."""

from __future__ import annotations

import itertools
import os
import signal
import time

from manyhands.futures import ProcessPoolExecutor


def capture(*args, **kwargs):
    return args, kwargs


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def die_unless(path):
    """Kill the worker, but not a second time."""
    if os.path.exists(path):
        return "lived"
    open(path, "x").close()
    die()


def wait_for(path):
    while not os.path.exists(path):
        time.sleep(0.001)
    return path


def begin_and_wait(begun, path):
    open(begun, "x").close()
    return wait_for(path)


class Unreadable:
    """Pickles, and raises what it is told when it is unpickled."""

    def __init__(self, error):
        self.error = error

    def __reduce__(self):
        return raise_it, (self.error,)


def raise_it(error):
    raise error


def write_pid(path):
    with open(path, "w") as file:
        file.write(str(os.getpid()))


def divide(x, y):
    return x / y


def kill_if(number, yes):
    return die() if yes else number


class Holder:
    def __init__(self, value):
        self.value = value


STATUS = "uninitialized"


def initialize(status):
    global STATUS
    STATUS = status


def status():
    return STATUS


def tell(queue):
    queue.put(os.getpid())


def fail():
    raise ValueError("not today")


def nested(count):
    with ProcessPoolExecutor(1) as inner:
        return list(inner.map(pow, range(count), itertools.repeat(2)))
