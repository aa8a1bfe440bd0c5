"""Every example in README.md and docs/ runs: ```python blocks as programs, ```c blocks compiled, and run if they have a main."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BUILD = ROOT / "build"
FENCE = re.compile(r"^```(python|c)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PAGES = sorted(page for page in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")] if "decisions" not in page.parts)


def blocks(language):
    """Every block of one language, named by page and line."""
    found = []
    for page in PAGES:
        text = page.read_text()
        for match in FENCE.finditer(text):
            if match[1] == language:
                line = text.count("\n", 0, match.start()) + 1
                found.append(pytest.param(match[2], id=f"{page.relative_to(ROOT)}:{line}"))
    return found


def run(command, **options):
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("program", blocks("python"))
def test_python(program, tmp_path):
    (tmp_path / "example.py").write_text(program)
    run([sys.executable, "example.py"], cwd=tmp_path)


@pytest.mark.parametrize("program", blocks("c"))
def test_c(program, tmp_path):
    source = tmp_path / "example.c"
    source.write_text(program)
    flags = ["-std=gnu11", "-Wall", "-Wextra", "-Wno-unused-parameter", "-Werror", f"-I{ROOT / 'include'}"]
    if "int main(" not in program:
        run(["cc", *flags, "-fsyntax-only", "-include", "manyhands.h", "-Wno-unused", source])
        return
    run(["cc", *flags, source, f"-L{BUILD}", "-lmanyhands", "-o", tmp_path / "example"])
    run([tmp_path / "example"], env={**os.environ, "LD_LIBRARY_PATH": str(BUILD)})
