"""`pipeline heads`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from pipeline.cli import options as o
from pipeline.cli.terminal import Terminal
from pipeline.errors import HeadError

HEADINGS = {"class": "for classes", "number": "for numbers", "multi": "for several tags an image"}


def command(
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="Show this one alone.")] = None,
    as_json: o.Json = False,
    quiet: o.Quiet = False,
) -> None:
    """List the heads: scikit-learn estimator, default grid, whether it gives probabilities."""
    from pipeline.heads import catalogue

    terminal = Terminal(as_json=as_json, quiet=quiet)
    found = [entry for entry in catalogue() if name in (None, entry.name)]
    if not found:
        raise HeadError(
            f"expected a head, got {name!r}; there are {', '.join(dict.fromkeys(e.name for e in catalogue()))}",
            "pipeline heads",
        )
    if as_json:
        terminal.object({"heads": [asdict(entry) for entry in found]})
        return
    for kind, heading in HEADINGS.items():
        entries = [entry for entry in found if entry.kind == kind]
        if entries:
            terminal.paragraph(heading)
        for entry in entries:
            marks = ["fast"] if entry.fast else []
            marks.append("probabilities" if entry.probabilities else "no probabilities")
            note = f": {entry.note}" if entry.note else ""
            terminal.paragraph(f"{entry.name} ({', '.join(marks)}){note}", indent=2)
            terminal.paragraph(entry.estimator, indent=6)
            for param, values in entry.grid.items():
                terminal.paragraph(f"{param}: {', '.join(_value(value) for value in values)}", indent=6)


def _value(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
