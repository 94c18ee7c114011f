"""Nearest neighbours with every number and weight from one distance pass, in scikit-learn's own arithmetic."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.search.predictions import Predictions, over_all_classes
from pipeline.search.solvers.backend import Arrays

_TIED = 1e-12  # relative: two sums of the same weights in another order
_EQUAL = 1e-9  # relative: two distances that another order of multiplication could turn round
_ROWS = 2048  # test rows whose distances to all training rows a device holds at a time


@dataclass(frozen=True, eq=False)
class NearestRows:
    """The nearest training rows of each test row.

    Parameters
    ----------
    distances, places : ndarray, shape (m, k)
        The nearest k, for the largest requested k.
    of : dict
        For each k: (rows, distances, places), the rows whose nearest k are not the first k of those above, and theirs.
    """

    distances: np.ndarray
    places: np.ndarray
    of: dict[int, tuple[np.ndarray, np.ndarray, np.ndarray]]

    def nearest(self, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the distances and places of the nearest k, both of shape (m, k)."""
        rows, near, who = self.of[k]
        distances, places = self.distances[:, :k], self.places[:, :k]
        if len(rows):
            distances, places = distances.copy(), places.copy()
            distances[rows], places[rows] = near, who
        return distances, places


def standardised(X: np.ndarray, train: np.ndarray, test: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return both parts as StandardScaler gives them, fitted on the first: to the bit, for equal distances."""
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler()
    return scaler.fit_transform(X[train]), scaler.transform(X[test])


def neighbours(Z: np.ndarray, test: np.ndarray, ks: Sequence[int], arrays: Arrays) -> NearestRows:
    """Return the neighbours for each k.

    The nearest k are the first of the nearest max(ks), except where the k-th and the next are equally far:
    scikit-learn searches those rows again for that k.
    """
    from sklearn.neighbors import NearestNeighbors

    most = max(ks)
    found = NearestNeighbors(n_neighbors=most, algorithm="brute").fit(Z)
    distances, places = found.kneighbors(test) if arrays.xp is np else _on_device(found, Z, test, most, arrays)
    of = {}
    for k in set(ks):
        tied = np.flatnonzero(distances[:, k - 1] == distances[:, k]) if k < most else np.empty(0, np.intp)
        near, who = distances[tied, :k], places[tied, :k]
        if len(tied):
            near, who = found.kneighbors(test[tied], n_neighbors=k)
        of[k] = tied, near, who
    return NearestRows(distances, places, of)


def _on_device(found: Any, Z: np.ndarray, test: np.ndarray, k: int, arrays: Arrays) -> tuple[np.ndarray, np.ndarray]:
    """Return the distances and places of the nearest k, multiplied in float64 on a device.

    Where two of them, or the last and the next, are too close to tell them apart, scikit-learn decides: its order
    among equals is the order of its own rounding.
    """
    xp = arrays.xp
    rows = arrays.array(Z.astype(np.float64))
    squares = (rows * rows).sum(1)
    all_near, all_who = np.empty((len(test), k)), np.empty((len(test), k), np.intp)
    more = min(k + 1, len(Z))
    for start in range(0, len(test), _ROWS):
        queries = arrays.array(test[start : start + _ROWS].astype(np.float64))
        apart = squares[None] - 2 * (queries @ rows.T) + (queries * queries).sum(1)[:, None]
        near, who = xp.topk(apart, more, 1, False)
        here = slice(start, start + len(queries))
        near, who = arrays.numpy(near), arrays.numpy(who).astype(np.intp)
        size = arrays.numpy(squares).max() + arrays.numpy((queries * queries).sum(1))
        unsure = (np.diff(near, axis=1) <= _EQUAL * size[:, None]).any(axis=1) | (near[:, 0] <= _EQUAL * size)
        all_near[here], all_who[here] = np.sqrt(np.maximum(near[:, :k], 0.0)), who[:, :k]
        repeated = start + np.flatnonzero(unsure)
        if len(repeated):
            all_near[repeated], all_who[repeated] = found.kneighbors(test[repeated], n_neighbors=k)
    return all_near, all_who


def neighbour_numbers(
    near: NearestRows, y: np.ndarray, combinations: Sequence[tuple[int, str]]
) -> Iterator[Predictions]:
    """Give what KNeighborsRegressor says of the test rows, a (k, weights) at a time."""
    for k, weighting in combinations:
        distances, places = near.nearest(k)
        if weighting == "uniform":
            yield Predictions(np.asarray(np.mean(y[places], axis=1), dtype=np.float64))
        else:
            W = _weights(distances)
            yield Predictions((y[places] * W).sum(axis=1) / W.sum(axis=1))


def neighbour_classes(
    near: NearestRows,
    y: np.ndarray,
    combinations: Sequence[tuple[int, str]],
    labels: int,
    *,
    labels_only: bool = False,
) -> Iterator[Predictions]:
    """Give what KNeighborsClassifier says of the test rows, a (k, weights) at a time; y are codes below `labels`."""
    seen = np.unique(y).astype(np.int64)
    for codes, votes in _elections(near, np.searchsorted(seen, y), len(seen), combinations):
        if labels_only:
            yield Predictions(seen[codes])
            continue
        P = votes / votes.sum(axis=1, keepdims=True)
        yield Predictions(seen[codes], probabilities=over_all_classes(P, seen, labels))


def neighbour_tags(near: NearestRows, y: np.ndarray, combinations: Sequence[tuple[int, str]]) -> Iterator[Predictions]:
    """Give KNeighborsClassifier's predictions of tags for the test rows: one vote per tag."""
    elections = zip(*(_elections(near, tag.astype(np.intp), 2, combinations) for tag in y.T), strict=True)
    for tags in elections:
        codes = np.column_stack([codes for codes, _ in tags]).astype(np.int8)
        yield Predictions(codes, probabilities=np.column_stack([votes[:, 1] / votes.sum(axis=1) for _, votes in tags]))


def _elections(
    near: NearestRows, codes: np.ndarray, labels: int, combinations: Sequence[tuple[int, str]]
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Give the class that each test row's neighbours vote for, and the votes of shape (m, labels).

    The votes of more neighbours go on from those of fewer, neighbour by neighbour as scikit-learn adds them.
    """
    voted = codes[near.places]
    for_each: dict[tuple[int, str], np.ndarray] = {}
    for weighting in {weighting for _, weighting in combinations}:
        W = _weights(near.distances) if weighting == "distance" else np.ones(near.distances.shape)
        votes, before = np.zeros((len(voted), labels)), 0
        for k in sorted({k for k, name in combinations if name == weighting}):
            votes = _counted(voted[:, before:k], W[:, before:k], labels, votes)
            rows, distances, places = near.of[k]
            corrected = votes
            if len(rows):
                own = _weights(distances) if weighting == "distance" else np.ones(distances.shape)
                corrected = votes.copy()
                corrected[rows] = _counted(codes[places], own, labels, np.zeros((len(rows), labels)))
            for_each[k, weighting], before = corrected, k
    for k, weighting in combinations:
        votes = for_each[k, weighting]
        choices = votes.argmax(axis=1)
        if weighting == "distance" and labels > 1:
            choices = _as_scikit_learn_sums(near, codes, k, votes, choices)
        yield choices, votes


def _counted(voted: np.ndarray, W: np.ndarray, labels: int, before: np.ndarray) -> np.ndarray:
    """Return the votes before and those of some more neighbours, added in the neighbours' order."""
    votes, every = before.copy(), np.arange(len(voted))
    flat, at = votes.reshape(-1), every * labels
    for column in range(voted.shape[1]):
        flat[at + voted[:, column]] += W[:, column]
    return votes


def _as_scikit_learn_sums(
    near: NearestRows, codes: np.ndarray, k: int, votes: np.ndarray, choices: np.ndarray
) -> np.ndarray:
    """Return the choices; where another order of summing could decide, as scikit-learn sums: a class at a time."""
    from sklearn.utils.extmath import weighted_mode

    every = np.arange(len(votes))
    best = votes[every, choices]
    others = votes.copy()
    others[every, choices] = -np.inf
    close = np.flatnonzero(best - others.max(axis=1) <= _TIED * best)
    if len(close):
        distances, places = near.nearest(k)
        mode, _ = weighted_mode(codes[places[close]], _weights(distances[close]), axis=1)
        choices[close] = mode.ravel().astype(np.int64)
    return choices


def _weights(distances: np.ndarray) -> np.ndarray:
    """Return one over the distance; where a neighbour is at no distance, such neighbours alone count."""
    with np.errstate(divide="ignore"):
        W = 1.0 / distances
    sure = np.isinf(W)
    return np.where(sure.any(axis=1, keepdims=True), sure, W)
