"""How one-hot columns are read: several columns of 0 and 1 with one 1 per image become one label set."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipeline.errors import LabelError
from pipeline.labels.join import matches, unknown_column

_KIND = ":onehot"
_ENDS = "_-. :"  # between a prefix and the class in a column's name
_BITS = {"0": False, "0.0": False, "false": False, "1": True, "1.0": True, "true": True}

Values = Mapping[str, Sequence[str | None]]


@dataclass(frozen=True)
class OneHot:
    """Columns that are one label set together.

    Attributes
    ----------
    name : str
        Of the label set: the pattern without its wildcards, or "label".
    globs : tuple of str
    """

    name: str
    globs: tuple[str, ...]


def split_one_hot(entries: Sequence[str]) -> tuple[tuple[str, ...], OneHot | None]:
    """Return the entries of ``--column`` with ``GLOB:onehot`` replaced by the label set's name, and those globs.

    All columns requested in this way form one label set.
    """
    globs = tuple(entry.removesuffix(_KIND) for entry in entries if entry.endswith(_KIND))
    if not globs:
        return tuple(entries), None
    name = re.sub(r"[*?\[\]]", "", globs[0]).strip(_ENDS) if len(globs) == 1 else ""
    found = OneHot(name or "label", globs)
    others = [entry for entry in entries if not entry.endswith(_KIND)]
    return (*others, f"{found.name}:class"), found


def merge_one_hot(ids: Sequence[str], columns: Values, one_hot: OneHot) -> dict[str, Sequence[str | None]]:
    """Return the columns with the one-hot columns merged into one: for each image the name of the column with its 1.

    Parameters
    ----------
    ids : sequence of str, length n
    columns : mapping of str to sequence, each aligned with `ids`
    one_hot : OneHot

    Returns
    -------
    dict
        The class names are the column names without their common prefix. An image whose cells are
        all empty has no label.

    Raises
    ------
    LabelError
        No such columns, another column of the label set's name, a cell that is not 0 or 1, or an image with several
        1 or without one.
    """
    names: list[str] = []
    for glob in one_hot.globs:
        found = [name for name in matches(glob, list(columns)) if name not in names]
        if not found:
            raise unknown_column(glob, list(columns))
        names += found
    if len(names) < 2:
        raise LabelError(
            f"--column {one_hot.globs[0]}:onehot: expected two columns or more, got {names[0]!r} alone",
            "name the columns by a pattern: --column 'PREFIX_*:onehot'",
        )
    if one_hot.name in columns and one_hot.name not in names:
        raise LabelError(
            f"--column {one_hot.globs[0]}:onehot: expected no other column {one_hot.name!r}, got one in the table",
            "rename that column, or the one-hot columns",
        )
    prefix = _prefix(names)
    classes = {name: name[len(prefix) :] for name in names}
    labels: list[str | None] = []
    for row, image_id in enumerate(ids):
        cells = {name: columns[name][row] for name in names}
        bad = next((name for name, text in cells.items() if text is not None and text.lower() not in _BITS), None)
        if bad is not None:
            raise LabelError(
                f"column {bad!r}: expected 0 or 1 for {image_id}, got {cells[bad]!r}",
                "correct the cell, or leave the column out of the pattern",
            )
        ones = [name for name, text in cells.items() if text is not None and _BITS[text.lower()]]
        if len(ones) > 1 or (not ones and any(text is not None for text in cells.values())):
            got = f"{len(ones)}: {ones[0]!r} and {ones[1]!r}" if ones else "none"
            raise LabelError(
                f"one-hot columns {', '.join(names[:3])}{', ...' if len(names) > 3 else ''}: expected one 1 for "
                f"{image_id}, got {got}",
                f"correct the row, or read each column by itself: --column {shlex.quote(f'{names[0]}:class')}",
            )
        labels.append(classes[ones[0]] if ones else None)
    kept = {name: values for name, values in columns.items() if name not in names}
    return {**kept, one_hot.name: labels}


def one_hot_notes(columns: Values) -> list[str]:
    """Return a sentence for columns that look one-hot, with the option that reads them as one label set."""
    bits = [
        name
        for name, values in columns.items()
        if any(text is not None for text in values)
        and all(text is None or text.lower() in _BITS for text in set(values))
    ]
    groups: dict[str, list[str]] = {}
    for name in bits:
        groups.setdefault(re.split(f"[{re.escape(_ENDS)}]", name)[0], []).append(name)
    for names in (bits, *groups.values()):
        if len(names) > 1 and _has_one_each([columns[name] for name in names]):
            prefix = _prefix(names)
            pattern = f"{prefix}*"
            alone = bool(prefix) and set(matches(pattern, list(columns))) == set(names)
            words = [f"{pattern}:onehot"] if alone else [f"{name}:onehot" for name in names]
            option = " ".join(f"--column {shlex.quote(word)}" for word in words[:4]) + (
                " ..." if len(words) > 4 else ""
            )
            listed = ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")
            return [
                f"{len(names)} columns ({listed}) have exactly one 1 per image; {option} reads them as one label set"
            ]
    return []


def _has_one_each(values: Sequence[Sequence[str | None]]) -> bool:
    """Return whether every row that is not empty has one 1, and every column has one."""
    ones = [[text is not None and _BITS[text.lower()] for text in column] for column in values]
    rows = zip(*ones, strict=True)
    known = [any(text is not None for text in row) for row in zip(*values, strict=True)]
    return all(map(any, ones)) and all(
        sum(row) == (1 if filled else 0) for row, filled in zip(rows, known, strict=True)
    )


def _prefix(names: Sequence[str]) -> str:
    """Return what all the names begin with, up to a character that ends a word; "" for none."""
    common = os.path.commonprefix(list(names))  # noqa: RUF071 - letters are meant
    end = max((common.rfind(mark) for mark in _ENDS), default=-1)
    return "" if any(len(name) == end + 1 for name in names) else common[: end + 1]
