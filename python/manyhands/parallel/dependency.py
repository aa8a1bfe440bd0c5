"""Conditions that an engine checks before it runs a task."""

from __future__ import annotations

from types import ModuleType
from typing import Any, Callable

from .error import UnmetDependency
from .serialize.canning import can, interactive
from .serialize.names import travels_as

__all__ = ["depend", "dependent", "require"]


class depend:
    """Decorator: the task runs only on engines where condition(*args, **kwargs) holds; elsewhere it is not counted as tried.

    >>> from manyhands.parallel.dependency import depend
    >>> @depend(lambda: True)
    ... def task():
    ...     return 1
    >>> task()
    1
    """

    def __init__(self, _wrapped_f: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        self.f = _wrapped_f
        self.args = args
        self.kwargs = kwargs

    def __call__(self, f: Callable[..., Any]) -> dependent:
        return dependent(f, self.f, *self.args, **self.kwargs)


@travels_as
class dependent:
    """A function f with a condition df; the condition is tried when it arrives at an engine."""

    def __init__(self, _wrapped_f: Callable[..., Any], _wrapped_df: Callable[..., Any], *dargs: Any, **dkwargs: Any) -> None:
        self.f = _wrapped_f
        self.__name__ = getattr(_wrapped_f, "__name__", "f")
        self.df = _wrapped_df
        self.dargs = dargs
        self.dkwargs = dkwargs

    def check_dependency(self) -> None:
        """Raise UnmetDependency when the condition gives False."""
        if self.df(*self.dargs, **self.dkwargs) is False:
            raise UnmetDependency()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.f(*args, **kwargs)


def _require(*modules: str, **mapping: Any) -> bool:
    """Import modules and define names in the engine's namespace; UnmetDependency when a module is missing there."""
    from manyhands.parallel.error import UnmetDependency
    from manyhands.parallel.serialize import uncan

    user_ns = globals()
    for name in modules:
        try:
            exec(f"import {name}", user_ns)
        except ImportError:
            raise UnmetDependency(name) from None
    for name, canned in mapping.items():
        user_ns[name] = uncan(canned, user_ns)
    return True


def require(*objects: Any, **mapping: Any) -> depend:
    """Decorator: the task runs only where these modules can be imported; functions, and objects by keyword, are sent along.

    Raises TypeError for a positional object that has no name.

    >>> from manyhands.parallel.dependency import require
    >>> @require("math")
    ... def root(x):
    ...     return math.sqrt(x)
    >>> type(root).__name__
    'dependent'
    """
    names = []
    for obj in objects:
        if isinstance(obj, ModuleType):
            obj = obj.__name__
        if isinstance(obj, str):
            names.append(obj)
        elif hasattr(obj, "__name__"):
            mapping[obj.__name__] = obj
        else:
            raise TypeError(f"pass objects other than modules and functions by keyword, not a {type(obj).__name__}")
    return depend(interactive(_require), *names, **{name: can(obj) for name, obj in mapping.items()})
