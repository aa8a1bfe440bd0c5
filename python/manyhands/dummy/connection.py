"""The standard library's `multiprocessing.dummy.connection`: connections between threads."""

import sys
from multiprocessing.dummy import connection as _standard
from multiprocessing.dummy.connection import *

sys.modules[__name__] = _standard
