"""What StandardScaler makes of many training parts of the same rows, without copying them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.search.spectrum import BLOCK

# A feature that varies in a training part less than this part of what it does over all rows has lost too many digits
# in float32 once it is centred and scaled over all of them.
_THIN = 5e-5


@dataclass(frozen=True, eq=False)
class Scaling:
    """Rows standardised over all of them, and each training part's own standardisation in their terms.

    Parameters
    ----------
    A : ndarray of float32, shape (n, d)
        (X - centre) / spread.
    centre, spread : ndarray of float64, shape (d,)
    means : ndarray of float64, shape (t, d)
        Of A over each training part.
    scales : ndarray of float64, shape (t, d)
        One over the deviation of A there; 0 for a feature that is constant by StandardScaler's rule.
    covered : ndarray of bool, shape (t,)
        False where a feature hardly varies there against what it does elsewhere.
    """

    A: np.ndarray
    centre: np.ndarray
    spread: np.ndarray
    means: np.ndarray
    scales: np.ndarray
    covered: np.ndarray


def scaling(X: np.ndarray, parts: Sequence[np.ndarray]) -> Scaling:
    """Return the scaling of rows for training parts (positions into X), summed in float64 about the common mean."""
    n, d = X.shape
    centre, spread = np.zeros(d), np.zeros(d)
    for start in range(0, n, BLOCK):
        centre += X[start : start + BLOCK].sum(axis=0, dtype=np.float64)
    centre /= n
    member = np.zeros((len(parts), n))
    for part, rows in enumerate(parts):
        member[part, rows] = 1 / len(rows)
    means, squares = np.zeros((len(parts), d)), np.zeros((len(parts), d))
    for start in range(0, n, BLOCK):
        block = X[start : start + BLOCK] - centre
        means += member[:, start : start + BLOCK] @ block
        block *= block
        spread += block.sum(axis=0)
        squares += member[:, start : start + BLOCK] @ block
    spread = np.sqrt(spread / n)
    spread[spread == 0] = 1
    deviations = np.sqrt(np.maximum(squares - means**2, 0))
    thin = deviations <= _THIN * spread
    scales = np.divide(spread, deviations, out=np.zeros_like(deviations), where=~thin)
    covered = np.array([_constant_columns(X, rows, few).all() for rows, few in zip(parts, thin, strict=True)], dtype=bool)
    A = np.empty((n, d), np.float32)
    for start in range(0, n, BLOCK):
        A[start : start + BLOCK] = (X[start : start + BLOCK] - centre) / spread
    return Scaling(A, centre, spread, means / spread, scales, covered)


def _constant_columns(X: np.ndarray, rows: np.ndarray, few: np.ndarray) -> np.ndarray:
    """Say which of some features StandardScaler takes for constant: it scales those by 1 and leaves their variance."""
    from sklearn.preprocessing import StandardScaler

    if not few.any():
        return np.ones(0, dtype=bool)
    scaler = StandardScaler().fit(X[np.ix_(rows, np.flatnonzero(few))])
    return (scaler.scale_ == 1) & (scaler.var_ < 0.5)
