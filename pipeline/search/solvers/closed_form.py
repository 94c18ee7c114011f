"""Ridge with every alpha and linear discriminants with every shrinkage, from one spectrum of the training part."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.search.predictions import Predictions, over_all_classes
from pipeline.search.solvers.fold_sums import NotCoveredError, PartScaling, Spectrum, Target

# Below this share of the largest singular value scikit-learn's least squares in float32 drops a direction.
_DROPPED = 1e-6


def ridge_numbers(spectrum: Spectrum, target: Target, alphas: Sequence[float]) -> Iterator[Predictions]:
    """Give what Ridge says of the test rows, an alpha at a time."""
    for raw in _ridge(spectrum, target.H, alphas):
        yield Predictions(raw[:, 0] + target.mean[0])


def ridge_classes(
    spectrum: Spectrum, target: Target, alphas: Sequence[float], labels: int, *, labels_only: bool = False
) -> Iterator[Predictions]:
    """Give what RidgeClassifier says of the test rows, an alpha at a time."""
    seen, two = target.seen, len(target.seen) == 2
    # It learns 1 and -1; of two classes the second alone. The rows are centred, so that a constant adds no product.
    first = 1 if two else 0
    H, mean = 2 * target.H[:, first:], 2 * target.mean[first:] - 1
    for raw in _ridge(spectrum, H, alphas):
        raw += mean
        codes = seen[(raw[:, 0] > 0).astype(int)] if two else seen[raw.argmax(axis=1)]
        if labels_only:
            yield Predictions(codes)
            continue
        scores = np.full((len(raw), labels), -np.inf)
        scores[:, seen] = np.column_stack([-raw, raw]) if two else raw
        yield Predictions(codes, scores=scores)


def ridge_tags(spectrum: Spectrum, target: Target, alphas: Sequence[float]) -> Iterator[Predictions]:
    """Give what RidgeClassifier says of the test rows when it learns an indicator, an alpha at a time.

    Each column is a target of its own, 1 and -1, with the same alpha: one that is constant in training too.
    """
    for raw in _ridge(spectrum, 2 * target.H, alphas):
        raw += 2 * target.mean - 1
        yield Predictions((raw > 0).astype(np.int8), scores=raw)


def discriminants(
    spectrum: Spectrum, target: Target, shrinkages: Sequence[float], labels: int, *, labels_only: bool = False
) -> Iterator[Predictions]:
    """Give what LinearDiscriminantAnalysis (lsqr) says of the test rows, a shrinkage at a time.

    The covariance within classes is that of all rows less that of the class means, which has as few directions as
    there are classes: it is taken off by Woodbury's identity. Its shrinkage adds to the diagonal alone.
    """
    from scipy.special import expit, softmax

    seen = target.seen
    for raw in _discriminants(spectrum, target, shrinkages):
        # In the features' type, as scikit-learn's: where one class is sure, its rounding is part of the log loss.
        two = (raw[:, 1] - raw[:, 0]).astype(spectrum.dtype) if len(seen) == 2 else None
        codes = seen[raw.argmax(axis=1)] if two is None else seen[(raw[:, 1] > raw[:, 0]).astype(int)]
        if labels_only:
            yield Predictions(codes)
            continue
        if two is None:
            P = softmax(raw.astype(spectrum.dtype), axis=1)
        else:
            second = expit(two)
            P = np.column_stack([1 - second, second])
        decision = raw.astype(spectrum.dtype) if two is None else two
        yield Predictions(codes, probabilities=over_all_classes(P, seen, labels), decision=decision)


def discriminant_tags(spectrum: Spectrum, target: Target, shrinkages: Sequence[float]) -> Iterator[Predictions]:
    """Give what OneVsRestClassifier says of the test rows, with a discriminant a tag, a shrinkage at a time."""
    from scipy.special import expit

    tags = range(len(target.mean))
    both = [
        Target(
            target.n, np.arange(2), np.array([1 - mean, mean]), np.column_stack([-target.H[:, tag], target.H[:, tag]])
        )
        for tag, mean in zip(tags, target.mean, strict=True)
    ]
    for raws in zip(*(_discriminants(spectrum, side, shrinkages) for side in both), strict=True):
        second = np.column_stack([raw[:, 1] - raw[:, 0] for raw in raws]).astype(spectrum.dtype)
        yield Predictions((second > 0).astype(np.int8), probabilities=expit(second).astype(np.float64))


def _discriminants(spectrum: Spectrum, target: Target, shrinkages: Sequence[float]) -> list[np.ndarray]:
    """Return each class's log posterior, apart from a constant, of every test row; a shrinkage at a time."""
    priors, counts = target.mean, target.counts
    if counts.min() < 2:
        raise NotCoveredError  # scikit-learn warns of a covariance of one row
    means = target.H / counts
    between = means * np.sqrt(priors)
    diagonal = (spectrum.values.sum() - (between**2).sum()) / spectrum.d
    weights, constants = [], []
    for shrinkage in shrinkages:
        kept = 1 - shrinkage
        spread = kept * spectrum.values + shrinkage * diagonal
        if shrinkage * diagonal <= _DROPPED * spread.max(initial=0.0):
            raise NotCoveredError
        M, Q = means / spread[:, None], between / spread[:, None]
        W = M + kept * Q @ np.linalg.solve(np.eye(len(priors)) - kept * between.T @ Q, between.T @ M)
        weights.append(W)
        constants.append(np.log(priors) - 0.5 * (means * W).sum(axis=0))
    return [raw + constant for raw, constant in zip(spectrum.answers(weights), constants, strict=True)]


def _ridge(spectrum: Spectrum, H: np.ndarray, alphas: Sequence[float]) -> list[np.ndarray]:
    n = spectrum.n
    weights = []
    for alpha in alphas:
        spread = n * spectrum.values + alpha
        smallest = spread[0] if len(spectrum.values) == spectrum.d else alpha
        if smallest < np.finfo(spectrum.dtype).eps * spread.max(initial=0.0):
            raise NotCoveredError  # scikit-learn warns that the matrix is ill-conditioned in the features' type
        weights.append(H / spread[:, None])
    return spectrum.answers(weights)


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
