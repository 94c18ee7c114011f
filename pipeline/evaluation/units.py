"""One unit of work: one head searched and fitted on one part of the rows, asked about the others.

Units run in worker processes. They get the places of rows and their numbers, never copies of the features, and a unit
fits nothing outside the rows it trains on.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pipeline.cache import LazyRows
from pipeline.heads import Head
from pipeline.search import (
    Predictions,
    SharedGrid,
    best_of,
    candidate_scores,
    describe_scores,
    fit_head,
    predict_all,
    search,
    shared_candidates,
    summarize_warnings,
)

Folds = Sequence[tuple[np.ndarray, np.ndarray]]
Scores = Mapping[int, np.ndarray]
Key = tuple[int, int, int | str]


@dataclass(frozen=True, eq=False)
class FitJob:
    """What to train and what to ask.

    Attributes
    ----------
    key : tuple
        (task, candidate, fold): whose result this is.
    head : Head
    choices : sequence of dict
        The parameters to choose among; one alone is not searched, but scored where there are folds.
    X : StoredRows, shape (n, d)
        All rows of a cache.
    train : ndarray of int64, shape (m,)
        Rows of X to learn from.
    y : ndarray, shape (m,)
        Of those rows.
    folds : sequence of (train, test)
        Positions into `train`, to score the choices over; none where nothing is to be chosen or compared.
    ask_X : StoredRows, shape (k, d)
        As X: of the same cache, or of a test set's own.
    ask : ndarray of int64
        Rows of `ask_X` to ask about; may be empty.
    scoring : str
        What the search chooses by.
    kind : {"class", "number"}
    n_classes : int
    said : tuple of str
        What is to be told of it before it begins.
    known : mapping of int to ndarray
        Scores over the folds that are known already, by the place of the choice.
    fitted : frozenset of int
        Places of the choices whose predictions are known already.
    """

    key: Key
    head: Head
    choices: Sequence[dict[str, Any]]
    X: LazyRows
    train: np.ndarray
    y: np.ndarray
    folds: Folds
    ask_X: LazyRows
    ask: np.ndarray
    scoring: str
    kind: str
    n_classes: int
    said: tuple[str, ...] = ()
    known: Scores = field(default_factory=dict)
    fitted: frozenset[int] = frozenset()

    @property
    def missing(self) -> list[int]:
        """Places of the choices that are to be scored and are not."""
        return [place for place in range(len(self.choices)) if place not in self.known] if len(self.folds) else []

    def chosen(self, scores: Scores) -> tuple[int, float | None]:
        """Return the place of the best choice and its mean score.

        The score is None where there are no folds; it is so too where one choice alone has none that is defined.

        Raises
        ------
        HeadError
            None of several choices has a score in any fold.
        """
        if not len(self.folds):
            return 0, None
        table = np.stack([scores[place] for place in range(len(self.choices))])
        if len(table) == 1 and np.isnan(table).all():
            return 0, None
        return best_of(table)

    def wants(self, choice: int) -> bool:
        """Say whether the predictions of a choice are wanted and not known."""
        return len(self.ask) > 0 and choice not in self.fitted


@dataclass(frozen=True, eq=False)
class FitResult:
    """What was computed of a unit, beside what was known of it.

    Attributes
    ----------
    key : tuple
    scores : mapping of int to ndarray
        Over the folds, by the place of the choice.
    choice : int
        The place of the best of all choices, the known ones among them.
    predictions : Predictions or None
        None where nothing was asked, or the answer was known.
    warnings : tuple of str
    seconds : float
    refused : bool
        Whether it has to be done by itself: its rows want scikit-learn.
    """

    key: Key
    scores: Scores
    choice: int
    predictions: Predictions | None
    warnings: tuple[str, ...]
    seconds: float
    refused: bool = False


def run_job(unit: FitJob) -> FitResult:
    """Search, fit and predict with scikit-learn."""
    started = time.perf_counter()
    X = gather(unit.X, unit.train)
    scores, choice, warned, fits = _searched(unit, X)
    predictions = None
    if unit.wants(choice):
        estimator, more = fit_head(unit.head, unit.choices[choice], X, unit.y)
        warned, fits = [*warned, *more], fits + 1
        predictions = predict_all(estimator, gather(unit.ask_X, unit.ask), unit.n_classes, unit.kind)
    warnings = (*describe_job(unit, scores), *summarize_warnings(unit.head.name, warned, fits))
    return FitResult(unit.key, scores, choice, predictions, warnings, time.perf_counter() - started)


def fit_job(unit: FitJob) -> tuple[Any, dict[str, Any], tuple[str, ...]]:
    """Return the estimator fitted on all the unit's rows, its chosen parameters and what it warned of."""
    found = search(
        unit.head,
        gather(unit.X, unit.train),
        unit.y,
        splits=unit.folds,
        scoring=unit.scoring,
        labels=unit.n_classes,
        kind=unit.kind,
        candidates=unit.choices,
    )
    return found.estimator, found.params, (*unit.said, *found.warnings)


def shareable_grid(unit: FitJob) -> SharedGrid | None:
    """Return how the unit can share its work; None where it cannot."""
    return shared_candidates(unit.head.estimator, unit.choices, unit.kind)


def gather(X: LazyRows, rows: np.ndarray) -> np.ndarray:
    """Return the rows as float32 in memory, ``(len(rows), d)``."""
    return np.asarray(X[rows], dtype=np.float32)


def _searched(unit: FitJob, X: np.ndarray) -> tuple[Scores, int, list[Any], int]:
    """Return the scores of what was missing, the choice, the warnings, and how many fits they are of."""
    missing = unit.missing
    scores: dict[int, np.ndarray] = {}
    warned: list[Any] = []
    if missing:
        table, warned = candidate_scores(
            unit.head,
            [unit.choices[place] for place in missing],
            X,
            unit.y,
            splits=unit.folds,
            scoring=unit.scoring,
            labels=unit.n_classes,
            kind=unit.kind,
            share=False,
        )
        scores = dict(zip(missing, table, strict=True))
    choice, _ = unit.chosen({**unit.known, **scores})
    return scores, choice, warned, len(missing) * len(unit.folds)


def describe_job(unit: FitJob, scores: Scores) -> list[str]:
    """Return what is to be told of a unit and its scores."""
    table = [*unit.known.values(), *scores.values()]
    several = len(unit.choices) > 1 and table
    return [*unit.said, *(describe_scores(unit.head, unit.scoring, np.stack(table)) if several else [])]
