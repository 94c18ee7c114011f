"""Sums over the rows of a fold's training part, as the sums of all rows less those of the test part."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.search.solvers.backend import Arrays

__all__ = ["BLOCK", "Spectrum", "spectrum"]


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
        Codes 0..labels-1; or numbers; or an indicator of c classes. Of every row of X; only requested rows are read.
    labels : sequence of int
        How many classes each has; 0 for numbers.
    dtype : dtype
        The features' type, in which scikit-learn takes numbers.
    rows : ndarray of int
        Rows that will be requested: the numbers' mean over them is taken off, so that sums keep their digits.
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
        The columns that StandardScaler takes for constant: they are not used in training.
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
        Positions into X: the same rows in every split, and no row in two of the test parts; see `group_splits`.
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
                rows_on_device = self.arrays.array(block)
                gram += rows_on_device.T @ rows_on_device
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
        if (counts > 1).any():  # a row that is drawn twice, or in both the training and the test part
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


# Directions with less of the variance than this are rounding; of n rows there are at most n - 1 that are not.
_ROUNDING = 1e-12


@dataclass(frozen=True, eq=False)
class Spectrum:
    """Standardised training rows by the eigenvectors of their covariance.

    Parameters
    ----------
    n, d : int
        Rows and columns of the training part.
    values : ndarray of float64, shape (r,)
        Eigenvalues of the covariance (divided by n), those that are not rounding; ascending.
    vectors : ndarray of float64, shape (d, r)
    turned : array, shape (m, r)
        The standardised test rows in those directions, in the type of the features, where `arrays` lie.
    dtype : dtype
        The type of the features.
    arrays : Arrays
    """

    n: int
    d: int
    values: np.ndarray
    vectors: np.ndarray
    turned: Any
    dtype: np.dtype[Any]
    arrays: Arrays

    def answers(self, weights: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Return the test rows times each of the weights of shape (r, k), in one multiplication.

        In the features' type, as scikit-learn does.
        """
        together = self.turned @ self.arrays.array(np.concatenate(weights, axis=1).astype(self.dtype))
        return np.split(self.arrays.numpy(together), len(weights), axis=1)


def spectrum(X: np.ndarray, train: np.ndarray, test: np.ndarray, standard: PartScaling, arrays: Arrays) -> Spectrum:
    """Return the spectrum of the training rows, from the Gram matrix of their smaller side, in float64.

    float32 would do for most of it, but not for weak regularisation where rows are few: the smallest eigenvalues are
    then below the rounding of the largest.
    """
    if standard.covariance is None:
        Z = (X[train] - standard.mean) / standard.scale
        Z[:, standard.constant] = 0.0
        Z = arrays.array(Z)
        values, left = _without_rounding(*arrays.eigenpairs(Z @ Z.T / standard.n), arrays)
        vectors = arrays.numpy(Z.T @ left) / np.sqrt(standard.n * values)
    else:
        values, found = _without_rounding(*arrays.eigenpairs(arrays.array(standard.covariance)), arrays)
        vectors = arrays.numpy(found)
        vectors[standard.constant] = 0.0  # a test row may leave what is constant in training
    turned = arrays.array(standard.apply(X[test])) @ arrays.array(vectors.astype(X.dtype))
    return Spectrum(standard.n, X.shape[1], values, vectors, turned, X.dtype, arrays)


def _without_rounding(values: Any, vectors: Any, arrays: Arrays) -> tuple[np.ndarray, Any]:
    """Return the real directions, the smallest first."""
    found = arrays.numpy(values)
    first = int((found <= _ROUNDING * max(found[-1], 0.0)).sum())
    return found[first:], vectors[:, first:]


# A feature that varies in a training part less than this part of what it does over all rows has lost too many digits
# in float32 once it is centred and scaled over all of them.
_THIN = 5e-5


@dataclass(frozen=True, eq=False)
class Scaling:
    """Rows standardised over all of them, and each training part's own standardisation in their terms.

    Parameters
    ----------
    A : ndarray of float32, shape (n, d)
        (X - centre) / spread.
    centre, spread : ndarray of float64, shape (d,)
    means : ndarray of float64, shape (t, d)
        Of A over each training part.
    scales : ndarray of float64, shape (t, d)
        One over the deviation of A there; 0 for a feature that is constant by StandardScaler's rule.
    covered : ndarray of bool, shape (t,)
        False where a feature hardly varies there against what it does elsewhere.
    """

    A: np.ndarray
    centre: np.ndarray
    spread: np.ndarray
    means: np.ndarray
    scales: np.ndarray
    covered: np.ndarray


def scaling(X: np.ndarray, parts: Sequence[np.ndarray]) -> Scaling:
    """Return the scaling of rows for training parts (positions into X), summed in float64 about the common mean."""
    n, d = X.shape
    centre, spread = np.zeros(d), np.zeros(d)
    for start in range(0, n, BLOCK):
        centre += X[start : start + BLOCK].sum(axis=0, dtype=np.float64)
    centre /= n
    member = np.zeros((len(parts), n))
    for part, rows in enumerate(parts):
        member[part, rows] = 1 / len(rows)
    means, squares = np.zeros((len(parts), d)), np.zeros((len(parts), d))
    for start in range(0, n, BLOCK):
        block = X[start : start + BLOCK] - centre
        means += member[:, start : start + BLOCK] @ block
        block *= block
        spread += block.sum(axis=0)
        squares += member[:, start : start + BLOCK] @ block
    spread = np.sqrt(spread / n)
    spread[spread == 0] = 1
    deviations = np.sqrt(np.maximum(squares - means**2, 0))
    thin = deviations <= _THIN * spread
    scales = np.divide(spread, deviations, out=np.zeros_like(deviations), where=~thin)
    covered = np.array(
        [_constant_columns(X, rows, few).all() for rows, few in zip(parts, thin, strict=True)], dtype=bool
    )
    A = np.empty((n, d), np.float32)
    for start in range(0, n, BLOCK):
        A[start : start + BLOCK] = (X[start : start + BLOCK] - centre) / spread
    return Scaling(A, centre, spread, means / spread, scales, covered)


def _constant_columns(X: np.ndarray, rows: np.ndarray, few: np.ndarray) -> np.ndarray:
    """Say which of some features StandardScaler takes for constant: it scales those by 1 and leaves their variance."""
    from sklearn.preprocessing import StandardScaler

    if not few.any():
        return np.ones(0, dtype=bool)
    scaler = StandardScaler().fit(X[np.ix_(rows, np.flatnonzero(few))])
    return (scaler.scale_ == 1) & (scaler.var_ < 0.5)
