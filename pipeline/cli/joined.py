"""What was joined, before anything is trained: a line a label set, then ids without a partner and columns left out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pipeline.cli.terminal import Number, Terminal

if TYPE_CHECKING:
    from pipeline.labels import JoinedLabelSet, JoinReport

MOST_NAMED = 4  # classes; more are counted


def print_joined(terminal: Terminal, reports: Sequence[JoinReport]) -> None:
    """Print the table on stderr, or for a single label set the few notes that it would come to."""
    reports = [report for report in reports if report.label_sets]
    if sum(len(report.label_sets) for report in reports) == 1:
        for note in reports[0].notes:
            terminal.note(note)
        return
    several = len(reports) > 1
    columns = ["label set", *(["images of"] if several else []), "kind", Number("rows"), "classes", Number("missing")]
    rows = [
        [one.name, *([report.source] if several else []), one.kind, f"{one.rows:,}", _what(one), f"{one.missing:,}"]
        for report in reports
        for one in report.label_sets
    ]
    terminal.table(columns, rows, to_stderr=True)
    for report in reports:
        for note in (*report.about_whole_numbers, *report.unmatched, *report.left_out):
            terminal.note(note)


def _what(one: JoinedLabelSet) -> str:
    """Return the classes by name where they are few, the range of numbers."""
    if one.low is not None and one.high is not None:
        return f"{one.low:g} to {one.high:g}"
    if len(one.classes) <= MOST_NAMED and sum(map(len, one.classes)) <= 40:
        return ", ".join(one.classes)
    return f"{len(one.classes)} {'tags' if one.kind == 'multi' else 'classes'}"
