"""Copies among images: exact ones by digest, near ones by the cosine of their embeddings. Arrays in, arrays out.

Near-copies are looked for among different contents, in embeddings less their mean. A pair is one where its cosine
reaches `Likeness.threshold`; docs/decisions/0021 has the measurements behind the numbers here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Protocol

import numpy as np

FLOOR = 0.9  # of the threshold: no pair of 398 distinct photos comes near it, nearly all re-encoded ones pass it
NEARER = 5.0  # times as near (in 1 - cosine) as the typical image and its nearest neighbour: what look-alikes are not
FEWEST_DIMENSIONS = 32  # in fewer, unrelated rows point the same way too often
MOST_PAIRS = 50  # an image, on average: beyond that the embeddings do not tell copies from look-alikes
LOOSE = 0.2  # of the images in clusters that chain: as many, and the clusters are no sets of copies
SMALL = 4  # rows that may always stay together, however small a fold is

_DIRECTIONS, _SAMPLE, _READ = 64, 512, 4096
_TALL, _WIDE, _PAIRS = 512, 4096, 4096
_ROUNDING = 1e-5  # more than float32 loses on 1,000s of terms between -1 and 1


class RowSource(Protocol):
    """An array, or rows on disk that are read when they are asked for: `LazyRows`."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def __getitem__(self, rows: Any, /) -> Any: ...


@dataclass(frozen=True, eq=False)
class CrossDuplicates:
    """The rows of one part that are copies of rows of another, each with the copy that is most like it.

    Attributes
    ----------
    asked, learned : ndarray of int64, shape (k,)
        Positions into the two parts; `asked` ascending.
    cosine : ndarray, shape (k,)
        1 for exact copies.
    exact : ndarray of bool, shape (k,)
    """

    asked: np.ndarray
    learned: np.ndarray
    cosine: np.ndarray
    exact: np.ndarray

    def __len__(self) -> int:
        return len(self.asked)


@dataclass(frozen=True, eq=False)
class DuplicateGroups:
    """Which of n rows are copies of one another.

    Attributes
    ----------
    content : ndarray of int64, shape (n,)
        One code a digest: rows that share it are exact copies.
    pairs : ndarray of int64, shape (k, 2)
        Codes of contents that are near-copies.
    cosine : ndarray, shape (k,)
    threshold : float or None
        The cosine that a pair has to reach; None where near-copies were not looked for.
    too_alike : bool
        Whether there were so many pairs that near-copies mean nothing here; there are no `pairs` then.
    """

    content: np.ndarray
    pairs: np.ndarray = field(default_factory=lambda: np.zeros((0, 2), np.int64))
    cosine: np.ndarray = field(default_factory=lambda: np.zeros(0))
    threshold: float | None = None
    too_alike: bool = False

    @cached_property
    def clusters(self) -> np.ndarray:
        """``(n,)`` int64: one code a set of rows that are copies, directly or through others."""
        return self._component[self.content]

    @cached_property
    def _component(self) -> np.ndarray:
        """``(contents,)``: the cluster of each content."""
        size = int(self.content.max(initial=-1)) + 1
        return components(self.pairs[:, 0], self.pairs[:, 1], size)

    def exact_only(self) -> DuplicateGroups:
        """Return the same rows with no near-copies among them."""
        return replace(self, pairs=self.pairs[:0], cosine=self.cosine[:0])

    def suits(self, folds: int) -> bool:
        """Say whether the near-copies can be kept together without spoiling the folds.

        Not where they chain: a cluster larger than half a fold, or a fifth of all rows in clusters of which fewer than
        half the pairs are near. Sets of true copies are no chains, however many there are.
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

    def twins(self, learned: np.ndarray, asked: np.ndarray) -> CrossDuplicates:
        """Return which of the rows `asked` are copies of one of the rows `learned`, exactly or nearly.

        Copies of copies do not count: this is about what two images have in common.
        """
        size = int(self.content.max(initial=-1)) + 1
        position = np.full(size, -1)  # of each content: the first learned row that has it
        position[self.content[learned][::-1]] = np.arange(len(learned))[::-1]
        best, cosine = position.copy(), np.where(position >= 0, 1.0, -np.inf)
        exact = position >= 0
        order = np.argsort(self.cosine, kind="stable")  # the most alike is written last, and stays
        for one, other in ((0, 1), (1, 0)):
            mine, theirs = self.pairs[order, one], self.pairs[order, other]
            better = (position[theirs] >= 0) & ~exact[mine] & (self.cosine[order] > cosine[mine])
            best[mine[better]] = position[theirs[better]]
            cosine[mine[better]] = self.cosine[order][better]
        at = self.content[asked]
        found = np.flatnonzero(best[at] >= 0)
        return CrossDuplicates(found, best[at[found]], cosine[at[found]], exact[at[found]])


@dataclass(frozen=True, eq=False)
class Similarity:
    """How alike two rows are, as one collection sees it.

    Attributes
    ----------
    mean : ndarray, shape (d,)
        Taken off every row: what all images of a collection share says nothing about two of them.
    directions : ndarray of float32, shape (d, k)
        Orthonormal; the leading principal ones of a sample.
    threshold : float
        The cosine of near-copies: they are `NEARER` times as near as the typical row (the median of a sample) and the
        nearest other row below `FLOOR`, and never below `FLOOR` themselves.
    """

    mean: np.ndarray
    directions: np.ndarray
    threshold: float

    @classmethod
    def of(cls, X: RowSource, rows: np.ndarray) -> Similarity:
        """Return the measure that fits these rows of X."""
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
            cosine[cosine >= FLOOR] = -1.0  # copies, most likely: they are not what the typical neighbour is like
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
    """Return which rows are copies of one another: exact ones by digest, near ones by cosine.

    Every pair that reaches the threshold is found: a bound on the cosine, from 65 numbers a row, leaves few pairs to
    be computed in full. Memory holds these numbers and a few blocks of rows.

    Parameters
    ----------
    X : array or LazyRows, shape (n, d)
    digests : ndarray of uint8, shape (n, b)
        Of the images' content.
    """
    first, content = _contents(digests)
    return _with_near(DuplicateGroups(content), X, first, None, None)


def find_duplicates_between(
    X: RowSource, digests: np.ndarray, other: RowSource, other_digests: np.ndarray
) -> DuplicateGroups:
    """Return which rows of `other` are copies of rows of X, as the copies among both: X first, n + m rows.

    Near-copies are those that X holds to be such, and only pairs of one row of each are looked for.
    """
    n = len(digests)
    first, content = _contents(np.concatenate([digests, other_digests]))
    mine = first < n  # a content that both have is exact, and needs no second look
    return _with_near(DuplicateGroups(content), X, np.where(mine, first, first - n), other, mine)


def components(one: np.ndarray, other: np.ndarray, size: int) -> np.ndarray:
    """Return the connected component of each of `size` nodes, given the edges' ends: int64 codes from 0."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    edges = coo_array((np.ones(len(one), np.int8), (one, other)), shape=(size, size))
    return connected_components(edges, directed=False)[1].astype(np.int64)


def _with_near(
    copies: DuplicateGroups, X: RowSource, first: np.ndarray, other: RowSource | None, mine: np.ndarray | None
) -> DuplicateGroups:
    """Return the copies with the near ones: among all contents, or of those that are `mine` with those that are not.

    `first` is the row of each content, in X or, where it is not mine, in `other`.
    """
    left = np.arange(len(first)) if mine is None else np.flatnonzero(mine)
    right = left if mine is None else np.flatnonzero(~mine)
    if X.shape[1] < FEWEST_DIMENSIONS or len(left) < 2 or not len(right):
        return copies
    likeness = Similarity.of(X, first[left])
    Y = X if other is None else other
    pairs, cosines, count = [], [], 0
    for one, two in _candidates(likeness, X, first[left], Y, first[right], within=mine is None):
        for block in row_blocks(len(one), _PAIRS):
            a, b = left[one[block]], right[two[block]]
            cosine = _cosines(likeness, X, first[a], Y, first[b])
            near = cosine >= likeness.threshold
            pairs.append(np.column_stack([a[near], b[near]]))
            cosines.append(cosine[near])
            count += int(near.sum())
            if count > MOST_PAIRS * max(len(left), len(right)):
                return replace(copies, threshold=likeness.threshold, too_alike=True)
    return replace(
        copies,
        pairs=np.concatenate([copies.pairs, *pairs]),
        cosine=np.concatenate([copies.cosine, *cosines]),
        threshold=likeness.threshold,
    )


def _candidates(
    likeness: Similarity, X: RowSource, left: np.ndarray, Y: RowSource, right: np.ndarray, *, within: bool
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Give positions into `left` and `right` of all pairs that may reach the threshold, each pair once."""
    tall = likeness.sketch(X, left)
    wide = tall if within else likeness.sketch(Y, right)
    least = np.float32(likeness.threshold - _ROUNDING)
    for rows in row_blocks(len(left), _TALL):
        for columns in row_blocks(len(right), _WIDE):
            if within and columns.stop <= rows.start + 1:
                continue  # below the diagonal
            bound = tall[rows] @ wide[columns].T
            one = np.flatnonzero(bound.max(axis=1) >= least)
            if not len(one):
                continue
            if len(one) * 4 > len(bound):  # the bound sieves little here: all cosines cost less than so many pairs
                at, to = np.nonzero(bound >= least)
                if len(at) > bound.size // 64:
                    bound = likeness.unit(X, left[rows]) @ likeness.unit(Y, right[columns]).T
                    at, to = np.nonzero(bound >= least)
            else:
                at, to = np.nonzero(bound[one] >= least)
                at = one[at]
            at, to = at + rows.start, to + columns.start
            if within:
                above = at < to
                at, to = at[above], to[above]
            if len(at):
                yield at, to


def _cosines(likeness: Similarity, X: RowSource, left: np.ndarray, Y: RowSource, right: np.ndarray) -> np.ndarray:
    """Return the cosine of each pair of rows, in float64."""
    a, b = np.asarray(X[left], np.float64) - likeness.mean, np.asarray(Y[right], np.float64) - likeness.mean
    lengths = np.sqrt(np.einsum("ij,ij->i", a, a) * np.einsum("ij,ij->i", b, b))
    return np.minimum(np.einsum("ij,ij->i", a, b) / np.maximum(lengths, np.finfo(np.float64).tiny), 1.0)


def _unit(values: Any, mean: np.ndarray) -> np.ndarray:
    centred = np.asarray(values, np.float32) - mean.astype(np.float32)
    lengths = np.sqrt(np.einsum("ij,ij->i", centred, centred))
    # A row that is the mean itself points nowhere: it is like no other.
    centred /= np.maximum(lengths, np.finfo(np.float32).tiny)[:, None]
    return centred


def _contents(digests: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the first row of each content, and the content of each row; contents in the order of their first rows."""
    whole = np.ascontiguousarray(digests)
    keys = whole.view(f"V{whole.shape[1]}").reshape(len(whole))
    _, first, content = np.unique(keys, return_index=True, return_inverse=True)
    order = np.argsort(first)
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order))
    return first[order], place[content]


def row_blocks(n: int, size: int) -> Iterator[slice]:
    """Give n rows, so many at a time."""
    return (slice(start, min(start + size, n)) for start in range(0, n, size))
