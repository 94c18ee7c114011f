"""Which images are duplicates: exact ones by digest, near ones by the cosine of their embeddings.

Near-duplicates are searched among different contents, in embeddings from which the mean is subtracted. Two contents
are near-duplicates where their cosine reaches `Similarity.threshold`. docs/decisions/0021 has the measurements behind
the constants. Functions take and return arrays; no image is read here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Protocol

import numpy as np

FLOOR = 0.9  # lowest threshold: no pair of 398 distinct photos comes near it, nearly all re-encoded ones pass it
NEARER = 5.0  # times as near (in 1 - cosine) as a typical image and its nearest neighbor; look-alikes are less near
FEWEST_DIMENSIONS = 32  # in fewer, unrelated rows have a high cosine too often
MOST_PAIRS = 50  # mean per image: with more, the embeddings do not separate duplicates from look-alikes
LOOSE = 0.2  # share of the images in chained clusters from which the clusters are not sets of duplicates
SMALL = 4  # a cluster of so many rows is never too large for a fold

_DIRECTIONS, _SAMPLE, _READ = 64, 512, 4096  # principal directions; rows in a sample; rows read at once
_TALL, _WIDE, _PAIRS = 512, 4096, 4096  # rows and columns of a block of bounds; pairs compared at once
_ROUNDING = 1e-5  # more than float32 loses on 1,000s of terms between -1 and 1


class RowSource(Protocol):
    """An array, or rows on disk that are read when they are indexed, such as `LazyRows`."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def __getitem__(self, rows: Any, /) -> Any: ...


@dataclass(frozen=True, eq=False)
class CrossDuplicates:
    """The test rows that are duplicates of training rows, each with its most similar training row.

    Attributes
    ----------
    test, train : ndarray of int64, shape (k,)
        Positions into the two parts; `test` ascending.
    cosine : ndarray, shape (k,)
        1 for exact duplicates.
    exact : ndarray of bool, shape (k,)
    """

    test: np.ndarray
    train: np.ndarray
    cosine: np.ndarray
    exact: np.ndarray

    def __len__(self) -> int:
        return len(self.test)


@dataclass(frozen=True, eq=False)
class DuplicateGroups:
    """Which of n rows are duplicates of one another.

    Attributes
    ----------
    content : ndarray of int64, shape (n,)
        One code per digest: rows that share it are exact duplicates.
    pairs : ndarray of int64, shape (k, 2)
        Codes of contents that are near-duplicates.
    cosine : ndarray, shape (k,)
    threshold : float or None
        The cosine that a pair has to reach; None where near-duplicates were not searched.
    too_alike : bool
        Whether there were too many pairs to trust any of them; `pairs` is then empty.
    """

    content: np.ndarray
    pairs: np.ndarray = field(default_factory=lambda: np.zeros((0, 2), np.int64))
    cosine: np.ndarray = field(default_factory=lambda: np.zeros(0))
    threshold: float | None = None
    too_alike: bool = False

    @cached_property
    def clusters(self) -> np.ndarray:
        """The cluster of each row, int64, shape (n,): rows linked by a chain of duplicates share one."""
        return self._component[self.content]

    @cached_property
    def _component(self) -> np.ndarray:
        """The cluster of each content, shape (contents,)."""
        size = int(self.content.max(initial=-1)) + 1
        return components(self.pairs[:, 0], self.pairs[:, 1], size)

    def exact_only(self) -> DuplicateGroups:
        """Return the exact duplicates alone, without the near-duplicates."""
        return replace(self, pairs=self.pairs[:0], cosine=self.cosine[:0])

    def suits(self, folds: int) -> bool:
        """Return whether the near-duplicates can be kept together without unbalancing the folds.

        They cannot where clusters chain: a cluster is larger than half a fold, or a fifth of all rows are in clusters
        of which fewer than half the pairs are near. In sets of true duplicates nearly all pairs are near.
        """
        if self.too_alike:
            return False
        if not len(self.pairs):
            return True
        rows = np.bincount(self.clusters)
        near = np.bincount(self._component[self.pairs[:, 0]], minlength=len(rows))
        contents = np.bincount(self._component)
        if rows[contents > 1].max() > max(len(self.content) / (2 * folds), SMALL):
            return False
        loose = near < contents * (contents - 1) / 4
        return bool(rows[loose].sum() <= LOOSE * len(self.content))

    def twins(self, train: np.ndarray, test: np.ndarray) -> CrossDuplicates:
        """Return which of the rows `test` are exact or near-duplicates of a row of `train`.

        Rows that are linked only through a third one do not count: each pair found is similar itself.
        """
        size = int(self.content.max(initial=-1)) + 1
        position = np.full(size, -1)  # the first training row of each content
        position[self.content[train][::-1]] = np.arange(len(train))[::-1]
        best, cosine = position.copy(), np.where(position >= 0, 1.0, -np.inf)
        exact = position >= 0
        order = np.argsort(self.cosine, kind="stable")  # the most similar is written last, and stays
        for side in (0, 1):
            content, match = self.pairs[order, side], self.pairs[order, 1 - side]
            better = (position[match] >= 0) & ~exact[content] & (self.cosine[order] > cosine[content])
            best[content[better]] = position[match[better]]
            cosine[content[better]] = self.cosine[order][better]
        at = self.content[test]
        found = np.flatnonzero(best[at] >= 0)
        return CrossDuplicates(found, best[at[found]], cosine[at[found]], exact[at[found]])


@dataclass(frozen=True, eq=False)
class Similarity:
    """The similarity of two rows, relative to the rows of one dataset.

    Attributes
    ----------
    mean : ndarray, shape (d,)
        Subtracted from every row: what all images of a dataset share does not distinguish two of them.
    directions : ndarray of float32, shape (d, k)
        Orthonormal; the leading principal ones of a sample.
    threshold : float
        The cosine from which two rows are near-duplicates: `NEARER` times as near as a typical row (the median of a
        sample) and its nearest row below `FLOOR`, and at least `FLOOR`.
    """

    mean: np.ndarray
    directions: np.ndarray
    threshold: float

    @classmethod
    def of(cls, X: RowSource, rows: np.ndarray) -> Similarity:
        """Return the similarity measure fitted to these rows of X."""
        total = np.zeros(X.shape[1])
        for block in row_blocks(len(rows), _READ):
            total += np.asarray(X[rows[block]], np.float64).sum(axis=0)
        mean = total / len(rows)
        chosen = np.unique(np.linspace(0, len(rows) - 1, min(len(rows), _SAMPLE)).astype(np.int64))
        sample = _unit(X[rows[chosen]], mean)
        _, _, axes = np.linalg.svd(sample.astype(np.float64), full_matrices=False)
        nearest = np.full(len(chosen), -1.0)
        for block in row_blocks(len(rows), _READ):
            cosine = sample @ _unit(X[rows[block]], mean).T
            inside = (chosen >= block.start) & (chosen < block.stop)
            cosine[np.flatnonzero(inside), chosen[inside] - block.start] = -1.0
            cosine[cosine >= FLOOR] = -1.0  # most likely duplicates, not typical neighbors
            np.maximum(nearest, cosine.max(axis=1), out=nearest)
        threshold = max(FLOOR, 1 - (1 - float(np.median(nearest))) / NEARER)
        return cls(mean, np.ascontiguousarray(axes[:_DIRECTIONS].T, np.float32), threshold)

    def unit(self, X: RowSource, rows: np.ndarray) -> np.ndarray:
        """Return the rows less the mean, at length 1, float32."""
        return _unit(X[rows], self.mean)

    def sketch(self, X: RowSource, rows: np.ndarray) -> np.ndarray:
        """Return ``(len(rows), k + 1)``: the rows along the directions, and the length of what is left of them.

        By Cauchy and Schwarz, the product of two sketches is at least the cosine of the rows.
        """
        k = self.directions.shape[1]
        found = np.empty((len(rows), k + 1), np.float32)
        for block in row_blocks(len(rows), _READ):
            unit = self.unit(X, rows[block])
            found[block, :k] = unit @ self.directions
            rest = (unit**2).sum(axis=1) - (found[block, :k] ** 2).sum(axis=1)
            found[block, k] = np.sqrt(np.maximum(rest, 0) + _ROUNDING / 10)
        return found


def find_duplicates(X: RowSource, digests: np.ndarray) -> DuplicateGroups:
    """Return which rows are duplicates of one another: exact ones by digest, near ones by cosine.

    Every pair that reaches the threshold is found: a bound on the cosine, from 65 numbers per row, leaves few pairs to
    be computed in full. Memory holds these numbers and a few blocks of rows.

    Parameters
    ----------
    X : array or LazyRows, shape (n, d)
    digests : ndarray of uint8, shape (n, b)
        Digests of the images' content.
    """
    first, content = _contents(digests)
    return _with_near(DuplicateGroups(content), X, first, None, None)


def find_duplicates_between(
    X: RowSource, digests: np.ndarray, other: RowSource, other_digests: np.ndarray
) -> DuplicateGroups:
    """Return which rows of `other` are duplicates of rows of X, over n + m rows with those of X first.

    The threshold for near-duplicates is fitted to X, and only pairs of one row of each are searched.
    """
    n = len(digests)
    first, content = _contents(np.concatenate([digests, other_digests]))
    in_x = first < n  # a content that both have is an exact duplicate, so it counts as a row of X alone
    return _with_near(DuplicateGroups(content), X, np.where(in_x, first, first - n), other, in_x)


def components(start: np.ndarray, end: np.ndarray, size: int) -> np.ndarray:
    """Return the connected component of each of `size` nodes, given the edges' ends: int64 codes from 0."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    edges = coo_array((np.ones(len(start), np.int8), (start, end)), shape=(size, size))
    return connected_components(edges, directed=False)[1].astype(np.int64)


def _with_near(
    exact: DuplicateGroups, X: RowSource, first: np.ndarray, other: RowSource | None, in_x: np.ndarray | None
) -> DuplicateGroups:
    """Return the exact duplicates with the near ones added: among all contents, or between those of X and the others.

    `first` is the row of each content: in X where `in_x` is true or None, otherwise in `other`.
    """
    left = np.arange(len(first)) if in_x is None else np.flatnonzero(in_x)
    right = left if in_x is None else np.flatnonzero(~in_x)
    if X.shape[1] < FEWEST_DIMENSIONS or len(left) < 2 or not len(right):
        return exact
    similarity = Similarity.of(X, first[left])
    Y = X if other is None else other
    pairs, cosines, count = [], [], 0
    for rows, columns in _candidates(similarity, X, first[left], Y, first[right], within=in_x is None):
        for block in row_blocks(len(rows), _PAIRS):
            a, b = left[rows[block]], right[columns[block]]
            cosine = _cosines(similarity, X, first[a], Y, first[b])
            near = cosine >= similarity.threshold
            pairs.append(np.column_stack([a[near], b[near]]))
            cosines.append(cosine[near])
            count += int(near.sum())
            if count > MOST_PAIRS * max(len(left), len(right)):
                return replace(exact, threshold=similarity.threshold, too_alike=True)
    return replace(
        exact,
        pairs=np.concatenate([exact.pairs, *pairs]),
        cosine=np.concatenate([exact.cosine, *cosines]),
        threshold=similarity.threshold,
    )


def _candidates(
    similarity: Similarity, X: RowSource, left: np.ndarray, Y: RowSource, right: np.ndarray, *, within: bool
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield positions into `left` and `right` of all pairs that may reach the threshold, each pair once."""
    tall = similarity.sketch(X, left)
    wide = tall if within else similarity.sketch(Y, right)
    least = np.float32(similarity.threshold - _ROUNDING)
    for rows in row_blocks(len(left), _TALL):
        for columns in row_blocks(len(right), _WIDE):
            if within and columns.stop <= rows.start + 1:
                continue  # below the diagonal
            bound = tall[rows] @ wide[columns].T
            hits = np.flatnonzero(bound.max(axis=1) >= least)
            if not len(hits):
                continue
            if len(hits) * 4 > len(bound):  # the bound excludes few pairs here: computing the whole block is cheaper
                at, to = np.nonzero(bound >= least)
                if len(at) > bound.size // 64:
                    bound = similarity.unit(X, left[rows]) @ similarity.unit(Y, right[columns]).T
                    at, to = np.nonzero(bound >= least)
            else:
                at, to = np.nonzero(bound[hits] >= least)
                at = hits[at]
            at, to = at + rows.start, to + columns.start
            if within:
                above = at < to
                at, to = at[above], to[above]
            if len(at):
                yield at, to


def _cosines(similarity: Similarity, X: RowSource, left: np.ndarray, Y: RowSource, right: np.ndarray) -> np.ndarray:
    """Return the cosine of each pair of rows, in float64."""
    a, b = np.asarray(X[left], np.float64) - similarity.mean, np.asarray(Y[right], np.float64) - similarity.mean
    lengths = np.sqrt(np.einsum("ij,ij->i", a, a) * np.einsum("ij,ij->i", b, b))
    return np.minimum(np.einsum("ij,ij->i", a, b) / np.maximum(lengths, np.finfo(np.float64).tiny), 1.0)


def _unit(values: Any, mean: np.ndarray) -> np.ndarray:
    centered = np.asarray(values, np.float32) - mean.astype(np.float32)
    lengths = np.sqrt(np.einsum("ij,ij->i", centered, centered))
    # A row equal to the mean becomes zero, so its cosine with every other row is 0.
    centered /= np.maximum(lengths, np.finfo(np.float32).tiny)[:, None]
    return centered


def _contents(digests: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the first row of each content, and the content of each row; contents in the order of their first rows."""
    whole = np.ascontiguousarray(digests)
    keys = whole.view(f"V{whole.shape[1]}").reshape(len(whole))
    _, first, content = np.unique(keys, return_index=True, return_inverse=True)
    order = np.argsort(first)
    position = np.empty(len(order), np.int64)
    position[order] = np.arange(len(order))
    return first[order], position[content]


def row_blocks(n: int, size: int) -> Iterator[slice]:
    """Yield slices that cover n rows, `size` at a time."""
    return (slice(start, min(start + size, n)) for start in range(0, n, size))
