"""Clusters: how they are started, found and ended."""

from __future__ import annotations

from . import private
from .command import find_command

__all__ = ["find_command", "private"]
