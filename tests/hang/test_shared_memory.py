"""The hang table: names of shared memory."""

import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest


def start(source, *args):
    return subprocess.Popen([sys.executable, "-c", textwrap.dedent(source), *args], stdout=subprocess.PIPE, stdin=subprocess.PIPE,
                            text=True, start_new_session=True)


def line_of(process, seconds=30):
    """Its next line, or a failure: nothing here waits for ever."""
    import select

    assert select.select([process.stdout], [], [], seconds)[0], "no answer"
    return process.stdout.readline().strip()


@pytest.mark.parametrize("end", ["exit", "SIGTERM", "SIGKILL"])
def test_09_a_segment_stays_when_who_attached_ends(end):
    creator = start("""
        import sys
        from manyhands.shared_memory import SharedMemory
        memory = SharedMemory(create=True, size=100)
        memory.buf[0] = 42
        print(memory.name, flush=True)
        sys.stdin.readline()
        again = SharedMemory(memory.name)
        print(again.buf[0], flush=True)
        memory.unlink()
    """)
    name = line_of(creator)
    user = start("""
        import sys
        from manyhands.shared_memory import SharedMemory
        memory = SharedMemory(sys.argv[1])
        print(memory.buf[0], flush=True)
        sys.stdin.readline()
    """, name)
    assert line_of(user) == "42"
    if end == "exit":
        user.stdin.close()
    else:
        user.send_signal(getattr(signal, end))
    user.wait(30)
    # what would remove it is a process that outlives the user: let it come, if there is one
    session = subprocess.run(["ps", "-s", str(user.pid), "-o", "pid="], capture_output=True, text=True).stdout.split()
    for pid in session:
        try:
            fd = os.pidfd_open(int(pid))
        except ProcessLookupError:
            continue
        import select

        select.select([fd], [], [], 5)
        os.close(fd)
    creator.stdin.write("\n")
    creator.stdin.flush()
    assert line_of(creator) == "42"
    creator.wait(30)


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_17_a_killed_group_leaves_nothing(method, tmp_path):
    before = set(os.listdir("/dev/shm"))
    program = tmp_path / "program.py"
    program.write_text(textwrap.dedent("""
        import sys, time, manyhands
        from manyhands.shared_memory import SharedMemory, ShareableList
        def hold(sender, lock, event, condition, barrier, queue, values):
            lock.acquire()
            event.set()
            with condition:
                condition.notify()
            queue.put(values[0] + barrier.parties)
            memory = SharedMemory(create=True, size=100)
            named = SharedMemory(f"mh-hang-{memory.name[-8:]}", create=True, size=100)
            sender.send((memory.name, named.name))
            time.sleep(1000)
        if __name__ == "__main__":
            context = manyhands.get_context(sys.argv[1])
            receiver, sender = context.Pipe(duplex=False)
            shared = ShareableList([1, 2, 3])
            pool = context.Pool(2)
            manager = context.Manager()
            objects = (context.Semaphore(2), context.Event(), context.Condition(), context.Barrier(3), context.JoinableQueue(), context.Array("d", 9))
            more = [getattr(context, kind)() for kind in ("Lock", "RLock", "BoundedSemaphore", "Queue", "SimpleQueue")]
            processes = [context.Process(target=hold, args=(sender, *objects)) for _ in range(2)]
            for p in processes:
                p.start()
            assert [objects[4].get(), objects[4].get()] == [3, 3] and objects[1].is_set()
            print(shared.shm.name, *[name for _ in processes for name in receiver.recv()], flush=True)
            time.sleep(1000)
    """))
    process = subprocess.Popen([sys.executable, str(program), method], stdout=subprocess.PIPE, text=True, start_new_session=True)
    names = line_of(process, 60).split()
    assert len(names) == 5 and set(names) <= set(os.listdir("/dev/shm"))
    os.killpg(process.pid, signal.SIGKILL)
    process.wait(30)
    end = time.monotonic() + 10
    while left := [n for n in os.listdir("/dev/shm") if n in names or n not in before and n.startswith(("mh-", "psm_", "sem."))]:
        assert time.monotonic() < end, left
        os.sched_yield()
