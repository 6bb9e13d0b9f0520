"""Put the tables of all benchmark results into the documentation.

In docs/*.md and README.md, everything between `<!-- benchmark: NAME -->` and `<!-- end -->` is replaced by the table
of results/NAME.json and a line that says where and when it was measured. With --check nothing is written, and the
exit code is 1 where a page is not up to date.

    python benchmarks/docs.py [--check]
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path

from harness import RESULTS

ROOT = Path(__file__).parent.parent
PLACE = re.compile(r"(<!-- benchmark: (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)


def block(name: str) -> str:
    content = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    where = content["environment"]
    origin = (
        f"`{content['command']}` on {where['processor']}, {where['cores']} cores, threads used: {where['threads']}, "
        f"torch {where['torch']}, {where['date']}."
    )
    return f"\n{content['table']}\n\n{origin}\n\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--check", action="store_true", help="write nothing; exit with 1 where a page is stale"
    )
    check = parser.parse_args().check
    stale = []
    for page in sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]):
        text = page.read_text(encoding="utf-8")
        filled = PLACE.sub(lambda match: match[1] + block(match[2]) + match[3], text)
        if filled != text:
            stale.append(page)
            if not check:
                page.write_text(filled, encoding="utf-8")
    for page in stale:
        print(f"{page.relative_to(ROOT)}: {'not up to date' if check else 'updated'}")
    sys.exit(1 if check and stale else 0)


if __name__ == "__main__":
    main()
