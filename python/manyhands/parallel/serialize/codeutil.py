"""Code objects as pickles: `CodeType`'s own arguments, in its own order, read off the interpreter that runs.

They travel raw, so both ends need the same minor version of CPython.
"""

from __future__ import annotations

import copyreg
import inspect
import types
from typing import Any

__all__ = ["code_ctor", "reduce_code"]

_RENAMED = {"codestring": "code", "constants": "consts"}
_FIELDS = ["co_" + _RENAMED.get(name, name) for name in inspect.signature(types.CodeType).parameters]


def code_ctor(*args: Any) -> types.CodeType:
    """A code object from the arguments of `types.CodeType`."""
    return types.CodeType(*args)


def reduce_code(code: types.CodeType) -> tuple[Any, ...]:
    """What pickle wants of a code object."""
    return code_ctor, tuple(getattr(code, field) for field in _FIELDS)


copyreg.pickle(types.CodeType, reduce_code)  # as ipyparallel does: what was canned can be pickled by others, too
