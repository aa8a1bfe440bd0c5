"""Results as lines, a Markdown table, plain data and a plot. A report lives in a folder as `NAME.json`, from which the rest is made."""

import json
import os
import platform
import sys

OURS = "manyhands"


def number(value):
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def ratio(row, peer):
    """How many times better ours is than `peer`."""
    ours, theirs = row["figures"][OURS], row["figures"][peer]
    return theirs / ours if row["lower_is_better"] else ours / theirs


def plain(row, figures):
    """A row with its figures as plain data."""
    return {"name": row.name, "unit": row.unit, "lower_is_better": row.lower_is_better, "target": row.target.text() if row.target else None,
            "reached": row.target.reached(figures) if row.target else None, "figures": figures}


def line(row):
    """One row as a line of text."""
    peers = ", ".join(f"{name} {number(value)} ({ratio(row, name):.2f}x)" for name, value in row["figures"].items() if name != OURS)
    verdict = "" if row["target"] is None else " [reached]" if row["reached"] else f" [MISSED: {row['target']}]"
    return f"{row['name']}: {number(row['figures'][OURS])} {row['unit']}{verdict}{'; ' + peers if peers else ''}"


def machine():
    with open("/proc/cpuinfo") as file:
        models = [text.split(":")[1].strip() for text in file if text.startswith("model name")]
    return f"{os.cpu_count()} cores, {models[0] if models else platform.machine()}, Python {platform.python_version()}"


def peers_of(rows):
    return list(dict.fromkeys(name for row in rows for name in row["figures"] if name != OURS))


def markdown(report):
    """The table, and in a line before it how it was measured. Peers of few rows share a column."""
    rows = report["rows"]
    peers = [p for p in peers_of(rows) if 3 * sum(p in row["figures"] for row in rows) >= len(rows)]
    others = [p for p in peers_of(rows) if p not in peers]

    def cell(row, peer):
        return f"{number(row['figures'][peer])} ({ratio(row, peer):.2f}×)" if peer in row["figures"] else "–"

    lines = [f"{report['how']} on {report['machine']}. In brackets: how many times better ours is than that peer, in the same run.", "",
             f"| work | unit | aim | manyhands | {' | '.join(peers + ['others'] * bool(others))} |", "|---" * (4 + len(peers) + bool(others)) + "|"]
    for row in rows:
        cells = [cell(row, p) for p in peers]
        if others:
            cells.append(", ".join(f"{p} {cell(row, p)}" for p in others if p in row["figures"]) or "–")
        aim = "–" if row["target"] is None else row["target"] if row["reached"] else f"{row['target']} (missed)"
        lines.append(f"| {row['name']} | {row['unit']} | {aim} | **{number(row['figures'][OURS])}** | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def plot(report, path):
    """How many times better ours is than each peer, on a logarithmic axis, a group of bars a row."""
    import matplotlib
    matplotlib.use("Agg")
    from matplotlib import pyplot
    rows = [row for row in report["rows"] if len(row["figures"]) > 1]
    peers = peers_of(rows)
    figure, axes = pyplot.subplots(figsize=(10, 1 + 0.9 * max(len(rows), 1)))
    height = 0.8 / max(len(peers), 1)
    for at, peer in enumerate(peers):
        places = [i + at * height for i, row in enumerate(rows) if peer in row["figures"]]
        values = [ratio(row, peer) for row in rows if peer in row["figures"]]
        bars = axes.barh(places, values, height, label=peer)
        axes.bar_label(bars, [f"{value:.1f}×" for value in values], padding=2, fontsize=7)
    axes.axvline(1, color="black", linewidth=1)
    axes.set_xscale("log")
    axes.set_yticks([i + 0.4 - height / 2 for i in range(len(rows))], [row["name"] for row in rows], fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel("times better than the peer (the line is equal)")
    axes.set_title(f"Manyhands, {report['title'].lower()}: {report['machine']}", fontsize=9)
    axes.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=130)


class Report:
    """What is measured, row by row; each row is on the disk as soon as it is there. With `keep`, rows that are not measured now stay as they were."""

    def __init__(self, name, title, how, folder, keep=False):
        self.name, self.folder, self.now = name, folder, []
        folder.mkdir(parents=True, exist_ok=True)
        self.data = {"title": title, "machine": machine(), "python": sys.version.split()[0], "how": how, "rows": []}
        if keep and self._path("json").exists():
            self.data["rows"] = json.loads(self._path("json").read_text())["rows"]

    def _path(self, suffix):
        return self.folder / f"{self.name}.{suffix}"

    def add(self, row, figures):
        added, rows = plain(row, figures), self.data["rows"]
        names = [old["name"] for old in rows]
        if row.name in names:
            rows[names.index(row.name)] = added
        else:
            rows.append(added)
        self.now.append(added)
        print(line(added), flush=True)
        self._path("json").write_text(json.dumps(self.data, indent=1) + "\n")

    def finish(self):
        """Write the table and the plot, and say what was missed."""
        self._path("md").write_text(f"# {self.data['title']}\n\n{markdown(self.data)}")
        plot(self.data, self._path("png"))
        missed = [row["name"] for row in self.now if row["reached"] is False]
        print(f"\n{len(self.now)} rows, {len(missed)} aims missed{': ' + '; '.join(missed) if missed else ''}")
        print(f"in {self.folder}: {self.name}.md, {self.name}.json, {self.name}.png")
