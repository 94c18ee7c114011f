"""One unit of work: one head searched and fitted on one part of the rows, asked about the others.

Units run in worker processes. They get the places of rows and their numbers, never copies of the features, and a unit
fits nothing outside the rows it trains on.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from joblib import Parallel, delayed

from pipeline.cache import StoredRows
from pipeline.engines import deaf_to_ctrl_c
from pipeline.errors import EvaluationError
from pipeline.heads import Head
from pipeline.search import Predictions, make_scorer, predict_all, search
from pipeline.splits import inner_folds

# Few rows are learned in less time than worker processes need to start.
FEWEST_ROWS = 2000

Folds = Sequence[tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True, eq=False)
class Unit:
    """What to train and what to ask.

    Attributes
    ----------
    key : tuple
        Whose result this is.
    head : Head
    X : StoredRows, shape (n, d)
        All rows of a cache.
    train : ndarray of int64, shape (m,)
        Rows of X to learn from.
    y, groups : ndarray, shape (m,)
        Of those rows; groups may be None.
    ask_X : StoredRows, shape (k, d)
        As X: of the same cache, or of a test set's own.
    ask : ndarray of int64
        Rows of `ask_X` to ask about; may be empty.
    scoring : str
        What the inner search chooses by.
    kind : {"class", "number"}
    n_classes : int
    cv : int
        Inner folds wanted.
    random_state : int
    together : ndarray, shape (m,), optional
        One code a set of copies, which stay on one side of every inner split.
    folds : sequence of (train, test), optional
        Positions into `train` to search over, instead of inner folds.
    compared : bool
        Whether an inner score is wanted even where there is nothing to choose.
    lenient : bool
        Whether the estimator's own parameters will do where the rows cannot be split again: a null must not stop what
        is held against it.
    """

    key: tuple[Any, ...]
    head: Head
    X: StoredRows
    train: np.ndarray
    y: np.ndarray
    groups: np.ndarray | None
    ask_X: StoredRows
    ask: np.ndarray
    scoring: str
    kind: str
    n_classes: int
    cv: int
    random_state: int
    together: np.ndarray | None = None
    folds: Folds = ()
    compared: bool = False
    lenient: bool = False


@dataclass(frozen=True, eq=False)
class UnitResult:
    """What a head said of the rows it was asked about, and what was chosen for it to say that.

    `inner_score` is None where nothing was chosen or compared; `predictions` is None where nothing was asked.
    """

    key: tuple[Any, ...]
    predictions: Predictions | None
    params: dict[str, Any]
    inner_score: float | None
    warnings: tuple[str, ...]
    seconds: float


def run_units(units: Sequence[Unit], *, n_jobs: int) -> Iterator[UnitResult]:
    """Give the results as they are done, in any order; in this process where there is little to do."""
    rows = sum(len(unit.train) for unit in units)
    workers = 1 if rows < FEWEST_ROWS else n_jobs
    with deaf_to_ctrl_c():
        done = Parallel(n_jobs=workers, return_as="generator_unordered")(delayed(run_unit)(unit) for unit in units)
    yield from done


def run_unit(unit: Unit) -> UnitResult:
    """Search, refit and predict."""
    started = time.perf_counter()
    estimator, params, score, warnings = fit_unit(unit)
    predictions = None
    if len(unit.ask):
        predictions = predict_all(estimator, gather(unit.ask_X, unit.ask), unit.n_classes, unit.kind)
    return UnitResult(unit.key, predictions, params, score, warnings, time.perf_counter() - started)


def fit_unit(unit: Unit) -> tuple[Any, dict[str, Any], float | None, tuple[str, ...]]:
    """Return the fitted estimator, its chosen parameters, their inner score and what it warned of."""
    X, head, folds = gather(unit.X, unit.train), unit.head, unit.folds
    choosing = combinations(head) > 1
    if choosing and not len(folds):
        try:
            folds = _inner_folds(unit)
        except EvaluationError:
            if not unit.lenient:
                raise
            head = replace(head, grid={})
    fitted = search(head, X, unit.y, splits=folds, scoring=unit.scoring, labels=unit.n_classes, kind=unit.kind)
    score = fitted.score if choosing or not unit.compared else _inner_score(unit, X)
    return fitted.estimator, fitted.params, score, fitted.warnings


def _inner_folds(unit: Unit) -> Folds:
    return inner_folds(
        unit.y, unit.kind, groups=unit.groups, together=unit.together, cv=unit.cv, random_state=unit.random_state
    )


def _inner_score(unit: Unit, X: np.ndarray) -> float | None:
    """Return the mean score over the inner folds of a head without a grid, to compare it with those that have one.

    None where the rows cannot be split again: nothing has to be chosen, so that is no reason to stop.
    """
    y = unit.y
    try:
        folds = _inner_folds(unit)
    except EvaluationError:
        return None
    scorer = make_scorer(unit.scoring, unit.kind, unit.n_classes)
    scores = []
    for train, test in folds:
        fitted = search(
            unit.head, X[train], y[train], splits=(), scoring=unit.scoring, labels=unit.n_classes, kind=unit.kind
        )
        scores.append(scorer(fitted.estimator, X[test], y[test]))
    # As in a search: a fold where the score is undefined says nothing.
    return None if np.isnan(scores).all() else float(np.nanmean(scores))


def combinations(head: Head) -> int:
    """Return how many parameter combinations the head's grid holds."""
    return int(np.prod([len(values) for values in head.grid.values()], dtype=np.int64))


def gather(X: StoredRows, rows: np.ndarray) -> np.ndarray:
    """Return the rows as float32 in memory, ``(len(rows), d)``."""
    return np.asarray(X[rows], dtype=np.float32)
