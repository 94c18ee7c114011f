"""The text of a label cell: one rule for typed values, missing values and spellings of the same value."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterable
from decimal import Decimal, InvalidOperation

import numpy as np

#: The cells that mean "not known", after the outer blanks are cut: these and no others.
MISSING = frozenset(("", "NA", "nan", "NaN"))

#: A plain decimal number; no underscores, no infinity.
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
#: A number with a leading zero such as "007" is a code, and its text is kept.
CODE = re.compile(r"[+-]?0\d")

_TRUTH = {"true": True, "false": False}
_MOST_DIGITS = 40  # of a number that is written out; 1e300 keeps its exponent


def clean_text(text: str) -> str:
    """Return the text in Unicode's composed form (NFC), its outer blanks cut."""
    return unicodedata.normalize("NFC", text).strip()


def cell_text(text: str | None) -> str | None:
    """Return a cell's cleaned text, or None where it is in `MISSING`."""
    if text is None:
        return None
    clean = clean_text(text)
    return None if clean in MISSING else clean


def number_text(value: float | np.floating) -> str | None:
    """Return a number's plain text, whole numbers without a point; None for not-a-number."""
    if value != value:
        return None
    return str(value).removesuffix(".0")


def value_text(value: object) -> str | None:
    """Return the text of one typed value, or None where the value is missing.

    Parameters
    ----------
    value : object
        A cell of a DataFrame, of a Parquet table, of an array or of a Python mapping.

    Returns
    -------
    str or None
        Cleaned text; ``"1"`` for 1 and 1.0, ``"true"`` for True, a JSON array of texts for a list, a tuple, a set or an
        array. None for None, NaN, NaT, `pandas.NA` and the texts in `MISSING`.
    """
    if isinstance(value, str):
        return cell_text(value)
    if isinstance(value, np.ndarray) and value.ndim == 0:
        value = value.item()
    if is_missing(value):
        return None
    if isinstance(value, bool | np.bool_):
        return str(bool(value)).lower()
    if isinstance(value, float | np.floating):
        return number_text(value)
    if isinstance(value, bytes):
        return cell_text(value.decode("utf-8", "replace"))
    if isinstance(value, set | frozenset):
        return list_text(sorted(value, key=str))
    if isinstance(value, list | tuple | np.ndarray):
        return list_text(value)
    return cell_text(str(value))


def is_missing(value: object) -> bool:
    """Return whether a typed value is None, NaN, NaT or `pandas.NA`; texts are not looked at."""
    if value is None or type(value).__name__ in ("NAType", "NaTType"):
        return True
    if isinstance(value, np.datetime64 | np.timedelta64):
        return bool(np.isnat(value))
    if isinstance(value, float | np.floating | Decimal):
        return bool(value != value)
    return False


def list_text(values: Iterable[object]) -> str:
    """Return several values of one cell as a JSON array of texts, null for a missing one."""
    return json.dumps([value_text(value) for value in values], ensure_ascii=False)


def value_key(text: str) -> object:
    """Return what the text means, so that spellings of one value have equal keys.

    ``1``, ``1.0`` and ``+1`` are one number and ``true``, ``True`` and ``TRUE`` one truth value; numbers are compared
    exactly. A code such as ``007`` and every other text is equal to itself alone.
    """
    if NUMBER.fullmatch(text) and not CODE.match(text):
        try:
            return Decimal(text)
        except InvalidOperation:  # an exponent beyond all bounds
            return text
    truth = _TRUTH.get(text.lower())
    return text if truth is None else ("truth", truth)


def plain_spelling(text: str) -> str:
    """Return the plain spelling of the value that the text means: ``1`` for 1.0, ``true`` for TRUE."""
    key = value_key(text)
    if isinstance(key, tuple):
        return text.lower()
    if not isinstance(key, Decimal):
        return text
    if not -_MOST_DIGITS < key.adjusted() < _MOST_DIGITS:
        return text
    plain = format(key, "f")
    plain = (plain.rstrip("0").rstrip(".") if "." in plain else plain).lstrip("+")
    return "0" if plain in ("-0", "") else plain
