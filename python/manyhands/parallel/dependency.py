"""What a task waits for: conditions that an engine checks before it runs it, and other tasks."""

from __future__ import annotations

from types import ModuleType
from typing import Any, Callable

from .error import UnmetDependency
from .serialize.canning import can, interactive
from .serialize.names import travels_as

__all__ = ["Dependency", "depend", "dependent", "require"]


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
    import sys

    if "ipyparallel.engine.kernel" in sys.modules:  # a stock engine
        from ipyparallel.error import UnmetDependency  # type: ignore[import-not-found, import-untyped, unused-ignore]
        from ipyparallel.serialize import uncan  # type: ignore[import-not-found, import-untyped, unused-ignore]
    else:
        from manyhands.parallel.error import UnmetDependency  # type: ignore[no-redef, unused-ignore]
        from manyhands.parallel.serialize import uncan  # type: ignore[no-redef, unused-ignore]
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


class Dependency(set):  # type: ignore[type-arg]
    """Messages that a task waits for: ids, AsyncResults, or what `as_dict()` gave.

    all      whether all must have ended, or any of them
    success  whether those that ended well count
    failure  whether those that failed count

    ValueError when neither counts; TypeError for what is no message.

    >>> from manyhands.parallel import Dependency
    >>> Dependency(["a", "b"], all=False).check({"b"})
    True
    """

    all = True
    success = True
    failure = True

    def __init__(self, dependencies: Any = [], all: bool = True, success: bool = True, failure: bool = False) -> None:
        if isinstance(dependencies, dict):
            all = dependencies.get("all", True)
            success = dependencies.get("success", success)
            failure = dependencies.get("failure", failure)
            dependencies = dependencies.get("dependencies", [])
        if isinstance(dependencies, str) or hasattr(dependencies, "msg_ids"):
            dependencies = [dependencies]
        msg_ids: list[str] = []
        for item in dependencies:
            if isinstance(item, str):
                msg_ids.append(item)
            elif hasattr(item, "msg_ids"):
                msg_ids += item.msg_ids
            else:
                raise TypeError(f"invalid dependency type: {type(item)!r}")
        super().__init__(msg_ids)
        if not (success or failure):
            raise ValueError("Must depend on at least one of successes or failures!")
        self.all = all
        self.success = success
        self.failure = failure

    def check(self, completed: set[str], failed: set[str] | None = None) -> bool:
        """Whether it is met, by those that have ended well and those that have failed."""
        if not self:
            return True
        counts = (completed if self.success else set()) | (failed or set() if self.failure else set())
        return self <= counts if self.all else not self.isdisjoint(counts)

    def unreachable(self, completed: set[str], failed: set[str] | None = None) -> bool:
        """Whether it can't be met any more."""
        if not self:
            return False
        against = (set() if self.success else completed) | (set() if self.failure else failed or set())
        return not self.isdisjoint(against) if self.all else self <= against

    def as_dict(self) -> dict[str, Any]:
        """As it travels."""
        return {"dependencies": list(self), "all": self.all, "success": self.success, "failure": self.failure}
