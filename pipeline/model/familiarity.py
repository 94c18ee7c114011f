"""How far from one another the photos lie that a model learned from: what a new one is unfamiliar beyond."""

from __future__ import annotations

import numpy as np

from pipeline.duplicates import FEWEST_DIMENSIONS, MOST_PAIRS, RowSource, Similarity, row_blocks

QUANTILE = 0.99
SAMPLE = 4096  # photos whose nearest other one is looked for, among all of them

_TALL, _WIDE = 512, 4096
_ROUNDING = 1e-5  # more than float32 loses on 1,000s of terms between -1 and 1


def novelty_threshold(
    X: RowSource, rows: np.ndarray, digests: np.ndarray, *, quantile: float = QUANTILE
) -> float | None:
    """Return the cosine distance that this share of the photos do not exceed, each to the nearest other photo.

    A copy is no other photo, or a collection in which each photo lies twice would have a distance of zero: photos of
    one content, of one embedding, or nearly alike as `pipeline.duplicates` has it do not count for one another. Where
    there are so many near-copies that they mean nothing, only the others are passed by.

    Parameters
    ----------
    X : array or StoredRows, shape (n, d)
    rows : ndarray of int64, shape (m,)
        Of the photos. Beyond `SAMPLE` of them, as many are asked, evenly spread, about all.
    digests : ndarray of uint8, shape (m, 16)
        Of their content.
    quantile : float

    Returns
    -------
    float or None
        None where no photo has another one that is no copy of it.
    """
    if len(rows) < 2:
        return None
    asked = np.unique(np.linspace(0, len(rows) - 1, min(len(rows), SAMPLE)).astype(np.int64))
    content = np.unique(digests, axis=0, return_inverse=True)[1].reshape(-1)
    likeness = Similarity.of(X, rows) if X.shape[1] >= FEWEST_DIMENSIONS else None
    nearest, near_copies = _nearest_others(X, rows, asked, content, likeness)
    if near_copies > MOST_PAIRS * len(asked):
        nearest, _ = _nearest_others(X, rows, asked, content, None)
    distances = 1 - nearest[np.isfinite(nearest)].astype(np.float64)
    return float(np.quantile(distances, quantile)) if len(distances) else None


def unit_rows(values: np.ndarray) -> np.ndarray:
    """Return rows at length 1, float32; a row of zeros stays as it is, and is like no other."""
    values = np.asarray(values, np.float32)
    lengths = np.sqrt(np.einsum("ij,ij->i", values, values, dtype=np.float64)).astype(np.float32)
    return values / np.where(lengths > 0, lengths, 1)[:, None]


def _nearest_others(
    X: RowSource, rows: np.ndarray, asked: np.ndarray, content: np.ndarray, likeness: Similarity | None
) -> tuple[np.ndarray, int]:
    """Return the cosine of each photo asked about and its nearest other one, -inf for none, and the near-copies met."""
    best = np.full(len(asked), -np.inf, np.float32)
    near_copies = 0
    for tall in row_blocks(len(asked), _TALL):
        mine = asked[tall]
        one, centred = unit_rows(X[rows[mine]]), None if likeness is None else likeness.unit(X, rows[mine])
        for wide in row_blocks(len(rows), _WIDE):
            cosine = one @ unit_rows(X[rows[wide]]).T  # (tall, wide)
            copies = (content[mine][:, None] == content[wide][None, :]) | (cosine >= 1 - _ROUNDING)
            if likeness is not None:
                near = centred @ likeness.unit(X, rows[wide]).T >= likeness.threshold
                near_copies += int((near & ~copies).sum())
                copies |= near
            cosine[copies] = -np.inf
            np.maximum(best[tall], cosine.max(axis=1), out=best[tall])
    return best, near_copies
