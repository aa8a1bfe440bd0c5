"""python -m manyhands.parallel.engine MEMORY SOCKET SIDE CLAIMS: be the executor at the end of the pipe that these numbers describe."""

from __future__ import annotations

import sys

from .executor import main

if __name__ == "__main__":
    sys.exit(main([int(number) for number in sys.argv[1:5]]))
