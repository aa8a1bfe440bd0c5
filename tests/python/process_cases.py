"""A program: what processes do, case by case, with the library and the start method that its arguments name.

    python process_cases.py LIBRARY METHOD [CASE...]

Each case asserts what must be true and returns what happened; a line of JSON for each says {"case": ..., "answer": ...}. The tests run it
with the standard library and with ours, and compare.
"""

from __future__ import annotations

import importlib
import json
import os
import re
import select
import signal
import sys
import threading
import traceback
from typing import Any, Callable

lib: Any = None
ctx: Any = None
method = ""
CASES: dict[str, Callable[[], Any]] = {}
SOON = 20


def case(f: Callable[[], Any]) -> Callable[[], Any]:
    CASES[f.__name__] = f
    return f


def raised(call: Callable[[], Any]) -> str:
    try:
        call()
    except BaseException as e:
        return f"{type(e).__name__}: {e}"
    return "nothing"


def finished(target: Any, *args: Any, **kwargs: Any) -> int | None:
    """The exit code of a process."""
    p = ctx.Process(target=target, args=args, kwargs=kwargs)
    p.start()
    p.join(SOON)
    return p.exitcode


# ---- what children run ---------------------------------------------------------------------------------------


def nothing() -> None:
    pass


def send(conn: Any, *args: Any, **kwargs: Any) -> None:
    conn.send((args, sorted(kwargs.items())))
    conn.close()


def leave(how: str, value: Any = None) -> None:
    if how == "raise":
        raise value
    if how == "exit":
        sys.exit(value)
    if how == "_exit":
        os._exit(value)
    if how == "signal":
        if value == signal.SIGINT:
            signal.signal(value, signal.SIG_DFL)
        os.kill(os.getpid(), value)


def wait_for(conn: Any) -> None:
    try:
        conn.recv()
    except EOFError:
        pass


def hold(conn: Any) -> None:
    """Says that it is there, then waits for ever; a signal with a handler is never missed."""
    r, w = os.pipe()
    os.set_blocking(w, False)
    signal.set_wakeup_fd(w)
    conn.send("here")
    while True:
        os.read(r, 1)


def hold_and_ignore(conn: Any) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    hold(conn)


def hold_and_tidy(conn: Any) -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(3))
    hold(conn)


def about(conn: Any) -> None:
    import multiprocessing

    me = multiprocessing.current_process()
    parent = multiprocessing.parent_process()
    conn.send({
        "name": me.name, "daemon": me.daemon, "pid is own": me.pid == os.getpid(), "ident": me.ident == me.pid, "parent pid": parent.pid,
        "parent name": parent.name, "parent alive": parent.is_alive(), "children": len(multiprocessing.active_children()),
        "stdin": sys.stdin.read(), "main": __name__, "authkey": len(me.authkey), "exitcode": me.exitcode, "repr": anonymous(repr(me)),
        "lib current": lib_of(me).current_process() is me, "threads": threading.active_count(), "alive": me.is_alive(),
        "sigint": str(signal.getsignal(signal.SIGINT)) == str(signal.default_int_handler), "method": multiprocessing_method(me),
    })


def lib_of(me: Any) -> Any:
    return importlib.import_module("manyhands" if type(me).__module__.startswith("manyhands") else "multiprocessing")


def multiprocessing_method(me: Any) -> str:
    return lib_of(me).get_start_method()


def anonymous(text: str) -> str:
    return re.sub(r"(pid|parent)=\d+", r"\1=N", text)


def nest(conn: Any, depth: int, lib_name: str, method_name: str) -> None:
    if depth:
        context = importlib.import_module(lib_name).get_context(method_name)
        p = context.Process(target=nest, args=(conn, depth - 1, lib_name, method_name))
        p.start()
        p.join()
        conn.send((depth, p.exitcode, p.name.rpartition("-")[2]))
    sys.exit(depth + 10)


def make_daemon_child(conn: Any, lib_name: str, method_name: str) -> None:
    context = importlib.import_module(lib_name).get_context(method_name)
    conn.send(raised(context.Process(target=nothing).start))


def leave_children(conn: Any, lib_name: str, method_name: str) -> None:
    """Ends with a daemonic child that waits for ever: it must be ended; and with another that is to be waited for."""
    context = importlib.import_module(lib_name).get_context(method_name)
    r, w = context.Pipe(False)
    daemon = context.Process(target=hold, args=(w,), daemon=True)
    daemon.start()
    r.recv()
    conn.send(daemon.pid)
    context.Process(target=send, args=(conn, "waited for")).start()


def write_streams() -> None:
    print("to stdout")
    print("to stderr", file=sys.stderr)
    sys.stdout.write("no newline at the end")


def thread_that_ends_later(conn: Any) -> None:
    threading.Thread(target=lambda: conn.send(conn.recv())).start()


def exit_handlers(conn: Any) -> None:
    import atexit
    from multiprocessing import util

    util.Finalize(None, conn.send, ("finalizer",), exitpriority=1)
    atexit.register(conn.send, "atexit")


class Sub:
    """Made a subclass of the context's Process at once: see define."""


def define() -> None:
    global Sub

    class Sub(ctx.Process):  # type: ignore[no-redef]
        def __init__(self, conn: Any, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self.conn = conn

        def run(self) -> None:
            self.conn.send(["run of the subclass", self.name])
            super().run()
            sys.exit(9)

    Sub.__qualname__ = "Sub"
    globals()["Sub"] = Sub


# ---- cases ---------------------------------------------------------------------------------------------------


@case
def exit_codes() -> Any:
    wanted = [
        (("return",), 0), (("raise", ValueError("x")), 1), (("raise", KeyboardInterrupt()), 1), (("exit", 0), 0), (("exit", 7), 7), (("exit", None), 0),
        (("exit", "a text"), 1), (("exit", True), 1), (("exit", 255), 255), (("exit", 256), 0), (("exit", -1), 255), (("_exit", 3), 3),
        (("_exit", 0), 0), (("signal", signal.SIGKILL), -9), (("signal", signal.SIGTERM), -15), (("signal", signal.SIGUSR1), -signal.SIGUSR1),
        (("signal", signal.SIGINT), -2), (("exit", (1, 2)), 1), (("exit", 2.5), 1),
    ]
    processes = []
    for row in wanted:
        p = ctx.Process(target=leave, args=row[0])
        p.start()
        processes.append(p)
        if len(processes) % 6 == 0:
            p.join()
    for p in processes:
        p.join(SOON)
    codes = [p.exitcode for p in processes]
    assert codes == [code for _, code in wanted], codes
    return codes


@case
def arguments() -> Any:
    r, w = ctx.Pipe(False)
    p = ctx.Process(target=send, args=[w, 1, "two", [3]], kwargs={"four": 4, "five": None}, name="with arguments")
    p.start()
    answer = r.recv()
    p.join(SOON)
    assert answer == ((1, "two", [3]), [("five", None), ("four", 4)]) and p.exitcode == 0
    return [list(answer[0]), answer[1], p.name]


@case
def inside_the_child() -> Any:
    answers = []
    for options in ({}, {"name": "named", "daemon": True}):
        r, w = ctx.Pipe(False)
        p = ctx.Process(target=about, args=(w,), **options)
        p.start()
        answer = r.recv()
        p.join(SOON)
        assert answer.pop("parent pid") == os.getpid() and answer["pid is own"] and answer["parent alive"]
        answer["name"] = re.sub(r"\d+", "N", answer["name"])
        answer["repr"] = re.sub(r"Process-\d+", "Process-N", answer["repr"])
        assert answer["name"] == options.get("name", p.__class__.__name__ + "-N") and answer["daemon"] == options.get("daemon", False)
        answers.append(answer)
    return answers


@case
def life_of_a_process() -> Any:
    here, there = ctx.Pipe()
    p = ctx.Process(target=wait_for, args=(there,), name="P")
    seen: list[Any] = [p.pid, p.ident, p.exitcode, p.is_alive(), anonymous(repr(p)), raised(p.join), raised(lambda: p.sentinel), raised(p.kill).split(":")[0]]
    p.start()
    there.close()
    seen += [p.pid == p.ident, p.is_alive(), p.exitcode, anonymous(repr(p)), raised(p.start), raised(p.close), p in ctx.active_children(), p.join(0), p.join(0.01)]
    seen += [raised(lambda: setattr(p, "daemon", True)), raised(lambda: setattr(p, "name", "Q")), p.name, bool(select.select([p.sentinel], [], [], 0)[0])]
    here.send("end")
    assert select.select([p.sentinel], [], [], SOON)[0] == [p.sentinel]
    p.join(SOON)
    seen += [p.is_alive(), p.exitcode, anonymous(repr(p)), p in ctx.active_children(), p.join(), p.join(0), raised(p.start), raised(p.terminate), raised(p.kill)]
    p.close()
    seen += [raised(p.close), raised(p.is_alive), raised(p.join), raised(lambda: p.exitcode), raised(lambda: p.pid), raised(lambda: p.sentinel),
             raised(p.terminate), raised(p.start), anonymous(repr(p)), p.name]
    return seen


@case
def sentinels() -> Any:
    from multiprocessing import connection

    pairs = [ctx.Pipe() for _ in range(3)]
    processes = [ctx.Process(target=wait_for, args=(there,)) for _, there in pairs]
    for p in processes:
        p.start()
    assert all(type(p.sentinel) is int for p in processes)
    assert connection.wait([p.sentinel for p in processes], 0) == []
    order = []
    for i in (1, 0, 2):
        waiting = [p.sentinel for p in processes if p.exitcode is None]
        pairs[i][0].send("end")
        order.append([p.sentinel for p in processes].index(connection.wait(waiting, SOON)[0]))
        processes[i].join(SOON)
    return order


@case
def terminate_and_kill() -> Any:
    answers = []
    for target, call in ((hold, "terminate"), (hold, "kill"), (hold_and_ignore, "kill"), (hold_and_tidy, "terminate")):
        r, w = ctx.Pipe(False)
        p = ctx.Process(target=target, args=(w,))
        p.start()
        assert r.recv() == "here" and p.is_alive()
        assert getattr(p, call)() is None
        p.join(SOON)
        answers.append([call, p.exitcode, p.is_alive()])
    assert [a[1] for a in answers] == [-15, -9, -9, 3]
    return answers


@case
def killed_by_another() -> Any:
    r, w = ctx.Pipe(False)
    p = ctx.Process(target=hold, args=(w,))
    p.start()
    r.recv()
    os.kill(p.pid, signal.SIGKILL)
    p.join(SOON)
    assert p.exitcode == -9
    return p.exitcode, anonymous(repr(p))


@case
def many_at_once() -> Any:
    r, w = ctx.Pipe(False)
    processes = [ctx.Process(target=send, args=(w, i)) for i in range(5)]
    for p in processes:
        p.start()
    for p in processes:
        p.join(SOON)
    return sorted(r.recv()[0][0] for _ in processes), [p.exitcode for p in processes]


@case
def subclass() -> Any:
    r, w = ctx.Pipe(False)
    p = Sub(w, name="sub", target=send, args=(w, "target"))
    p.start()
    answers = [r.recv(), r.recv()]
    p.join(SOON)
    return answers, p.exitcode, anonymous(repr(p))


@case
def nested() -> Any:
    r, w = ctx.Pipe(False)
    p = ctx.Process(target=nest, args=(w, 2, lib.__name__, method))
    p.start()
    p.join(SOON)
    return [list(r.recv()) for _ in range(2)], p.exitcode


@case
def daemons() -> Any:
    seen: list[Any] = []
    for daemon in (True, False, None):
        p = ctx.Process(target=nothing, daemon=daemon)
        seen.append(p.daemon)
    p.daemon = True
    seen.append(p.daemon)
    r, w = ctx.Pipe(False)
    p = ctx.Process(target=make_daemon_child, args=(w, lib.__name__, method), daemon=True)
    p.start()
    answer = r.recv()
    p.join(SOON)
    # The one difference: our daemons may have children, which end with them, so that pools of processes nest.
    assert answer.startswith("AssertionError: daemonic") if lib.__name__ == "multiprocessing" else answer == "nothing", answer
    return seen, p.exitcode


@case
def children_at_the_end() -> Any:
    r, w = ctx.Pipe(False)
    p = ctx.Process(target=leave_children, args=(w, lib.__name__, method))
    p.start()
    pid = r.recv()
    try:
        daemon = os.pidfd_open(pid)
    except ProcessLookupError:
        daemon = -1
    p.join(SOON)
    answer = r.recv()
    assert daemon < 0 or select.select([daemon], [], [], SOON)[0], "the daemonic child lives on"
    return answer, p.exitcode


@case
def streams() -> Any:
    if method == "forkserver":  # its children write where the server did from the beginning
        return 0
    r, w = os.pipe()
    saved = [os.dup(1), os.dup(2)]
    sys.stdout.flush()
    try:
        os.dup2(w, 1), os.dup2(w, 2)
        code = finished(write_streams)
    finally:
        os.dup2(saved[0], 1), os.dup2(saved[1], 2)
        os.close(w)
    text = os.read(r, 65536).decode()
    assert text.count("to stdout") == 1 == text.count("to stderr") and "no newline at the end" in text
    return code


@case
def threads_are_waited_for() -> Any:
    here, there = ctx.Pipe()
    p = ctx.Process(target=thread_that_ends_later, args=(there,))
    p.start()
    p.join(0.02)
    alive = p.is_alive()
    here.send("go")
    p.join(SOON)
    return alive, here.recv(), p.exitcode


@case
def finalizers_run() -> Any:
    r, w = ctx.Pipe(False)
    p = ctx.Process(target=exit_handlers, args=(w,))
    p.start()
    answers = [r.recv()]
    p.join(SOON)
    while r.poll(0):
        answers.append(r.recv())
    assert answers.count("atexit") <= 1  # children that are forks run their own from Python 3.13 on, ours always
    return "finalizer" in answers, p.exitcode


@case
def counting() -> Any:
    before = len(ctx.active_children())
    here, there = ctx.Pipe()
    processes = [ctx.Process(target=wait_for, args=(there,)) for _ in range(3)]
    for p in processes:
        p.start()
    there.close()
    seen = [before, len(ctx.active_children()), len(lib.active_children())]
    for _ in processes:
        here.send("end")
    for p in processes:
        p.join(SOON)
    numbers = [int(p.name.rpartition("-")[2]) for p in processes]
    return seen, len(ctx.active_children()), [n - numbers[0] for n in numbers], processes[0].name.rpartition("-")[0]


@case
def in_the_main_process() -> Any:
    me = lib.current_process()
    return [me.name, me.daemon, me.pid == os.getpid(), me.exitcode, anonymous(repr(me)), lib.parent_process() is None, raised(me.start).split(":")[0],
            raised(me.join).split(":")[0]]


@case
def wrong_calls() -> Any:
    class Fake:
        pass

    started = ctx.Process(target=nothing)
    started.start()
    started.join(SOON)
    return [
        raised(lambda: ctx.Process(group=1)), raised(lambda: ctx.Process(None, nothing, "name", (), {}, 1)), raised(lambda: ctx.Process(target=nothing, args=5)),
        raised(lambda: ctx.Process(target=nothing, kwargs=5)), raised(lambda: ctx.Process(nonsense=1)), raised(lambda: ctx.Process(target=nothing, args=None)),
        raised(started.start), raised(lambda: ctx.Process().join()), raised(lambda: ctx.Process().terminate()).split(":")[0],
        raised(lambda: ctx.Process().close()), raised(lambda: setattr(ctx.Process(), "name", 5)), raised(lambda: ctx.Process(name=5).name),
        raised(lambda: lib.get_context("nonsense")), raised(lambda: started.join("x")).split(":")[0], raised(lambda: ctx.Process().is_alive()),
        raised(lambda: ctx.Process().exitcode), raised(lambda: ctx.Process().run()), raised(lambda: setattr(ctx.Process(), "authkey", 5)).split(":")[0],
    ]


@case
def target_that_does_not_travel() -> Any:
    """Only ours has a way: the functions go by value. Fork needs none."""
    r, w = ctx.Pipe(False)
    if method != "fork" and lib.__name__ != "manyhands":
        return 0
    mark = os.getpid()
    p = ctx.Process(target=lambda: w.send(mark))
    p.start()
    w.close()
    assert r.poll(SOON) and r.recv() == mark
    p.join(SOON)
    return p.exitcode


@case
def argument_that_does_not_travel() -> Any:
    if method == "fork":
        return ""
    p = ctx.Process(target=nothing, args=(threading.Lock(),))
    answer = raised(p.start)
    assert answer.startswith("TypeError") and "lock" in answer
    assert finished(nothing) == 0
    return answer


@case
def descriptors_do_not_grow() -> Any:
    finished(nothing)
    before = len(os.listdir("/proc/self/fd"))
    for i in range(4):
        p = ctx.Process(target=nothing)
        p.start()
        p.join(SOON)
        if i % 2:
            p.close()
        del p
    import gc

    gc.collect()
    after = len(os.listdir("/proc/self/fd"))
    assert after <= before, (before, after)
    return 0


@case
def join_of_a_process_of_another() -> Any:
    if method != "fork":
        return ""
    hold, held = ctx.Pipe()
    p = ctx.Process(target=held.recv)  # it runs meanwhile: of one that has ended q would know that
    p.start()
    r, w = ctx.Pipe(False)
    q = ctx.Process(target=try_to_use, args=(w, p))
    q.start()
    answer = r.recv()
    q.join(SOON)
    hold.send("go")
    p.join(SOON)
    return answer, p.exitcode


def try_to_use(conn: Any, p: Any) -> None:
    conn.send([raised(p.join), raised(p.is_alive), raised(p.terminate) if False else "", raised(p.close)])


@case
def start_with_threads() -> Any:
    """A thread that holds a lock of Python's: no child may hang on it."""
    stop, holding = threading.Event(), threading.Event()

    def work() -> None:
        holding.set()
        stop.wait(SOON)

    t = threading.Thread(target=work)
    t.start()
    holding.wait()
    try:
        code = finished(nothing)
    finally:
        stop.set()
        t.join()
    return code


def main() -> None:
    global lib, ctx, method
    lib, method = importlib.import_module(sys.argv[1]), sys.argv[2]
    ctx = lib.get_context(method)
    define()
    if __name__ != "__main__":
        return
    for name in sys.argv[3:] or CASES:
        try:
            answer, failed = CASES[name](), False
        except BaseException:
            answer, failed = traceback.format_exc(), True
        print(json.dumps({"case": name, "failed": failed, "answer": answer}), flush=True)


if len(sys.argv) > 2 and __name__ in ("__main__", "__mp_main__"):
    main()
