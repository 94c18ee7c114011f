"""Tables and figures as a page writes them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.report.pages.frame import sentence


@dataclass(frozen=True)
class Column:
    """A column's name, and whether its cells are set right, as numbers are."""

    name: str
    right: bool = False


@dataclass(frozen=True)
class Table:
    """Rows of texts; the first cell of each names it."""

    caption: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[Any]]


def number(value: float | None, form: str = ".3f") -> str:
    """Return a figure, or nothing where there is none."""
    return "" if value is None else f"{value:{form}}"


def span(low: float | None, high: float | None, form: str = ".3f") -> str:
    """Return an interval in words, or nothing where there is none."""
    return "" if low is None or high is None else f"{low:{form}} to {high:{form}}"


def first_rows(what: str, count: int, most: int) -> str:
    """Return the caption of a table that shows no more than so many of its rows."""
    return f"The first {most:,} of {count:,} {what}" if count > most else f"All {count:,} {what}"


def headline(text: str) -> tuple[str, str]:
    """Return what is to be read first, and the rest: two sentences.

    What stands before the first colon or semicolon is the claim, what follows are its figures.
    """
    places = [place for mark in (": ", "; ") if (place := text.find(mark)) > 0]
    if not places:
        return sentence(text), ""
    return sentence(text[: min(places)]), sentence(text[min(places) + 2 :])
