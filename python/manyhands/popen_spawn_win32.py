"""Starting a process on Windows: as in the standard library, importing this fails elsewhere."""

from multiprocessing.popen_spawn_win32 import *
