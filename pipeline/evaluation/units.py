"""What is one job? One head, searched and fitted on the training rows of one fold, that predicts the other rows.

Jobs run in worker processes. They are sent row positions and labels, never the features themselves, and a job fits
nothing outside its training rows.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from pipeline.cache import FeatureCache, LazyRows
from pipeline.errors import EvaluationError
from pipeline.evaluation.plan import TaskPlan, features_of
from pipeline.heads import Head
from pipeline.runs import NOTHING
from pipeline.search import (
    Predictions,
    SharedGrid,
    best_of,
    candidate_scores,
    candidates_of,
    check_scoring_fits,
    describe_scores,
    fit_head,
    predict_all,
    search,
    shared_candidates,
    summarize_warnings,
)
from pipeline.splits import inner_folds

Folds = Sequence[tuple[np.ndarray, np.ndarray]]
Scores = Mapping[int, np.ndarray]
Key = tuple[int, int, int | str]


@dataclass(frozen=True, eq=False)
class FitJob:
    """One head with its training rows and the rows to predict.

    Attributes
    ----------
    key : tuple
        (task, candidate, fold): whose result this is.
    head : Head
    choices : sequence of dict
        The parameters to choose among; one alone is not searched, but scored where there are folds.
    X : LazyRows, shape (n, d)
        All rows of a cache.
    train : ndarray of int64, shape (m,)
        Training rows: positions in X.
    y : ndarray, shape (m,)
        Of those rows.
    folds : sequence of (train, test)
        Positions into `train`, to score the choices over; none where nothing is to be chosen or compared.
    ask_X : LazyRows, shape (k, d)
        As X: of the same cache, or of a test set's own.
    ask : ndarray of int64
        Rows of `ask_X` to predict; may be empty.
    scoring : str
        What the search chooses by.
    kind : {"class", "number"}
    n_classes : int
    notes : tuple of str
        Notes on the grid, made before the job runs.
    known : mapping of int to ndarray
        Stored scores over the folds, by the position of the choice.
    fitted : frozenset of int
        Positions of the choices whose predictions are stored.
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
    notes: tuple[str, ...] = ()
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
        """Return whether the predictions of a choice must be computed.

        There are rows to predict, and none are stored.
        """
        return len(self.ask) > 0 and choice not in self.fitted


@dataclass(frozen=True, eq=False)
class FitResult:
    """The newly computed scores and predictions of a job.

    Attributes
    ----------
    key : tuple
    scores : mapping of int to ndarray
        Over the folds, by the place of the choice.
    choice : int
        The place of the best of all choices, the known ones among them.
    predictions : Predictions or None
        None where there are no rows to predict, or the predictions are stored.
    warnings : tuple of str
    seconds : float
    refused : bool
        Whether it must run alone: its rows need scikit-learn itself.
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
    return found.estimator, found.params, (*unit.notes, *found.warnings)


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
    """Return the notes on a job and its scores."""
    table = [*unit.known.values(), *scores.values()]
    several = len(unit.choices) > 1 and table
    return [*unit.notes, *(describe_scores(unit.head, unit.scoring, np.stack(table)) if several else [])]


ALL = "all"
_NO_ROWS = np.zeros(0, np.int64)


class JobFactory:
    """Makes the jobs of all tasks; a job's key is (task number, candidate number, fold number or `ALL`).

    Rows, folds and features that many jobs share are one object in all of them, so that a worker is sent them once.

    Parameters
    ----------
    tasks : sequence of TaskPlan
    cv : int
        Number of inner folds.
    nested : bool
    random_state : int
    """

    def __init__(self, tasks: Sequence[TaskPlan], *, cv: int, nested: bool, random_state: int) -> None:
        self.tasks, self.cv, self.nested, self.random_state = tasks, cv, nested, random_state
        self._features: dict[tuple[str, str], LazyRows] = {}
        self._folds: dict[tuple[int, int | str], Folds | EvaluationError] = {}
        self._rows: dict[tuple[int, int | str], tuple[np.ndarray, np.ndarray]] = {}

    def each_fold(self, chosen: Mapping[Key, dict[str, Any]] | None = None) -> Iterator[FitJob]:
        """Give a unit for each fold; with the parameters that were chosen on all rows, where they are given."""
        for number, task in enumerate(self.tasks):
            train = task.question.train
            for fold, split in enumerate(task.folds):
                ask = train.rows[split.test]
                for which in range(len(task.candidates)):
                    fixed = None if chosen is None else chosen[number, which, ALL]
                    yield replace(self._unit(number, which, fold, fixed), ask=ask)

    def all_whole(self) -> Iterator[FitJob]:
        """Give a unit for each candidate that is fitted on all training rows."""
        for number, task in enumerate(self.tasks):
            if self.fits_whole(task):
                for which in range(len(task.candidates)):
                    yield self.whole(number, which)

    def fits_whole(self, task: TaskPlan) -> bool:
        """Return whether candidates are fitted on all training rows.

        To predict a test set, or to choose parameters once.
        """
        return task.question.test is not None or not self.nested

    def whole(self, number: int, which: int) -> FitJob:
        """Return the job that fits on all training rows of a task and predicts its test set."""
        task = self.tasks[number]
        train, test, candidate = task.question.train, task.question.test, task.candidates[which]
        unit = self._unit(number, which, ALL)
        if test is None:
            return unit
        position = train.collection.caches.index(candidate.cache)
        cache = test.collection.caches[position]
        same = cache.path == candidate.cache.path
        return replace(unit, ask_X=unit.X if same else self._stored(cache, candidate.layer), ask=test.rows)

    def _unit(self, number: int, which: int, fold: int | str, fixed: dict[str, Any] | None = None) -> FitJob:
        """Return the job that fits on the training part of a fold, without rows to predict."""
        task = self.tasks[number]
        question, candidate = task.question, task.candidates[which]
        # Fit the dummy on all training rows: within a fold its class frequencies would be biased against the test part.
        head, rows, y = candidate.head, *self._learned(number, ALL if candidate.layer == NOTHING else fold)
        folds: Folds = ()
        notes: list[str] = []
        choices = [fixed or {}]
        if fixed is None:
            check_scoring_fits(head, task.choice)
            head, folds = self._searched(number, which, fold)
            choices, notes = candidates_of(head, min([len(train) for train, _ in folds], default=len(rows)), len(rows))
        X = self._stored(candidate.cache, candidate.layer)
        return FitJob(
            key=(number, which, fold),
            head=head,
            choices=choices,
            X=X,
            train=rows,
            y=y,
            folds=folds,
            ask_X=X,
            ask=_NO_ROWS,
            scoring=task.choice,
            kind=question.kind,
            n_classes=question.n_classes,
            notes=tuple(notes),
        )

    def _searched(self, number: int, which: int, fold: int | str) -> tuple[Head, Folds]:
        """Return the head with the grid that can be searched, and the folds to search it over.

        A baseline must not stop the run: where its rows cannot be split again, its default parameters are used. A
        head without a grid is scored where it is to be compared with others, and can be.
        """
        task = self.tasks[number]
        candidate = task.candidates[which]
        choosing = count_combinations(candidate.head) > 1
        compared = self.nested and fold != ALL and len(task.rated) > 1 and not candidate.null
        if not choosing and not compared:
            return candidate.head, ()
        folds = self._inner_folds(number, fold)
        if not isinstance(folds, EvaluationError):
            return candidate.head, folds
        if choosing and not candidate.null:
            raise folds
        return replace(candidate.head, grid={}) if choosing else candidate.head, ()

    def _inner_folds(self, number: int, fold: int | str) -> Folds | EvaluationError:
        """Return the folds to choose over within a fold's training part, or why there are none; made once."""
        if (number, fold) not in self._folds:
            task = self.tasks[number]
            if fold == ALL and not self.nested:
                self._folds[number, fold] = [(split.train, split.test) for split in task.folds]
            else:
                try:
                    self._folds[number, fold] = self._made_folds(task, fold)
                except EvaluationError as error:
                    self._folds[number, fold] = error
        return self._folds[number, fold]

    def _made_folds(self, task: TaskPlan, fold: int | str) -> Folds:
        part = task.question.train
        if isinstance(fold, int):
            part = part.take(task.folds[fold].train)
        kind = task.question.kind
        if task.common is not None:
            shared = task.common.inner(fold if isinstance(fold, int) else None, part.rows, part.y, kind)
            if shared is not None:
                return [(split.train, split.test) for split in shared]
        return inner_folds(
            part.y,
            kind,
            groups=part.groups,
            together=part.together,
            cv=self.cv,
            random_state=self.random_state,
        )

    def _learned(self, number: int, fold: int | str) -> tuple[np.ndarray, np.ndarray]:
        """Return the rows of a fold's training part and their labels; made once."""
        if (number, fold) not in self._rows:
            task = self.tasks[number]
            part = task.question.train
            if isinstance(fold, int):
                part = part.take(task.folds[fold].train)
            self._rows[number, fold] = part.rows, part.y
        return self._rows[number, fold]

    def _stored(self, cache: FeatureCache, layer: str) -> LazyRows:
        key = str(cache.path), layer
        if key not in self._features:
            self._features[key] = features_of(cache, layer)
        return self._features[key]


def count_combinations(head: Head) -> int:
    """Return how many parameter combinations the head's grid holds."""
    return int(np.prod([len(values) for values in head.grid.values()], dtype=np.int64))
