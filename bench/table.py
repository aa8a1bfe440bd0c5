"""Results as lines, a Markdown table, plain data and a plot."""

import os
import platform
import sys

from contenders import OURS


def number(value):
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def ratio(row, figures, peer):
    """How many times better ours is than `peer`."""
    ours, theirs = figures[OURS], figures[peer]
    return theirs / ours if row.lower_is_better else ours / theirs


def line(row, figures):
    """One row as a line of text."""
    peers = ", ".join(f"{name} {number(value)} ({ratio(row, figures, name):.2f}x)"
                      for name, value in figures.items() if name != OURS)
    verdict = "" if not row.target else " [reached]" if row.target.reached(figures) else f" [MISSED: {row.target.text()}]"
    return f"{row.name}: {number(figures[OURS])} {row.unit}{verdict}{'; ' + peers if peers else ''}"


def machine():
    with open("/proc/cpuinfo") as file:
        models = [text.split(":")[1].strip() for text in file if text.startswith("model name")]
    return f"{os.cpu_count()} cores, {models[0] if models else platform.machine()}, Python {platform.python_version()}"


def markdown(results, options):
    peers = list(dict.fromkeys(name for _, figures in results for name in figures if name != OURS))
    lines = ["# One machine", "", f"Medians of {options.rounds} paired rounds with {options.workers} workers on {machine()}.",
             "In brackets: how many times better ours is than that peer, in the same run.", "",
             "| work | unit | target | manyhands | " + " | ".join(peers) + " |", "|---" * (4 + len(peers)) + "|"]
    for row, figures in results:
        cells = [f"{number(figures[p])} ({ratio(row, figures, p):.2f}×)" if p in figures else "–" for p in peers]
        target = row.target.text() if row.target else "–"
        lines.append(f"| {row.name} | {row.unit} | {target} | **{number(figures[OURS])}** | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def plain(results):
    return {"machine": machine(), "python": sys.version.split()[0],
            "rows": [{"name": row.name, "unit": row.unit, "target": row.target.text() if row.target else None,
                      "reached": row.target.reached(figures) if row.target else None, "figures": figures}
                     for row, figures in results]}


def plot(results, path):
    """How many times better ours is than each peer, on a logarithmic axis, a group of bars a row."""
    import matplotlib
    matplotlib.use("Agg")
    from matplotlib import pyplot
    rows = [(row, figures) for row, figures in results if len(figures) > 1]
    peers = list(dict.fromkeys(name for _, figures in rows for name in figures if name != OURS))
    figure, axes = pyplot.subplots(figsize=(10, 1 + 0.9 * len(rows)))
    height = 0.8 / max(len(peers), 1)
    for at, peer in enumerate(peers):
        places = [i + at * height for i, (_, figures) in enumerate(rows) if peer in figures]
        values = [ratio(row, figures, peer) for row, figures in rows if peer in figures]
        bars = axes.barh(places, values, height, label=peer)
        axes.bar_label(bars, [f"{value:.1f}×" for value in values], padding=2, fontsize=7)
    axes.axvline(1, color="black", linewidth=1)
    axes.set_xscale("log")
    axes.set_yticks([i + 0.4 - height / 2 for i in range(len(rows))], [row.name for row, _ in rows], fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel("times better than the peer (the line is equal)")
    axes.set_title(f"Manyhands on one machine: {machine()}", fontsize=9)
    axes.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=130)
