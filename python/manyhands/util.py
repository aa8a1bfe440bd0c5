"""The standard library's `multiprocessing.util`: logging, finalizers, temporary folders."""

import sys
from multiprocessing import util as _standard
from multiprocessing.util import *

sys.modules[__name__] = _standard  # one module under two names: what a program reads and sets there is what processes use
