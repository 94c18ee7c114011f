"""Run the tasks of an evaluation: every fold of every candidate is one unit of work, in any order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import numpy as np

from pipeline.cache import CacheLock
from pipeline.engines import workers
from pipeline.evaluation.answers import collect
from pipeline.evaluation.plan import Task, features_of, joined_of, notes_of
from pipeline.evaluation.reporting import Report, report
from pipeline.evaluation.units import Unit, UnitResult, fit_unit, run_units
from pipeline.heads import Head
from pipeline.progress import Progress
from pipeline.runs import Run, as_table

STAGE = "evaluate"
ALL = "all"
_NO_ROWS = np.zeros(0, np.int64)

Results = dict[tuple[Any, ...], UnitResult]


def run_tasks(
    tasks: Sequence[Task], *, cv: int, nested: bool, n_jobs: int | None, random_state: int, progress: Progress
) -> Run:
    """Return the results of all tasks.

    Parameters
    ----------
    tasks : sequence of Task
    cv : int
        Inner folds wanted.
    nested : bool
        Choose parameters anew within every outer fold; otherwise once, over the outer folds themselves.
    n_jobs : int or None
        Worker processes; the number of cores when None.
    random_state : int
    progress : Progress
    """
    maker = _UnitMaker(tasks, cv=cv, nested=nested, random_state=random_state)
    total = sum(len(task.candidates) * (len(task.folds) + maker.fits_whole(task)) for task in tasks)
    done: Results = {}

    def run(units: Sequence[Unit]) -> None:
        for result in run_units(units, n_jobs=workers(n_jobs)):
            done[result.key] = result
            progress.advance(STAGE, len(done), total)

    with ExitStack() as held:
        for path in sorted(_paths(tasks)):
            held.enter_context(CacheLock.shared(path))  # no one retires a cache while workers read it
        if nested:
            run([*maker.each_fold(), *maker.all_whole()])
        else:
            run(list(maker.all_whole()))
            run(list(maker.each_fold(chosen=done)))
    joined = joined_of(tasks)
    reports = [_report(task, number, done, nested, random_state) for number, task in enumerate(tasks)]
    return Run(
        name=tasks[0].question.train.collection.name,
        results=tuple(result for one in reports for result in one.results),
        label_sets=tuple(one.info for one in reports),
        predictions=as_table([table for one in reports for table in one.tables]),
        notes=tuple(dict.fromkeys([*(note for one in joined for note in one.notes), *notes_of(tasks)])),
        verdicts=tuple(one.verdict for one in reports),
        joined=joined,
    )


def refit(
    task: Task, which: int, *, cv: int, random_state: int, nested: bool = True
) -> tuple[Any, dict[str, Any], tuple[str, ...]]:
    """Return a candidate's estimator fitted on all training rows, its chosen parameters, and its warnings."""
    maker = _UnitMaker([task], cv=cv, nested=nested, random_state=random_state)
    estimator, params, _, warnings = fit_unit(maker.whole(0, which))
    return estimator, params, warnings


class _UnitMaker:
    """Makes the units of all tasks; a unit's key is (task number, candidate number, fold number or `ALL`)."""

    def __init__(self, tasks: Sequence[Task], *, cv: int, nested: bool, random_state: int) -> None:
        self.tasks, self.cv, self.nested, self.random_state = tasks, cv, nested, random_state

    def each_fold(self, chosen: Results | None = None) -> Iterator[Unit]:
        """Give a unit for each fold; with the parameters that `chosen` found on all rows, where it is given."""
        for number, task in enumerate(self.tasks):
            train = task.question.train
            compared = self.nested and len(task.rated) > 1
            for which, candidate in enumerate(task.candidates):
                for fold, split in enumerate(task.folds):
                    unit = self._unit(number, which, fold, split.train)
                    unit = replace(unit, ask=train.rows[split.test], compared=compared and not candidate.null)
                    if chosen is not None:
                        unit = replace(unit, head=fixed(unit.head, chosen[number, which, ALL].params))
                    yield unit

    def all_whole(self) -> Iterator[Unit]:
        """Give a unit for each candidate that has to learn from all training rows."""
        for number, task in enumerate(self.tasks):
            if self.fits_whole(task):
                for which in range(len(task.candidates)):
                    yield self.whole(number, which)

    def fits_whole(self, task: Task) -> bool:
        """Say whether candidates learn from all training rows: to be asked about a test set, or to choose once."""
        return task.question.test is not None or not self.nested

    def whole(self, number: int, which: int) -> Unit:
        """Return the unit that learns from all training rows of a task, and is asked about its test set."""
        task = self.tasks[number]
        train, test, candidate = task.question.train, task.question.test, task.candidates[which]
        unit = self._unit(number, which, ALL, np.arange(len(train)))
        if not self.nested:
            unit = replace(unit, folds=[(split.train, split.test) for split in task.folds])
        if test is None:
            return unit
        position = train.collection.caches.index(candidate.cache)
        return replace(unit, ask_X=features_of(test.collection.caches[position], candidate.layer), ask=test.rows)

    def _unit(self, number: int, which: int, fold: int | str, learned: np.ndarray) -> Unit:
        """Return the unit that learns from some of the training rows, given as positions."""
        task = self.tasks[number]
        question, candidate = task.question, task.candidates[which]
        train = question.train.take(learned)
        X = candidate.features
        return Unit(
            key=(number, which, fold),
            head=candidate.head,
            X=X,
            train=train.rows,
            y=train.y,
            groups=train.groups,
            ask_X=X,
            ask=_NO_ROWS,
            scoring=task.choice,
            kind=question.kind,
            n_classes=question.n_classes,
            cv=self.cv,
            random_state=self.random_state,
            lenient=candidate.null,
        )


def fixed(head: Head, params: dict[str, Any]) -> Head:
    """Return the head with these parameters and nothing left to choose."""
    from sklearn.base import clone

    return replace(head, estimator=clone(head.estimator).set_params(**params), grid={})


def _paths(tasks: Sequence[Task]) -> set[Any]:
    parts = [part for task in tasks for part in (task.question.train, task.question.test) if part is not None]
    return {file for part in parts for cache in part.collection.caches for file in cache.files}


def _report(task: Task, number: int, done: Results, nested: bool, random_state: int) -> Report:
    answers = []
    for which in range(len(task.candidates)):
        folds = [done[number, which, fold] for fold in range(len(task.folds))]
        answers.append(collect(task.folds, folds, done.get((number, which, ALL))))
    return report(task, answers, nested=nested, random_state=random_state)
