"""Shared memory with a name: what differs from the standard library, and that the rest does not."""

import doctest
import errno
import gc
import multiprocessing.shared_memory as standard
import os
import pickle
import signal
import subprocess
import sys

import pytest
from helpers import descriptors, eventually, run_program, shared_names

import manyhands
from manyhands import resource_tracker, shared_memory
from manyhands.shared_memory import ShareableList, SharedMemory

METHODS = ["fork", "spawn", "forkserver"]


def test_examples():
    result = doctest.testmod(shared_memory)
    assert result.failed == 0 and result.attempted > 4


@pytest.mark.parametrize("ours_first", [True, False])
def test_names_are_the_standard_librarys(ours_first):
    """Both directions, in a process of its own: attaching makes the standard tracker unlink at its end."""
    done = run_program("""
        import sys
        import multiprocessing.shared_memory as standard
        import manyhands.shared_memory as ours
        from multiprocessing import resource_tracker
        creator, user = (ours, standard) if sys.argv[1] == "True" else (standard, ours)
        a = creator.SharedMemory(create=True, size=5000)
        a.buf[:3] = b"abc"
        b = user.SharedMemory(a.name)
        assert (bytes(b.buf[:3]), b.size, b.name) == (b"abc", 5000, a.name)
        b.buf[3] = 100
        assert a.buf[3] == 100
        l = user.ShareableList([1, "two", None], name="mh-test-both")
        assert list(creator.ShareableList(name="mh-test-both")) == [1, "two", None]
        b.close(); a.close(); l.shm.unlink(); a.unlink()
        print("done")
    """, str(ours_first))
    assert done.stdout == "done\n", done.stderr


@pytest.mark.parametrize("arguments, error, says", [
    ({}, ValueError, "name"),
    ({"create": True}, ValueError, "size"),
    ({"create": True, "size": -1}, ValueError, "-1"),
    ({"name": "mh-test-not-there"}, FileNotFoundError, "mh-test-not-there"),
    ({"name": "a/b", "create": True, "size": 1}, ValueError, "a/b"),
    ({"name": "", "create": True, "size": 1}, ValueError, "1 to 200"),
    ({"name": "x" * 300, "create": True, "size": 1}, ValueError, "1 to 200"),
    ({"name": "a\0b", "create": True, "size": 1}, ValueError, "null"),
    ({"create": True, "size": "1"}, TypeError, ""),
    ({"create": True, "size": 1 << 62}, OSError, str(1 << 62)),
    ({"create": True, "size": 1 << 70}, OverflowError, ""),
])
def test_bad_arguments(arguments, error, says):
    with pytest.raises(error) as caught:
        SharedMemory(**arguments)
    assert says in str(caught.value)


def test_a_name_that_exists():
    with pytest.raises(FileExistsError):
        try:
            first = SharedMemory("mh-test-twice", create=True, size=10)
            SharedMemory("mh-test-twice", create=True, size=10)
        finally:
            first.close()
            first.unlink()
    with pytest.raises(FileNotFoundError):
        first.unlink()


def test_views_keep_the_memory():
    memory = SharedMemory(create=True, size=100)
    view = memory.buf[10:20]
    with pytest.raises(BufferError):
        memory.close()
    memory.unlink()
    del memory
    gc.collect()
    view[0] = 7  # the standard library's object would have unmapped it
    assert view[0] == 7


def test_arrays_keep_the_memory():
    numpy = pytest.importorskip("numpy")
    memory = SharedMemory(create=True, size=800)
    array = numpy.ndarray((100,), dtype=float, buffer=memory.buf)
    memory.unlink()
    del memory
    gc.collect()
    array[:] = 3
    assert array.sum() == 300


def use(memory, value):
    if isinstance(memory, str):
        memory = SharedMemory(memory)
    memory.buf[0] = value
    memory.close()


@pytest.mark.parametrize("method", METHODS)
def test_travels_to_processes(method):
    memory = SharedMemory(create=True, size=100)
    try:
        context = manyhands.get_context(method)
        for number, argument in enumerate((memory, memory.name)):
            process = context.Process(target=use, args=(argument, 40 + number))
            process.start()
            process.join(30)
            assert process.exitcode == 0 and memory.buf[0] == 40 + number
        with context.Pool(1) as pool:
            pool.apply(use, (memory, 50))
        assert memory.buf[0] == 50
        copy = pickle.loads(pickle.dumps(memory))
        assert copy.name == memory.name and copy.size == memory.size and copy.buf[0] == 50
        copy.close()
    finally:
        memory.close()
        memory.unlink()


def create_and_return(size):
    memory = SharedMemory(create=True, size=size)
    memory.buf[0] = 9
    return memory.name


def create_into(queue, size):
    queue.put(create_and_return(size))


@pytest.mark.parametrize("method", METHODS)
def test_what_a_child_created_outlives_it(method):
    """A name that a worker returns is good after the worker has ended, as long as the program runs."""
    context = manyhands.get_context(method)
    with context.Pool(1) as pool:
        names = [pool.apply(create_and_return, (10,))]
        pool.close()
        pool.join()
    queue = context.SimpleQueue()
    process = context.Process(target=create_into, args=(queue, 10))
    process.start()
    names.append(queue.get())
    process.join()
    for name in names:
        memory = SharedMemory(name)
        assert memory.buf[0] == 9
        memory.close()
        memory.unlink()


@pytest.mark.parametrize("method", METHODS)
def test_what_a_child_created_goes_with_the_program(method):
    done = run_program("""
        import sys, manyhands
        from manyhands.shared_memory import SharedMemory
        def create(size):
            return SharedMemory(create=True, size=size).name
        if __name__ == "__main__":
            with manyhands.get_context(sys.argv[1]).Pool(1) as pool:
                print(pool.apply(create, (10,)))
    """, method)
    name = done.stdout.strip()
    assert name
    eventually(lambda: name not in shared_names())
    assert "There appear to be 1 leaked shared_memory objects" in done.stderr


@pytest.mark.parametrize("how", ["kept", "unlinked", "untracked", "unregistered", "registered"])
def test_what_is_left_at_the_end(how):
    done = run_program("""
        import sys
        from manyhands import resource_tracker
        from manyhands.shared_memory import SharedMemory
        how = sys.argv[1]
        memory = SharedMemory(create=True, size=10, track=how not in ("untracked", "registered"))
        if how == "unlinked":
            memory.unlink()
        if how == "unregistered":
            resource_tracker.unregister(memory._name, "shared_memory")
        if how == "registered":
            resource_tracker.register(memory._name, "shared_memory")
        print(memory.name)
    """, how)
    name = done.stdout.strip()
    if how in ("untracked", "unregistered"):
        memory = SharedMemory(name)
        memory.unlink()
        memory.close()
        assert done.stderr == ""
    else:
        eventually(lambda: name not in shared_names())
        assert ("leaked" in done.stderr) == (how != "unlinked"), done.stderr


def attach_and_unregister(name):
    memory = SharedMemory(name)
    resource_tracker.unregister(memory._name, "shared_memory")
    resource_tracker.unregister("/mh-test-nothing", "shared_memory")
    resource_tracker.register("/mh-test-nothing", "shared_memory")


@pytest.mark.parametrize("method", METHODS)
def test_the_remedy_for_the_standard_tracker_does_no_harm(method):
    """Programs unregister what they attached to; the creator's end must remove it all the same."""
    done = run_program("""
        import os, signal, sys
        sys.path.insert(0, sys.argv[2])
        import manyhands
        from manyhands.shared_memory import SharedMemory
        from test_shared_memory import attach_and_unregister
        if __name__ == "__main__":
            memory = SharedMemory(create=True, size=10)
            process = manyhands.get_context(sys.argv[1]).Process(target=attach_and_unregister, args=(memory.name,))
            process.start()
            process.join()
            print(memory.name, process.exitcode, flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
    """, method, os.path.dirname(__file__))
    name, code = done.stdout.split()
    assert code == "0"
    eventually(lambda: name not in shared_names())


def own_shm(source, megabytes):
    """Run a program with a /dev/shm of its own of so many megabytes; None where that is not allowed."""
    script = f'mount -t tmpfs -o mode=1777,size={megabytes}m tmpfs /dev/shm && exec "$@"'
    return subprocess.run(["unshare", "-m", "bash", "-c", script, "own", sys.executable, "-c", source], capture_output=True, text=True, timeout=60)


def test_a_full_dev_shm():
    done = own_shm("""if 1:
        import errno
        from manyhands.shared_memory import SharedMemory, ShareableList
        first = SharedMemory(create=True, size=1 << 20)
        for make in (lambda: SharedMemory(create=True, size=4 << 20), lambda: ShareableList([b"x" * (4 << 20)])):
            try:
                make()
            except OSError as e:
                assert e.errno == errno.ENOSPC and str(4 << 20)[:4] in str(e) and "bytes are free" in str(e), e
                print(e)
        first.buf[:] = b"x" * (1 << 20)
        first.unlink()
    """, 4)
    if "mount" in done.stderr or "unshare" in done.stderr:
        pytest.skip("needs the right to mount: " + done.stderr)
    assert done.returncode == 0 and done.stdout.count("bytes are free") == 2, done


def test_holes_of_others_are_filled_or_refused():
    """A segment of the standard library has no pages yet: attaching gives it some, or raises."""
    done = own_shm("""if 1:
        import errno
        from multiprocessing import shared_memory as standard
        from manyhands.shared_memory import SharedMemory
        big = standard.SharedMemory("big", create=True, size=64 << 20)
        try:
            SharedMemory("big")
        except OSError as e:
            assert e.errno == errno.ENOSPC, e
            print("refused")
        big.close(); big.unlink()
    """, 4)
    if "mount" in done.stderr or "unshare" in done.stderr:
        pytest.skip("needs the right to mount: " + done.stderr)
    assert done.stdout == "refused\n", done


def test_list_of_every_type():
    values = [1, -2.5, True, None, "drei", b"vier", "é" * 10, 2**62]
    shared = ShareableList(values)
    try:
        copy = pickle.loads(pickle.dumps(shared))
        assert list(shared) == list(copy) == values and type(copy) is ShareableList and isinstance(shared, standard.ShareableList)
        copy[0] = 5
        assert shared[0] == 5
        with pytest.raises(ValueError):
            shared[4] = "too long for its place"
        copy.shm.close()
        assert isinstance(shared.shm, SharedMemory) and isinstance(shared.shm, standard.SharedMemory)
    finally:
        shared.shm.close()
        shared.shm.unlink()


def test_nothing_is_left():
    def life():
        memory = SharedMemory(create=True, size=10000)
        other = SharedMemory(memory.name)
        other.close()
        shared = ShareableList([1, 2])
        shared.shm.unlink()
        memory.unlink()

    life()
    gc.collect()
    fds, names = descriptors(), shared_names()
    blocks = sys.getallocatedblocks()
    for _ in range(200):
        life()
    gc.collect()
    assert descriptors() == fds and shared_names() <= names and sys.getallocatedblocks() - blocks < 150
