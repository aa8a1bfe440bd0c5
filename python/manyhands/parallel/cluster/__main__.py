"""`python -m manyhands.parallel.cluster start -n 4`, as programs run ipcluster: becomes the command `manyhands start -n 4`."""

from __future__ import annotations

import os
import sys

import manyhands

from .command import find_command


def main(arguments: list[str]) -> None:
    """Become the command; its version is printed alone, as ipcluster's is."""
    if arguments == ["--version"]:
        print(manyhands.__version__)
        return
    if arguments in (["--help-all"], []):
        arguments = ["--help"]
    os.execv(find_command(), ["manyhands", *arguments])


if __name__ == "__main__":
    main(sys.argv[1:])
