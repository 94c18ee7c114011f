"""How are the tasks of an evaluation run? Each fold of each candidate is one job; jobs run in any order."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from joblib import delayed

from pipeline.cache import CacheLock
from pipeline.evaluation.memo import ResultCache
from pipeline.evaluation.plan import TaskPlan, join_reports, notes_for
from pipeline.evaluation.scores import FoldPrediction, TaskReport, collect_predictions, report_task
from pipeline.evaluation.units import (
    ALL,
    FitJob,
    FitResult,
    JobFactory,
    Key,
    Scores,
    describe_job,
    fit_job,
    gather,
    run_job,
    shareable_grid,
)
from pipeline.parallel import by_processes, workers
from pipeline.progress import Progress
from pipeline.runs import Run, Store, as_table
from pipeline.search import Predictions, SharedGrid, SharedTask, one_thread, shared_predictions, shared_scores

# Few rows are learned in less time than worker processes need to start.
FEWEST_ROWS = 2000


@dataclass(frozen=True, eq=False)
class JobBatch:
    """Units that are done together.

    Attributes
    ----------
    units : sequence of FitJob
        One alone; or several over the same features that predict rows of the same cache.
    shared : bool
        Whether they share their work; otherwise scikit-learn does the one.
    """

    units: Sequence[FitJob]
    shared: bool


def group_into_batches(units: Sequence[FitJob]) -> list[JobBatch]:
    """Return the units in batches, the largest first: what can share its work is together, all else by itself."""
    alike: dict[tuple[Any, ...], list[FitJob]] = {}
    alone = []
    for unit in units:
        head = shareable_grid(unit)
        if head is None:
            alone.append(unit)
        else:
            _, _, fold = unit.key
            alike.setdefault((id(unit.X), id(unit.ask_X), fold, *_family(head, unit)), []).append(unit)
    together = sorted(alike.values(), key=len, reverse=True)
    # Those alone first: they take longest, and a parameter that scikit-learn refuses is reported before any result.
    return [*(JobBatch([unit], False) for unit in alone), *(JobBatch(units, True) for units in together)]


def run_batches(batches: Sequence[JobBatch], *, n_jobs: int, device: str = "cpu") -> Iterator[list[FitResult]]:
    """Give the results of each batch as it is done, in any order; in this process where there is little to do.

    Parameters
    ----------
    batches : sequence of JobBatch
    n_jobs : int
        Workers; where there are fewer batches than these, a batch has threads of its own.
    device : str
        Where batches that share their work do it: "cpu", or what torch calls a GPU. There they are done one after
        another, in this process.
    """
    if device != "cpu":
        together = [batch for batch in batches if batch.shared]
        yield from (run_batch(batch, device=device) for batch in together)
        batches = [batch for batch in batches if not batch.shared]
    rows = sum(len(unit.train) for batch in batches for unit in batch.units)
    workers = 1 if rows < FEWEST_ROWS else n_jobs
    threads = max(1, workers // max(1, len(batches)))
    yield from by_processes((delayed(run_batch)(batch, threads=threads) for batch in batches), n_jobs=workers)


def run_batch(batch: JobBatch, *, threads: int = 1, device: str = "cpu") -> list[FitResult]:
    """Return the results of the units; a job that needs scikit-learn itself comes back as refused."""
    if not batch.shared:
        return [run_job(unit) for unit in batch.units]
    started = time.perf_counter()
    units = batch.units
    rows = _LoadedRows.of(units)
    heads = {place: found for place, unit in enumerate(units) if (found := shareable_grid(unit)) is not None}
    with one_thread():
        scores = _scores(units, heads, rows, threads, device)
        choices = {place: units[place].chosen({**units[place].known, **found})[0] for place, found in scores.items()}
        predicted = _answers(units, heads, choices, rows, threads, device)
    seconds = (time.perf_counter() - started) / len(units)
    results = []
    for place, unit in enumerate(units):
        if place not in scores:
            results.append(FitResult(unit.key, {}, 0, None, (), seconds, refused=True))
            continue
        if unit.wants(choices[place]) and place not in predicted:
            # A single fit gains nothing in a stack: only the selected parameters are fitted by scikit-learn.
            fitted = run_job(replace(unit, known={**unit.known, **scores[place]}))
            results.append(replace(fitted, scores=scores[place], seconds=fitted.seconds + seconds))
            continue
        warnings = tuple(describe_job(unit, scores[place]))
        results.append(FitResult(unit.key, scores[place], choices[place], predicted.get(place), warnings, seconds))
    return results


@dataclass(frozen=True, eq=False)
class _LoadedRows:
    """The features of all rows that the jobs of a batch train on or predict, each once.

    Attributes
    ----------
    X : ndarray of float32, shape (k, d)
    trained : ndarray of int64
        Rows of the cache that are the first of X.
    predicted : ndarray of int64
        Rows of the test set's cache that follow; or `trained` itself, where it is the same cache.
    """

    X: np.ndarray
    trained: np.ndarray
    predicted: np.ndarray

    @classmethod
    def of(cls, units: Sequence[FitJob]) -> _LoadedRows:
        first = units[0]
        train, ask = ([getattr(unit, name) for unit in units] for name in ("train", "ask"))
        if first.ask_X is first.X:
            rows = np.unique(np.concatenate([*train, *ask]))
            return cls(gather(first.X, rows), rows, rows)
        trained, predicted = np.unique(np.concatenate(train)), np.unique(np.concatenate(ask))
        return cls(np.concatenate([gather(first.X, trained), gather(first.ask_X, predicted)]), trained, predicted)

    def train(self, unit: FitJob) -> np.ndarray:
        return np.searchsorted(self.trained, unit.train)

    def ask(self, unit: FitJob) -> np.ndarray:
        offset = 0 if self.predicted is self.trained else len(self.trained)
        return offset + np.searchsorted(self.predicted, unit.ask)

    def labels(self, unit: FitJob) -> np.ndarray:
        """Return the unit's labels at the places of its rows, shape (k,); what stands elsewhere is never looked at."""
        y = np.zeros((len(self.X), *unit.y.shape[1:]), unit.y.dtype)
        y[self.train(unit)] = unit.y
        return y


def _scores(
    units: Sequence[FitJob], heads: dict[int, SharedGrid], rows: _LoadedRows, threads: int, device: str
) -> dict[int, Scores]:
    """Return what was missing of each unit's scores, by the unit's place, without those that need scikit-learn."""
    wanting = [place for place in heads if units[place].missing]
    scores: dict[int, Scores] = {place: {} for place in heads if not units[place].missing}
    tasks, members = [], _by_task(units, wanting)
    for places in members:
        unit = units[places[0]]
        at = rows.train(unit)
        splits = [(at[train], at[test]) for train, test in unit.folds]
        grids = [heads[place].take(units[place].missing) for place in places]
        tasks.append(SharedTask(grids, rows.labels(unit), splits, unit.n_classes))
    scorings = [units[places[0]].scoring for places in members]
    found = shared_scores(rows.X, tasks, scorings, n_jobs=threads, device=device) if tasks else []
    for places, tables in zip(members, found, strict=True):
        for place, table in zip(places, tables, strict=True):
            if table is not None:
                scores[place] = dict(zip(units[place].missing, table, strict=True))
    return scores


def _answers(
    units: Sequence[FitJob],
    heads: dict[int, SharedGrid],
    choices: dict[int, int],
    rows: _LoadedRows,
    threads: int,
    device: str,
) -> dict[int, Predictions]:
    """Return each job's predictions for its test rows by its best choice, where they are not stored."""
    members = _by_task(units, [place for place, choice in choices.items() if units[place].wants(choice)])
    tasks = []
    for places in members:
        unit = units[places[0]]
        grids = [heads[place].take([choices[place]]) for place in places]
        tasks.append(SharedTask(grids, rows.labels(unit), [(rows.train(unit), rows.ask(unit))], unit.n_classes))
    found = {}
    for answer in shared_predictions(rows.X, tasks, n_jobs=threads, device=device):
        if answer.predictions is not None:
            found[members[answer.task][answer.head]] = answer.predictions[0]
    return found


def _by_task(units: Sequence[FitJob], places: Sequence[int]) -> list[list[int]]:
    """Return the places of units that are heads of one label set, together."""
    alike: dict[int, list[int]] = {}
    for place in places:
        alike.setdefault(units[place].key[0], []).append(place)
    return list(alike.values())


def _family(head: SharedGrid, unit: FitJob) -> tuple[Any, ...]:
    """Return what units must have alike to share their work, beside features and fold."""
    if head.solver == "logistic":  # chains of all rows and folds are stacked
        return ("logistic",)
    return ("closed form", unit.train.tobytes(), unit.ask.tobytes())


STAGE = "evaluate"

Results = dict[Key, FoldPrediction]


def run_tasks(
    tasks: Sequence[TaskPlan],
    *,
    cv: int,
    nested: bool,
    n_jobs: int | None,
    device: str,
    random_state: int,
    progress: Progress,
    store: Store,
) -> Run:
    """Return the results of all tasks; what the store knows is not computed again.

    Parameters
    ----------
    tasks : sequence of TaskPlan
    cv : int
        Number of inner folds.
    nested : bool
        Choose parameters again within every outer fold; otherwise once, over the outer folds themselves.
    n_jobs : int or None
        Worker processes; the number of cores when None.
    device : str
        Where work is done that label sets share: "cpu", or what torch calls a GPU.
    random_state : int
    progress : Progress
    store : Store
        Keeps every unit as soon as it is done.
    """
    maker = JobFactory(tasks, cv=cv, nested=nested, random_state=random_state)
    results_cache = ResultCache(store, tasks, random_state=random_state)
    total = sum(len(task.candidates) * (len(task.folds) + maker.fits_whole(task)) for task in tasks)
    done: Results = {}

    def run(units: Sequence[FitJob]) -> None:
        known, waiting = results_cache.look_up(units)
        if known:
            done.update(known)
            progress.note(
                f"{len(known):,} of {len(units):,} units are stored from an earlier run and are not computed again"
            )
            progress.advance(STAGE, len(done), total)
        for batch_done in _run(waiting, workers(n_jobs), device, results_cache):
            if batch_done:  # all of it may have been refused, and is done later
                done.update(batch_done)
                progress.advance(STAGE, len(done), total)

    with ExitStack() as held:
        for path in sorted(_paths(tasks)):
            held.enter_context(CacheLock.shared(path))  # no one retires a cache while workers read it
        if nested:
            run([*maker.each_fold(), *maker.all_whole()])
        else:
            run(list(maker.all_whole()))
            run(list(maker.each_fold(chosen={key: answer.params for key, answer in done.items()})))
    joined = join_reports(tasks)
    reports = [_report(task, number, done, nested, random_state) for number, task in enumerate(tasks)]
    return Run(
        name=tasks[0].question.train.collection.name,
        results=tuple(result for report in reports for result in report.results),
        label_sets=tuple(report.info for report in reports),
        predictions=as_table([table for report in reports for table in report.tables]),
        notes=tuple(dict.fromkeys([*(note for report in joined for note in report.notes), *notes_for(tasks)])),
        verdicts=tuple(report.verdict for report in reports),
        joined=joined,
    )


def refit(
    task: TaskPlan, which: int, *, cv: int, random_state: int, nested: bool = True
) -> tuple[Any, dict[str, Any], tuple[str, ...]]:
    """Return a candidate's estimator fitted on all training rows, its chosen parameters, and its warnings."""
    return fit_job(JobFactory([task], cv=cv, nested=nested, random_state=random_state).whole(0, which))


def _run(units: Sequence[FitJob], n_jobs: int, device: str, results_cache: ResultCache) -> Iterator[Results]:
    """Give the answers of units as they are done, each kept before it is given."""
    of = {unit.key: unit for unit in units}
    refused: list[FitJob] = []
    for results in run_batches(group_into_batches(units), n_jobs=n_jobs, device=device):
        refused += [of[result.key] for result in results if result.refused]
        yield results_cache.keep([(of[result.key], result) for result in results if not result.refused])
    for results in run_batches([JobBatch([unit], False) for unit in refused], n_jobs=n_jobs):
        yield results_cache.keep([(of[result.key], result) for result in results])


def _paths(tasks: Sequence[TaskPlan]) -> set[Any]:
    parts = [part for task in tasks for part in (task.question.train, task.question.test) if part is not None]
    return {file.header.file for part in parts for cache in part.collection.caches for file in cache.parts}


def _report(task: TaskPlan, number: int, done: Results, nested: bool, random_state: int) -> TaskReport:
    answers = []
    for which in range(len(task.candidates)):
        folds = [done[number, which, fold] for fold in range(len(task.folds))]
        answers.append(collect_predictions(task.folds, folds, done.get((number, which, ALL))))
    return report_task(task, answers, nested=nested, random_state=random_state)
