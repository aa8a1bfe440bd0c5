"""Puts our programs where ipyparallel's tests start stock ones; loaded by every interpreter of those tests.

A .pth file of the environment that ipp_suites.py makes imports this module. Launchers start `python -m ipyparallel.controller` and
`python -m ipyparallel.engine`: such an interpreter turns into our command before it does anything else, so that its process id stays the same.
Where the client is ours too, `ipyparallel` and what is below it is manyhands.parallel; only the tests themselves are theirs.
"""

import builtins
import faulthandler
import importlib
import importlib.machinery
import importlib.util
import os
import signal
import sys

PAIRING = "MANYHANDS_CONFORMANCE_PAIRING"  # set in the environment: one of PAIRINGS
COMMAND = "MANYHANDS_COMMAND"              # likewise: the path of `manyhands`

# What is ours in each. In "stock" nothing is.
PAIRINGS = {"A": ("controller",), "B": ("controller", "engine"), "C": ("controller", "engine", "client"), "stock": ()}
OURS, THEIRS, TESTS = "manyhands.parallel", "ipyparallel", "ipyparallel.tests"

# Where ours has no such module, tests start clusters with the stock one; it then comes from a second copy of the stock package.
LAUNCHERS, COPY = ("ipyparallel.cluster", "ipyparallel.traitlets", "ipyparallel.engine.app"), "ipyparallel_stock"


def replace_program(argv, ours):
    """Turn into the program of ours that stands for the stock one that argv starts, if there is one."""
    if "-m" not in argv[:-1]:
        return
    at = argv.index("-m") + 1
    package, _, name = argv[at].partition(".")
    if package != THEIRS:
        return
    if name in ("controller", "engine") and name in ours:
        python = [f"--python={sys.executable}"] if name == "engine" else []  # which has this module, as the one that is replaced
        os.execv(os.environ[COMMAND], ["manyhands", name, *python, *argv[at + 1:]])
    if name == "cluster" and "client" in ours:
        os.execv(sys.executable, [*argv[:at], f"{OURS}.cluster", *argv[at + 1:]])


class _Loader:
    """Loads a module of ours under a second name."""

    def __init__(self, name):
        self._name = name

    def create_module(self, spec):
        module = importlib.import_module(self._name)
        self._spec = module.__spec__
        return module

    def exec_module(self, module):
        module.__spec__ = self._spec  # which stays the one under its own name


class _Finder:
    """The first finder: answers for ipyparallel and what is below it."""

    stock = None  # the folder of the stock package

    @classmethod
    def find_spec(cls, name, path=None, target=None):
        if name == TESTS:
            return importlib.machinery.PathFinder.find_spec(name, [cls.stock])
        if name == COPY:
            return importlib.util.spec_from_file_location(name, os.path.join(cls.stock, "__init__.py"), submodule_search_locations=[cls.stock])
        if name != THEIRS and (not name.startswith(f"{THEIRS}.") or name.startswith(f"{TESTS}.")):
            return None
        ours = OURS + name[len(THEIRS):]
        try:
            found = importlib.util.find_spec(ours)
        except ModuleNotFoundError:
            found = None
        if found is None and name.startswith(LAUNCHERS):
            ours = COPY + name[len(THEIRS):]
            found = importlib.util.find_spec(ours)
        if found is None:
            raise ModuleNotFoundError(f"{name}: there is no {ours}", name=name)
        return importlib.machinery.ModuleSpec(name, _Loader(ours), is_package=found.submodule_search_locations is not None)


_real_import = builtins.__import__


def _import(name, globals=None, locals=None, fromlist=(), level=0):
    # the copy of the stock package is one of its own
    if not level and (name == THEIRS or name.startswith(f"{THEIRS}.")) and str((globals or {}).get("__name__")).startswith(COPY):
        name = COPY + name[len(THEIRS):]
    return _real_import(name, globals, locals, fromlist, level)


def install():
    # What the harness sends to all processes of a test that hangs: each says where it is.
    try:
        faulthandler.register(signal.SIGQUIT, all_threads=True)
    except (RuntimeError, OSError, AttributeError):
        pass  # no stderr
    ours = PAIRINGS[os.environ.get(PAIRING, "stock")]
    replace_program(sys.orig_argv, ours)
    if "client" in ours:
        found = importlib.machinery.PathFinder.find_spec(THEIRS)
        _Finder.stock = found and found.submodule_search_locations[0]
        sys.meta_path.insert(0, _Finder)
        builtins.__import__ = _import
