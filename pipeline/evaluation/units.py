"""One unit of work: one head searched and fitted on one part of the rows, asked about the others.

Units run in worker processes. They get memory maps and row numbers, never copies of the features, and a unit fits
nothing outside the rows it trains on.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from joblib import Parallel, delayed

from pipeline.heads import Head
from pipeline.search import Predictions, make_scorer, predict_all, search
from pipeline.splits import inner_folds

# Few rows are scored in less time than worker processes need to start.
FEWEST_ROWS_TIMES_UNITS = 2000


@dataclass(frozen=True, eq=False)
class Unit:
    """What to train and what to ask.

    Attributes
    ----------
    key : tuple
        Whose result this is.
    head : Head
    X : ndarray, shape (n, d)
        All rows of a cache, as a memory map.
    rows : ndarray of int64, shape (m,)
        The labelled rows of X.
    y : ndarray, shape (m,)
    groups : ndarray, shape (m,), or None
    train : ndarray of int64
        Positions into `rows` to learn from.
    test : ndarray of int64
        Positions into `rows` to ask about; rows of `test_X` where that is given. May be empty.
    test_X : ndarray or None
        Features of a test set of its own.
    scoring : str
        What the inner search chooses by.
    """

    key: tuple[Any, ...]
    head: Head
    X: np.ndarray
    rows: np.ndarray
    y: np.ndarray
    groups: np.ndarray | None
    train: np.ndarray
    test: np.ndarray
    test_X: np.ndarray | None
    scoring: str
    kind: str
    n_classes: int
    cv: int
    random_state: int
    folds: tuple[tuple[np.ndarray, np.ndarray], ...] = ()  # given: searched over these instead of inner folds
    compared: bool = False  # whether an inner score is wanted even where there is nothing to choose


@dataclass(frozen=True, eq=False)
class UnitResult:
    """What a head said of the test rows, and what was chosen for it to say that."""

    key: tuple[Any, ...]
    test: np.ndarray
    predictions: Predictions
    params: dict[str, Any]
    inner_score: float | None
    warnings: tuple[str, ...]
    seconds: float


def run_units(units: Sequence[Unit], *, n_jobs: int) -> Iterator[UnitResult]:
    """Give the results as they are done, in any order; in this process where `n_jobs` is 1."""
    rows = sum(len(unit.train) for unit in units)
    workers = 1 if rows < FEWEST_ROWS_TIMES_UNITS else n_jobs
    yield from Parallel(n_jobs=workers, return_as="generator_unordered")(delayed(run_unit)(unit) for unit in units)


def run_unit(unit: Unit) -> UnitResult:
    """Search, refit and predict."""
    started = time.perf_counter()
    estimator, params, score, warnings = fit_unit(unit)
    if len(unit.test):
        X = gather(unit.X, unit.rows[unit.test]) if unit.test_X is None else gather(unit.test_X, unit.test)
        predictions = predict_all(estimator, X, unit.n_classes, unit.kind)
    else:
        predictions = Predictions(np.zeros(0))
    return UnitResult(unit.key, unit.test, predictions, params, score, warnings, time.perf_counter() - started)


def fit_unit(unit: Unit) -> tuple[Any, dict[str, Any], float | None, tuple[str, ...]]:
    """Return the fitted estimator, its chosen parameters, their inner score and what it warned of."""
    X, y = gather(unit.X, unit.rows[unit.train]), unit.y[unit.train]
    groups = None if unit.groups is None else unit.groups[unit.train]
    splits: Sequence[tuple[np.ndarray, np.ndarray]] = unit.folds
    alone = combinations(unit.head) <= 1
    if not splits and (not alone or unit.compared):
        splits = inner_folds(y, unit.kind, groups=groups, cv=unit.cv, random_state=unit.random_state)
    fitted = search(unit.head, X, y, splits=splits, scoring=unit.scoring, labels=unit.n_classes, kind=unit.kind)
    score = fitted.score
    if alone and unit.compared:
        score = _inner_score(unit, X, y, splits)
    return fitted.estimator, fitted.params, score, fitted.warnings


def _inner_score(unit: Unit, X: np.ndarray, y: np.ndarray, splits: Sequence[tuple[np.ndarray, np.ndarray]]) -> float:
    """Return the mean score over the inner folds of a head without a grid, to compare it with those that have one."""
    scorer = make_scorer(unit.scoring, unit.kind, unit.n_classes)
    scores = []
    for train, test in splits:
        fitted = search(
            unit.head, X[train], y[train], splits=(), scoring=unit.scoring, labels=unit.n_classes, kind=unit.kind
        )
        scores.append(scorer(fitted.estimator, X[test], y[test]))
    return float(np.mean(scores))


def combinations(head: Head) -> int:
    """Return how many parameter combinations the head's grid holds."""
    return int(np.prod([len(values) for values in head.grid.values()], dtype=np.int64))


def gather(X: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return the rows as float32 in memory, ``(len(rows), d)``."""
    return np.asarray(X[rows], dtype=np.float32)
