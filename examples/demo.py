"""The main job: ten million squares and a word count over this machine's documentation.

    make demo
"""

import squares
import wordcount

import manyhands

COUNT = 10_000_000
MOST_BYTES = 100_000_000


def main() -> None:
    workers = manyhands.cpu_count()
    print(f"Manyhands {manyhands.__version__} on {workers} cores\n", flush=True)
    squares.report(COUNT, squares.measure(COUNT, workers))
    print(flush=True)
    files = wordcount.find_files(wordcount.FOLDERS, MOST_BYTES)
    wordcount.report(*wordcount.measure(files, workers), workers)


if __name__ == "__main__":
    main()
