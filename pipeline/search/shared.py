"""Shared search: every combination of a grid, for many label sets at once, from work done once a fold.

It covers `ridge`, `lda` and `knn` as the catalogue makes them, with grids over the parameters that share their work.
Whatever is outside that is GridSearchCV's.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.heads.catalogue import RECIPES
from pipeline.search.closed_form import (
    NotCoveredError,
    class_target,
    discriminants,
    number_target,
    products,
    ridge_classes,
    ridge_numbers,
)
from pipeline.search.neighbours import neighbour_classes, neighbour_numbers, neighbours
from pipeline.search.predictions import Predictions
from pipeline.search.scoring import score_predictions
from pipeline.search.spectrum import spectrum, standardised

Folds = Sequence[tuple[np.ndarray, np.ndarray]]


def _is_alpha(value: Any) -> bool:
    return _is_number(value) and bool(1e-3 <= value < np.inf)


def _is_shrinkage(value: Any) -> bool:
    return _is_number(value) and bool(1e-3 <= value <= 1)


def _is_count(value: Any) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool) and bool(value >= 1)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)


# Of each head, the parameters that share their work, and the values for which they do.
_COVERED: dict[str, dict[str, Callable[[Any], bool]]] = {
    "ridge": {"alpha": _is_alpha},
    "lda": {"shrinkage": _is_shrinkage},
    "knn": {"n_neighbors": _is_count, "weights": lambda value: value in ("uniform", "distance")},
}


@dataclass(frozen=True)
class SharedHead:
    """A head whose grid shares its work.

    Parameters
    ----------
    solver : {"ridge", "lda", "knn"}
    kind : {"class", "number"}
    candidates : list of dict
        The grid's combinations, in GridSearchCV's order.
    values : list of tuple
        Each candidate's values of the solver's parameters.
    """

    solver: str
    kind: str
    candidates: list[dict[str, Any]]
    values: list[tuple[Any, ...]]


def shared_head(estimator: Any, grid: dict[str, list[Any]], kind: str) -> SharedHead | None:
    """Return how the head shares its work; None where it does not: another estimator, parameter or value."""
    from sklearn.model_selection import ParameterGrid
    from sklearn.pipeline import Pipeline

    if type(estimator) is not Pipeline:
        return None
    for solver, covered in _COVERED.items():
        if solver not in RECIPES[kind]:
            continue
        known = RECIPES[kind][solver].make(None)
        step = known.steps[-1][0]
        names = [f"{step}__{param}" for param in covered]
        if not set(grid) <= set(names) or not _same(estimator, known, names):
            continue
        own = estimator.get_params()
        candidates = list(ParameterGrid(grid))
        values = [tuple(candidate.get(name, own[name]) for name in names) for candidate in candidates]
        checks = list(covered.values())
        if all(check(value) for row in values for check, value in zip(checks, row, strict=True)):
            return SharedHead(solver, kind, candidates, values)
    return None


def _same(estimator: Any, known: Any, free: Sequence[str]) -> bool:
    """Say whether both are the same steps with the same parameters, apart from those that are free."""
    if [(name, type(step)) for name, step in estimator.steps] != [(name, type(step)) for name, step in known.steps]:
        return False
    steps = {"steps", *(name for name, _ in known.steps)}
    wanted = {key: value for key, value in known.get_params().items() if key not in steps and key not in free}
    found = {key: value for key, value in estimator.get_params().items() if key not in steps and key not in free}
    return repr(sorted(wanted.items())) == repr(sorted(found.items()))


def fold_predictions(
    heads: Sequence[SharedHead], X: np.ndarray, ys: Sequence[np.ndarray], splits: Folds, labels: Sequence[int]
) -> Iterator[tuple[int, int, int, list[Predictions]]]:
    """Give (fold, head, label set, predictions of the fold's test rows by each candidate), a fold at a time.

    Parameters
    ----------
    heads : sequence of SharedHead
        All of them share each fold's standardisation, those of `ridge` and `lda` its spectrum.
    X : ndarray, shape (n, d)
    ys : sequence of ndarray, shape (n,)
        The label sets: codes 0..labels-1, or numbers.
    splits : sequence of (train, test)
        Positions into X, shared by all label sets.
    labels : sequence of int
        Classes of each label set; 0 for numbers.

    Raises
    ------
    NotCoveredError
        A training part wants scikit-learn itself: it holds one class, or (lda) a class of a single row.
    """
    if not all(np.isfinite(values).all() for values in (X, *ys)):
        raise NotCoveredError  # scikit-learn has its own words for these
    ks = [k for head in heads if head.solver == "knn" for k, _ in head.values]
    sized = list(zip(ys, labels, strict=True))
    for fold, (train, test) in enumerate(splits):
        Z, asked = standardised(X, train, test)
        near = neighbours(Z, asked, ks) if ks else None
        whole, targets, sums = None, [], []
        if any(head.solver != "knn" for head in heads):
            whole = spectrum(Z, asked)
            targets = [class_target(y[train]) if n else number_target(y[train], Z.dtype) for y, n in sized]
            sums = products(whole, targets)
        for place, head in enumerate(heads):
            first = [value[0] for value in head.values]
            for which, (y, n) in enumerate(sized):
                if head.solver == "knn":
                    assert near is not None
                    if n:
                        said = neighbour_classes(near, y[train], head.values, n)
                    else:
                        said = neighbour_numbers(near, y[train], head.values)
                else:
                    assert whole is not None
                    if n:
                        solve = ridge_classes if head.solver == "ridge" else discriminants
                        said = solve(whole, targets[which], sums[which], first, n)
                    else:
                        said = ridge_numbers(whole, targets[which], sums[which], first)
                yield fold, place, which, list(said)


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
    for fold, place, which, said in fold_predictions(heads, X, ys, splits, labels):
        fitted = time.perf_counter()
        fitting[place][which, :, fold] = (fitted - before) / len(said)
        truth, head, count = ys[which][splits[fold][1]], heads[place], labels[which]
        for candidate, predictions in enumerate(said):
            scores[place][which, candidate, fold] = score_predictions(
                scoring, truth, predictions, kind=head.kind, n_classes=count
            )
        before = time.perf_counter()
        scored[place][which, :, fold] = (before - fitted) / len(said)
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
