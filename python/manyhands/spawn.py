"""The standard library's `multiprocessing.spawn`: how a fresh interpreter becomes like its parent."""

import sys
from multiprocessing import spawn as _standard
from multiprocessing.spawn import *

sys.modules[__name__] = _standard  # one module under two names: what a program reads and sets there is what processes use
