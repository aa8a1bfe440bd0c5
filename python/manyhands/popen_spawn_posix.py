"""Starting a process as a fresh interpreter."""

from ._popen import SpawnPopen as Popen

__all__ = ["Popen"]
