"""`publish_data`, where programs for ipyparallel import it from."""

from __future__ import annotations

from .engine.datapub import publish_data

__all__ = ["publish_data"]
