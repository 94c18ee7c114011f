"""Nearest neighbours with every number and weight from one distance pass, in scikit-learn's own arithmetic."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.search.predictions import Predictions, over_all_classes

_TIED = 1e-12  # relative: two sums of the same weights in another order


@dataclass(frozen=True, eq=False)
class Neighbours:
    """The nearest training rows of each test row: {k: (distances, places)}, both of shape (m, k)."""

    of: dict[int, tuple[np.ndarray, np.ndarray]]


def neighbours(Z: np.ndarray, test: np.ndarray, ks: Sequence[int]) -> Neighbours:
    """Return the neighbours for each k.

    The nearest k are the first of the nearest max(ks), except where the k-th and the next are equally far:
    scikit-learn's answer for that k is asked for those rows.
    """
    from sklearn.neighbors import NearestNeighbors

    found = NearestNeighbors(n_neighbors=max(ks), algorithm="brute").fit(Z)
    distances, places = found.kneighbors(test)
    of = {}
    for k in set(ks):
        near, who = distances[:, :k], places[:, :k]
        if k < distances.shape[1]:
            tied = np.flatnonzero(distances[:, k - 1] == distances[:, k])
            if len(tied):
                near, who = near.copy(), who.copy()
                near[tied], who[tied] = found.kneighbors(test[tied], n_neighbors=k)
        of[k] = near, who
    return Neighbours(of)


def neighbour_numbers(
    near: Neighbours, y: np.ndarray, combinations: Sequence[tuple[int, str]]
) -> Iterator[Predictions]:
    """Give what KNeighborsRegressor says of the test rows, a (k, weights) at a time."""
    for k, weighting in combinations:
        distances, places = near.of[k]
        if weighting == "uniform":
            yield Predictions(np.asarray(np.mean(y[places], axis=1), dtype=np.float64))
        else:
            W = _weights(distances)
            yield Predictions((y[places] * W).sum(axis=1) / W.sum(axis=1))


def neighbour_classes(
    near: Neighbours, y: np.ndarray, combinations: Sequence[tuple[int, str]], labels: int
) -> Iterator[Predictions]:
    """Give what KNeighborsClassifier says of the test rows, a (k, weights) at a time; y are codes below `labels`."""
    from sklearn.utils.extmath import weighted_mode

    seen = np.unique(y).astype(np.int64)
    codes = np.searchsorted(seen, y)
    for k, weighting in combinations:
        distances, places = near.of[k]
        W = np.ones(places.shape) if weighting == "uniform" else _weights(distances)
        votes, rows = np.zeros((len(places), len(seen))), np.arange(len(places))
        for column in range(k):
            votes[rows, codes[places[:, column]]] += W[:, column]
        said = votes.argmax(axis=1)
        if weighting == "distance" and len(seen) > 1:
            # scikit-learn sums the weights in another order to predict: where that could decide, so do we.
            best = np.partition(votes, -2, axis=1)[:, -2:]
            close = np.flatnonzero(best[:, 1] - best[:, 0] <= _TIED * best[:, 1])
            if len(close):
                said[close] = weighted_mode(codes[places[close]], W[close], axis=1)[0].ravel().astype(np.int64)
        P = votes / votes.sum(axis=1, keepdims=True)
        yield Predictions(seen[said], probabilities=over_all_classes(P, seen, labels))


def _weights(distances: np.ndarray) -> np.ndarray:
    """Return one over the distance; where a neighbour is at no distance, such neighbours alone count."""
    with np.errstate(divide="ignore"):
        W = 1.0 / distances
    sure = np.isinf(W)
    return np.where(sure.any(axis=1, keepdims=True), sure, W)
