"""Cells of a CSV that no spreadsheet runs as a formula, and what they said before they were made so.

A spreadsheet takes a cell that begins with ``= + - @`` for a formula, and a file's name is a stranger's to choose. An
apostrophe in front makes it text, as spreadsheets themselves have it; our own reader takes it away again.
"""

from __future__ import annotations

import csv
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

# Where a cell begins, for whichever separator: half the world's spreadsheets split at semicolons, and look for quotes
# only behind them.
_BEGINS = r"(^|[;\t\r\n])"
_RUN = re.compile(rf"{_BEGINS}(?='*[=+\-@\t\r])")
_MADE_TEXT = re.compile(rf"{_BEGINS}'(?='*[=+\-@\t\r])")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


def safe_cell(text: str) -> str:
    """Return the text as it is written to a CSV; a number such as -1.5 stays one."""
    return text if _NUMBER.fullmatch(text) else _RUN.sub(r"\1'", text)


def read_cell(text: str) -> str:
    """Return what `safe_cell` was given."""
    return _MADE_TEXT.sub(r"\1", text) if "'" in text else text


def csv_text(table: pd.DataFrame, *, float_format: str | None = None) -> str:
    """Return the table as CSV, every text in it as `safe_cell` has it; numbers are numbers."""
    safe = table.rename(columns=lambda name: safe_cell(str(name)))
    texts = safe.select_dtypes(include=["object", "string"]).columns
    safe[texts] = safe[texts].map(lambda cell: safe_cell(cell) if isinstance(cell, str) else cell)
    # Before Python 3.13 a carriage return alone gets no quotes, and ends the line for whoever reads it.
    if any("\r" in cell for name in texts for cell in safe[name] if isinstance(cell, str)):
        return safe.to_csv(index=False, float_format=float_format, quoting=csv.QUOTE_NONNUMERIC)
    return safe.to_csv(index=False, float_format=float_format)
