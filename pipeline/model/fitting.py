"""How is a model made? The best head of an evaluation is trained again on every labeled row."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.arguments import bind_arguments, check_arguments
from pipeline.cache import LazyRows
from pipeline.errors import EvaluationError, ModelError, SourceError
from pipeline.evaluation import Options, TaskPlan, evaluate, plan_tasks, refit, run_planned
from pipeline.evaluation.dataset import Task, backbone_of, open_data
from pipeline.images import ImageSource
from pipeline.labels import joined_tags
from pipeline.model.card import count_evidence
from pipeline.model.model import Model
from pipeline.model.training_set import EmbeddedTrainingSet, TrainingRef, embed_training_set, novelty_threshold
from pipeline.parallel import engine
from pipeline.provenance import installed
from pipeline.runs import ALL_ROWS, RESULTS, Result, Run, RunsDir, plain_params

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
    """Return the model of the best-scoring head, trained on all labeled photos outside a fixed test set.

    The model holds the scores of the evaluation that selected it. They come from nested cross-validation: neither the
    head nor the choice of its parameters used the photos it is scored on. With a fixed test set the head is trained on
    the training part only, so the test score is that of this very model.

    Parameters
    ----------
    data : as for `evaluate`
    out : path, optional
        Save the model folder there; `fit` checks before the work starts that it can be saved.
    weights : bool
        Whether the backbone's weights are saved with it.
    keep_photos : bool
        Whether the model keeps thumbnails and embeddings of the training photos, to show the training photos most
        similar to a new one on any machine. Anyone with the model can view them.
    run : path or RunsDir, optional
        An earlier run that `evaluate` wrote with `out`, or a directory of runs: stored results of the same evaluation
        are read instead of computed again. The model is the same without it.
    **options
        Every option of `evaluate`; they must select one label set.

    Returns
    -------
    Model

    Raises
    ------
    PipelineError
        As `evaluate`; `EvaluationError` if there are several label sets, `ModelError` if the model cannot be saved.

    Examples
    --------
    >>> model = pl.fit("photos/", heads="logistic", out="bees.model")  # doctest: +SKIP
    >>> model.predict("new_photos/")  # doctest: +SKIP
    """
    if out is not None:
        from pipeline.model.storage import check_model_directory, check_savable

        check_model_directory(out)
        check_savable(options.get("heads"))
    _check_run(run)
    resolved = _resolve_options(data, options)
    with engine(resolved.dask):
        tasks = plan_tasks(data, resolved, check=_check_one_label_set)
        task = _check_single(tasks)
        for cache in task.question.train.collection.caches:
            backbone_of(cache)  # raises now, not after the work, if the cache does not record its backbone
        photos = _open_images(data, resolved) if keep_photos else None
        model = _fit_best(task, run_planned(tasks, resolved, reuse=_check_run(run)), resolved, photos)
    if out is not None:
        model.save(out, weights=weights)
    return model


def _check_run(run: str | os.PathLike[str] | RunsDir | None) -> Path | RunsDir | None:
    """Return the path of an earlier run; raise `ModelError` if it is not one."""
    if run is None or isinstance(run, RunsDir):
        return run
    if not (Path(run) / RESULTS).is_file():
        raise ModelError(
            f"--run {os.fspath(run)}: expected the folder of a run, got one without {RESULTS}",
            "leave out --run, or give the folder that `pipeline evaluate` named in its line `kept in`",
        )
    return Path(run)


def evaluate_and_fit(data: Any, label_set: str, **options: Any) -> tuple[Run, Model]:
    """Return the evaluation of every requested label set, and the model of one of them.

    Parameters
    ----------
    data : as for `evaluate`
    label_set : str
        The label set that the model predicts.
    **options
        Every option of `evaluate`.
    """
    resolved = _resolve_options(data, options)
    with engine(resolved.dask):
        tasks = plan_tasks(data, resolved)
        run = run_planned(tasks, resolved)
    return run, _fit_best(next(task for task in tasks if task.question.name == label_set), run, resolved)


def _check_one_label_set(tasks: Sequence[TaskPlan]) -> None:
    names = list(dict.fromkeys(task.question.name for task in tasks))
    if len(names) > 1:
        # A note names columns that can be read together as one label set (one-hot).
        note = next((note for task in tasks for note in task.question.general if ":onehot" in note), None)
        raise EvaluationError(
            f"fit: expected one label set, got {len(names)}: {', '.join(names)}",
            note or f"choose one with --column {names[0]}",
        )


def _check_single(tasks: Sequence[TaskPlan]) -> TaskPlan:
    """Return the only task; raise `EvaluationError` if there are several."""
    _check_one_label_set(tasks)
    if len(tasks) > 1:
        found = ", ".join(task.question.train.collection.name for task in tasks)
        raise EvaluationError(f"fit: expected one collection of images, got {len(tasks)}: {found}", "give one DATA")
    return tasks[0]


def _resolve_options(data: Any, options: dict[str, Any]) -> Options:
    """Return the options with the defaults of `evaluate`; an unknown one raises its `TypeError`."""
    return Options.of(bind_arguments(evaluate, data, **options).arguments)


def _open_images(data: Any, resolved: Options) -> ImageSource:
    """Return the images; for a cache those that it was made of."""
    source = open_data(data, Path(resolved.cache), resolved.labelling, root=resolved.root)[0]
    if isinstance(source, ImageSource):
        return source
    try:
        return ImageSource.open(source.place)
    except SourceError as error:
        raise ModelError(
            f"--keep-photos: expected the photos that {source.path.name} was made of, got {error.message}",
            "give the photos as DATA; photos that are in the cache are not run through the network again",
        ) from error


def _fit_best(task: TaskPlan, run: Run, resolved: Options, photos: ImageSource | None = None) -> Model:
    """Return the model of the best head of one task of a run, with the scores of that task."""
    question = task.question
    best = run.best(question.name)
    which = next(
        number
        for number in task.rated
        if (str((candidate := task.candidates[number]).cache.path), candidate.layer, candidate.head.name)
        == _candidate_key(best)
    )
    candidate = task.candidates[which]
    estimator, params, warnings = refit(
        task, which, cv=resolved.cv, random_state=resolved.random_state, nested=resolved.nested
    )
    # The parameters of the refitted head replace those of the folds in its own scores.
    refitted = {"params": plain_params(params), "params_of": ALL_ROWS}
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
        # The full path of the cache has no meaning on another machine.
        scores=tuple(
            {
                **result.as_dict(),
                **(refitted if _candidate_key(result) == _candidate_key(best) else {}),
                "cache": Path(result.cache).name,
            }
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
        kept=None if photos is None else _keep_photos(photos, question, X, digests, resolved),
    )


def _keep_photos(
    photos: ImageSource, question: Task, X: LazyRows, digests: np.ndarray, resolved: Options
) -> EmbeddedTrainingSet:
    """Return the embeddings and thumbnails that the model keeps of its training photos."""
    train = question.train
    return embed_training_set(
        photos,
        train.ids,
        _label_texts(question),
        digests,
        X,
        train.rows,
        n_jobs=resolved.n_jobs,
        progress=resolved.progress,
    )


def _label_texts(question: Task) -> list[str]:
    """Return the label of each training photo as text."""
    y = question.train.y
    if question.kind == "number":
        return [f"{value:g}" for value in y]
    if question.kind == "multi":
        return [joined_tags(row, question.classes, question.separator) for row in y]
    return [question.classes[code] for code in y]


def _candidate_key(result: Result) -> tuple[str, str, str]:
    """Return the fields that identify a candidate within a label set."""
    return result.cache, result.layer, result.head
