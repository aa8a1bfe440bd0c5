"""Starting a process as a fork."""

from ._popen import ForkPopen as Popen

__all__ = ["Popen"]
