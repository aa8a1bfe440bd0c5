#!/usr/bin/env python3
"""Check what every source file includes against the layers of the tree, and that something builds every file.

    check_layers.py [ROOT]

Prints `file:line: what: the rule that it breaks` for each fault and exits with 1 if there is any.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

# From the top down. A module may include from the rows below its own, and nothing from beside it.
ROWS = [
    ["cluster"],
    ["pool", "net"],
    ["queue"],
    ["proc", "shm"],
    ["sync"],
    ["os", "wire", "sched"],
    ["base"],
]
ROW_OF = {module: row for row, modules in enumerate(reversed(ROWS)) for module in modules}

# Which module implements a public header; a new header joins here.
PUBLIC_HEADERS = {
    "base": "base",
    "system": "os",
    "sched": "sched",
    "shm": "shm",
    "sync": "sync",
    "process": "proc",
    "queue": "queue",
    "pool": "pool",
    "client": "cluster",
    "cluster": "cluster",
    "controller": "cluster",
    "engine": "cluster",
}

STANDARD_C = set("""assert complex ctype errno fenv float inttypes iso646 limits locale math setjmp signal stdalign
    stdarg stdatomic stdbool stddef stdint stdio stdlib stdnoreturn string tgmath time wchar wctype""".split())
# Standard C that asks the operating system about time and signals, and so is not for a module that is pure.
NOT_PURE = {"time", "signal", "locale"}
PURE = {"sched", "wire"}
# Instructions, not system calls.
COMPILER = re.compile(r"(?:x86|imm|emm|smm|nmm)intrin\.h|cpuid\.h|arm_acle\.h|arm_neon\.h")
# Libraries, each with the only place that may know it.
LIBRARIES = {
    "zmq": "net", "zmq_utils": "net", "nettle": "net", "sqlite3": "cluster", "libpq-fe": "cluster", "hwloc": "os",
    "Python": "python", "structmember": "python", "marshal": "python", "pythread": "python",
}

INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]*([<"])([^>"]+)[>"]', re.MULTILINE)
COMMENT = re.compile(r'/\*.*?\*/|//[^\n]*|"(?:\\.|[^"\\\n])*"', re.DOTALL)
# Tests, benchmarks and fuzz targets may use the system and their tools; the layers hold for them all the same.
BESIDE = re.compile(r"_(test|bench|fuzz)\.c$|_test\.h$")


def place_of(path: PurePosixPath) -> str:
    """The module of a file of the library, else the top folder; "public" for the public headers."""
    match path.parts:
        case ["src", module, *_, _]:
            return module
        case ["include", *_]:
            return "public"
        case ["python", *_]:
            return "python"
        case [top, *_]:
            return top
    return ""


def may_use(user: str, used: str) -> bool:
    return user == used or ROW_OF[user] > ROW_OF[used] and not (user in PURE and used != "base")


def fault_of_own(path: PurePosixPath, place: str, name: str) -> str:
    """The rule that including a header of ours breaks, or ""."""
    parts = PurePosixPath(name).parts
    if parts[0] == "manyhands" or name == "manyhands.h":
        if name == "manyhands.h":
            return f"{place}: a module includes single public headers" if place in ROW_OF else ""
        stem = PurePosixPath(name).stem
        owner = PUBLIC_HEADERS.get(stem)
        if owner is None:
            return "unknown public header: add it to PUBLIC_HEADERS in tools/check_layers.py"
        if place == "public":
            user = PUBLIC_HEADERS.get(path.stem)
            if path.name == "manyhands.h" or user is None or may_use(user, owner):
                return ""
            return f"the public header of {user} may not know {owner}"
        if place in ROW_OF and not may_use(place, owner):
            return f"{place} may not know {owner}"
        return ""
    if place in ("tests", "bench"):
        return "" # whole-system tests reach what they need
    if parts[0] in ROW_OF and len(parts) == 2:
        if place in ROW_OF:
            return "" if may_use(place, parts[0]) else f"{place} may not know {parts[0]}"
        return f"{place}: public headers only"
    if name in ("mh_test.h", "mh_books.h") and BESIDE.search(path.name):
        return ""
    if place in ROW_OF:
        return f'headers of ours are included by module, as in "{place}/{name}"'
    return "" # a private header beside its user, in cli or python/src


def fault_of_foreign(path: PurePosixPath, place: str, name: str) -> str:
    """The rule that including a header of somebody else's breaks, or ""."""
    stem = name.removesuffix(".h")
    library = stem.split("/")[0]
    if library in LIBRARIES:
        only = LIBRARIES[library]
        return "" if place == only else f"<{name}> only in {only}"
    if place in ("tests", "bench", "examples") or BESIDE.search(path.name):
        return ""
    if place in PURE and (stem not in STANDARD_C or stem in NOT_PURE):
        return f"{place} is pure: standard C without time and signals, and base"
    if place == "os" or stem in STANDARD_C or place in ROW_OF and COMPILER.fullmatch(name):
        return ""
    return f"system header <{name}> only in src/os"


def without_comments(text: str) -> str:
    """The text with comments blanked and lines kept; strings stay, for includes are strings."""
    return COMMENT.sub(lambda m: m[0] if m[0][0] == '"' else re.sub(r"[^\n]", " ", m[0]), text)


def check_text(path: str, text: str) -> Iterator[str]:
    """The faults of one file, given its path from the root."""
    where = PurePosixPath(path)
    place = place_of(where)
    code = without_comments(text)
    for match in INCLUDE.finditer(code):
        bracket, name = match.groups()
        ours = bracket == '"' or name.startswith("manyhands/") or name == "manyhands.h"
        fault = (fault_of_own if ours else fault_of_foreign)(where, place, name)
        if place == "src":
            fault = "a source lies in a module's folder"
        elif where.parts[0] == "src" and place not in ROW_OF:
            fault = f"unknown module {place}: add it to ROWS in tools/check_layers.py"
        if fault:
            line = code.count("\n", 0, match.start(1)) + 1
            yield f"{path}:{line}: {name}: {fault}"


def check_built(root: Path, source: Path) -> Iterator[str]:
    """A file that no build file names is code that nobody compiles."""
    build = source.parent / "meson.build"
    while not build.exists() and build.parent != root:
        build = build.parent.parent / "meson.build"
    name = source.relative_to(build.parent).as_posix()
    text = build.read_text(encoding="utf-8")
    if not re.search(rf"'{re.escape(name)}'|'{re.escape(name.removesuffix('.c'))}'", text):
        yield f"{source.relative_to(root)}:1: not named in {build.relative_to(root)}, so nothing compiles it"


def check_tree(root: Path) -> list[str]:
    faults: list[str] = []
    for top in ("include", "src", "cli", "python", "examples", "bench", "tests"):
        for file in sorted((root / top).rglob("*.[ch]")):
            faults += check_text(file.relative_to(root).as_posix(), file.read_text(encoding="utf-8"))
            if file.suffix == ".c":
                faults += check_built(root, file)
    return faults


def main(root: str = "") -> int:
    faults = check_tree(Path(root) if root else Path(__file__).resolve().parent.parent)
    print("\n".join(faults) or "layers: in order")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
