"""Ten million squares in Python."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from apps import CORES, ENGINES, OURS, ROOT, Application, Contender, run_json, version

COUNT = 10_000_000


def sum_of_squares(count: int) -> int:
    return (count - 1) * count * (2 * count - 1) // 6


def run(name: str) -> dict[str, Any]:
    result = run_json([sys.executable, ROOT / "bench/peers/squares.py", name, CORES, COUNT])
    if result["sum"] != sum_of_squares(COUNT):
        raise SystemExit(f"{name}: the sum of squares is {result['sum']}")
    return result


def check(results: dict[str, dict[str, Any]]) -> list[str]:
    return [f"all sums are {sum_of_squares(COUNT)}"]


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
         Contender("dask", lambda: run("dask"), rounds=1, needs="dask", note=f"{parts}, as arrays: of lists it looks at every number"),
         Contender("Ray", lambda: run("ray"), rounds=1, needs="ray", note=parts),
         Contender("ipyparallel", lambda: run("ipyparallel"), rounds=1, needs="ipyparallel", note="DirectView.map_sync")], check)
