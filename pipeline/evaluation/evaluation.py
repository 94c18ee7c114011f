"""`evaluate`: honest scores for every head on every label set, with the nulls beside them."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.backbone import Backbone
from pipeline.cache import DEFAULT_FOLDER
from pipeline.evaluation.plan import Task, open_collections, plan
from pipeline.evaluation.questions import NO_SPLIT
from pipeline.evaluation.running import run_tasks
from pipeline.progress import SILENT, Progress
from pipeline.runs import Run


def evaluate(
    data: Any,
    *,
    backbone: str | Backbone | Sequence[str | Backbone] = "efficientnet_lite0",
    layer: str | Sequence[str] | None = None,
    cache: str | Path = DEFAULT_FOLDER,
    precision: str = "fp32",
    store: str = "fp32",
    batch_size: int | None = None,
    on_error: str = "skip",
    labels: str | os.PathLike[str] | Mapping[str, Mapping[str, str | None]] | None = None,
    id_column: str | None = None,
    root: str | Path | None = None,
    column: str | Sequence[str] = (),
    groups: str | None = None,
    split: str | None = None,
    test: Any = None,
    heads: Any = None,
    grid: Mapping[str, Any] | Sequence[str] = (),
    cv: int = 5,
    nested: bool = True,
    scoring: str | Sequence[str] = (),
    device: str = "auto",
    n_jobs: int | None = None,
    random_state: int = 0,
    progress: Progress = SILENT,
) -> Run:
    """Return nested cross-validated scores, each with its interval and beside the dummy's and the pixels'.

    Parameters
    ----------
    data : str, Path, ImageSource, FeatureCache, or a list of them
        Images (extracted first where the cache lacks them), or a cache.
    backbone, layer, cache, precision, store, batch_size, on_error
        As for `extract`; several backbones and layers are compared.
    labels : path or mapping, optional
        A table with an id column and any number of label columns; the source's own labels when not given.
    id_column, root : optional
        The table's id column; the folder that a table of paths is relative to.
    column : str or sequence of str
        Label columns, as GLOB or GLOB:class or GLOB:number; all that look like labels when empty.
    groups : str, optional
        A column; rows of one group stay on one side of every split, and intervals resample whole groups.
    split : str, optional
        A column that fixes train and test; ``none`` ignores one that the source announces.
    test : optional
        A test set of its own, scored once.
    heads : str, estimator, or a sequence of them, optional
        Names, ``fast``, ``all``, import paths, scikit-learn estimators; logistic (ridge for numbers) by default.
    grid : mapping or sequence of str
        ``{"logistic.C": [0.01, 1]}`` or ``["logistic.C=0.01,1"]``; one value fixes the parameter.
    cv : int
        Outer and inner folds, cut to what there is.
    nested : bool
        False chooses parameters once on all training rows: faster, and the scores are marked optimistic.
    scoring : str or sequence of str
        scikit-learn scorers; the first one chooses. Balanced accuracy, or R2 for numbers, by default.
    device, n_jobs, random_state, progress
        As for `extract`.

    Returns
    -------
    Run

    Raises
    ------
    PipelineError
        With the next step.
    """
    _, run = plan_and_run(
        data,
        backbone=backbone,
        layer=layer,
        cache=cache,
        precision=precision,
        store=store,
        batch_size=batch_size,
        on_error=on_error,
        labels=labels,
        id_column=id_column,
        root=root,
        column=column,
        groups=groups,
        split=split,
        test=test,
        heads=heads,
        grid=grid,
        cv=cv,
        nested=nested,
        scoring=scoring,
        device=device,
        n_jobs=n_jobs,
        random_state=random_state,
        progress=progress,
    )
    return run


def plan_and_run(
    data: Any,
    *,
    backbone: Any,
    layer: Any,
    cache: str | Path,
    precision: str,
    store: str,
    batch_size: int | None,
    on_error: str,
    labels: Any,
    id_column: str | None,
    root: str | Path | None,
    column: str | Sequence[str],
    groups: str | None,
    split: str | None,
    test: Any,
    heads: Any,
    grid: Any,
    cv: int,
    nested: bool,
    scoring: str | Sequence[str],
    device: str,
    n_jobs: int | None,
    random_state: int,
    progress: Progress,
) -> tuple[list[Task], Run]:
    """Return the tasks beside the run; the arguments are those of `evaluate`."""
    column = [column] if isinstance(column, str) else list(column)
    scoring = [scoring] if isinstance(scoring, str) else list(scoring)
    grid = [grid] if isinstance(grid, str) else grid
    opening: dict[str, Any] = {
        "backbone": backbone,
        "layer": layer,
        "cache": cache,
        "labels": labels,
        "id_column": id_column,
        "root": root,
        "extraction": {
            "precision": precision,
            "store": store,
            "batch_size": batch_size,
            "on_error": on_error,
            "device": device,
            "n_jobs": n_jobs,
            "random_state": random_state,
        },
        "progress": progress,
    }
    named = [*column, *(name for name in (groups, split) if name and name != NO_SPLIT)]
    collections = open_collections(data, column=named if column else (), **opening)
    tested = None if test is None else open_collections([test], column=named if column else (), **opening)[0][0]
    tasks = plan(
        collections,
        heads=heads,
        grid=grid,
        column=column,
        groups=groups,
        split=split,
        test=tested,
        id_column=id_column,
        scoring=scoring,
        cv=cv,
        random_state=random_state,
    )
    for note in dict.fromkeys(note for task in tasks for note in task.notes):
        progress.note(note)
    return tasks, run_tasks(tasks, cv=cv, nested=nested, n_jobs=n_jobs, random_state=random_state, progress=progress)
