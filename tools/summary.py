#!/usr/bin/env python3
"""Add up what the stages of tools/check.sh left in a folder and print `N passed, N failed, N skipped` last.

    summary.py FOLDER

The folder holds `stages.txt` (a line "STATUS NAME" per stage), Meson's testlog.json under other names (a JSON object
per line) and pytest's JUnit XML. Each failed and each skipped test is named with its reason. A combination that a test
leaves out because it means nothing ("does not apply: ...") is no skip, and not counted. The summary is also left
in the folder as summary.txt. The exit status is 1 when anything failed or when nothing ran.

Meson's own JUnit is not used: it counts a test that timed out or died between two TAP lines as passed.
"""

from __future__ import annotations

import json
import re
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


# Which reports a stage of tools/check.sh leaves; the other stages leave none.
REPORTS = {
    "C tests": ["c.json"],
    "Python tests": ["shared.xml", "others.xml"],
    "cluster": ["cluster.xml"],
    "conformance": ["conformance.xml"],
    "sanitizers": ["asan.json", "tsan.json"],
}


@dataclass(frozen=True)
class Result:
    name: str
    outcome: str  # passed, failed or skipped
    reason: str = ""


def tap_results(program: str, output: str) -> Iterator[Result]:
    """The tests of one cmocka program. It writes "not ok 2 # SKIP name" for a skipped test and explains a failure on
    the comment lines after it; mh_test.h gives reasons on lines before it."""
    lines = output.splitlines()
    reason = ""
    for at, line in enumerate(lines):
        if match := re.match(r"# (?:skip|fail): (.*)", line):
            reason = match[1]
            continue
        if match := re.match(r"(?:not )?ok \d+ # SKIP (.*)", line):
            yield Result(f"{program}: {match[1]}", "skipped", reason or "no reason given")
        elif match := re.match(r"ok \d+ - (.*)", line):
            yield Result(f"{program}: {match[1]}", "passed")
        elif match := re.match(r"not ok \d+ - (.*)", line):
            why = [reason] if reason else []
            for comment in lines[at + 1:]:
                if not comment.startswith("#") or comment.startswith(("# skip: ", "# fail: ")):
                    break
                why.append(comment.lstrip("# "))
            yield Result(f"{program}: {match[1]}", "failed", "; ".join(why))
        if not line.startswith("#"):
            reason = ""


def meson_results(log: Path) -> Iterator[Result]:
    for line in log.read_text(encoding="utf-8", errors="replace").splitlines():
        test = json.loads(line)
        name = test["name"].rpartition(" / ")[2] # Meson puts "project:suite / " before it
        output = test.get("stdout") or ""
        if log.stem != "c":
            name = f"{name} ({log.stem})"  # asan, tsan
        found = list(tap_results(name, output))
        yield from found
        planned = sum(int(count) for count in re.findall(r"^1\.\.(\d+)", output, re.MULTILINE))
        if test["result"] in ("OK", "EXPECTEDFAIL"):
            if not found:
                yield Result(name, "passed")
            elif len(found) < planned:
                yield Result(name, "failed", f"only {len(found)} of {planned} tests reported")
        elif test["result"] == "SKIP":
            yield Result(name, "skipped", last_line(output) or "no reason given")
        elif not any(result.outcome == "failed" for result in found):
            # the program itself: a signal, a time-out, a sanitizer's report
            yield Result(name, "failed", " ".join(filter(None, [
                test["result"], f"status {test.get('returncode')}", last_line(test.get("stderr") or "")])))


def pytest_results(report: Path) -> Iterator[Result]:
    for case in ElementTree.parse(report).iter("testcase"):
        name = f"{case.get('classname')}.{case.get('name')}"
        outcome, reason = "passed", ""
        for child in case:
            if child.tag in ("failure", "error"):
                outcome, reason = "failed", first_line(child.get("message") or child.text or "")
            elif child.tag == "skipped" and outcome != "failed":
                outcome, reason = "skipped", first_line(child.get("message") or child.text or "no reason given")
        yield Result(name, outcome, reason)


def collect(folder: Path) -> list[Result]:
    """All results of all stages. A stage without reports of single tests counts as one test; one with reports counts
    by itself only when it failed and no test in its reports says why."""
    results = []
    for line in (folder / "stages.txt").read_text(encoding="utf-8").splitlines():
        status, stage = line.split(" ", 1)
        reports = [folder / name for name in REPORTS.get(stage, ())]
        found = [result for report in reports if report.exists() for result in read_report(report)]
        results += [result for result in found if not does_not_apply(result)]
        if status != "0" and not any(result.outcome == "failed" for result in found):
            results.append(Result(f"stage {stage}", "failed", f"exit status {status}"))
        elif not reports:
            results.append(Result(f"stage {stage}", "passed"))
    return results


def does_not_apply(result: Result) -> bool:
    return result.outcome == "skipped" and result.reason.startswith("does not apply: ")


def read_report(report: Path) -> Iterator[Result]:
    return meson_results(report) if report.suffix == ".json" else pytest_results(report)


def first_line(text: str) -> str:
    return next((line.strip() for line in text.splitlines() if line.strip()), "")


def last_line(text: str) -> str:
    return first_line("\n".join(reversed(text.splitlines())))


def main(folder: str) -> int:
    results = collect(Path(folder))
    print()
    for outcome in ("skipped", "failed"):
        for result in results:
            if result.outcome == outcome:
                print(f"{outcome}: {result.name}: {result.reason}")
    count = {outcome: sum(result.outcome == outcome for result in results)
             for outcome in ("passed", "failed", "skipped")}
    summary = f"{count['passed']} passed, {count['failed']} failed, {count['skipped']} skipped"
    (Path(folder) / "summary.txt").write_text(summary + "\n", encoding="utf-8")
    print(summary)
    return 1 if count["failed"] or not count["passed"] else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
