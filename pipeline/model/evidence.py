"""What a model learned from and how it was wrong, counted once when it is fitted: plain JSON values for its card."""

from __future__ import annotations

from typing import Any

import numpy as np

from pipeline.evaluation.question import Task
from pipeline.runs import ON_TEST, OUT_OF_FOLD, LabelSetInfo, Result, Run, confusion_counts, predictions_of, tag_counts


def count_evidence(question: Task, run: Run, info: LabelSetInfo, best: Result) -> dict[str, Any]:
    """Return what is known of the data and the mistakes of a model.

    Returns
    -------
    dict
        ``source, photos, unlabelled, groups, folds, test``: of the evaluation. ``labels``: photos by class or tag, or
        ``min, median, max`` of numbers. ``mistakes``: of the best head, ``part`` (out of fold, or the test set where
        there is one), ``photos`` and ``counts``: for classes ``{true: {predicted: photos}}``, for tags
        ``{tag: {"found", "missed", "wrong"}}``; empty for numbers.
    """
    y = question.train.y
    labels: dict[str, Any]
    if question.kind == "number":
        labels = {"min": float(y.min()), "median": float(np.median(y)), "max": float(y.max())}
    elif question.kind == "multi":
        labels = {name: int(count) for name, count in zip(question.classes, y.sum(axis=0), strict=True)}
    else:
        counts = np.bincount(y, minlength=question.n_classes)
        labels = {name: int(count) for name, count in zip(question.classes, counts, strict=True)}
    return {
        "source": info.source,
        "photos": info.n,
        "unlabelled": info.unlabelled,
        "groups": info.groups,
        "folds": info.folds,
        "test": info.test,
        "labels": labels,
        "mistakes": _count_mistakes(question, run, info, best),
    }


def _count_mistakes(question: Task, run: Run, info: LabelSetInfo, best: Result) -> dict[str, Any]:
    if question.kind == "number":
        return {}
    part = OUT_OF_FOLD if info.test is None else ON_TEST
    table = predictions_of(run.predictions, best, part=part)
    counts = (
        tag_counts(table["true"], table["predicted"], question.classes, question.separator)
        if question.kind == "multi"
        else _class_counts(question, table)
    )
    return {"part": part, "photos": len(table), "counts": counts}


def _class_counts(question: Task, table: Any) -> dict[str, dict[str, int]]:
    true, said = (*question.classes, *question.unknown_classes), question.classes
    counts = confusion_counts(table["true"], table["predicted"], true, said)
    return {
        was: {name: int(count) for name, count in zip(said, row, strict=True) if count}
        for was, row in zip(true, counts, strict=True)
        if row.any()
    }
