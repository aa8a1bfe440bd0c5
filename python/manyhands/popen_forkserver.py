"""Starting a process as a child of the fork server."""

from ._popen import ForkServerPopen as Popen

__all__ = ["Popen"]
