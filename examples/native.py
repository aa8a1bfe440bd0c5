"""Loads what the applications have in C: the libraries that `make examples` leaves in build/examples/."""

import ctypes
import os
from pathlib import Path

BUILT = Path(os.environ.get("MANYHANDS_EXAMPLES", Path(__file__).resolve().parent.parent / "build" / "examples"))


def path(name: str) -> Path:
    """Where a library or program lies, such as "md/liblj.so"."""
    found = BUILT / name
    if not found.exists():
        raise SystemExit(f"{found} is not there: run `make examples`, or set MANYHANDS_EXAMPLES to the folder that has {name}")
    return found


def load(name: str) -> ctypes.CDLL:
    """A library; calls into it release the interpreter's lock."""
    return ctypes.CDLL(str(path(name)))


class Failed(RuntimeError):
    """A C function returned an error: its mh_err is args[1]."""


def check(what: str, err: int) -> None:
    if err:
        raise Failed(f"{what}: mh_err {err} (see manyhands/base.h)", err)
