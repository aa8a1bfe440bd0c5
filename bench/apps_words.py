"""Words of all changelogs of this system's documentation."""

from __future__ import annotations

import re
import sys
import time
from pathlib import Path
from typing import Any

from apps import CORES, KERNEL, OURS, ROOT, Application, Contender, run_json, run_program, version_of

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


def check(results: dict[str, dict[str, Any]]) -> list[str]:
    ours, peers = results["Manyhands, pool, in Python"], [r for name, r in results.items() if "Python" in name or name in ("multiprocessing", "joblib, loky")]
    if len({(r["words"], r["kinds"]) for r in peers}) != 1:
        raise SystemExit(f"the counts differ: {peers}")
    return [f"in C: pool and one process count the same, {results[OURS]['kinds']:,} kinds of words in {results[OURS]['megabytes']} MB of compressed files; "
            f"GNU parallel's {results['GNU parallel']['kinds']:,} (it also counts in files that hold zero bytes, and does not cut at 63 letters)",
            f"in Python: all count {ours['words']:,} words of {ours['kinds']:,} kinds (their words may have an apostrophe)"]


def make(folder: Path) -> Application:
    for path in Path("/usr/share/doc").rglob(f"*{PART}*"):
        if path.is_file():
            path.read_bytes() # so that whoever comes first need not wait for the disk
    return Application(
        "Words", f"All changelogs below /usr/share/doc ({version_of(['parallel', '--version'])})",
        [Contender(OURS, both, note="in C"), Contender(KERNEL, lambda: dict(last), note="in C"),
         Contender("GNU parallel", pipeline, note="zcat, tr, awk"),
         Contender("Manyhands, pool, in Python", lambda: python("manyhands")),
         Contender("plain Python loop", lambda: python("loop"), rounds=2),
         Contender("multiprocessing", lambda: python("multiprocessing"), rounds=2),
         Contender("joblib, loky", lambda: python("joblib"), rounds=2)], check)
