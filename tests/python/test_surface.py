"""The surface of the standard library's multiprocessing: every module, every public name, every signature of the running version."""

import importlib
import inspect
import multiprocessing
import pkgutil
import types

import pytest

import manyhands

MODULES = ["", *(m.name for m in pkgutil.iter_modules(multiprocessing.__path__) if not m.name.endswith("win32")), "dummy.connection"]


def pair(module):
    dotted = f".{module}" if module else ""
    return importlib.import_module(f"multiprocessing{dotted}"), importlib.import_module(f"manyhands{dotted}")


# What the standard library documents though it is in no __all__.
DOCUMENTED = {
    "connection": ["Connection", "answer_challenge", "deliver_challenge"],
    "context": ["AuthenticationError", "BaseContext", "BufferTooShort", "ForkContext", "ForkProcess", "ForkServerContext", "ForkServerProcess", "Process",
                "ProcessError", "SpawnContext", "SpawnProcess", "TimeoutError", "assert_spawning", "get_spawning_popen", "reduction", "set_spawning_popen"],
    "managers": ["Namespace", "NamespaceProxy", "SharedMemoryManager", "ListProxy", "DictProxy", "ValueProxy", "AcquirerProxy", "MakeProxyType", "RemoteError", "Server"],
    "pool": ["ApplyResult", "AsyncResult", "IMapIterator", "MapResult", "MaybeEncodingError", "RemoteTraceback", "mapstar", "starmapstar", "worker"],
    "resource_tracker": ["getfd", "main"],
    "sharedctypes": ["Synchronized", "SynchronizedArray", "SynchronizedBase", "SynchronizedString"],
    "synchronize": ["SEM_VALUE_MAX", "SemLock"],
}


def public_names(module):
    standard = importlib.import_module(f"multiprocessing{'.' if module else ''}{module}")
    return sorted({*getattr(standard, "__all__", ()), *DOCUMENTED.get(module, ())})


CASES = [(module, name) for module in MODULES for name in public_names(module)]

# Nobody makes these by hand.
MADE_BY_US = {"ApplyResult", "AsyncResult", "Connection", "IMapIterator", "MapResult", "Popen", "Server"}


def signature(thing):
    """None for what has none: a class of the standard library that is written in C."""
    try:
        return inspect.signature(thing)
    except ValueError:
        return None


def differences(standard, ours, what, bound=False):
    """How a call that the standard library takes could be refused, or mean something else."""
    wanted, got = signature(standard), signature(ours)
    if wanted is None:
        return []
    if got is None:
        return [f"{what}: no signature"] if len(wanted.parameters) > bound else []  # a method in C that takes nothing
    theirs, mine = list(wanted.parameters.values())[bound:], list(got.parameters.values())[bound:]
    found = []
    for at, parameter in enumerate(theirs):
        other = mine[at] if at < len(mine) else None
        if other is None or other.name != parameter.name or other.kind != parameter.kind:
            found.append(f"{what}: parameter {at} is {other}, not {parameter}")
        elif (other.default is parameter.empty) != (parameter.default is parameter.empty):
            found.append(f"{what}: default of {parameter.name}")
        elif other.default != parameter.default and isinstance(parameter.default, (int, float, str, bytes, tuple, type(None))):
            found.append(f"{what}: default of {parameter.name} is {other.default!r}, not {parameter.default!r}")
    for extra in mine[len(theirs):]:
        if extra.kind not in (extra.KEYWORD_ONLY, extra.VAR_KEYWORD):
            found.append(f"{what}: {extra} is not keyword-only")
    return found


@pytest.mark.parametrize("module", MODULES)
def test_modules_and_their_all(module):
    standard, ours = pair(module)
    assert [name for name in getattr(standard, "__all__", ()) if name not in ours.__all__] == []
    assert [name for name in ours.__all__ if not hasattr(ours, name)] == []


@pytest.mark.parametrize("module, name", CASES)
def test_public_names(module, name):
    standard, ours = pair(module)
    assert hasattr(ours, name)
    theirs, mine = getattr(standard, name), getattr(ours, name)
    if theirs is mine or not callable(theirs):
        return
    assert callable(mine)
    found = [] if name in MADE_BY_US else differences(theirs, mine, name)
    if isinstance(theirs, type) and name != "Popen":
        for method in documented_methods(theirs):
            assert hasattr(mine, method), f"{name}.{method}"
            function = inspect.getattr_static(theirs, method)
            if isinstance(function, types.FunctionType) and method != "__exit__":  # which is called in one way only
                found += differences(function, getattr(mine, method), f"{name}.{method}", bound=True)
    assert found == []


def documented_methods(kind):
    """Public ones, and what makes it a context manager; Pool.Process is there for the pool's own use."""
    return [method for method in dir(kind) if (not method.startswith("_") or method in ("__enter__", "__exit__")) and (kind.__name__, method) != ("Pool", "Process")]


def test_contexts_have_the_same_signatures():
    found = []
    for method in multiprocessing.get_all_start_methods():
        theirs, mine = multiprocessing.get_context(method), manyhands.get_context(method)
        for name in dir(theirs):
            if not name.startswith("_") and callable(getattr(theirs, name)):
                found += differences(getattr(theirs, name), getattr(mine, name), f"{method}: {name}")
    assert found == []


def test_both_spellings():
    import manyhands as multiprocessing
    from manyhands import connection, dummy, managers, shared_memory
    from manyhands.pool import Pool, ThreadPool
    from manyhands.process import BaseProcess

    assert multiprocessing.pool.ThreadPool is ThreadPool and multiprocessing.connection is connection
    assert issubclass(multiprocessing.Process, BaseProcess) and issubclass(multiprocessing.get_context("spawn").Process, BaseProcess)
    with dummy.Pool(2) as pool:
        assert type(pool) is ThreadPool and pool.map(abs, [-1, 2]) == [1, 2]
    assert isinstance(multiprocessing.Pool, types.MethodType) and Pool.__init__ and managers.SyncManager and shared_memory.SharedMemory
