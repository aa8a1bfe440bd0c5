"""ipyparallel's own tests with parts of the cluster replaced by ours, each as a test of ours; ipp.py is their command line.

All that were selected run in the background, from the first one on, a file after the other: they start many processes, and have bounds of
their own on how long things take. Each test here waits for its own result.
"""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import ipp_suites
import parallel
import suites

MISSING = ipp_suites.why_missing()
TABLE = ipp_suites.not_applicable()
NAMES = [] if MISSING else ipp_suites.list_tests(["A", "B", "C"])
TESTS = [pytest.param(name, id=name, marks=() if ipp_suites.is_short(name) else pytest.mark.long) for name in NAMES]


@pytest.fixture(scope="module")
def results(request):
    names = [item.callspec.params["name"] for item in request.session.items if item.path == request.path and item.originalname == "test_ipyparallel"]
    made = parallel.Results([name for name in names if not suites.why_not(name, TABLE)], jobs=1, program=ipp_suites.program)
    try:
        yield made
    finally:
        made.stop()


@pytest.mark.timeout(0)  # it may wait for many others; the one that runs has its own bound
@pytest.mark.parametrize("name", TESTS)
def test_ipyparallel(name, request):
    if reason := suites.why_not(name, TABLE):
        pytest.skip(f"does not apply: {reason}")
    outcome = request.getfixturevalue("results").wait(name)
    if outcome.outcome == "skipped":
        pytest.skip(f"does not apply: ipyparallel's own reason: {outcome.text}")
    if outcome.outcome != "passed":
        pytest.fail(outcome.text, pytrace=False)


def test_installed():
    if MISSING:
        pytest.skip(MISSING)
