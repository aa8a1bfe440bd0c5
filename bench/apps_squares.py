"""Ten million squares in Python."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from apps import CORES, OURS, ROOT, Application, Contender, run_json

COUNT = 10_000_000


def run(name: str) -> dict[str, Any]:
    return run_json([sys.executable, ROOT / "bench/peers/squares.py", name, CORES, COUNT])


def check(results: dict[str, dict[str, Any]]) -> list[str]:
    if len({r["sum"] for r in results.values()}) != 1:
        raise SystemExit("the sums of squares differ")
    return [f"all sums are {results[OURS]['sum']}"]


def make(folder: Path) -> Application:
    import dask
    import ipyparallel
    import joblib
    import ray
    parts = "parts of 100,000"
    return Application(
        "Squares", f"`map(square, range({COUNT:,}))`, a list of Python ints in, one out; warm pools (joblib {joblib.__version__}, dask {dask.__version__}, Ray "
        f"{ray.__version__}, ipyparallel {ipyparallel.__version__})",
        [Contender(OURS, lambda: run("manyhands")),
         Contender("plain loop", lambda: run("loop")),
         Contender("NumPy", lambda: run("numpy"), note="an array, not a list"),
         Contender("multiprocessing", lambda: run("multiprocessing")),
         Contender("joblib", lambda: run("joblib"), rounds=1, note=parts),
         Contender("dask", lambda: run("dask"), rounds=1, note=parts),
         Contender("Ray", lambda: run("ray"), rounds=1, note=parts),
         Contender("ipyparallel", lambda: run("ipyparallel"), rounds=1, note="DirectView.map_sync")], check)
