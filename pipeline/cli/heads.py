"""`pipeline heads`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from pipeline.cli import options as o
from pipeline.cli.terminal import Terminal
from pipeline.errors import HeadError


def command(
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="Show this one alone.")] = None,
    as_json: o.Json = False,
) -> None:
    """List the heads: scikit-learn estimator, default grid, whether it gives probabilities."""
    from pipeline.heads import catalogue

    terminal = Terminal(as_json=as_json)
    found = [entry for entry in catalogue() if name in (None, entry.name)]
    if not found:
        raise HeadError(
            f"there is no head {name!r}: found {', '.join(dict.fromkeys(entry.name for entry in catalogue()))}",
            "pipeline heads",
        )
    if as_json:
        terminal.object({"heads": [asdict(entry) for entry in found]})
        return
    rows = [
        [
            entry.name + (" (fast)" if entry.fast else ""),
            "classes" if entry.kind == "class" else "numbers",
            entry.estimator,
            "; ".join(f"{param}: {', '.join(str(value) for value in values)}" for param, values in entry.grid.items()),
            "yes" if entry.probabilities else "no",
            entry.note,
        ]
        for entry in found
    ]
    terminal.table(["head", "for", "estimator", "grid", "probabilities", "note"], rows)
