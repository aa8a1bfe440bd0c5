"""The package itself: stubs, docstrings' examples, names."""

import doctest
import importlib
import inspect
import multiprocessing
import os
import subprocess
import sys
from pathlib import Path

import pytest

import manyhands
from manyhands import _core

FOLDER = Path(manyhands.__file__).parent


@pytest.mark.parametrize("module", ["manyhands", "manyhands.pool", "manyhands.context", "manyhands.forkserver", "manyhands.queues", "manyhands.connection", "manyhands._errors", "manyhands._serial", "manyhands.futures", "manyhands.asyncio", "manyhands.joblib"])
def test_examples_in_docstrings(module):
    found = importlib.import_module(module)
    result = doctest.testmod(found, optionflags=doctest.ELLIPSIS)
    assert result.failed == 0
    if module == "manyhands.pool":
        assert result.attempted > 0


def test_stub_names_what_is_there():
    """Every public name of the extension is in _core.pyi, and the other way round. The stub's own classes hold what others have in common."""
    import ast

    def is_public(name):
        return not (name.startswith("__") and name.endswith("__"))

    def names_in(body):
        return {n.name if hasattr(n, "name") else getattr(n.target, "id", "") for n in body if isinstance(n, (ast.FunctionDef, ast.ClassDef, ast.AnnAssign))}

    tree = ast.parse((FOLDER / "_core.pyi").read_text())
    classes = {n.name: n for n in tree.body if isinstance(n, ast.ClassDef)}
    common = {name for name, n in classes.items() if any(getattr(d, "id", "") == "type_check_only" for d in n.decorator_list)}
    assert names_in(tree.body) - common == {n for n in dir(_core) if not n.startswith("__")}
    for name in classes.keys() - common:
        bodies = [classes[name].body, *(classes[b.id].body for b in classes[name].bases if getattr(b, "id", "") in common)]
        assert set(filter(is_public, vars(getattr(_core, name)))) == set(filter(is_public, set().union(*map(names_in, bodies)))), name



def test_mypy_strict():
    pytest.importorskip("mypy")
    done = subprocess.run([sys.executable, "-m", "mypy", "--strict", "--no-error-summary", "--cache-dir", os.devnull, "-p", "manyhands"],
                          capture_output=True, text=True, cwd="/")
    assert done.returncode == 0, done.stdout


UNSEEN = [r"manyhands\._core\..*\.__buffer__"]  # by stubtest, before CPython 3.12


def test_stub_says_what_the_extension_does(tmp_path):
    pytest.importorskip("mypy")
    (tmp_path / "allowed").write_text("\n".join(UNSEEN))
    command = [sys.executable, "-m", "mypy.stubtest", "manyhands._core", "--allowlist", "allowed", "--ignore-unused-allowlist"]
    if "--ignore-disjoint-bases" in subprocess.run([*command, "--help"], capture_output=True, text=True).stdout:
        command.append("--ignore-disjoint-bases")  # what older type checkers cannot read in the stub
    done = subprocess.run(command,
                          capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stdout


def test_the_public_interface_is_typed():
    """typed_use.py uses it as programs do: mypy accepts it, finds the types that it names, and it runs."""
    pytest.importorskip("mypy")
    program = Path(__file__).parent / "typed_use.py"
    done = subprocess.run([sys.executable, "-m", "mypy", "--strict", "--no-error-summary", "--cache-dir", os.devnull, program], capture_output=True, text=True, cwd="/")
    assert done.returncode == 0, done.stdout
    done = subprocess.run([sys.executable, program], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")


def test_typed():
    assert (FOLDER / "py.typed").exists()


def test_every_public_name_of_the_standard_library():
    missing = [n for n in multiprocessing.__all__ if not hasattr(manyhands, n)]
    assert missing == []
    assert [n for n in manyhands.__all__ if not hasattr(manyhands, n)] == []  # some are made when first asked for
    assert manyhands.TimeoutError is multiprocessing.TimeoutError and manyhands.ProcessError is multiprocessing.ProcessError


def test_public_things_have_docstrings():
    for name in ("Pool", "AsyncResult", "IMapIterator"):
        for attribute, value in inspect.getmembers(getattr(manyhands.pool, name)):
            if not attribute.startswith("_") and callable(value):
                assert value.__doc__, (name, attribute)


def test_nothing_heavy_is_imported():
    program = "import sys, manyhands.pool; print([m for m in ('numpy', 'cloudpickle', 'tqdm', 'asyncio', 'multiprocessing.pool', 'multiprocessing.managers', 'logging') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stdout == "[]\n"


def test_exceptions_survive_pickling():
    import pickle

    for e in (manyhands.WorkerLost(9, 0, 5, 2, 123), manyhands.PoisonTask(0, 3, 5, 2, 123), manyhands.TaskTimeout(9, 0, 1, 1, 1), manyhands.OutOfMemory(9, 0, 1, 1, 1),
              manyhands.TaskExited("x", 3), manyhands.SerializationError("a", "b")):
        copy = pickle.loads(pickle.dumps(e))
        assert type(copy) is type(e) and str(copy) == str(e) and copy.__dict__ == e.__dict__
    assert issubclass(manyhands.OutOfMemory, MemoryError) and issubclass(manyhands.TaskTimeout, manyhands.TimeoutError)
    assert issubclass(manyhands.SerializationError, pickle.PicklingError)


