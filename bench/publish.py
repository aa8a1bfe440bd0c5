"""Put what was measured into the manual:  python bench/publish.py [FOLDER]

Replaces in docs/benchmarks.md what lies between `<!-- NAME: begin -->` and `<!-- NAME: end -->` by the table of FOLDER/NAME.json (default: build/bench),
for each NAME of which there is such a file. The texts around them are written by hand.
"""

import json
import re
import sys
from pathlib import Path

import table

PAGE = Path(__file__).resolve().parent.parent / "docs" / "benchmarks.md"


def put(page, name, text):
    """The page with `text` in the place of that name."""
    place = re.compile(rf"(^<!-- {re.escape(name)}: begin -->\n).*?(^<!-- {re.escape(name)}: end -->$)", re.DOTALL | re.MULTILINE)
    changed, count = place.subn(lambda found: f"{found[1]}\n{text}\n{found[2]}", page)
    if count != 1:
        raise SystemExit(f"{PAGE} has {count} places for {name}, not one")
    return changed


def main(folder):
    page = PAGE.read_text()
    for report in sorted(folder.glob("*.json")):
        if f"<!-- {report.stem}: begin -->" in page:
            page = put(page, report.stem, table.markdown(json.loads(report.read_text())))
            print(f"{PAGE.name}: the table of {report}")
    PAGE.write_text(page)


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "build/bench"))
