"""How a score is bootstrapped: `BootstrapSample` scores weighted rows or groups, `bootstrap_weights` draws the weights.

Most scores are functions of sums over the rows, so that a resample costs one sparse product instead of a call of
scikit-learn.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
import scipy.sparse as sp

from pipeline.errors import HeadError
from pipeline.search import Predictions, counted_f1, log_losses, resampled_precision, score_predictions

_ADDITIVE = ("accuracy", "balanced_accuracy", "f1_macro", "neg_log_loss", "r2", "neg_mean_absolute_error")
_OF_TAGS = ("accuracy", "f1_macro", "f1_micro")  # as _ADDITIVE, for several tags per image
_BLOCK_DRAWS = 4_000_000
_KEPT_DRAWS = 10_000_000  # of float64: 80 MB


@dataclass(frozen=True, eq=False)
class BootstrapSample:
    """Rows with the unit (row or group) that each belongs to; computes the score for given weights of the units."""

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
            return np.array([self._score_by_scikit_learn(counts.astype(int)) for counts in weights])
        # A resample's sums are its weights times the units' sums.
        sums = np.asarray((self._sums.T @ weights.T).T)
        if self.kind == "multi" and self.scoring != "accuracy":
            right, true, predicted = np.split(sums, 3, axis=1)
            return counted_f1(right, true, predicted, self.scoring)
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

    def _score_by_scikit_learn(self, counts: np.ndarray) -> float:
        rows = np.concatenate([np.tile(self._rows[unit], counts[unit]) for unit in np.flatnonzero(counts)])
        predictions = self.predictions.take(rows)
        try:
            return score_predictions(self.scoring, self.y[rows], predictions, kind=self.kind, n_classes=self.n_classes)
        except HeadError:  # for example, a resample without a class
            return math.nan


def _unit_sums(
    scoring: str, y: np.ndarray, predictions: Predictions, codes: np.ndarray, units: int, n_classes: int
) -> sp.csr_array:
    """Return the sums over each unit's rows that the score is a function of; sparse, shape (units, m)."""
    n, labels = len(y), predictions.labels
    ones = np.ones(n)
    if y.ndim == 2 and scoring != "accuracy":  # as below, per tag
        counts = sp.csr_array(np.concatenate([y * labels, y, labels], axis=1).astype(float))
        return sp.csr_array(sp.csr_array((ones, (codes, np.arange(n))), shape=(units, n)) @ counts)
    if scoring in ("balanced_accuracy", "f1_macro"):  # right, true and predicted counts per class
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
    else:  # r2; centered, or the variance would be lost in rounding next to the squared mean
        centered = y - y.mean()
        parts = [(y - labels) ** 2, centered, centered**2, ones]
    return sp.csr_array(np.column_stack([np.bincount(codes, weights=part, minlength=units) for part in parts]))


def _from_sums(scoring: str, sums: np.ndarray, n_classes: int) -> np.ndarray:
    """Return the score of each resample from its sums: (b, m) -> (b,); NaN where it is undefined."""
    with np.errstate(divide="ignore", invalid="ignore"):
        if scoring in ("balanced_accuracy", "f1_macro"):
            right, true, predicted = (sums[:, i * n_classes : (i + 1) * n_classes] for i in range(3))
            # As in scikit-learn: recall over the classes present, F1 over those present or predicted.
            part, whole = (right, true) if scoring == "balanced_accuracy" else (2 * right, true + predicted)
            present = whole > 0
            return np.where(present, part / np.where(present, whole, 1), 0).sum(axis=1) / present.sum(axis=1)
        if scoring == "r2":
            errors, total, squares, count = sums.T
            spread = squares - total**2 / count
            return np.where(spread > 1e-12 * squares, 1 - errors / spread, np.nan)
        return sums[:, 0] / sums[:, 1]


def bootstrap_weights(units: int, resamples: int, random_state: int | None) -> Iterable[np.ndarray]:
    """Yield how often each unit is drawn in each resample, in blocks (b, units) that bound the memory.

    A table of many heads and label sets needs the same draws repeatedly, so those of the last two sizes are kept.
    """
    if random_state is None or units * resamples > _KEPT_DRAWS:
        return _drawn(units, resamples, random_state)
    return _kept(units, resamples, random_state)


@lru_cache(maxsize=2)
def _kept(units: int, resamples: int, random_state: int) -> tuple[np.ndarray, ...]:
    blocks = tuple(_drawn(units, resamples, random_state))
    for block in blocks:
        block.flags.writeable = False
    return blocks


def _drawn(units: int, resamples: int, random_state: int | None) -> Iterator[np.ndarray]:
    rng = np.random.default_rng(random_state)
    block = max(1, _BLOCK_DRAWS // units)
    for start in range(0, resamples, block):
        b = min(block, resamples - start)
        drawn = rng.integers(units, size=(b, units))
        drawn += units * np.arange(b)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=b * units).reshape(b, units)
        yield counts.astype(
            np.float64, order="F"
        )  # scipy's product needs the transpose in C order, and would convert any other
