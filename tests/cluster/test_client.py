"""The examples of the C client, with a controller and engines: native ones, and Python's."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from peers import SOON_S, Controller
from test_engine import EngineProcess

EXAMPLES = Path(__file__).parents[2] / "build" / "examples" # made by meson


@pytest.fixture
def controller(tmp_path: Path) -> Iterator[Controller]:
    controller = Controller(tmp_path)
    yield controller
    assert controller.stop() == 0


def run(name: str, controller: Controller, *arguments: str) -> str:
    return subprocess.run([EXAMPLES / f"example-{name}", controller.client_file, *arguments], check=True, timeout=4 * SOON_S,
                          stdout=subprocess.PIPE, text=True).stdout


def test_a_native_client_and_native_engines_need_no_python(controller: Controller) -> None:
    engines = [EngineProcess(controller, f"--library={EXAMPLES / 'libnative_tasks.so'}") for _ in range(2)]
    try:
        output = run("native_client", controller, "200000")
    finally:
        for engine in engines:
            engine.stop()
    assert output.splitlines()[0] == "17984 primes below 200000"
    assert output.splitlines()[1].endswith(": the task reported a failure: TaskFailed: the input is not a range")


@pytest.mark.parametrize("shell", ["plain", "auto"])
def test_values_go_to_python_engines_and_come_back(controller: Controller, shell: str) -> None:
    engines = [EngineProcess(controller, f"--shell={shell}") for _ in range(2)]
    try:
        output = run("python_values", controller).splitlines()
    finally:
        for engine in engines:
            engine.stop()
    assert output[0] == 'config of engine 0: {"scale": 3, "name": "it\'s \\"quoted\\" \\u00e9"}' and output[1].startswith("config of engine 1")
    assert output[2] == " ".join(str(3 * i) for i in range(10))
    assert output[3:5] == ["engine 0: ZeroDivisionError: division by zero", "engine 1: ZeroDivisionError: division by zero"]
    assert output[5].startswith("no such value: NameError: name 'nothing' is not defined")
