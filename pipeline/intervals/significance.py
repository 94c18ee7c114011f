"""Which scores are tied: heads compared with the best one fold by fold, on the same rows.

References
----------
Nadeau, Bengio (2003), Inference for the generalization error. Machine Learning 52: the corrected resampled t-test.
Holm (1979), A simple sequentially rejective multiple test procedure. Scandinavian Journal of Statistics 6.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from pipeline.intervals.confidence import PROPORTIONS

_FEWEST_FOLDS = 3


@dataclass(frozen=True)
class Comparison:
    """One candidate against the best; both None where fewer than 3 folds give both a score.

    Parameters
    ----------
    p : float or None
        Two-sided, adjusted for the number of candidates compared with the best.
    tied : bool or None
        Whether the best is not shown to be better.
    """

    p: float | None
    tied: bool | None


def compare_with_best(
    scoring: str,
    fold_scores: Sequence[Sequence[float | None]],
    best: int,
    *,
    sizes: Sequence[tuple[int, int]],
    alpha: float = 0.05,
) -> list[Comparison]:
    """Return how each candidate compares with the best: corrected t-tests over the folds, adjusted by Holm.

    Parameters
    ----------
    scoring : str
    fold_scores : sequence of sequences of float or None, (candidates, k)
        On the same k folds.
    best : int
        Index of the candidate that the others are compared with; it is tied with itself.
    sizes : sequence of (int, int), length k
        Training rows and scored rows of each fold.
    alpha : float
    """
    scores = np.array([[math.nan if score is None else score for score in folds] for folds in fold_scores], float)
    rows = np.array(sizes, float)
    raw = np.full(len(scores), math.nan)
    for number, differences in enumerate(scores[best] - scores):
        scored_folds = np.isfinite(differences)
        if scored_folds.sum() >= _FEWEST_FOLDS:
            trained, scored = rows[scored_folds].T
            step = 1 / float(scored.mean()) if scoring in PROPORTIONS else 0.0
            raw[number] = corrected_t_test(differences[scored_folds], float((scored / trained).mean()), step=step)
    others = np.flatnonzero(np.isfinite(raw) & (np.arange(len(raw)) != best))
    raw[others] = holm(raw[others])
    # A baseline may score higher than the best head: then the best is not shown to be better, however small p is.
    return [
        Comparison(None, None) if math.isnan(p) else Comparison(float(p), bool(p > alpha or np.nanmean(gained) <= 0))
        for p, gained in zip(raw, scores[best] - scores, strict=True)
    ]


def corrected_t_test(differences: np.ndarray, ratio: float, *, step: float = 0.0) -> float:
    """Return the two-sided p of k paired differences with mean zero (Nadeau, Bengio 2003, section 4.2).

    t = mean / sqrt((1/k + ratio) s^2) with k - 1 degrees of freedom. The plain test's 1/k takes the folds as
    independent, but their training parts overlap; `ratio`, scored rows per training row, corrects for it.

    Parameters
    ----------
    differences : ndarray, shape (k,)
    ratio : float
    step : float
        The weight of one row in a fold's score. s is at least the spread that one row in one fold would make,
        step / sqrt(k): equal differences in a few small folds do not prove that there is no spread.
    """
    k, mean = len(differences), float(np.mean(differences))
    spread = max(float(np.std(differences, ddof=1)), step / math.sqrt(k))
    if mean == 0 or spread == 0:
        return 1.0 if mean == 0 else 0.0
    return float(2 * stats.t.sf(abs(mean) / (spread * math.sqrt(1 / k + ratio)), k - 1))


def holm(p: np.ndarray) -> np.ndarray:
    """Return p values adjusted by Holm, shape (m,): any of those below alpha is wrong with probability alpha."""
    order = np.argsort(p, kind="stable")
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(1, np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)))
    return adjusted
