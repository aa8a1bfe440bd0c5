"""Publishing Python objects from a task while it runs."""

from __future__ import annotations

from typing import Any, Mapping

__all__ = ["publish_data"]


def publish_data(data: Mapping[str, Any]) -> None:
    """Send a dict with names as keys: it appears in `data` of the task's AsyncResult. RuntimeError outside an engine with IPython."""
    from ..util import get_ipython

    publisher = getattr(get_ipython(), "data_pub", None)
    if publisher is None:
        raise RuntimeError("publish_data works in a task on an engine that hosts IPython's shell")
    publisher.publish_data(data)
