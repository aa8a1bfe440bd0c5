"""What tasks wait for, under the name that ipyparallel has for it."""

from __future__ import annotations

from ..dependency import Dependency, _require, depend, dependent, require

__all__ = ["Dependency", "_require", "depend", "dependent", "require"]
