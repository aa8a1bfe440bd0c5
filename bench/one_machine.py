"""One machine: Manyhands beside the tools that a user would pick instead, in one run.

    python bench/one_machine.py [--rounds N] [--row TEXT]... [--keep] [--out FOLDER]

Every row is measured in paired rounds: each contender once, in turn, then the next round; the table
shows medians and the ratio of each peer to ours (above 1: ours is better). Writes `one-machine.md`,
`one-machine.json` and `one-machine.png` into the folder.
"""

# What this needs is imported where it runs: a process that is spawned imports this module, and its start is among what is measured.


def measure(row, rounds):
    """Median figure of each contender of `row`; a contender may ask for fewer rounds (row.rounds)."""
    import statistics

    figures = {name: [] for name in row.contenders}
    for turn in range(rounds):
        for name, run in row.contenders.items():
            if turn < row.rounds.get(name, rounds):
                figures[name].append(run())
    return {name: statistics.median(values) for name, values in figures.items()}


def main():
    import argparse
    from pathlib import Path

    import contenders
    import rows
    import table

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5, help="paired rounds of each row (default: 5)")
    parser.add_argument("--row", action="append", help="only rows whose name holds this text")
    parser.add_argument("--keep", action="store_true", help="keep what the last run measured of other rows")
    parser.add_argument("--list", action="store_true", help="list the rows, and measure nothing")
    parser.add_argument("--workers", type=int, default=contenders.cores(), help="default: the cores")
    parser.add_argument("--out", type=Path, default=Path("build/bench"), help="folder for the results (default: build/bench)")
    options = parser.parse_args()
    report = table.Report("one-machine", "One machine", f"Medians of {options.rounds} paired rounds with {options.workers} workers", options.out, options.keep)
    for row in rows.all_rows(options.workers):
        if options.list:
            print(row.name)
        elif not options.row or any(text in row.name for text in options.row):
            figures = measure(row, options.rounds)
            row.contenders.clear()  # and with them the inputs: a later row must not fork a process that still holds them
            report.add(row, figures)
    if not options.list:
        report.finish()


if __name__ == "__main__":
    main()
