"""Count the words of all changelogs with one of the tools that a Python user would take.    python bench/peers/words.py NAME WORKERS PART

The work is that of examples/wordcount.py. Pools are warm before the clock starts. Prints seconds, and how many words there are of how many kinds.
"""

import json
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "examples"))

import wordcount # noqa: E402


def loop(groups, workers):
    return lambda: map(wordcount.count_files, groups)


def manyhands(groups, workers):
    import manyhands
    pool = manyhands.Pool(workers)
    pool.map(wordcount.count_files, [[]] * 8)
    return lambda: pool.imap_unordered(wordcount.count_files, groups)


def multiprocessing(groups, workers):
    import multiprocessing
    pool = multiprocessing.Pool(workers)
    pool.map(wordcount.count_files, [[]] * 8)
    return lambda: pool.imap_unordered(wordcount.count_files, groups)


def joblib(groups, workers):
    import joblib
    parallel, task = joblib.Parallel(workers), joblib.delayed(wordcount.count_files)
    parallel(task([]) for _ in range(8))
    return lambda: parallel(task(group) for group in groups)


def main():
    name, workers, part = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    groups = list(wordcount.batches(wordcount.find_files(["/usr/share/doc"], 10 ** 9, part)))
    work = globals()[name](groups, workers)
    start = time.perf_counter()
    words, _ = wordcount.merge(work())
    print(json.dumps({"seconds": time.perf_counter() - start, "words": sum(words.values()), "kinds": len(words)}))


if __name__ == "__main__":
    main()
