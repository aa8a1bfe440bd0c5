"""Process, beside the standard library's."""

import multiprocessing
import os
import select
import signal
import sys
import time

import pytest
from helpers import is_running, run_program

import manyhands

MODULES = [multiprocessing, manyhands]


@pytest.fixture(params=MODULES, ids=lambda m: m.__name__)
def module(request):
    return request.param


def leave(code):
    sys.exit(code)


def fail():
    raise ValueError("in the child")


def sleep():
    time.sleep(100)


@pytest.mark.parametrize("target, args, code", [
    (None, (), 0), (leave, (0,), 0), (leave, (7,), 7), (leave, (None,), 0), (leave, ("text",), 1), (fail, (), 1), (os._exit, (9,), 9), (os.abort, (), -6), (leave, (300,), 44),
])
def test_exit_codes(module, target, args, code, capfd):
    p = module.Process(target=target, args=args)
    assert p.exitcode is None and p.pid is None and p.ident is None and not p.is_alive()
    p.start()
    p.join(20)
    assert p.exitcode == code and not p.is_alive() and p.pid == p.ident
    err = capfd.readouterr().err
    assert ("ValueError: in the child" in err) == (target is fail)


def test_life(module):
    p = module.Process(target=sleep, name="sleeper", daemon=True)
    assert p.name == "sleeper" and p.daemon
    with pytest.raises(ValueError, match="process not started"):
        p.sentinel
    with pytest.raises(AssertionError, match="can only join a started process"):
        p.join()
    p.start()
    assert p.is_alive() and p.exitcode is None and p in module.active_children()
    with pytest.raises(AssertionError, match="cannot start a process twice"):
        p.start()
    with pytest.raises(AssertionError, match="process has already started"):
        p.daemon = False
    with pytest.raises(ValueError, match="Cannot close a process while it is still running"):
        p.close()
    p.join(0.01)
    assert p.is_alive() and "started daemon" in repr(p)
    assert select.select([p.sentinel], [], [], 0)[0] == []
    p.terminate()
    assert select.select([p.sentinel], [], [], 20)[0]
    p.join()
    assert p.exitcode == -signal.SIGTERM and "stopped exitcode=-SIGTERM" in repr(p)
    assert p not in module.active_children()
    p.close()
    for use in (lambda: p.exitcode, p.is_alive, p.join, p.terminate, lambda: p.sentinel):
        with pytest.raises(ValueError, match="process object is closed"):
            use()
    p.close()


def test_kill(module):
    p = module.Process(target=sleep)
    p.start()
    p.kill()
    p.join(20)
    assert p.exitcode == -signal.SIGKILL
    p.kill()  # nothing happens
    p.terminate()


def test_names_and_wrong_arguments(module):
    p = module.Process()
    assert p.name.startswith("Process-")
    with pytest.raises(AssertionError):
        module.Process(group=1)
    with pytest.raises(AssertionError):
        p.name = 5
    with pytest.raises(TypeError):
        module.Process(args=5)
    with pytest.raises(TypeError):
        module.Process(nonsense=1)


class Subclass(manyhands.Process):
    def __init__(self, connection):
        super().__init__()
        self.connection = connection

    def run(self):
        me, parent = manyhands.current_process(), manyhands.parent_process()
        self.connection.send((type(me).__name__, me.pid == os.getpid(), parent.pid == os.getppid(), parent.is_alive(), manyhands.active_children()))


def test_run_overridden():
    ours, theirs = manyhands.Pipe()
    p = Subclass(theirs)
    p.start()
    assert ours.recv() == ("Subclass", True, True, True, [])
    p.join()
    assert p.exitcode == 0


def test_main_process():
    assert manyhands.current_process() is multiprocessing.current_process()
    assert manyhands.parent_process() is multiprocessing.parent_process()
    assert manyhands.cpu_count() == os.cpu_count()


def test_standard_primitives_between_our_processes():
    queue, lock, event, value = manyhands.Queue(), manyhands.Lock(), manyhands.Event(), manyhands.Value("i", 0)

    def work():
        event.wait(20)
        with lock:
            value.value += 1
        queue.put(os.getpid())

    ps = [manyhands.Process(target=work) for _ in range(3)]
    for p in ps:
        p.start()
    event.set()
    assert {queue.get(timeout=20) for _ in ps} == {p.pid for p in ps}
    for p in ps:
        p.join()
    assert value.value == 3


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_start_methods(method):
    done = run_program(f"""
        import os, sys
        import manyhands
        class Sub({{}}.get(0, manyhands.get_context("{method}").Process)):
            def run(self):
                print("sub", self.name, flush=True)
                sys.exit(4)
        def child(q, lock, x):
            with lock:
                q.put((x, manyhands.current_process().name, manyhands.get_start_method(), __name__))
        def init(a):
            global given
            given = a
        def use(x):
            return x * given
        if __name__ == "__main__":
            ctx = manyhands.get_context("{method}")
            q, lock = ctx.Queue(), ctx.Lock()
            p = ctx.Process(target=child, args=(q, lock, 5), name="me")
            p.start()
            print(q.get(timeout=20))
            p.join()
            s = Sub()
            s.start()
            s.join()
            print(s.exitcode)
            l = ctx.Process(target=lambda: sys.exit(6))
            l.start()
            l.join()
            print(l.exitcode)
            with ctx.Pool(2, init, (3,), maxtasksperchild=2) as pool:
                print(pool.map(use, range(8), 1), pool.map(lambda x: x + 1, [1]), sorted(pool.imap_unordered(use, range(3))))
                def late(x):
                    return x - 1
                print(pool.map(late, [1]))
                try:
                    pool.map(os._exit, [1])
                except manyhands.WorkerLost as e:
                    print("lost", e.exitcode)
                print(pool.apply(use, (2,)))
    """, timeout=60)
    main = "__main__" if method == "fork" else "__mp_main__"
    lines = done.stdout.splitlines()
    assert lines[0] == f"(5, 'me', '{method}', '{main}')", done
    assert lines[1].startswith("sub Sub-") and lines[2:] == ["4", "6", "[0, 3, 6, 9, 12, 15, 18, 21] [2] [0, 3, 6]", "[0]", "lost 1", "6"], done


def test_default_start_method_with_threads():
    done = run_program("""
        import threading, manyhands
        print(manyhands.get_start_method(), manyhands.get_start_method(allow_none=True))
        stop = threading.Event()
        t = threading.Thread(target=stop.wait)
        t.start()
        print(manyhands.get_start_method())
        stop.set()
        t.join()
        print(manyhands.get_start_method())
        manyhands.set_start_method("spawn")
        print(manyhands.get_start_method())
        try:
            manyhands.set_start_method("fork")
        except RuntimeError as e:
            print(e)
        manyhands.set_start_method("fork", force=True)
        print(manyhands.get_start_method(), manyhands.get_all_start_methods())
        try:
            manyhands.get_context("nonsense")
        except ValueError as e:
            print(e)
    """)
    assert done.stdout.splitlines() == ["fork None", "forkserver", "fork", "spawn", "context has already been set", "fork ['fork', 'spawn', 'forkserver']",
                                        "cannot find context for 'nonsense'"], done


def test_daemons_end_and_others_are_joined_at_exit():
    done = run_program("""
        import manyhands, os, time
        d = manyhands.Process(target=time.sleep, args=(100,), daemon=True)
        d.start()
        def say():
            time.sleep(0.2)
            print("said", flush=True)
        p = manyhands.Process(target=say)
        p.start()
        print(d.pid, flush=True)
    """, timeout=20)
    pid, said = done.stdout.split()
    assert said == "said" and not is_running(int(pid))


def test_many_at_once():
    ps = [manyhands.Process(target=leave, args=(i,)) for i in range(40)]
    for p in ps:
        p.start()
    for p in reversed(ps):
        p.join()
    assert [p.exitcode for p in ps] == list(range(40))


@pytest.mark.parametrize("number", ["SIGINT", "SIGTERM", "SIGKILL"])
def test_processes_start_after_the_fork_server_was_hit(number):
    done = run_program(f"""
        import os, signal, sys, manyhands
        from manyhands import forkserver
        if __name__ == "__main__":
            ctx = manyhands.get_context("forkserver")
            for attempt in range(2):
                p = ctx.Process(target=sys.exit, args=(3,))
                p.start()
                p.join()
                server = forkserver.ensure_running()
                os.kill(server.pid, signal.{number})
                if signal.{number} != signal.SIGINT:
                    sentinel = os.pidfd_open(server.pid)
                    __import__("select").select([sentinel], [], [])
                print(p.exitcode)
    """, timeout=30)
    assert done.stdout.split() == ["3", "3"], done


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
@pytest.mark.parametrize("how", ["parent_process().join()", "while parent_process().is_alive(): time.sleep(0.01)", "select.select([parent_process().sentinel], [], [])"])
def test_a_child_that_watches_its_parent_outlives_it(tmp_path, method, how):
    """Others are killed with it."""
    (tmp_path / "family.py").write_text(f"""
import os, select, signal, time
import manyhands
from manyhands import parent_process

def watch(w):
    parent_process().is_alive()
    w.send(os.getpid())
    {how}
    w.send("the end" if not parent_process().is_alive() else "alive")

def be_parent(w):
    manyhands.get_context("{method}").Process(target=watch, args=(w,)).start()
    signal.pause()

if __name__ == "__main__":
    r, w = manyhands.Pipe(duplex=False)
    p = manyhands.get_context("{method}").Process(target=be_parent, args=(w,))
    p.start()
    w.close()
    r.recv()
    p.kill()
    print(r.recv())
""")
    import subprocess

    done = subprocess.run([sys.executable, tmp_path / "family.py"], capture_output=True, text=True, timeout=30)
    assert done.stdout == "the end\n", done


SPAWNED = """
import gzip, io, os, sys, threading, time
import manyhands

path = sys.argv[1]

class Closes(io.RawIOBase):
    def close(self):
        if not self.closed:
            open(path + ".closed", "w").write("yes")
        super().close()

class Deleted:
    __slots__ = ()

    def __del__(self, open=os.open, name=path + ".deleted"):
        open(name, 64)  # O_CREAT

def leave(how):
    global text, packed, own, thread, deleted
    text = open(path, "w")
    text.write("text that nobody flushed")
    packed = gzip.open(path + ".gz", "wb")
    packed.write(b"packed")
    own = Closes()
    import atexit
    atexit.register(lambda: open(path + ".exit", "w").write("ran"))
    if how == "thread":
        thread = threading.Thread(target=time.sleep, args=(3600,), daemon=True)
        thread.start()
    elif how == "plain":
        del Deleted.__del__
    joined = threading.Thread(target=lambda: open(path + ".joined", "w").write("yes"))
    joined.start()
    deleted = Deleted()
    sys.exit(7)

if __name__ == "__main__":
    p = manyhands.get_context("spawn").Process(target=leave, args=(sys.argv[2],))
    p.start()
    p.join(60)
    print(p.exitcode)
"""


@pytest.mark.parametrize("how", ["plain", "thread", "finalizer"])
def test_spawned_processes_leave_nothing_undone(tmp_path, how):
    """They end without taking the interpreter down where nobody can tell; what that does for programs is done."""
    import gzip
    import subprocess
    import sys

    script = tmp_path / "leaves.py"
    script.write_text(SPAWNED)
    done = subprocess.run([sys.executable, script, tmp_path / "out", how], capture_output=True, text=True, timeout=120)
    assert (done.stdout, done.stderr) == ("7\n", "")
    assert (tmp_path / "out.deleted").exists() == (how != "plain")
    assert (tmp_path / "out.joined").read_text() == "yes"
    assert (tmp_path / "out").read_text() == "text that nobody flushed"
    assert gzip.open(tmp_path / "out.gz").read() == b"packed"
    assert (tmp_path / "out.closed").read_text() == "yes"
    assert (tmp_path / "out.exit").read_text() == "ran"


LEAN = """
import sys
import manyhands

def look(heavy):
    print([name for name in heavy if name in sys.modules], flush=True)
    from multiprocessing import reduction, util
    print(type(reduction).__name__, reduction.ForkingPickler.__name__, type(reduction).__name__, manyhands.reduction.HAVE_SEND_HANDLE)
    import runpy, subprocess
    print(callable(runpy.run_path), callable(subprocess.run), util._args_from_interpreter_flags() == subprocess._args_from_interpreter_flags())
    print(__name__, sys.modules["__main__"] is sys.modules["__mp_main__"], sys.modules["__main__"].look is look, __file__ == sys.argv[0])

if __name__ == "__main__":
    p = manyhands.get_context("spawn").Process(target=look, args=(["pickle", "socket", "subprocess", "re", "typing"],))
    p.start()
    p.join(60)
    print(p.exitcode)
"""


def test_spawned_processes_load_little_and_have_all(tmp_path):
    import subprocess
    import sys

    bare = subprocess.run([sys.executable, "-c", "import sys; print(*sys.modules)"], capture_output=True, text=True, timeout=120).stdout.split()
    heavy = [name for name in ("pickle", "socket", "subprocess", "re", "typing") if name not in bare]  # whatever site loads
    script = tmp_path / "looks.py"
    script.write_text(LEAN.replace('"pickle", "socket", "subprocess", "re", "typing"', repr(heavy)[1:-1]))
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=120)
    assert (done.stdout.splitlines(), done.stderr) == ([
        "[]", "_Later ForkingPickler module True", "True True True", "__mp_main__ True True True", "0"], "")
