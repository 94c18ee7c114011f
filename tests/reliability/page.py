"""Write the page of all promises from what the runs recorded: ``page.py RESULTS.jsonl PAGE.md``."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

HEAD = """# Reliability

What this project promises, the test that holds each promise, and what came of the last full run. `make reliability`
runs all of it and writes this page from what the runs recorded; nothing here is typed in. A trial is one fault, one
damaged file, one piece of bad input; a loss is a trial in which the promise did not hold. Times are of the test, with
the others beside it on the same cores.
"""


def read(path: Path) -> list[dict[str, Any]]:
    """Return the last record of every promise, in the order of the tests' files."""
    records = map(json.loads, path.read_text(encoding="utf-8").splitlines())
    last = {(record["test"], record["promise"]): record for record in records}
    return sorted(last.values(), key=lambda record: record["test"].partition("::")[0])


def page(records: Sequence[dict[str, Any]]) -> str:
    """Return the page, in Markdown."""
    lines = [HEAD]
    for about in dict.fromkeys(record["about"] for record in records):
        mine = [record for record in records if record["about"] == about]
        lines += [
            f"## {about.rstrip('.')}",
            "",
            "| must hold | trials | losses | time | the test |",
            "|---|--:|--:|--:|---|",
        ]
        lines += [_line(record) for record in mine]
        lines.append("")
    tried = [record for record in records if not record["skipped"]]
    days = sorted({record["day"] for record in records})
    lines.append(
        f"Together {sum(record['trials'] for record in tried):,} trials of {len(tried)} promises, "
        f"{sum(record['losses'] for record in tried):,} losses; "
        f"{' to '.join(dict.fromkeys((days[0], days[-1])))}; {'; '.join(sorted({r['machine'] for r in records}))}."
    )
    return "\n".join(lines) + "\n"


def _line(record: dict[str, Any]) -> str:
    file, _, test = record["test"].partition("::")
    size = "" if record["size"] == "full" else f" ({record['size']} run)"
    where = f"[`{test or Path(file).name}`](../{file}){size}"
    if record["skipped"]:
        return f"| {_cell(record['promise'])} | not run | | | {where}: {_cell(record['skipped'])} |"
    lost = f" ({_cell(record['lost'][0])})" if record["losses"] else ""
    figures = f"{record['trials']:,} | {record['losses']:,}{lost} | {record['seconds']:,.1f} s"
    return f"| {_cell(record['promise'])} | {figures} | {where} |"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


if __name__ == "__main__":
    results, out = map(Path, sys.argv[1:])
    out.write_text(page(read(results)), encoding="utf-8")
    print(f"wrote {out}")
