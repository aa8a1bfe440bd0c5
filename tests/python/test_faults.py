"""Everything that can go wrong in a task or to a worker: it answers, costs its own task and no other, and the pool goes on.

What must be survived is often what the standard library hangs on, so only ours runs here.
"""

from __future__ import annotations

import ctypes
import itertools
import os
import resource
import select
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import tasks
from helpers import eventually, is_running
from programs import Program, wait_for_end
from tasks import divide, echo, pid, read_file, square

import manyhands
from manyhands import PoisonTask, SerializationError, TaskExited, TaskTimeout, WorkerLost

pytestmark = pytest.mark.timeout(60)
SOON = 30
METHODS = ["fork", "forkserver", "spawn"]
SQUARES = [i * i for i in range(40)]


def works(pool: Any) -> bool:
    return pool.map(square, range(40), 1) == SQUARES and pool.apply(square, (7,)) == 49 and list(pool.imap(square, range(40), 3)) == SQUARES


@pytest.fixture
def new():
    """Makes pools that are gone at the end, and that work until then."""
    made: list[Any] = []

    def make(*args: Any, method: str = "fork", **options: Any) -> Any:
        made.append(manyhands.get_context(method).Pool(*args, **options))
        return made[-1]

    yield make
    for pool in made:
        assert works(pool), "the pool must go on"
        pool.close()
        pool.join()


@pytest.fixture
def pool(new):
    return new(2)


@pytest.fixture
def gate(tmp_path):
    path = tmp_path / "gate"
    os.mkfifo(path)
    return str(path)


def open_gate(path: str) -> None:
    """Let one reader through; returns when it reads."""
    Path(path).write_text("open")


def quiet() -> None:
    """In a worker that is about to die by its own fault: neither a core file nor pytest's report of the signal."""
    import faulthandler

    faulthandler.disable()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def die(how: str) -> None:
    quiet()
    if how == "os._exit(0)":
        os._exit(0)
    if how == "os._exit(7)":
        os._exit(7)
    if how == "abort":
        os.abort()
    if how == "segfault":
        ctypes.string_at(0)
    if how == "libc exit":
        ctypes.CDLL(None).exit(5)
    if how == "thread":
        threading.Thread(target=os._exit, args=(6,)).start()
    os.kill(os.getpid(), getattr(signal, how, signal.SIGKILL))
    while True:
        signal.pause()


HOW = {"os._exit(0)": (0, 0), "os._exit(7)": (0, 7), "abort": (signal.SIGABRT, -6), "segfault": (signal.SIGSEGV, -11), "libc exit": (0, 5),
       "SIGKILL": (signal.SIGKILL, -9), "SIGTERM": (signal.SIGTERM, -15), "SIGBUS": (signal.SIGBUS, -7), "SIGHUP": (signal.SIGHUP, -1)}


def die_if(x: int, how: str = "SIGKILL", bad: int = 3) -> int:
    if x == bad:
        die(how)
    return x * x


# ---- workers that die -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", HOW)
def test_worker_that_dies_loses_its_task_alone(pool, how):
    results = [pool.apply_async(die_if, (i, how)) for i in range(20)]
    for i, result in enumerate(results):
        if i == 3:
            with pytest.raises(WorkerLost) as caught:
                result.get(SOON)
        else:
            assert result.get(SOON) == i * i
    lost = caught.value
    assert (lost.signal, lost.exitcode, lost.attempt) == (*HOW[how], 1) and type(lost) is WorkerLost
    assert not is_running(lost.pid) and lost.pid not in pool._pids() and isinstance(lost, manyhands.ProcessError)
    assert (signal.Signals(lost.signal).name if lost.signal else str(lost.exitcode)) in str(lost)


@pytest.mark.parametrize("method", METHODS)
def test_whatever_the_start_method(new, method):
    pool = new(2, method=method)
    with pytest.raises(WorkerLost):
        pool.apply(die_if, (3,))
    for victim in pool._pids():  # idle ones
        os.kill(victim, signal.SIGKILL)
    assert works(pool)
    with pytest.raises(TaskTimeout):
        pool.apply(signal.pause, timeout=0.2)
    with pytest.raises(WorkerLost):
        pool.map(die_if, range(10), 1)


@pytest.mark.parametrize("method", ["map", "map_async", "starmap", "starmap_async"])
def test_the_whole_call_fails_when_a_chunk_is_lost_and_the_rest_is_done(pool, tmp_path, method):
    log = tmp_path / "log"
    call = getattr(pool, method)
    rows = [(str(log), i) for i in range(20)]
    with pytest.raises(WorkerLost):
        if method.startswith("star"):
            result = call(note_or_die, rows, 1)
        else:
            result = call(note_or_die_row, rows, 1)
        if method.endswith("_async"):
            result.get(SOON)
    assert sorted(map(int, log.read_text().split())) == [i for i in range(20) if i != 3]


def note_or_die(path: str, i: int) -> None:
    if i == 3:
        die("SIGKILL")
    tasks.append(path, f"{i} ")


def note_or_die_row(row: tuple[str, int]) -> None:
    note_or_die(*row)


@pytest.mark.parametrize("method", ["imap", "imap_unordered"])
def test_lazy_goes_on_after_a_loss(pool, method):
    it = getattr(pool, method)(die_if, range(50))
    got = []
    while True:
        try:
            got.append(next(it))
        except WorkerLost:
            got.append(-1)
        except StopIteration:
            break
    assert sorted(got) == sorted(-1 if i == 3 else i * i for i in range(50)) and (method != "imap" or got[3] == -1)


def test_many_deaths_while_others_work(pool):
    results = [pool.apply_async(die_if, (i % 10, how)) for i, how in zip(range(60), itertools.cycle(HOW))]
    kinds = []
    for i, result in enumerate(results):
        try:
            assert result.get(SOON) == (i % 10) ** 2
        except WorkerLost:
            kinds.append(i)
    assert kinds == [i for i in range(60) if i % 10 == 3]


def test_killed_from_outside_while_busy(pool, gate):
    busy = pool.apply_async(tell_pid_and_wait, (gate,))
    victim = int(read_file(gate))
    others = pool.map_async(square, range(200), 1)
    os.kill(victim, signal.SIGKILL)
    with pytest.raises(WorkerLost) as caught:
        busy.get(SOON)
    assert caught.value.pid == victim and others.get(SOON) == [i * i for i in range(200)]


def tell_pid_and_wait(path: str) -> None:
    Path(path).write_text(str(os.getpid()))
    while True:
        signal.pause()


def test_idle_workers_killed_again_and_again(pool):
    for round_ in range(15):
        for victim in pool._pids():
            os.kill(victim, signal.SIGKILL)
        if round_ % 2:
            assert pool.apply(square, (3,)) == 9
        else:
            assert pool.map(square, range(10), 1) == SQUARES[:10]
    assert len(set(pool._pids())) == 2


def test_killed_at_any_moment_of_a_map(pool):
    """A worker is killed at a moment that nobody chose; what it ran is run again, nothing else is touched, and nothing twice in the results."""
    stop = threading.Event()

    def hunt() -> None:
        for n in itertools.count():
            pids = pool._pids()
            if stop.wait(0.003 * (n % 5)):
                return
            if pids:
                try:
                    os.kill(pids[n % len(pids)], signal.SIGKILL)
                except ProcessLookupError:
                    pass

    hunter = threading.Thread(target=hunt)
    hunter.start()
    try:
        for n in range(8):
            assert pool.map(square, range(500), 5 if n % 2 else None, retries=(1000, 0)) == [i * i for i in range(500)]
            assert list(pool.imap(square, range(100), 3, retries=(1000, 0))) == [i * i for i in range(100)]
    finally:
        stop.set()
        hunter.join()


def test_a_worker_that_closes_its_descriptors(pool):
    assert pool.map(echo, range(3), 1) == [0, 1, 2]
    for _ in range(3):
        result = pool.apply_async(close_everything)
        try:
            result.get(SOON)  # an answer, or a lost worker, and never silence
        except WorkerLost:
            pass
        assert pool.map(square, range(20), 1, retries=(5, 0)) == SQUARES[:20]


def close_everything() -> str:
    os.closerange(3, 4096)
    return "closed"


@pytest.mark.parametrize("threads", [0, 1])
def test_the_server_of_forks_killed_while_busy(new, gate, threads):
    """Also before its standby is there, and in a program that has threads."""
    ended = threading.Event()
    others = [threading.Thread(target=ended.wait) for _ in range(threads)]
    for other in others:
        other.start()
    try:
        kill_servers(new, gate)
    finally:
        ended.set()
        for other in others:
            other.join()


def kill_servers(new, gate):
    for _ in range(10):
        pool = new(2)
        tasks, parents = {}, {}
        for _ in range(2):
            busy = pool.apply_async(tell_pid_and_wait, (gate,))
            worker = int(read_file(gate))
            tasks[worker] = busy
            parents[worker] = int(Path(f"/proc/{worker}/stat").read_text().rpartition(")")[2].split()[1])
        servers = set(parents.values()) - {os.getpid()}  # the first worker is the caller's own child
        if not servers:
            pytest.skip("does not apply: workers are the caller's own children")
        for server in servers:
            os.kill(server, signal.SIGKILL)
        assert pool.map(square, range(20), 1, retries=5) == SQUARES[:20]
        for worker, busy in tasks.items():
            if parents[worker] == os.getpid():
                os.kill(worker, signal.SIGKILL)
            with pytest.raises(WorkerLost):
                busy.get(SOON)
            assert wait_for_end(worker, 5)


# ---- retries, timeouts -----------------------------------------------------------------------------------------


def attempt(path: str) -> int:
    """How often it was called, with this path."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.write(fd, b"x")
    size = os.fstat(fd).st_size
    os.close(fd)
    return size


def dies_until(path: str, good: int) -> int:
    n = attempt(path)
    if n < good:
        die("SIGKILL")
    return n


def raises_until(path: str, good: int) -> int:
    n = attempt(path)
    if n < good:
        raise LookupError(n)
    return n


def calls_of(path: Path) -> int:
    return len(path.read_text())


def every_way(pool: Any, f: Any, paths: Any, good: int, **options: Any) -> list[Any]:
    """The same through each method: what it gave, or the exception."""
    p = [str(next(paths)) for _ in range(8)]
    calls = [
        lambda: pool.apply(f, (p[0], good), **options), lambda: pool.apply_async(f, (p[1], good), **options).get(SOON),
        lambda: pool.starmap(f, [(p[2], good)], **options)[0], lambda: pool.starmap_async(f, [(p[3], good)], **options).get(SOON)[0],
        lambda: pool.map(Star(f, good), [p[4]], **options)[0], lambda: pool.map_async(Star(f, good), [p[5]], **options).get(SOON)[0],
        lambda: next(pool.imap(Star(f, good), [p[6]], **options)), lambda: next(pool.imap_unordered(Star(f, good), [p[7]], **options)),
    ]
    got = []
    for call in calls:
        try:
            got.append(call())
        except Exception as e:
            got.append(e)
    return got


class Star:
    def __init__(self, f: Any, good: int) -> None:
        self.f, self.good = f, good

    def __call__(self, path: str) -> Any:
        return self.f(path, self.good)


@pytest.fixture
def paths(tmp_path):
    return (tmp_path / f"attempts{i}" for i in itertools.count())


def test_second_attempt_succeeds(pool, paths):
    assert every_way(pool, dies_until, paths, 2, retries=1) == [2] * 8
    assert every_way(pool, raises_until, paths, 2, retries=1) == [2] * 8
    assert every_way(pool, dies_until, paths, 3, retries=(2, 0)) == [3] * 8
    assert every_way(pool, raises_until, paths, 3, retries=(0, 2)) == [3] * 8


def test_retries_used_up(pool, paths, tmp_path):
    for e in every_way(pool, dies_until, paths, 100, retries=(2, 5)):
        assert type(e) is PoisonTask and isinstance(e, WorkerLost) and e.attempt == 3 and e.signal == signal.SIGKILL
    for e in every_way(pool, raises_until, paths, 100, retries=(5, 2)):
        assert type(e) is LookupError and e.args == (3,)
    assert {calls_of(p) for p in tmp_path.iterdir()} == {3}


def test_retries_of_one_kind_are_none_of_the_other(pool, paths):
    assert {type(e) for e in every_way(pool, dies_until, paths, 2, retries=(0, 5))} <= {WorkerLost, PoisonTask}
    assert {type(e) for e in every_way(pool, raises_until, paths, 2, retries=(5, 0))} == {LookupError}
    assert {type(e) for e in every_way(pool, dies_until, paths, 2)} == {WorkerLost}


def test_retries_of_a_whole_pool(new, paths):
    pool = new(2, retries=(1, 0), timeout=20)
    assert pool.apply(dies_until, (str(next(paths)), 2)) == 2
    with pytest.raises(LookupError):
        pool.apply(raises_until, (str(next(paths)), 2))
    assert pool.apply(raises_until, (str(next(paths)), 2), retries=(0, 1)) == 2


def test_poison_leaves_the_others_alone(pool):
    others = pool.map_async(square, range(300), 1)
    poison = [pool.apply_async(die_if, (3,), retries=2) for _ in range(3)]
    for p in poison:
        with pytest.raises(PoisonTask):
            p.get(SOON)
    assert others.get(SOON) == [i * i for i in range(300)]


def test_timeout_ends_the_task_and_its_worker(pool, gate):
    others = pool.map_async(square, range(300), 1)
    late = pool.apply_async(tell_pid_and_wait, (gate,), timeout=0.3)
    victim = int(read_file(gate))
    with pytest.raises(TaskTimeout) as caught:
        late.get(SOON)
    assert isinstance(caught.value, (manyhands.TimeoutError, WorkerLost)) and caught.value.pid == victim
    assert wait_for_end(victim, 5) and others.get(SOON) == [i * i for i in range(300)]


def test_timeout_through_each_method(pool):
    for call in (lambda: pool.apply(wait_for_ever, (1,), timeout=0.1), lambda: pool.map(wait_for_ever, [1], timeout=0.1),
                 lambda: pool.map_async(wait_for_ever, [1], timeout=0.1).get(SOON), lambda: pool.starmap(wait_for_ever, [(1,)], timeout=0.1),
                 lambda: pool.starmap_async(wait_for_ever, [(1,)], timeout=0.1).get(SOON), lambda: next(pool.imap(wait_for_ever, [1], timeout=0.1)),
                 lambda: next(pool.imap_unordered(wait_for_ever, [1], timeout=0.1))):
        with pytest.raises(TaskTimeout):
            call()


def wait_for_ever(x: Any) -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT, signal.SIGUSR1})
    while True:
        signal.pause()


def test_timeout_counts_from_the_start_of_the_task(new, gate):
    """Tasks that wait for a worker are not late."""
    pool = new(1)
    first = pool.apply_async(read_file, (gate,))
    queued = [pool.apply_async(square, (i,), timeout=0.2) for i in range(5)]
    with pytest.raises(manyhands.TimeoutError):
        queued[0].get(0.4)
    open_gate(gate)
    assert [q.get(SOON) for q in queued] == SQUARES[:5] and first.get() == "open"


def test_timeout_while_the_interpreters_lock_is_held(pool):
    with pytest.raises(TaskTimeout):
        pool.apply(hold_the_lock, timeout=0.2)


def hold_the_lock() -> None:
    ctypes.PyDLL(None).pause()


def test_stopped_worker(pool, gate):
    """As a debugger or a frozen container does it."""
    stopped = pool.apply_async(stop_oneself, (gate,), timeout=0.5)
    victim = int(read_file(gate))
    with pytest.raises(TaskTimeout) as caught:
        stopped.get(SOON)
    assert caught.value.pid == victim and wait_for_end(victim, 5)


def stop_oneself(path: str) -> None:
    Path(path).write_text(str(os.getpid()))
    os.kill(os.getpid(), signal.SIGSTOP)


def test_stopped_for_a_while(pool, gate):
    result = pool.apply_async(stop_oneself, (gate,))
    victim = int(read_file(gate))
    assert pool.map(square, range(20), 1) == SQUARES[:20]  # the other worker goes on
    eventually(lambda: Path(f"/proc/{victim}/stat").read_text().rpartition(")")[2].split()[0] == "T")
    os.kill(victim, signal.SIGCONT)
    assert result.get(SOON) is None


def test_terminate_with_a_stopped_worker(gate):
    pool = manyhands.get_context("fork").Pool(2)
    result = pool.apply_async(stop_oneself, (gate,))
    victim = int(read_file(gate))
    begin = time.monotonic()
    pool.terminate()
    pool.join()
    assert time.monotonic() - begin < 2 and wait_for_end(victim, 0)
    with pytest.raises(manyhands.CancelledError):
        result.get(SOON)


# ---- tasks that would end the program ------------------------------------------------------------------------------


class Odd(BaseException):
    pass


@pytest.mark.parametrize("error, code", [(SystemExit(), None), (SystemExit(3), 3), (SystemExit("text"), "text"), (SystemExit(None), None),
                                         (KeyboardInterrupt(), None), (GeneratorExit(), None), (Odd("odd"), None)], ids=repr)
def test_exceptions_that_are_no_errors(pool, error, code):
    pids = set(pool._pids())
    for call in (lambda: pool.apply(tasks.raise_it, (error,)), lambda: pool.map(tasks.raise_it, [error], 1), lambda: next(pool.imap(tasks.raise_it, [error]))):
        with pytest.raises(TaskExited) as caught:
            call()
        assert caught.value.code == code
        assert type(error).__name__ in str(caught.value) or "sys.exit" in str(caught.value)
        assert "raise_it" in str(caught.value.__cause__)
    assert set(pool._pids()) == pids  # the workers stay


def recurse(n: int) -> int:
    return recurse(n + 1) + 1


def recurse_far(n: int) -> int:
    quiet()
    sys.setrecursionlimit(10**9)
    return recurse_in_c(n)


def recurse_in_c(n: int) -> int:
    return max([n], key=recurse_in_c)


def deep(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


class Repeats:
    def __repr__(self) -> str:
        return repr(self)

    def __reduce__(self) -> Any:
        raise ValueError("no way")


def test_infinite_recursion(pool):
    for _ in range(2):
        with pytest.raises(RecursionError, match="maximum recursion depth exceeded"):
            pool.apply(recurse, (0,))
        with pytest.raises(RecursionError):
            pool.map(recurse, [0, 0], 1)


def test_recursion_without_a_limit(pool):
    """Up to here the stack itself ends: an answer or a lost worker."""
    try:
        pool.apply(recurse_far, (0,), timeout=20)
    except (RecursionError, WorkerLost, MemoryError):
        pass
    else:
        raise AssertionError("it returned")


def test_a_result_or_argument_that_nests_too_deep(pool):
    with pytest.raises((RecursionError, SerializationError)):
        pool.apply(deep, (100_000,))
    with pytest.raises((RecursionError, SerializationError)):
        pool.apply(len, (deep(100_000),))
    with pytest.raises((RecursionError, SerializationError)):
        pool.map(len, [deep(100_000)])


def test_repr_that_never_ends(pool):
    with pytest.raises(SerializationError):
        pool.apply(Repeats)


# ---- what cannot travel ----------------------------------------------------------------------------------------------


class Refuses:
    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __reduce__(self) -> Any:
        raise self.error


class RefusesThere:
    """Goes out, and raises where it arrives: `where` says in which process."""

    def __init__(self, where: str, error: BaseException) -> None:
        self.where, self.error, self.home = where, error, os.getpid()

    def __reduce__(self) -> Any:
        return arrive, (self.where, self.error, self.home)


def arrive(where: str, error: BaseException, home: int) -> Any:
    if (where == "worker") == (os.getpid() != home):
        raise error
    return "arrived"


def dies_when_it_arrives() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class DiesThere:
    def __reduce__(self) -> Any:
        return dies_when_it_arrives, ()


def make_refusing(what: str, error: BaseException | None = None, home: int = 0) -> Any:
    if what == "lock":
        return threading.Lock()
    if what == "lambda":
        return lambda: 0
    if what == "generator":
        return (i for i in ())
    if what == "reduce":
        return Refuses(error or ValueError("no way"))
    if what == "parent":
        there = RefusesThere("parent", error or ValueError("no way back"))
        there.home = home
        return there
    return what


def raise_refusing(what: str, home: int = 0) -> None:
    raise CarriesIt(make_refusing(what, home=home))


class CarriesIt(Exception):
    pass


class TwoArguments(Exception):
    def __init__(self, a: int, b: int) -> None:
        super().__init__(f"{a} and {b}")


class KeywordOnly(Exception):
    def __init__(self, *, code: int) -> None:
        super().__init__()
        self.code = code


class BecomesText(Exception):
    def __reduce__(self) -> Any:
        return str, ("text",)


class KillsOnArrival(Exception):
    def __reduce__(self) -> Any:
        return dies_when_it_arrives, ()


def raise_class(name: str) -> None:
    if name == "TwoArguments":
        raise TwoArguments(1, 2)
    if name == "KeywordOnly":
        raise KeywordOnly(code=1)
    if name == "BecomesText":
        raise BecomesText("x")

    class Local(Exception):
        pass

    raise Local("local")


@pytest.mark.parametrize("what", ["lock", "lambda", "generator", "reduce"])
def test_result_that_cannot_be_pickled(pool, what):
    import multiprocessing.pool

    results = [pool.apply_async(make_refusing, (w,)) for w in ("a", what, "b", what, "c")]
    assert [results[i].get(SOON) for i in (0, 2, 4)] == ["a", "b", "c"]
    for i in (1, 3):
        with pytest.raises(multiprocessing.pool.MaybeEncodingError) as caught:
            results[i].get(SOON)
        assert isinstance(caught.value, SerializationError) and caught.value.value and caught.value.exc
    with pytest.raises(SerializationError):
        pool.map(make_refusing, ["a", what, "b"])
    it = pool.imap(make_refusing, ["a", what, "b"])
    assert next(it) == "a"
    with pytest.raises(SerializationError):
        next(it)
    assert next(it) == "b"
    seen: list[Any] = []
    pool.apply_async(make_refusing, (what,), error_callback=seen.append).wait(SOON)
    assert [type(e) for e in seen] == [SerializationError]


@pytest.mark.parametrize("error", [ValueError("v"), KeyError("k"), MemoryError("m"), RuntimeError("r"), StopIteration("s"), TypeError("t")], ids=repr)
def test_whatever_pickling_raises(pool, error):
    with pytest.raises(Exception) as caught:
        pool.apply(make_refusing, ("reduce", error))
    assert type(error).__name__ in repr(caught.value)
    with pytest.raises(Exception) as caught:
        pool.apply(echo, (Refuses(error),))
    assert type(error).__name__ in repr(caught.value)
    with pytest.raises(Exception) as caught:
        pool.map(echo, [1, Refuses(error)])
    assert type(error).__name__ in repr(caught.value)


def test_result_that_raises_in_the_caller(pool):
    home = os.getpid()
    results = [pool.apply_async(make_refusing, (w, None, home)) for w in ("a", "parent", "b")]
    assert results[0].get(SOON) == "a" and results[2].get(SOON) == "b"
    with pytest.raises(SerializationError, match="no way back"):
        results[1].get(SOON)
    with pytest.raises(SerializationError, match="no way back"):
        pool.starmap(make_refusing, [("a", None, home), ("parent", None, home)])
    seen: list[Any] = []
    pool.apply_async(make_refusing, ("parent", None, home), callback=seen.append, error_callback=seen.append).wait(SOON)
    assert [type(e) for e in seen] == [SerializationError]
    it = pool.imap(Named(home), ["a", "parent", "b"])
    assert next(it) == "a"
    with pytest.raises(SerializationError):
        next(it)
    assert next(it) == "b"


class Named:
    def __init__(self, home: int) -> None:
        self.home = home

    def __call__(self, what: str) -> Any:
        return make_refusing(what, None, self.home)


def test_argument_that_raises_in_the_worker(pool):
    bad = RefusesThere("worker", ValueError("not here"))
    results = [pool.apply_async(echo, (x,)) for x in (1, bad, 2)]
    assert results[0].get(SOON) == 1 and results[2].get(SOON) == 2
    with pytest.raises(SerializationError, match="not here"):
        results[1].get(SOON)
    for call in (lambda: pool.map(echo, [1, bad]), lambda: pool.starmap(echo, [(bad,)]), lambda: next(pool.imap(echo, [bad])),
                 lambda: pool.apply(echo, (), {"value": bad}), lambda: pool.map(CallableThat(bad), [1])):
        with pytest.raises(SerializationError, match="not here"):
            call()


class CallableThat:
    def __init__(self, *holds: Any) -> None:
        self.holds = holds

    def __call__(self, x: Any) -> Any:
        return x


def test_argument_that_kills_on_arrival(pool):
    for call in (lambda: pool.apply(echo, (DiesThere(),)), lambda: pool.map(echo, [DiesThere()]), lambda: pool.map(CallableThat(DiesThere()), [1])):
        with pytest.raises(WorkerLost):
            call()


@pytest.mark.parametrize("name", ["TwoArguments", "KeywordOnly", "BecomesText", "Local"])
def test_exception_that_cannot_travel(pool, name):
    results = [pool.apply_async(echo, (1,)), pool.apply_async(raise_class, (name,)), pool.apply_async(echo, (2,))]
    with pytest.raises(SerializationError, match=name) as caught:
        results[1].get(SOON)
    assert "raise_class" in str(caught.value.__cause__)
    assert results[0].get(SOON) == 1 and results[2].get(SOON) == 2
    with pytest.raises(SerializationError, match=name):
        pool.map(raise_class, [name])
    with pytest.raises(SerializationError, match=name):
        next(pool.imap(raise_class, [name]))


@pytest.mark.parametrize("what", ["lock", "lambda", "generator", "reduce", "parent"])
def test_exception_that_carries_what_cannot_travel(pool, what):
    with pytest.raises(SerializationError):
        pool.apply(raise_refusing, (what, os.getpid()))


def test_lambdas_closures_and_local_classes(pool):
    factor = 3

    def scaled(x: int) -> int:
        return x * factor

    class Local:
        def __init__(self, x: int) -> None:
            self.x = x

        def double(self) -> int:
            return self.x * 2

    def recursive(n: int) -> int:
        return 1 if n == 0 else n * recursive(n - 1)

    assert pool.map(lambda x: x + factor, [1, 2]) == [4, 5]
    assert pool.map(scaled, [1, 2]) == [3, 6] and pool.map(recursive, [3, 5]) == [6, 120]
    assert pool.apply(Local(4).double) == 8
    assert pool.apply(lambda o: o.x, (Local(5),)) == 5
    assert list(pool.imap_unordered(lambda x: scaled(x), [2])) == [6]
    factor = 4
    assert pool.map(scaled, [1]) == [4]  # a closure as it is now


# ---- size ----------------------------------------------------------------------------------------------------------------


def available_bytes() -> int:
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))


@pytest.mark.parametrize("megabytes", [150, pytest.param(1100, marks=pytest.mark.long)])
def test_large_results_and_arguments(pool, megabytes):
    size = megabytes << 20
    if available_bytes() < 6 * size:
        pytest.skip("too little memory")
    assert len(pool.apply(bytes, (size,))) == size
    assert pool.apply(len, (bytes(size),)) == size
    results = [pool.apply_async(square, (i,)) for i in range(5)]
    assert [r.get(SOON) for r in results] == SQUARES[:5]


def test_more_than_there_is(pool):
    for size in (2**45, 2**62):
        with pytest.raises((MemoryError, OSError, ValueError)):
            pool.apply(bytes, (size,))


def test_a_thousand_large_results_are_not_kept(new):
    pool = new(2, maxtasksperchild=300)
    size = 1 << 20
    for result in pool.imap_unordered(bytes, itertools.repeat(size, 1000)):
        assert len(result) == size
    assert pool.stats()["reply_bytes"] < 256 << 20


# ---- fork, streams, callbacks, functions ------------------------------------------------------------------------------------


def test_a_child_by_fork_may_not_use_the_pool(tmp_path):
    with Program(tmp_path, """
        import manyhands, time
        def square(x):
            return x * x
        def slow(x):
            signal.pause()
        if __name__ == "__main__":
            pool = manyhands.Pool(2)
            waiting = pool.apply_async(slow, (1,))
            done = pool.map_async(square, range(3))
            it = pool.imap(square, range(1000))
            next(it)
            child = os.fork()
            if child == 0:
                calls = [lambda: pool.apply(square, (1,)), lambda: pool.map(square, [1]), lambda: pool.map_async(square, [1]).get(), lambda: next(pool.imap(square, [1])),
                         lambda: waiting.get(), lambda: waiting.wait(), lambda: [next(it) for _ in range(999)], pool.join]
                for i, call in enumerate(calls):
                    try:
                        call()
                        tell(f"{i} answered")
                    except Exception as e:
                        tell(f"{i} {type(e).__name__}")
                os._exit(0)
            tell(f"child {os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])}")
            assert list(it) == [i * i for i in range(1, 1000)] and done.get() == [0, 1, 4] and pool.map(square, [4]) == [16]
            pool.terminate()
            pool.join()
            tell("end")
        """) as program:
        heard = [program.hear() for _ in range(10)]
        assert program.wait() == 0 and "Error" not in program.err  # from Python 3.12 on os.fork warns of threads, as with the standard pool
    assert all("answered" not in line or line.startswith("5 ") for line in heard), heard  # 5: wait gives None when nothing came
    assert heard[-2:] == ["child 0", "end"]


def test_what_tasks_print_appears_once(tmp_path):
    with Program(tmp_path, """
        import manyhands
        def speak(x):
            print("task", x)
            print("error", x, file=sys.stderr)
            if x == 2:
                os.kill(os.getpid(), signal.SIGKILL)
        if __name__ == "__main__":
            print("printed before, not flushed")
            with manyhands.Pool(2) as pool:
                rs = [pool.apply_async(speak, (x,)) for x in range(5)]
                for r in rs:
                    r.wait()
            with manyhands.Pool(2, maxtasksperchild=1) as pool:
                pool.map(speak, range(5, 8), 1)
                pool.close()
                pool.join()
        """) as program:
        assert program.wait() == 0
        out, err = program.out.splitlines(), program.err.splitlines()
    assert out.count("printed before, not flushed") == 1
    assert sorted(line for line in out if line.startswith("task")) == [f"task {x}" for x in range(8)]
    assert sorted(line for line in err if line.startswith("error")) == [f"error {x}" for x in range(8)]


def test_callback_that_raises(pool, monkeypatch):
    seen: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda u: seen.append(u.exc_type))
    for _ in range(3):
        assert pool.apply_async(square, (2,), callback=lambda r: 1 / 0).get(SOON) == 4
        assert pool.map_async(square, [2], callback=lambda r: sys.exit("callback")).get(SOON) == [4]
        with pytest.raises(ZeroDivisionError):
            pool.apply_async(divide, (0,), error_callback=lambda e: [][1]).get(SOON)
    assert seen.count(ZeroDivisionError) == 3 and seen.count(IndexError) == 3
    good: list[Any] = []
    assert pool.apply_async(square, (3,), callback=good.append).get(SOON) == 9 and good == [9]


def test_callback_that_uses_the_pool(pool):
    done, got = threading.Event(), []

    def again(result: int) -> None:
        got.append(pool.apply(square, (result,)))  # waits, in the callback's thread
        if len(got) < 5:
            pool.apply_async(square, (len(got),), callback=again)
        else:
            done.set()

    pool.apply_async(square, (2,), callback=again)
    assert done.wait(SOON) and got == [16, 1, 16, 81, 256]


def test_callback_that_ends_the_pool(new):
    pool = manyhands.get_context("fork").Pool(1)
    ended = threading.Event()
    pool.apply_async(square, (2,), callback=lambda r: (pool.terminate(), ended.set()))
    assert ended.wait(SOON)
    pool.join()


@pytest.mark.parametrize("method", METHODS)
def test_functions_that_were_not_there_when_the_pool_began(tmp_path, method):
    with Program(tmp_path, f"""
        import manyhands
        if __name__ == "__main__":
            pool = manyhands.get_context("{method}").Pool(2)
            assert pool.map(abs, [-1]) == [1]
            def late(x):
                return x + 1
            class Late:
                def __init__(self, x):
                    self.x = x
            print(pool.map(late, [1, 2]), pool.apply(lambda x: Late(x).x, (5,)))
            try:  # an instance says where its class is to be found, and there it is not
                print(pool.apply(str, (Late(5),)))
            except manyhands.SerializationError as e:
                print("Late" in str(e))
            def late(x):
                return x + 2
            print(pool.map(late, [1, 2]))
            pool.terminate()
            pool.join()
        """) as program:
        assert program.wait() == 0, program.err
        assert program.out.splitlines() == ["[2, 3] 5", "True", "[3, 4]"]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("what", ["raise RuntimeError('initializer')", "sys.exit(3)", "os._exit(4)", "os.kill(os.getpid(), 9)"])
def test_initializer_that_fails(tmp_path, method, what):
    """The standard library starts workers for ever and never answers."""
    if method != "fork" and "os.kill" not in what and "raise" not in what:
        pytest.skip("does not apply: with fork is enough")
    with Program(tmp_path, f"""
        import manyhands
        def initialize():
            {what}
        if __name__ == "__main__":
            try:
                pool = manyhands.get_context("{method}").Pool(2, initialize)
                results = [pool.apply_async(abs, (x,)) for x in range(5)]
                pool.map(abs, [1])
            except Exception as e:
                tell(f"error {{type(e).__name__}}: {{e}}")
            for r in results:
                try:
                    tell(r.get())
                except Exception as e:
                    tell(f"error {{type(e).__name__}}: {{e}}")
            pool.close()
            pool.join()
        """) as program:
        for _ in range(6):
            assert program.hear().startswith("error ")
        assert program.wait() == 0 and ("initializer" in program.err) == what.startswith("raise")
        assert not program.left_after(1)


def test_initializer_that_fails_once(new, tmp_path):
    """Bad luck with one worker is not the end of the pool."""
    pool = new(2, fail_at_first, (str(tmp_path / "count"),))
    assert works(pool)


def fail_at_first(path: str) -> None:
    if attempt(path) == 1:
        os.kill(os.getpid(), signal.SIGKILL)


def test_signals_in_the_caller_do_not_disturb(pool):
    """Handlers run while a call waits, and waits go on."""
    seen: list[int] = []
    before = signal.signal(signal.SIGUSR1, lambda *_: seen.append(1))
    stop = threading.Event()

    def send() -> None:
        while not stop.wait(0.002):
            os.kill(os.getpid(), signal.SIGUSR1)

    thread = threading.Thread(target=send)
    thread.start()
    try:
        while len(seen) < 10:
            assert pool.map(square, range(200), 1) == [i * i for i in range(200)]
            assert pool.apply_async(square, (3,)).get(SOON) == 9
            assert list(pool.imap(square, range(50))) == [i * i for i in range(50)]
    finally:
        stop.set()
        thread.join()
        signal.signal(signal.SIGUSR1, before)


@pytest.mark.parametrize("method", METHODS)
def test_signals_while_things_start_and_end(tmp_path, method):
    """Nothing that a handled signal interrupts is left undone."""
    with Program(tmp_path, f"""
        import manyhands, time
        def busy(x):
            while True:
                signal.pause()
        if __name__ == "__main__":
            signal.signal(signal.SIGALRM, lambda *_: None)
            signal.setitimer(signal.ITIMER_REAL, 0.002, 0.002)
            ctx = manyhands.get_context("{method}")
            for _ in range(15 if "{method}" == "fork" else 2):
                pool = ctx.Pool(3)
                pool.map_async(busy, range(10), 1)
                pool.terminate()
                pool.join()
                with ctx.Pool(2) as pool:
                    assert pool.map(abs, range(-20, 0), 1) == list(range(20, 0, -1))
                    pool.close()
                    pool.join()
                p = ctx.Process(target=busy, args=(1,))
                p.start()
                p.terminate()
                p.join()
                assert p.exitcode == -15, p.exitcode
            signal.setitimer(signal.ITIMER_REAL, 0)
            tell("end")
        """) as program:
        assert program.hear() == "end" and program.wait() == 0 and program.err == "", program.err


@pytest.mark.parametrize("method", METHODS)
def test_signals_faster_than_a_start(tmp_path, method):
    """A process starts however often signals come: each must not mean to begin anew."""
    with Program(tmp_path, f"""
        import manyhands
        if __name__ == "__main__":
            signal.signal(signal.SIGALRM, lambda *_: None)
            p = manyhands.get_context("{method}").Process(target=abs, args=(1,))
            signal.setitimer(signal.ITIMER_REAL, 0.0003, 0.0003)
            p.start()
            signal.setitimer(signal.ITIMER_REAL, 0)
            p.join()
            tell(str(p.exitcode))
        """) as program:
        assert program.hear(60) == "0" and program.wait() == 0


def test_a_signal_during_terminate(tmp_path):
    """At whatever instant it comes, no worker is forgotten."""
    with Program(tmp_path, """
        import manyhands
        def busy(x):
            while True:
                signal.pause()
        if __name__ == "__main__":
            signal.signal(signal.SIGALRM, lambda *_: None)
            ctx = manyhands.get_context("fork")
            for i in range(100):
                pool = ctx.Pool(3)
                pool.map_async(busy, range(10), 1)
                signal.setitimer(signal.ITIMER_REAL, 1e-6 + 5e-6 * i)
                pool.terminate()
                pool.join()
            signal.setitimer(signal.ITIMER_REAL, 0)
            tell("end")
        """) as program:
        assert program.hear() == "end" and program.wait() == 0 and program.err == "", program.err


def test_a_task_that_starts_threads_and_processes(pool):
    assert pool.map(with_thread, range(5), 1) == [0, 2, 4, 6, 8]
    assert pool.map(with_program, range(2), 1) == ["0\n", "1\n"]


def with_thread(x: int) -> int:
    got: list[int] = []
    t = threading.Thread(target=lambda: got.append(x * 2))
    t.start()
    t.join()
    return got[0]


def with_program(x: int) -> str:
    import subprocess

    return subprocess.run(["echo", str(x)], capture_output=True, text=True, check=True).stdout


def test_dropped_results_and_iterators_do_no_harm(pool):
    for i in range(200):
        pool.apply_async(square, (i,))
        pool.map_async(square, range(5), 1)
        pool.apply_async(divide, (0,))
    for _ in range(20):
        next(pool.imap_unordered(square, itertools.count()))


def test_out_of_descriptors(new):
    """A worker that has none left fails its task; the caller that has none left gets an OSError, and goes on when it has."""
    pool = new(2)
    with pytest.raises(OSError):
        pool.apply(use_up_descriptors)
    held = []
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(256, hard), hard))
    try:
        while True:
            held.append(os.open("/dev/null", os.O_RDONLY))
    except OSError:
        pass
    try:
        assert pool.map(square, range(20), 1) == SQUARES[:20]  # needs none
        with pytest.raises(OSError):
            manyhands.get_context("fork").Pool(2)
    finally:
        for fd in held:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def use_up_descriptors() -> None:
    held = []
    try:
        while True:
            held.append(os.open("/dev/null", os.O_RDONLY))
    finally:
        for fd in held:
            os.close(fd)


_ = (pid, select)
