"""CPython's own tests of multiprocessing and of the process executor, each as a test of ours; run.py is their command line.

All that were selected run in the background, in parallel, from the first one on; each test here waits for its own result.
"""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import parallel
import suites


def why_missing(suite):
    try:
        suites.check_installed(suite)
    except suites.Missing as e:
        return str(e)
    return None


MISSING = {suite: why_missing(suite) for suite in suites.SUITES}
TABLE = suites.not_applicable()
NAMES = suites.list_tests([suite for suite, why in MISSING.items() if why is None])
TESTS = [pytest.param(name, id=name, marks=() if suites.is_short(name) else pytest.mark.long) for name in NAMES]


@pytest.fixture(scope="module")
def results(request):
    names = [item.callspec.params["name"] for item in request.session.items if item.path == request.path and item.originalname == "test_cpython"]
    made = parallel.Results([name for name in names if not suites.why_not(name, TABLE)])
    try:
        yield made
    finally:
        made.stop()


@pytest.mark.timeout(0)  # it may wait for many others; the one that runs has its own bound
@pytest.mark.parametrize("name", TESTS)
def test_cpython(name, request):
    if reason := suites.why_not(name, TABLE):
        pytest.skip(f"does not apply: {reason}")
    outcome = request.getfixturevalue("results").wait(name)
    if outcome.outcome == "skipped":
        pytest.skip(f"does not apply: CPython's own reason: {outcome.text}")
    if outcome.outcome != "passed":
        pytest.fail(outcome.text, pytrace=False)


@pytest.mark.parametrize("suite", suites.SUITES)
def test_installed(suite):
    if MISSING[suite]:
        pytest.skip(MISSING[suite])
