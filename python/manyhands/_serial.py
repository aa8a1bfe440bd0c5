"""What travels as a pickle: items of no plain type, functions, exceptions. The extension calls these functions.

Everything here is cheap to import: it is loaded with the package, and by every worker.
"""

from __future__ import annotations

import copyreg
import io
import sys
import types
from _pickle import Pickler, PicklingError  # without pickle.py, which a spawned process may do without
from _pickle import dumps as _dumps
from _pickle import loads as _loads

from . import _errors as _errors_module

TYPE_CHECKING = False  # see __init__.py
if TYPE_CHECKING:
    import weakref
    from pickle import PickleBuffer
    from typing import Any, Callable

__all__: list[str] = []

_errors: Any = _errors_module  # some of its classes are made when they are first wanted

# Whether what a task raises to end its program comes back as it is: so do executors, while for pools it is TaskExited.
keep_exits = False

# Where something could not be unpickled.
IN_WORKER = "the task's function or arguments, in the worker"
IN_CALLER = "the task's result, in the caller"

# Buffers of fewer bytes stay inside the pickle: beside it each costs an object and a cache line.
_BUFFER_MIN = 4096


# ---- items -----------------------------------------------------------------------------------------------------


def _dispatch_table() -> dict[type, Callable[[Any], Any]]:
    # Connections, sockets and locks have reducers of the standard library's own.
    reduction = sys.modules.get("multiprocessing.reduction")
    table: dict[type, Callable[[Any], Any]] = copyreg.dispatch_table
    if reduction:
        table = {**table, **reduction.ForkingPickler._extra_reducers}
    array = getattr(sys.modules.get("numpy"), "ndarray", None)
    if array is not None and array not in table:
        table = {**table, array: _reduce_array}
    return table


def _reducer(kind: type) -> Any:
    """One entry of that table, or None: for messages, of which most need none."""
    reduction = sys.modules.get("multiprocessing.reduction")
    found = reduction.ForkingPickler._extra_reducers.get(kind) if reduction else None
    if found is None:
        found = copyreg.dispatch_table.get(kind)
    if found is None and kind is getattr(sys.modules.get("numpy"), "ndarray", None):
        found = _reduce_array
    return found


def _reduce_array(array: Any) -> Any:
    # What arrives is the receiver's own, so it can be written to; pickle would remember that it could not be here.
    return (array if array.flags.writeable else array.copy("K")).__reduce_ex__(5)


def dumps(items: list[Any], by_value: bool) -> tuple[Any, list[PickleBuffer]]:
    """Pickle items, with big contiguous buffers left beside: (bytes-like, buffers).

    Functions that pickle refuses go by value in arguments; for results a lambda is no result, as in the standard library.
    """
    buffers: list[PickleBuffer] = []

    def keep(buffer: PickleBuffer) -> bool:
        if buffer.raw().nbytes < _BUFFER_MIN:
            return True
        buffers.append(buffer)
        return False

    file = io.BytesIO()
    pickler = Pickler(file, 5, buffer_callback=keep)
    pickler.dispatch_table = _dispatch_table()
    try:
        pickler.dump(items)
    except (PicklingError, AttributeError, TypeError):
        if not by_value:
            raise
        del buffers[:]
        data = _dump_by_value(items, keep)
        if data is None:
            raise
        return data, buffers
    return file.getbuffer(), buffers


def dump_message(message: Any) -> Any:
    """What goes over a connection: pickled as the standard library's connections do it."""
    from multiprocessing.reduction import ForkingPickler

    return ForkingPickler.dumps(message)


def _dump_by_value(items: Any, buffer_callback: Callable[[PickleBuffer], Any] | None = None) -> bytes | None:
    """Pickle with functions and classes by value where their names do not serve; None when that fails too."""
    import cloudpickle  # type: ignore[import-untyped]

    file = io.BytesIO()
    pickler = cloudpickle.Pickler(file, 5, buffer_callback=buffer_callback)
    # cloudpickle keeps its own table in front of copyreg's
    # and hides the attribute of the pickler in C, which alone counts
    table = {**_dispatch_table(), **dict(cloudpickle.Pickler.dispatch_table)}
    vars(Pickler)["dispatch_table"].__set__(pickler, table)
    try:
        pickler.dump(items)
    except Exception:
        return None
    return file.getvalue()


def blame(exception: BaseException, what: str, index: int, function: Any) -> None:
    """Say which object could not travel, on an exception that keeps its type: as its cause, and as a note where there are notes."""
    name = getattr(function, "__qualname__", None) or type(function).__name__
    text = f"{what} {index} for {name}" if index >= 0 else f"{what} for {name}"
    if exception.__cause__ is None:
        exception.__cause__ = _serialization_error(repr(exception), text)
    if hasattr(exception, "add_note"):
        exception.add_note(f"while pickling {text}")


# ---- functions ---------------------------------------------------------------------------------------------------


def _code_print(code: types.CodeType) -> tuple[Any, ...]:
    # What makes two functions of one name the same; not where their file lies.
    consts: list[Any] = []
    for c in code.co_consts:
        if isinstance(c, types.CodeType):
            consts.append(_code_print(c))
        else:
            consts.append(sorted(map(repr, c)) if isinstance(c, frozenset) else repr(c))
    return code.co_code, code.co_names, code.co_varnames, code.co_freevars, tuple(map(str, consts))


def _fingerprint(function: Any) -> str | None:
    code = getattr(function, "__code__", None)
    return repr(_code_print(code)) if code is not None else None


def is_pure_name(function: Any) -> bool:
    """Whether pickling it gives its module and name and nothing else, so that the answer may be kept."""
    kind = type(function)
    if kind is types.FunctionType:
        pass
    elif kind is types.BuiltinFunctionType:
        owner = function.__self__
        if owner is not None and type(owner) is not types.ModuleType:
            return False
    elif not issubclass(kind, type):
        return False
    if not hasattr(function, "__module__"):
        return False
    found: Any = sys.modules.get(function.__module__ or "builtins")
    for part in function.__qualname__.split("."):
        found = getattr(found, part, None)
    return found is function and copyreg.dispatch_table.get(kind) is None


class Names:
    """What the names of __main__ stood for when workers were forked: decides whether a name will serve there."""

    def __init__(self, forked: bool) -> None:
        from . import _core

        self._kept: dict[str, weakref.ref[Any]] = {}
        self._modules = _core.marks(sys.modules if forked else {})
        if forked:
            from weakref import ref

            for name, value in vars(sys.modules["__main__"]).items():
                if isinstance(value, (types.FunctionType, type)):
                    self._kept[name] = ref(value)

    def serves(self, function: Any) -> bool:
        """Whether workers find this very object under its name."""
        from . import _core

        module = getattr(function, "__module__", None)
        if module != "__main__":
            return (type(module) is str and _core.is_marked(self._modules, module)) or _is_found(module or "builtins")
        name = function.__qualname__.partition(".")[0]
        kept = self._kept.get(name)
        return kept is not None and kept() is getattr(sys.modules["__main__"], name, None)

    def keeps(self, function: Any) -> bool:
        """Whether it is certain that forked workers have it: it was in __main__ then, under its name, and is still."""
        kept = self._kept.get(function.__qualname__)
        return function.__module__ == "__main__" and kept is not None and kept() is function


def _dump_module_by_value(function: Any) -> bytes | None:
    """By value, with what it uses of its module, though that is to be found here: the module may have been made at run time."""
    import cloudpickle

    module = sys.modules.get(getattr(function, "__module__", None) or "builtins")
    name = module.__name__ if module is not None else "__main__"
    if name in ("__main__", "builtins") or name in cloudpickle.list_registry_pickle_by_value():
        return _dump_by_value(function)
    try:
        cloudpickle.register_pickle_by_value(module)
    except ValueError:  # it goes by another name
        return _dump_by_value(function)
    try:
        return _dump_by_value(function)
    finally:
        cloudpickle.unregister_pickle_by_value(module)


def _is_found(module: str) -> bool:
    """Whether an interpreter with this one's path would find the module, and not only those that have it."""
    from importlib.machinery import BuiltinImporter, FrozenImporter, PathFinder

    spec = getattr(sys.modules.get(module), "__spec__", None)
    if spec is None:
        return False
    parent = module.rpartition(".")[0]
    path = getattr(sys.modules.get(parent), "__path__", None) if parent else None
    if parent and (path is None or not _is_found(parent)):
        return False
    try:
        found: Any = BuiltinImporter.find_spec(module) or FrozenImporter.find_spec(module) or PathFinder.find_spec(module, path)
    except Exception:
        return True  # a finder that fails: the worker will tell
    return found is not None and (found.origin == spec.origin or not spec.origin) or _has_own_finder()


def _has_own_finder() -> bool:
    # Import hooks of the program's, of which we cannot know what they would find.
    usual = {"BuiltinImporter", "FrozenImporter", "PathFinder", "DistutilsMetaFinder", "_SixMetaPathImporter"}
    return any(getattr(finder, "__name__", type(finder).__name__) not in usual for finder in sys.meta_path)


def dump_function(function: Any, names: Names) -> tuple[bytes, bool]:
    """A function as bytes, and whether they are good for later calls too: (name's pickle, fingerprint, pickle by value)."""
    pure = is_pure_name(function)
    by_name = None
    problem: Exception | None = None
    try:
        by_name = _dumps(function, 5) if pure else bytes(_dump_plain(function))
    except (PicklingError, AttributeError, TypeError) as e:
        problem = e.with_traceback(None)  # else it would hold this frame, and this frame it
    by_value = fingerprint = None
    if pure and by_name is not None and not names.keeps(function):
        fingerprint = _fingerprint(function)
    if by_name is None or (pure and not names.serves(function)):
        by_value = _dump_module_by_value(function)
    if by_name is None and by_value is None:
        assert problem is not None
        raise problem
    return _dumps((by_name, fingerprint, by_value), 5), pure


def _dump_plain(item: Any) -> memoryview:
    file = io.BytesIO()
    pickler = Pickler(file, 5)
    pickler.dispatch_table = _dispatch_table()
    pickler.dump(item)
    return file.getbuffer()


def load_function(blob: Any) -> Any:
    """What dump_function wrote, as the function; by value when its name stands for something else here."""
    by_name, fingerprint, by_value = _loads(blob)
    problem: Exception | None = None
    if by_name is not None:
        try:
            function = _loads(by_name)
            if fingerprint is None or _fingerprint(function) == fingerprint:
                return function
            problem = AttributeError(f"{function.__module__}.{function.__qualname__} is another function in the worker: "
                                     "it was defined anew after the pool was made")
        except Exception as e:
            problem = e.with_traceback(None)
    if by_value is not None:
        return _loads(by_value)
    assert problem is not None
    raise problem


# ---- exceptions -----------------------------------------------------------------------------------------------------


def _text_of(exception: BaseException) -> str:
    import traceback

    try:
        return "".join(traceback.format_exception(type(exception), exception, exception.__traceback__))
    except Exception:
        return f"{type(exception).__name__} (its traceback cannot be shown)\n"


def _safe_repr(value: object) -> str:
    try:
        return repr(value)
    except Exception:
        return f"<{type(value).__name__} object, whose repr fails>"


def _dump_checked(exception: BaseException, text: str) -> bytes:
    """Pickle it; when its class is not known to be harmless, see whether it can be unpickled too."""
    data = bytes(_dump_plain((exception, text)))
    known = type(exception).__module__ == "builtins" and not exception.__dict__ and all(type(a) in (str, int) for a in exception.args)
    if not known:
        loaded, _ = _loads(data)
        if not isinstance(loaded, BaseException):
            raise TypeError(f"{type(exception).__name__} becomes a {type(loaded).__name__} when unpickled")
    return data


def dump_error(exception: BaseException) -> bytes:
    """An exception and its traceback's text; what cannot travel is replaced by an exception that tells of it."""
    text = f'\n"""\n{_text_of(exception)}"""'
    if not isinstance(exception, Exception) and not keep_exits:
        exception = _exited(exception)
    try:
        return _dump_checked(exception, text)
    except BaseException as problem:
        value = f"{type(exception).__module__}.{type(exception).__qualname__} exception: {_safe_repr(exception)}"
        substitute = _serialization_error(_safe_repr(problem), value)
        return _dumps((substitute, text), 5)


def _serialization_error(reason: object, value: object) -> BaseException:
    error: BaseException = _errors.SerializationError(reason, value)
    return error


def _exited(exception: BaseException) -> BaseException:
    if isinstance(exception, SystemExit):
        return _errors_module.TaskExited(f"the task called sys.exit({_safe_repr(exception.code)})",
                                         exception.code if isinstance(exception.code, (int, str, type(None))) else None)
    return _errors_module.TaskExited(f"the task raised {_safe_repr(exception)}")


def load_error(data: Any) -> BaseException:
    """What dump_error wrote, with the remote traceback as its cause."""
    if not len(data):
        return _serialization_error("there was no room for it", "the task's exception")
    try:
        exception: BaseException
        exception, text = _loads(data)
        exception.__cause__ = _errors.RemoteTraceback(text)
        return exception
    except Exception as problem:
        return _serialization_error(_safe_repr(problem), "the task's exception")


def encoding_error(exception: BaseException, results: list[Any] | None) -> BaseException:
    """For a result that cannot be pickled: say which it is."""
    if not isinstance(exception, Exception) or isinstance(exception, (MemoryError, OSError)):
        return exception
    value: object = results
    for item in results or ():
        try:
            _dump_plain(item)
        except Exception:
            value = item
            break
    better = _serialization_error(exception, _safe_repr(value))
    better.__cause__ = exception
    return better


def decoding_error(exception: BaseException, what: Any = None) -> BaseException:
    """For what arrived and cannot be unpickled."""
    if isinstance(exception, (KeyboardInterrupt, MemoryError)):
        return exception
    better = _serialization_error(exception, what or IN_WORKER)
    better.__cause__ = exception
    return better


# ---- the worker's end ---------------------------------------------------------------------------------------------------


def finish_worker() -> None:
    """What a process does before it ends: finalizers, threads, streams."""
    import threading

    from ._std import atexit, util

    try:
        atexit._run_exitfuncs()
        util._exit_function()
    finally:
        vars(threading)["_shutdown"]()
        util._flush_std_streams()
