"""What the benchmarks write: tables, plots, and the places for them in the manual."""

import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "bench"))

import publish  # noqa: E402
import table  # noqa: E402
from rows import Row, Target  # noqa: E402

FAST = Row("calls", "calls/s", False, {}, Target(100, False))
SLOW = Row("start", "ms", True, {}, Target(0.5, True, "standard"))


@pytest.fixture
def report(tmp_path):
    return table.Report("some", "Some rows", "Medians of 3 rounds", tmp_path)


def test_ratios_and_aims(report, tmp_path, capsys):
    report.add(FAST, {"manyhands": 200.0, "standard": 50.0})
    report.add(SLOW, {"manyhands": 8.0, "standard": 10.0, "loop": 4.0})
    for i in range(2):
        report.add(Row(f"more {i}", "", True, {}), {"manyhands": 1.0, "standard": 2.0})
    report.finish()
    said = capsys.readouterr().out
    assert "calls: 200 calls/s [reached]; standard 50 (4.00x)" in said
    assert "start: 8 ms [MISSED: ≤ 0.5 × standard]; standard 10 (1.25x), loop 4 (0.50x)" in said
    assert "4 rows, 1 aims missed: start" in said
    lines = (tmp_path / "some.md").read_text().splitlines()
    assert lines[-6:-2] == ["| work | unit | aim | manyhands | standard | others |", "|---|---|---|---|---|---|",
                            "| calls | calls/s | ≥ 100 | **200** | 50 (4.00×) | – |",
                            "| start | ms | ≤ 0.5 × standard (missed) | **8** | 10 (1.25×) | loop 4 (0.50×) |"]
    assert (tmp_path / "some.png").stat().st_size > 1000


def test_each_row_is_kept_at_once_and_replaced_when_measured_again(report, tmp_path):
    report.add(FAST, {"manyhands": 1.0})
    report.add(SLOW, {"manyhands": 1.0, "standard": 1.0})
    again = table.Report("some", "Some rows", "Medians of 3 rounds", tmp_path, keep=True)
    again.add(FAST, {"manyhands": 2.0})
    rows = json.loads((tmp_path / "some.json").read_text())["rows"]
    assert [(row["name"], row["figures"]["manyhands"]) for row in rows] == [("calls", 2.0), ("start", 1.0)]
    table.Report("some", "Some rows", "Medians of 3 rounds", tmp_path).add(FAST, {"manyhands": 3.0})
    assert len(json.loads((tmp_path / "some.json").read_text())["rows"]) == 1


def test_a_table_has_one_place_in_the_manual():
    page = "before\n<!-- x: begin -->\nold\n<!-- x: end -->\nafter\n"
    assert publish.put(page, "x", "new\n") == "before\n<!-- x: begin -->\n\nnew\n\n<!-- x: end -->\nafter\n"
    assert publish.put(publish.put(page, "x", "one\n"), "x", "two\n") == publish.put(page, "x", "two\n")
    with pytest.raises(SystemExit, match="0 places for y"):
        publish.put(page, "y", "new")


def test_the_manual_has_places_for_both():
    page = publish.PAGE.read_text()
    for name in ("one-machine", "cluster"):
        assert page.count(f"<!-- {name}: begin -->\n") == page.count(f"<!-- {name}: end -->\n") == 1
