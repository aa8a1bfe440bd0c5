"""Functions of the standard library with some of their globals answered by ours, where they are to use our classes."""

from __future__ import annotations

import types
from typing import Any, Callable

__all__: list[str] = []


def rebind(function: Callable[..., Any], module: str, **names: Any) -> Any:
    """The same function, which finds `names` instead of what its own module has under them; as if `module` had defined it."""
    plain: Any = function
    made = types.FunctionType(plain.__code__, {**plain.__globals__, "__name__": module, **names}, plain.__name__, plain.__defaults__, plain.__closure__)
    made.__kwdefaults__ = plain.__kwdefaults__
    made.__doc__ = plain.__doc__
    made.__qualname__ = plain.__qualname__
    made.__module__ = module
    return made
