"""What a head says of rows, over all the classes; and an estimator that says it again for scikit-learn's scorers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin

from pipeline.search.solvers.backend import caught_warnings, one_thread

TAG_SCORINGS = frozenset((
    "average_precision", "roc_auc", "accuracy",
    *(f"{name}_{mean}" for name in ("f1", "precision", "recall", "jaccard")
      for mean in ("macro", "micro", "samples", "weighted")),
))  # fmt: skip


def tag_answers(estimator: Any, X: np.ndarray, *, labels_only: bool) -> tuple[np.ndarray, Any, Any]:
    """Return an estimator's tags, (n, c) int8, and probabilities or else scores, (n, c); the other two are None.

    Estimators that were not made for tags give a matrix a tag, a column for each answer seen: 0, 1, or both.
    """
    labels = np.asarray(estimator.predict(X)).astype(np.int8)
    if labels_only:
        return labels, None, None
    if hasattr(estimator, "predict_proba"):
        said = estimator.predict_proba(X)
        if isinstance(said, list):
            said = np.column_stack([_of_one(P, seen) for P, seen in zip(said, estimator.classes_, strict=True)])
        return labels, np.asarray(said, np.float64), None
    if hasattr(estimator, "decision_function"):
        scores = np.asarray(estimator.decision_function(X), np.float64)
        if scores.shape == labels.shape:
            return labels, None, scores
    return labels, None, labels.astype(np.float64)  # bare answers rank too, in two steps


def _of_one(P: np.ndarray, seen: np.ndarray) -> np.ndarray:
    there = np.flatnonzero(np.asarray(seen) == 1)
    return P[:, there[0]] if len(there) else np.zeros(len(P))


def average_precisions(y: np.ndarray, ranks: np.ndarray) -> np.ndarray:
    """Return each tag's average precision, (n, c), (n, c) -> (c,); NaN for a tag that no row has."""
    ones = np.ones((1, len(y)))
    return np.array([_average_precision(y[:, tag], ranks[:, tag], ones)[0] for tag in range(y.shape[1])])


def resampled_precision(y: np.ndarray, ranks: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the mean average precision at each row of weights, (b, n) -> (b,); NaN where no tag is there."""
    each = np.array([_average_precision(y[:, tag], ranks[:, tag], weights) for tag in range(y.shape[1])])
    there = ~np.isnan(each)
    with np.errstate(invalid="ignore"):
        return np.where(there, each, 0.0).sum(axis=0) / there.sum(axis=0)


def _average_precision(y: np.ndarray, ranks: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return one tag's average precision at each row of weights, (n,), (n,), (b, n) -> (b,)."""
    order = np.argsort(-ranks, kind="stable")
    positive = np.flatnonzero(y[order])
    if not len(positive):
        return np.full(len(weights), np.nan)
    sorted_ranks = ranks[order]  # compared, not subtracted: a tag that training never saw ranks at -inf
    steps = np.flatnonzero(np.append(sorted_ranks[1:] != sorted_ranks[:-1], True))  # where each run of equals ends
    # Recall rises only at the thresholds that an image with the tag passes, and they are few.
    hits, first = np.unique(np.searchsorted(steps, positive), return_index=True)
    passed = np.cumsum(weights[:, order], axis=1)[:, steps[hits]]  # (b, hits)
    found = np.add.reduceat(weights[:, order[positive]], first, axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        precision = np.cumsum(found, axis=1) / passed
        # A threshold at which no drawn image with the tag passes counts for nothing, 0/0 included.
        return np.asarray(np.where(found > 0, found * precision, 0.0).sum(axis=1) / found.sum(axis=1))


def counted_f1(right: np.ndarray, true: np.ndarray, said: np.ndarray, scoring: str) -> np.ndarray:
    """Return macro or micro F1 from each tag's counts, (..., c) -> (...); NaN where there is no tag at all.

    The macro mean is over the tags that are there or were predicted: scikit-learn's with `zero_division=nan`.
    """
    whole = true + said
    with np.errstate(divide="ignore", invalid="ignore"):
        if scoring == "f1_micro":
            return np.asarray(2 * right.sum(axis=-1) / whole.sum(axis=-1))
        some = whole > 0
        return np.asarray(np.where(some, 2 * right / np.where(some, whole, 1), 0).sum(axis=-1) / some.sum(axis=-1))


def score_tags(scoring: str, y: np.ndarray, labels: np.ndarray, ranks: np.ndarray | None) -> float | None:
    """Return the score of tags; None for a scoring that scikit-learn is to be asked for."""
    if scoring == "average_precision" and ranks is not None:
        each = average_precisions(y, ranks)
        return float(np.mean(each[~np.isnan(each)])) if not np.isnan(each).all() else float("nan")
    if scoring == "accuracy":
        return float(np.mean((y == labels).all(axis=1)))
    if scoring in ("f1_macro", "f1_micro"):
        true, said = y.astype(bool), labels.astype(bool)
        return float(counted_f1((true & said).sum(axis=0), true.sum(axis=0), said.sum(axis=0), scoring))
    return None


@dataclass(frozen=True, eq=False)
class Predictions:
    """What a head says of n rows.

    Parameters
    ----------
    labels : ndarray, shape (n,) or (n, n_classes)
        int64 codes, float64 numbers, or for several tags an image an int8 indicator.
    probabilities : ndarray of float64, shape (n, n_classes), or None
        Over all the classes (0 for a class that was not in training); rows sum to 1. Of tags each has its own.
    scores : ndarray of float64, shape (n, n_classes), or None
        The decision function, for heads without probabilities (-inf for a class that was not in training).
    decision : ndarray, shape (n,) or (n, classes in training), or None
        The decision function as scikit-learn gives it, of a head that has it beside probabilities: those may all be 1
        where it still tells rows apart. For scikit-learn's scorers that ask for it first.
    """

    labels: np.ndarray
    probabilities: np.ndarray | None = None
    scores: np.ndarray | None = None
    decision: np.ndarray | None = None

    @property
    def ranks(self) -> np.ndarray | None:
        """What tells how sure the head is, class by class: probabilities, or else scores; shape (n, n_classes)."""
        return self.scores if self.probabilities is None else self.probabilities

    def take(self, rows: np.ndarray) -> Predictions:
        """Return the predictions of some rows."""
        probabilities = None if self.probabilities is None else self.probabilities[rows]
        scores = None if self.scores is None else self.scores[rows]
        decision = None if self.decision is None else self.decision[rows]
        return Predictions(self.labels[rows], probabilities, scores, decision)


def predict_all(estimator: Any, X: np.ndarray, n_classes: int, kind: str, *, labels_only: bool = False) -> Predictions:
    """Return labels, and probabilities (or else scores) over all the classes, in the codes' order.

    A class that the estimator never saw gets probability 0 and score -inf. `labels_only` leaves both out: nearest
    neighbours would be sought twice for them.
    """
    with one_thread(), caught_warnings(type(estimator).__name__):
        if kind == "number":
            return Predictions(np.asarray(estimator.predict(X), dtype=np.float64).reshape(len(X)))
        if kind == "multi":
            return Predictions(*tag_answers(estimator, X, labels_only=labels_only))
        codes = np.asarray(estimator.predict(X)).astype(np.int64)
        if labels_only:
            return Predictions(codes)
        seen = np.asarray(estimator.classes_).astype(np.int64)
        if hasattr(estimator, "predict_proba"):
            return Predictions(codes, probabilities=over_all_classes(estimator.predict_proba(X), seen, n_classes))
        if not hasattr(estimator, "decision_function"):
            return Predictions(codes)
        raw = np.asarray(estimator.decision_function(X), dtype=np.float64)
        if raw.ndim == 1:  # two classes: one signed distance
            raw = np.column_stack([-raw, raw])
        if raw.shape[1] != len(seen):  # one column a pair of classes (ovo): no score for a class
            return Predictions(codes)
        scores = np.full((len(X), n_classes), -np.inf)
        scores[:, seen] = raw
        return Predictions(codes, scores=scores)


def best_guess(y: np.ndarray, kind: str, n_classes: int) -> Predictions:
    """Return the best guess that looks at no row, having learned from `y` itself how common everything is.

    Parameters
    ----------
    y : ndarray, shape (n,) or (n, n_classes)
        Codes, numbers, or an indicator of tags.
    kind : {"class", "number", "multi"}
    n_classes : int
    """
    if kind == "number":
        return Predictions(np.full(len(y), y.mean(dtype=np.float64)))
    if kind == "multi":
        shares = y.mean(axis=0, dtype=np.float64)
        return Predictions(np.tile((shares > 0.5).astype(np.int8), (len(y), 1)), np.tile(shares, (len(y), 1)))
    shares = np.bincount(y, minlength=n_classes) / len(y)
    return Predictions(np.full(len(y), shares.argmax()), np.tile(shares, (len(y), 1)))


def over_all_classes(probabilities: np.ndarray, seen: np.ndarray, n_classes: int) -> np.ndarray:
    """Return probabilities over all classes, in float64, rows summing to 1: (n, seen) -> (n, n_classes)."""
    P = np.zeros((len(probabilities), n_classes))
    P[:, seen] = probabilities
    total = P.sum(axis=1, keepdims=True)
    # float32 rows miss 1 by more than scikit-learn's metrics accept in float64.
    return np.divide(P, total, out=P, where=total > 0)


def replay(predictions: Predictions, kind: str, n_classes: int) -> Any:
    """Return an estimator that says these predictions again; its X is a column of row numbers."""
    if kind == "number":
        return _ReplayRegressor(predictions)
    if kind == "multi":
        return _ReplayTags(predictions, n_classes)
    if predictions.probabilities is not None:
        return _WithProbabilities(predictions, n_classes)
    if predictions.scores is not None:
        return _WithScores(predictions, n_classes)
    return _ReplayClassifier(predictions, n_classes)


class _ReplayClassifier(ClassifierMixin, BaseEstimator):
    """Says again what was predicted: X holds row numbers. For scikit-learn's scorers, which want an estimator."""

    def __init__(self, predictions: Predictions | None = None, n_classes: int = 0) -> None:
        self.predictions = predictions
        self.n_classes = n_classes

    def __sklearn_is_fitted__(self) -> bool:
        return True

    @property
    def classes_(self) -> np.ndarray:
        return np.arange(self.n_classes)

    def fit(self, X: np.ndarray, y: np.ndarray) -> _ReplayClassifier:
        return self

    def predict(self, X: np.ndarray) -> np.ndarray:
        assert self.predictions is not None
        return self.predictions.labels[X[:, 0]]


class _WithProbabilities(_ReplayClassifier):
    def predict_proba(self, X: np.ndarray) -> np.ndarray:
        assert self.predictions is not None and self.predictions.probabilities is not None
        return self.predictions.probabilities[X[:, 0]]


class _WithScores(_ReplayClassifier):
    def decision_function(self, X: np.ndarray) -> np.ndarray:
        assert self.predictions is not None and self.predictions.scores is not None
        scores = self.predictions.scores[X[:, 0]]
        return (scores[:, 1] - scores[:, 0]) / 2 if self.n_classes == 2 else scores


class _ReplayTags(_ReplayClassifier):
    def decision_function(self, X: np.ndarray) -> np.ndarray:
        assert self.predictions is not None
        ranks = self.predictions.ranks
        return self.predictions.labels[X[:, 0]] if ranks is None else ranks[X[:, 0]]


class _ReplayRegressor(RegressorMixin, BaseEstimator):
    def __init__(self, predictions: Predictions | None = None) -> None:
        self.predictions = predictions

    def __sklearn_is_fitted__(self) -> bool:
        return True

    def fit(self, X: np.ndarray, y: np.ndarray) -> _ReplayRegressor:
        return self

    def predict(self, X: np.ndarray) -> np.ndarray:
        assert self.predictions is not None
        return self.predictions.labels[X[:, 0]]
