"""Search hyper-parameters with cross-validation: scikit-learn's GridSearchCV on manyhands' joblib backend.

    python examples/nn/search.py [--samples N] [--workers N] [--backend loky]

The other way in which the field uses many cores: not one training on all of them, but many trainings side by side.
"""

import argparse
import json
import os
import sys
import time
from pathlib import Path

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1") # the trainings are what is parallel

import joblib
from sklearn.model_selection import GridSearchCV
from sklearn.neural_network import MLPClassifier

import manyhands.joblib

sys.path.insert(0, str(Path(__file__).resolve().parent))

from train import fashion_mnist # noqa: E402

GRID = {"alpha": [1e-4, 1e-2, 1.0], "learning_rate_init": [0.01, 0.1]}


def search(samples: int, workers: int, backend: str = "manyhands", epochs: int = 4, kind: type[MLPClassifier] = MLPClassifier) -> GridSearchCV:
    """18 trainings: three parts of the samples for each of six settings. A training whose worker is killed is done again."""
    images, labels, _, _ = fashion_mnist()
    data = (images[:samples] / 255.0).astype("float32")
    model = kind(hidden_layer_sizes=(64,), solver="sgd", batch_size=100, max_iter=epochs, random_state=1)
    manyhands.joblib.register()
    options = {"retries": 3} if backend == "manyhands" else {}
    if backend == "manyhands" and sys.stderr.isatty():
        options["progress"] = "trainings"
    with joblib.parallel_backend(backend, n_jobs=workers, **options):
        return GridSearchCV(model, GRID, cv=3, n_jobs=workers, refit=False).fit(data, labels[:samples])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=6000)
    parser.add_argument("--workers", type=int, default=manyhands.cpu_count(), help="default: the cores")
    parser.add_argument("--backend", default="manyhands", choices=["manyhands", "loky", "sequential"])
    options = parser.parse_args()
    import warnings
    warnings.filterwarnings("ignore")
    start = time.perf_counter()
    found = search(options.samples, options.workers, options.backend)
    seconds = time.perf_counter() - start
    for settings, score in zip(found.cv_results_["params"], found.cv_results_["mean_test_score"]):
        print(f"{settings}: {score:.4f}")
    print(json.dumps({"seconds": seconds, "best": found.best_params_, "scores": found.cv_results_["mean_test_score"].tolist()}))


if __name__ == "__main__":
    main()
