"""Columns by name: which ones are meant, what was said of them, and the groups that one holds."""

from __future__ import annotations

import difflib
import fnmatch
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.errors import LabelError
from pipeline.images.values import is_missing

KINDS = ("class", "number", "multi")

_MULTI = re.compile(r"multi\((.*)\)", re.DOTALL)  # multi(/): tags with a separator of the user's choice


@dataclass(frozen=True)
class ColumnOptions:
    """How a column is to be read, where that was asked for.

    Attributes
    ----------
    kind : {"class", "number", "multi"} or None
    separator : str
        Between the tags of a cell; empty where it is to be found.
    """

    kind: str | None = None
    separator: str = ""


def group_codes(
    ids: Sequence[str], columns: Mapping[str, Sequence[str | None]], column: str, *, rows: np.ndarray | None = None
) -> np.ndarray:
    """Return the group of each row as a code, from a column of group names.

    Parameters
    ----------
    ids : sequence of str, length n
    columns : mapping of str to sequence, each aligned with `ids`
    column : str
    rows : ndarray of int, shape (m,), optional
        The rows that need a group (the labelled ones); all by default.

    Returns
    -------
    ndarray of int64, shape (m,)
        Equal codes for equal groups, in the order of the groups' names.

    Raises
    ------
    LabelError
        No such column, or a row without a group: it could stand on both sides of a split.
    """
    values = columns[_named(column, list(columns))]
    wanted = range(len(ids)) if rows is None else [int(row) for row in rows]
    missing = [row for row in wanted if is_missing(values[row])]
    if missing:
        raise LabelError(
            f"column {column!r}: wanted a group for every labelled image, "
            f"found {count(len(missing), 'image')} without one, e.g. {ids[missing[0]]}",
            "fill the column in, or clear those images' labels",
        )
    names = [str(values[row]) for row in wanted]
    code = {name: i for i, name in enumerate(sorted(set(names)))}
    return np.array([code[name] for name in names], dtype=np.int64)


def choose(names: list[str], entries: list[str], exclude: set[str]) -> tuple[dict[str, ColumnOptions], set[str]]:
    """Return the chosen columns with the kind that was asked for, in the table's order, and those asked for.

    Asked for is what an entry names exactly or says a kind of: nothing is left out of it for how it looks.
    """
    if not entries:
        return {name: ColumnOptions() for name in names if name not in exclude}, set()
    kinds: dict[str, ColumnOptions] = {}
    asked: set[str] = set()
    for entry in entries:
        glob, reading = split_kind(entry, names)
        found = [name for name in matches(entry, names) if name not in exclude or name == glob]
        if not found:
            raise unknown_column(glob, [name for name in names if name not in exclude])
        for name in found:
            kinds[name] = reading if reading.kind else kinds.get(name, reading)
        asked.update(name for name in found if reading.kind is not None or name == glob)
    return {name: kinds[name] for name in names if name in kinds}, asked


def split_kind(entry: str, names: Sequence[str]) -> tuple[str, ColumnOptions]:
    """Split GLOB:KIND or GLOB:multi(SEPARATOR); a column whose own name has the colon is meant as it stands.

    Raises
    ------
    LabelError
        The column exists and the kind does not, or the separator is empty.
    """
    if entry in names:
        return entry, ColumnOptions()
    if found := re.fullmatch(rf"(.+):{_MULTI.pattern}", entry, re.DOTALL):
        if not found[2]:
            raise LabelError(
                f"--column {entry}: expected a separator in the parentheses, got none",
                f"--column '{found[1]}:multi(/)' splits at a slash; --column {found[1]}:multi finds the separator",
            )
        return found[1], ColumnOptions("multi", found[2])
    glob, colon, kind = entry.rpartition(":")
    if not colon:
        return entry, ColumnOptions()
    if kind in KINDS:
        return glob, ColumnOptions(kind)
    if glob in names or fnmatch.filter(names, glob):
        raise LabelError(
            f"--column {entry}: wanted the kind class, number or multi, found {kind!r}",
            f"pass --column {glob}:class, --column {glob}:number or --column {glob}:multi",
        )
    return entry, ColumnOptions()


def matches(entry: str, names: list[str]) -> list[str]:
    """Return the columns that GLOB or GLOB:KIND chooses."""
    glob, _ = split_kind(entry, names)
    if glob in names:  # before globbing: a name may hold [ or *
        return [glob]
    return [name for name in names if fnmatch.fnmatchcase(name, glob)]


def _named(column: str, names: list[str]) -> str:
    if column not in names:
        raise unknown_column(column, names)
    return column


def unknown_column(column: str, names: list[str]) -> LabelError:
    """Return the error for a column that is not there, with the nearest names."""
    near = difflib.get_close_matches(column, names, n=3, cutoff=0.5)
    folded = [name for name in names if name.casefold() == column.casefold()]
    near = list(dict.fromkeys(folded + near))
    found = ", ".join(map(repr, names[:12])) + (f" and {len(names) - 12} more" if len(names) > 12 else "")
    return LabelError(
        f"wanted a column {column!r}, found {found or 'no columns at all'}",
        f"did you mean {' or '.join(map(repr, near))}?"
        if near
        else "name one of those columns, or pass --labels TABLE",
    )


def count(n: int, noun: str) -> str:
    """Return "1 image", "2 images"."""
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"
