"""Shared search with what GridSearchCV has: `cv_results_` in its layout, the chosen candidate refitted."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from pipeline.search.covered import SharedHead
from pipeline.search.scoring import score_predictions
from pipeline.search.shared import Folds, SharedTask, shared_predictions
from pipeline.search.targets import NotCoveredError


def shared_results(
    heads: Sequence[SharedHead],
    X: np.ndarray,
    ys: Sequence[np.ndarray],
    *,
    splits: Folds,
    scoring: str,
    labels: Sequence[int],
) -> list[list[dict[str, Any]]]:
    """Return results in the layout of GridSearchCV's `cv_results_`, [head][label set].

    The times are each candidate's part of the shared work.
    """
    shapes = [(len(ys), len(head.candidates), len(splits)) for head in heads]
    scores = [np.full(shape, np.nan) for shape in shapes]
    fitting, scored = ([np.zeros(shape) for shape in shapes] for _ in range(2))
    before = time.perf_counter()
    tasks = [SharedTask(heads, y, splits, count) for y, count in zip(ys, labels, strict=True)]
    for said in shared_predictions(X, tasks):
        if said.predictions is None:
            raise NotCoveredError
        fitted = time.perf_counter()
        place, which, fold = said.head, said.task, said.split
        fitting[place][which, :, fold] = (fitted - before) / len(said.predictions)
        truth, head, count = ys[which][splits[fold][1]], heads[place], labels[which]
        for candidate, predictions in enumerate(said.predictions):
            scores[place][which, candidate, fold] = score_predictions(
                scoring, truth, predictions, kind=head.kind, n_classes=count
            )
        before = time.perf_counter()
        scored[place][which, :, fold] = (before - fitted) / len(said.predictions)
    return [
        [
            _layout(head.candidates, scores[place][which], fitting[place][which], scored[place][which])
            for which in range(len(ys))
        ]
        for place, head in enumerate(heads)
    ]


def _layout(
    candidates: list[dict[str, Any]], scores: np.ndarray, fitting: np.ndarray, scored: np.ndarray
) -> dict[str, Any]:
    from scipy.stats import rankdata

    results: dict[str, Any] = {}
    for name, seconds in (("fit", fitting), ("score", scored)):
        results[f"mean_{name}_time"], results[f"std_{name}_time"] = seconds.mean(axis=1), seconds.std(axis=1)
    for key in sorted({key for candidate in candidates for key in candidate}):
        values = np.array([candidate[key] for candidate in candidates])
        results[f"param_{key}"] = np.ma.MaskedArray(values.astype(object) if values.dtype.kind in "US" else values)
    results["params"] = candidates
    results |= {f"split{fold}_test_score": scores[:, fold] for fold in range(scores.shape[1])}
    mean = scores.mean(axis=1)
    results["mean_test_score"], results["std_test_score"] = mean, scores.std(axis=1)
    lowest = np.nan if np.isnan(mean).all() else np.nanmin(mean) - 1
    ranks = np.ones(len(mean)) if np.isnan(lowest) else rankdata(-np.where(np.isnan(mean), lowest, mean), method="min")
    results["rank_test_score"] = ranks.astype(np.int32)
    return results


class SharedSearch:
    """As GridSearchCV for one label set: `cv_results_`, `best_index_`, `best_params_`, `best_estimator_`.

    Parameters
    ----------
    estimator : Pipeline
        As the catalogue makes it. What is refitted is a clone of it: scikit-learn's own.
    head : SharedHead
    scoring : str
    labels : int
    cv : sequence of (train, test)
    refit : callable
        From `cv_results_` to the place of the chosen candidate.
    """

    def __init__(
        self,
        estimator: Any,
        head: SharedHead,
        *,
        scoring: str,
        labels: int,
        cv: Folds,
        refit: Callable[[dict[str, Any]], int],
    ) -> None:
        self.estimator = estimator
        self.head = head
        self.scoring = scoring
        self.labels = labels
        self.cv = cv
        self.refit = refit

    def fit(self, X: np.ndarray, y: np.ndarray) -> SharedSearch:
        """Score every candidate over the folds and refit the chosen one on all rows."""
        from sklearn.base import clone

        ((self.cv_results_,),) = shared_results(
            [self.head], X, [y], splits=self.cv, scoring=self.scoring, labels=[self.labels]
        )
        self.best_index_ = self.refit(self.cv_results_)
        self.best_params_ = self.head.candidates[self.best_index_]
        self.best_estimator_ = clone(self.estimator).set_params(**self.best_params_).fit(X, y)
        return self
