"""What a runner process of ipyparallel's tests does: pytest on one of their files at a time, and a word about each test.

--list prints the names of all tests, "test_file::test" or "test_file::Class.test". Else: PAIRING CHANNEL BOUND, as ipp.py starts it.
Standard input brings lines of names, the channel takes a line of JSON for each thing that happens.
"""

import contextlib
import ctypes
import faulthandler
import importlib
import importlib.machinery
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ipp_places import PLACES

APART, APART_FLAG = ("test_ssh",), "--apart"  # files that have a runner for themselves, for the namespaces that it goes into

# The installed package, whoever answers imports of it.
FOLDER = Path(importlib.machinery.PathFinder.find_spec("ipyparallel").origin).parent / "tests"


def name_of(nodeid):
    file, *parts = nodeid.split("::")
    return f"{Path(file).stem}::{'.'.join(parts)}"


class Lister:
    """Collects names."""

    def __init__(self):
        self.names = []

    def pytest_collection_finish(self, session):
        self.names += [name_of(item.nodeid) for item in session.items]


class Reporter:
    """Runs what it is asked for of one file, and says at once what came of each test."""

    def __init__(self, channel, wanted):
        self.channel = channel
        self.wanted = wanted
        self.pid = os.getpid()
        self.said = []
        self.began = 0.0

    def say(self, **what):
        if os.getpid() == self.pid:  # a child that a test let escape has no say
            os.write(self.channel, json.dumps(what).encode() + b"\n")

    def pytest_collection_modifyitems(self, items):
        items[:] = [item for item in items if name_of(item.nodeid) in self.wanted]

    def pytest_collectreport(self, report):
        if report.failed:
            self.say(fixture=report.nodeid, outcome="failed", text=str(report.longrepr))

    def pytest_runtest_logstart(self, nodeid):
        self.began = time.monotonic()
        self.said = []
        self.say(start=name_of(nodeid).partition("::")[2])

    def pytest_runtest_logreport(self, report):
        if report.skipped:
            reason = f"expected to fail: {report.wasxfail}" if hasattr(report, "wasxfail") else report.longrepr[2]
            self.said.append(("skipped", str(reason).removeprefix("Skipped: ")))
        elif report.failed:
            self.said.append(("failed", "\n".join([f"in its {report.when}:", report.longreprtext, *(f"-- {title} --\n{text}" for title, text in report.sections)])))

    def pytest_runtest_logfinish(self, nodeid):
        outcome, text = max(self.said, key=lambda s: ("passed", "skipped", "failed").index(s[0]), default=("passed", ""))
        self.say(end=name_of(nodeid).partition("::")[2], outcome=outcome, text=text, seconds=round(time.monotonic() - self.began, 3))


def run(plugin, *arguments):
    # From an empty file, and not from what lies around the installed package.
    return pytest.main(["-q", "--no-summary", "-p", "no:cacheprovider", "-o", "asyncio_mode=auto", "-c", os.devnull, f"--rootdir={FOLDER}", *arguments], plugins=[plugin])


def warm_engines():
    """Have each engine that a test adds run something at once, so that bounds of tests hold the cluster and not a first import."""
    ipyparallel, tests = importlib.import_module("ipyparallel"), importlib.import_module("ipyparallel.tests")
    add = tests.add_engines

    def add_warm(n=1, profile="iptest", total=False):
        added = add(n, profile, total)
        if added:
            with ipyparallel.Client(profile=profile) as rc:
                rc[rc.ids[-len(added):]].apply_sync(abs, 1)
        return added

    tests.add_engines = add_warm


def serve(channel, bound, pairing, is_apart=False):
    warm_engines()
    try:
        importlib.import_module("matplotlib.font_manager")  # its first import on a machine lists all fonts, for minutes
    except ImportError:
        pass
    for line in sys.stdin:
        wanted = {name.partition("::")[2] for name in json.loads(line)}
        file = next(iter(wanted)).partition("::")[0]
        if file in APART and pairing == "C" and not is_apart:  # the stock ssh launcher takes minutes to notice an end; their own condition leaves it out
            subprocess.run([sys.executable, __file__, APART_FLAG, str(channel), str(bound)], input=line, text=True, pass_fds=[channel])
            continue
        reporter = Reporter(channel, wanted)
        place = PLACES.get(file) if is_apart or file not in APART else None
        with place() if place else contextlib.nullcontext():
            # A test that has no bound of its own must end, with its stack, before the runner is taken to hang.
            run(reporter, f"--timeout={bound * 0.75:.0f}", f"{FOLDER / file}.py")
        reporter.say(done=True, altered=False)


if __name__ == "__main__":
    if sys.argv[1] == "--list":
        lister = Lister()
        status = run(lister, "--collect-only", str(FOLDER))
        print(json.dumps(lister.names))
        sys.exit(0 if lister.names else status)
    faulthandler.enable()
    libc = ctypes.CDLL(None)
    libc.prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: whoever reads the channel is gone
    libc.prctl(36, 1)              # PR_SET_CHILD_SUBREAPER: daemons that tests leave behind are found below this process
    serve(int(sys.argv[2]), float(sys.argv[3]), sys.argv[1], is_apart=sys.argv[1] == APART_FLAG)
