"""Nearest shrunken centroids with every threshold, from the classes' means in one standardised training part.

Tibshirani, Hastie, Narasimhan and Chu, 2002, Diagnosis of multiple cancer types by shrunken centroids of gene
expression, PNAS 99: 6567-6572; as `sklearn.neighbors.NearestCentroid` computes it, in float64.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.search.parts import PartScaling
from pipeline.search.predictions import Predictions, over_all_classes
from pipeline.search.targets import NotCoveredError, Target

# Less variance than this within the classes, of 1 in all, is mostly rounding in the features' type; at none at all
# scikit-learn warns.
_NO_SPREAD = 1e-6


@dataclass(frozen=True, eq=False)
class KeptColumns:
    """The columns that vary in a training part.

    Parameters
    ----------
    columns : ndarray of bool, shape (d,)
    test : ndarray of float64, shape (m, kept)
        The standardised test rows.
    """

    columns: np.ndarray
    test: np.ndarray


def kept_columns(X: np.ndarray, train: np.ndarray, test: np.ndarray, standard: PartScaling) -> KeptColumns | None:
    """Return the columns that VarianceThreshold keeps; None where the scaler takes one of them for constant."""
    still = X[np.ix_(train, np.flatnonzero(standard.constant))]
    if standard.constant.all() or (still != still[:1]).any():
        return None
    columns = ~standard.constant
    return KeptColumns(columns, standard.apply(X[test])[:, columns].astype(np.float64))


def nearest_centroids(
    kept: KeptColumns, target: Target, thresholds: Sequence[float | None], labels: int, *, labels_only: bool = False
) -> Iterator[Predictions]:
    """Give what NearestCentroid says of the test rows, a threshold at a time; the target is in the features' columns.

    It predicts by the distance itself, and gives probabilities by the distance over the spread within classes.
    """
    from scipy.special import softmax

    seen, counts, n = target.seen, target.counts, target.n
    means = (target.H[kept.columns] / counts).T  # (c, kept), the mean of all rows at 0
    within = (n - counts @ means**2) / (n - len(seen))
    if within.min() < _NO_SPREAD:
        raise NotCoveredError
    spread = np.sqrt(within)
    unit = np.sqrt(1 / counts - 1 / n)[:, None] * (spread + np.median(spread))
    for threshold in thresholds:
        centroids = means
        if threshold is not None:
            deviations = means / unit
            centroids = unit * np.sign(deviations) * np.maximum(np.abs(deviations) - threshold, 0.0)
        nearer = kept.test @ centroids.T - 0.5 * (centroids**2).sum(axis=1)
        codes = seen[nearer.argmax(axis=1)]
        if labels_only:
            yield Predictions(codes)
            continue
        scaled = centroids / within
        # Minus the squared distance, without the row's own square, which no class changes; priors are equal.
        nearness = 2 * kept.test @ scaled.T - (centroids * scaled).sum(axis=1)
        P = softmax(nearness, axis=1)
        decision = (
            nearness[:, 1] - nearness[:, 0] if len(seen) == 2 else nearness - (kept.test**2 @ (1 / within))[:, None]
        )
        if len(seen) > 2:
            decision += 2 * np.log(1 / len(seen))
        yield Predictions(codes, probabilities=over_all_classes(P, seen, labels), decision=decision)
