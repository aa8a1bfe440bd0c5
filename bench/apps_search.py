"""A hyper-parameter search on our joblib backend, beside loky."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from apps import CORES, KERNEL, ONE_THREAD, OURS, ROOT, Application, Contender, run_json


def run(backend: str, workers: int) -> dict[str, Any]:
    return run_json([sys.executable, ROOT / "examples/nn/search.py", "--samples", 15000, "--backend", backend, "--workers", workers], **ONE_THREAD)


def check(results: dict[str, dict[str, Any]]) -> list[str]:
    if any(r["scores"] != results[KERNEL]["scores"] for r in results.values()):
        raise SystemExit("the searches found different scores")
    return [f"all find the same scores, and the same best settings: {results[OURS]['best']}"]


def make(folder: Path) -> Application:
    import joblib
    return Application("Hyper-parameter search", f"GridSearchCV, 18 trainings of an MLPClassifier on 10,000 images (joblib {joblib.__version__}); with the start "
                       "of the workers",
                       [Contender(OURS, lambda: run("manyhands", CORES), note="joblib.parallel_backend(\"manyhands\")"),
                        Contender(KERNEL, lambda: run("sequential", 1)),
                        Contender("joblib, loky", lambda: run("loky", CORES))], check)
