"""The perceptron as a Python user starts it: scikit-learn's MLPClassifier.    python bench/peers/nn_sklearn.py EPOCHS BATCH   (0: its defaults)"""

import gzip
import json
import sys
import time
import warnings

import numpy
from sklearn.neural_network import MLPClassifier

FOLDER = "/usr/share/datasets/fashion-mnist/"


def read(name, header):
    return numpy.frombuffer(gzip.open(f"{FOLDER}{name}-ubyte.gz").read()[header:], numpy.uint8)


warnings.filterwarnings("ignore")
epochs, batch = map(int, sys.argv[1:])
x, tests = (read(name, 16).reshape(-1, 784) / 255 for name in ("train-images-idx3", "t10k-images-idx3"))
y, answers = read("train-labels-idx1", 8), read("t10k-labels-idx1", 8)
ours = {"solver": "sgd", "batch_size": batch, "learning_rate_init": 0.1, "momentum": 0.9, "alpha": 0} if batch else {}
model = MLPClassifier((128,), **ours, max_iter=epochs, tol=0, random_state=1)
start = time.perf_counter()
model.fit(x, y)
seconds = time.perf_counter() - start
print(json.dumps({"seconds": seconds, "accuracy": model.score(tests, answers)}))
