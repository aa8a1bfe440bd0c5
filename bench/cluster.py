"""A controller and two engines, ours beside stock ipyparallel, dask.distributed and Ray in the same run; all share this machine's cores.

    python bench/cluster.py [--rounds N] [--tasks N] [--only TEXT]... [--keep] [--out FOLDER]

Three parts: "python" is what a Python program sees (bench/cluster_client.py, in a process of its own for each contender), "controller" what the
controller alone costs, with peers made of raw ZeroMQ messages, "native" a client and engines in C. Figures are medians over the rounds, in each of
which every contender has its turn. Writes `cluster.md`, `cluster.json` and `cluster.png` into the folder.
"""

from __future__ import annotations

import argparse
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

import table # noqa: E402
from peers import COMMAND, DELIMITER, Peer # noqa: E402
from rows import Row, Target # noqa: E402

OURS, STOCK, DASK, RAY = "manyhands", "ipyparallel", "dask.distributed", "ray"
PARTS = {"python": [OURS, STOCK, DASK, RAY], "controller": [OURS, STOCK], "native": [OURS]}
ENGINES = 2
IN_FLIGHT = 256
CONTROLLERS = {
    "manyhands": [COMMAND, "controller", "--log-level=40"],
    "ipyparallel": [sys.executable, "-m", "ipyparallel.controller", "--log-level=40", "--dictdb"],
}


def row(name: str, unit: str, lower: bool, aim: Any = None) -> Row:
    return Row(name, unit, lower, {}, aim)


# What each part calls its figures, and the row that it becomes.
ROWS: dict[str, dict[str, Row]] = {
    "python": {
        "first_s": row("controller and two Python engines started, first result", "s", True, Target(0.8, True)),
        "direct_p50_us": row("apply_sync of a no-op on one engine, p50", "µs", True, Target(100, True)),
        "direct_p99_us": row("apply_sync of a no-op on one engine, p99", "µs", True, Target(1000, True)),
        "one_p50_us": row("load-balanced apply_sync of a no-op, p50", "µs", True, Target(120, True)),
        "one_p99_us": row("load-balanced apply_sync of a no-op, p99", "µs", True),
        "map_per_s": row("load-balanced map of no-ops, chunksize=1", "tasks/s", False, Target(5e4, False)),
        "apply_per_s": row("load-balanced apply_async of no-ops, then every result", "tasks/s", False, Target(5e4, False)),
        "client_cpu_us": row("processor time of the client for each of these", "µs", True),
        "push_gb_s": row("64 MiB array, push", "GB/s", False, Target(1.9, False)),
        "pull_gb_s": row("64 MiB array, pull", "GB/s", False, Target(1.9, False)),
        "echo_gb_s": row("64 MiB array to a task and back", "GB/s", False),
        "client_mb": row("client's memory with all results of these kept", "MB", True, Target(90, True)),
    },
    "controller": {
        "first result s": row("controller started, two raw engines, first result", "s", True),
        "processes": row("processes of the controller", "", True, Target(1, True)),
        "memory MB": row("idle memory of the controller", "MB", True, Target(12, True)),
        "p50 us": row("controller with raw peers, one task p50", "µs", True),
        "p99 us": row("controller with raw peers, one task p99", "µs", True),
        "tasks/s": row("controller with raw peers, no-ops", "tasks/s", False, Target(1e4, False)),
        "CPU us/task": row("processor time of the controller for each of these", "µs", True, Target(45, True)),
        "memory after MB": row("its memory afterwards", "MB", True),
    },
    "native": {
        "ready_s": row("controller and two native engines started, both registered", "s", True, Target(0.15, True)),
        "fast p50 us": row("client and engines in C, fast lane, one task p50", "µs", True),
        "fast p99 us": row("client and engines in C, fast lane, one task p99", "µs", True),
        "fast tasks/s": row("client and engines in C, fast lane, no-ops", "tasks/s", False, Target(2e5, False)),
        "stock p50 us": row("client and engines in C, stock lane, one task p50", "µs", True, Target(450, True)),
        "stock p99 us": row("client and engines in C, stock lane, one task p99", "µs", True, Target(3000, True)),
        "stock tasks/s": row("client and engines in C, stock lane, no-ops", "tasks/s", False, Target(6000, False)),
    },
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


def measure_native(seconds: float = 3) -> dict[str, float]:
    """A client without Python and native engines, by the fast lane and by the stock one; nothing where they are not built."""
    build = Path(__file__).resolve().parent.parent / "build"
    bench, library = build / "bench" / "client_bench", build / "tests" / "libcluster-tasks.so"
    if not bench.exists() or not library.exists():
        return {}
    folder = Path(tempfile.mkdtemp())
    files = {side: folder / "security" / f"ipcontroller-{side}.json" for side in ("client", "engine")}
    began = time.perf_counter()
    processes = [subprocess.Popen([COMMAND, "controller", "--log-level=40", "--dictdb", f"--profile-dir={folder}"], start_new_session=True)]
    figures: dict[str, float] = {}
    try:
        while not all(f.exists() and f.stat().st_size for f in files.values()):
            time.sleep(0.005)
        processes += [subprocess.Popen([COMMAND, "engine", f"--file={files['engine']}", f"--library={library}"], stderr=subprocess.DEVNULL)
                      for _ in range(ENGINES)]
        submitter = Submitter(json.loads(files["client"].read_text()))
        while submitter.engines() < ENGINES:
            time.sleep(0.005)
        figures["ready_s"] = time.perf_counter() - began
        submitter.close()
        for lane in ("fast", "stock"):
            one, many = (json.loads(subprocess.run([bench, files["client"], lane, how, str(seconds)], check=True, stdout=subprocess.PIPE).stdout)
                         for how in ("one", "many"))
            figures |= {f"{lane} p50 us": one["p50_us"], f"{lane} p99 us": one["p99_us"], f"{lane} tasks/s": many["per_second"]}
        return figures
    finally:
        for process in processes:
            process.terminate()
            process.wait()


def once(part: str, who: str, tasks: int) -> dict[str, float]:
    """The figures of one contender in one round."""
    if part == "controller":
        return measure(who, tasks if who == OURS else min(tasks, 2000))
    program = Path(__file__).with_name("cluster_client.py")
    done = subprocess.run([sys.executable, program, who, str(tasks if who == OURS else min(tasks, 1000))], stdout=subprocess.PIPE, text=True, timeout=600)
    if done.returncode:
        raise SystemExit(f"{who} failed: python {program} {who} says why")
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return figures


def medians(rounds: list[dict[str, dict[str, float]]]) -> dict[str, dict[str, float]]:
    """From a list of {contender: {what: figure}} to {what: {contender: median}}."""
    names = {who: list(figures) for one in rounds for who, figures in one.items()}
    whats = list(dict.fromkeys(what for found in names.values() for what in found))
    return {what: {who: statistics.median(one[who][what] for one in rounds if who in one) for who, found in names.items() if what in found} for what in whats}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3, help="how often everything is measured (default: 3)")
    parser.add_argument("--tasks", type=int, default=20_000, help="tasks of ours in one figure; peers get fewer, for they take minutes (default: 20,000)")
    parser.add_argument("--only", action="append", help="only these parts: python, controller, native; or contenders by their names")
    parser.add_argument("--keep", action="store_true", help="keep what the last run measured of other parts")
    parser.add_argument("--out", type=Path, default=Path("build/bench"), help="folder for the results (default: build/bench)")
    options = parser.parse_args()
    wanted = options.only or []
    parts = [part for part in PARTS if part in wanted] or list(PARTS)
    report = table.Report("cluster", "Cluster", f"Medians of {options.rounds} rounds with {ENGINES} engines", options.out, options.keep)
    for part in parts:
        contenders = [who for who in PARTS[part] if who == OURS or who in wanted or not set(wanted) & set(PARTS["python"])]
        if part == "native":
            found = [{OURS: native} for _ in range(options.rounds) if (native := measure_native())]
        else:
            found = [{who: once(part, who, options.tasks) for who in contenders} for _ in range(options.rounds)]
        for what, figures in medians(found).items():
            row = ROWS[part].get(what)
            if row and OURS in figures:
                report.add(row, figures)
    report.finish()


if __name__ == "__main__":
    main()
