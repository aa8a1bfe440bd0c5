"""Count the words in this machine's documentation, sequentially and on a pool, or on a cluster's engines.

    python examples/wordcount.py [--folder DIR]... [--name PART] [--megabytes N] [--workers N | --engines N | --cluster NAME]
                                 [--kill BATCH]

Reads the text files below the folders (decompressing .gz), counts their words, checks that both
counts are the same, and prints the twenty most frequent words and the ratio of the times.
"""

import argparse
import gzip
import re
import sys
import time
import zlib
from collections import Counter
from pathlib import Path

import engines

import manyhands

FOLDERS = ["/usr/share/doc", "/usr/share/common-licenses"]
NOT_PROSE = {".html", ".htm", ".js", ".css", ".svg", ".png", ".gif", ".jpg", ".json", ".xml", ".pdf"}
WORD = re.compile(rb"[a-z]+(?:'[a-z]+)?")
BATCH_BYTES = 1 << 20  # stored bytes in one task: long enough to drown its overhead, short enough to balance


def find_files(folders, most_bytes, part=""):
    """(path, stored size) of the plain text files below `folders` whose names have `part`, sorted, up to `most_bytes` stored bytes."""
    found, total = [], 0
    for folder in folders:
        for path in sorted(Path(folder).rglob("*")):
            if part not in path.name or path.suffix in NOT_PROSE or path.is_symlink() or not path.is_file():
                continue
            size = path.stat().st_size
            if total + size > most_bytes:
                return found
            found.append((str(path), size))
            total += size
    return found


def read_text(path):
    """The bytes of a text file, decompressed; empty for what is binary or cannot be read."""
    try:
        data = Path(path).read_bytes()
        if path.endswith(".gz"):
            data = gzip.decompress(data)
    except (OSError, EOFError, zlib.error):
        return b""
    return b"" if b"\0" in data[:4096] else data


def count_files(paths):
    """(words, bytes of text) of some files: the task that a worker runs."""
    words, size = Counter(), 0
    for path in paths:
        text = read_text(path)
        size += len(text)
        words.update(WORD.findall(text.lower()))
    return words, size


def batches(files):
    """Group files so that each group holds about BATCH_BYTES."""
    group, size = [], 0
    for path, stored in files:
        group.append(path)
        size += stored
        if size >= BATCH_BYTES:
            yield group
            group, size = [], 0
    if group:
        yield group


def merge(parts):
    words, size = Counter(), 0
    for part, part_size in parts:
        words.update(part)
        size += part_size
    return words, size


def measure(files, workers, client=None, kill=None):
    """Count twice, on a pool or the engines of a client. Returns (words, text bytes, sequential seconds, parallel seconds)."""
    groups = list(batches(files))
    start = time.perf_counter()
    expected, size = merge(map(count_files, groups))
    sequential = time.perf_counter() - start
    with engines.Workers(workers, client, kill) as those:
        start = time.perf_counter()
        words, _ = merge(those.imap(count_files, groups, "counting words", ordered=False))
        parallel = time.perf_counter() - start
    if words != expected:
        raise SystemExit("the parallel counts differ from the sequential ones")
    return words, size, sequential, parallel


def report(words, size, sequential, parallel, workers):
    print(f"{sum(words.values()):,} words in {size / 1e6:.0f} MB of text, both counts equal:")
    print(f"  sequential {sequential:6.2f} s, {workers} workers {parallel:6.2f} s: {sequential / parallel:.2f} times faster")
    for rank, (word, count) in enumerate(words.most_common(20), 1):
        print(f"  {rank:3}. {word.decode():12}{count:12,}", end="\n" if rank % 2 == 0 else "    ")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", action="append", help=f"where to look (default: {' '.join(FOLDERS)})")
    parser.add_argument("--name", default="", metavar="PART", help="only files whose names have this part, such as changelog")
    parser.add_argument("--megabytes", type=int, default=100, help="stop after so many stored megabytes (default: 100)")
    parser.add_argument("--workers", type=int, default=manyhands.cpu_count(), help="default: the cores")
    parser.add_argument("--kill", type=int, metavar="BATCH", help="the worker, or engine, that counts this batch is killed")
    engines.add_options(parser)
    options = parser.parse_args()
    files = find_files(options.folder or FOLDERS, options.megabytes * 1_000_000, options.name)
    if not files:
        sys.exit(f"no files below {' '.join(options.folder or FOLDERS)}: name a folder with text by --folder")
    with engines.connect(options) as client:
        report(*measure(files, options.workers, client, options.kill), options.workers if client is None else len(client))


if __name__ == "__main__":
    from wordcount import main # as engines know it

    main()
