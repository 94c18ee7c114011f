"""Cells of a CSV that no spreadsheet runs as a formula, and what they said before they were made so.

A spreadsheet may take a cell that begins with ``= + - @`` for a formula, and a file's name is a stranger's to choose.
An apostrophe in front makes it text, as spreadsheets themselves have it; our own reader takes it away again.

Only a cell that would be run or computed gets one, because it also changes the cell for every other program: one that
calls a function, starts a program (DDE), reads another cell or computes a number. A sign alone (the class ``-``) and a
sign before a plain name (``-dash.png``) do none of this: at worst they are shown as an error, and they are not changed.
"""

from __future__ import annotations

import re
from csv import QUOTE_NONNUMERIC
from typing import TYPE_CHECKING

from pipeline.errors import PipelineError

if TYPE_CHECKING:
    import pandas as pd

SAFE, PLAIN = "safe", "plain"

# Where a cell begins, for whichever separator: half the world's spreadsheets split at semicolons, and look for quotes
# only behind them.
_BEGINS = r"(^|[;\t\r\n])"
_FORMULA = re.compile(rf"{_BEGINS}(?='*[=+\-@\t\r])")
_MADE_TEXT = re.compile(rf"{_BEGINS}'(?='*[=+\-@\t\r])")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_PIECE = re.compile(r"[^;\t\r\n]*")
_SIGNS = re.compile(r"[=+\-@]*")
# After the signs: names of files and classes. Without brackets, quotes, bars, exclamation marks, colons and commas
# nothing can be called, linked or read from elsewhere.
_NAMES = re.compile(r"[+\-@][\w.\-/ ]*")
_OPERATORS = re.compile(r"[\-/@+ ]+")
_REFERENCE = re.compile(r"[a-z]{1,3}\d+|r\d*c\d*|true|false", re.IGNORECASE)


def safe_cell(text: str) -> str:
    """Return the text as it is written to a CSV; a number such as -1.5 stays one."""
    return text if _NUMBER.fullmatch(text) else _FORMULA.sub(_with_apostrophe, text)


def _with_apostrophe(found: re.Match[str]) -> str:
    piece = _PIECE.match(found.string, found.end())
    assert piece is not None
    # An apostrophe of the text's own gets another one, or `read_cell` would take it for ours.
    return found[1] + ("" if piece[0] and piece[0][0] != "'" and not _is_computed(piece[0]) else "'")


def _is_computed(piece: str) -> bool:
    """Return whether a cell that begins with ``= + - @`` may be more to a spreadsheet than a name."""
    if _SIGNS.fullmatch(piece):
        return False
    if not _NAMES.fullmatch(piece):
        return True
    parts = [part for part in _OPERATORS.split(piece) if part]
    # One part that is neither a number nor a cell is a name that no sheet knows, and nothing is computed.
    return all(_NUMBER.fullmatch(part) or _REFERENCE.fullmatch(part) for part in parts)


def read_cell(text: str) -> str:
    """Return what `safe_cell` was given."""
    return _MADE_TEXT.sub(r"\1", text) if "'" in text else text


def csv_text(table: pd.DataFrame, *, float_format: str | None = None, csv: str = SAFE) -> str:
    """Return the table as CSV.

    Parameters
    ----------
    table : DataFrame
    float_format : str, optional
        For numbers that are not whole.
    csv : {"safe", "plain"}
        Whether every text is written as `safe_cell` has it, or exactly as it is.

    Raises
    ------
    PipelineError
        Another value of `csv`.
    """
    check_csv(csv)
    safe = table
    if csv == SAFE:
        safe = table.rename(columns=lambda name: safe_cell(str(name)))
    texts = safe.select_dtypes(include=["object", "string"]).columns
    if csv == SAFE:
        safe[texts] = safe[texts].map(lambda cell: safe_cell(cell) if isinstance(cell, str) else cell)
    # Before Python 3.13 a carriage return alone gets no quotes, and ends the line for whoever reads it.
    if any("\r" in cell for name in texts for cell in safe[name] if isinstance(cell, str)):
        return safe.to_csv(index=False, float_format=float_format, quoting=QUOTE_NONNUMERIC)
    return safe.to_csv(index=False, float_format=float_format)


def check_csv(csv: str) -> None:
    """Raise `PipelineError` for a way to write CSV that there is not."""
    if csv not in (SAFE, PLAIN):
        raise PipelineError(f"--csv: expected {SAFE} or {PLAIN}, got {csv!r}", f"--csv {PLAIN}")
