"""What a controller promises those who share a machine or a network with it: a test for each line of the list in docs/faults.md."""

from __future__ import annotations

import contextlib
import os
import resource
import socket
import stat
import statistics
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq

import peers
from peers import COMMAND, SOON_S, Client, Engine, receive, wait_for
from test_limits import GREETING, connect, read_to_the_end, ready

started: list[Any] = []


class Controller(peers.Controller):
    def __init__(self, folder: Path, *options: str) -> None:
        started.append(self)
        super().__init__(folder, *options)


@pytest.fixture(autouse=True)
def nothing_stays() -> Iterator[None]:
    """A test that fails leaves no controller behind."""
    started.clear()
    yield
    for controller in started:
        if controller.process.poll() is None:
            controller.process.kill()
            controller.process.wait()


LIBRARY = Path(__file__).parents[2] / "build" / "tests" / "libcluster-tasks.so"
CURVE_GREETING = GREETING[:12] + b"CURVE".ljust(20, b"\0") + b"\0" * 32


def log_of(controller: Controller) -> str:
    return (controller.folder / "log").read_text()


def refused(folder: Path, *options: str, environment: dict[str, str] | None = None) -> str:
    done = subprocess.run([COMMAND, "controller", f"--profile-dir={folder}", *options], capture_output=True, text=True, timeout=SOON_S, env=environment)
    assert done.returncode != 0
    return done.stderr


def round_trip(client: Client, engine: Engine) -> None:
    client.submit()
    engine.answer(engine.take())
    assert receive(client.task).content == {"status": "ok"}


def listening(pid: int) -> list[str]:
    """Addresses of the TCP sockets at which a process listens."""
    inodes = set()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            inodes.add(os.readlink(entry).removeprefix("socket:[").rstrip("]"))
    found = []
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and fields[9] in inodes:
                found.append(fields[1].split(":")[0])
    return found


# ---- where it listens, and with what --------------------------------------------------------------


def test_loopback_is_the_default(cluster) -> None:
    found = listening(cluster.controller.process.pid)
    assert len(found) == 14 and set(found) == {"0100007F"}
    assert cluster.controller.client["interface"] == "tcp://127.0.0.1"


@pytest.mark.parametrize("address", ["0.0.0.0", "*", "[::]", "192.0.2.1"])
def test_beyond_loopback_only_encrypted(tmp_path: Path, address: str) -> None:
    said = refused(tmp_path, f"--ip={address}")
    assert "CURVE" in said and address in said
    assert not (tmp_path / "security" / "ipcontroller-client.json").exists()


def test_who_listens_everywhere_is_found(tmp_path: Path) -> None:
    """The files say where, as the stock ones do: interface and location; ours and stock peers make an address of both."""
    controller = Controller(tmp_path, "--ip=0.0.0.0", "--enable-curve")
    for info in (controller.client, controller.engine):
        assert info["interface"] == "tcp://0.0.0.0" and info["location"] == socket.gethostname()
    engine = subprocess.Popen([COMMAND, "engine", f"--file={controller.engine_file}", f"--library={LIBRARY}"], stderr=subprocess.DEVNULL)
    try:
        wait_for(lambda: "registered" in log_of(controller))
    finally:
        engine.terminate()
        engine.wait(SOON_S)
    assert controller.stop() == 0
    controller = Controller(tmp_path, "--ip=0.0.0.0", "--enable-curve", "--location=192.0.2.7") # one that is not here
    assert controller.client["location"] == "192.0.2.7"
    said = subprocess.run([COMMAND, "engine", f"--file={controller.engine_file}", f"--library={LIBRARY}", "--timeout=1"], capture_output=True, text=True, timeout=SOON_S)
    assert said.returncode != 0 and "192.0.2.7" in said.stderr
    assert controller.stop() == 0


def test_no_dashboard_listens(cluster) -> None:
    """There is none: nothing that speaks HTTP answers at any port, and nothing listens that is not in the connection files."""
    ports = {p for info in (cluster.controller.client, cluster.controller.engine) for key, p in info.items() if isinstance(p, int)}
    ports |= set(cluster.controller.engine["broadcast"])
    assert len(listening(cluster.controller.process.pid)) == len(ports) == 14
    for channel in ("registration", "task", "iopub"):
        peer = connect(cluster, channel)
        peer.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n".ljust(64, b"\n"))
        assert b"HTTP" not in read_to_the_end(peer)


# ---- files ----------------------------------------------------------------------------------------


def test_files_are_private_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        folder = tmp_path / "profile"
        folder.mkdir()
        controller = Controller(folder)
    finally:
        os.umask(before)
    assert stat.S_IMODE((folder / "security").stat().st_mode) == 0o700
    found = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (folder / "security").iterdir()}
    assert {"ipcontroller-client.json", "ipcontroller-engine.json"} <= found.keys()
    assert {name: mode for name, mode in found.items() if mode != 0o600} == {}
    controller.stop()


@pytest.mark.parametrize("what", ["mode", "link", "owner"])
def test_files_that_others_could_have_written_are_not_read(tmp_path: Path, what: str) -> None:
    controller = Controller(tmp_path)
    path = controller.engine_file
    if what == "mode":
        path.chmod(0o644)
    elif what == "link":
        path.rename(tmp_path / "elsewhere")
        path.symlink_to(tmp_path / "elsewhere")
    elif os.geteuid() == 0:
        os.chown(path, 65534, 65534)
    else:
        pytest.skip("needs root, to make a file somebody else's")
    said = subprocess.run([COMMAND, "engine", f"--file={path}"], capture_output=True, text=True, timeout=SOON_S)
    assert said.returncode != 0 and path.name in said.stderr
    controller.stop()


def test_files_are_never_written_through_a_link(tmp_path: Path) -> None:
    """Written beside and moved into place: whoever was here before keeps what it has, and gets no key."""
    folder, victim = tmp_path / "security", tmp_path / "victim"
    folder.mkdir(mode=0o700)
    victim.write_text("mine")
    for name in ("ipcontroller-client.json", "ipcontroller-engine.json"):
        (folder / name).symlink_to(victim)
    process = subprocess.Popen([COMMAND, "controller", f"--profile-dir={tmp_path}"], stderr=subprocess.DEVNULL)
    try:
        wait_for(lambda: not (folder / "ipcontroller-client.json").is_symlink())
        assert victim.read_text() == "mine"
        assert stat.S_IMODE((folder / "ipcontroller-client.json").stat().st_mode) == 0o600
    finally:
        process.terminate()
        assert process.wait(SOON_S) == 0


# ---- keys -----------------------------------------------------------------------------------------


def test_keys_are_in_no_log_and_on_no_command_line(tmp_path: Path) -> None:
    controller = Controller(tmp_path, "--log-level=10")
    key = controller.client["key"]
    assert len(key) == 64 and int(key, 16) # 256 bits
    engine = subprocess.Popen([COMMAND, "engine", f"--file={controller.engine_file}", f"--library={LIBRARY}", "--log-level=10"], stderr=open(tmp_path / "engine", "w"))
    wait_for(lambda: "registered" in log_of(controller))
    client = Client(controller)
    client.submit()
    receive(client.task)
    for process in (controller.process, engine):
        assert key.encode() not in Path(f"/proc/{process.pid}/cmdline").read_bytes()
        assert key.encode() not in Path(f"/proc/{process.pid}/environ").read_bytes()
    engine.terminate()
    engine.wait(SOON_S)
    controller.stop()
    client.close()
    assert key not in log_of(controller) and key not in (tmp_path / "engine").read_text()


def test_every_controller_has_a_key_of_its_own(tmp_path: Path) -> None:
    keys = []
    for _ in range(3):
        controller = Controller(tmp_path)
        keys.append(controller.client["key"])
        controller.stop()
    assert len(set(keys)) == 3


# ---- messages: signature, replay, shape, JSON, and only then what they say ------------------------


def test_a_forgery_does_not_keep_out_what_it_copies(cluster) -> None:
    """Who changes a message and is there first gains nothing: what is not verified is not remembered."""
    client, engine = cluster.client(), cluster.engine()
    good = client.frames("apply_request", buffers=(b"x",))
    client.task.send_multipart([*good[:5], b'{"a":1}', *good[6:]]) # its signature, another content
    client.task.send_multipart([*good[:4], good[4] + good[5][:1], good[5][1:]]) # the same bytes, cut elsewhere
    client.task.send_multipart(good)
    request = engine.take()
    assert request.signature == good[1]
    engine.answer(request)
    assert receive(client.task).content == {"status": "ok"}


def memory_of_replays(folder: Path, forgeries: int) -> None:
    controller = Controller(folder, "--reuse", "--log-level=40")
    client, engine = Client(controller, is_named=True), Engine(controller)
    recorded = client.frames("apply_request", buffers=(b"x",))
    client.task.send_multipart(recorded)
    engine.answer(engine.take())
    assert receive(client.task).content == {"status": "ok"}
    forged = client.frames("apply_request")
    for i in range(forgeries):
        client.task.send_multipart([forged[0], b"%064x" % i, *forged[2:]])
        if i % 10000 == 9999: # they have been read when this is answered
            round_trip(client, engine)
    before = len(client.ask("history_request").content["history"])
    client.task.send_multipart(recorded)
    round_trip(client, engine)
    assert len(client.ask("history_request").content["history"]) == before + 1
    for peer in (client, engine):
        peer.close()
    controller.stop()


def test_a_replay_is_known_after_forgeries(tmp_path: Path) -> None:
    memory_of_replays(tmp_path, 20_000)


@pytest.mark.long
@pytest.mark.timeout(900)
def test_a_replay_is_known_after_a_million_forgeries(tmp_path: Path) -> None:
    memory_of_replays(tmp_path, 1_000_000)


def test_a_replay_is_known_after_a_restart(tmp_path: Path) -> None:
    """Of a task, by the task log: it is the same task. Of a query, by the file of the last time."""
    controller = Controller(tmp_path, "--reuse")
    client, engine = Client(controller, is_named=True), Engine(controller)
    task = client.frames("apply_request", buffers=(b"x",))
    client.task.send_multipart(task)
    engine.answer(engine.take())
    assert receive(client.task).content == {"status": "ok"}
    purge = client.frames("purge_request", {"msg_ids": "all"})
    client.query.send_multipart(purge)
    assert receive(client.query).content["status"] == "ok"
    round_trip(client, engine)
    kept = client.ask("history_request").content["history"]
    assert len(kept) == 1
    controller.process.kill()
    controller.process.wait()
    controller = Controller(tmp_path, "--reuse")
    client.task.send_multipart(task)
    client.query.send_multipart(purge)
    wait_for(lambda: log_of(controller).count("dropped: ") >= 2)
    assert client.ask("history_request").content["history"] == kept
    while engine.shell.poll(100): # it may be asked what it holds, but not to do it again
        assert engine.take().kind == "kernel_info_request"
    for peer in (client, engine):
        peer.close()
    controller.stop()


# ---- how many, and how much -----------------------------------------------------------------------


def test_connections_are_limited_and_peers_unaffected(tmp_path: Path) -> None:
    controller = Controller(tmp_path, "--connections=20")
    client, engine = Client(controller), Engine(controller)
    round_trip(client, engine)
    held = [socket.create_connection(("127.0.0.1", controller.client["task"])) for _ in range(60)]
    wait_for(lambda: sum(map(is_ended, held)) >= 40)
    assert "beyond the limit refused" in log_of(controller)
    round_trip(client, engine)
    other = Client(controller) # at the task channel it has to wait until there is room, elsewhere it need not
    assert list(other.engines()) == ["0"]
    other.submit()
    for peer in held:
        peer.close()
    engine.answer(engine.take()) # it was let in
    assert receive(other.task).content == {"status": "ok"}
    for each in (client, other, engine):
        each.close()
    controller.stop()


def is_ended(peer: socket.socket) -> bool:
    """Whether a connection has been cut; one that lives was greeted, and one that is to be cut may have been, too."""
    peer.setblocking(False)
    try:
        while peer.recv(64):
            pass
    except BlockingIOError:
        return False
    except ConnectionResetError:
        pass
    return True


def median_ms(client: Client, engine: Engine) -> float:
    """Of a few round trips; the least of several is compared, for what others do on this machine comes and goes."""
    took = []
    for _ in range(15):
        began = time.perf_counter()
        round_trip(client, engine)
        took.append(time.perf_counter() - began)
    return 1000 * statistics.median(took)


def test_ten_thousand_idle_connections_slow_nobody_down(cluster) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 12_000:
        pytest.skip("a process may have too few descriptors here")
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    client, engine = cluster.client(), cluster.engine()
    pid = cluster.controller.process.pid

    def descriptors() -> int:
        return len(os.listdir(f"/proc/{pid}/fd"))

    before, used = min(median_ms(client, engine) for _ in range(10)), descriptors()
    memory = cluster.controller.memory_kb()
    idle = [socket.socket() for _ in range(10_000)]
    during, most = [], 0
    try:
        for peer in idle: # they come as fast as they are let in
            peer.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                peer.connect(("127.0.0.1", cluster.controller.client["task"]))
        until = time.monotonic() + SOON_S
        while len(during) < 10 and time.monotonic() < until:
            now = descriptors()
            if now - used >= 1000: # those who say nothing are cut off again after five seconds
                during.append(median_ms(client, engine))
            most = max(most, now - used)
    finally:
        for peer in idle:
            peer.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    print(f"median of a task: {before:.2f} ms; with up to {most} idle connections at once {min(during):.2f} ms; memory {memory >> 10} MiB "
          f"and {cluster.controller.memory_kb() >> 10} MiB")
    assert min(during) < 2 * before
    wait_for(lambda: descriptors() == used)
    round_trip(client, engine)


def test_half_a_handshake_ends_after_five_seconds(tmp_path: Path) -> None:
    """Who says that it encrypts, and then no more; beside others who go through with it."""
    controller = Controller(tmp_path, "--enable-curve")
    halves = []
    for said in (b"", CURVE_GREETING[:11], CURVE_GREETING, CURVE_GREETING + b"\x04\xc8\x05HELLO" + b"\0" * 100):
        for _ in range(50):
            peer = socket.create_connection(("127.0.0.1", controller.client["task"]))
            peer.settimeout(SOON_S)
            peer.sendall(said)
            halves.append(peer)
    began = time.monotonic()
    for peer in halves:
        read_to_the_end(peer)
        peer.close()
    took = time.monotonic() - began
    print(f"the last one ended after {took:.1f} s")
    assert took < SOON_S
    controller.stop()


def test_a_client_that_never_reads_is_not_waited_for(tmp_path: Path) -> None:
    """Stopped, with results of 400 MB on their way to it: what waits is limited, others go on, and it is told no more than fits."""
    controller = Controller(tmp_path, "--client-bytes=20000000", "--history=5", "--nodb")
    client, engine = Client(controller), Engine(controller)
    deaf = Client(controller)
    deaf.task.close()
    deaf.task = deaf.context.socket(zmq.DEALER)
    deaf.task.linger, deaf.task.rcvhwm, deaf.task.rcvbuf = 0, 1, 1 << 16
    deaf.task.connect(f"{controller.client['interface']}:{controller.client['task']}")
    round_trip(client, engine)
    before = controller.memory_kb()
    result = os.urandom(2_000_000)
    for _ in range(200):
        deaf.submit()
        engine.answer(engine.take(), buffers=(result,))
        round_trip(client, engine)
    after = controller.memory_kb()
    print(f"{before >> 10} MiB before, {after >> 10} MiB after results of 400 MB")
    assert after < before + 60_000
    assert "a client does not read" in log_of(controller)
    got = 0
    while deaf.task.poll(1000): # it wakes up
        assert receive(deaf.task).buffers == [result]
        got += 1
    assert 5 < got < 60
    deaf.submit() # and is served again
    engine.answer(engine.take(), buffers=(b"new",))
    assert receive(deaf.task).buffers == [b"new"]
    for each in (client, deaf, engine):
        each.close()
    controller.stop()


def test_more_descriptors_than_there_are(tmp_path: Path) -> None:
    """With 64 of them: who comes beyond it is refused, and when others have left it is served again."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    controller = Controller(tmp_path, "--database=memory")
    client, engine = Client(controller), Engine(controller)
    round_trip(client, engine)
    used = len(os.listdir(f"/proc/{controller.process.pid}/fd"))
    resource.prlimit(controller.process.pid, resource.RLIMIT_NOFILE, (used + 10, hard))
    crowd = [socket.create_connection(("127.0.0.1", controller.client["mux"])) for _ in range(40)]
    for _ in range(20):
        round_trip(client, engine)
    for peer in crowd:
        peer.close()
    other = Client(controller)
    assert list(other.engines()) == ["0"]
    for each in (client, other, engine):
        each.close()
    assert controller.stop() == 0


def test_a_nanny_tells_of_a_death_within_a_second(tmp_path: Path) -> None:
    controller = Controller(tmp_path)
    client = Client(controller)
    engine = subprocess.Popen([COMMAND, "engine", f"--file={controller.engine_file}", f"--library={LIBRARY}"], stderr=subprocess.DEVNULL)
    wait_for(lambda: client.engines())
    while client.notification.poll(0):
        client.notification.recv_multipart()
    engine.kill()
    began = time.monotonic()
    assert receive(client.notification).kind == "unregistration_notification"
    took = time.monotonic() - began
    print(f"told after {1000 * took:.0f} ms")
    assert took < 5 # a bound against hanging; docs/benchmarks.md has the figure
    engine.wait()
    client.close()
    controller.stop()
