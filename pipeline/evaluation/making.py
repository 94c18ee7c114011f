"""From tasks to units: which rows each fold of each candidate learns from, what it chooses among, what it is asked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from pipeline.cache import FeatureCache, LazyRows
from pipeline.errors import EvaluationError
from pipeline.evaluation.plan import TaskPlan, features_of
from pipeline.evaluation.units import FitJob, Folds, Key
from pipeline.heads import Head
from pipeline.runs import NOTHING
from pipeline.search import candidates_of, check_scoring_fits
from pipeline.splits import inner_folds

ALL = "all"
_NO_ROWS = np.zeros(0, np.int64)


class JobFactory:
    """Makes the units of all tasks; a unit's key is (task number, candidate number, fold number or `ALL`).

    What many units have in common is one object in all of them, so that it is sent to a worker once.

    Parameters
    ----------
    tasks : sequence of Task
    cv : int
        Inner folds wanted.
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
        """Give a unit for each candidate that has to learn from all training rows."""
        for number, task in enumerate(self.tasks):
            if self.fits_whole(task):
                for which in range(len(task.candidates)):
                    yield self.whole(number, which)

    def fits_whole(self, task: TaskPlan) -> bool:
        """Say whether candidates learn from all training rows: to be asked about a test set, or to choose once."""
        return task.question.test is not None or not self.nested

    def whole(self, number: int, which: int) -> FitJob:
        """Return the unit that learns from all training rows of a task, and is asked about its test set."""
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
        """Return the unit that learns from the training part of a fold, asked about nothing yet."""
        task = self.tasks[number]
        question, candidate = task.question, task.candidates[which]
        # What guesses by how common the classes are is told just that, or the very rows that a fold lacks mislead it.
        head, rows, y = candidate.head, *self._learned(number, ALL if candidate.layer == NOTHING else fold)
        folds: Folds = ()
        said: list[str] = []
        choices = [fixed or {}]
        if fixed is None:
            check_scoring_fits(head, task.choice)
            head, folds = self._searched(number, which, fold)
            choices, said = candidates_of(head, min([len(train) for train, _ in folds], default=len(rows)), len(rows))
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
            said=tuple(said),
        )

    def _searched(self, number: int, which: int, fold: int | str) -> tuple[Head, Folds]:
        """Return the head with the grid that can be searched, and the folds to search it over.

        A null must not stop what is held against it: where its rows cannot be split again, its own parameters do. A
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
