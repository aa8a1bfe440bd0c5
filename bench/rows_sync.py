"""Rows for locks, events, semaphores and values, beside the standard library's."""

import multiprocessing
import os
import time

import contenders as c
import manyhands
from rows import Row, Target

LIBRARIES = {c.OURS: manyhands, c.STANDARD: multiprocessing}


def fork(library):
    return library.get_context("fork")


def nanoseconds(count, work):
    return 1e9 * c.seconds(work) / count


def lock_and_unlock(lock, count):
    for _ in range(count):
        lock.acquire()
        lock.release()


def alone(library, count=200_000):
    lock = fork(library).Lock()
    return nanoseconds(count, lambda: lock_and_unlock(lock, count))


def bare_calls(count=200_000):
    """Two calls of C methods that do nothing: what acquiring and releasing cannot go below."""
    nothing = []

    def call():
        for _ in range(count):
            nothing.clear()
            nothing.clear()

    return nanoseconds(count, call)


def contended(library, count=100_000):
    """Wall time for each acquire and release of two processes that do nothing else."""
    context = fork(library)
    lock, ready, go = context.Lock(), context.Semaphore(0), context.Semaphore(0)

    def other():
        ready.release()
        go.acquire()
        lock_and_unlock(lock, count)

    process = context.Process(target=other)
    process.start()
    ready.acquire()
    go.release()

    def both():
        lock_and_unlock(lock, count)
        process.join()

    return nanoseconds(2 * count, both)


def wake(library, make, send, wait, count=500):
    """Median time from before `send` in one process to after `wait` in another that sleeps in it, in microseconds."""
    context = fork(library)
    there, back = make(context), make(context)
    sent = context.RawArray("d", count)
    seen = context.RawArray("d", count)

    def other():
        for i in range(count):
            wait(there)
            seen[i] = time.perf_counter()
            send(back)

    process = context.Process(target=other)
    process.start()
    for i in range(count):
        until = time.perf_counter() + 100e-6  # it sleeps by then
        while time.perf_counter() < until:
            pass
        sent[i] = time.perf_counter()
        send(there)
        wait(back)
    process.join()
    return 1e6 * sorted(b - a for a, b in zip(sent, seen))[count // 2]


class _Bytes:
    """A pipe of the kernel's, a byte for each signal: sleeping and waking without anything around them."""

    def __init__(self):
        self._reader, self._writer = os.pipe()

    def send(self):
        os.write(self._writer, b"x")

    def wait(self):
        os.read(self._reader, 1)

    def __del__(self):
        os.close(self._reader)
        os.close(self._writer)


def bare_wake():
    return wake(multiprocessing, lambda context: _Bytes(), _Bytes.send, _Bytes.wait)


def wait_and_clear(event):
    event.wait()
    event.clear()


def event_wake(library):
    return wake(library, lambda context: context.Event(), lambda event: event.set(), wait_and_clear)


def semaphore_wake(library):
    return wake(library, lambda context: context.Semaphore(0), lambda s: s.release(), lambda s: s.acquire())


def counting(library, count=200_000):
    value = fork(library).Value("i", 0)

    def count_up():
        for _ in range(count):
            with value.get_lock():
                value.value += 1

    return c.per_second(count, count_up)


FLOORS = {alone: ("two bare calls", bare_calls), event_wake: ("os.write to os.read", bare_wake), semaphore_wake: ("os.write to os.read", bare_wake)}


def sync(warm):
    """Beside the rows that wait, or cost no more than calls do, what they cannot go below here."""
    table = (
        ("Lock acquire and release", "ns", True, alone, Target(60, True)),
        ("Lock, two processes", "ns", True, contended, Target(200, True)),
        ("Event set to wake p50", "µs", True, event_wake, Target(12, True)),
        ("Semaphore release to wake p50", "µs", True, semaphore_wake, Target(12, True)),
        ("Value += 1 under its lock", "ops/s", False, counting, Target(2e6, False)),
    )
    return [Row(name, unit, lower, {**{who: lambda library=library, run=run: run(library) for who, library in LIBRARIES.items()},
                                    **dict([FLOORS[run]] if run in FLOORS else [])}, target)
            for name, unit, lower, run, target in table]
