"""How are a head's parameters chosen? Every candidate is scored over the folds, the best is refitted on all rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from warnings import WarningMessage

import numpy as np

from pipeline.errors import HeadError
from pipeline.heads import Head
from pipeline.search.engine import SharedTask, shared_candidates, shared_scores
from pipeline.search.scoring import make_scorer, needs_probabilities
from pipeline.search.solvers.backend import caught_warnings, one_thread, summarize_warnings

Params = dict[str, Any]
Folds = Sequence[tuple[np.ndarray, np.ndarray]]


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
        The estimator's warnings, counted.
    """

    estimator: Any
    params: Params
    score: float | None
    warnings: tuple[str, ...]


def search(
    head: Head,
    X: np.ndarray,
    y: np.ndarray,
    *,
    splits: Folds,
    scoring: str,
    labels: int,
    kind: str,
    candidates: Sequence[Params] | None = None,
) -> Fitted:
    """Return the head with the parameters that score best over the splits, refitted on all rows of X.

    Parameters
    ----------
    head : Head
    X : ndarray, shape (n, d)
    y : ndarray, shape (n,)
        Codes 0..labels-1 (some may be absent), or numbers.
    splits : sequence of (train, test)
        Positions into X, from `inner_folds`. Not looked at where there is a single combination: nothing is chosen then.
    scoring : str
    labels : int
        How many classes there are; 0 for numbers.
    kind : {"class", "number", "multi"}
    candidates : sequence of dict, optional
        The combinations to choose among; by default those of the head's grid that fit (`candidates_of`).

    Raises
    ------
    HeadError
        The estimator failed (named, with its own message), or the scoring does not fit.
    """
    check_scoring_fits(head, scoring)
    notes: list[str] = []
    if candidates is None:
        smallest = min([len(train) for train, _ in splits], default=len(y))
        candidates, notes = candidates_of(head, smallest, len(y))
    params, fits = candidates[0], 1
    score: float | None = None
    caught: list[WarningMessage] = []
    if len(candidates) > 1:
        if not len(splits):
            raise HeadError(
                f"head {head.name!r}: expected folds to choose among {len(candidates)} combinations, got none",
                "fix the parameters with --grid HEAD.PARAM=VALUE, or give more rows",
            )
        scores, caught = candidate_scores(
            head, candidates, X, y, splits=splits, scoring=scoring, labels=labels, kind=kind
        )
        chosen, score = best_of(scores)
        params = candidates[chosen]
        notes += describe_scores(head, scoring, scores)
        fits += scores.size
    estimator, more = fit_head(head, params, X, y)
    return Fitted(estimator, params, score, (*notes, *summarize_warnings(head.name, [*caught, *more], fits)))


def check_scoring_fits(head: Head, scoring: str) -> None:
    """Raise `HeadError` for a scoring that is about probabilities where the head gives none."""
    if needs_probabilities(scoring) and not head.probabilities:
        raise HeadError(
            f"scoring {scoring!r}: expected probabilities, got none: head {head.name!r} gives none",
            "choose a head that gives them (see pipeline heads), or another --scoring",
        )


def candidates_of(head: Head, smallest: int, n: int) -> tuple[list[Params], list[str]]:
    """Return the combinations of the head's grid, in GridSearchCV's order, and what was left out of it.

    Parameters
    ----------
    head : Head
    smallest : int
        Rows of the smallest training part of the search.
    n : int
        Rows that the chosen one is fitted on.
    """
    from sklearn.model_selection import ParameterGrid

    grid, notes = _grid_that_fits(head, smallest, n)
    return list(ParameterGrid(grid)), notes


def candidate_scores(
    head: Head,
    candidates: Sequence[Params],
    X: np.ndarray,
    y: np.ndarray,
    *,
    splits: Folds,
    scoring: str,
    labels: int,
    kind: str,
    share: bool = True,
) -> tuple[np.ndarray, list[WarningMessage]]:
    """Return each candidate's score over each split, (candidates, splits), and what the fits warned of.

    By shared work where the head's parameters and the rows allow it, unless `share` is false; otherwise GridSearchCV.
    """
    from sklearn.model_selection import GridSearchCV

    with one_thread(), caught_warnings(head.name) as caught:
        covered = shared_candidates(head.estimator, candidates, head.kind) if share else None
        if covered is not None:
            ((scores,),) = shared_scores(X, [SharedTask([covered], y, splits, labels)], [scoring])
            if scores is not None:
                return scores, []
        searched = GridSearchCV(
            head.estimator,
            [{name: [value] for name, value in candidate.items()} for candidate in candidates],
            scoring=make_scorer(scoring, kind, labels),
            cv=list(splits),
            refit=False,
            error_score="raise",
        ).fit(X, y)
    scores = np.column_stack([searched.cv_results_[f"split{fold}_test_score"] for fold in range(len(splits))])
    return scores, caught


def fit_head(head: Head, params: Params, X: np.ndarray, y: np.ndarray) -> tuple[Any, list[WarningMessage]]:
    """Return the head's own estimator with these parameters, fitted, and what it warned of."""
    from sklearn.base import clone

    with one_thread(), caught_warnings(head.name) as caught:
        estimator = clone(head.estimator).set_params(**params).fit(X, y)
    return estimator, caught


def best_of(scores: np.ndarray) -> tuple[int, float]:
    """Return the first of the best candidates, and its mean score over the folds where the score is defined.

    Parameters
    ----------
    scores : ndarray, shape (candidates, folds)

    Raises
    ------
    HeadError
        No candidate has a score in any fold.
    """
    defined = scores[:, ~np.isnan(scores).all(axis=0)]
    if not defined.size or np.isnan(defined).any(axis=1).all():
        raise HeadError(
            "expected a score that is defined in an inner fold, got none", "choose another --scoring, or add rows"
        )
    means = defined.mean(axis=1)
    chosen = int(np.argmax(np.nan_to_num(means, nan=-np.inf)))
    return chosen, float(means[chosen])


def describe_scores(head: Head, scoring: str, scores: np.ndarray) -> list[str]:
    """Return a note on the number of folds where the score is undefined."""
    undefined = int(np.isnan(scores).all(axis=0).sum())
    return [f"{head.name}: {scoring} is undefined in {undefined} of {scores.shape[1]} inner folds"] if undefined else []


def _grid_that_fits(head: Head, smallest: int, n: int) -> tuple[dict[str, list[Any]], list[str]]:
    """Return the grid without the numbers of neighbours that a training part does not have, and say so."""
    grid, notes = dict(head.grid), []
    for key, values in head.grid.items():
        if key.rpartition("__")[2] != "n_neighbors":
            continue
        # A single value is not searched: it is only fitted, on all the rows.
        rows = n if len(values) == 1 else smallest
        kept = [value for value in values if not isinstance(value, int | np.integer) or value <= rows]
        if not kept:
            raise HeadError(
                f"head {head.name!r}: expected {min(values)} neighbours, got {rows} training rows",
                f"pass --grid {head.name}.n_neighbors={rows}",
            )
        if len(kept) < len(values):
            grid[key] = kept
            gone = ", ".join(str(value) for value in values if value not in kept)
            notes.append(f"{head.name}: n_neighbors {gone} left out: the smallest training part has {rows} rows")
    return grid, notes
