"""Names that ipyparallel's programs look for here; our settings do without traitlets (see cluster/_options.py)."""

from __future__ import annotations

from importlib.metadata import entry_points

__all__ = ["entry_points"]
