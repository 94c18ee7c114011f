"""The search itself: shared work or GridSearchCV within the rows it may see, the choice refitted on all of them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.errors import HeadError
from pipeline.heads import Head
from pipeline.search.guard import caught_warnings, one_thread, summary
from pipeline.search.scoring import make_scorer, needs_probabilities
from pipeline.search.searcher import SharedGridSearchCV


@dataclass(frozen=True, eq=False)
class Fitted:
    """A head refitted on all the rows it was given, with what the search chose.

    Parameters
    ----------
    estimator : fitted scikit-learn estimator
    params : dict
        The chosen values by the estimator's own parameter names; empty without a grid.
    score : float or None
        Mean inner score of the chosen parameters (optimistic: it was chosen as the best); None without a search.
    warnings : tuple of str
        What the estimator warned of, counted.
    seconds : float
    """

    estimator: Any
    params: dict[str, Any]
    score: float | None
    warnings: tuple[str, ...]
    seconds: float


def search(
    head: Head,
    X: np.ndarray,
    y: np.ndarray,
    *,
    splits: Sequence[tuple[np.ndarray, np.ndarray]],
    scoring: str,
    labels: int,
    kind: str,
) -> Fitted:
    """Return the head with the parameters that score best over the splits, refitted on all rows of X.

    Parameters
    ----------
    head : Head
    X : ndarray, shape (n, d)
    y : ndarray, shape (n,)
        Codes 0..labels-1 (some may be absent), or numbers.
    splits : sequence of (train, test)
        Positions into X, from `inner_folds`. Not looked at when the grid holds a single combination: nothing is
        chosen then.
    scoring : str
    labels : int
        How many classes there are; 0 for numbers.
    kind : {"class", "number"}

    Raises
    ------
    HeadError
        The estimator failed (named, with its own words), or the scoring does not fit.
    """
    from sklearn.base import clone
    from sklearn.model_selection import ParameterGrid

    start = time.perf_counter()
    scorer = make_scorer(scoring, kind, labels)
    if needs_probabilities(scoring) and not head.probabilities:
        raise HeadError(
            f"scoring {scoring!r}: wanted probabilities, found none: head {head.name!r} gives none",
            "choose a head that gives them (see pipeline heads), or another --scoring",
        )
    smallest = min([len(train) for train, _ in splits], default=len(y))
    grid, said = _grid_that_fits(head, smallest, len(y))
    combinations = len(ParameterGrid(grid))
    score: float | None = None
    with one_thread(), caught_warnings(head.name) as caught:
        if combinations <= 1:
            params = {key: values[0] for key, values in grid.items()}
            fits = 1
            estimator = clone(head.estimator).set_params(**params).fit(X, y)
        else:
            if not len(splits):
                raise HeadError(
                    f"head {head.name!r}: wanted folds to choose among {combinations} combinations, found none",
                    "fix the parameters with --grid HEAD.PARAM=VALUE, or give more rows",
                )
            fits = combinations * len(splits) + 1
            searched = SharedGridSearchCV(
                head.estimator, grid, scoring=scorer, cv=list(splits), refit=_best_index, error_score="raise"
            ).fit(X, y)
            estimator, params = searched.best_estimator_, dict(searched.best_params_)
            scores = _fold_scores(searched.cv_results_)
            score = float(np.nanmean(scores[searched.best_index_]))
            undefined = int(np.isnan(scores).all(axis=0).sum())
            if undefined:
                said.append(f"{head.name}: {scoring} is undefined in {undefined} of {len(splits)} inner folds")
    return Fitted(estimator, params, score, (*said, *summary(head.name, caught, fits)), time.perf_counter() - start)


def _grid_that_fits(head: Head, smallest: int, n: int) -> tuple[dict[str, list[Any]], list[str]]:
    """Return the grid without the numbers of neighbours that a training part does not have, and say so."""
    grid, said = dict(head.grid), []
    for key, values in head.grid.items():
        if key.rpartition("__")[2] != "n_neighbors":
            continue
        # A single value is not searched: it is only fitted, on all the rows.
        rows = n if len(values) == 1 else smallest
        kept = [value for value in values if not isinstance(value, int | np.integer) or value <= rows]
        if not kept:
            raise HeadError(
                f"head {head.name!r}: wanted {min(values)} neighbours, found {rows} rows to learn from",
                f"pass --grid {head.name}.n_neighbors={rows}",
            )
        if len(kept) < len(values):
            grid[key] = kept
            gone = ", ".join(str(value) for value in values if value not in kept)
            said.append(f"{head.name}: n_neighbors {gone} left out: the smallest training part has {rows} rows")
    return grid, said


def _fold_scores(results: dict[str, Any]) -> np.ndarray:
    """Return GridSearchCV's scores, shape (combinations, folds)."""
    folds = sum(key.startswith("split") and key.endswith("_test_score") for key in results)
    return np.column_stack([results[f"split{fold}_test_score"] for fold in range(folds)])


def _best_index(results: dict[str, Any]) -> int:
    """Return the first of the best combinations, over the folds where the score is defined."""
    scores = _fold_scores(results)
    scores = scores[:, ~np.isnan(scores).all(axis=0)]
    if not scores.size or np.isnan(scores).any(axis=1).all():
        raise HeadError(
            "wanted a score that is defined in an inner fold, found none", "choose another --scoring, or add rows"
        )
    return int(np.argmax(np.nan_to_num(scores.mean(axis=1), nan=-np.inf)))
