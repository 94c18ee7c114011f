"""How certain is a score: scores with their intervals.

References
----------
Wilson (1927), Probable inference, the law of succession, and statistical inference. JASA 22.
Zou, Donner (2008), Construction of confidence limits about effect measures: a general approach. Stat. Med. 27.
Korn, Graubard (1998), Confidence intervals for proportions with small expected number of positive counts estimated
from survey data. Survey Methodology 24: a proportion's interval at the effective number of rows.
Hesterberg (2015), What Teachers Should Know about the Bootstrap. The American Statistician 69: the expanded
percentile interval, which corrects for the bootstrap being too narrow when there are few units.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy import stats

from pipeline.errors import EvaluationError
from pipeline.intervals.bootstrap import BootstrapSample, bootstrap_weights
from pipeline.search import Predictions, score_predictions

PROPORTIONS = ("accuracy", "balanced_accuracy", "f1_macro", "f1_micro", "average_precision")
_MEANS = ("accuracy", "neg_log_loss", "neg_mean_absolute_error")
_FEW_UNITS = 8
_GENERIC_RESAMPLES = 500
# 200,000 rows times 2,000 resamples would take seconds per score; at that size 500 estimate a 95% limit well enough.
_MOST_DRAWS = 100_000_000


@dataclass(frozen=True)
class ScoreInterval:
    """A score with its interval.

    Parameters
    ----------
    scoring : str
        scikit-learn's name of the scorer.
    value : float
        scikit-learn's own value; larger is better.
    low, high : float
        Limits of the interval; NaN where they are undefined.
    method : str
        How the interval was made, in words.
    n : int
        Rows scored.
    """

    scoring: str
    value: float
    low: float
    high: float
    method: str
    n: int


def score_with_interval(
    scoring: str,
    y: np.ndarray,
    predictions: Predictions,
    *,
    kind: str,
    n_classes: int,
    groups: np.ndarray | None = None,
    confidence: float = 0.95,
    resamples: int = 2000,
    random_state: int | None = 0,
) -> ScoreInterval:
    """Return the score with its interval; the same arguments give the same numbers.

    Parameters
    ----------
    scoring : str
    y : ndarray, shape (n,) or (n, n_classes)
        True codes 0..n_classes-1, numbers, or an indicator of tags.
    predictions : Predictions of the same n rows
    kind : {"class", "number", "multi"}
    n_classes : int
    groups : ndarray, shape (n,), optional
        Rows with the same value are resampled together.
    confidence : float
    resamples : int
        Bootstrap resamples; fewer above 50,000 rows or groups and for scorers that must be called one by one.
    random_state : int

    Raises
    ------
    EvaluationError
        No rows, or lengths that differ.
    HeadError
        The scoring cannot be computed from these predictions.
    """
    y = np.asarray(y)
    n = len(y)
    if n == 0 or len(predictions.labels) != n or (groups is not None and len(groups) != n):
        found = f"{len(predictions.labels)} predictions" + ("" if groups is None else f" and {len(groups)} groups")
        raise EvaluationError(
            f"expected as many predictions as labels, got {n} labels, {found}", "score at least one row"
        )
    value = score_predictions(scoring, y, predictions, kind=kind, n_classes=n_classes)
    if groups is None and scoring == "accuracy":
        low, high = wilson(value, n, confidence)
        return ScoreInterval(scoring, value, low, high, "Wilson", n)
    if groups is None and scoring == "balanced_accuracy":
        low, high = _mover(y, predictions.labels, confidence)
        return ScoreInterval(scoring, value, low, high, "MOVER of Wilson, one per class", n)

    codes = np.arange(n) if groups is None else np.unique(groups, return_inverse=True)[1].reshape(n)
    units = int(codes.max()) + 1
    unit = ("row" if groups is None else "group") + ("" if units == 1 else "s")
    low = high = math.nan
    method = f"none: one {unit}"
    sample = BootstrapSample(scoring, y, predictions, codes, units, kind, n_classes)
    if 1 < units < _FEW_UNITS:
        low, high = _jackknife_limits(sample, value, confidence)
        method = f"jackknife of {units} {unit}, t with {units - 1} degree{'s' if units > 2 else ''} of freedom"
    elif units > 1:
        resamples = max(500, min(resamples, _MOST_DRAWS // units)) if sample.additive else resamples
        resamples = resamples if sample.additive else min(resamples, _GENERIC_RESAMPLES)
        values = np.concatenate(
            [sample.scores(weights) for weights in bootstrap_weights(units, resamples, random_state)]
        )
        undefined = int(np.isnan(values).sum())
        method = f"bootstrap of {units:,} {unit}, {resamples:,} resamples"
        if undefined:
            method += f" ({undefined} undefined)"
        if undefined <= resamples // 10:
            low, high = _bootstrap_limits(scoring, values, value, units, confidence)
    if scoring in PROPORTIONS and not high - low > 1e-12:
        # All right, all wrong, or a single group: the sample has no spread, but `units` equal values do not prove
        # that there is none.
        low, high = wilson(value, units, confidence)
        method = f"Wilson with n = {units:,} {unit}: no spread between them"
    return ScoreInterval(scoring, value, low, high, method, n)


def wilson(p: float, n: float, confidence: float = 0.95) -> tuple[float, float]:
    """Return Wilson's score interval of a proportion `p` observed in `n` trials; it stays within 0 and 1."""
    return _wilson(p, n, float(stats.norm.ppf((1 + confidence) / 2)))


def _wilson(p: float, n: float, z: float) -> tuple[float, float]:
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    # The formula is exact at 0 and 1, the rounding is not.
    return (0.0 if p == 0 else max(0.0, centre - half)), (1.0 if p == 1 else min(1.0, centre + half))


def _mover(y: np.ndarray, labels: np.ndarray, confidence: float) -> tuple[float, float]:
    """Return limits of the mean recall: each class's Wilson limits, their distances added in squares.

    For independent estimates p_k with limits l_k and u_k, the limits of sum(c p_k) with c > 0 are
    sum(c p_k) - sqrt(sum (c (p_k - l_k))^2) and sum(c p_k) + sqrt(sum (c (u_k - p_k))^2) (Zou, Donner 2008, eq. 7).
    """
    true = np.bincount(y)
    present = np.flatnonzero(true)
    right = np.bincount(y[labels == y], minlength=len(true))
    recalls = right[present] / true[present]
    limits = np.array([wilson(float(p), int(m), confidence) for p, m in zip(recalls, true[present], strict=True)])
    below = math.sqrt(float(np.sum((recalls - limits[:, 0]) ** 2))) / len(present)
    above = math.sqrt(float(np.sum((limits[:, 1] - recalls) ** 2))) / len(present)
    mean = float(np.mean(recalls))
    return max(0.0, mean - below), min(1.0, mean + above)


def _expanded_tails(units: int, confidence: float) -> tuple[float, float]:
    """Return the quantiles to read off, moved outwards for few units (Hesterberg 2015, section 3.2.2).

    The bootstrap's spread is too small by sqrt((units - 1) / units) and its limits are a normal's where a t's
    would be due; at 4 groups that halves an interval, at 1,000 nothing moves.
    """
    t = float(stats.t.ppf((1 + confidence) / 2, units - 1))
    tail = float(stats.norm.cdf(-t * math.sqrt(units / (units - 1))))
    return tail, 1 - tail


def _bootstrap_limits(
    scoring: str, values: np.ndarray, value: float, units: int, confidence: float
) -> tuple[float, float]:
    """Return the limits read off the resamples' scores; they surround the value."""
    low, high = (float(limit) for limit in np.nanquantile(values, _expanded_tails(units, confidence)))
    if scoring not in _MEANS:
        # A resample repeats some rows and lacks others, which moves a ratio or a mean over classes: with 100 classes
        # of 5 rows macro F1 falls by half an interval, and the plain limits cover the true value 73 times in
        # 100. Shifted back onto the value they cover it 95 times.
        shift = value - float(np.nanmedian(values))
        low, high = low + shift, high + shift
    low, high = min(low, value), max(high, value)
    return (max(0.0, low), min(1.0, high)) if scoring in PROPORTIONS else (low, high)


def _jackknife_limits(sample: BootstrapSample, value: float, confidence: float) -> tuple[float, float]:
    """Return limits from the spread of the scores without each unit in turn, by Student's t; NaN where undefined.

    A proportion's are Wilson's with t for z and n = p (1 - p) / variance, the number of independent rows that would
    be as uncertain (Korn, Graubard 1998): they stay within 0 and 1.
    """
    units = sample.units
    left = sample.scores(1.0 - np.eye(units))
    t = float(stats.t.ppf((1 + confidence) / 2, units - 1))
    variance = float((units - 1) / units * np.sum((left - left.mean()) ** 2))
    if math.isnan(variance):
        return math.nan, math.nan
    if sample.scoring not in PROPORTIONS:
        return value - t * math.sqrt(variance), value + t * math.sqrt(variance)
    if variance < 1e-24 or not 0 < value < 1:
        return value, value
    return _wilson(value, min(len(sample.y), value * (1 - value) / variance), t)
