"""What engines run on a client's behalf to map."""

from __future__ import annotations

from typing import Any, Callable

__all__: list[str] = []


def _map(f: Callable[..., Any], *sequences: Any) -> list[Any]:
    """f over the items of the sequences."""
    return list(map(f, *sequences))
