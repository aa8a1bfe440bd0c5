"""Ten million squares in Python."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from apps import CORES, ENGINES, OURS, ROOT, Application, Contender, run_json, version

COUNT = 10_000_000


def run(name: str) -> dict[str, Any]:
    return run_json([sys.executable, ROOT / "bench/peers/squares.py", name, CORES, COUNT])


def check(results: dict[str, dict[str, Any]]) -> list[str]:
    if len({r["sum"] for r in results.values()}) != 1:
        raise SystemExit("the sums of squares differ")
    return [f"all sums are {results[OURS]['sum']}"]


def make(folder: Path) -> Application:
    parts = "parts of 100,000"
    return Application(
        "Squares", f"`map(square, range({COUNT:,}))`, a list of Python ints in, one out; warm pools (joblib {version('joblib')}, dask {version('dask')}, Ray "
        f"{version('ray')}, ipyparallel {version('ipyparallel')})",
        [Contender(OURS, lambda: run("manyhands")),
         Contender(ENGINES, lambda: run("engines"), rounds=2, note=parts),
         Contender("plain loop", lambda: run("loop")),
         Contender("NumPy", lambda: run("numpy"), needs="numpy", note="an array, not a list"),
         Contender("multiprocessing", lambda: run("multiprocessing"), rounds=2),
         Contender("joblib", lambda: run("joblib"), rounds=1, needs="joblib", note=parts),
         Contender("dask", lambda: run("dask"), rounds=1, needs="dask", note=parts),
         Contender("Ray", lambda: run("ray"), rounds=1, needs="ray", note=parts),
         Contender("ipyparallel", lambda: run("ipyparallel"), rounds=1, needs="ipyparallel", note="DirectView.map_sync")], check)
