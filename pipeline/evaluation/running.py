"""Run the tasks of an evaluation: every fold of every candidate is one unit of work, in any order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np
from joblib import cpu_count

from pipeline.cache import CacheLock
from pipeline.evaluation.answers import Answers, collect
from pipeline.evaluation.plan import Task, features_of
from pipeline.evaluation.reporting import describe, report
from pipeline.evaluation.units import Unit, UnitResult, run_units
from pipeline.heads import Head
from pipeline.progress import Progress
from pipeline.runs import Run, as_table

STAGE = "evaluate"
ALL = "all"

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
    unit_of = _UnitMaker(tasks, cv, random_state)
    total = sum(len(task.candidates) * (len(task.folds) + (not nested or _has_test(task))) for task in tasks)
    done: Results = {}

    def run(units: Sequence[Unit]) -> None:
        for result in run_units(units, n_jobs=n_jobs or cpu_count()):
            done[result.key] = result
            progress.advance(STAGE, len(done), total)

    with ExitStack() as held:
        for path in {candidate.cache.path for task in tasks for candidate in task.candidates}:
            held.enter_context(CacheLock.shared(path))  # no one retires a cache while workers read it
        if nested:
            run([*unit_of.each_fold(), *unit_of.everything(only_with_test=True)])
        else:
            run(list(unit_of.everything(over_outer_folds=True)))
            run(list(unit_of.each_fold(params=done)))

    results, infos, tables, verdicts = [], [], [], []
    for number, task in enumerate(tasks):
        answers = [_answers(task, number, which, done) for which in range(len(task.candidates))]
        found, predictions, sentence = report(task, answers, nested=nested, random_state=random_state)
        results += found
        tables += predictions
        infos.append(describe(task))
        verdicts.append(sentence)
    notes = tuple(dict.fromkeys(note for task in tasks for note in task.notes))
    name = tasks[0].question.collection.name
    return Run(name, tuple(results), tuple(infos), as_table(tables), notes, tuple(verdicts))


def refit(task: Task, which: int, *, cv: int, random_state: int) -> tuple[Any, dict[str, Any], tuple[str, ...]]:
    """Return a candidate's estimator fitted on all training rows, its chosen parameters, and its warnings."""
    from pipeline.evaluation.units import fit_unit

    estimator, params, _, warnings = fit_unit(_UnitMaker([task], cv, random_state).whole(0, which))
    return estimator, params, warnings


class _UnitMaker:
    """Makes the units of all tasks; a unit's key is (task number, candidate number, fold number or `ALL`)."""

    def __init__(self, tasks: Sequence[Task], cv: int, random_state: int) -> None:
        self.tasks, self.cv, self.random_state = tasks, cv, random_state

    def each_fold(self, params: Results | None = None) -> Iterator[Unit]:
        """Give a unit for each fold; with the parameters fixed to those chosen on all rows, if `params` is given."""
        for number, task in enumerate(self.tasks):
            for which in range(len(task.candidates)):
                for fold, split in enumerate(task.folds):
                    unit = self._unit(number, which, (number, which, fold), split.train, split.test)
                    if params is not None:
                        unit = _with_head(unit, fixed(unit.head, params[number, which, ALL].params))
                    yield unit

    def everything(self, *, only_with_test: bool = False, over_outer_folds: bool = False) -> Iterator[Unit]:
        """Give a unit for each candidate that learns from all training rows, and is asked about the test set."""
        for number, task in enumerate(self.tasks):
            if only_with_test and not _has_test(task):
                continue
            for which in range(len(task.candidates)):
                yield self.whole(number, which, over_outer_folds=over_outer_folds)

    def whole(self, number: int, which: int, *, over_outer_folds: bool = False) -> Unit:
        """Return the unit that learns from all training rows of a task."""
        task = self.tasks[number]
        question = task.question
        key = (number, which, ALL)
        unit = self._unit(number, which, key, np.arange(len(question.train)), np.zeros(0, np.int64))
        folds = tuple((split.train, split.test) for split in task.folds) if over_outer_folds else ()
        values = {**unit.__dict__, "folds": folds}
        if question.test is not None and question.test_collection is None:
            values |= {"test_X": unit.X, "test": question.labels.rows[question.test]}
        elif question.test_collection is not None:
            values |= {"test_X": self._test_features(task, which), "test": question.test_rows}
        return Unit(**values)

    def _test_features(self, task: Task, which: int) -> np.ndarray:
        """Return the test collection's features that answer to the candidate's."""
        candidate, test = task.candidates[which], task.question.test_collection
        assert test is not None
        position = task.question.collection.caches.index(candidate.cache)
        return features_of(test.caches[position], candidate.layer)

    def _unit(self, number: int, which: int, key: tuple[Any, ...], train: np.ndarray, test: np.ndarray) -> Unit:
        task = self.tasks[number]
        question, candidate = task.question, task.candidates[which]
        labels = question.labels
        return Unit(
            key=key,
            head=candidate.head,
            X=candidate.features,
            rows=labels.rows[question.train],
            y=labels.y[question.train],
            groups=None if question.groups is None else question.groups[question.train],
            train=train,
            test=test,
            test_X=None,
            scoring=task.choice if not candidate.null or _can_score(candidate.head, task.choice) else task.usual_choice,
            kind=labels.kind,
            n_classes=len(labels.classes),
            cv=self.cv,
            random_state=self.random_state,
            compared=sum(not other.null for other in task.candidates) > 1 and not candidate.null,
        )


def fixed(head: Head, params: dict[str, Any]) -> Head:
    """Return the head with these parameters and nothing left to choose."""
    from sklearn.base import clone

    return Head(head.name, head.kind, clone(head.estimator).set_params(**params), {})


def _with_head(unit: Unit, head: Head) -> Unit:
    return Unit(**{**unit.__dict__, "head": head})


def _can_score(head: Head, scoring: str) -> bool:
    from pipeline.search import needs_probabilities

    return head.probabilities or not needs_probabilities(scoring)


def _has_test(task: Task) -> bool:
    return task.question.test is not None


def _answers(task: Task, number: int, which: int, done: Results) -> Answers:
    folds = [done[number, which, fold] for fold in range(len(task.folds))]
    return collect(len(task.question.train), folds, done.get((number, which, ALL)))
