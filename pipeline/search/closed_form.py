"""Ridge with every alpha and linear discriminants with every shrinkage, from one spectrum of the training part."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.search.predictions import Predictions, over_all_classes
from pipeline.search.spectrum import Spectrum

# Below this share of the largest singular value scikit-learn's least squares in float32 drops a direction.
_DROPPED = 1e-6


class NotCoveredError(Exception):
    """These rows want scikit-learn itself."""


@dataclass(frozen=True, eq=False)
class Target:
    """A label set's training part as columns to learn.

    Parameters
    ----------
    columns : ndarray of float64, shape (n, c)
        One a class, 1 where a row is of that class; or the numbers less their mean.
    seen : ndarray of int64, shape (c,)
        The classes, sorted; empty for numbers.
    mean : ndarray of float64, shape (c,)
        Each class's part of the rows; or the mean of the numbers.
    """

    columns: np.ndarray
    seen: np.ndarray
    mean: np.ndarray


def class_target(y: np.ndarray) -> Target:
    """Return codes as a target."""
    seen, places = np.unique(y, return_inverse=True)
    if len(seen) < 2 or len(seen) == len(y):
        raise NotCoveredError  # scikit-learn has its own words for these
    columns = np.eye(len(seen))[places]
    return Target(columns, seen.astype(np.int64), columns.mean(axis=0))


def number_target(y: np.ndarray, dtype: np.dtype[Any]) -> Target:
    """Return numbers as a target; scikit-learn learns from them in the features' type."""
    numbers = y.astype(dtype).astype(np.float64)
    return Target((numbers - numbers.mean())[:, None], np.empty(0, np.int64), np.array([numbers.mean()]))


def products(spectrum: Spectrum, targets: Sequence[Target]) -> list[np.ndarray]:
    """Return each target's products with the training rows, shape (r, c): all of them in one multiplication."""
    together = spectrum.products(np.concatenate([target.columns for target in targets], axis=1))
    return np.split(together, np.cumsum([target.columns.shape[1] for target in targets])[:-1], axis=1)


def ridge_numbers(spectrum: Spectrum, target: Target, H: np.ndarray, alphas: Sequence[float]) -> Iterator[Predictions]:
    """Give what Ridge says of the test rows, an alpha at a time; H are the target's products."""
    for raw in _ridge(spectrum, H, alphas):
        yield Predictions(raw[:, 0] + target.mean[0])


def ridge_classes(
    spectrum: Spectrum, target: Target, H: np.ndarray, alphas: Sequence[float], labels: int
) -> Iterator[Predictions]:
    """Give what RidgeClassifier says of the test rows, an alpha at a time; H are the target's products."""
    seen, two = target.seen, len(target.seen) == 2
    # It learns 1 and -1; of two classes the second alone. The rows are centred, so that a constant adds no product.
    H, mean = (2 * H[:, 1:], 2 * target.mean[1:] - 1) if two else (2 * H, 2 * target.mean - 1)
    for answers in _ridge(spectrum, H, alphas):
        raw = answers + mean
        codes = seen[(raw[:, 0] > 0).astype(int)] if two else seen[raw.argmax(axis=1)]
        scores = np.full((len(raw), labels), -np.inf)
        scores[:, seen] = np.column_stack([-raw, raw]) if two else raw
        yield Predictions(codes, scores=scores)


def discriminants(
    spectrum: Spectrum, target: Target, H: np.ndarray, shrinkages: Sequence[float], labels: int
) -> Iterator[Predictions]:
    """Give what LinearDiscriminantAnalysis (lsqr) says of the test rows, a shrinkage at a time; H are the products.

    The covariance within classes is that of all rows less that of the class means, which has as few directions as
    there are classes: it is taken off by Woodbury's identity. Its shrinkage adds to the diagonal alone.
    """
    from scipy.special import expit, softmax

    seen, priors, counts = target.seen, target.mean, target.columns.sum(axis=0)
    if counts.min() < 2:
        raise NotCoveredError  # scikit-learn warns of a covariance of one row
    means = H / counts
    between = means * np.sqrt(priors)
    diagonal = (spectrum.values.sum() - (between**2).sum()) / spectrum.Z.shape[1]
    weights, constants = [], []
    for shrinkage in shrinkages:
        kept = 1 - shrinkage
        spread = kept * spectrum.values + shrinkage * diagonal
        if shrinkage * diagonal <= _DROPPED * spread.max(initial=0.0):
            raise NotCoveredError
        M, Q = means / spread[:, None], between / spread[:, None]
        W = M + kept * Q @ np.linalg.solve(np.eye(len(seen)) - kept * between.T @ Q, between.T @ M)
        weights.append(W)
        constants.append(np.log(priors) - 0.5 * (means * W).sum(axis=0))
    for answers, constant in zip(spectrum.answers(weights), constants, strict=True):
        raw = answers + constant
        if len(seen) == 2:
            # In the features' type, as scikit-learn's: where one class is sure, its rounding is part of the log loss.
            second = expit((raw[:, 1] - raw[:, 0]).astype(spectrum.Z.dtype))
            P = np.column_stack([1 - second, second])
            codes = seen[(raw[:, 1] > raw[:, 0]).astype(int)]
        else:
            P = softmax(raw.astype(spectrum.Z.dtype), axis=1)
            codes = seen[raw.argmax(axis=1)]
        yield Predictions(codes, probabilities=over_all_classes(P, seen, labels))


def _ridge(spectrum: Spectrum, H: np.ndarray, alphas: Sequence[float]) -> list[np.ndarray]:
    n, d = spectrum.Z.shape
    weights = []
    for alpha in alphas:
        spread = n * spectrum.values + alpha
        smallest = spread[0] if len(spectrum.values) == d else alpha
        if smallest < np.finfo(spectrum.Z.dtype).eps * spread.max(initial=0.0):
            raise NotCoveredError  # scikit-learn warns that the matrix is ill-conditioned in the features' type
        weights.append(H / spread[:, None])
    return spectrum.answers(weights)
