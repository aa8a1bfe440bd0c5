"""What the pages of the applications tell to type works: every command and every program on them, with less to do."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted((ROOT / "docs" / "applications").glob("*.md"))
LESS = {"melt": "--cells 6 --steps 60", "train": "--epochs 1 --samples 2048 --batch 512 --hidden 16 --kill 3", "search": "--samples 300", "detect": "--frames 72",
        "options": "--paths 2", "wordcount": "--megabytes 3", "squares": "--count 200000", "example-squares": "200000"}
WORDS_IN_C = "build/examples/example-wordcount /usr/share/doc 1000 changelog" # has no options: its second argument says how much


def blocks(language):
    for page in PAGES:
        for block in re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(), re.M | re.S):
            yield page, block


def commands():
    for page, block in blocks("sh"):
        for line in block.splitlines():
            words = shlex.split(line, comments=True)
            if words and words[0] != "make":
                # other tests have these, with less to start
                marks = [pytest.mark.long] if "--engines" in words or "search.py" in words[-1] else []
                yield pytest.param(words, id=f"{page.stem}: {' '.join(words)}", marks=marks)


def shortened(words):
    if " ".join(words) == WORDS_IN_C:
        return [words[0], words[1], "2", *words[3:]]
    program, rest = (sys.executable, words[1:]) if words[0] == ".venv/bin/python" else (words[0], words[1:])
    less = LESS[Path(rest[0] if program == sys.executable else program).stem].split()
    if "--kill" in less and "--kill" not in rest:
        less = less[:less.index("--kill")]
    return [program, *rest, *less]


@pytest.mark.parametrize("words", list(commands()))
def test_command(words, tmp_path):
    for folder in ("build", "examples"):
        (tmp_path / folder).symlink_to(ROOT / folder)
    done = subprocess.run(shortened(words), cwd=tmp_path, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stdout + done.stderr
    if "--plot" in words:
        assert list((tmp_path / "pictures").glob("*.png"))


@pytest.mark.parametrize("program", [pytest.param(block, id=page.stem) for page, block in blocks("py") if "with `make examples` done" in block])
def test_program(program):
    folder = re.search(r"in the folder (\S+)", program)[1]
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT / folder, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
