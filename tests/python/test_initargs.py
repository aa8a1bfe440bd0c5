"""What an initializer is given reaches every worker, whatever the start method: connections, sockets, locks and queues too."""

import pytest
from helpers import run_program

METHODS = ["fork", "spawn", "forkserver"]


@pytest.mark.parametrize("method", METHODS)
def test_things_with_descriptors(method):
    """The caller's own ends may be closed meanwhile: later workers get theirs nevertheless."""
    done = run_program(f"""
        import socket, manyhands
        def keep(*things):
            global conn, sock, lock, queue
            conn, sock, lock, queue = things
        def use(x):
            with lock:
                conn.send(("conn", x))
                sock.send(bytes([x]))
                queue.put(x)
        if __name__ == "__main__":
            ctx = manyhands.get_context("{method}")
            ours, theirs = ctx.Pipe(False)
            a, b = socket.socketpair(type=socket.SOCK_SEQPACKET)
            lock, queue = ctx.Lock(), ctx.Queue()
            with ctx.Pool(2, keep, (theirs, b, lock, queue), maxtasksperchild=3) as p:
                theirs.close()
                b.close()
                p.map(use, range(12), 1)
                print(sorted(ours.recv() for _ in range(12)) == [("conn", i) for i in range(12)])
                print(sorted(a.recv(1)[0] for _ in range(12)) == list(range(12)))
                print(sorted(queue.get(timeout=20) for _ in range(12)) == list(range(12)))
    """, timeout=100)
    assert done.stdout == "True\nTrue\nTrue\n", done


@pytest.mark.parametrize("method", METHODS)
def test_descriptors_are_not_passed_on(method):
    """A program that a worker runs gets none of them."""
    done = run_program(f"""
        import os, subprocess, sys, manyhands
        def keep(conn):
            global ours
            ours = conn
        def numbers(_):
            count = "import os; print(len(os.listdir('/proc/self/fd')))"
            return int(subprocess.run([sys.executable, "-c", count], close_fds=False, capture_output=True).stdout)
        if __name__ == "__main__":
            ctx = manyhands.get_context("{method}")
            r, w = ctx.Pipe()
            with ctx.Pool(1, keep, (r,)) as p:
                print(p.apply(numbers, (0,)) - numbers(0))
    """, timeout=100)
    assert done.stdout == "0\n", done


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("when", ["before", "after"])
def test_functions_of_modules_made_at_run_time(method, when):
    done = run_program(f"""
        import sys, types, manyhands
        def make():
            module = types.ModuleType("made")
            sys.modules["made"] = module
            exec("factor = 3\\ndef helper(x): return x * factor\\ndef triple(x): return helper(x)", module.__dict__)
            return module
        if __name__ == "__main__":
            made = make() if "{when}" == "before" else None
            with manyhands.get_context("{method}").Pool(1) as p:
                made = made or make()
                print(p.map(made.triple, range(4)), p.apply(made.triple, (5,)), p.apply_async(made.triple, (6,)).get(60))
    """, timeout=100)
    assert done.stdout == "[0, 3, 6, 9] 15 18\n", done


@pytest.mark.parametrize("method", METHODS)
def test_functions_of_files_that_only_the_caller_loaded(method, tmp_path):
    path = tmp_path / "plugin_of_ours.py"
    path.write_text("factor = 2\ndef double(x):\n    return x * factor\n")
    done = run_program(f"""
        import importlib.util, sys, manyhands
        if __name__ == "__main__":
            with manyhands.get_context("{method}").Pool(1) as p:
                spec = importlib.util.spec_from_file_location("plugin_of_ours", {str(path)!r})
                module = sys.modules["plugin_of_ours"] = importlib.util.module_from_spec(spec)
                spec.loader.exec_module(module)
                print(p.map(module.double, range(4)))
    """, timeout=100)
    assert done.stdout == "[0, 2, 4, 6]\n", done
