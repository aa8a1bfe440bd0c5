"""Answers imports of `multiprocessing` and `concurrent.futures` with manyhands; loaded by every interpreter of the conformance tests.

A .pth file of the environment that suites.py makes imports this module, so that spawned interpreters, fork servers and `python -I -c ...`
have it too. Only the answer to an import changes: sys.modules keeps the standard modules under their own names, because manyhands is
built on some of them and they on each other. So who asks decides: manyhands, the standard packages named below and joblib (whose own process
pool builds on private members of theirs) get what they ask for.
"""

import builtins
import faulthandler
import importlib
import importlib.machinery
import os
import signal
import sys
import types

STANDARD = "MANYHANDS_CONFORMANCE_STANDARD"  # set in the environment: nothing is redirected, the standard library tests itself

_real_import = builtins.__import__
_real_import_module = importlib.import_module

# Where Debian keeps the tests that this installation may lack.
DEBIAN_TESTS = f"/usr/lib/python{sys.version_info[0]}.{sys.version_info[1]}/test"


class _MissingTests:
    """The last finder: `test.x` that this Python's own test package lacks may be in Debian's."""

    @staticmethod
    def find_spec(name, path=None, target=None):
        if name.startswith("test.") and name.count(".") == 1 and os.path.isdir(DEBIAN_TESTS):
            return importlib.machinery.PathFinder.find_spec(name, [DEBIAN_TESTS])
        return None


def _is_exempt(importer):
    return importer.partition(".")[0] in ("manyhands", "multiprocessing", "concurrent", "asyncio", "joblib")


def _is_redirected(name):
    return name == "multiprocessing" or name.startswith("multiprocessing.") or name in ("concurrent", "concurrent.futures", "concurrent.futures.process")


def _find(name):
    """The module of manyhands that answers for a standard one."""
    if name == "concurrent":
        return types.SimpleNamespace(futures=_find("concurrent.futures"))
    if name == "concurrent.futures":
        return _answer("manyhands.futures", name)
    if name == "concurrent.futures.process":
        return _find_futures_process()
    return _answer("manyhands" + name[len("multiprocessing"):], name)


def _answer(ours, standard):
    module = _real_import_module(ours)
    if standard not in sys.modules:  # who imports by __import__ and then looks there, as pickle does
        try:
            _real_import_module(standard)
        except ModuleNotFoundError:
            sys.modules[standard] = module
    return module


def _find_futures_process():
    # One module of ours does the work of two of theirs; what only the standard one has is private to it.
    standard = _real_import_module("concurrent.futures.process")
    ours = _find("concurrent.futures")
    return types.SimpleNamespace(**{**vars(standard), **vars(ours)})


def _import(name, globals=None, locals=None, fromlist=(), level=0):
    if level or not _is_redirected(name) or _is_exempt((globals or {}).get("__name__") or ""):
        return _real_import(name, globals, locals, fromlist, level)
    module = _find(name)
    if not fromlist:
        return _find(name.partition(".")[0])
    if hasattr(module, "__path__"):
        for part in fromlist:  # a submodule may be among what is asked for
            if part != "*" and not hasattr(module, part):
                try:
                    _find(f"{name}.{part}")
                except ModuleNotFoundError:
                    pass
    return module


def _import_module(name, package=None):
    importer = sys._getframe(1).f_globals.get("__name__") or ""
    if name.startswith(".") or not _is_redirected(name) or _is_exempt(importer):
        return _real_import_module(name, package)
    return _find(name)


def wrap_popen():
    """An interpreter that a test starts with -S has no .pth files: its program is told to load this module itself."""
    import subprocess

    started = subprocess.Popen.__init__

    def begin(self, args, *rest, **options):
        if isinstance(args, list) and args[:1] == [sys.executable] and "-S" in args and "-c" in args:
            at = args.index("-c") + 1
            load = f"import sys; sys.path.extend({[p for p in sys.path if p]!r}); import redirect; redirect.install(); "
            args = [*args[:at], load + args[at], *args[at + 1:]]
        started(self, args, *rest, **options)

    subprocess.Popen.__init__ = begin


def install():
    sys.meta_path.append(_MissingTests)
    # What the harness sends to all processes of a test that hangs: each says where it is.
    try:
        faulthandler.register(signal.SIGQUIT, all_threads=True)
    except (RuntimeError, OSError, AttributeError):
        pass  # no stderr
    if not os.environ.get(STANDARD):
        builtins.__import__ = _import
        importlib.import_module = _import_module
