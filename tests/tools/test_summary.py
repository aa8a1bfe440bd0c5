import json
from pathlib import Path

import pytest
import summary

TAP = """1..4
ok 1 - passes
# skip: no huge pages
not ok 2 # SKIP skips
# fail: f() gave 1
not ok 3 - fails
# 1 != 2
# a_test.c:4: error: Failure!
not ok 4 - hurts
# Test failed with exception: Illegal instruction(4)
# not ok - t
"""
PYTEST = """<testsuites><testsuite name="pytest">
<testcase classname="tests.a" name="test_good"/>
<testcase classname="tests.a" name="test_bad"><failure message="assert 1 == 2&#10; where">text</failure></testcase>
<testcase classname="tests.a" name="test_teardown"><error message="fixture">text</error></testcase>
<testcase classname="tests.a" name="test_left"><skipped message="needs gdb">text</skipped></testcase>
</testsuite></testsuites>"""


def meson(result: str, stdout: str = "", stderr: str = "", status: int = 0) -> str:
    return json.dumps({"name": "manyhands:unit / base/a_test", "result": result, "stdout": stdout, "stderr": stderr, "returncode": status})


# stages, reports by name, the last line, other lines that must be there
TABLE = [
    ("0 build\n0 layers\n", {}, "2 passed, 0 failed, 0 skipped", []),
    ("", {}, "0 passed, 0 failed, 0 skipped", []),
    ("1 build\n", {}, "0 passed, 1 failed, 0 skipped", ["failed: stage build: exit status 1"]),
    ("1 C tests\n", {"c.json": meson("FAIL", TAP, status=2)}, "1 passed, 2 failed, 1 skipped", [
        "skipped: base/a_test: skips: no huge pages",
        "failed: base/a_test: fails: f() gave 1; 1 != 2; a_test.c:4: error: Failure!",
        "failed: base/a_test: hurts: Test failed with exception: Illegal instruction(4); not ok - t"]),
    # what is said about one test is not laid to another
    ("1 C tests\n", {"c.json": meson("FAIL", "1..2\nnot ok 1 - a\n# x\n# skip: y\nnot ok 2 # SKIP b\n", status=1)},
        "0 passed, 1 failed, 1 skipped", ["failed: base/a_test: a: x", "skipped: base/a_test: b: y"]),
    # a program that is no cmocka program counts as one test
    ("0 C tests\n", {"c.json": meson("OK", "hello\n")}, "1 passed, 0 failed, 0 skipped", []),
    ("0 C tests\n", {"c.json": meson("SKIP", "no cores\n", status=77)}, "0 passed, 0 failed, 1 skipped",
        ["skipped: base/a_test: no cores"]),
    # a combination that means nothing is no skip
    ("0 C tests\n", {"c.json": meson("OK", "1..2\nok 1 - a\n# skip: does not apply: x\nnot ok 2 # SKIP b\n")},
        "1 passed, 0 failed, 0 skipped", []),
    # what Meson's own JUnit would call passed
    ("1 C tests\n", {"c.json": meson("TIMEOUT", "1..2\nok 1 - a\n", status=-15)}, "1 passed, 1 failed, 0 skipped",
        ["failed: base/a_test: TIMEOUT status -15"]),
    ("0 C tests\n", {"c.json": meson("OK", "1..2\nok 1 - a\n")}, "1 passed, 1 failed, 0 skipped",
        ["failed: base/a_test: only 1 of 2 tests reported"]),
    ("1 C tests\n", {"c.json": meson("FAIL", "1..1\nok 1 - a\n", "x\nSUMMARY: leak\n", 1)}, "1 passed, 1 failed, 0 skipped",
        ["failed: base/a_test: FAIL status 1 SUMMARY: leak"]),
    ("1 sanitizers\n", {"asan.json": meson("OK", "1..1\nok 1 - a\n"), "tsan.json": meson("FAIL", status=66)},
        "1 passed, 1 failed, 0 skipped", ["failed: base/a_test (tsan): FAIL status 66"]),
    ("1 Python tests\n", {"shared.xml": PYTEST}, "1 passed, 2 failed, 1 skipped", [
        "skipped: tests.a.test_left: needs gdb", "failed: tests.a.test_bad: assert 1 == 2",
        "failed: tests.a.test_teardown: fixture"]),
    # a stage that dies without a report, beside one that explains itself
    ("1 C tests\n2 Python tests\n", {"c.json": meson("FAIL", status=1)}, "0 passed, 2 failed, 0 skipped",
        ["failed: stage Python tests: exit status 2"]),
]


@pytest.mark.parametrize("stages, reports, last, others", TABLE)
def test_summary(tmp_path: Path, capsys: pytest.CaptureFixture[str],
                 stages: str, reports: dict[str, str], last: str, others: list[str]) -> None:
    (tmp_path / "stages.txt").write_text(stages)
    for name, text in reports.items():
        (tmp_path / name).write_text(text)
    status = summary.main(str(tmp_path))
    printed = capsys.readouterr().out.splitlines()
    assert printed[-1] == last
    assert set(others) <= set(printed)
    assert (tmp_path / "summary.txt").read_text() == last + "\n"
    assert status == (0 if ", 0 failed" in last and not last.startswith("0 passed") else 1)
