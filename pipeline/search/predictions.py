"""What a head says of rows, over all the classes; and an estimator that says it again for scikit-learn's scorers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin

from pipeline.search.guard import caught_warnings, one_thread
from pipeline.search.tags import tag_answers


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
