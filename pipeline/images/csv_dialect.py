"""Which separator a CSV file uses, and which of its columns hold numbers with decimal commas."""

from __future__ import annotations

import csv
import io
import itertools
import re
from collections.abc import Collection, Iterable, Sequence

#: In the order in which they are preferred where two fit alike.
SEPARATORS = (",", ";", "\t", "|")

_SAMPLED = 50  # rows
_SEP_LINE = re.compile(r'"?sep=(.)"?[ ,;\t]*(\r\n|\r|\n|$)', re.IGNORECASE)
_WHOLE = r"[+-]?\d+"
_COMMA = re.compile(r"[+-]?\d*,\d+([eE][+-]?\d+)?")
_PLAIN = re.compile(rf"{_WHOLE}([eE][+-]?\d+)?")
_CODE = re.compile(r"[+-]?0\d")  # "007" is a code, never a number
# Texts that usually mean "no value": they do not turn a column of numbers into text.
_MARKERS = frozenset(("null", "none", "n/a", "#n/a", "<na>", "-", "--", "?", "."))


def split_sep_line(text: str) -> tuple[str | None, str]:
    """Return the separator that a first line ``sep=;`` states, None without one, and the text after that line."""
    found = _SEP_LINE.match(text)
    return (None, text) if found is None else (found[1], text[found.end() :])


def find_separator(text: str, id_names: Collection[str]) -> str:
    """Return the separator of a CSV text; separators inside quotes do not count.

    A separator fits where it splits the header, and the first rows into as many fields. Where several fit, the one
    whose header has a name of an id column is taken, then the one that leaves no quotes inside a field, then the one
    with the most fields.

    Parameters
    ----------
    text : str
    id_names : collection of str
        Lower-case names that an id column may have.
    """
    rated = []
    for rank, separator in enumerate(SEPARATORS):
        rows = _sample(text, separator)
        if not rows or len(rows[0]) < 2:
            continue
        header = rows[0]
        alike = all(len(row) == len(header) for row in rows)
        stray = any('"' in name for name in header)
        named = any(name.strip().lower() in id_names for name in header)
        rated.append((not alike, not named, stray, -len(header), rank))
    return SEPARATORS[min(rated)[-1]] if rated else SEPARATORS[0]


def _sample(text: str, separator: str) -> list[list[str]]:
    """Return the first rows that are not empty, as this separator splits them."""
    rows = (row for row in csv.reader(io.StringIO(text, newline=""), delimiter=separator) if row)
    found: list[list[str]] = []
    try:
        found.extend(itertools.islice(rows, _SAMPLED))
    except csv.Error:  # reading the whole table reports the line
        found = found[:_SAMPLED]
    return found


def holds_decimal_commas(cells: Iterable[str | None]) -> bool:
    """Return whether all cells are numbers with a decimal comma or without decimals, and one has a comma.

    Empty cells and the usual markers of missing values are passed over.
    """
    commas = False
    for text in {text for text in cells if text is not None and text.lower() not in _MARKERS}:
        if _COMMA.fullmatch(text):
            commas = True
        elif not _PLAIN.fullmatch(text) or _CODE.match(text):
            return False
    return commas


def with_decimal_points(cells: Sequence[str | None]) -> list[str | None]:
    """Return the cells with a point in place of each decimal comma."""
    return [text.replace(",", ".") if text is not None and _COMMA.fullmatch(text) else text for text in cells]
