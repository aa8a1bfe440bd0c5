"""Engines as a backend of joblib.

    import manyhands.parallel as ipp
    ipp.register_joblib_backend()
    with joblib.parallel_config(backend="ipyparallel"):
        joblib.Parallel()(joblib.delayed(f)(i) for i in range(10))

A view that exists already is registered with `view.register_joblib_backend()`.
"""

from __future__ import annotations

from typing import Any

from joblib.parallel import register_parallel_backend  # type: ignore[import-untyped, unused-ignore]

from .client._joblib import IPythonParallelBackend

__all__ = ["register"]


def register(name: str = "ipyparallel", make_default: bool = False) -> Any:
    """Make the default cluster's engines a backend of joblib, under a name."""
    return register_parallel_backend(name, IPythonParallelBackend, make_default=make_default)
