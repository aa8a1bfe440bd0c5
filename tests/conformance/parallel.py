"""Runs other projects' tests in several runner processes at once; a test that hangs fails alone, with the stacks of all its processes."""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Iterable

import suites

BOUND = 120.0  # seconds for one test, unless told otherwise
START_BOUND = 120.0  # for a runner to come up, and for fixtures of classes
JOBS = (os.cpu_count() or 1) + 1  # the tests sleep more than they work


@dataclass
class Outcome:
    """What came of one test: passed, failed or skipped; the text says why."""

    test: str
    outcome: str
    text: str = ""
    seconds: float = 0.0


def descendants(pid: int) -> list[int]:
    parents: dict[int, list[int]] = {}
    for entry in filter(str.isdigit, os.listdir("/proc")):
        try:
            fields = Path("/proc", entry, "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        parents.setdefault(int(fields[1]), []).append(int(entry))
    found, todo = [], [pid]
    while todo:
        children = parents.get(todo.pop(), [])
        found += children
        todo += children
    return found


Program = Callable[[str], "tuple[list[str], dict[str, str]]"]  # the command line and the environment of a suite's runner


def run_cpython(suite: str) -> tuple[list[str], dict[str, str]]:
    """The program that has manyhands answer CPython's tests."""
    return [str(suites.environment()), str(suites.HERE / "runner.py")], suites.child_environment()


def run_standard(suite: str) -> tuple[list[str], dict[str, str]]:
    """The program that lets the standard library answer CPython's tests."""
    return [str(suites.environment()), str(suites.HERE / "runner.py")], suites.child_environment(standard=True)


class Runner:
    """One runner process and the folder that it works in."""

    def __init__(self, suite: str, bound: float, program: Program) -> None:
        self.folder = tempfile.mkdtemp(prefix="conformance-")
        self.log = open(Path(self.folder, "output"), "w+b")  # noqa: SIM115  # closed by stop
        self.channel, theirs = os.pipe()
        os.set_blocking(self.channel, False)
        command, environment = program(suite)
        self.process = subprocess.Popen([*command, suite, str(theirs), str(bound)], cwd=self.folder, env={**environment, "TMPDIR": self.folder}, pass_fds=[theirs],
                                        stdin=subprocess.PIPE, stdout=self.log, stderr=self.log, start_new_session=True)
        os.close(theirs)
        self.buffer = b""
        self.suite = suite
        self.fresh = True

    def give(self, tests: list[str]) -> None:
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps(tests).encode() + b"\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass  # its end is seen by hear

    def hear(self, until: float) -> dict[str, object] | None:
        """The runner's next message, or None when it ended or said nothing in time."""
        pidfd = os.pidfd_open(self.process.pid)
        try:
            while b"\n" not in self.buffer:
                ready = select.select([self.channel, pidfd], [], [], max(0.0, until - time.monotonic()))[0]
                if self.channel in ready and (more := os.read(self.channel, 65536)):
                    self.buffer += more
                elif pidfd in ready or not ready:
                    return None
        finally:
            os.close(pidfd)
        line, _, self.buffer = self.buffer.partition(b"\n")
        message: dict[str, object] = json.loads(line)
        return message

    def output(self, since: int) -> str:
        return os.pread(self.log.fileno(), 1 << 20, since).decode(errors="replace")

    def position(self) -> int:
        return os.fstat(self.log.fileno()).st_size

    def stacks(self) -> str:
        """Have every process of the test say where it is; what does not is described as the system sees it."""
        since = self.position()
        lines = []
        for pid in [self.process.pid, *descendants(self.process.pid)]:
            try:
                command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")[:150]
                waits = Path(f"/proc/{pid}/wchan").read_text()
                lines.append(f"process {pid}, in {waits or '?'}: {command}")
                if "ython" in command:
                    os.kill(pid, signal.SIGQUIT)  # redirect.py has faulthandler answer
                    time.sleep(0.3)  # their output shares one file: one after the other
            except OSError:
                pass
        return "\n".join([*lines, self.output(since)])

    def stop(self) -> None:
        for pid in [*descendants(self.process.pid), self.process.pid]:
            try:
                os.kill(pid, signal.SIGKILL)
            except OSError:
                pass
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except OSError:
            pass
        self.process.wait()
        assert self.process.stdin is not None
        self.process.stdin.close()
        os.close(self.channel)
        self.log.close()
        shutil.rmtree(self.folder, ignore_errors=True)


class Run:
    """Tests that are being run, class by class, in `jobs` runners; `report` hears of each, from any thread."""

    def __init__(self, tests: Iterable[str], report: Callable[[Outcome], None], jobs: int = JOBS, bound: float = BOUND, program: Program = run_cpython) -> None:
        self._report = report
        self._bound = bound
        self._program = program
        units: dict[str, list[str]] = {}
        for test in tests:
            units.setdefault(test.rpartition("::")[0], []).append(test)
        self._queue = sorted(units.values(), key=_weight, reverse=True)
        self._lock = threading.Lock()  # of the queue
        self._stopped = False
        self.failure: BaseException | None = None  # of the harness itself
        self.altered: dict[str, str] = {}  # classes that left something behind, as CPython's tests find it, and what they printed
        self._threads = [threading.Thread(target=self._work) for _ in range(jobs)]
        for thread in self._threads:
            thread.start()

    def wait(self) -> None:
        for thread in self._threads:
            thread.join()
        if self.failure is not None:
            raise self.failure

    def stop(self) -> None:
        """Give up what has not run; tests that are running end within a second."""
        self._stopped = True
        self.wait()

    def is_running(self) -> bool:
        return any(thread.is_alive() for thread in self._threads)

    def _next(self, suite: str | None) -> list[str] | None:
        with self._lock:
            if not self._queue or self._stopped:
                return None
            # A runner that is up goes on with its suite while there is something left of it.
            return self._queue.pop(next((i for i, u in enumerate(self._queue) if suite and u[0].startswith(f"{suite}::")), 0))

    def _work(self) -> None:
        runner: Runner | None = None
        try:
            while unit := self._next(runner.suite if runner else None):
                left = {name.rpartition("::")[2]: name for name in unit}
                while left and not self._stopped:
                    runner = self._run_class(runner, left)
        except BaseException as e:
            self.failure = e
        finally:
            if runner is not None:
                runner.stop()

    def _run_class(self, runner: Runner | None, left: dict[str, str]) -> Runner | None:
        """Run tests of one class and take those that are done from `left`. Returns the runner to go on with, None when it was brought down."""
        suite, kind, _ = next(iter(left.values())).split("::")
        if runner is not None and runner.suite != suite:
            runner.stop()
            runner = None
        runner = runner or Runner(suite, self._bound, self._program)
        runner.give(list(left.values()))
        current, since = "", runner.position()
        begin = since
        held: Outcome | None = None  # the last result waits for what the class itself ends with
        fixture: Outcome | None = None
        while True:
            message = self._hear(runner, self._bound if current else START_BOUND)
            if message is None or "done" in message:
                break
            if "start" in message:
                current, since = str(message["start"]), runner.position()
            elif "end" in message:
                if held:
                    self._report(held)
                text = str(message["text"])
                if message["outcome"] == "failed":
                    text += f"\n---- output ----\n{runner.output(since)}"
                held = Outcome(left.pop(current), str(message["outcome"]), text, float(str(message["seconds"])))
                current = ""
            elif fixture is None or fixture.outcome != "failed":
                fixture = Outcome(f"{suite}::{kind}", str(message["outcome"]), f"{message['fixture']}: {message['text']}")
        if held:
            if fixture and fixture.outcome == "failed":
                held = Outcome(held.test, "failed", f"{fixture.text}\n{held.text}", held.seconds)
            self._report(held)
        if message is not None:
            if message["altered"]:
                self.altered[f"{suite}::{kind}"] = runner.output(begin)
            fixture = fixture or Outcome("", "failed", "the test was not run")
            while left:  # the class did not begin
                self._report(Outcome(left.popitem()[1], fixture.outcome, fixture.text))
            return runner
        if self._stopped:
            runner.stop()
            return None
        # The runner hangs or is gone: so fails the test that it was in, and the rest of the class begins again with another.
        if runner.process.poll() is None:
            text = f"no end within {self._bound if current else START_BOUND:.0f} s\n{runner.stacks()}"
        else:
            text = f"the runner died: exit status {runner.process.returncode}\n{runner.output(since)}"
        runner.stop()
        if current:
            self._report(Outcome(left.pop(current), "failed", text, self._bound))
        while left and not current:
            self._report(Outcome(left.popitem()[1], "failed", f"{kind} outside its tests: {text}"))
        return None

    def _hear(self, runner: Runner, bound: float) -> dict[str, object] | None:
        until = time.monotonic() + bound
        while not self._stopped:
            message = runner.hear(min(until, time.monotonic() + 0.5))
            if message is not None or runner.process.poll() is not None or time.monotonic() >= until:
                return message
        return None


class Results:
    """Runs tests in the background; whoever waits for one gets its outcome when it is there."""

    def __init__(self, names: Iterable[str], jobs: int = JOBS, program: Program = run_cpython) -> None:
        self._there = threading.Condition()
        self._outcomes: dict[str, Outcome] = {}
        self._run = Run(names, self._take, jobs, program=program)

    def _take(self, outcome: Outcome) -> None:
        with self._there:
            self._outcomes[outcome.test] = outcome
            self._there.notify_all()

    def wait(self, name: str) -> Outcome:
        """The outcome of a test, however long it takes: the one that runs has its own bound."""
        with self._there:
            while name not in self._outcomes:
                if not self._run.is_running():
                    return self._outcomes.get(name) or Outcome(name, "failed", f"it was not run: {self._run.failure!r}")
                self._there.wait(1)
            return self._outcomes[name]

    def stop(self) -> None:
        """Give up what has not run."""
        self._run.stop()


def _weight(unit: list[str]) -> int:
    """Classes that take long come first, so that the last to end is a short one."""
    kind = unit[0].split("::")[1]
    return next((100 - i for i, name in enumerate(("Pool", "Shutdown", "Barrier", "Condition", "Deadlock")) if name in kind), 0) + min(len(unit), 50)
