"""Locks, semaphores, conditions, events and barriers: what they promise, among threads and processes, under every start method."""

import gc
import os
import pickle
import re
import signal
import sys
import threading
import time
import warnings

import pytest
from helpers import descriptors, eventually, run_program

import manyhands
from manyhands import OwnerDiedWarning, _core, synchronize

SOON = 20.0  # seconds, for what must happen
METHODS = ["fork", "spawn", "forkserver"]
LOCKS = ["Lock", "RLock", "Semaphore", "BoundedSemaphore"]

fork = manyhands.get_context("fork")


def start(ctx, target, *args):
    process = ctx.Process(target=target, args=args, daemon=True)
    process.start()
    return process


def join(process, code=0):
    process.join(SOON)
    assert process.exitcode == code
    process.close()


def in_thread(function, *args):
    thread = threading.Thread(target=function, args=args, daemon=True)
    thread.start()
    return thread


# ---- locks and semaphores alone --------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", LOCKS)
@pytest.mark.parametrize("arguments, expected, why", [
    (((), {}), True, "free"),
    (((True,), {}), True, "free"),
    (((False,), {}), True, "free"),
    (((True, 0.1), {}), True, "free"),
    (((), {"timeout": 0}), True, "free, even with no time"),
    (((), {"block": False, "timeout": None}), True, "free"),
    (((True, -1), {}), True, "free, and a negative timeout is none at all"),
])
def test_acquire_takes_what_is_free(kind, arguments, expected, why):
    lock = getattr(fork, kind)()
    assert lock.acquire(*arguments[0], **arguments[1]) is expected, why
    assert lock.release() is None


@pytest.mark.parametrize("kind", LOCKS)
@pytest.mark.parametrize("arguments, least", [
    (((False,), {}), 0), (((False, 100), {}), 0), (((True, 0), {}), 0), (((True, -5), {}), 0), (((), {"timeout": 0.15}), 0.15), (((True, 0.15), {}), 0.15),
])
def test_acquire_gives_up(kind, arguments, least):
    lock = getattr(fork, kind)()
    answers = []

    def try_it():
        begin = time.monotonic()
        answers.append(lock.acquire(*arguments[0], **arguments[1]))
        answers.append(time.monotonic() - begin)

    with lock:
        thread = in_thread(try_it)
        thread.join(SOON)
    assert answers[0] is False and least <= answers[1] < 10


@pytest.mark.parametrize("call, error, text", [
    (lambda: fork.Lock().release(), ValueError, "released too many times"),
    (lambda: fork.BoundedSemaphore(2).release(), ValueError, "released too many times: it has its 2"),
    (lambda: fork.BoundedSemaphore(0).release(), ValueError, "too many times"),
    (lambda: fork.RLock().release(), AssertionError, "not owned by thread"),
    (lambda: fork.Semaphore(-1), ValueError, "-1"),
    (lambda: fork.Semaphore(2**31), ValueError, "2147483648"),
    (lambda: fork.Semaphore("1"), TypeError, "."),
    (lambda: fork.Lock().acquire(1, 2, 3), TypeError, "at most 2"),
    (lambda: fork.Lock().acquire(blocking=True), TypeError, "blocking"),
    (lambda: fork.Lock().acquire(True, block=True), TypeError, "twice"),
    (lambda: fork.Lock().acquire(True, "soon"), TypeError, "."),
    (lambda: fork.Lock().acquire(True, float("nan")), ValueError, "not a number"),
    (lambda: fork.Condition(threading.Lock()), TypeError, "Lock or RLock of manyhands"),
    (lambda: fork.Condition().wait(), AssertionError, "must acquire"),
    (lambda: fork.Condition().notify(), AssertionError, "not owned"),
    (lambda: fork.Condition().notify_all(), AssertionError, "not owned"),
    (lambda: fork.Event().wait(1, 2), TypeError, "timeout"),
    (lambda: fork.Event().wait(time=1), TypeError, "timeout"),
    (lambda: fork.Barrier(0), ValueError, "parties must be >= 1"),
    (lambda: fork.Barrier(5000), ValueError, "at most 4096"),
    (lambda: fork.Barrier(2, timeout="x"), TypeError, "."),
    (lambda: _core.SemLock(7, 1, 1), ValueError, "kind 7"),
    (lambda: fork.Lock().__init__(ctx=None), RuntimeError, "initialised already"),
    (lambda: _core.SemLock.__new__(_core.SemLock).acquire(), ValueError, "not initialised"),
    (lambda: _core.Event.__new__(_core.Event).set(), ValueError, "not initialised"),
    (lambda: _core.Condition.__new__(_core.Condition).wait(), ValueError, "not initialised"),
    (lambda: _core.Barrier.__new__(_core.Barrier).wait(), ValueError, "not initialised"),
    (lambda: _core.Arena.from_fd(0), ValueError, ".") if not os.path.isfile("/proc/self/fd/0") else (lambda: _core.Arena.from_fd(-5), Exception, "."),
])
def test_bad_input_is_named(call, error, text):
    with pytest.raises(error, match=text):
        call()


@pytest.mark.parametrize("kind, held, elsewhere, free", [
    ("Lock", "<Lock(owner=MainProcess)>", "<Lock(owner=SomeOtherThread)>", "<Lock(owner=None)>"),
    ("RLock", "<RLock(MainProcess, 1)>", "<RLock(SomeOtherThread, nonzero)>", "<RLock(None, 0)>"),
    ("Semaphore", "<Semaphore(value=0)>", "<Semaphore(value=0)>", "<Semaphore(value=1)>"),
    ("BoundedSemaphore", "<BoundedSemaphore(value=0, maxvalue=1)>", "<BoundedSemaphore(value=0, maxvalue=1)>", "<BoundedSemaphore(value=1, maxvalue=1)>"),
])
def test_repr(kind, held, elsewhere, free):
    lock = getattr(fork, kind)()
    assert repr(lock) == free
    texts = []
    with lock:
        assert repr(lock) == held
        in_thread(lambda: texts.append(repr(lock))).join(SOON)
    assert texts == [elsewhere]
    assert repr(fork.Condition(fork.Lock())) == "<Condition(<Lock(owner=None)>, 0)>"
    assert re.fullmatch(r"<Event at 0x[0-9a-f]+ unset>", repr(fork.Event()))


def repr_of(lock, out):
    out.send(repr(lock))


def test_repr_of_what_another_process_holds():
    for kind, text in (("Lock", "<Lock(owner=SomeOtherProcess)>"), ("RLock", "<RLock(SomeOtherProcess, nonzero)>")):
        lock = getattr(fork, kind)()
        a, b = fork.Pipe()
        with lock:
            join(start(fork, repr_of, lock, b))
        assert a.recv() == text


def test_a_lock_is_released_by_anybody():
    lock = fork.Lock()
    lock.acquire()
    in_thread(lock.release).join(SOON)
    assert lock.acquire(False)
    join(start(fork, lock.release))
    assert lock.acquire(False)


def test_a_recursive_lock_is_its_threads():
    lock = fork.RLock()
    for depth in (1, 2, 3):
        assert lock.acquire() and lock._count() == depth
    caught = []

    def release():
        try:
            lock.release()
        except AssertionError as e:
            caught.append(e)

    in_thread(release).join(SOON)
    assert len(caught) == 1
    for _ in range(3):
        lock.release()
    with pytest.raises(AssertionError):
        lock.release()


def test_a_semaphore_counts():
    semaphore = fork.Semaphore(2)
    assert semaphore.acquire() and semaphore.acquire() and not semaphore.acquire(False)
    for value in (1, 2, 3):
        semaphore.release()
        assert semaphore.get_value() == value


def test_private_names_that_programs_use():
    lock = fork.Lock()
    assert lock._semlock is lock and lock._semlock._get_value() == 1 and not lock._semlock._is_zero() and lock._semlock.maxvalue == 1
    with lock:
        assert lock._semlock._is_mine() and lock._semlock._count() == 1 and lock._semlock._is_zero()
    assert lock.name is None and lock.kind == synchronize.SEMAPHORE and fork.RLock().kind == synchronize.RECURSIVE_MUTEX


class Mine(synchronize.Lock):
    def acquire(self, *args, **kwargs):
        self.taken = True
        return super().acquire(*args, **kwargs)


class MineToo(Mine):
    pass


def test_subclasses_may_override():
    for kind in (Mine, MineToo):
        lock = kind(ctx=fork)
        assert lock.acquire() and lock.taken and not lock.acquire(False)


# ---- travelling --------------------------------------------------------------------------------------------------


def use_all(lock, rlock, semaphore, bounded, condition, event, barrier):
    with lock, rlock, semaphore, bounded:
        pass
    with condition:
        condition.notify_all()
    assert event.wait(SOON)
    barrier.wait(SOON)


@pytest.mark.parametrize("method", METHODS)
def test_all_travel_to_children(method):
    ctx = manyhands.get_context(method)
    made = (ctx.Lock(), ctx.RLock(), ctx.Semaphore(1), ctx.BoundedSemaphore(1), ctx.Condition(), ctx.Event(), ctx.Barrier(2))
    condition, event, barrier = made[4:]
    with condition:
        process = start(ctx, use_all, *made)
        assert condition.wait(SOON)
    event.set()
    assert barrier.wait(SOON) in (0, 1)
    join(process)


def count_up(lock, value, times):
    for _ in range(times):
        with lock:
            value.value += 1


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", ["Lock", "RLock", "Semaphore", "BoundedSemaphore"])
def test_only_one_is_inside(method, kind):
    ctx = manyhands.get_context(method)
    lock, value = getattr(ctx, kind)(), ctx.RawValue("i", 0)
    processes = [start(ctx, count_up, lock, value, 3000) for _ in range(2)]
    threads = [in_thread(count_up, lock, value, 3000) for _ in range(2)]
    for thread in threads:
        thread.join(SOON)
    for process in processes:
        join(process)
    assert value.value == 12000


def pass_on(ctx_name, lock, value):
    join(start(manyhands.get_context(ctx_name), count_up, lock, value, 5))


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_children_pass_them_on(method):
    ctx = manyhands.get_context(method)
    lock, value = ctx.Lock(), ctx.RawValue("i", 0)
    process = ctx.Process(target=pass_on, args=(method, lock, value))
    process.start()
    join(process)
    assert value.value == 5


@pytest.mark.parametrize("kind", [*LOCKS, "Condition", "Event"])
def test_pickled_only_while_spawning(kind):
    with pytest.raises(RuntimeError, match="only be shared between processes through inheritance"):
        pickle.dumps(getattr(fork, kind)())
    with pytest.raises(RuntimeError, match="through inheritance"):
        pickle.dumps(fork.Barrier(2))


@pytest.mark.parametrize("kind", [*LOCKS, "Condition", "Event"])
def test_what_a_fork_context_made_is_refused_by_spawn(kind):
    thing = getattr(fork, kind)()
    with pytest.raises(RuntimeError, match="A SemLock created in a fork context"):
        manyhands.get_context("spawn").Process(target=id, args=(thing,)).start()


worker_things = ()


def set_things(*things):
    global worker_things
    worker_things = things


def use_things(n):
    lock, value, array = worker_things
    with lock:
        value.value += n
        array[n % 10] += 1
    return value.value


@pytest.mark.parametrize("method", METHODS)
def test_initargs_of_a_pool(method):
    ctx = manyhands.get_context(method)
    lock, value, array = ctx.Lock(), ctx.Value("i", 0), ctx.Array("i", 10)
    with ctx.Pool(2, set_things, (lock, value, array)) as pool:
        pool.map(use_things, range(100), 1)
        pool.apply_async(os._exit, (3,)).wait(SOON)  # whoever takes the worker's place has them, too
        pool.map(use_things, range(100), 1)
    assert value.value == 2 * sum(range(100)) and list(array) == [20] * 10


# ---- dead holders -----------------------------------------------------------------------------------------------------


def die_with(lock):
    lock.acquire()
    os.kill(os.getpid(), signal.SIGKILL)


def end_with(lock):
    lock.acquire()


@pytest.mark.parametrize("kind", ["Lock", "RLock"])
def test_the_next_holder_is_told(kind):
    lock = getattr(fork, kind)()
    join(start(fork, die_with, lock), -signal.SIGKILL)
    assert not lock.owner_died
    with pytest.warns(OwnerDiedWarning, match=f"last holder of this {kind} died"):
        assert lock.acquire()
    assert lock.owner_died
    lock.release()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert lock.acquire()
    assert not lock.owner_died


@pytest.mark.parametrize("kind", ["Lock", "RLock"])
def test_as_an_error_the_warning_leaves_it_free(kind):
    lock = getattr(fork, kind)()
    join(start(fork, die_with, lock), -signal.SIGKILL)
    for _ in range(2):  # the next is told, too
        with warnings.catch_warnings():
            warnings.simplefilter("error", OwnerDiedWarning)
            with pytest.raises(OwnerDiedWarning):
                lock.acquire()
        assert lock._get_value() == 1
    with pytest.warns(OwnerDiedWarning):
        assert lock.acquire(False)


@pytest.mark.parametrize("kind", LOCKS)
@pytest.mark.filterwarnings("ignore::manyhands.OwnerDiedWarning")
def test_a_try_finds_the_dead(kind):
    lock = getattr(fork, kind)()
    assert lock.acquire(False)
    lock.release()
    join(start(fork, die_with, lock), -signal.SIGKILL)
    eventually(lambda: lock.acquire(False))


def test_a_thread_that_ends_with_a_recursive_lock():
    lock = fork.RLock()
    in_thread(lock.acquire).join(SOON)
    with pytest.warns(OwnerDiedWarning):
        assert lock.acquire(timeout=SOON)


def test_a_lock_outlives_the_thread_that_took_it():
    lock = fork.Lock()
    in_thread(lock.acquire).join(SOON)
    assert not lock.acquire(timeout=0.2)
    lock.release()


@pytest.mark.parametrize("method", METHODS)
def test_what_an_ended_process_took_of_a_semaphore_others_release(method):
    """A producer takes places of a bounded buffer and ends; the consumer gives them back."""
    ctx = manyhands.get_context(method)
    semaphore = ctx.BoundedSemaphore(2)
    for _ in range(2):
        join(start(ctx, end_with, semaphore))
    assert semaphore.get_value() == 0 and not semaphore.acquire(timeout=0.2)
    semaphore.release()
    semaphore.release()
    with pytest.raises(ValueError):
        semaphore.release()


def test_a_release_in_place_of_a_killed_holder_counts_once():
    semaphore = fork.BoundedSemaphore(2)
    join(start(fork, die_with, semaphore), -signal.SIGKILL)
    assert semaphore.acquire(timeout=SOON) and semaphore.acquire(timeout=SOON)
    join(start(fork, semaphore.release))  # somebody else, for the dead
    assert semaphore.get_value() == 0
    semaphore.release()
    semaphore.release()
    with pytest.raises(ValueError):
        semaphore.release()


def hold_and_wait(semaphore, ready, go):
    semaphore.acquire()
    ready.release()
    go.wait()


def test_more_holders_than_are_remembered():
    """The core remembers 1,024; the books of those beyond are those of the standard library."""
    semaphore = fork.Semaphore(3)
    with semaphore:
        assert semaphore.get_value() == 2
    assert _core.SemLock(1, 2**31 - 1, 2**31 - 1).acquire()


# ---- conditions --------------------------------------------------------------------------------------------------------


def wait_and_tell(condition, ready, woken, timeout=None):
    with condition:
        ready.release()
        if condition.wait(timeout):
            woken.release()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("lock", ["Lock", "RLock"])
def test_notify_wakes_as_many_as_it_says(method, lock):
    ctx = manyhands.get_context(method)
    condition, ready, woken = ctx.Condition(getattr(ctx, lock)()), ctx.Semaphore(0), ctx.Semaphore(0)
    processes = [start(ctx, wait_and_tell, condition, ready, woken) for _ in range(2)]
    threads = [in_thread(wait_and_tell, condition, ready, woken) for _ in range(2)]
    for _ in range(4):
        assert ready.acquire(timeout=SOON)
    for count, expected in ((1, 1), (0, 0), (2, 2)):
        with condition:
            condition.notify(count)
        for _ in range(expected):
            assert woken.acquire(timeout=SOON)
        assert not woken.acquire(timeout=0.1)
    with condition:
        assert condition._waiting() == 1
        condition.notify_all()
    assert woken.acquire(timeout=SOON)
    for thread in threads:
        thread.join(SOON)
    for process in processes:
        join(process)


def test_wait_releases_and_takes_back_every_level():
    condition = fork.Condition()
    states = []

    def look():
        with condition:
            states.append(condition._lock._count())
            condition.notify()

    with condition, condition, condition:
        thread = in_thread(look)
        assert condition.wait(SOON)
        assert condition._lock._count() == 3
    thread.join(SOON)
    assert states == [1] and condition._lock._count() == 0


def test_wait_for():
    condition = fork.Condition()
    state = [0]

    def advance():
        for _ in range(3):
            with condition:
                state[0] += 1
                condition.notify()

    with condition:
        thread = in_thread(advance)
        assert condition.wait_for(lambda: state[0] == 3, SOON) is True
        assert condition.wait_for(lambda: state[0] == 4, 0.05) is False
        assert condition.wait_for(lambda: "yes") == "yes"
        assert not condition.wait_for(lambda: [], 0)
    thread.join(SOON)


def test_the_notification_of_a_killed_waiter_goes_to_another():
    condition, ready, woken = fork.Condition(), fork.Semaphore(0), fork.Semaphore(0)
    victim = start(fork, wait_and_tell, condition, ready, woken)
    assert ready.acquire(timeout=SOON)
    with condition:  # it waits: it could not tell that it is ready with the lock held otherwise
        pass
    other = start(fork, wait_and_tell, condition, ready, woken)
    assert ready.acquire(timeout=SOON)
    with condition:
        os.kill(victim.pid, signal.SIGSTOP)
        condition.notify()  # the victim has waited longest
    victim.kill()
    join(victim, -signal.SIGKILL)
    assert woken.acquire(timeout=SOON)
    join(other)


@pytest.mark.long
def test_a_condition_has_room_for_a_thousand_threads():
    condition, ready = fork.Condition(fork.Lock()), threading.Semaphore(0)

    def wait():
        with condition:
            ready.release()
            condition.wait()

    threading.stack_size(64 << 10)
    try:
        threads = [in_thread(wait) for _ in range(1000)]
    finally:
        threading.stack_size(0)
    for _ in threads:
        assert ready.acquire(timeout=60)
    with condition:
        assert condition._waiting() == 1000
        condition.notify_all()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()


# ---- events ---------------------------------------------------------------------------------------------------------------


def set_it(event):
    event.set()


@pytest.mark.parametrize("method", METHODS)
def test_event(method):
    ctx = manyhands.get_context(method)
    event = ctx.Event()
    assert not event.is_set() and event.wait(0) is False and event.wait(0.05) is False
    process = start(ctx, set_it, event)
    assert event.wait(SOON) is True and event.wait() is True and event.is_set()
    event.clear()
    assert not event.is_set()
    join(process)


def test_a_set_that_is_cleared_at_once_still_wakes():
    event, woken = fork.Event(), []
    thread = in_thread(lambda: woken.append(event.wait(SOON)))
    while thread.is_alive():
        event.set()
        event.clear()
    assert woken == [True]


# ---- barriers --------------------------------------------------------------------------------------------------------------


def meet(barrier, rounds, out):
    for _ in range(rounds):
        out.put(barrier.wait(SOON))


@pytest.mark.parametrize("method", METHODS)
def test_barrier_rounds(method):
    ctx = manyhands.get_context(method)
    barrier, out = ctx.Barrier(3), ctx.SimpleQueue()
    processes = [start(ctx, meet, barrier, 20, out) for _ in range(2)]
    for _ in range(20):
        mine = barrier.wait(SOON)
        assert sorted([mine, out.get(), out.get()]) == [0, 1, 2]
    for process in processes:
        join(process)
    assert isinstance(barrier, threading.Barrier) and barrier.parties == 3 and barrier.n_waiting == 0 and not barrier.broken


def test_barrier_action():
    done = []
    barrier = fork.Barrier(2, lambda: done.append(barrier.n_waiting))
    thread = in_thread(barrier.wait)
    barrier.wait(SOON)
    thread.join(SOON)
    assert len(done) == 1


def test_a_failing_action_breaks_it():
    def fail():
        raise KeyError("no")

    barrier = fork.Barrier(2, fail)
    outcomes = []

    def wait():
        try:
            barrier.wait(SOON)
        except (KeyError, threading.BrokenBarrierError) as e:
            outcomes.append(type(e))

    thread = in_thread(wait)
    wait()
    thread.join(SOON)
    assert set(outcomes) == {KeyError, threading.BrokenBarrierError} and barrier.broken
    with pytest.raises(threading.BrokenBarrierError):
        barrier.wait()
    barrier.reset()
    assert not barrier.broken


def die_waiting(barrier):
    in_thread(lambda: (eventually(lambda: barrier.n_waiting == 2, SOON), os.kill(os.getpid(), signal.SIGKILL)))
    barrier.wait()


@pytest.mark.parametrize("break_it, why", [
    (lambda barrier: barrier.abort(), "abort"),
    (lambda barrier: barrier.reset(), "reset"),
    (lambda barrier: pytest.raises(threading.BrokenBarrierError, barrier.wait, 0.05), "a party gives up"),
    (lambda barrier: join(start(fork, die_waiting, barrier), -signal.SIGKILL), "a party is killed"),
])
def test_who_waits_gets_a_broken_barrier(break_it, why):
    barrier, caught = fork.Barrier(3), []

    def wait():
        try:
            barrier.wait()
        except threading.BrokenBarrierError:
            caught.append(why)

    thread = in_thread(wait)
    eventually(lambda: barrier.n_waiting == 1)
    break_it(barrier)
    thread.join(SOON)
    assert caught == [why]


def test_default_timeout_of_a_barrier():
    with pytest.raises(threading.BrokenBarrierError, match="in time"):
        fork.Barrier(2, timeout=0.05).wait()


# ---- Ctrl-C ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wait", [
    "Lock_taken.acquire()", "RLock_taken.acquire()", "ctx.Semaphore(0).acquire()", "ctx.BoundedSemaphore(0).acquire(timeout=60)",
    "ctx.Event().wait()", "ctx.Barrier(2).wait()", "wait_in(ctx.Condition())", "wait_in(ctx.Condition(ctx.Lock()))",
])
def test_ctrl_c_ends_every_wait(wait):
    done = run_program("""
        import os, signal, sys, threading, manyhands
        ctx = manyhands.get_context("fork")
        def taken(lock):
            thread = threading.Thread(target=lambda: (lock.acquire(), held.set(), threading.Event().wait()), daemon=True)
            held = threading.Event()
            thread.start()
            held.wait()
            return lock
        Lock_taken, RLock_taken = taken(ctx.Lock()), taken(ctx.RLock())
        def wait_in(condition):
            with condition:
                try:
                    condition.wait()
                finally:
                    assert condition._lock._is_mine()
        def interrupt():
            while True:  # until the main thread sleeps in its wait
                state = open(f"/proc/self/task/{os.getpid()}/stat").read().rpartition(")")[2].split()[0]
                if state == "S":
                    break
            os.kill(os.getpid(), signal.SIGINT)
        threading.Thread(target=interrupt, daemon=True).start()
        try:
            WAIT
        except KeyboardInterrupt:
            print("interrupted")
    """.replace("WAIT", wait), timeout=60)
    assert done.stdout == "interrupted\n", done


def notify_and_interrupt(condition, pid):
    with condition:
        condition.notify()
        os.kill(pid, signal.SIGINT)
        with open(f"/proc/{pid}/status") as file:  # until its handler runs
            eventually(lambda: file.seek(0) or "ShdPnd:\t0000000000000000" in file.read(), SOON)


def wait_but_be_interrupted(condition, ready, out):
    try:
        with condition:
            ready.release()
            condition.wait()
    except KeyboardInterrupt:
        out.put("interrupted")
    except BaseException as e:
        out.put(repr(e))


@pytest.mark.parametrize("lock", ["Lock", "RLock"])
def test_an_interrupted_waiter_holds_the_lock_and_passes_its_notification_on(lock):
    """Notified, and interrupted while it waits for the lock."""
    condition, ready, woken, out = fork.Condition(getattr(fork, lock)()), fork.Semaphore(0), fork.Semaphore(0), fork.SimpleQueue()
    first = start(fork, wait_but_be_interrupted, condition, ready, out)
    assert ready.acquire(timeout=SOON)
    second = start(fork, wait_and_tell, condition, ready, woken)
    assert ready.acquire(timeout=SOON)
    join(start(fork, notify_and_interrupt, condition, first.pid))
    assert out.get() == "interrupted" and woken.acquire(timeout=SOON)
    join(first)
    join(second)


# ---- memory -----------------------------------------------------------------------------------------------------------------------


def test_thousands_need_few_descriptors():
    done = run_program("""
        import os, resource, manyhands
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))
        ctx = manyhands.get_context("fork")
        before = len(os.listdir("/proc/self/fd"))
        kept = [ctx.Lock() for _ in range(5000)] + [ctx.Event() for _ in range(5000)] + [ctx.Value("i", 3) for _ in range(2000)]
        kept += [ctx.Semaphore(1) for _ in range(300)] + [ctx.Condition() for _ in range(200)]
        print(len(os.listdir("/proc/self/fd")) - before)
    """, timeout=60)
    assert 0 < int(done.stdout) < 30, done


def same_memory(made):
    """Where it lies in this process."""
    return made._place()


def test_memory_that_nobody_can_know_is_used_again():
    first = fork.Lock()
    offset = first._place()  # known now: never used again
    del first
    places = set()
    for _ in range(50):
        places.add(_core.SemLock(2, 1, 1)._place()[0][1])
    assert len(places) == 50 and offset[0][1] not in places
    before = descriptors()
    for _ in range(100_000):  # not known: used again and again
        fork.Lock()
    assert descriptors() == before


def watch(lock, event, out):
    event.wait()
    out.put(repr(lock))


def test_memory_that_a_child_knows_is_not_used_again():
    lock, event, out = fork.Lock(), fork.Event(), fork.SimpleQueue()
    process = start(fork, watch, lock, event, out)
    del lock
    gc.collect()
    kept = [fork.Lock() for _ in range(3000)]
    for other in kept:
        other.acquire()
    event.set()
    assert out.get() == "<Lock(owner=None)>"
    join(process)


def test_children_make_their_own():
    """What a child makes lies elsewhere than what its parent makes at the same time."""
    def child(out):
        made = [fork.Lock() for _ in range(100)]
        for lock in made:
            lock.acquire()
        out.put("held")
        out.put(all(lock._get_value() == 0 for lock in made))

    fork.Lock()
    out = fork.SimpleQueue()
    process = start(fork, child, out)
    mine = [fork.Lock() for _ in range(100)]
    assert out.get() == "held" and all(lock._get_value() == 1 for lock in mine) and out.get()
    join(process)


MADE = {
    "Lock": lambda ctx: ctx.Lock(), "RLock": lambda ctx: ctx.RLock(), "Semaphore": lambda ctx: ctx.Semaphore(2),
    "BoundedSemaphore": lambda ctx: ctx.BoundedSemaphore(2), "Condition": lambda ctx: ctx.Condition(), "Event": lambda ctx: ctx.Event(),
    "Barrier": lambda ctx: ctx.Barrier(2), "Barrier with itself": lambda ctx: cyclic_barrier(ctx),
    "Value": lambda ctx: ctx.Value("i", 1), "Array": lambda ctx: ctx.Array("d", 10), "RawValue": lambda ctx: ctx.RawValue("i"),
    "RawArray": lambda ctx: ctx.RawArray("c", 100), "BufferWrapper": lambda ctx: manyhands.heap.BufferWrapper(1000),
    "big Array": lambda ctx: ctx.Array("c", 2 << 20),
}


def cyclic_barrier(ctx):
    barrier = ctx.Barrier(1, lambda: barrier.parties)
    barrier.wait()
    return barrier


def use(made):
    for name in ("acquire", "__enter__"):
        if hasattr(made, name):
            getattr(made, name)()
            made.release()
    if hasattr(made, "set"):
        made.set()
        made.wait(1)
    repr(made)


def resident_kb():
    return int(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmRSS")))


@pytest.mark.parametrize("name", MADE)
def test_lives_leave_nothing(name):
    def live(times):
        for _ in range(times):
            use(MADE[name](fork))
        gc.collect()
        return sys.getallocatedblocks(), descriptors(), resident_kb()

    many = 30 if name == "big Array" else 300  # of which one that stays shows
    live(many)
    grown = []
    for _ in range(3):
        before = live(20)
        after = live(20 + many)
        grown.append(tuple(b - a for a, b in zip(before, after)))
    assert min(g[0] for g in grown) < 150 and min(g[1] for g in grown) <= 0 and min(g[2] for g in grown) < 2000, grown


@pytest.mark.long
@pytest.mark.parametrize("name", MADE)
def test_lives_that_children_know_leave_nothing(name):
    """Retired memory goes with its arena."""
    def live(times):
        for _ in range(times):
            made = [MADE[name](fork) for _ in range(20)]
            pid = os.fork()
            if not pid:
                os._exit(0)
            os.waitpid(pid, 0)
            del made
        gc.collect()
        return descriptors(), resident_kb()

    live(10)
    before = live(1)
    after = live(60)
    assert after[0] - before[0] <= 2 and after[1] - before[1] < 9000, (before, after)


@pytest.mark.parametrize("call", [
    lambda x: x["lock"].acquire(False) and x["lock"].release(),
    lambda x: x["lock"].acquire(timeout=0.0) and x["lock"].release(),
    lambda x: pytest.raises(ValueError, x["free"].release) and None,
    lambda x: pytest.raises(AssertionError, x["rlock"].release) and None,
    lambda x: x["taken"].acquire(True, 0.0001),
    lambda x: x["event"].wait(0.0001),
    lambda x: x["condition"].__enter__() and x["condition"].wait(0.0001) or x["condition"].__exit__(),
    lambda x: pytest.raises(threading.BrokenBarrierError, x["barrier"].wait, 0.0001) and x["barrier"].reset(),
    lambda x: (repr(x["lock"]), repr(x["rlock"]), repr(x["condition"])) and None,
], ids=range(9))
def test_calls_leave_no_memory(call):
    things = {"lock": fork.Lock(), "free": fork.Lock(), "rlock": fork.RLock(), "taken": fork.Semaphore(0), "event": fork.Event(),
              "condition": fork.Condition(), "barrier": fork.Barrier(2)}

    def blocks(times):
        for _ in range(times):
            call(things)
        gc.collect()
        return sys.getallocatedblocks()

    blocks(100)
    grown = []
    for _ in range(3):
        first = blocks(20)
        grown.append(blocks(300) - first)
    assert min(grown) < 150, grown
