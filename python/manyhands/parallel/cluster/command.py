"""The `manyhands` command, which runs controllers, engines and whole clusters."""

from __future__ import annotations

import os
import shutil
import sys
import sysconfig
from pathlib import Path


def find_command() -> str:
    """The path of the `manyhands` command.

    MANYHANDS_COMMAND names it; else it is the one beside this Python, in the folder of installed scripts, or in PATH.

    Raises FileNotFoundError when there is none.
    """
    named = os.environ.get("MANYHANDS_COMMAND")
    folders = [Path(sys.executable).parent, Path(sysconfig.get_path("scripts"))]
    for path in [Path(named)] if named else [folder / "manyhands" for folder in folders]:
        if os.access(path, os.X_OK):
            return str(path)
    found = None if named else shutil.which("manyhands")
    if not found:
        where = named or f"{folders[0]} and PATH"
        raise FileNotFoundError(f"the manyhands command is not there ({where}): it starts controllers and engines; install it, or name it in MANYHANDS_COMMAND")
    return found


def import_path() -> str:
    """PYTHONPATH for engines on this host: what the main program imports from its own folder is found there too."""
    main = sys.modules.get("__main__")
    file = getattr(main, "__file__", None)
    parts = [str(Path(file).resolve().parent)] if file and not getattr(main, "__spec__", None) else []
    if os.environ.get("PYTHONPATH"):
        parts.append(os.environ["PYTHONPATH"])
    return os.pathsep.join(parts)
