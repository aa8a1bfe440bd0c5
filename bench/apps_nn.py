"""Training of a neural network beside scikit-learn and PyTorch."""

from __future__ import annotations

import re
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy
from apps import CORES, ENGINES, KERNEL, OURS, ROOT, Application, Contender, run_face, run_json, run_program, version_of

EPOCHS, BATCH = 10, 256
TRAIN = ROOT / "build" / "examples" / "nn" / "train"
TORCH = ["/usr/bin/python3", ROOT / "bench/peers/nn_torch.py", EPOCHS, BATCH] # Debian's build is for CPUs, and for Debian's Python


def ours(folder: Path, workers: int, *arguments: Any) -> dict[str, Any]:
    losses = folder / f"losses{workers}{''.join(map(str, arguments))}"
    text = run_program([TRAIN, "--epochs", EPOCHS, "--batch", BATCH, "--workers", workers, "--losses", losses, "--quiet", *arguments])
    return {"seconds": float(re.search(r"epochs in (\S+) s", text)[1]), "accuracy": float(re.findall(r"^ +\d+ +\S+ +(\S+)$", text, re.M)[-1]),
            "state": re.search(r"state (\w+)", text)[1], "losses": losses}


def engines() -> dict[str, Any]:
    found = run_face("nn/train.py", r"test accuracy (\S+)\n\d+ epochs in (\S+) s; state (\w+)", "--engines", CORES, "--epochs", EPOCHS, "--batch", BATCH)
    return {"seconds": float(found[2]), "accuracy": float(found[1]), "state": "", "state of the Python face": found[3]}


def check(results: dict[str, dict[str, Any]]) -> list[str]:
    mine, alone, whole = results[OURS], results[KERNEL], results["the same kernel, whole batches"]
    if mine["state"] != alone["state"]:
        raise SystemExit("the pool learned something else than one process")
    if results[ENGINES]["state of the Python face"] != run_face("nn/train.py", r"state (\w+)", "--workers", 1, "--epochs", EPOCHS, "--batch", BATCH)[1]:
        raise SystemExit("the engines learned something else than one process")
    if mine["accuracy"] < 0.88:
        raise SystemExit(f"test accuracy is only {mine['accuracy']:.2%}")
    differ = abs(numpy.loadtxt(mine["losses"]) - numpy.loadtxt(whole["losses"]))[:200].max()
    if differ > 1e-3:
        raise SystemExit(f"losses differ by {differ} from those of whole batches")
    others = ", ".join(f"{name} {r['accuracy']:.2%}" for name, r in results.items() if "state" not in r)
    return [f"pool, one process and a cluster's engines: the same bits of all parameters and losses (state {mine['state']})",
            f"losses of the first 200 steps within {differ:.1g} of those without shards; gradients agree with finite differences (tests/apps)",
            f"test accuracy {mine['accuracy']:.2%} ({others})"]


def plot(folder: Path) -> list[str]:
    sys.path.append(str(ROOT / "examples" / "nn"))
    import train
    train.plot(train.Network(*train.fashion_mnist(), epochs=EPOCHS, batch=BATCH).train(), folder)
    return ["learning.png"]


def make(folder: Path) -> Application:
    import sklearn

    scratch = Path(tempfile.mkdtemp())
    # of each step: the samples, and parameters, velocities and gradients, which are read and written
    steps, parameters, shards = 60000 // BATCH * EPOCHS, 101770, 2
    moved = steps * (BATCH * 784 * 5 + parameters * 4 * (4 * shards + 4))
    return Application(
        "Neural network", f"Fashion-MNIST, 784-128-10 perceptron, {EPOCHS} epochs, batches of {BATCH} (scikit-learn {sklearn.__version__}, PyTorch "
        f"{version_of(['/usr/bin/python3', '-c', 'import torch; print(torch.__version__)'])})",
        [Contender(OURS, lambda: ours(scratch, CORES)),
         Contender(ENGINES, engines, rounds=2, note="gradients and parameters by sockets: 0.8 MB for each engine and step"),
         Contender(KERNEL, lambda: ours(scratch, 1)),
         Contender("the same kernel, whole batches", lambda: ours(scratch, 1, "--shard", BATCH), note="no shards: what one process would do"),
         Contender("scikit-learn MLPClassifier", lambda: run_json([sys.executable, ROOT / "bench/peers/nn_sklearn.py", EPOCHS, BATCH]), rounds=2, needs="sklearn",
                   note="NumPy's BLAS with its own threads; doubles, as it gets them"),
         Contender("scikit-learn MLPClassifier, its defaults", lambda: run_json([sys.executable, ROOT / "bench/peers/nn_sklearn.py", EPOCHS, 0]), rounds=1,
                   needs="sklearn", note="Adam, batches of 200"),
         Contender("PyTorch, 1 thread", lambda: run_json([*TORCH, 1]), rounds=1, needs="/usr/bin/python3", note="Debian's build, which has no vendor kernels"),
         Contender(f"PyTorch, {CORES} threads", lambda: run_json([*TORCH, CORES]), rounds=1, needs="/usr/bin/python3", note="the same")],
        check, python="scikit-learn MLPClassifier", python_aim=7, bytes_moved=moved, plot=plot)
