"""Folds that label sets share: drawn once for all images of a collection, without a look at any label.

Label sets with the same folds share the work of each. And since no label has a say in them, a label set has the same
folds whichever others are evaluated beside it.
"""

from __future__ import annotations

import heapq
from functools import cached_property
from typing import Any

import numpy as np

from pipeline.splits import Split

# With fewer rows, classes are kept in exact proportion: there is less work to share, and chance has more to say.
FEWEST_ROWS = 1000

# A fold that holds less or more of a class than this part of its share is not the label set's.
LEAST, MOST = 0.5, 1.5


class CommonFolds:
    """The outer and inner folds of all images of a collection.

    Parameters
    ----------
    together : ndarray of int64, shape (n,)
        Images with the same value stay on one side of every split.
    present : ndarray of int64, shape (m,)
        The images that have features.
    cv : int
    random_state : int
    """

    def __init__(self, together: np.ndarray, present: np.ndarray, *, cv: int, random_state: int) -> None:
        self._together, self._present, self._cv, self._random_state = together, present, cv, random_state
        self._inner: dict[int, np.ndarray] = {}
        self._made: dict[tuple[int, bytes], tuple[Split, ...]] = {}

    def outer(self, rows: np.ndarray, y: np.ndarray, kind: str) -> tuple[Split, ...] | None:
        """Return the folds of a label set's rows; None where a class is out of proportion in one of them.

        Parameters
        ----------
        rows : ndarray of int64, shape (k,)
            The images that have a label and may be learned from.
        y : ndarray, shape (k,)
        kind : {"class", "number", "multi"}
        """
        return self._splits(self._outer, rows, y, kind) if len(rows) >= FEWEST_ROWS else None

    def inner(self, fold: int | None, rows: np.ndarray, y: np.ndarray, kind: str) -> tuple[Split, ...] | None:
        """Return as `outer` the folds within an outer fold's training rows; within all rows for None."""
        if fold is None:
            return self.outer(rows, y, kind)
        if fold not in self._inner:
            self._inner[fold] = self._deal(self._present[self._outer[self._present] != fold], fold + 1)
        return self._splits(self._inner[fold], rows, y, kind)

    @cached_property
    def _outer(self) -> np.ndarray:
        return self._deal(self._present, 0)

    def _deal(self, rows: np.ndarray, draw: int) -> np.ndarray:
        """Return the fold of every image, shape (n,), -1 for those not among `rows`."""
        fold_of = np.full(len(self._together), -1, np.int64)
        rng = np.random.default_rng([self._random_state, draw])
        fold_of[rows] = deal_folds(self._together[rows], self._cv, rng)
        return fold_of

    def _splits(self, fold_of: np.ndarray, rows: np.ndarray, y: np.ndarray, kind: str) -> tuple[Split, ...] | None:
        mine = fold_of[rows]
        if not folds_in_proportion(mine, y, kind, self._cv):
            return None
        # Label sets of the same rows get the same objects: a worker is sent them once.
        key = id(fold_of), rows.tobytes()
        if key not in self._made:
            parts = [(np.flatnonzero(mine != fold), np.flatnonzero(mine == fold)) for fold in range(self._cv)]
            self._made[key] = tuple(Split(train, test) for train, test in parts)
        return self._made[key]


def deal_folds(together: np.ndarray, folds: int, rng: np.random.Generator) -> np.ndarray:
    """Return a fold for each row, at random: what belongs together in one fold, the folds about equally large.

    Parameters
    ----------
    together : ndarray, shape (m,)
    folds : int
    rng : numpy Generator
    """
    names, code = np.unique(together, return_inverse=True)
    sizes = np.bincount(code, minlength=len(names))
    order = rng.permutation(len(names))
    fold_of = np.empty(len(names), np.int64)
    if len(names) == len(code):
        fold_of[order] = np.arange(len(names)) % folds
        return fold_of[code]
    # The largest first, each into the fold that holds least.
    heap = [(0, fold) for fold in range(folds)]
    for name in order[np.argsort(-sizes[order], kind="stable")].tolist():
        held, fold = heap[0]
        fold_of[name] = fold
        heapq.heapreplace(heap, (held + int(sizes[name]), fold))
    return fold_of[code]


def folds_in_proportion(fold_of: np.ndarray, y: np.ndarray, kind: str, folds: int) -> bool:
    """Say whether every fold holds between half and one and a half times its share of the rows, and of every class.

    Parameters
    ----------
    fold_of : ndarray of int64, shape (m,)
    y : ndarray, shape (m,) or, for several labels an image, (m, c)
    kind : {"class", "number", "multi"}
    folds : int
    """
    counted: list[Any] = [np.ones(len(y), bool)]
    if kind == "class":
        counted += [y == code for code in np.unique(y)]
    elif kind == "multi":
        counted += [*(y.T > 0), *(y.T == 0)]
    for chosen in counted:
        counts = np.bincount(fold_of[chosen], minlength=folds)
        share = counts.sum() / folds
        if counts.min() < max(1, LEAST * share) or counts.max() > MOST * share:
            return False
    return True
