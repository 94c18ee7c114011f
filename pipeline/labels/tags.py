"""Several tags an image: how a cell of them is split, and the indicator that they make."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

# The first that occurs in a column splits it.
SEPARATORS = (";", "|", ",")


def separator_of(texts: Iterable[str]) -> str | None:
    """Return the first of the separators that occurs in any of the cells; None where none does."""
    texts = list(texts)
    return next((one for one in SEPARATORS if any(one in text for text in texts)), None)


def split_tags(text: str, separator: str) -> tuple[str, ...]:
    """Return the different tags of a cell, sorted; a cell that holds only a separator has none."""
    return tuple(sorted({tag for part in text.split(separator) if (tag := part.strip())}))


def indicator(cells: Sequence[Iterable[str]], tags: Sequence[str]) -> np.ndarray:
    """Return which cell holds which tag, int8 of shape (n, c); tags beyond `tags` are passed over."""
    place = {tag: column for column, tag in enumerate(tags)}
    y = np.zeros((len(cells), len(tags)), np.int8)
    for row, cell in enumerate(cells):
        for tag in cell:
            if tag in place:
                y[row, place[tag]] = 1
    return y


def joined_tags(row: np.ndarray, tags: Sequence[str], separator: str) -> str:
    """Return a row of an indicator as a cell; one without tags is the separator alone, as in a table."""
    return separator.join(tag for tag, there in zip(tags, row, strict=True) if there) or separator
