"""Results in the layout of GridSearchCV's `cv_results_`, and the scores in them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin

from pipeline.search.predictions import Predictions, replay
from pipeline.search.scoring import OverAllClasses

Score = Callable[[np.ndarray, np.ndarray, Predictions], float]  # of a split's codes to learn and to test


def score_of(scoring: Any, kind: str, classes: np.ndarray | None) -> tuple[Score, bool] | None:
    """Return how predictions are scored, and whether labels are enough; None where only GridSearchCV can tell.

    A name is scikit-learn's scorer of that name, over the classes of the training part as scikit-learn has them.
    """
    from sklearn.metrics import get_scorer, get_scorer_names

    if isinstance(scoring, OverAllClasses):
        fits = scoring.kind == kind and (classes is None or scoring.n_classes >= len(classes))
        return (lambda train, y, said: scoring.of(y, said), scoring.labels_only) if fits else None
    name = scoring or ("accuracy" if kind == "class" else "r2")
    if not isinstance(name, str) or name not in get_scorer_names():
        return None
    if name == "accuracy" and kind == "class":
        return (lambda train, y, said: float(np.mean(said.labels == y))), True
    scorer = get_scorer(name)
    rows = [np.empty((0, 1), np.intp)]

    def score(train: np.ndarray, y: np.ndarray, said: Predictions) -> float:
        if len(rows[0]) != len(y):
            rows[0] = np.arange(len(y))[:, None]
        if classes is None:
            return float(scorer(replay(said, kind, 0), rows[0], y))
        return float(scorer(_replay(said, np.unique(train), classes), rows[0], classes[y]))

    return score, False


def _replay(said: Predictions, seen: np.ndarray, classes: np.ndarray) -> Any:
    if said.decision is not None:
        return _WithBoth(said, seen, classes)
    if said.probabilities is not None:
        return _WithProbabilities(said, seen, classes)
    return _FoldReplay(said, seen, classes) if said.scores is None else _WithScores(said, seen, classes)


class _FoldReplay(ClassifierMixin, BaseEstimator):
    """Says predictions again as the estimator would that a training part gave: with its classes, as they are named."""

    def __init__(self, said: Predictions, seen: np.ndarray, classes: np.ndarray) -> None:
        self.said, self.seen, self.classes = said, seen, classes
        self.classes_ = classes[seen]

    def fit(self, X: np.ndarray, y: np.ndarray) -> _FoldReplay:
        return self

    def predict(self, X: np.ndarray) -> np.ndarray:
        return self.classes[self.said.labels[X[:, 0]]]


class _WithProbabilities(_FoldReplay):
    def predict_proba(self, X: np.ndarray) -> np.ndarray:
        assert self.said.probabilities is not None
        return self.said.probabilities[np.ix_(X[:, 0], self.seen)]


class _WithBoth(_WithProbabilities):
    def decision_function(self, X: np.ndarray) -> np.ndarray:
        assert self.said.decision is not None
        return self.said.decision[X[:, 0]]


class _WithScores(_FoldReplay):
    def decision_function(self, X: np.ndarray) -> np.ndarray:
        assert self.said.scores is not None
        scores = self.said.scores[np.ix_(X[:, 0], self.seen)]
        return scores[:, 1] if len(self.seen) == 2 else scores


def layout(
    candidates: list[dict[str, Any]], scores: np.ndarray, fitting: np.ndarray, scored: np.ndarray
) -> dict[str, Any]:
    """Return scores and seconds, each of shape (candidates, splits), as GridSearchCV's `cv_results_`."""
    from scipy.stats import rankdata

    results: dict[str, Any] = {}
    for name, seconds in (("fit", fitting), ("score", scored)):
        results[f"mean_{name}_time"], results[f"std_{name}_time"] = seconds.mean(axis=1), seconds.std(axis=1)
    for key in sorted({key for candidate in candidates for key in candidate}):
        results[f"param_{key}"] = _masked([candidate.get(key, np.ma.masked) for candidate in candidates])
    results["params"] = candidates
    results |= {f"split{fold}_test_score": scores[:, fold] for fold in range(scores.shape[1])}
    mean = scores.mean(axis=1)
    results["mean_test_score"], results["std_test_score"] = mean, scores.std(axis=1)
    lowest = np.nan if np.isnan(mean).all() else np.nanmin(mean) - 1
    ranks = np.ones(len(mean)) if np.isnan(lowest) else rankdata(-np.where(np.isnan(mean), lowest, mean), method="min")
    results["rank_test_score"] = ranks.astype(np.int32)
    return results


def _masked(values: list[Any]) -> np.ma.MaskedArray:
    """Return one parameter's values, those that a candidate does not set masked."""
    mask = [value is np.ma.masked for value in values]
    there = np.array([value for value in values if value is not np.ma.masked])
    dtype = there.dtype if there.dtype.kind in "biuf" else np.dtype(object)
    column = np.ma.MaskedArray(np.empty(len(values), dtype), mask=mask)
    for place, value in enumerate(values):
        if not mask[place]:
            column[place] = value
    return column
