"""Results are reduced as they come, without all of them in memory at once."""

import numpy as np
from joblib import Parallel, delayed


def draw(seed):
    return np.random.default_rng(seed).integers(0, 100, size=200_000)


class Sum:
    def __init__(self):
        self.total = 0

    def add(self, array):
        self.total += int(array.sum())


expected = sum(int(draw(seed).sum()) for seed in range(20))
for order in ("generator", "generator_unordered"):
    result = Sum()
    for array in Parallel(n_jobs=2, return_as=order)(delayed(draw)(seed) for seed in range(20)):
        result.add(array)
    assert result.total == expected
print("right:", expected)
