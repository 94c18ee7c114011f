"""Predictions of a head over all classes, and an estimator that replays them for scikit-learn's scorers."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.utils.metaestimators import available_if

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
        votes = estimator.predict_proba(X)
        if isinstance(votes, list):
            votes = np.column_stack([_of_one(P, seen) for P, seen in zip(votes, estimator.classes_, strict=True)])
        return labels, np.asarray(votes, np.float64), None
    if hasattr(estimator, "decision_function"):
        scores = np.asarray(estimator.decision_function(X), np.float64)
        if scores.shape == labels.shape:
            return labels, None, scores
    return labels, None, labels.astype(np.float64)  # bare answers rank too, in two steps


def _of_one(P: np.ndarray, seen: np.ndarray) -> np.ndarray:
    present = np.flatnonzero(np.asarray(seen) == 1)
    return P[:, present[0]] if len(present) else np.zeros(len(P))


def average_precisions(y: np.ndarray, ranks: np.ndarray) -> np.ndarray:
    """Return each tag's average precision, (n, c), (n, c) -> (c,); NaN for a tag that no row has."""
    ones = np.ones((1, len(y)))
    return np.array([_average_precision(y[:, tag], ranks[:, tag], ones)[0] for tag in range(y.shape[1])])


def resampled_precision(y: np.ndarray, ranks: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the mean average precision at each row of weights, (b, n) -> (b,); NaN where no tag is present."""
    each = np.array([_average_precision(y[:, tag], ranks[:, tag], weights) for tag in range(y.shape[1])])
    present = ~np.isnan(each)
    with np.errstate(invalid="ignore"):
        return np.where(present, each, 0.0).sum(axis=0) / present.sum(axis=0)


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


def counted_f1(right: np.ndarray, true: np.ndarray, predicted: np.ndarray, scoring: str) -> np.ndarray:
    """Return macro or micro F1 from each tag's counts, (..., c) -> (...); NaN where there is no tag at all.

    The macro mean is over the tags that are there or were predicted: scikit-learn's with `zero_division=nan`.
    """
    whole = true + predicted
    with np.errstate(divide="ignore", invalid="ignore"):
        if scoring == "f1_micro":
            return np.asarray(2 * right.sum(axis=-1) / whole.sum(axis=-1))
        present = whole > 0
        return np.asarray(
            np.where(present, 2 * right / np.where(present, whole, 1), 0).sum(axis=-1) / present.sum(axis=-1)
        )


def score_tags(scoring: str, y: np.ndarray, labels: np.ndarray, ranks: np.ndarray | None) -> float | None:
    """Return the score of tags; None for a scoring that scikit-learn computes."""
    if scoring == "average_precision" and ranks is not None:
        each = average_precisions(y, ranks)
        return float(np.mean(each[~np.isnan(each)])) if not np.isnan(each).all() else float("nan")
    if scoring == "accuracy":
        return float(np.mean((y == labels).all(axis=1)))
    if scoring in ("f1_macro", "f1_micro"):
        true, predicted = y.astype(bool), labels.astype(bool)
        return float(counted_f1((true & predicted).sum(axis=0), true.sum(axis=0), predicted.sum(axis=0), scoring))
    return None


@dataclass(frozen=True, eq=False)
class Predictions:
    """The predictions of a head for n rows.

    Parameters
    ----------
    labels : ndarray, shape (n,) or (n, n_classes)
        int64 codes, float64 numbers, or for several tags per image an int8 indicator.
    probabilities : ndarray of float64, shape (n, n_classes), or None
        Over all the classes (0 for a class that was not in training); rows sum to 1. Of tags each has its own.
    scores : ndarray of float64, shape (n, n_classes), or None
        The decision function, for heads without probabilities (-inf for a class that was not in training).
    decision : ndarray, shape (n,) or (n, classes in training), or None
        The decision function as scikit-learn gives it, of a head that has it beside probabilities: those may all be 1
        where it still tells rows apart. scikit-learn's scorers that prefer it use it.
    """

    labels: np.ndarray
    probabilities: np.ndarray | None = None
    scores: np.ndarray | None = None
    decision: np.ndarray | None = None

    @property
    def ranks(self) -> np.ndarray | None:
        """The head's confidence in each class: probabilities, or else scores; shape (n, n_classes)."""
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
    """Return the best constant prediction: the class shares, tag shares or mean of `y` itself.

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
    """Return an estimator whose predictions are these; its X is a column of row numbers.

    A scorer that accepts both probabilities and a decision function gets the probabilities.
    """
    if kind == "number":
        return _ReplayRegressor(predictions)
    if kind == "multi":
        return _ReplayTags(predictions, np.arange(n_classes))
    return ReplayClassifier(replace(predictions, decision=None), np.arange(n_classes))


def _has_probabilities(estimator: ReplayClassifier) -> bool:
    return estimator.predictions.probabilities is not None


def _has_decision(estimator: ReplayClassifier) -> bool:
    # Scores stand in for a decision function only of heads without probabilities.
    found = estimator.predictions
    return found.decision is not None or (found.probabilities is None and found.scores is not None)


class ReplayClassifier(ClassifierMixin, BaseEstimator):
    """Classifier that returns stored predictions: scikit-learn's scorers need an estimator.

    Parameters
    ----------
    predictions : Predictions
        Their rows are numbered by the only column of X.
    classes : ndarray, shape (n_classes,)
        The class of each code.
    seen : ndarray of int64, optional
        Codes of the classes in the training part, ascending; all of them by default.
    """

    def __init__(self, predictions: Predictions, classes: np.ndarray, seen: np.ndarray | None = None) -> None:
        self.predictions = predictions
        self.classes = classes
        self.seen = seen

    def __sklearn_is_fitted__(self) -> bool:
        return True

    @property
    def classes_(self) -> np.ndarray:
        return self.classes if self.seen is None else self.classes[self.seen]

    def fit(self, X: np.ndarray, y: np.ndarray) -> ReplayClassifier:
        return self

    def predict(self, X: np.ndarray) -> np.ndarray:
        return self.classes[self.predictions.labels[X[:, 0]]]

    @available_if(_has_probabilities)
    def predict_proba(self, X: np.ndarray) -> np.ndarray:
        return self._columns(self.predictions.probabilities, X)

    @available_if(_has_decision)
    def decision_function(self, X: np.ndarray) -> np.ndarray:
        if self.predictions.decision is not None:
            return self.predictions.decision[X[:, 0]]
        scores = self._columns(self.predictions.scores, X)
        # scikit-learn's decision function of two classes is one signed distance.
        return (scores[:, 1] - scores[:, 0]) / 2 if len(self.classes_) == 2 else scores

    def _columns(self, values: np.ndarray | None, X: np.ndarray) -> np.ndarray:
        assert values is not None
        return values[X[:, 0]] if self.seen is None else values[np.ix_(X[:, 0], self.seen)]


class _ReplayTags(ReplayClassifier):
    def predict(self, X: np.ndarray) -> np.ndarray:
        return self.predictions.labels[X[:, 0]]

    @available_if(lambda estimator: False)
    def predict_proba(self, X: np.ndarray) -> np.ndarray:
        raise AssertionError

    def decision_function(self, X: np.ndarray) -> np.ndarray:
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
