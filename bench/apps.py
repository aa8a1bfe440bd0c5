"""The applications beside what a user would pick instead, in one run.

    python bench/apps.py [--rounds N] [--app NAME]... [--out FOLDER]

Every application is measured in paired rounds: each contender once, in turn, then the next round; the table shows medians, and how
many times longer each takes than ours on all cores. Each result is checked before a time counts. A peer that is not installed, or fails, stands in the table
with the reason. Writes apps.md, apps.json and the plots
into docs/benchmarks/ (which git ignores), or into FOLDER.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import importlib.util
import json
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
CORES = len(os.sched_getaffinity(0))
ONE_THREAD = {name: "1" for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")}
OURS, KERNEL, ENGINES = "Manyhands, pool", "the same kernel, one process", "Manyhands, engines of a cluster"
APPS = ("md", "video", "nn", "search", "squares", "options", "words")


@dataclass
class Contender:
    name: str
    run: Callable[[], dict[str, Any]] # its result; "seconds" is the time of the work, without starting interpreters
    rounds: int = 99                  # at most; slow peers need fewer
    note: str = ""
    needs: str = ""                   # of a peer: the program or the Python module that it is made of


@dataclass
class Application:
    title: str
    work: str
    contenders: list[Contender]
    check: Callable[[dict[str, dict[str, Any]]], list[str]] # of each one's last result: what was found to be right, or SystemExit
    python: str = ""    # the contender that a Python user starts from
    python_aim: float = 0
    bytes_moved: float = 0 # by the kernel, all in all: how near to the limit of the memory it is
    plot: Callable[[Path], list[str]] = lambda folder: []
    times: dict[str, list[float]] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict) # why a contender was not measured


def run_program(command: list[Any], **environment: str) -> str:
    """Standard output of a program that must succeed."""
    run = subprocess.run([str(part) for part in command], capture_output=True, text=True, env={**os.environ, **environment}, cwd=ROOT, timeout=900)
    if run.returncode:
        raise SystemExit(f"{' '.join(map(str, command))} failed:\n{run.stdout[-2000:]}{run.stderr[-2000:]}")
    return run.stdout


def run_json(command: list[Any], **environment: str) -> dict[str, Any]:
    """What a program printed as its last line."""
    return json.loads(run_program(command, **environment).strip().splitlines()[-1])


def run_face(program: str, pattern: str, *arguments: Any) -> re.Match[str]:
    """What the Python face of an application prints."""
    text = run_program([sys.executable, ROOT / "examples" / program, *arguments])
    found = re.search(pattern, text, re.M)
    if not found:
        raise SystemExit(f"{program} printed {text!r}")
    return found


def version_of(command: list[str], line: int = 0) -> str:
    try:
        run = subprocess.run(command, capture_output=True, text=True, timeout=60)
        return (run.stdout or run.stderr).strip().splitlines()[line].strip()
    except (OSError, IndexError, subprocess.TimeoutExpired):
        return "not there"


def version(package: str) -> str:
    """Of a Python package."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not there"


# ---- the machine --------------------------------------------------------------------------------

LIMIT = """
import numpy, sys, time
megabytes = int(sys.argv[1])
a, b = numpy.ones(megabytes << 17), numpy.zeros(megabytes << 17)
m = numpy.ones((192, 192))
def repeat(work, least=0.7):
    sys.stdin.readline()
    start, count = time.perf_counter(), 0
    while time.perf_counter() - start < least:
        work(); count += 1
    print(count / (time.perf_counter() - start), flush=True)
numpy.copyto(b, a)
print("ready", flush=True)
repeat(lambda: numpy.copyto(b, a))
repeat(lambda: m @ m)
"""


def measure_limits(processes: int) -> tuple[float, float]:
    """(bytes/s read and written by copying, matrix products/s) of so many processes together."""
    megabytes = 128
    running = [subprocess.Popen([sys.executable, "-c", LIMIT, str(megabytes)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                                env={**os.environ, **ONE_THREAD}) for _ in range(processes)]
    for p in running:
        p.stdout.readline()
    sums = []
    for _ in range(2):
        for p in running:
            p.stdin.write("\n")
            p.stdin.flush()
        sums.append(sum(float(p.stdout.readline()) for p in running))
    for p in running:
        p.communicate()
    return sums[0] * megabytes * (1 << 20) * 2, sums[1]


def describe_machine() -> list[str]:
    model = next((line.partition(":")[2].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")), "?")
    memory = int(next(line.split()[1] for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemTotal"))) / 2 ** 20
    return [f"{CORES} cores of {model}, {memory:.0f} GB, {platform.system()} {platform.release()}; load average before the run "
            f"{os.getloadavg()[0]:.1f}", f"Python {platform.python_version()}, {version_of(['gcc', '--version'])}"]


# ---- measuring ----------------------------------------------------------------------------------

def is_there(needed: str) -> bool:
    return bool(shutil.which(needed) or importlib.util.find_spec(needed))


def run_contender(app: Application, contender: Contender, last: dict[str, dict[str, Any]]) -> None:
    """Once. A peer that fails is told and left out from then on; when one of ours does, all ends."""
    if contender.needs and not is_there(contender.needs):
        app.absent[contender.name] = f"{contender.needs} is not installed"
        return
    try:
        last[contender.name] = result = contender.run()
        app.times.setdefault(contender.name, []).append(result["seconds"])
        print(f"{result['seconds']:.3f} s", flush=True)
    except (SystemExit, subprocess.TimeoutExpired, ValueError, KeyError, TypeError, IndexError) as problem:
        if not contender.needs:
            raise
        app.absent[contender.name] = (str(problem).strip().splitlines() or [type(problem).__name__])[-1][:200]
        print(f"failed: {app.absent[contender.name]}", flush=True)


def measure(app: Application, rounds: int) -> dict[str, dict[str, Any]]:
    last: dict[str, dict[str, Any]] = {}
    for turn in range(rounds):
        for contender in app.contenders:
            if turn < contender.rounds and contender.name not in app.absent:
                print(f"  round {turn + 1}: {contender.name} ...", end=" ", flush=True)
                run_contender(app, contender, last)
    return last


def median(app: Application, name: str) -> float:
    return statistics.median(app.times[name])


def report(app: Application, right: list[str], limits: dict[int, tuple[float, float]]) -> tuple[list[str], list[str]]:
    """(lines of markdown, aims that were missed)"""
    ours = median(app, OURS)
    lines = [f"## {app.title}", "", app.work, "", "| | seconds | times ours | |", "| --- | ---: | ---: | --- |"]
    for c in app.contenders:
        if c.name not in app.times:
            lines.append(f"| {c.name} | – | – | not measured: {app.absent.get(c.name, 'no round was left for it')} |")
            continue
        lines.append(f"| {c.name} | {median(app, c.name):.3f} | {median(app, c.name) / ours:.2f} | {c.note} |")
    missed = []
    lines.append("")
    if KERNEL in app.times:
        # of each round its own ratio: what disturbs the machine disturbs both
        pairs = zip(app.times[KERNEL], app.times[OURS])
        scale, aim = statistics.median(a / b for a, b in pairs), 0.95 * CORES
        lines.append(f"- {scale:.2f} times the sequential kernel on {CORES} cores (aim {aim:.2f}; {CORES} processes that only compute reach "
                     f"{limits[CORES][1] / limits[1][1]:.2f} here, {CORES} that only copy {limits[CORES][0] / limits[1][0]:.2f})")
        if app.bytes_moved:
            lines.append(f"- memory: it moves {app.bytes_moved / ours / 1e9:.1f} GB/s; copying by {CORES} processes reaches {limits[CORES][0] / 1e9:.1f} GB/s")
        if scale < aim:
            missed.append(f"{app.title}: {scale:.2f} times the kernel, not {aim:.2f}")
    if app.python in app.times:
        times = median(app, app.python) / ours
        lines.append(f"- {times:.1f} times faster than {app.python} (aim {app.python_aim})")
        if times < app.python_aim:
            missed.append(f"{app.title}: {times:.1f} times {app.python}, not {app.python_aim}")
    return lines + [f"- right: {line}" for line in right] + [""], missed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--app", action="append", choices=APPS, help="only these (default: all)")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "benchmarks")
    options = parser.parse_args()
    sys.path.insert(0, str(ROOT / "bench"))
    options.out.mkdir(parents=True, exist_ok=True)
    machine = describe_machine()
    limits = {count: measure_limits(count) for count in {1, CORES}}
    lines = ["# Applications", "", *[f"- {line}" for line in machine], ""]
    plain, missed = {}, []
    for name in options.app or APPS:
        if not (ROOT / "bench" / f"apps_{name}.py").exists():
            continue
        app = importlib.import_module(f"apps_{name}").make(options.out)
        print(f"{app.title}: {app.work}", flush=True)
        right = app.check(measure(app, options.rounds))
        section, behind = report(app, right, limits)
        pictures = app.plot(options.out)
        lines += section + [f"![{picture}]({picture})" for picture in pictures] + [""]
        missed += behind
        plain[name] = app.times
        print("\n".join(section), flush=True)
    lines += ["## Aims that this run missed", "", *([f"- {line}" for line in missed] or ["None."]), ""]
    name = "apps" if not options.app else "apps-" + "-".join(options.app) # parts of a run do not overwrite a whole one
    (options.out / f"{name}.md").write_text("\n".join(lines))
    (options.out / f"{name}.json").write_text(json.dumps({"machine": machine, "seconds": plain}, indent=1) + "\n")
    print(f"{len(plain)} applications, {len(missed)} aims missed{': ' + '; '.join(missed) if missed else ''}\n{options.out / name}.md")


if __name__ == "__main__":
    sys.modules["apps"] = sys.modules["__main__"] # the rows import it by this name
    main()
