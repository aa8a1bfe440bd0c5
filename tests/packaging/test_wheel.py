"""The wheel: built from this tree, and installed alone in an empty virtual environment, it runs the README's examples."""

import os
import re
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def run(*command, **options):
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=600, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    # The build folder of tools/install_package.sh, with what it has compiled. In isolation the same takes a minute more.
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    run(sys.executable, "-m", "pip", "wheel", "--no-build-isolation", "--no-deps", "--config-settings=build-dir=build-python", "-w", folder, ROOT, env=environment)
    (made,) = folder.glob("manyhands-*.whl")
    return made


@pytest.fixture(scope="module")
def python(wheel, tmp_path_factory):
    """An interpreter that has nothing but the wheel, and what pip installs for it."""
    folder = tmp_path_factory.mktemp("empty")
    venv.create(folder, with_pip=True, symlinks=True)
    interpreter = folder / "bin" / "python"
    run(interpreter, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", wheel)
    return interpreter


def test_what_is_in_it(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    source = ROOT / "python" / "manyhands"
    assert {f"manyhands/{path.relative_to(source)}" for path in source.rglob("*.py*") if "__pycache__" not in path.parts} <= names
    assert "manyhands/py.typed" in names and "manyhands/_core.pyi" in names
    assert len([name for name in names if re.fullmatch(r"manyhands/_core\..*\.so", name)]) == 1
    assert not [name for name in names if "test" in name or name.endswith((".c", ".h", ".a"))]


def test_it_needs_no_library_of_ours(wheel, tmp_path):
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if re.fullmatch(r"manyhands/_core\..*\.so", name)]
        archive.extract(name, tmp_path)
    assert "libmanyhands" not in run("ldd", tmp_path / name)


def readme_examples():
    text = (ROOT / "README.md").read_text()
    return [pytest.param(match[1], id=f"line {text.count(chr(10), 0, match.start()) + 1}") for match in re.finditer(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)]


@pytest.mark.parametrize("program", readme_examples())
def test_the_examples_of_the_readme(python, program, tmp_path):
    (tmp_path / "example.py").write_text(program)
    assert run(python, "-W", "error", "example.py", cwd=tmp_path, stdin=subprocess.DEVNULL)


def test_it_imports_from_the_environment_alone(python):
    assert Path(run(python, "-I", "-c", "import manyhands; print(manyhands.__file__)")).is_relative_to(python.parents[1])
