"""Runs tests of CPython on request, in the environment of suites.py.

    runner.py --list SUITE...       print the tests' names as a line of JSON
    runner.py SUITE CHANNEL BOUND   run, each within BOUND seconds: each line of standard input is a list of tests of one class, by name, in JSON; what comes of
                                    each is written to the descriptor CHANNEL, a line of JSON each
"""

import faulthandler
import json
import os
import pkgutil
import signal
import sys
import time
import unittest
from importlib import import_module


def load(suite):
    """The test classes of a suite by name. The modules are those that children find the classes in, too."""
    if suite == "main":
        modules = [import_module("test.test_multiprocessing_main_handling")]
    elif suite == "futures":
        package = import_module("test.test_concurrent_futures")
        modules = [package] if not hasattr(package, "__path__") else [
            import_module(f"{package.__name__}.{found.name}") for found in pkgutil.iter_modules(package.__path__) if found.name.startswith("test_")]
    else:
        modules = [import_module(f"suite_{suite}")]
    return {name: kind for module in modules for name, kind in vars(module).items()
            if isinstance(kind, type) and issubclass(kind, unittest.TestCase) and kind.__module__ == module.__name__ and not name.startswith("ThreadPool")}


def names(suite):
    return [f"{suite}::{name}::{test}" for name, kind in load(suite).items() for test in unittest.defaultTestLoader.getTestCaseNames(kind)]


class Report(unittest.TestResult):
    """Says at once what came of each test."""

    def __init__(self, channel):
        super().__init__()
        self.channel = channel
        self.pid = os.getpid()
        self.name = ""
        self.began = 0.0
        self.said = []

    def say(self, **what):
        if os.getpid() == self.pid:  # a child that a test let escape has no say
            os.write(self.channel, json.dumps(what).encode() + b"\n")

    def startTest(self, test):
        super().startTest(test)
        self.begin(test)

    def begin(self, test):
        self.name = test.id().rpartition(".")[2]
        self.began = time.monotonic()
        self.said = []
        self.say(start=self.name)

    def stopTest(self, test):
        super().stopTest(test)
        # A subtest may fail after another was skipped: the worst counts.
        outcome, text = max(self.said, key=lambda s: ("passed", "skipped", "failed").index(s[0]), default=("passed", ""))
        self.say(end=self.name, outcome=outcome, text=text, seconds=round(time.monotonic() - self.began, 3))
        self.name = ""

    def note(self, test, outcome, text):
        if not self.name and isinstance(test, unittest.TestCase):  # CPython 3.12.1 does not start what it skips
            self.begin(test)
        if self.name:
            self.said.append((outcome, text))
        else:  # of a class or the module
            self.say(fixture=test.id(), outcome=outcome, text=text)

    def addError(self, test, err):
        self.note(test, "failed", self._exc_info_to_string(err, test))

    addFailure = addError

    def addSubTest(self, test, subtest, err):
        if err is not None:
            self.note(test, "failed", f"{subtest}: {self._exc_info_to_string(err, test)}")

    def addSkip(self, test, reason):
        self.note(test, "skipped", reason)

    def addUnexpectedSuccess(self, test):
        self.note(test, "failed", "unexpected success")


def serve(suite, channel, bound):
    import redirect
    from test import support

    # As regrtest does for a time-out of its own: what is to detect a hang must end before a hang is taken for one.
    support.LONG_TIMEOUT = min(support.LONG_TIMEOUT, bound / 4)
    classes = load(suite)
    redirect.wrap_popen()
    support.verbose = False
    for line in sys.stdin:
        tests = [classes[kind](test) for _, kind, test in (name.split("::") for name in json.loads(line))]
        support.environment_altered = False
        report = Report(channel)
        unittest.TestSuite(tests).run(report)
        report.say(done=True, altered=bool(support.environment_altered))


if __name__ == "__main__":
    if sys.argv[1] == "--list":
        print(json.dumps([name for suite in sys.argv[2:] for name in names(suite)]))
    else:
        faulthandler.enable()
        import ctypes

        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: whoever reads the channel is gone
        serve(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]))
