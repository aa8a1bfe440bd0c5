"""The hang table, rows 4 and 5: a killed process keeps no lock, and blocks no event, condition or barrier."""

import os
import signal
import threading
import time

import pytest

import manyhands

METHODS = ["fork", "spawn", "forkserver"]
BOUND = 10.0  # seconds: a death is noticed within 50 ms; the rest is for a loaded machine


def hold(lock, ready):
    lock.acquire()
    ready.set()
    signal.pause()


def hold_deeply(lock, ready):
    lock.acquire()
    hold(lock, ready)


def kill_holder(ctx, lock, target=hold):
    ready = ctx.Event()
    process = ctx.Process(target=target, args=(lock, ready))
    process.start()
    assert ready.wait(60)
    process.kill()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL


def within(call, *args):
    begin = time.monotonic()
    result = call(*args)
    assert time.monotonic() - begin < BOUND
    return result


@pytest.mark.filterwarnings("ignore::manyhands.OwnerDiedWarning")
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind, target", [
    ("Lock", hold), ("RLock", hold), ("RLock", hold_deeply), ("Semaphore", hold), ("BoundedSemaphore", hold), ("Value", hold), ("Array", hold), ("Condition", hold)])
def test_04_a_killed_holder_frees_its_lock(method, kind, target):
    ctx = manyhands.get_context(method)
    arguments = {"Value": ("i", 0), "Array": ("i", 3)}.get(kind, ())
    lock = getattr(ctx, kind)(*arguments)
    kill_holder(ctx, lock, target)
    assert within(lock.acquire)
    lock.release()
    assert lock.acquire()
    lock.release()


def take_and_tell(lock, out):
    out.put(lock.acquire())
    lock.release()


@pytest.mark.filterwarnings("ignore::manyhands.OwnerDiedWarning")
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", ["Lock", "RLock", "Semaphore", "BoundedSemaphore"])
def test_04_who_waits_already_gets_it(method, kind):
    """A process and a thread wait for the lock while its holder is killed."""
    ctx = manyhands.get_context(method)
    lock, ready, out = getattr(ctx, kind)(), ctx.Event(), ctx.SimpleQueue()
    holder = ctx.Process(target=hold, args=(lock, ready))
    holder.start()
    assert ready.wait(60)
    waiter = ctx.Process(target=take_and_tell, args=(lock, out))
    waiter.start()
    answers = []
    thread = threading.Thread(target=lambda: (answers.append(lock.acquire()), lock.release()), daemon=True)
    thread.start()
    holder.kill()
    within(thread.join, BOUND)
    assert answers == [True]
    assert out.get() is True
    waiter.join(60)
    holder.join(60)
    assert waiter.exitcode == 0


def wait_for(thing, ready):
    ready.release()
    thing.wait()


def wait_in_condition(condition, ready):
    with condition:
        ready.release()
        condition.wait()


def kill_waiters(ctx, target, thing, count=3):
    ready = ctx.Semaphore(0)
    processes = [ctx.Process(target=target, args=(thing, ready)) for _ in range(count)]
    for process in processes:
        process.start()
    for _ in processes:
        assert ready.acquire(timeout=60)
    await_sleep(processes)
    for process in processes:
        process.kill()
    for process in processes:
        process.join(60)


def await_sleep(processes):
    for process in processes:
        end = time.monotonic() + 60
        while open(f"/proc/{process.pid}/stat").read().rpartition(")")[2].split()[0] != "S":
            assert time.monotonic() < end
            os.sched_yield()


@pytest.mark.parametrize("method", METHODS)
def test_05_set_does_not_wait_for_killed_waiters(method):
    ctx = manyhands.get_context(method)
    event = ctx.Event()
    kill_waiters(ctx, wait_for, event)
    within(event.set)
    assert event.is_set() and event.wait(0)
    event.clear()
    ready = ctx.Semaphore(0)
    process = ctx.Process(target=wait_for, args=(event, ready))
    process.start()
    assert ready.acquire(timeout=60)
    within(event.set)
    process.join(60)
    assert process.exitcode == 0


@pytest.mark.parametrize("method", METHODS)
def test_05_notify_does_not_wait_for_killed_waiters(method):
    ctx = manyhands.get_context(method)
    condition, ready = ctx.Condition(), ctx.Semaphore(0)
    kill_waiters(ctx, wait_in_condition, condition)
    process = ctx.Process(target=wait_in_condition, args=(condition, ready))
    process.start()
    assert ready.acquire(timeout=60)
    with condition:
        within(condition.notify)  # the dead have waited longer: it goes to the one who lives
    process.join(60)
    assert process.exitcode == 0
    with condition:
        within(condition.notify_all)


@pytest.mark.parametrize("method", METHODS)
def test_05_a_barrier_breaks_when_a_party_is_killed(method):
    ctx = manyhands.get_context(method)
    barrier = ctx.Barrier(3)
    caught = []

    def wait():
        try:
            barrier.wait()
        except threading.BrokenBarrierError as e:
            caught.append(e)

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    kill_waiters(ctx, wait_for, barrier, 1)
    within(thread.join, BOUND)
    assert len(caught) == 1 and barrier.broken
    barrier.reset()
    assert not barrier.broken


@pytest.mark.parametrize("method", METHODS)
def test_05_a_semaphore_wakes_others_than_killed_waiters(method):
    ctx = manyhands.get_context(method)
    semaphore, ready = ctx.Semaphore(0), ctx.Semaphore(0)
    processes = [ctx.Process(target=acquire_and_tell, args=(semaphore, ready)) for _ in range(3)]
    for process in processes:
        process.start()
    for _ in processes:
        assert ready.acquire(timeout=60)
    await_sleep(processes)
    processes[0].kill()
    processes[0].join(60)
    semaphore.release()
    semaphore.release()
    for process in processes[1:]:
        within(process.join, BOUND)
        assert process.exitcode == 0


def acquire_and_tell(semaphore, ready):
    ready.release()
    semaphore.acquire()
