"""Intervals: how far a score may be from the one that endless new images would give.

Without groups the images are taken as independent: proportions get Wilson's interval, balanced accuracy the MOVER
combination of one Wilson interval a class, everything else a bootstrap of rows. With groups the groups are taken
as independent, and whole groups are resampled: images of one patient or place err together, and an interval over
single rows would be too narrow.

References
----------
Wilson (1927), Probable inference, the law of succession, and statistical inference. JASA 22.
Zou, Donner (2008), Construction of confidence limits about effect measures: a general approach. Stat. Med. 27.
Hesterberg (2015), What teachers should know about the bootstrap. The American Statistician 69: the expanded
percentile interval, which makes up for the bootstrap's narrowness when there are few units.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from scipy import stats

from pipeline.errors import EvaluationError, HeadError
from pipeline.search import Predictions, log_losses, score_predictions

_ADDITIVE = ("accuracy", "balanced_accuracy", "f1_macro", "neg_log_loss", "r2", "neg_mean_absolute_error")
_MEANS = ("accuracy", "neg_log_loss", "neg_mean_absolute_error")
_PROPORTIONS = ("accuracy", "balanced_accuracy", "f1_macro")
_GENERIC_RESAMPLES = 500
# 200,000 rows times 2,000 resamples would take seconds a score; 500 place a 95% limit well enough at that size.
_MOST_DRAWS = 100_000_000
_BLOCK_DRAWS = 4_000_000


@dataclass(frozen=True)
class Score:
    """A score with its interval.

    Parameters
    ----------
    scoring : str
        scikit-learn's name of the scorer.
    value : float
        scikit-learn's own value; larger is better.
    low, high : float
        Limits of the interval; NaN where nothing can be said.
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
) -> Score:
    """Return the score with its interval; the same arguments give the same numbers.

    Parameters
    ----------
    scoring : str
    y : ndarray, shape (n,)
        True codes 0..n_classes-1, or numbers.
    predictions : Predictions of the same n rows
    kind : {"class", "number"}
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
            f"wanted as many predictions as labels, found {n} labels, {found}", "score at least one row"
        )
    value = score_predictions(scoring, y, predictions, kind=kind, n_classes=n_classes)
    if groups is None and scoring == "accuracy":
        low, high = wilson(value, n, confidence)
        return Score(scoring, value, low, high, "Wilson", n)
    if groups is None and scoring == "balanced_accuracy":
        low, high = _mover(y, predictions.labels, confidence)
        return Score(scoring, value, low, high, "MOVER of Wilson, one a class", n)

    codes = np.arange(n) if groups is None else np.unique(groups, return_inverse=True)[1].reshape(n)
    units = int(codes.max()) + 1
    unit = ("row" if groups is None else "group") + ("" if units == 1 else "s")
    low = high = math.nan
    method = f"none: one {unit}"
    if units > 1:
        if scoring in _ADDITIVE:
            resamples = max(500, min(resamples, _MOST_DRAWS // units))
            values = _additive_bootstrap(scoring, y, predictions, codes, units, n_classes, resamples, random_state)
        else:
            resamples = min(resamples, _GENERIC_RESAMPLES)
            values = _generic_bootstrap(scoring, y, predictions, codes, units, kind, n_classes, resamples, random_state)
        undefined = int(np.isnan(values).sum())
        method = f"bootstrap of {units:,} {unit}, {resamples:,} resamples"
        if undefined:
            method += f" ({undefined} undefined)"
        if undefined <= resamples // 10:
            tails = _expanded_tails(units, confidence)
            low, high = (float(limit) for limit in np.nanquantile(values, tails))
            if scoring not in _MEANS:
                # A resample repeats some rows and lacks others, which moves a ratio or a mean over classes: with 100
                # classes of 5 rows macro F1 falls by half an interval, and the plain limits hold the truth 73 times
                # in 100. Set back onto the value they hold it 95 times.
                shift = value - float(np.nanmedian(values))
                low, high = low + shift, high + shift
            low, high = min(low, value), max(high, value)
            if scoring in _PROPORTIONS:
                low, high = max(0.0, low), min(1.0, high)
    if scoring in _PROPORTIONS and not high - low > 1e-12:
        # Every resample says the same (all right, all wrong, one group): the bootstrap sees no spread, but `units`
        # of a kind do not prove that there is none.
        low, high = wilson(value, units, confidence)
        method = f"Wilson with n = {units:,} {unit}: every resample gives the same"
    return Score(scoring, value, low, high, method, n)


def wilson(p: float, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Return Wilson's score interval of a proportion `p` seen in `n` trials; it stays within 0 and 1."""
    z = float(stats.norm.ppf((1 + confidence) / 2))
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


def _additive_bootstrap(
    scoring: str,
    y: np.ndarray,
    predictions: Predictions,
    codes: np.ndarray,
    units: int,
    n_classes: int,
    resamples: int,
    random_state: int | None,
) -> np.ndarray:
    """Return the score of each resample from sums over units: a resample's sums are its weights times the units'."""
    sums = _unit_sums(scoring, y, predictions, codes, units, n_classes)  # (units, m)
    values = []
    for weights in _weights(units, resamples, random_state):  # (b, units)
        values.append(_from_sums(scoring, np.asarray((sums.T @ weights.T).T), n_classes))  # (b, m) -> (b,)
    return np.concatenate(values)


def _unit_sums(
    scoring: str, y: np.ndarray, predictions: Predictions, codes: np.ndarray, units: int, n_classes: int
) -> sp.csr_array:
    """Return the sums over each unit's rows that the score is a function of; sparse, shape (units, m)."""
    n, labels = len(y), predictions.labels
    ones = np.ones(n)
    if scoring in ("balanced_accuracy", "f1_macro"):  # right, true and predicted count a class
        right = np.flatnonzero(labels == y)
        rows = np.concatenate([codes[right], codes, codes])
        columns = np.concatenate([y[right], n_classes + y, 2 * n_classes + labels])
        data = np.ones(len(rows))
        return sp.csr_array(sp.coo_array((data, (rows, columns)), shape=(units, 3 * n_classes)))
    if scoring == "accuracy":
        parts = [(labels == y).astype(float), ones]
    elif scoring == "neg_log_loss":
        assert predictions.probabilities is not None  # the point value was computed before
        parts = [-log_losses(y, predictions.probabilities), ones]
    elif scoring == "neg_mean_absolute_error":
        parts = [-np.abs(y - labels), ones]
    else:  # r2; centred, so that the variance does not drown in the mean's square
        centred = y - y.mean()
        parts = [(y - labels) ** 2, centred, centred**2, ones]
    return sp.csr_array(np.column_stack([np.bincount(codes, weights=part, minlength=units) for part in parts]))


def _from_sums(scoring: str, sums: np.ndarray, n_classes: int) -> np.ndarray:
    """Return the score of each resample from its sums: (b, m) -> (b,); NaN where it is undefined."""
    with np.errstate(divide="ignore", invalid="ignore"):
        if scoring in ("balanced_accuracy", "f1_macro"):
            right, true, said = (sums[:, i * n_classes : (i + 1) * n_classes] for i in range(3))
            # As in scikit-learn: recall over the classes there are, F1 over those there are or that were predicted.
            part, whole = (right, true) if scoring == "balanced_accuracy" else (2 * right, true + said)
            some = whole > 0
            return np.where(some, part / np.where(some, whole, 1), 0).sum(axis=1) / some.sum(axis=1)
        if scoring == "r2":
            errors, total, squares, count = sums.T
            spread = squares - total**2 / count
            return np.where(spread > 1e-12 * squares, 1 - errors / spread, np.nan)
        return sums[:, 0] / sums[:, 1]


def _generic_bootstrap(
    scoring: str,
    y: np.ndarray,
    predictions: Predictions,
    codes: np.ndarray,
    units: int,
    kind: str,
    n_classes: int,
    resamples: int,
    random_state: int | None,
) -> np.ndarray:
    """Return the score of each resample by calling scikit-learn's scorer; NaN where it cannot be computed."""
    order = np.argsort(codes, kind="stable")
    starts = np.searchsorted(codes[order], np.arange(units + 1))
    values = np.full(resamples, np.nan)
    rng = np.random.default_rng(random_state)
    for b in range(resamples):
        drawn = rng.integers(units, size=units)
        rows = np.concatenate([order[starts[u] : starts[u + 1]] for u in drawn])
        try:
            values[b] = score_predictions(scoring, y[rows], predictions.take(rows), kind=kind, n_classes=n_classes)
        except HeadError:  # a resample without a class, say: undefined there, and counted
            continue
    return values


def _weights(units: int, resamples: int, random_state: int | None) -> Iterator[np.ndarray]:
    """Yield how often each unit is drawn in each resample, in blocks (b, units) that bound the memory."""
    rng = np.random.default_rng(random_state)
    block = max(1, _BLOCK_DRAWS // units)
    for start in range(0, resamples, block):
        b = min(block, resamples - start)
        drawn = rng.integers(units, size=(b, units))
        drawn += units * np.arange(b)[:, None]
        yield np.bincount(drawn.ravel(), minlength=b * units).reshape(b, units).astype(np.float64)
