#!/usr/bin/env python3
"""Run ipyparallel's own tests against manyhands:  tests/conformance/ipp.py --pairing A -k test_lbview

Pairing A is our controller with stock engines and the stock client, B our controller and engines with the stock client, C all three ours.
Run it with the Python that manyhands is installed in (.venv/bin/python).
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import ipp_suites
import parallel
import suites
from run import Counter, matches


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Run ipyparallel's own tests with parts of the cluster replaced by manyhands.")
    parser.add_argument("--pairing", action="append", choices=ipp_suites.PAIRINGS,
                        help="A: our controller; B: and our engines; C: and our client (default: these three); stock: nothing of ours; may be repeated")
    parser.add_argument("-k", action="append", default=[], metavar="PATTERN",
                        help="only tests whose PAIRING::test_file::Class.test contains PATTERN, or matches it if it has a *; may be repeated")
    parser.add_argument("--short", action="store_true", help="only what `make check` runs")
    parser.add_argument("--bound", type=float, default=parallel.BOUND, help="seconds for one test (default: %(default).0f)")
    parser.add_argument("--jobs", type=int, default=1, help="files at once (default: %(default)s)")
    parser.add_argument("--all", action="store_true", help="run those of ipp_not_applicable.txt, too")
    parser.add_argument("--list", action="store_true", help="print the names only")
    parser.add_argument("-q", action="store_true", help="name only what failed")
    return parser.parse_args()


def main() -> int:
    options = parse()
    if missing := ipp_suites.why_missing():
        print(missing, file=sys.stderr)
        return 2
    table = [] if options.all else ipp_suites.not_applicable()
    tests = [t for t in ipp_suites.list_tests(options.pairing or ["A", "B", "C"]) if matches(t, options.k)]
    tests = [t for t in tests if not suites.why_not(t, table) and (ipp_suites.is_short(t) or not options.short)]
    if options.list:
        print("\n".join(tests))
        return 0
    counter = Counter(options.q)
    run = parallel.Run(tests, counter.take, options.jobs, options.bound, ipp_suites.program)
    run.wait()
    return counter.sum_up()


if __name__ == "__main__":
    sys.exit(main())
