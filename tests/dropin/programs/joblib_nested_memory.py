"""Parallel calls of cached functions, and parallel calls within them."""

import tempfile

import numpy as np
from joblib import Memory, Parallel, delayed

memory = Memory(tempfile.mkdtemp(), verbose=0)
rng = np.random.RandomState(42)
data = rng.randn(10_000, 4)


def transform(array, column):
    return np.sort(array[:, column])


@memory.cache
def aggregate(array, columns):
    return np.stack(Parallel(n_jobs=2)(delayed(transform)(array, c) for c in columns)).mean(axis=0)


first = Parallel(n_jobs=2)(delayed(aggregate)(data, columns) for columns in ((0, 1), (2, 3)))
again = Parallel(n_jobs=2)(delayed(aggregate)(data, columns) for columns in ((0, 1), (2, 3)))
expected = [np.sort(data[:, pair], axis=0).mean(axis=1) for pair in ((0, 1), (2, 3))]
assert all(np.allclose(a, e) and np.array_equal(a, b) for a, b, e in zip(first, again, expected))
print("right:", len(first), "aggregates")
