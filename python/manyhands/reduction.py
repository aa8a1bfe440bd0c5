"""The standard library's `multiprocessing.reduction`: pickling for other processes, sending descriptors."""

import sys
from multiprocessing import reduction as _standard
from multiprocessing.reduction import *

sys.modules[__name__] = _standard  # one module under two names: what a program reads and sets there is what processes use
