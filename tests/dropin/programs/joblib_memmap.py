"""Workers fill a shared output array row by row: both arrays are memory-mapped files."""

import os
import shutil
import tempfile

import numpy as np
from joblib import Parallel, delayed, dump, load

folder = tempfile.mkdtemp()
rows, columns = 40, 20_000
rng = np.random.default_rng(7)
data = rng.normal(size=(rows, columns))
dump(data, os.path.join(folder, "data.mmap"))
mapped = load(os.path.join(folder, "data.mmap"), mmap_mode="r")
output = np.memmap(os.path.join(folder, "output.mmap"), dtype=data.dtype, shape=rows, mode="w+")


def total(source, target, row):
    target[row] = source[row].sum()


Parallel(n_jobs=2)(delayed(total)(mapped, output, row) for row in range(rows))
assert np.allclose(output, data.sum(axis=1))
print("right:", len(output), "rows")
shutil.rmtree(folder)
