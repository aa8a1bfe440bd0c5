"""What the controller alone costs, beside the stock one in the same run: peers made of raw ZeroMQ messages, no-op tasks.

    python bench/cluster.py [TASKS]

Prints a table: seconds from start to the first result, processes and memory, one task in flight, tasks a second and the
controller's CPU time for each. All share this machine's cores, so read ratios.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import zmq

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "cluster"))

from peers import COMMAND, DELIMITER, Peer # noqa: E402

ENGINES = 2
IN_FLIGHT = 256
CONTROLLERS = {
    "manyhands": [COMMAND, "controller", "--log-level=40"],
    "ipyparallel": [sys.executable, "-m", "ipyparallel.controller", "--log-level=40", "--dictdb"],
}


def serve(info: dict[str, Any]) -> None:
    """An engine that answers each task at once."""
    peer = Peer(info)
    identity = peer.name.encode()
    shell = peer.socket(zmq.ROUTER, "task", "mux", identity=identity)
    ping, pong = peer.socket(zmq.SUB, "hb_ping"), peer.socket(zmq.DEALER, "hb_pong", identity=identity)
    ping.subscribe(b"")
    registrar = peer.socket(zmq.DEALER, "registration", identity=identity)
    registrar.send_multipart(peer.frames("registration_request", {"uuid": peer.name}))
    registrar.recv_multipart()
    metadata = {"status": "ok", "dependencies_met": True, "engine": peer.name, "started": "2031-01-01T00:00:00.000000Z"}
    poller = zmq.Poller()
    for socket in (shell, ping):
        poller.register(socket, zmq.POLLIN)
    while True:
        for socket, _ in poller.poll():
            frames = socket.recv_multipart()
            if socket is ping:
                pong.send_multipart(frames)
                continue
            at = frames.index(DELIMITER)
            answer = peer.frames("apply_reply", {"status": "ok"}, metadata=metadata, parent=frames[at + 2], buffers=(b"r" * 100,))
            shell.send_multipart([*frames[:at], *answer])


def members(group: int) -> list[int]:
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[2]) == group:
            found.append(int(stat.parent.name))
    return found


def cpu_s(group: int) -> float:
    total = 0
    for pid in members(group):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        total += int(fields[11]) + int(fields[12])
    return total / os.sysconf("SC_CLK_TCK")


def memory_mb(group: int) -> float:
    lines = [line for pid in members(group) for line in Path(f"/proc/{pid}/status").read_text().splitlines()]
    return sum(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1024


class Submitter(Peer):
    def __init__(self, info: dict[str, Any]) -> None:
        super().__init__(info)
        self.query, self.task = self.socket(zmq.DEALER, "registration"), self.socket(zmq.DEALER, "task")
        self.metadata = {"after": [], "follow": [], "timeout": None, "targets": [], "retries": 0, "label": None}

    def engines(self) -> int:
        self.query.send_multipart(self.frames("connection_request"))
        return len(json.loads(self.query.recv_multipart()[5])["engines"])

    def submit(self) -> None:
        self.task.send_multipart(self.frames("apply_request", metadata=self.metadata, buffers=(b"f" * 100, b"a" * 50)))


def measure(name: str, tasks: int) -> dict[str, float]:
    folder = Path(tempfile.mkdtemp())
    files = [folder / "security" / f"ipcontroller-{side}.json" for side in ("client", "engine")]
    began = time.perf_counter()
    process = subprocess.Popen([*CONTROLLERS[name], f"--profile-dir={folder}", "--hwm=4"] if name == "manyhands" else
                               [*CONTROLLERS[name], f"--profile-dir={folder}", "--hwm=4", "--ping=200"],
                               stderr=subprocess.DEVNULL, start_new_session=True)
    engines: list[Any] = []
    try:
        while not all(f.exists() and f.stat().st_size for f in files):
            time.sleep(0.005)
        client, engine = (json.loads(f.read_text()) for f in files)
        engines = [multiprocessing.get_context("fork").Process(target=serve, args=(engine,), daemon=True) for _ in range(ENGINES)]
        for e in engines:
            e.start()
        submitter = Submitter(client)
        while submitter.engines() < ENGINES:
            time.sleep(0.005)
        submitter.submit()
        submitter.task.recv_multipart()
        row = {"first result s": time.perf_counter() - began, "processes": len(members(process.pid)),
               "memory MB": memory_mb(process.pid)}
        trips = []
        for _ in range(300):
            start = time.perf_counter()
            submitter.submit()
            submitter.task.recv_multipart()
            trips.append((time.perf_counter() - start) * 1e6)
        trips.sort()
        row |= {"p50 us": statistics.median(trips), "p99 us": trips[-4]}
        used, start, sent = cpu_s(process.pid), time.perf_counter(), 0
        for got in range(tasks):
            while sent < tasks and sent - got < IN_FLIGHT:
                submitter.submit()
                sent += 1
            submitter.task.recv_multipart()
        row |= {"tasks/s": tasks / (time.perf_counter() - start), "CPU us/task": (cpu_s(process.pid) - used) / tasks * 1e6,
                "memory after MB": memory_mb(process.pid)}
        submitter.close()
        return row
    finally:
        for e in engines:
            e.kill()
        process.terminate()
        process.wait()


def measure_native(seconds: float = 3) -> dict[str, dict[str, float]]:
    """A client without Python and native engines, by the fast lane and by the stock one; nothing where they are not built."""
    build = Path(__file__).resolve().parent.parent / "build"
    bench, library = build / "bench" / "client_bench", build / "tests" / "libcluster-tasks.so"
    if not bench.exists() or not library.exists():
        return {}
    folder = Path(tempfile.mkdtemp())
    files = {side: folder / "security" / f"ipcontroller-{side}.json" for side in ("client", "engine")}
    processes = [subprocess.Popen([COMMAND, "controller", "--log-level=40", "--dictdb", f"--profile-dir={folder}"], start_new_session=True)]
    rows: dict[str, dict[str, float]] = {}
    try:
        while not all(f.exists() and f.stat().st_size for f in files.values()):
            time.sleep(0.005)
        processes += [subprocess.Popen([COMMAND, "engine", f"--file={files['engine']}", f"--library={library}"], stderr=subprocess.DEVNULL)
                      for _ in range(ENGINES)]
        submitter = Submitter(json.loads(files["client"].read_text()))
        while submitter.engines() < ENGINES:
            time.sleep(0.005)
        submitter.close()
        for lane in ("fast", "stock"):
            one, many = (json.loads(subprocess.run([bench, files["client"], lane, how, str(seconds)], check=True, stdout=subprocess.PIPE).stdout)
                         for how in ("one", "many"))
            rows[lane] = {"p50 us": one["p50_us"], "p99 us": one["p99_us"], "tasks/s": many["per_second"]}
        return rows
    finally:
        for process in processes:
            process.terminate()
            process.wait()


def main(tasks: int = 5000) -> None:
    rows = {name: measure(name, tasks) for name in CONTROLLERS}
    ours, stock = rows["manyhands"], rows["ipyparallel"]
    print(f"{'':18}{'manyhands':>12}{'ipyparallel':>14}{'ratio':>10}")
    for what, value in ours.items():
        print(f"{what:18}{value:12.2f}{stock[what]:14.2f}{value / stock[what]:10.3f}")
    for lane, row in measure_native().items():
        print(f"client and engines in C, {lane} lane, beside the stock controller with raw peers")
        for what, value in row.items():
            print(f"{what:18}{value:12.2f}{stock[what]:14.2f}{value / stock[what]:10.3f}")


if __name__ == "__main__":
    main(*(int(a) for a in sys.argv[1:]))
