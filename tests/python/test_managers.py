"""Managers: what a killed server, a killed client, a signal leave behind; remote ones; and that nothing grows."""

import doctest
import gc
import multiprocessing
import os
import queue
import signal
import sys
import threading
import time

import manager_tasks as tasks
import pytest
from helpers import children, descriptors, eventually, is_running, run_program, shared_names

import manyhands
from manyhands import managers

METHODS = ["fork", "spawn", "forkserver"]


@pytest.fixture(scope="module")
def manager():
    with manyhands.get_context("fork").Manager() as made:
        yield made


def test_examples():
    for module in (managers,):
        result = doctest.testmod(module)
        assert result.failed == 0 and result.attempted > 3


def test_every_public_name():
    import multiprocessing.managers as standard

    assert [n for n in dir(standard) if n[0].isupper() and getattr(getattr(standard, n), '__module__', '') == standard.__name__ and not hasattr(managers, n)] == []
    assert set(managers.__all__) == set(standard.__all__)


@pytest.mark.parametrize("method", METHODS)
def test_start_methods(method):
    context = manyhands.get_context(method)
    with context.Manager() as manager:
        shared = manager.dict()
        process = context.Process(target=tasks.put_into, args=(shared, "a", [1, 2]))
        process.start()
        process.join(60)
        assert process.exitcode == 0 and shared["a"] == [1, 2]
        with context.Pool(1) as pool:
            assert pool.apply(tasks.read_all, (shared,)) == {"a": [1, 2]}
        server = manager._process.pid
    assert not is_running(server)


class Odd:
    def __eq__(self, other):
        return type(other) is Odd

    def __hash__(self):
        return 7


TWICE = [1]
VALUES = [None, True, False, 0, -1, 2**100, 1.5, float("inf"), "", "é\ud800", b"", b"x" * 10_000, (), (1, (2, (3,))), [], [1, "a"], {}, {"a": 1}, [[1], [2]], {"a": [1]},
          {1, 2}, frozenset((1,)), Odd(), range(5), 1 + 2j, bytearray(b"x"), "x" * 1_000_000, list(range(100_000)), (TWICE, TWICE), print, int]


@pytest.mark.parametrize("number", range(len(VALUES)))
def test_values_travel(manager, number):
    """Plain ones in their own format, others as pickles: both ways, as keys and arguments."""
    value = VALUES[number]
    shared = manager.list([value])
    shared.append(value)
    for got in (shared[0], shared[1], shared.pop()):
        assert got == value and type(got) is type(value)
    assert shared.count(value) == 1
    if isinstance(value, tuple) and value and value[0] is TWICE:
        got = shared[0]
        assert got[0] is got[1]
    nested = manager.list([[value, value]])
    got = nested[0]
    if isinstance(value, (list, dict)):
        assert got[0] is got[1]


def test_exceptions_travel(manager):
    shared = manager.dict()
    with pytest.raises(KeyError):
        shared["none"]
    with pytest.raises(managers.RemoteError, match="nonsense"):
        shared._callmethod("nonsense")
    with pytest.raises((AttributeError, TypeError, ValueError), match="pickle|lambda|local"):
        shared["f"] = lambda: None
    shared["after"] = 1  # the connection is as it was
    assert shared.copy() == {"after": 1}
    with pytest.raises(AttributeError):
        manager.Namespace().nothing


class Holder:
    def make(self):
        return (i for i in ())


class Making(managers.SyncManager):
    pass


Making.register("Holder", Holder)


def test_a_result_that_cannot_travel():
    with Making(ctx=manyhands.get_context("fork")) as manager:
        holder = manager.Holder()
        for _ in range(2):
            with pytest.raises(managers.RemoteError, match="Unserializable.*(.|\n)*generator"):
                holder.make()
        assert "Holder object" in str(holder)


def test_threads_have_connections_of_their_own(manager):
    shared = manager.dict(n=0)
    lock = manager.Lock()
    threads = [threading.Thread(target=tasks.add_many, args=(shared, lock, 50)) for _ in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join(60)
    assert shared["n"] == 200


def test_processes_share_a_lock(manager):
    context = manyhands.get_context("fork")
    shared = manager.dict(n=0)
    lock = manager.RLock()
    processes = [context.Process(target=tasks.add_many, args=(shared, lock, 50)) for _ in range(3)]
    for p in processes:
        p.start()
    for p in processes:
        p.join(60)
    assert shared["n"] == 150


# ---- the server ends ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("when", ["before", "during"])
def test_a_killed_server_is_an_error_at_once(method, when):
    context = manyhands.get_context(method)
    manager = context.Manager()
    shared, events = manager.dict(a=1), manager.Event()
    assert shared["a"] == 1
    pid = manager._process.pid
    began = time.monotonic()
    if when == "before":
        os.kill(pid, signal.SIGKILL)
        manager._process.join(30)
    else:
        threading.Timer(0.05, os.kill, (pid, signal.SIGKILL)).start()
    for attempt in range(3):
        with pytest.raises((EOFError, OSError)) as caught:
            events.wait()
        assert str(caught.value) or caught.type is not EOFError
    with pytest.raises((EOFError, OSError)):
        manager.list()
    assert time.monotonic() - began < 30
    manager.shutdown()
    del shared, events


def test_the_server_ends_with_its_owner():
    done = run_program("""
        import os, signal, manyhands
        if __name__ == "__main__":
            manager = manyhands.Manager()
            print(manager._process.pid, flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
    """)
    eventually(lambda: not is_running(int(done.stdout)))


def test_a_server_that_does_not_start():
    manager = managers.SyncManager()
    with pytest.raises(EOFError):
        manager.start(initializer=os._exit, initargs=(3,))
    with pytest.raises(TypeError):
        managers.SyncManager().start(initializer=5)
    with pytest.raises(AssertionError):
        managers.SyncManager().dict()
    started = manyhands.Manager()
    with pytest.raises(manyhands.ProcessError, match="Already started"):
        started.start()
    started.shutdown()
    with pytest.raises(manyhands.ProcessError, match="shut down"):
        started.start()


# ---- a client is killed ------------------------------------------------------------------------------------------------


KINDS = ["Lock", "RLock", "Semaphore", "BoundedSemaphore", "Condition"]


def start(target, *args, method="fork"):
    process = manyhands.get_context(method).Process(target=target, args=args)
    process.start()
    return process


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("end", ["die", "wait"])
def test_locks_of_a_killed_client_are_given_back(manager, kind, end):
    lock, tell = getattr(manager, kind)(), manager.Event()
    process = start(tasks.acquire_and, end, lock, tell)
    assert tell.wait(30)
    if end == "wait":
        assert not lock.acquire(False)
        process.kill()
    process.join(30)
    assert lock.acquire(True, 30)
    lock.release()


@pytest.mark.parametrize("kind", ["RLock", "Semaphore"])
def test_all_that_it_held(manager, kind):
    lock = manager.Semaphore(3) if kind == "Semaphore" else manager.RLock()
    tell = manager.Event()
    process = start(tasks.acquire_and, "die", lock, tell, 3)
    process.join(30)
    for _ in range(3):
        assert lock.acquire(True, 30)
    if kind == "Semaphore":
        assert not lock.acquire(False)


@pytest.mark.parametrize("kind", ["Lock", "Semaphore", "BoundedSemaphore"])
def test_locks_of_a_client_that_just_ended_stay_held(manager, kind):
    """As in the standard library: whoever is left may release them."""
    lock, tell = getattr(manager, kind)(), manager.Event()
    process = start(tasks.acquire_and, "exit", lock, tell)
    process.join(30)
    assert process.exitcode == 0
    gone = manager.Event()
    other = start(tasks.acquire_and, "die", manager.Lock(), gone)  # its end is told after the first one's
    other.join(30)
    assert not lock.acquire(True, 0.3)
    lock.release()
    assert lock.acquire(False)
    lock.release()
    if kind == "Lock":
        with pytest.raises(RuntimeError):
            lock.release()


def test_a_client_killed_while_it_waits_for_a_lock(manager):
    lock, tell = manager.Lock(), manager.Event()
    lock.acquire()
    process = start(tasks.acquire_waiting, lock, tell)
    assert tell.wait(30)
    process.kill()
    process.join(30)
    lock.release()
    assert lock.acquire(True, 30)
    lock.release()


def test_a_semaphore_as_a_signal(manager):
    """A permit that another gave is not given again when its taker is killed."""
    semaphore, tell = manager.Semaphore(0), manager.Event()
    semaphore.release()
    process = start(tasks.acquire_and, "wait", semaphore, tell)
    assert tell.wait(30)
    semaphore.release()  # in its place
    process.kill()
    process.join(30)
    assert semaphore.acquire(True, 30)
    assert not semaphore.acquire(True, 0.5)


def test_a_notification_goes_past_a_killed_waiter(manager):
    condition = manager.Condition()
    tells, result = [manager.Event(), manager.Event()], manager.Value("i", 0)
    first = start(tasks.wait_on, condition, tells[0], result)
    assert tells[0].wait(30)
    with condition:
        pass  # it waits
    second = start(tasks.wait_on, condition, tells[1], result)
    assert tells[1].wait(30)
    with condition:
        first.kill()
        first.join(30)
        condition.notify()
    second.join(60)
    assert result.value is True


def test_an_item_is_not_lost_with_a_killed_getter(manager):
    items, tell = manager.Queue(), manager.Event()
    process = start(tasks.get_from, items, tell)
    assert tell.wait(30)
    process.kill()
    process.join(30)
    items.put("x")
    assert items.get(True, 30) == "x"


def test_references_of_a_killed_client_are_dropped(manager):
    gc.collect()
    tell = manager.Event()
    before = manager._number_of_objects()
    shared = manager.dict()
    process = start(tasks.keep_proxy, shared, tell, method="spawn")
    assert tell.wait(60)
    process.kill()
    process.join(30)
    del shared
    gc.collect()
    eventually(lambda: manager._number_of_objects() <= before, 30)


# ---- signals -----------------------------------------------------------------------------------------------------------------


def test_an_interrupted_call_does_not_disturb_the_next():
    """In the standard library the next call takes the answer of the interrupted one."""
    done = run_program("""
        import signal, sys, threading, os, manyhands
        def interrupt():
            os.kill(os.getpid(), signal.SIGINT)
        if __name__ == "__main__":
            manager = manyhands.Manager()
            event, shared = manager.Event(), manager.dict(a=5)
            threading.Timer(0.3, interrupt).start()
            try:
                event.wait()
            except KeyboardInterrupt:
                print("interrupted")
            event.set()
            print(shared["a"], event.is_set())
    """)
    assert done.stdout == "interrupted\n5 True\n", done


def test_finalizers_and_handlers_in_the_middle_of_a_call(manager):
    """A proxy used by a signal handler while its thread waits for an answer."""
    event, shared = manager.Event(), manager.list()

    def handler(*_):
        shared.append(len(shared))
        event.set()

    old = signal.signal(signal.SIGUSR1, handler)
    try:
        threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGUSR1)).start()
        assert event.wait(30)
        assert shared[:] == [0]
    finally:
        signal.signal(signal.SIGUSR1, old)


# ---- remote managers ------------------------------------------------------------------------------------------------------------


class Remote(managers.BaseManager):
    pass


class StandardRemote(multiprocessing.managers.BaseManager):
    pass


SHARED = {"a": 1}


def get_shared():
    return SHARED


for kind in (Remote, StandardRemote):
    kind.register("shared", get_shared, exposed=("__getitem__", "__setitem__", "keys"))


@pytest.mark.parametrize("address", [("127.0.0.1", 0), None])
@pytest.mark.parametrize("server, client", [(Remote, Remote), (Remote, StandardRemote), (StandardRemote, Remote)])
def test_remote(server, client, address, tmp_path):
    """Either side may be the standard library's."""
    serving = server(address or str(tmp_path / "socket"), b"key")
    serving.start()
    try:
        using = client(serving.address, b"key")
        using.connect()
        shared = using.shared()
        shared.__setitem__("b", [1, 2])
        assert shared.__getitem__("b") == [1, 2] and sorted(shared._callmethod("__getitem__", ("b",))) == [1, 2]
        wrong = client(serving.address, b"wrong")
        with pytest.raises(multiprocessing.AuthenticationError):
            wrong.connect()
        del shared
    finally:
        serving.shutdown()
    using = client(serving.address, b"key")
    with pytest.raises(OSError):
        using.connect()


def test_xml(tmp_path):
    serving = Remote(("127.0.0.1", 0), b"key", "xmlrpclib")
    serving.start()
    try:
        using = Remote(serving.address, b"key", "xmlrpclib")
        using.connect()
        assert using.shared().__getitem__("a") == 1
    finally:
        serving.shutdown()


# ---- shared memory ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["shutdown", "server killed", "client killed"])
def test_segments_of_a_manager(end):
    done = run_program("""
        import os, signal, sys
        from manyhands.managers import SharedMemoryManager
        if __name__ == "__main__":
            manager = SharedMemoryManager()
            manager.start()
            names = [manager.SharedMemory(100).name, manager.ShareableList([1, 2]).shm.name]
            print(*names, flush=True)
            if sys.argv[1] == "shutdown":
                manager.shutdown()
                print(*set(names) & set(os.listdir("/dev/shm")))
            os.kill(manager._process.pid if sys.argv[1] == "server killed" else os.getpid(), signal.SIGKILL) if sys.argv[1] != "shutdown" else None
    """, end)
    lines = done.stdout.split("\n")
    names = set(lines[0].split())
    assert len(names) == 2
    if end == "shutdown":
        assert lines[1] == "" and done.stderr == ""
    eventually(lambda: not names & shared_names())


# ---- nothing grows --------------------------------------------------------------------------------------------------------------------


CALLS = [
    lambda m, d: d.__setitem__("a", 1),
    lambda m, d: d.get("a"),
    lambda m, d: d.update(b=[1, 2, 3]),
    lambda m, d: d.copy(),
    lambda m, d: list(d),
    lambda m, d: m.list([1, 2]).append(Odd()),
    lambda m, d: m.Lock().acquire(),
    lambda m, d: m.Queue().put(1),
    lambda m, d: m.Namespace(a=1).a,
    lambda m, d: pytest.raises(KeyError, d.__getitem__, "none") and None,
    lambda m, d: threading_call(d),
]


def threading_call(shared):
    thread = threading.Thread(target=shared.get, args=("a",))
    thread.start()
    thread.join()


@pytest.mark.parametrize("number", range(len(CALLS)))
def test_calls_leave_nothing(manager, number):
    call = CALLS[number]
    shared = manager.dict(a=1)

    def blocks(rounds):
        for _ in range(rounds):
            call(manager, shared)
        gc.collect()
        return sys.getallocatedblocks()

    def server(what):
        pid = manager._process.pid
        if what == "fds":
            return len(os.listdir(f"/proc/{pid}/fd"))
        return int(next(line.split()[1] for line in open(f"/proc/{pid}/status") if line.startswith("Threads")))

    blocks(50)
    fds, objects = descriptors(), manager._number_of_objects()
    server_fds, server_threads = server("fds"), server("threads")
    least = None
    for _ in range(3):
        first = blocks(10)
        grown = blocks(150) - first
        least = grown if least is None else min(least, grown)
    assert least < 140, f"{least} blocks in 150 calls"
    eventually(lambda: descriptors() <= fds and manager._number_of_objects() <= objects, 20)
    eventually(lambda: server("fds") <= server_fds and server("threads") <= server_threads, 20)


def test_whole_lives_leave_nothing():
    def life():
        with manyhands.get_context("fork").Manager() as manager:
            manager.dict(a=1)["a"]
            manager.Queue().put(1)

    life()
    gc.collect()
    fds, names, before = descriptors(), shared_names(), children()
    for _ in range(5):
        life()
    gc.collect()
    assert descriptors() <= fds and shared_names() <= names
    eventually(lambda: children() <= before)


def test_a_closed_queue_and_bad_arguments(manager):
    items = manager.Queue(1)
    with pytest.raises(queue.Empty):
        items.get(False)
    with pytest.raises(queue.Empty):
        items.get(True, 0.01)
    items.put(1)
    with pytest.raises(queue.Full):
        items.put(2, False)
    with pytest.raises(ValueError):
        items.get(True, -1)
    for lock in (manager.Lock(), manager.RLock(), manager.Semaphore()):
        with pytest.raises(ValueError):
            lock.acquire(False, 5)
        with pytest.raises(ValueError):
            lock.acquire(True, -5)
    for kind in ("Semaphore", "BoundedSemaphore"):
        with pytest.raises(managers.RemoteError, match=">= 0"):
            getattr(manager, kind)(-1)
    with pytest.raises(ValueError):
        manager.BoundedSemaphore(1).release()
    with pytest.raises(RuntimeError):
        manager.RLock().release()
    with pytest.raises(RuntimeError):
        manager.Condition().wait()
