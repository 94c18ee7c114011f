"""`fit`: evaluate, choose, refit on every labelled row."""

from __future__ import annotations

import inspect
import os
from importlib.metadata import version
from typing import Any

import numpy as np

from pipeline.backbone import Backbone
from pipeline.cache import FeatureCache
from pipeline.errors import EvaluationError, ModelError
from pipeline.evaluation import evaluate
from pipeline.evaluation.evaluation import plan_and_run
from pipeline.evaluation.plan import Task
from pipeline.evaluation.running import refit
from pipeline.model.model import Model
from pipeline.runs import Run

_RECORDED = ("transfer-pipeline", "scikit-learn", "skops", "torch", "torchvision", "numpy", "pillow")


def fit(data: Any, *, out: str | os.PathLike[str] | None = None, weights: bool = True, **options: Any) -> Model:
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
    **options
        Every option of `evaluate`; it must come down to one label set.

    Returns
    -------
    Model

    Raises
    ------
    PipelineError
        As `evaluate`; `EvaluationError` when there are several label sets.
    """
    if out is not None:
        from pipeline.model.storage import refuse_place, refuse_unsavable

        refuse_place(out)
        refuse_unsavable(options.get("heads"))
    arguments = inspect.signature(evaluate).bind(data, **options)
    arguments.apply_defaults()
    values = dict(arguments.arguments)
    tasks, run = plan_and_run(values.pop("data"), **values)
    model = _fitted(_only(tasks), run, cv=values["cv"], random_state=values["random_state"])
    if out is not None:
        model.save(out, weights=weights)
    return model


def backbone_of(cache: FeatureCache) -> Backbone:
    """Return the backbone that made a cache's features, its weights found again and compared by hash."""
    record = cache.provenance["backbone"]
    if "@" not in record["weights"]:
        return Backbone.from_record(record)
    found = Backbone.open(f"{record['name']}:{record['weights']}")
    if found.weights_sha256 != record["weights_sha256"]:
        raise ModelError(
            f"{cache.path}: wanted the weights that made these features, found others in {record['weights']}",
            "put the original weights file back, or extract again",
        )
    return found


def _only(tasks: list[Task]) -> Task:
    names = list(dict.fromkeys(task.question.labels.name for task in tasks))
    if len(names) > 1:
        raise EvaluationError(
            f"fit: wanted one label set, found {len(names)}: {', '.join(names)}", f"choose one with --column {names[0]}"
        )
    if len(tasks) > 1:
        raise EvaluationError(f"fit: wanted one collection of images, found {len(tasks)}", "give one DATA")
    return tasks[0]


def _fitted(task: Task, run: Run, *, cv: int, random_state: int) -> Model:
    question, labels = task.question, task.question.labels
    best = run.best(labels.name)
    which = next(
        number
        for number, candidate in enumerate(task.candidates)
        if not candidate.null
        and (str(candidate.cache.path), candidate.layer, candidate.head.name) == (best.cache, best.layer, best.head)
    )
    candidate = task.candidates[which]
    estimator, params, warnings = refit(task, which, cv=cv, random_state=random_state)
    learned = labels.rows[question.train]
    return Model(
        label_set=labels.name,
        kind=labels.kind,
        classes=labels.classes,
        head=candidate.head.name,
        estimator=estimator,
        params={name.rpartition("__")[2]: getattr(v, "item", lambda v=v: v)() for name, v in params.items()},
        layer=candidate.layer,
        backbone=backbone_of(candidate.cache),
        recipe=dict(candidate.cache.recipe),
        scores=tuple(result.as_dict() for result in run.results if result.null or result.head in (best.head, "chosen")),
        training_digests=np.array(candidate.cache.digest[learned]),
        notes=(*run.notes, *warnings),
        verdict=run.verdicts[0],
        versions={name: version(name) for name in _RECORDED},
    )
