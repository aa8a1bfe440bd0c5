"""The standard library's `multiprocessing.process`: what processes of any start method are, which of them run, which one this is."""

import sys
from multiprocessing import process as _standard
from multiprocessing.process import *

sys.modules[__name__] = _standard  # one module under two names: what a program reads and sets there is what processes use
