"""Ridge with every alpha and linear discriminants with every shrinkage, from one spectrum of the training part."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from pipeline.search.predictions import Predictions, over_all_classes
from pipeline.search.spectrum import Spectrum

# Below this share of the largest singular value scikit-learn's least squares in float32 drops a direction.
_DROPPED = 1e-6


class NotCoveredError(Exception):
    """These rows want scikit-learn itself."""


def ridge_numbers(spectrum: Spectrum, y: np.ndarray, alphas: Sequence[float]) -> Iterator[Predictions]:
    """Give what Ridge says of the test rows, an alpha at a time."""
    # scikit-learn learns from the target in the features' type.
    target = y.astype(spectrum.Z.dtype).astype(np.float64)
    mean = target.mean()
    H = spectrum.products((target - mean)[:, None])
    for alpha in alphas:
        yield Predictions(_ridge(spectrum, H, alpha)[:, 0] + mean)


def ridge_classes(spectrum: Spectrum, y: np.ndarray, alphas: Sequence[float], labels: int) -> Iterator[Predictions]:
    """Give what RidgeClassifier says of the test rows, an alpha at a time; y are codes below `labels`."""
    seen, places = _seen(y)
    columns = np.array([1]) if len(seen) == 2 else np.arange(len(seen))  # two classes: one target, of the second
    T = np.where(places[:, None] == columns, 1.0, -1.0)
    mean = T.mean(axis=0)
    H = spectrum.products(T - mean)
    for alpha in alphas:
        raw = _ridge(spectrum, H, alpha) + mean
        if len(seen) == 2:
            codes = seen[(raw[:, 0] > 0).astype(int)]
            raw = np.column_stack([-raw, raw])
        else:
            codes = seen[raw.argmax(axis=1)]
        scores = np.full((len(raw), labels), -np.inf)
        scores[:, seen] = raw
        yield Predictions(codes, scores=scores)


def discriminants(spectrum: Spectrum, y: np.ndarray, shrinkages: Sequence[float], labels: int) -> Iterator[Predictions]:
    """Give what LinearDiscriminantAnalysis (lsqr) says of the test rows, a shrinkage at a time.

    The covariance within classes is that of all rows less that of the class means, which has as few directions as
    there are classes: it is taken off by Woodbury's identity. Its shrinkage adds to the diagonal alone.
    """
    from scipy.special import expit, softmax

    seen, places = _seen(y)
    counts = np.bincount(places)
    if counts.min() < 2:
        raise NotCoveredError  # scikit-learn warns of a covariance of one row
    priors = counts / len(y)
    means = spectrum.products(np.eye(len(seen))[places]) / counts
    between = means * np.sqrt(priors)
    diagonal = (spectrum.values.sum() - (between**2).sum()) / spectrum.Z.shape[1]
    for shrinkage in shrinkages:
        kept = 1 - shrinkage
        spread = kept * spectrum.values + shrinkage * diagonal
        if shrinkage * diagonal <= _DROPPED * spread.max(initial=0.0):
            raise NotCoveredError
        M, Q = means / spread[:, None], between / spread[:, None]
        W = M + kept * Q @ np.linalg.solve(np.eye(len(seen)) - kept * between.T @ Q, between.T @ M)
        raw = spectrum.turned @ W + np.log(priors) - 0.5 * (means * W).sum(axis=0)
        if len(seen) == 2:
            # In the features' type, as scikit-learn's: where one class is sure, its rounding is part of the log loss.
            second = expit((raw[:, 1] - raw[:, 0]).astype(spectrum.Z.dtype))
            P = np.column_stack([1 - second, second])
            codes = seen[(raw[:, 1] > raw[:, 0]).astype(int)]
        else:
            P = softmax(raw.astype(spectrum.Z.dtype), axis=1)
            codes = seen[raw.argmax(axis=1)]
        yield Predictions(codes, probabilities=over_all_classes(P, seen, labels))


def _ridge(spectrum: Spectrum, H: np.ndarray, alpha: float) -> np.ndarray:
    n, d = spectrum.Z.shape
    full = len(spectrum.values) == d
    spread = n * spectrum.values + alpha
    if (spread[0] if full else alpha) < np.finfo(spectrum.Z.dtype).eps * spread.max(initial=0.0):
        raise NotCoveredError  # scikit-learn warns that the matrix is ill-conditioned in the features' type
    return spectrum.turned @ (H / spread[:, None])


def _seen(y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the classes of a training part, and each row's place among them."""
    seen, places = np.unique(y, return_inverse=True)
    if len(seen) < 2 or len(seen) == len(y):
        raise NotCoveredError  # scikit-learn has its own words for these
    return seen.astype(np.int64), places
