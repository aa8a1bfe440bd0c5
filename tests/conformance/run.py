#!/usr/bin/env python3
"""Run CPython's own tests against manyhands:  tests/conformance/run.py --method fork -k _TestLock

Run it with the Python that manyhands is installed in (.venv/bin/python).
"""

from __future__ import annotations

import argparse
import fnmatch
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import parallel
import suites


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Run CPython's own tests with their imports answered by manyhands.")
    parser.add_argument("--method", action="append", choices=suites.SUITES, help="which suite (default: all); may be repeated")
    parser.add_argument("-k", action="append", default=[], metavar="PATTERN",
                        help="only tests whose suite::Class::test contains PATTERN, or matches it if it has a *; an underscore before Test is dropped; may be repeated")
    parser.add_argument("--short", action="store_true", help="only what `make check` runs")
    parser.add_argument("--bound", type=float, default=parallel.BOUND, help="seconds for one test (default: %(default).0f)")
    parser.add_argument("--jobs", type=int, default=parallel.JOBS)
    parser.add_argument("--standard", action="store_true", help="let the standard library answer: what does it do with the same tests?")
    parser.add_argument("--all", action="store_true", help="run those of not_applicable.txt, too")
    parser.add_argument("--list", action="store_true", help="print the names only")
    parser.add_argument("-q", action="store_true", help="name only what failed")
    return parser.parse_args()


def matches(test: str, patterns: list[str]) -> bool:
    cleaned = [p.replace("_Test", "Test") for p in patterns]
    return not patterns or any(fnmatch.fnmatchcase(test, p) if "*" in p else p in test for p in cleaned)


class Counter:
    """Prints what comes of each test, and at the end the sum."""

    def __init__(self, quiet: bool) -> None:
        self._quiet = quiet
        self._failed: list[parallel.Outcome] = []
        self._count = {"passed": 0, "failed": 0, "skipped": 0}
        self._began = time.monotonic()

    def take(self, outcome: parallel.Outcome) -> None:
        self._count[outcome.outcome] += 1
        if outcome.outcome == "failed":
            self._failed.append(outcome)
        if not self._quiet or outcome.outcome == "failed":
            reason = f": {outcome.text.splitlines()[0]}" if outcome.outcome == "skipped" and outcome.text else ""
            print(f"{outcome.test} ... {outcome.outcome} ({outcome.seconds:.2f} s){reason}", flush=True)

    def sum_up(self) -> int:
        """Print what failed and how many did not; the exit status."""
        for outcome in self._failed:
            print(f"\n==== {outcome.test} ====\n{outcome.text}")
        print(", ".join(f"{n} {what}" for what, n in self._count.items()), f"in {time.monotonic() - self._began:.0f} s")
        return 1 if self._failed or not self._count["passed"] else 0


def main() -> int:
    options = parse()
    table = [] if options.all or options.standard else suites.not_applicable()
    names = options.method or list(suites.SUITES)
    for suite in list(names):
        try:
            suites.check_installed(suite)
        except suites.Missing as e:
            print(f"cannot run {suite}: {e}", file=sys.stderr)
            if options.method:
                return 2
            names.remove(suite)
    tests = [t for t in suites.list_tests(names, options.standard) if matches(t, options.k)]
    tests = [t for t in tests if not suites.why_not(t, table) and (suites.is_short(t) or not options.short)]
    if options.list:
        print("\n".join(tests))
        return 0
    counter = Counter(options.q)
    run = parallel.Run(tests, counter.take, options.jobs, options.bound, parallel.run_standard if options.standard else parallel.run_cpython)
    run.wait()
    status = counter.sum_up()
    for kind, output in run.altered.items():
        print(f"\n---- left something behind: {kind} ----\n{output}")
    return status


if __name__ == "__main__":
    sys.exit(main())
