"""`fit`: evaluate, choose, refit on every labelled row."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.arguments import bind_arguments, check_arguments
from pipeline.cache import LazyRows
from pipeline.errors import EvaluationError, ModelError, SourceError
from pipeline.evaluation import evaluate
from pipeline.evaluation.api import Options, plan_tasks, run_planned
from pipeline.evaluation.dataset import Task, backbone_of, open_data
from pipeline.evaluation.executor import refit
from pipeline.evaluation.plan import TaskPlan
from pipeline.images import ImageSource
from pipeline.labels import joined_tags
from pipeline.model.card import count_evidence
from pipeline.model.model import Model
from pipeline.model.training_set import EmbeddedTrainingSet, TrainingRef, embed_training_set, novelty_threshold
from pipeline.parallel import engine
from pipeline.provenance import installed
from pipeline.runs import ALL_ROWS, Result, Run, RunsDir, plain_params
from pipeline.runs.store import RESULTS

_RECORDED = ("transfer-pipeline", "scikit-learn", "skops", "torch", "torchvision", "numpy", "pillow")


@check_arguments
def fit(
    data: Any,
    *,
    out: str | os.PathLike[str] | None = None,
    weights: bool = True,
    keep_photos: bool = False,
    run: str | os.PathLike[str] | RunsDir | None = None,
    **options: Any,
) -> Model:
    """Return the head that scores best, refitted on every labelled photo that may be learned from.

    The scores it carries are those of the evaluation that chose it: nested, so they are about photos that neither
    the head nor the choice of its parameters had seen. With a fixed test set the head learns from the training part
    alone, so that the test score is the model's own.

    Parameters
    ----------
    data : as for `evaluate`
    out : path, optional
        Save the model folder there; that it can be saved is checked before the work begins.
    weights : bool
        Whether the backbone's weights are saved with it.
    keep_photos : bool
        Whether small pictures and the embeddings of the training photos are kept in it: what is most like a new photo
        can then be shown anywhere. Whoever has the model sees them.
    run : path or Under, optional
        An earlier run, as `evaluate` keeps it with `out`, or a folder of runs: what it has computed of this evaluation
        is read and not computed again. The model is the same without it.
    **options
        Every option of `evaluate`; it must come down to one label set.

    Returns
    -------
    Model

    Raises
    ------
    PipelineError
        As `evaluate`; `EvaluationError` when there are several label sets, `ModelError` when the model could not be
        saved.
    """
    if out is not None:
        from pipeline.model.storage import check_model_directory, check_savable

        check_model_directory(out)
        check_savable(options.get("heads"))
    _place(run)
    asked = _asked(data, options)
    with engine(asked.dask):
        tasks = plan_tasks(data, asked, check=_refuse_several)
        task = _only(tasks)
        for cache in task.question.train.collection.caches:
            backbone_of(cache)  # a model without its backbone is none: better known before the work than after it
        photos = _photos(data, asked) if keep_photos else None
        model = _fitted(task, run_planned(tasks, asked, reuse=_place(run)), asked, photos)
    if out is not None:
        model.save(out, weights=weights)
    return model


def _place(run: str | os.PathLike[str] | RunsDir | None) -> Path | RunsDir | None:
    """Return the place of an earlier run; `ModelError` where it holds none."""
    if run is None or isinstance(run, RunsDir):
        return run
    if not (Path(run) / RESULTS).is_file():
        raise ModelError(
            f"--run {os.fspath(run)}: expected the folder of a run, got one without {RESULTS}",
            "leave out --run, or give the folder that `pipeline evaluate` named in its line `kept in`",
        )
    return Path(run)


def evaluate_and_fit(data: Any, label_set: str, **options: Any) -> tuple[Run, Model]:
    """Return the evaluation of every label set asked for, and the model that `fit` makes of one of them.

    Parameters
    ----------
    data : as for `evaluate`
    label_set : str
    **options
        Every option of `evaluate`.
    """
    asked = _asked(data, options)
    with engine(asked.dask):
        tasks = plan_tasks(data, asked)
        run = run_planned(tasks, asked)
    return run, _fitted(next(task for task in tasks if task.question.name == label_set), run, asked)


def _refuse_several(tasks: Sequence[TaskPlan]) -> None:
    names = list(dict.fromkeys(task.question.name for task in tasks))
    if len(names) > 1:
        # Columns that are one label set together are named in a note.
        note = next((note for task in tasks for note in task.question.general if ":onehot" in note), None)
        raise EvaluationError(
            f"fit: expected one label set, got {len(names)}: {', '.join(names)}",
            note or f"choose one with --column {names[0]}",
        )


def _only(tasks: Sequence[TaskPlan]) -> TaskPlan:
    _refuse_several(tasks)
    if len(tasks) > 1:
        found = ", ".join(task.question.train.collection.name for task in tasks)
        raise EvaluationError(f"fit: expected one collection of images, got {len(tasks)}: {found}", "give one DATA")
    return tasks[0]


def _asked(data: Any, options: dict[str, Any]) -> Options:
    """Return the options with the defaults of `evaluate`, which says what is not one."""
    return Options.of(bind_arguments(evaluate, data, **options).arguments)


def _photos(data: Any, asked: Options) -> ImageSource:
    """Return the photos themselves, those that a cache was made of where the data is a cache."""
    source = open_data(data, Path(asked.cache), asked.labelling, root=asked.root)[0]
    if isinstance(source, ImageSource):
        return source
    try:
        return ImageSource.open(source.place)
    except SourceError as error:
        raise ModelError(
            f"--keep-photos: expected the photos that {source.path.name} was made of, got {error.message}",
            "give the photos themselves as DATA; those that the cache knows run no network again",
        ) from error


def _fitted(task: TaskPlan, run: Run, asked: Options, photos: ImageSource | None = None) -> Model:
    """Return the model of the best head of one task of a run, with the scores of that task."""
    question = task.question
    best = run.best(question.name)
    which = next(
        number
        for number in task.rated
        if (str((one := task.candidates[number]).cache.path), one.layer, one.head.name) == _of(best)
    )
    candidate = task.candidates[which]
    estimator, params, warnings = refit(task, which, cv=asked.cv, random_state=asked.random_state, nested=asked.nested)
    # The scores of the model's own head stand beside the parameters that it has.
    own = {"params": plain_params(params), "params_of": ALL_ROWS}
    X, rows, digests = candidate.features, question.train.rows, question.train.digests()
    return Model(
        label_set=question.name,
        kind=question.kind,
        classes=question.classes,
        head=candidate.head.name,
        estimator=estimator,
        params=plain_params(params),
        layer=candidate.layer,
        backbone=backbone_of(candidate.cache),
        recipe=dict(candidate.cache.recipe),
        # The path of the cache says nothing on another machine.
        scores=tuple(
            {**result.as_dict(), **(own if _of(result) == _of(best) else {}), "cache": Path(result.cache).name}
            for result in run.results
            if result.label_set == question.name
        ),
        training_digests=digests,
        notes=tuple(dict.fromkeys((*run.notes, *warnings))),
        verdict=run.verdicts[run.label_sets.index(run.info(question.name))],
        versions={name: installed(name) for name in _RECORDED},
        separator=question.separator,
        evidence=count_evidence(question, run, run.info(question.name), best),
        training=TrainingRef.of(candidate.cache, novelty_threshold(X, rows, digests)),
        kept=None if photos is None else _kept(photos, question, X, digests, asked),
    )


def _kept(photos: ImageSource, question: Task, X: LazyRows, digests: np.ndarray, asked: Options) -> EmbeddedTrainingSet:
    """Return what is kept of the training photos."""
    train = question.train
    return embed_training_set(
        photos, train.ids, _labels(question), digests, X, train.rows, n_jobs=asked.n_jobs, progress=asked.progress
    )


def _labels(question: Task) -> list[str]:
    """Return the label of each training photo as a text."""
    y = question.train.y
    if question.kind == "number":
        return [f"{value:g}" for value in y]
    if question.kind == "multi":
        return [joined_tags(row, question.classes, question.separator) for row in y]
    return [question.classes[code] for code in y]


def _of(result: Result) -> tuple[str, str, str]:
    """Return what tells one candidate of a label set from the others."""
    return result.cache, result.layer, result.head
