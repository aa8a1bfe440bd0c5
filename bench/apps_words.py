"""Words of all changelogs of this system's documentation."""

from __future__ import annotations

import re
import sys
import time
from pathlib import Path
from typing import Any

from apps import CORES, KERNEL, OURS, ROOT, Application, Contender, run_json, run_program, version, version_of

PART = "changelog"
# The usual text tools: each job counts some files, the last steps add up.
PIPELINE = r"""
find /usr/share/doc -type f -name '*changelog*' -print0 |
parallel -0 -j {jobs} -n 40 "zcat -f {{}} | LC_ALL=C tr A-Z a-z | LC_ALL=C tr -cs a-z '\n' | LC_ALL=C awk 'NF {{ n[\$0]++ }} END {{ for (w in n) print n[w], w }}'" |
LC_ALL=C awk '{{ n[$2] += $1 }} END {{ for (w in n) {{ kinds++; sum += n[w] }} print sum, kinds }}'
"""

last: dict[str, Any] = {}


def both() -> dict[str, Any]:
    """The program counts twice: with its pool, and alone; the result of the second is kept for its own row."""
    text = run_program([ROOT / "build/examples/example-wordcount", "/usr/share/doc", 1000, PART])
    alone, together = re.search(r"sequential (\S+) s, pool (\S+) s", text).groups()
    last.update(seconds=float(alone), text=text)
    return {"seconds": float(together), "kinds": int(re.search(r"(\d+) different", text)[1]), "megabytes": re.search(r"in (\d+) MB", text)[1]}


def python(name: str) -> dict[str, Any]:
    return run_json([sys.executable, ROOT / "bench/peers/words.py", name, CORES, PART])


def pipeline() -> dict[str, Any]:
    start = time.perf_counter()
    words, kinds = map(int, run_program(["bash", "-c", PIPELINE.format(jobs=CORES)]).split())
    return {"seconds": time.perf_counter() - start, "words": words, "kinds": kinds}


IN_PYTHON = {"Manyhands, pool, in Python": "manyhands", "Manyhands, engines, in Python": "engines", "plain Python loop": "loop",
             "multiprocessing": "multiprocessing", "joblib, loky": "joblib", "dask": "dask", "Ray": "ray", "ipyparallel": "ipyparallel"}


def check(results: dict[str, dict[str, Any]]) -> list[str]:
    counts = {(results[name]["words"], results[name]["kinds"]) for name in IN_PYTHON if name in results}
    if len(counts) != 1:
        raise SystemExit(f"the counts differ: { {name: results[name] for name in IN_PYTHON if name in results} }")
    (words, kinds), said = counts.pop(), ""
    if "GNU parallel" in results:
        said = f"; GNU parallel's {results['GNU parallel']['kinds']:,} (it also counts in files that hold zero bytes, and does not cut at 63 letters)"
    return [f"in C: pool and one process count the same, {results[OURS]['kinds']:,} kinds of words in {results[OURS]['megabytes']} MB of compressed files{said}",
            f"in Python: all count {words:,} words of {kinds:,} kinds (their words may have an apostrophe)"]


def make(folder: Path) -> Application:
    for path in Path("/usr/share/doc").rglob(f"*{PART}*"):
        if path.is_file():
            path.read_bytes() # so that whoever comes first need not wait for the disk
    return Application(
        "Words", f"All changelogs below /usr/share/doc ({version_of(['parallel', '--version'])}, joblib {version('joblib')}, dask {version('dask')}, Ray "
        f"{version('ray')}, ipyparallel {version('ipyparallel')})",
        [Contender(OURS, both, note="in C"), Contender(KERNEL, lambda: dict(last), note="in C"),
         Contender("GNU parallel", pipeline, needs="parallel", rounds=2, note="zcat, tr, awk"),
         *(Contender(name, lambda tool=tool: python(tool), rounds=1 if tool not in ("manyhands", "engines") else 2,
                     needs={"loop": "python3", "multiprocessing": "python3", "manyhands": "", "engines": ""}.get(tool, tool)) for name, tool in IN_PYTHON.items())],
        check)
