"""The spectrum of a training part: one standardisation and one eigendecomposition that many fits share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

BLOCK = 4096  # rows that are held in float64 at a time

# Directions with less of the variance than this are rounding; of n rows there are at most n - 1 that are not.
_ROUNDING = 1e-12


@dataclass(frozen=True, eq=False)
class Spectrum:
    """Standardised training rows Z by the eigenvectors of their covariance.

    Parameters
    ----------
    Z : ndarray, shape (n, d)
        As StandardScaler gives it, in the type of the features.
    mean : ndarray of float64, shape (d,)
        What is left of the mean of Z: rounding.
    values : ndarray of float64, shape (r,)
        Eigenvalues of the covariance (divided by n), those that are not rounding.
    vectors : ndarray of float64, shape (d, r)
    turned : ndarray, shape (m, r)
        The test rows in those directions, centred, in the type of the features.
    """

    Z: np.ndarray
    mean: np.ndarray
    values: np.ndarray
    vectors: np.ndarray
    turned: np.ndarray

    def products(self, T: np.ndarray) -> np.ndarray:
        """Return the centred Z'T in the eigenvectors' directions, shape (r, T's columns)."""
        total = np.zeros((self.Z.shape[1], T.shape[1]))
        for start in range(0, len(self.Z), BLOCK):
            total += self.Z[start : start + BLOCK].astype(np.float64).T @ T[start : start + BLOCK]
        return self.vectors.T @ (total - np.outer(self.mean, T.sum(axis=0)))

    def answers(self, weights: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Return the centred test rows times each of the weights of shape (r, k), in one multiplication.

        In the features' type, as scikit-learn does.
        """
        together = self.turned @ np.concatenate(weights, axis=1).astype(self.turned.dtype)
        return [part.astype(np.float64) for part in np.split(together, len(weights), axis=1)]


def standardised(X: np.ndarray, train: np.ndarray, test: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return both parts as StandardScaler gives them, fitted on the first: its rule for constant features holds."""
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler()
    return scaler.fit_transform(X[train]), scaler.transform(X[test])


def spectrum(Z: np.ndarray, test: np.ndarray) -> Spectrum:
    """Return the spectrum of standardised training rows, from the Gram matrix of their smaller side, in float64.

    float32 would do for most of it, but not for weak regularisation where rows are few: the smallest eigenvalues are
    then below the rounding of the largest.
    """
    from scipy.linalg import eigh

    n, d = Z.shape
    mean = Z.mean(axis=0, dtype=np.float64)
    if n <= d:
        centred = Z.astype(np.float64) - mean
        values, left = eigh(centred @ centred.T / n, driver="evd", overwrite_a=True, check_finite=False)
        values, left = _without_rounding(values, left)
        vectors = centred.T @ (left / np.sqrt(n * values))
    else:
        gram = np.zeros((d, d))
        for start in range(0, n, BLOCK):
            block = Z[start : start + BLOCK].astype(np.float64) - mean
            gram += block.T @ block
        gram /= n
        values, vectors = eigh(gram, driver="evd", overwrite_a=True, check_finite=False)
        values, vectors = _without_rounding(values, vectors)
    turned = (test - mean.astype(Z.dtype)) @ vectors.astype(Z.dtype)
    return Spectrum(Z, mean, values, vectors, turned)


def _without_rounding(values: np.ndarray, vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the real directions, the smallest first."""
    real = values > _ROUNDING * max(values[-1], 0.0)
    return values[real], vectors[:, real]
