"""Which columns are no labels unless somebody says so: dates, and what is nearly different in every row."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

# A column with no more different values than this is taken, whatever its values look like.
MOST_LIKE_LABELS = 20

_YEAR, _MONTH, _DAY = r"(?:1[89]|2[01])\d\d", r"(?:0?[1-9]|1[0-2])", r"(?:0?[1-9]|[12]\d|3[01])"
_NAMED = r"(?:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*"
_DATE = re.compile(
    rf"""(?:{_YEAR}(?P<s>[-/.:]){_MONTH}(?P=s){_DAY}     # 2024-01-31, and as cameras write it: 2024:01:31
    | {_YEAR}-(?:0[1-9]|1[0-2])                          # 2024-01
    | {_YEAR}(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])    # 20240131
    | {_DAY}(?P<d>[-/.]){_MONTH}(?P=d)(?:{_YEAR}|\d\d)   # 31.1.2024
    | {_MONTH}(?P<m>[-/.]){_DAY}(?P=m)(?:{_YEAR}|\d\d)   # 1/31/2024
    | {_DAY}[ .-]*{_NAMED}[ .,-]*(?:{_YEAR}|\d\d)        # 31 Jan 2024
    | {_NAMED}[ .-]*{_DAY}[ ,]+{_YEAR}                   # January 31, 2024
    )(?:[T ]\s*\d\d?(?::?\d\d)(?::?\d\d(?:[.,]\d+)?)?\s*(?:[ap]m)?\s*(?:Z|[+-]\d\d:?\d\d)?)?""",
    re.IGNORECASE | re.VERBOSE,
)


def why_no_labels(kind: str, counts: Mapping[str, int], *, stated: bool = False) -> str | None:
    """Return why a column is left out unless it is asked for; None for one that is taken.

    Parameters
    ----------
    kind : {"class", "number"}
        As guessed.
    counts : mapping of text to int
        How often each value occurs.
    stated : bool
        Whether the source states that these are classes: a class folder may be called 2024-01-31.
    """
    different, rows = len(counts), sum(counts.values())
    if different <= MOST_LIKE_LABELS:
        return None
    if not stated and _are_dates(counts):
        return f"{different} different dates"
    if kind == "class":
        return f"{different} different values in {rows} rows look like names" if 2 * different > rows else None
    # Measurements have decimals somewhere; whole numbers that hardly ever repeat number patients, photos or moments.
    if 10 * different > 9 * rows and all(float(text).is_integer() for text in counts):
        return f"{different} different whole numbers in {rows} rows look like numbers of patients or photos"
    return None


def _are_dates(texts: Collection[str]) -> bool:
    """Whether nine of ten different values are dates: one slip or "unknown" makes no other column of it."""
    return 10 * sum(_DATE.fullmatch(text) is not None for text in texts) >= 9 * len(texts)
