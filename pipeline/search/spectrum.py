"""The spectrum of a training part: one eigendecomposition that many fits share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.search.arrays import Arrays
from pipeline.search.parts import BLOCK, PartScaling

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


__all__ = ["BLOCK", "Spectrum", "spectrum"]
