"""Faults at named points: a process of a real cluster is killed, stopped or hung, or has no memory, disk or descriptors, there and then. Nothing that was accepted
is lost, nothing is answered twice, and a harness that does not notice a broken rule fails (points.c has the points and the mutants)."""

from __future__ import annotations

import json
import mmap
import os
import random
import resource
import select
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "cluster"))

import peers
from peers import SOON_S, Client, Message, wait_for

PROGRAM = Path(__file__).parents[2] / "build" / "tests" / "chaos" / "chaos-points"
LIBRARY = PROGRAM.parents[1] / "libcluster-tasks.so"
FAULTS = {name: number for number, name in enumerate(("kill", "stop", "hang", "malloc", "disk", "descriptors"), 1)}
MUTANTS = {"results are not written": 1, "requests are not written": 2}
TASKS = 6
QUIET_S = 1.0


def both(*names: str) -> list[str]:
    return [f"mh__{name} {when}" for name in names for when in ("before", "after")]


POINTS = {
    "controller": [*both("controller_admit", "durable_request", "durable_confirm", "durable_place", "outbox_send", "job_keep_result", "durable_result",
                         "durable_send", "journal_flush"),
                   "store begin", "store put", *[f"store {what} {when}" for what in ("commit", "sync") for when in ("before", "after")]],
    "start": both("recover"), # of a controller that goes on with what another left
    "engine": [*both("at_engine_reply", "dispatch", "drive", "hand_wake"), *[f"worker {what}" for what in ("looks", "took", "mid reply", "ran", "done")]],
    "client": both("client_send", "client_deliver", "client_fast_put"),
}


class Lost(AssertionError):
    """What the harness is there to find."""


class Control:
    """The page that a process under test shares with us."""

    def __init__(self, path: Path) -> None:
        path.write_bytes(b"\0" * 4096)
        self.path = path
        with path.open("r+b") as file:
            self.map = mmap.mmap(file.fileno(), 4096)

    def get(self, index: int) -> int:
        return int(struct.unpack_from("I", self.map, 4 * index)[0])

    def set(self, index: int, value: int) -> None:
        struct.pack_into("I", self.map, 4 * index, value)

    def arm(self, point: str, fault: str, countdown: int) -> None:
        self.set(0, 0)
        self.map[24:88] = point.encode().ljust(64, b"\0")
        for index, value in ((1, countdown), (2, 0), (3, 0), (4, 0)):
            self.set(index, value)
        self.set(0, FAULTS[fault])

    @property
    def has_fired(self) -> bool:
        return self.get(2) > 0

    def disarm(self) -> None:
        self.set(0, 0)

    def mend(self, fault: str) -> None:
        """What the fault took comes back."""
        self.set(4, 1)
        pid = self.get(3)
        try:
            if fault == "stop":
                os.kill(pid, signal.SIGCONT)
            elif fault in ("disk", "descriptors"):
                kind = resource.RLIMIT_FSIZE if fault == "disk" else resource.RLIMIT_NOFILE
                hard = resource.prlimit(pid, kind)[1]
                resource.prlimit(pid, kind, (hard, hard))
        except ProcessLookupError:
            pass


class Part:
    """A process of the cluster, started again whenever it has ended."""

    def __init__(self, folder: Path, name: str, *command: str, control: Control | None, pipe: bool = False) -> None:
        self.command, self.pipe = [str(PROGRAM), *command], pipe
        self.log = open(folder / f"{name}.log", "ab")
        self.environment = {**os.environ, **({"MANYHANDS_POINTS": str(control.path)} if control else {})}
        self.start()

    def start(self) -> None:
        ends: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "bufsize": 0} if self.pipe else {"stdin": subprocess.DEVNULL, "stdout": self.log}
        self.process: subprocess.Popen[bytes] = subprocess.Popen(self.command, stderr=self.log, env=self.environment, **ends)

    def ensure(self) -> bool:
        """Whether it had ended, and is started again."""
        if self.process.poll() is None:
            return False
        self.start()
        return True

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(SOON_S)
        self.log.close()


class Cluster:
    """A controller with a task log, two native engines, and a client made of sockets whose history is checked."""

    def __init__(self, folder: Path, role: str, mutant: str | None = None) -> None:
        self.folder, self.role = folder, role
        self.control = Control(folder / "control")
        if mutant:
            self.control.set(5, MUTANTS[mutant])
        is_at = {name: self.control if name == role or (role == "start" and name == "controller") else None for name in ("controller", "engine")}
        self.controller = Part(folder, "controller", "controller", f"--profile-dir={folder}", "--reuse", "--history=100000", control=is_at["controller"])
        file = folder / "security" / "ipcontroller-client.json"
        wait_for(file.exists)
        info = type("Info", (), {"client": json.loads(file.read_text())})
        engine_file = folder / "security" / "ipcontroller-engine.json"
        self.engines = [Part(folder, f"engine{i}", "engine", f"--file={engine_file}", f"--library={LIBRARY}", control=is_at["engine"] if i == 0 else None)
                        for i in range(2)]
        self.client = Client(info, is_named=True) # type: ignore[arg-type]
        self.requests: dict[str, tuple[list[bytes], Path]] = {} # that are not refused, by id
        self.accepted: set[str] = set()
        self.answers: dict[str, Message] = {}
        self.past: dict[str, bytes] = {} # signatures of the answers of earlier rounds, of which copies may still come
        self.count = 0
        wait_for(lambda: len(self.client.engines()) == 2)

    def submit(self) -> None:
        self.count += 1
        path = self.folder / str(self.count)
        path.with_name(path.name + ".go").touch()
        frames = self.client.frames("call_request", {"function": "mark"}, metadata={"x_ack": True, "retries": 5}, buffers=(str(path).encode(),))
        self.requests[json.loads(frames[2])["msg_id"]] = (frames, path)
        self.client.task.send_multipart(frames)

    def take(self, message: Message) -> None:
        if message.kind == "x_accepted":
            self.accepted |= set(message.content["msg_ids"])
            return
        msg_id = message.parent["msg_id"]
        if msg_id in self.past:
            if self.past[msg_id] != message.signature:
                raise Lost(f"{msg_id} was answered twice, in different ways")
            return
        if msg_id not in self.requests:
            raise Lost(f"{msg_id} was refused, and then answered")
        if message.content.get("ename") == "OSError": # no room: it is not accepted, and is asked for again as another
            _, path = self.requests.pop(msg_id)
            if msg_id in self.accepted or path.exists():
                raise Lost(f"{msg_id} was accepted, and then refused")
            self.submit()
            return
        before = self.answers.setdefault(msg_id, message)
        if before.signature != message.signature:
            raise Lost(f"{msg_id} was answered twice, in different ways")

    def look_after(self, fault: str) -> None:
        if self.control.has_fired and not self.control.get(4):
            if fault != "kill":
                wait_until = time.monotonic() + 0.02 # it lasts a little, while others go on
                while time.monotonic() < wait_until and self.client.task.poll(5):
                    self.take(Message(self.client.task.recv_multipart()))
            self.control.mend(fault)
        for part in (self.controller, *self.engines):
            part.ensure()

    def settle(self, fault: str) -> None:
        """Until everything is answered."""
        until, quiet = time.monotonic() + 60, time.monotonic()
        while self.answers.keys() != self.requests.keys():
            if self.client.task.poll(20):
                self.take(Message(self.client.task.recv_multipart()))
                quiet = time.monotonic()
            self.look_after(fault)
            if time.monotonic() - quiet > QUIET_S: # as clients do that were not told that it was accepted
                quiet = time.monotonic()
                for msg_id in self.requests.keys() - self.answers.keys() - self.accepted:
                    self.client.task.send_multipart(self.again(msg_id))
                self.check_known()
            if time.monotonic() > until:
                raise Lost(f"{sorted(self.requests.keys() - self.answers.keys())} were not answered, of which accepted "
                           f"{sorted(self.accepted & (self.requests.keys() - self.answers.keys()))}")

    def again(self, msg_id: str) -> list[bytes]:
        """The same task in another message: the signature of the first may be known already."""
        frames, _ = self.requests[msg_id]
        signed = [frames[2], frames[3], json.dumps({**json.loads(frames[4]), "n": time.monotonic_ns()}).encode(), frames[5]]
        return [frames[0], self.client.sign(signed), *signed, *frames[6:]]

    def check_known(self) -> None:
        """What was accepted and is not answered, the controller knows."""
        open_ = sorted(self.accepted & self.requests.keys() - self.answers.keys())
        if not open_ or self.controller.process.poll() is not None:
            return
        while self.client.query.poll(0):
            self.client.query.recv_multipart()
        self.client.query.send_multipart(self.client.frames("history_request"))
        if self.client.query.poll(2000):
            known = Message(self.client.query.recv_multipart()).content.get("history")
            if known is not None and (lost := set(open_) - set(known)):
                raise Lost(f"accepted and forgotten: {sorted(lost)}")

    def check(self) -> None:
        for msg_id, answer in self.answers.items():
            path = self.requests[msg_id][1]
            if answer.content["status"] != "ok" or answer.buffers != [str(path).encode()]:
                raise Lost(f"{msg_id}: {answer.content}")
            if "ran" not in path.read_text():
                raise Lost(f"{msg_id} was answered and did not run")
            path.unlink()
            path.with_name(path.name + ".go").unlink()
            self.past[msg_id] = answer.signature
        self.requests.clear()
        self.answers.clear()

    def round(self, point: str, fault: str, countdown: int, kill: bool = False) -> bool:
        """One history; whether the fault happened in it. kill: the controller, when all is answered, so that what it wrote down has to be right."""
        if self.role == "engine":
            wait_for(self.has_both_engines)
        self.control.arm(point, fault, countdown)
        if "recover" in point:
            self.controller.process.kill()
            self.controller.process.wait()
        for _ in range(TASKS):
            self.submit()
        self.settle(fault)
        if self.control.has_fired and not self.control.get(4): # after the last answer
            self.control.mend(fault)
        fired = self.control.has_fired
        self.control.disarm()
        if kill:
            self.controller.process.kill()
            self.controller.process.wait()
            self.controller.ensure()
            wait_for(lambda: self.control.get(5) == 0 or self.hears())
        self.check()
        return fired

    def has_both_engines(self) -> bool:
        for part in self.engines:
            part.ensure()
        return len(self.client.engines()) == 2

    def hears(self) -> bool:
        """What the controller that came back still sends."""
        quiet = time.monotonic() + QUIET_S
        while time.monotonic() < quiet:
            if self.client.task.poll(50):
                self.take(Message(self.client.task.recv_multipart()))
        return True

    def end(self) -> None:
        self.control.set(4, 1)
        for part in (*self.engines, self.controller):
            part.end()
        self.client.close()


@pytest.fixture
def cluster_at(tmp_path: Path) -> Iterator[Any]:
    made: list[Cluster] = []

    def make(role: str, mutant: str | None = None) -> Cluster:
        made.append(Cluster(tmp_path, role, mutant))
        return made[-1]

    yield make
    for cluster in made:
        cluster.end()


def run(cluster: Cluster, role: str, rounds: int, seed: int, budget_s: float | None = None) -> None:
    """Every point and fault of a role, `rounds` times each; each must have happened, unless the time was used up first."""
    chance = random.Random(seed)
    todo = [(point, fault) for point in POINTS[role] for fault in FAULTS]
    if budget_s:
        chance.shuffle(todo)
    until = time.monotonic() + (budget_s or 1e9)
    happened = dict.fromkeys(todo, 0)
    for pair in todo:
        for _ in range(3 * rounds):
            if happened[pair] >= rounds or time.monotonic() > until:
                break
            happened[pair] += cluster.round(*pair, chance.randint(1, TASKS if happened[pair] else 1))
    print(f"{role}: {sum(happened.values())} faults at {sum(1 for n in happened.values() if n)} of {len(todo)} pairs of point and fault")
    assert sum(happened.values()) > 0
    if not budget_s:
        rare = {pair: n for pair, n in happened.items() if n < rounds} # for example: an engine that is out of memory at once is not there in every round
        print(f"{role}: fewer than {rounds} in {3 * rounds} rounds: {rare}")
        assert all(n for n in happened.values()), rare


@pytest.mark.parametrize(("role", "budget_s"), [("controller", 6.0), ("start", 3.0), ("engine", 4.0)])
def test_a_few_faults(cluster_at: Any, role: str, budget_s: float) -> None:
    run(cluster_at(role), role, 1, 1, budget_s)


@pytest.mark.long
@pytest.mark.timeout(14400)
@pytest.mark.parametrize("role", ["controller", "start", "engine"])
def test_a_hundred_of_every_fault_at_every_point(cluster_at: Any, role: str) -> None:
    run(cluster_at(role), role, int(os.environ.get("MANYHANDS_ROUNDS", "100")), 2)


@pytest.mark.parametrize("mutant", MUTANTS)
def test_the_harness_finds_its_mutants(cluster_at: Any, mutant: str) -> None:
    """The same rounds with a rule broken, which has to be noticed within a few."""
    cluster = cluster_at("controller", mutant)
    with pytest.raises(Lost):
        for i in range(10):
            cluster.round("mh__durable_send after" if "results" in mutant else "mh__durable_place after", "kill", 1 + i % 3)


# ---- clients --------------------------------------------------------------------------------------


class OwnClient:
    """A client in C (points-client), told to call for numbers, whose lines are read as they come."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.control = folder, Control(folder / "client-control")
        self.file = folder / "security" / "ipcontroller-client.json"
        self.part = Part(folder, "client", "points-client", str(self.file), control=self.control, pipe=True)

    def ask(self, first: int, fault: str) -> list[str]:
        """Its answers for the numbers from `first` on; as many as came when it was killed."""
        process = self.part.process
        assert process.stdin and process.stdout
        process.stdin.write(f"{first} {first + TASKS}\n".encode())
        lines: list[str] = []
        until = time.monotonic() + 60
        poller = select.poll()
        poller.register(process.stdout.fileno(), select.POLLIN)
        while len(lines) < TASKS and time.monotonic() < until:
            if self.control.has_fired and not self.control.get(4):
                poller.poll(20)
                self.control.mend(fault)
            if poller.poll(20):
                line = process.stdout.readline().decode() # unbuffered: it reads no further
                if not line:
                    break
                lines.append(line.strip())
        return lines


def run_client(folder: Path, rounds: int, budget_s: float | None) -> None:
    cluster = Cluster(folder, "nobody")
    own = OwnClient(folder)
    happened = {(point, fault): 0 for point in POINTS["client"] for fault in FAULTS}
    number, until = 0, time.monotonic() + (budget_s or 1e9)
    todo = list(happened)
    random.Random(3).shuffle(todo)
    try:
        for point, fault in todo:
            for _ in range(2 * rounds):
                if happened[point, fault] >= rounds or time.monotonic() > until:
                    break
                own.control.arm(point, fault, 1)
                lines = own.ask(number, fault)
                expected = [f"{n} {n * n} OK" for n in range(number, number + TASKS)]
                number += TASKS
                happened[point, fault] += own.control.has_fired
                own.control.disarm()
                if own.part.process.poll() is not None or len(lines) < TASKS: # it was killed, or gave up with an error
                    assert fault not in ("stop", "hang"), (point, fault, lines)
                    assert lines == expected[:len(lines)]
                    own.part.process.wait(SOON_S)
                    own.part.start()
                else:
                    assert lines == expected
        for _ in range(TASKS): # nobody else was harmed
            cluster.submit()
        cluster.settle("kill")
        cluster.check()
    finally:
        own.part.end()
        cluster.end()
    print(f"client: {sum(happened.values())} faults at {sum(1 for n in happened.values() if n)} of {len(happened)} pairs of point and fault")
    if not budget_s:
        assert {pair: n for pair, n in happened.items() if not n} == {}


def test_a_few_faults_of_a_client(tmp_path: Path) -> None:
    run_client(tmp_path, 1, 4.0)


@pytest.mark.long
@pytest.mark.timeout(7200)
def test_a_hundred_of_every_fault_of_a_client(tmp_path: Path) -> None:
    run_client(tmp_path, int(os.environ.get("MANYHANDS_ROUNDS", "100")), None)


# ---- memory ---------------------------------------------------------------------------------------


def memory_after_tasks(folder: Path, count: int) -> None:
    """A controller that has had so many tasks is no larger than one that has had enough to fill its tables, and the database's cache."""
    controller = peers.Controller(folder)
    engine = subprocess.Popen([PROGRAM, "engine", f"--file={controller.engine_file}", f"--library={LIBRARY}"], stderr=subprocess.DEVNULL)

    def run_tasks(number: int) -> int:
        subprocess.run([PROGRAM, "points-client", controller.client_file, str(number)], check=True, timeout=3600)
        return controller.memory_kb()

    try:
        first = run_tasks(10_000)
        before = run_tasks(60_000)
        began = time.monotonic()
        after = run_tasks(count)
        print(f"{first >> 10} MiB after 10,000 tasks, {before >> 10} MiB after 70,000, {after >> 10} MiB after {count:,} more, in {time.monotonic() - began:.0f} s")
        assert after < before + 5 * 1024
    finally:
        engine.terminate()
        engine.wait(SOON_S)
        controller.stop()


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_memory_after_a_million_tasks(tmp_path: Path) -> None:
    memory_after_tasks(tmp_path, 1_000_000)
