"""Sums over rows in parts: what all but one part hold is all less that part, so that no row is summed once a fold."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.search.arrays import Arrays
from pipeline.search.targets import TargetColumns

Splits = Sequence[tuple[np.ndarray, np.ndarray]]

BLOCK = 4096  # rows that are held in float64 at a time

# A column that spreads in a training part by less than this share of its spread in all rows would lose its digits to
# the subtraction: it is summed over the training part itself.
_LOST = 1e-4


@dataclass(frozen=True, eq=False)
class Sums:
    """Sums over n rows of x, a row's distance to a centre.

    Parameters
    ----------
    n : int
    first : ndarray of float64, shape (d,)
        The sum of x.
    squares : ndarray of float64, shape (d,)
        The sum of x squared.
    gram : ndarray of float64, shape (d, d), or None
        The sum of xx'.
    """

    n: int
    first: np.ndarray
    squares: np.ndarray
    gram: np.ndarray | None

    def less(self, other: Sums) -> Sums:
        """Return the sums over the rows that the other does not hold."""
        gram = None if self.gram is None or other.gram is None else self.gram - other.gram
        return Sums(self.n - other.n, self.first - other.first, self.squares - other.squares, gram)

    @classmethod
    def of_all(cls, parts: Sequence[Sums]) -> Sums:
        """Return the sums over the rows of all parts."""
        gram = None
        if parts[0].gram is not None:
            gram = np.zeros_like(parts[0].gram)
            for part in parts:
                gram += part.gram
        firsts, squares = (np.sum([getattr(part, name) for part in parts], axis=0) for name in ("first", "squares"))
        return cls(sum(part.n for part in parts), firsts, squares, gram)

    def variance(self) -> np.ndarray:
        """Return each column's, divided by n."""
        return np.maximum(self.squares / self.n - (self.first / self.n) ** 2, 0.0)


@dataclass(frozen=True, eq=False)
class Products:
    """Sums over rows of their distances x to a centre, by the columns t to learn.

    Parameters
    ----------
    total : ndarray of float64, shape (d, c)
        The sum of xt'.
    first : ndarray of float64, shape (c,)
        The sum of t.
    """

    total: np.ndarray
    first: np.ndarray

    @classmethod
    def of_all(cls, parts: Sequence[Products]) -> Products:
        """Return the sums over the rows of all parts."""
        return cls(np.sum([part.total for part in parts], axis=0), np.sum([part.first for part in parts], axis=0))

    def less(self, other: Products) -> Products:
        """Return the sums over the rows that the other does not hold."""
        return Products(self.total - other.total, self.first - other.first)


@dataclass(frozen=True, eq=False)
class PartScaling:
    """How a training part is standardised.

    Parameters
    ----------
    n : int
    mean, scale : ndarray of float64, shape (d,)
        As StandardScaler's `mean_` and `scale_`.
    constant : ndarray of bool, shape (d,)
        The columns that StandardScaler takes for constant: nothing is learned from them.
    lost : ndarray of int, shape (k,)
        Columns whose sums would lose their digits to the subtraction, and are taken over the training rows themselves.
    covariance : ndarray of float64, shape (d, d), or None
        Of the standardised rows, divided by n; None where there are no more rows than columns.
    """

    n: int
    mean: np.ndarray
    scale: np.ndarray
    constant: np.ndarray
    lost: np.ndarray
    covariance: np.ndarray | None

    def apply(self, rows: np.ndarray) -> np.ndarray:
        """Return rows as StandardScaler's transform gives them, in their own type."""
        Z = np.array(rows, order="C")
        Z -= self.mean
        Z /= self.scale
        return Z


class SplitParts:
    """The rows of some splits, all the same, in parts: each split's test part, and the rest.

    Of a single split the training part alone is summed.

    Parameters
    ----------
    X : ndarray, shape (n, d)
        float32 or float64.
    splits : sequence of (train, test)
        Positions into X: the same rows in every split, and no row in two of the test parts; see `in_parts`.
    arrays : Arrays
        Where the large products are made.
    """

    def __init__(self, X: np.ndarray, splits: Splits, arrays: Arrays) -> None:
        train, test = splits[0]
        every = train if len(splits) == 1 else np.concatenate([train, test])
        tests = [] if len(splits) == 1 else [test for _, test in splits]
        rest = np.setdiff1d(every, np.concatenate(tests)) if tests else train
        self.X = X
        self.arrays = arrays
        self.pieces = [*tests, rest]
        total = np.zeros(X.shape[1])
        for start in range(0, len(every), BLOCK):
            total += X[every[start : start + BLOCK]].sum(axis=0, dtype=np.float64)
        self.centre = total / len(every)
        self.grams = all(len(train) > X.shape[1] for train, _ in splits)

    def sums(self, rows: np.ndarray) -> Sums:
        """Return the sums over some rows."""
        d = self.X.shape[1]
        first, squares = np.zeros(d), np.zeros(d)
        gram: Any = self.arrays.array(np.zeros((d, d))) if self.grams else None
        for _, block in self._blocks(rows):
            first += block.sum(axis=0)
            squares += np.einsum("ij,ij->j", block, block)
            if gram is not None:
                there = self.arrays.array(block)
                gram += there.T @ there
        return Sums(len(rows), first, squares, None if gram is None else self.arrays.numpy(gram))

    def products(self, rows: np.ndarray, columns: TargetColumns) -> Products:
        """Return the sums of xt' and of t over some rows."""
        total: Any = self.arrays.array(np.zeros((self.X.shape[1], columns.count)))
        first = np.zeros(columns.count)
        for which, block in self._blocks(rows):
            T = columns.rows(which)
            total += self.arrays.array(block).T @ self.arrays.array(T)
            first += T.sum(axis=0)
        return Products(self.arrays.numpy(total), first)

    def standard(self, total: Sums, left: Sums, train: np.ndarray) -> PartScaling:
        """Return how the training rows are standardised, from the sums over them and over all rows."""
        every, shift = total.variance(), left.first / left.n
        mean, variance = self.centre + shift, left.variance()
        fixed = _constant(every, self.centre, total.n)
        lost = np.flatnonzero(~fixed & (variance < _LOST * every))
        own = self.X[np.ix_(train, lost)].astype(np.float64)
        mean[lost] = own.mean(axis=0)
        own -= mean[lost]
        variance[lost] = (own**2).mean(axis=0)
        constant = fixed | _constant(variance, mean, left.n)
        scale = np.where(constant, 1.0, np.sqrt(variance))
        covariance = None
        if left.gram is not None:
            covariance = left.gram / left.n
            covariance -= np.outer(shift, shift)
            if len(lost):
                across = np.zeros((len(mean), len(lost)))
                for place, (_, block) in enumerate(self._blocks(train)):
                    across += block.T @ own[place * BLOCK : (place + 1) * BLOCK]
                covariance[:, lost] = across / left.n
                covariance[lost] = covariance[:, lost].T
            covariance /= scale
            covariance /= scale[:, None]
            covariance[constant] = 0.0
            covariance[:, constant] = 0.0
        return PartScaling(left.n, mean, scale, constant, lost, covariance)

    def standard_products(
        self, standard: PartScaling, left: Products, columns: TargetColumns, train: np.ndarray
    ) -> np.ndarray:
        """Return the products of the standardised training rows with the columns less their means.

        Shape (d, columns).
        """
        H = left.total - np.outer(standard.mean - self.centre, left.first)
        lost = standard.lost
        if len(lost) and columns.count:
            H[lost] = 0.0
            for at in range(0, len(train), BLOCK):
                rows = train[at : at + BLOCK]
                H[lost] += (self.X[np.ix_(rows, lost)] - standard.mean[lost]).T @ columns.rows(rows)
        H /= standard.scale[:, None]
        H[standard.constant] = 0.0
        return H

    def _blocks(self, rows: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Give rows' positions, and their distances to the centre, a block at a time."""
        for start in range(0, len(rows), BLOCK):
            which = rows[start : start + BLOCK]
            yield which, self.X[which] - self.centre


def group_splits(splits: Splits) -> list[list[int]]:
    """Return the splits' positions in groups that `Parts` takes: the same rows, and no row tested twice in a group."""
    groups: dict[bytes, list[tuple[list[int], np.ndarray]]] = {}
    for place, (train, test) in enumerate(splits):
        rows, counts = np.unique(np.concatenate([train, test]), return_counts=True)
        if (counts > 1).any():  # a row that is drawn twice, or learned from and tested
            groups[b"%d" % place] = [([place], np.asarray(test))]
            continue
        alike = groups.setdefault(rows.astype(np.int64).tobytes(), [])
        for at, (places, tested) in enumerate(alike):
            if not np.isin(test, tested).any():
                alike[at] = [*places, place], np.concatenate([tested, test])
                break
        else:
            alike.append(([place], np.asarray(test)))
    return [places for alike in groups.values() for places, _ in alike]


def _constant(variance: np.ndarray, mean: np.ndarray, n: int) -> np.ndarray:
    """Say which columns StandardScaler takes for constant: those whose variance may be rounding alone.

    `sklearn.preprocessing._data._is_constant_feature`; Chan, Golub and LeVeque, 1983, Algorithms for computing the
    sample variance, The American Statistician 37: 242-247.
    """
    eps = np.finfo(np.float64).eps
    return variance <= n * eps * variance + (n * mean * eps) ** 2
