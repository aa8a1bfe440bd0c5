"""Our engine: native tasks, Python tasks with and without IPython, output, signals, aborts, death."""

from __future__ import annotations

import fcntl
import json
import mmap
import os
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from peers import COMMAND, SOON_S, Client, Controller, Message, receive, wait_for



class EngineProcess:
    """`manyhands engine` at a controller."""

    def __init__(self, controller: Controller, *options: str, environment: dict[str, str] | None = None) -> None:
        self.log_path = controller.folder / f"engine-{time.monotonic_ns()}.log"
        self.log = open(self.log_path, "wb")
        self.process = subprocess.Popen([COMMAND, "engine", f"--file={controller.engine_file}", *options], stderr=self.log, stdout=self.log,
                                        env={**os.environ, **(environment or {})})
        wait_for(lambda: "Completed registration" in self.text() or self.process.poll() is not None, 60)
        assert self.process.poll() is None, self.text()

    def text(self) -> str:
        return self.log_path.read_text()

    @property
    def executor(self) -> int:
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return int(children[0])

    def stop(self) -> int:
        if self.process.poll() is None:
            self.process.terminate()
        status = self.process.wait(SOON_S)
        self.log.close()
        return status


@pytest.fixture(scope="module")
def library() -> Path:
    return Path(__file__).parents[2] / "build" / "tests" / "libcluster-tasks.so" # made by meson from tasks.c


@pytest.fixture
def controller(tmp_path: Path) -> Iterator[Controller]:
    controller = Controller(tmp_path)
    yield controller
    assert controller.stop() == 0


# ---- native


class Native:
    def __init__(self, controller: Controller, *options: str) -> None:
        self.engine = EngineProcess(controller, *options)
        self.client = Client(controller)
        self.uuid = next(iter(self.client.engines().values())).encode()

    def send(self, name: object, *buffers: bytes) -> None:
        self.client.mux.send_multipart([self.uuid, *self.client.frames("call_request", {"function": name}, buffers=buffers)])

    def call(self, name: object, *buffers: bytes) -> Message:
        self.send(name, *buffers)
        return receive(self.client.mux)

    def close(self) -> None:
        self.client.close()
        self.engine.stop()


@pytest.fixture
def native(controller: Controller, library: Path) -> Iterator[Native]:
    native = Native(controller, f"--library={library}")
    yield native
    native.close()


def test_native_functions_are_called_by_name(native: Native) -> None:
    reply = native.call("square", struct.pack("q", 12))
    assert reply.kind == "call_reply" and reply.content == {"status": "ok"} and reply.buffers == [struct.pack("q", 144)]
    assert reply.metadata["status"] == "ok" and reply.metadata["engine"].encode() == native.uuid
    big = os.urandom(5_000_000)
    assert native.call("reverse", big).buffers == [big[::-1]]
    assert native.call("reverse").buffers == [b""]


@pytest.mark.parametrize(("name", "buffers", "ename", "evalue"), [
    ("complain", (b"x",), "TaskFailed", "that is no number"),
    ("square", (b"x",), "MH_ERR_INVALID", "invalid argument"),
    ("no such", (b"x",), "UnknownFunction", "no such object"),
    ("square", (b"x", b"y"), "ValueError", "one buffer"),
    (5, (b"x",), "ValueError", "function"),
])
def test_native_failures_are_answers(native: Native, name: object, buffers: tuple[bytes, ...], ename: str, evalue: str) -> None:
    reply = native.call(name, *buffers)
    assert (reply.content["status"], reply.content["ename"]) == ("error", ename) and evalue in reply.content["evalue"]
    assert reply.content["engine_info"] == {"engine_uuid": native.uuid.decode(), "engine_id": 0, "method": "call"}
    assert native.call("square", struct.pack("q", 3)).buffers == [struct.pack("q", 9)]


def test_many_refusals_in_a_row_are_answered(native: Native) -> None:
    native.send("reverse", b"x" * 30_000_000) # what follows waits behind it
    for _ in range(900):
        native.send(5)
    assert receive(native.client.mux).content == {"status": "ok"}
    assert all(receive(native.client.mux).content["ename"] == "ValueError" for _ in range(900))
    assert native.call("square", struct.pack("q", 3)).buffers == [struct.pack("q", 9)]


def test_a_native_task_that_dies_is_answered_and_the_engine_goes_on(native: Native) -> None:
    native.send("die", b"x")
    native.send("square", struct.pack("q", 5))
    first, second = receive(native.client.mux), receive(native.client.mux)
    assert first.content["ename"] == "WorkerLost" and second.buffers == [struct.pack("q", 25)]


@pytest.mark.parametrize(("spoil", "says"), [
    (lambda path: path.chmod(0o777), "can be written by others"),
    (lambda path: path.unlink(), "No such file"),
    (lambda path: path.write_bytes(b"no library"), "can't be used"),
])
def test_a_library_that_cannot_be_trusted_or_loaded_is_refused(controller: Controller, library: Path, tmp_path: Path, spoil: Any, says: str) -> None:
    copy = tmp_path / "copy.so"
    copy.write_bytes(library.read_bytes())
    copy.chmod(0o755)
    spoil(copy)
    done = subprocess.run([COMMAND, "engine", f"--file={controller.engine_file}", f"--library={copy}"], capture_output=True, timeout=SOON_S)
    assert done.returncode == 1 and says in done.stderr.decode()


def test_an_engine_without_a_controller_says_so(tmp_path: Path) -> None:
    done = subprocess.run([COMMAND, "engine", f"--profile-dir={tmp_path}", "--timeout=0.2"], capture_output=True, timeout=SOON_S)
    assert done.returncode == 1 and b"start a controller" in done.stderr
    done = subprocess.run([COMMAND, "engine", "--no-such-option"], capture_output=True, timeout=SOON_S)
    assert done.returncode == 2 and b"--no-such-option" in done.stderr


def test_a_forged_request_is_dropped(native: Native) -> None:
    frames = native.client.frames("call_request", {"function": "die"})
    frames[1] = b"0" * 64
    native.client.mux.send_multipart([native.uuid, *frames])
    assert native.call("square", struct.pack("q", 2)).buffers == [struct.pack("q", 4)]


# ---- Python

ipp = pytest.importorskip("ipyparallel")


def there(f: Any) -> Any:
    """A function that needs no module of ours at the engine."""
    f.__module__ = "__main__"
    return f


@there
def sleep_long():  # type: ignore[no-untyped-def]
    import time

    print("runs", flush=True)
    time.sleep(100)


class Python:
    def __init__(self, folder: Path, *options: str, environment: dict[str, str] | None = None) -> None:
        self.controller = Controller(folder)
        self.engine = EngineProcess(self.controller, *options, environment=environment)
        self.rc = ipp.Client(str(self.controller.client_file))
        self.rc.wait_for_engines(1, timeout=60)
        self.view = self.rc[0]
        self.view.block = True

    def close(self) -> None:
        self.rc.close()
        self.engine.stop()
        assert self.controller.stop() == 0


@pytest.fixture(scope="module", params=["plain", "ipython"])
def python(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Python]:
    if request.param == "ipython":
        pytest.importorskip("IPython")
    cluster = Python(tmp_path_factory.mktemp(request.param), f"--shell={request.param}", "--InteractiveShell.colors=nocolor")
    yield cluster
    cluster.close()


def test_the_namespace_lasts(python: Python) -> None:
    view = python.view
    view.execute("a = 5")
    view["b"] = b"x" * 3_000_000
    assert view["a"] == 5 and view["b"] == b"x" * 3_000_000
    assert view.apply(there(lambda x: x + a), 2) == 7  # type: ignore[name-defined]  # noqa: F821
    assert view.apply(there(lambda x: x), ipp.Reference("a")) == 5
    assert python.rc.load_balanced_view().map_sync(there(lambda x: x * x), range(5)) == [0, 1, 4, 9, 16]


def test_code_in_the_namespace_unpickles_what_must_be_imported_first(python: Python) -> None:
    data = b"cwave\nopen\n." # a module that no engine has
    assert python.view.apply(there(lambda data: __import__("pickle").loads(data).__name__), data) == "open"


def test_output_reaches_who_asked(python: Python) -> None:
    reply = python.view.execute("import sys\nprint('out')\nprint('err', file=sys.stderr)\n6 * 7", silent=False, block=False)
    reply.get(SOON_S)
    reply.wait_for_output(SOON_S)
    assert (reply.stdout, reply.stderr) == ("out\n", "err\n")
    assert reply.get().execute_result["data"]["text/plain"] == "42"

    def talk() -> int:
        print("from a task")
        return 1

    call = python.view.apply_async(there(talk))
    assert call.get(SOON_S) == 1
    call.wait_for_output(SOON_S)
    assert call.stdout == "from a task\n"


def test_errors_show_the_users_code_alone(python: Python) -> None:
    def divide() -> float:
        return 1 / 0

    with pytest.raises(ipp.RemoteError) as caught:
        python.view.apply(there(divide))
    error = caught.value
    assert error.ename == "ZeroDivisionError" and error.engine_info["method"] == "apply" and error.engine_info["engine_id"] == 0
    assert "divide" in error.traceback and "executor.py" not in error.traceback
    with pytest.raises(ipp.RemoteError, match="NameError"):
        python.view.execute("undefined_name")


@pytest.mark.parametrize("raised", ["raise SystemExit(3)", "raise KeyboardInterrupt", "exec('def f(): return f()') or eval('f()', locals())"])
def test_whatever_a_task_raises_is_an_answer(python: Python, raised: str) -> None:
    def run(code: str) -> None:
        exec(code, {})

    with pytest.raises(ipp.RemoteError):
        python.view.apply(there(run), raised)
    assert python.view.apply(there(lambda: 1)) == 1


def test_results_that_cannot_travel_fail_alone(python: Python) -> None:
    with pytest.raises(ipp.RemoteError, match="[Pp]ickl"):
        python.view.apply(there(lambda: __import__("threading").Lock()))
    assert python.view.apply(there(lambda: 1)) == 1


@pytest.mark.parametrize("answer", ["'\\udc80'", "(_ for _ in [])"])
def test_errors_whose_text_is_none_are_answers(python: Python, answer: str) -> None:
    def fail(text: str) -> None:
        raise ValueError(eval(text))

    with pytest.raises(ipp.RemoteError, match="ValueError"):
        python.view.apply(there(fail), answer)


def test_answers_nested_too_deep_are_errors(python: Python) -> None:
    """By JSON's rules for what a client may read; python's own come first."""
    if python.rc[0].apply_sync(there(lambda: __import__("sys").modules.get("IPython") is None)):
        pytest.skip("does not apply: only IPython shows values in other ways than as text")
    python.view.execute("""
class Deep:
    def __init__(self, depth): self.depth = depth
    def _repr_mimebundle_(self, include=None, exclude=None):
        nested = []
        for _ in range(self.depth): nested = [nested]
        return {"application/json": nested}
""")
    for depth in (600, 100_000):
        client = Client(python.controller)
        uuid = next(iter(client.engines().values())).encode()
        client.mux.send_multipart([uuid, *client.frames("execute_request", {"code": "", "user_expressions": {"x": f"Deep({depth})"}})])
        reply = receive(client.mux)
        client.close()
        assert (reply.content["status"], reply.content["ename"]) == ("error", "ValueError")
    assert python.view.apply(there(lambda: 1)) == 1


def test_cells_behind_one_that_fails_do_not_run(python: Python) -> None:
    view = python.view
    view["n"] = 0
    other = ipp.Client(str(python.controller.client_file))
    running = view.apply_async(sleep_long)
    wait_for(lambda: running.stdout)
    waiting = [view.execute(code, silent=False, block=False) for code in ("1 / 0", "n += 1")]
    theirs, task = other[0].execute("n += 10", silent=False, block=False), view.apply_async(there(lambda: 5))
    wait_for(lambda: python.rc.queue_status()[0]["queue"] == 5)
    python.rc.send_signal("SIGINT", targets=0, block=True)
    with pytest.raises(ipp.RemoteError, match="ZeroDivisionError"):
        waiting[0].get(SOON_S)
    with pytest.raises(ipp.error.TaskAborted):
        waiting[1].get(SOON_S)
    theirs.get(SOON_S)
    assert (task.get(SOON_S), view["n"]) == (5, 10)
    other.close()


def test_signal_0_asks_whether_the_engine_lives(python: Python) -> None:
    python.rc.send_signal(0, targets=0, block=True)
    with pytest.raises(ipp.RemoteError, match="no signal"):
        python.rc.send_signal(65, targets=0, block=True)


def test_the_way_of_pickling_can_be_changed_and_back(python: Python) -> None:
    try:
        python.view.use_cloudpickle()
        assert python.view.apply(there(lambda: 1)) == 1
    finally:
        python.view.use_pickle()
    assert python.view.apply(there(lambda: __import__("manyhands.parallel.serialize.serialize").parallel.serialize.serialize.pickle.__name__)) == "pickle"


def test_required_objects_travel_along(python: Python) -> None:
    def double(x: int) -> int:
        return 2 * x

    task = ipp.require(required=there(double))(there(lambda x: required(x)))  # type: ignore[name-defined]  # noqa: F821
    assert python.view.apply(task, 4) == 8


def test_a_signal_interrupts_the_task_that_runs(python: Python) -> None:
    running = python.view.apply_async(sleep_long)
    wait_for(lambda: running.stdout)
    python.rc.send_signal(signal.SIGINT, targets=0, block=True)
    with pytest.raises(ipp.RemoteError, match="KeyboardInterrupt"):
        running.get(SOON_S)
    assert python.view.apply(there(lambda: 1)) == 1


def test_what_waits_can_be_aborted(python: Python) -> None:
    running = python.view.apply_async(sleep_long)
    wait_for(lambda: running.stdout)
    waiting = [python.view.apply_async(there(lambda: 1)) for _ in range(3)]
    python.view.abort(waiting[:2], block=True)
    for result in waiting[:2]:
        with pytest.raises(ipp.TaskAborted):
            result.get(SOON_S)
    python.rc.send_signal("SIGINT", targets=0, block=True)
    assert waiting[2].get(SOON_S) == 1


def test_clear_forgets(python: Python) -> None:
    python.view["gone"] = 1
    python.rc.clear(targets=0, block=True)
    with pytest.raises(ipp.RemoteError, match="NameError"):
        python.view.pull("gone")


def test_too_much_output_is_cut(python: Python) -> None:
    reply = python.view.execute("for _ in range(20): print('x' * 1_000_000)", block=False)
    reply.get(60)
    reply.wait_for_output(60)
    assert len(reply.stdout) < 17_000_000 and "output cut" in reply.stdout


def test_magics_and_data(tmp_path: Path) -> None:
    pytest.importorskip("IPython")
    startup = tmp_path / "startup.py"
    startup.write_text("from_startup = 11")
    folder = tmp_path / "profile"
    folder.mkdir()
    cluster = Python(folder, "--shell=ipython", environment={"PYTHONSTARTUP": str(startup)})
    try:
        assert cluster.view["from_startup"] == 11
        whos = cluster.view.execute("%whos", block=False)
        whos.get(SOON_S)
        whos.wait_for_output(SOON_S)
        assert "from_startup" in whos.stdout
        data = cluster.view.execute("from ipyparallel.datapub import publish_data\npublish_data({'i': 3})", block=False)
        data.get(SOON_S)
        data.wait_for_output(SOON_S)
        assert data.data == {"i": 3}
        shown = cluster.view.execute("from IPython.display import HTML, display\ndisplay(HTML('<b>x</b>'))", block=False)
        shown.get(SOON_S)
        shown.wait_for_output(SOON_S)
        assert shown.outputs[0]["data"]["text/html"] == "<b>x</b>"
        assert cluster.view.execute("import asyncio\nawait asyncio.sleep(0)\nz = 3") and cluster.view["z"] == 3
    finally:
        cluster.close()


def test_an_executor_that_dies_is_noticed_at_once(tmp_path: Path) -> None:
    cluster = Python(tmp_path, "--shell=plain")
    try:
        running = cluster.view.apply_async(sleep_long)
        wait_for(lambda: running.stdout)
        os.kill(cluster.engine.executor, signal.SIGKILL)
        with pytest.raises(ipp.RemoteError, match="EngineError"):
            running.get(SOON_S)
        assert cluster.engine.process.wait(SOON_S) == 1
        assert "killed by signal 9" in cluster.engine.text()
        wait_for(lambda: not cluster.rc.ids)
    finally:
        cluster.close()


def test_an_executor_dies_with_its_engine(tmp_path: Path) -> None:
    cluster = Python(tmp_path, "--shell=plain")
    try:
        executor = cluster.engine.executor
        cluster.engine.process.kill()
        cluster.engine.process.wait(SOON_S)
        wait_for(lambda: not Path(f"/proc/{executor}").exists() or "Z" in Path(f"/proc/{executor}/stat").read_text().rpartition(")")[2])
    finally:
        cluster.close()


def test_a_client_can_stop_an_engine(tmp_path: Path) -> None:
    cluster = Python(tmp_path, "--shell=plain")
    try:
        cluster.rc.shutdown(targets=[0], block=True)
        assert cluster.engine.process.wait(SOON_S) == 0
    finally:
        cluster.close()


def make_pipe() -> tuple[Any, list[int], mmap.mmap]:
    """The engine's end of a pipe, the numbers by which an executor is given the other, and the claims of its calls."""
    from manyhands import _core

    memory = os.memfd_create("claims", os.MFD_ALLOW_SEALING)
    os.pwrite(memory, bytes(4096), 0)
    fcntl.fcntl(memory, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
    ours, theirs = _core.Pipe._pair(True)
    parts = theirs._parts()
    numbers = [os.dup(parts[0]), os.dup(parts[1]), parts[2], memory]
    theirs.close()
    return ours, numbers, mmap.mmap(memory, 4096)


def test_the_link_refuses_what_does_not_fit() -> None:
    from manyhands.parallel.engine.link import Kind, Link

    ours, numbers, _ = make_pipe()
    link = Link(*numbers)
    link.send(Kind.REPLY, [b"a", memoryview(b"bb"), b""])
    ours.send_bytes(ours.recv_bytes())
    assert link.receive() == (Kind.REPLY, [b"a", b"bb", b""])
    for spoiled in (b"", b"1234567", struct.pack("<IIQ", Kind.REPLY, 1, 100) + b"short", struct.pack("<II", 1, 1 << 31), struct.pack("<II", 1, 0) + b"more"):
        ours.send_bytes(spoiled)
        with pytest.raises(ValueError, match="frames"):
            link.receive()
    ours.close()
    with pytest.raises(EOFError):
        link.receive()


def message(kind: int, *frames: bytes) -> bytes:
    made = struct.pack(f"<II{len(frames)}Q", kind, len(frames), *map(len, frames))
    for frame in frames:
        made += bytes(-len(made) % 16) + frame
    return made


def frames_of(data: bytes) -> list[bytes]:
    count = struct.unpack_from("<I", data, 4)[0]
    found, at = [], 8 + 8 * count
    for size in struct.unpack_from(f"<{count}Q", data, 8):
        at += -at % 16
        found.append(data[at: at + size])
        at += size
    return found


FREE, OFFERED, REVOKED = 0, 1, 3


def test_a_call_that_was_taken_back_is_not_begun() -> None:
    from manyhands.parallel import serialize
    from manyhands.parallel.engine.link import Kind

    ours, numbers, claims = make_pipe()
    ours.send_bytes(message(Kind.SETUP, b'{"shell": "plain"}'))
    for number, state in enumerate((OFFERED, REVOKED, OFFERED)):
        claims[4 * number: 4 * number + 4] = struct.pack("<I", state)
        ours.send_bytes(message(Kind.APPLY, struct.pack("<I", number), *serialize.pack_apply_message(abs, (-number,), {})))
    descriptors = [numbers[0], numbers[1], numbers[3]]
    executor = subprocess.Popen([sys.executable, "-m", "manyhands.parallel.engine", *map(str, numbers)], pass_fds=descriptors)
    for descriptor in descriptors:
        os.close(descriptor)
    replies = []
    while len(replies) < 3:
        assert ours.poll(SOON_S)
        replies.append(ours.recv_bytes())
    ours.close()
    assert executor.wait(SOON_S) == 0
    assert [serialize.deserialize_object(frames_of(reply)[2:])[0] for reply in replies[1:]] == [0, 2]
    assert struct.unpack_from("<3I", claims) == (FREE, FREE, FREE)


def test_json_says_what_it_can() -> None:
    from manyhands.parallel.engine.link import dump_json

    assert json.loads(dump_json({"a": float("nan"), "b": b"\x00", "c": {1}, 3: object})) == {"a": "nan", "b": "AA==", "c": [1], "3": repr(object)}
