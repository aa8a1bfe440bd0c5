"""What engines run on a client's behalf to execute, push and pull."""

from __future__ import annotations

import sys
from typing import Any

from .serialize.canning import interactive

__all__ = ["get_ipython", "interactive"]

_shell: Any = None  # of this engine, when it has no IPython


def get_ipython() -> Any:
    """The shell of this engine: IPython's, or our own where IPython is not installed; None outside an engine."""
    if _shell is not None:
        return _shell
    ipython = sys.modules.get("IPython")
    return ipython.get_ipython() if ipython else None


def _push(**ns: Any) -> None:
    """Assign names, or whatever can be assigned to (`a.b`, `c[0]`), in the engine's namespace."""
    user_ns = get_ipython().user_global_ns
    temporary = "_manyhands_pushed"
    try:
        for name, value in ns.items():
            user_ns[temporary] = value
            exec(f"{name} = {temporary}", user_ns)
    finally:
        user_ns.pop(temporary, None)


def _pull(keys: Any) -> Any:
    """The values of names or expressions in the engine's namespace."""
    user_ns = get_ipython().user_global_ns
    return [eval(key, user_ns) for key in keys] if isinstance(keys, (list, tuple, set)) else eval(keys, user_ns)


def _execute(code: str) -> None:
    """Run code in the engine's namespace."""
    exec(code, get_ipython().user_global_ns)
