"""Programs that were written for joblib, scikit-learn and concurrent.futures run unchanged.

scikit-learn's own examples come with the Debian package python-sklearn-doc; where it is not installed, the test says so. Nothing that
can be installed brings joblib's (they are in its repository only), so programs/ holds some of the same shape.
"""

import re
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
EXAMPLES = Path("/usr/share/doc/python-sklearn-doc/examples")

pytestmark = pytest.mark.timeout(300)

# Those of scikit-learn's examples with n_jobs that need no download and no more than seconds. Others of the package are older than the library.
SKLEARN = [
    pytest.param("ensemble/plot_forest_importances.py", marks=pytest.mark.long),
    "feature_selection/plot_rfe_with_cross_validation.py",
    pytest.param("model_selection/plot_multi_metric_evaluation.py", marks=pytest.mark.long),
    pytest.param("model_selection/plot_validation_curve.py", marks=pytest.mark.long),
]


def run(program: Path, folder: Path) -> tuple[str, int]:
    """Its standard output, and how many batches Manyhands ran."""
    done = subprocess.run([sys.executable, HERE / "on_manyhands.py", program], capture_output=True, text=True, timeout=280, cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    found = re.search(r"^batches: (\d+)$", done.stderr, re.MULTILINE)
    assert found, done.stderr
    return done.stdout, int(found[1])


@pytest.mark.parametrize("name", SKLEARN)
def test_scikit_learn_example(name, tmp_path):
    pytest.importorskip("sklearn")
    pytest.importorskip("matplotlib")
    if not (EXAMPLES / name).exists():
        pytest.skip("the Debian package python-sklearn-doc brings this example")
    _, batches = run(EXAMPLES / name, tmp_path)
    assert batches > 0


@pytest.mark.parametrize("name", sorted(path.name for path in (HERE / "programs").glob("*.py")))
def test_program(name, tmp_path):
    """Each ends with a line that says what came out, and that nothing but the right results gives."""
    pytest.importorskip("joblib")
    if "sklearn" in name:
        pytest.importorskip("sklearn")
    output, batches = run(HERE / "programs" / name, tmp_path)
    assert output.splitlines()[-1].startswith("right: "), output
    assert batches > 0 or "asyncio" in name
