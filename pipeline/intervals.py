"""Intervals: how far a score may be from the one that endless new images would give; and which scores are tied.

Without groups the images are taken as independent: proportions get Wilson's interval, balanced accuracy the MOVER
combination of one Wilson interval a class, everything else a bootstrap of rows. With groups the groups are taken
as independent, and whole groups are resampled: images of one patient or place err together, and an interval over
single rows would be too narrow. Fewer than 8 units are too few to resample (the bootstrap's limits held the truth
86 times in 100 with 4 skewed groups): their spread comes from leaving each out in turn, the limits from Student's t.

Two heads are compared fold by fold, on the same rows. Where folds are made of whole groups, so is the comparison.

References
----------
Wilson (1927), Probable inference, the law of succession, and statistical inference. JASA 22.
Zou, Donner (2008), Construction of confidence limits about effect measures: a general approach. Stat. Med. 27.
Korn, Graubard (1998), Confidence intervals for proportions with small expected number of positive counts estimated
from survey data. Survey Methodology 24: a proportion's interval at the effective number of rows.
Hesterberg (2015), What teachers should know about the bootstrap. The American Statistician 69: the expanded
percentile interval, which makes up for the bootstrap's narrowness when there are few units.
Nadeau, Bengio (2003), Inference for the generalization error. Machine Learning 52: the corrected resampled t-test.
Holm (1979), A simple sequentially rejective multiple test procedure. Scandinavian Journal of Statistics 6.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import scipy.sparse as sp
from scipy import stats

from pipeline.errors import EvaluationError, HeadError
from pipeline.search import Predictions, counted_f1, log_losses, resampled_precision, score_predictions

_ADDITIVE = ("accuracy", "balanced_accuracy", "f1_macro", "neg_log_loss", "r2", "neg_mean_absolute_error")
_MEANS = ("accuracy", "neg_log_loss", "neg_mean_absolute_error")
_OF_TAGS = ("accuracy", "f1_macro", "f1_micro")  # as _ADDITIVE, for several tags an image
_PROPORTIONS = ("accuracy", "balanced_accuracy", "f1_macro", "f1_micro", "average_precision")
_FEW_UNITS = 8
_GENERIC_RESAMPLES = 500
_FEWEST_FOLDS = 3
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


@dataclass(frozen=True)
class Comparison:
    """One candidate against the best; both None where fewer than 3 folds give both a score.

    Parameters
    ----------
    p : float or None
        Two-sided, adjusted for all that were compared with the best.
    tied : bool or None
        Whether the best is not shown to be better.
    """

    p: float | None
    tied: bool | None


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
    sample = _Sample(scoring, y, predictions, codes, units, kind, n_classes)
    if 1 < units < _FEW_UNITS:
        low, high = _jackknife_limits(sample, value, confidence)
        method = f"jackknife of {units} {unit}, t with {units - 1} degree{'s' if units > 2 else ''} of freedom"
    elif units > 1:
        resamples = max(500, min(resamples, _MOST_DRAWS // units)) if sample.additive else resamples
        resamples = resamples if sample.additive else min(resamples, _GENERIC_RESAMPLES)
        values = np.concatenate([sample.scores(weights) for weights in _weights(units, resamples, random_state)])
        undefined = int(np.isnan(values).sum())
        method = f"bootstrap of {units:,} {unit}, {resamples:,} resamples"
        if undefined:
            method += f" ({undefined} undefined)"
        if undefined <= resamples // 10:
            low, high = _bootstrap_limits(scoring, values, value, units, confidence)
    if scoring in _PROPORTIONS and not high - low > 1e-12:
        # All right, all wrong, or one group: there is no spread to see, but `units` of a kind do not prove that
        # there is none.
        low, high = wilson(value, units, confidence)
        method = f"Wilson with n = {units:,} {unit}: no spread between them"
    return Score(scoring, value, low, high, method, n)


def wilson(p: float, n: float, confidence: float = 0.95) -> tuple[float, float]:
    """Return Wilson's score interval of a proportion `p` seen in `n` trials; it stays within 0 and 1."""
    return _wilson(p, n, float(stats.norm.ppf((1 + confidence) / 2)))


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
        Which candidate the others are held against; tied with itself.
    sizes : sequence of (int, int), length k
        Rows learned from and rows scored in each fold.
    alpha : float
    """
    scores = np.array([[math.nan if one is None else one for one in folds] for folds in fold_scores], float)
    rows = np.array(sizes, float)
    raw = np.full(len(scores), math.nan)
    for number, differences in enumerate(scores[best] - scores):
        told = np.isfinite(differences)
        if told.sum() >= _FEWEST_FOLDS:
            learned, scored = rows[told].T
            step = 1 / float(scored.mean()) if scoring in _PROPORTIONS else 0.0
            raw[number] = corrected_t_test(differences[told], float((scored / learned).mean()), step=step)
    others = np.flatnonzero(np.isfinite(raw) & (np.arange(len(raw)) != best))
    raw[others] = holm(raw[others])
    # A null may do better than the best head, which is then not shown to be better, however small p is.
    return [
        Comparison(None, None) if math.isnan(p) else Comparison(float(p), bool(p > alpha or np.nanmean(gained) <= 0))
        for p, gained in zip(raw, scores[best] - scores, strict=True)
    ]


def corrected_t_test(differences: np.ndarray, ratio: float, *, step: float = 0.0) -> float:
    """Return the two-sided p of k paired differences with mean zero (Nadeau, Bengio 2003, section 4.2).

    t = mean / sqrt((1/k + ratio) s^2) with k - 1 degrees of freedom. The plain test's 1/k takes the folds as
    independent, but they learn from much the same rows; `ratio`, scored rows to learned ones, makes up for it.

    Parameters
    ----------
    differences : ndarray, shape (k,)
    ratio : float
    step : float
        What one row counts in a fold's score. s is at least the spread that one row in one fold would make,
        step / sqrt(k): equal differences in a few small folds do not prove that there is no spread.
    """
    k, mean = len(differences), float(np.mean(differences))
    spread = max(float(np.std(differences, ddof=1)), step / math.sqrt(k))
    if mean == 0 or spread == 0:
        return 1.0 if mean == 0 else 0.0
    return float(2 * stats.t.sf(abs(mean) / (spread * math.sqrt(1 / k + ratio)), k - 1))


def holm(p: np.ndarray) -> np.ndarray:
    """Return p values, shape (m,), of which those below alpha hold an error with probability alpha at most."""
    order = np.argsort(p, kind="stable")
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(1, np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)))
    return adjusted


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
        # of 5 rows macro F1 falls by half an interval, and the plain limits hold the truth 73 times in 100. Set back
        # onto the value they hold it 95 times.
        shift = value - float(np.nanmedian(values))
        low, high = low + shift, high + shift
    low, high = min(low, value), max(high, value)
    return (max(0.0, low), min(1.0, high)) if scoring in _PROPORTIONS else (low, high)


def _jackknife_limits(sample: _Sample, value: float, confidence: float) -> tuple[float, float]:
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
    if sample.scoring not in _PROPORTIONS:
        return value - t * math.sqrt(variance), value + t * math.sqrt(variance)
    if variance < 1e-24 or not 0 < value < 1:
        return value, value
    return _wilson(value, min(len(sample.y), value * (1 - value) / variance), t)


@dataclass(frozen=True, eq=False)
class _Sample:
    """The rows, which unit each belongs to, and what is scored: gives the score at any weights of the units."""

    scoring: str
    y: np.ndarray
    predictions: Predictions
    codes: np.ndarray
    units: int
    kind: str
    n_classes: int

    def scores(self, weights: np.ndarray) -> np.ndarray:
        """Return the score for each row of weights, shape (b, units) -> (b,); NaN where it is undefined."""
        ranks = self.predictions.ranks
        if self.kind == "multi" and self.scoring == "average_precision" and ranks is not None:
            return resampled_precision(self.y, ranks, weights[:, self.codes])
        if not self.additive:
            return np.array([self._scikit_learns(counts.astype(int)) for counts in weights])
        # A resample's sums are its weights times the units' sums.
        sums = np.asarray((self._sums.T @ weights.T).T)
        if self.kind == "multi" and self.scoring != "accuracy":
            right, true, said = np.split(sums, 3, axis=1)
            return counted_f1(right, true, said, self.scoring)
        return _from_sums(self.scoring, sums, self.n_classes)

    @property
    def additive(self) -> bool:
        """Whether the score is a function of sums over the units."""
        return self.scoring in (_OF_TAGS if self.kind == "multi" else _ADDITIVE)

    @cached_property
    def _sums(self) -> sp.csr_array:
        return _unit_sums(self.scoring, self.y, self.predictions, self.codes, self.units, self.n_classes)

    @cached_property
    def _rows(self) -> list[np.ndarray]:
        order = np.argsort(self.codes, kind="stable")
        return np.split(order, np.searchsorted(self.codes[order], np.arange(1, self.units)))

    def _scikit_learns(self, counts: np.ndarray) -> float:
        rows = np.concatenate([np.tile(self._rows[unit], counts[unit]) for unit in np.flatnonzero(counts)])
        said = self.predictions.take(rows)
        try:
            return score_predictions(self.scoring, self.y[rows], said, kind=self.kind, n_classes=self.n_classes)
        except HeadError:  # without a class, say
            return math.nan


def _unit_sums(
    scoring: str, y: np.ndarray, predictions: Predictions, codes: np.ndarray, units: int, n_classes: int
) -> sp.csr_array:
    """Return the sums over each unit's rows that the score is a function of; sparse, shape (units, m)."""
    n, labels = len(y), predictions.labels
    ones = np.ones(n)
    if y.ndim == 2 and scoring != "accuracy":  # as below, a tag each
        counts = sp.csr_array(np.concatenate([y * labels, y, labels], axis=1).astype(float))
        return sp.csr_array(sp.csr_array((ones, (codes, np.arange(n))), shape=(units, n)) @ counts)
    if scoring in ("balanced_accuracy", "f1_macro"):  # right, true and predicted count a class
        right = np.flatnonzero(labels == y)
        rows = np.concatenate([codes[right], codes, codes])
        columns = np.concatenate([y[right], n_classes + y, 2 * n_classes + labels])
        data = np.ones(len(rows))
        return sp.csr_array(sp.coo_array((data, (rows, columns)), shape=(units, 3 * n_classes)))
    if scoring == "accuracy":
        right = (labels == y) if y.ndim == 1 else (labels == y).all(axis=1)
        parts = [right.astype(float), ones]
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


def _weights(units: int, resamples: int, random_state: int | None) -> Iterator[np.ndarray]:
    """Yield how often each unit is drawn in each resample, in blocks (b, units) that bound the memory."""
    rng = np.random.default_rng(random_state)
    block = max(1, _BLOCK_DRAWS // units)
    for start in range(0, resamples, block):
        b = min(block, resamples - start)
        drawn = rng.integers(units, size=(b, units))
        drawn += units * np.arange(b)[:, None]
        yield np.bincount(drawn.ravel(), minlength=b * units).reshape(b, units).astype(np.float64)
