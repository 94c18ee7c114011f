"""What a label set has a linear head learn: a column a class, or a column of numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


class NotCoveredError(Exception):
    """These rows want scikit-learn itself."""


@dataclass(frozen=True, eq=False)
class Target:
    """A label set's training part.

    Parameters
    ----------
    n : int
        Rows of the training part.
    seen : ndarray of int64, shape (c,)
        The classes that are in it, sorted; empty for numbers, and for tags (several classes a row).
    mean : ndarray of float64, shape (c,)
        Each class's part of the rows; or the mean of the numbers.
    H : ndarray of float64, shape (d, c) or (r, c)
        The standardised rows' products with a column a class, 1 where a row is of that class and else 0; or with the
        numbers. The columns' means are taken off. By the features, or by the directions of a spectrum.
    """

    n: int
    seen: np.ndarray
    mean: np.ndarray
    H: np.ndarray

    @property
    def counts(self) -> np.ndarray:
        """Each class's rows, shape (c,)."""
        return np.rint(self.mean * self.n)


class TargetColumns:
    """The columns of several label sets side by side, made a block of rows at a time.

    Parameters
    ----------
    ys : sequence of ndarray, shape (n,) or (n, c)
        Codes 0..labels-1; or numbers; or an indicator of c classes. Of every row of X; only those asked for are read.
    labels : sequence of int
        How many classes each has; 0 for numbers.
    dtype : dtype
        The features' type, in which scikit-learn takes numbers.
    rows : ndarray of int
        Rows that will be asked for: the numbers' mean over them is taken off, so that sums keep their digits.
    """

    def __init__(self, ys: Sequence[np.ndarray], labels: Sequence[int], dtype: Any, rows: np.ndarray) -> None:
        self.ys = [y if count else y.astype(dtype).astype(np.float64) for y, count in zip(ys, labels, strict=True)]
        self.labels = labels
        self.centres = [0.0 if count else float(y[rows].mean()) for y, count in zip(self.ys, labels, strict=True)]
        widths = [count or 1 for count in labels]
        self.starts = np.concatenate([[0], np.cumsum(widths)]).astype(int)
        self.count = int(self.starts[-1])

    def rows(self, rows: np.ndarray) -> np.ndarray:
        """Return all columns of some rows, shape (rows, count)."""
        T = np.zeros((len(rows), self.count))
        every = np.arange(len(rows))
        for y, labels, centre, start in zip(self.ys, self.labels, self.centres, self.starts, strict=False):
            if not labels:
                T[:, start] = y[rows] - centre
            elif y.ndim == 2:
                T[:, start : start + labels] = y[rows]
            else:
                T[every, start + y[rows]] = 1.0
        return T

    def target(self, place: int, n: int, H: np.ndarray, first: np.ndarray) -> Target:
        """Return a label set's target, given all columns' products (d, count) and sums over n training rows.

        Raises
        ------
        NotCoveredError
            scikit-learn has its own words for one class alone, and for as many classes as rows.
        """
        here = slice(self.starts[place], self.starts[place + 1])
        H, first = H[:, here], first[here]
        if not self.labels[place] or self.ys[place].ndim == 2:
            return Target(n, np.empty(0, np.int64), first / n + self.centres[place], H)
        seen = np.flatnonzero(first > 0.5)
        if len(seen) < 2 or len(seen) == n:
            raise NotCoveredError
        return Target(n, seen.astype(np.int64), first[seen] / n, H[:, seen])
