"""Descriptors that are fetched by the process where their pickled stand-in arrives: `multiprocessing.resource_sharer`."""

from __future__ import annotations

from multiprocessing import resource_sharer as _standard
from multiprocessing.resource_sharer import DupFd, stop
from typing import Any

__all__ = ["DupFd", "stop"]


def __getattr__(name: str) -> Any:
    return getattr(_standard, name)
