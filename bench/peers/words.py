"""Count the words of all changelogs with one of the tools that a Python user would take.    python bench/peers/words.py NAME WORKERS PART

The work is that of examples/wordcount.py. Pools are warm before the clock starts. Prints seconds, and how many words there are of how many kinds.
"""

import json
import os
import sys
import time

import tools # which finds the examples
import wordcount

os.environ["PYTHONPATH"] = os.pathsep.join(sys.path[:2]) # for what the tools start


def main():
    name, workers, part = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    groups = list(wordcount.batches(wordcount.find_files(["/usr/share/doc"], 10 ** 9, part)))
    work = getattr(tools, name)(wordcount.count_files, groups, [], workers)
    start = time.perf_counter()
    words, _ = wordcount.merge(work())
    print(json.dumps({"seconds": time.perf_counter() - start, "words": sum(words.values()), "kinds": len(words)}), flush=True)


if __name__ == "__main__":
    main()
