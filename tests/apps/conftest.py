import os
import subprocess
import sys
from pathlib import Path

import pytest

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1") # before NumPy is there: threads of its own would wait for each other on a busy machine
ROOT = Path(__file__).resolve().parents[2]
for name in ("examples", "bench", "examples/md", "examples/nn", "examples/video", "examples/options"):
    sys.path.insert(0, str(ROOT / name))


@pytest.fixture
def run_built():
    """Run a program of build/examples/: its standard output, or with `fails` what it says on the error stream."""
    import native

    def run(name, *arguments, fails=False, timeout=100):
        done = subprocess.run([str(native.path(name)), *map(str, arguments)], capture_output=True, text=True, timeout=timeout)
        assert (done.returncode != 0) == fails, done.stderr
        return done.stderr if fails else done.stdout

    return run
