"""Whole programs, with the standard library and with ours: the same output, the same status, an end at once, and nobody left."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from programs import Program, wait_for_end

pytestmark = pytest.mark.timeout(60)
LIBRARIES = ["multiprocessing", "manyhands"]
METHODS = ["fork", "forkserver", "spawn"]

EXAMPLE = (Path(__file__).parents[2] / "examples" / "first.py").read_text().replace("import manyhands", "import {library}")
OUTPUT = "Outputs: [0, 1, 4, 9, 16]\n"


@pytest.mark.parametrize("library", LIBRARIES)
def test_the_example_as_it_stands(tmp_path, library):
    path = tmp_path / "example.py"
    path.write_text(EXAMPLE.format(library=library))
    done = subprocess.run([sys.executable, path], capture_output=True, text=True, timeout=30)
    assert (done.stdout, done.stderr, done.returncode) == (OUTPUT, "", 0)


@pytest.mark.parametrize("way", ["file", "-c", "stdin", "-m", "-O -I", "-W error", "-X dev", "folder"])
def test_the_example_in_every_way_to_run_it(tmp_path, way):
    text = EXAMPLE.format(library="manyhands")
    (tmp_path / "example.py").write_text(text)
    (tmp_path / "__main__.py").write_text(text)
    command, stdin = {
        "file": (["example.py"], None), "-c": (["-c", text], None), "stdin": (["-"], text), "-m": (["-m", "example"], None),
        "-O -I": (["-O", "-I", "example.py"], None), "-W error": (["-W", "error", "example.py"], None), "-X dev": (["-X", "dev", "-W", "ignore", "example.py"], None),
        "folder": (["."], None),
    }[way]
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, timeout=30, cwd=tmp_path, **({"input": stdin} if stdin else {"stdin": subprocess.DEVNULL}))
    assert (done.stdout, done.stderr, done.returncode) == (OUTPUT, "", 0)


@pytest.mark.parametrize("method", METHODS)
def test_the_example_with_each_start_method(tmp_path, method):
    outputs = []
    for library in LIBRARIES:
        text = EXAMPLE.format(library=library).replace("    processes = []\n", f"    multiprocessing.set_start_method('{method}')\n    processes = []\n")
        with Program(tmp_path, text) as program:
            assert program.wait() == 0 and program.err == ""
            assert not program.left_after(1)
            outputs.append(program.out)
    assert outputs == [OUTPUT] * 2


@pytest.mark.parametrize("method", METHODS)
def test_the_example_with_descriptors_closed(tmp_path, method):
    """Without stdin, stdout and stderr, as a daemon: workers must not take their numbers for others."""
    path, out = tmp_path / "example.py", tmp_path / "out"
    path.write_text(EXAMPLE.format(library="manyhands").replace("processes = []", f"multiprocessing.set_start_method('{method}')\n    processes = []").replace(
        "print(", f"print(file=open({str(out)!r}, 'w'), *").replace("*\"Outputs:\", pool", "*[\"Outputs:\", pool").replace("4]))", "4])])"))
    done = subprocess.run(["sh", "-c", '"$0" "$1" <&- >&- 2>&-', sys.executable, path], timeout=30)
    assert done.returncode == 0 and out.read_text() == OUTPUT


# ---- how programs end --------------------------------------------------------------------------------------------------

ENDS = {
    "its last line": ("", 0, ""),
    "sys.exit()": ("sys.exit(3)", 3, ""),
    "sys.exit(text)": ("sys.exit('text')", 1, "text"),
    "an exception": ("raise KeyError('mine')", 1, "KeyError: 'mine'"),
    "os._exit()": ("os._exit(4)", 4, ""),
    "a signal": ("os.kill(os.getpid(), signal.SIGTERM)", -signal.SIGTERM, ""),
}
POOLS = {
    "idle": "pool = ctx.Pool(2); pool.map(square, range(10))",
    "unused": "pool = ctx.Pool(2)",
    "busy": "pool = ctx.Pool(2); pool.map_async(stay, range(5), 1)",
    "busy, with callbacks": "pool = ctx.Pool(2); pool.map_async(stay, range(5), 1, print, print)",
    "lazy": "pool = ctx.Pool(2); it = pool.imap(square, iter(int, 1)); next(it)",
    "dropped": "ctx.Pool(2).map(square, range(10))",
    "closed": "pool = ctx.Pool(2); pool.map(square, range(10)); pool.close()",
    "terminated": "pool = ctx.Pool(2); pool.map_async(stay, range(5), 1); pool.terminate()",
    "in a cycle": "pool = ctx.Pool(2); pool.map(square, [1]); pool.self = pool; del pool",
    "several": "pools = [ctx.Pool(1) for _ in range(4)]; [p.map(square, [1]) for p in pools]",
    "of a thread": "import threading; t = threading.Thread(target=lambda: globals().update(pool=ctx.Pool(2))); t.start(); t.join(); pool.map(square, [1])",
    "with daemon": "pool = ctx.Pool(1); p = ctx.Process(target=stay, args=(1,), daemon=True); p.start()",
}


@pytest.mark.parametrize("end, state", [(e, s) for e in ENDS for s in POOLS if e in ("its last line", "an exception") or s in ("idle", "busy")])
def test_a_pool_left_open(tmp_path, state, end):
    code, status, said = ENDS[end]
    with Program(tmp_path, f"""
        import manyhands
        def square(x):
            return x * x
        def stay(x):
            while True:
                signal.pause()
        if __name__ == "__main__":
            ctx = manyhands.get_context("fork")
            {POOLS[state]}
            tell("end")
            {code}
        """) as program:
        assert program.hear() == "end"
        began = time.monotonic()
        assert program.wait(10) == status, program.err
        took = time.monotonic() - began
        assert took < 2, f"{took:.1f} s"
        assert not program.left_after(1), program.describe()
        assert said in program.err and (said or program.err == ""), program.err
        assert program.out == "" or "callbacks" in state


@pytest.mark.parametrize("method", ["forkserver", "spawn"])
@pytest.mark.parametrize("state", ["idle", "unused", "busy", "with daemon"])
def test_a_pool_left_open_with_other_start_methods(tmp_path, method, state):
    with Program(tmp_path, f"""
        import manyhands
        def square(x):
            return x * x
        def stay(x):
            while True:
                signal.pause()
        if __name__ == "__main__":
            ctx = manyhands.get_context("{method}")
            {POOLS[state]}
        """) as program:
        assert program.wait(20) == 0 and not program.left_after(1) and (program.out, program.err) == ("", "")


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("method", METHODS)
def test_a_program_without_a_guard(tmp_path, library, method):
    """With spawn its children would start children: they say what is missing, and the program ends."""
    if library == "multiprocessing" and method != "fork":
        pytest.skip("does not apply: it starts workers for ever")
    with Program(tmp_path, f"""
        import {library} as m
        def square(x):
            return x * x
        pool = m.get_context("{method}").Pool(2)
        print(pool.map(square, range(3)))
        pool.terminate()
        """) as program:
        status = program.wait(30)
        assert not program.left_after(2)
        if method == "fork":
            assert status == 0 and program.out == "[0, 1, 4]\n"
        else:
            assert status != 0 or program.out == "[0, 1, 4]\n"


@pytest.mark.parametrize("method", METHODS)
def test_pools_of_each_method_give_the_same(tmp_path, method):
    outputs = []
    for library in LIBRARIES:
        with Program(tmp_path, f"""
            import {library} as m
            class Thing:
                def __init__(self, x):
                    self.x = x
                def __repr__(self):
                    return f"Thing({{self.x}})"
                def double(self):
                    return Thing(self.x * 2)
            class Trouble(Exception):
                pass
            def init(*args):
                global given
                given = args
            def use(x):
                return given, x
            def fail(x):
                raise Trouble("t", x)
            def about(x):
                me = m.current_process()
                return me.daemon, me.name.split("-")[0], m.parent_process().pid == int(os.environ["MH_TEST_PROGRAM"]), m.get_start_method(), sys.argv[1:]
            if __name__ == "__main__":
                ctx = m.get_context("{method}")
                with ctx.Pool(2, init, (1, [2])) as pool:
                    print(pool.map(use, range(3)), pool.map(Thing, [1, 2]), pool.apply(Thing(3).double), list(pool.imap(Thing, range(3), 2)))
                    print(pool.starmap(use, [(1,)]), sorted(pool.imap_unordered(abs, [-1, -2])), pool.apply_async(about, (1,)).get())
                    for call in (lambda: pool.map(fail, [1]), lambda: pool.apply(fail, (2,)), lambda: next(pool.imap(fail, [3]))):
                        try:
                            call()
                        except Trouble as e:
                            print(repr(e), "raise Trouble" in str(e.__cause__))
                with ctx.Pool(1, maxtasksperchild=1) as pool:
                    print(len(set(pool.map(os.getpgid, [0] * 3, 1))), len({{pool.apply(os.getpid) for _ in range(3)}}))
                    pool.close()
                    pool.join()
                print(len(m.active_children()))
            """, "an argument") as program:
            assert program.wait(40) == 0, program.err
            assert program.err == ""
            outputs.append(program.out)
    assert outputs[0] == outputs[1] and outputs[0].count("\n") == 7


def test_without_tqdm_asked_for_nothing_is_imported(tmp_path):
    """Importing the package is cheap: neither tqdm, nor cloudpickle, nor numpy, nor the standard pool."""
    with Program(tmp_path, """
        import manyhands
        pool = manyhands.Pool(1)
        assert pool.map(abs, [-1]) == [1]
        print([name for name in ("tqdm", "cloudpickle", "numpy", "multiprocessing.pool") if name in sys.modules])
        """) as program:
        assert program.wait() == 0 and program.out == "[]\n", (program.out, program.err)


def test_progress_goes_to_the_error_stream(tmp_path):
    with Program(tmp_path, """
        import manyhands
        def square(x):
            return x * x
        if __name__ == "__main__":
            with manyhands.Pool(2) as pool:
                print(pool.map(square, range(20), progress="squares"), list(pool.imap(square, range(3), progress=True)))
        """) as program:
        assert program.wait() == 0
        assert program.out == f"{[i * i for i in range(20)]} [0, 1, 4]\n" and "squares: 100%" in program.err and "20/20" in program.err


def test_a_daemonic_process_ends_with_its_program(tmp_path):
    with Program(tmp_path, """
        import manyhands
        def stay():
            tell(os.getpid())
            w.send("there")
            while True:
                signal.pause()
        if __name__ == "__main__":
            r, w = manyhands.Pipe(False)
            p = manyhands.Process(target=stay, daemon=True)
            p.start()
            r.recv()
        """) as program:
        pid = int(program.hear())
        assert program.wait(10) == 0 and wait_for_end(pid, 0) and program.err == ""


def test_fork_in_a_program_with_both_libraries(tmp_path):
    """A program that uses both at once: neither takes the other's children for its own."""
    with Program(tmp_path, """
        import multiprocessing, manyhands
        def square(x):
            return x * x
        def leave(n):
            sys.exit(n)
        if __name__ == "__main__":
            ours = manyhands.Pool(2)
            theirs = multiprocessing.Pool(2)
            ps = [m.Process(target=leave, args=(i,)) for i, m in enumerate([multiprocessing, manyhands] * 3)]
            for p in ps:
                p.start()
            print(ours.map(square, range(5)), theirs.map(square, range(5)))
            for p in ps:
                p.join()
            print([p.exitcode for p in ps])
            theirs.terminate()
            theirs.join()
            print(ours.map(square, range(3)))
        """) as program:
        assert program.wait(30) == 0, program.err
        assert program.out == "[0, 1, 4, 9, 16] [0, 1, 4, 9, 16]\n[0, 1, 2, 3, 4, 5]\n[0, 1, 4]\n" and program.err == ""


def test_subprocess_and_pool_do_not_steal_each_others_children(tmp_path):
    with Program(tmp_path, """
        import subprocess, threading
        import manyhands
        def square(x):
            return x * x
        if __name__ == "__main__":
            pool = manyhands.Pool(2, maxtasksperchild=2)
            codes = []
            t = threading.Thread(target=lambda: codes.extend(subprocess.run(["sh", "-c", f"exit {i}"]).returncode for i in range(10)))
            t.start()
            for _ in range(20):
                assert pool.map(square, range(20), 1) == [i * i for i in range(20)]
            t.join()
            print(codes)
        """) as program:
        assert program.wait(30) == 0 and program.out == f"{list(range(10))}\n" and program.err == ""
