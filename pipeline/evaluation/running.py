"""Run the tasks of an evaluation: every fold of every candidate is one unit of work, in any order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import Any

from pipeline.cache import CacheLock
from pipeline.engines import workers
from pipeline.evaluation.answers import FoldPrediction, collect_predictions
from pipeline.evaluation.batches import JobBatch, group_into_batches, run_batches
from pipeline.evaluation.ledger import ResultCache
from pipeline.evaluation.making import ALL, JobFactory
from pipeline.evaluation.plan import TaskPlan, join_reports, notes_for
from pipeline.evaluation.reporting import TaskReport, report_task
from pipeline.evaluation.units import FitJob, Key, fit_job
from pipeline.progress import Progress
from pipeline.runs import Run, Store, as_table

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
    tasks : sequence of Task
    cv : int
        Inner folds wanted.
    nested : bool
        Choose parameters anew within every outer fold; otherwise once, over the outer folds themselves.
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
    ledger = ResultCache(store, tasks, random_state=random_state)
    total = sum(len(task.candidates) * (len(task.folds) + maker.fits_whole(task)) for task in tasks)
    done: Results = {}

    def run(units: Sequence[FitJob]) -> None:
        known, waiting = ledger.look_up(units)
        if known:
            done.update(known)
            progress.note(f"{len(known):,} of {len(units):,} units are known from before and are not computed again")
            progress.advance(STAGE, len(done), total)
        for batch_done in _run(waiting, workers(n_jobs), device, ledger):
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
        results=tuple(result for one in reports for result in one.results),
        label_sets=tuple(one.info for one in reports),
        predictions=as_table([table for one in reports for table in one.tables]),
        notes=tuple(dict.fromkeys([*(note for one in joined for note in one.notes), *notes_for(tasks)])),
        verdicts=tuple(one.verdict for one in reports),
        joined=joined,
    )


def refit(
    task: TaskPlan, which: int, *, cv: int, random_state: int, nested: bool = True
) -> tuple[Any, dict[str, Any], tuple[str, ...]]:
    """Return a candidate's estimator fitted on all training rows, its chosen parameters, and its warnings."""
    return fit_job(JobFactory([task], cv=cv, nested=nested, random_state=random_state).whole(0, which))


def _run(units: Sequence[FitJob], n_jobs: int, device: str, ledger: ResultCache) -> Iterator[Results]:
    """Give the answers of units as they are done, each kept before it is given."""
    of = {unit.key: unit for unit in units}
    refused: list[FitJob] = []
    for results in run_batches(group_into_batches(units), n_jobs=n_jobs, device=device):
        refused += [of[result.key] for result in results if result.refused]
        yield ledger.keep([(of[result.key], result) for result in results if not result.refused])
    for results in run_batches([JobBatch([unit], False) for unit in refused], n_jobs=n_jobs):
        yield ledger.keep([(of[result.key], result) for result in results])


def _paths(tasks: Sequence[TaskPlan]) -> set[Any]:
    parts = [part for task in tasks for part in (task.question.train, task.question.test) if part is not None]
    return {one.header.file for part in parts for cache in part.collection.caches for one in cache.parts}


def _report(task: TaskPlan, number: int, done: Results, nested: bool, random_state: int) -> TaskReport:
    answers = []
    for which in range(len(task.candidates)):
        folds = [done[number, which, fold] for fold in range(len(task.folds))]
        answers.append(collect_predictions(task.folds, folds, done.get((number, which, ALL))))
    return report_task(task, answers, nested=nested, random_state=random_state)
