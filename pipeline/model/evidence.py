"""What a model learned from and how it was wrong, counted once when it is fitted: plain JSON values for its card."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np

from pipeline.evaluation.questions import Question
from pipeline.labels.tags import split_tags
from pipeline.runs import LabelSetInfo, Result, Run

OUT_OF_FOLD, ON_TEST = "out of fold", "test"


def evidence_of(question: Question, run: Run, info: LabelSetInfo, best: Result) -> dict[str, Any]:
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
        "mistakes": _mistakes(question, run, info, best),
    }


def _mistakes(question: Question, run: Run, info: LabelSetInfo, best: Result) -> dict[str, Any]:
    if question.kind == "number":
        return {}
    table = run.predictions
    part = OUT_OF_FOLD if info.test is None else ON_TEST
    mine = (table["label_set"] == info.name) & (table["source"] == info.source)
    for name in ("cache", "layer", "head"):
        mine &= table[name] == getattr(best, name)
    table = table[mine & ((table["part"] == ON_TEST) == (part == ON_TEST))]
    pairs = list(zip(table["true"], table["predicted"], strict=True))
    count = _tag_counts if question.kind == "multi" else _class_counts
    return {"part": part, "photos": len(pairs), "counts": count(question, pairs)}


def _class_counts(question: Question, pairs: list[tuple[str, str]]) -> dict[str, dict[str, int]]:
    found = Counter(pairs)
    true = (*question.classes, *question.unknown_classes)
    return {
        was: {said: found[was, said] for said in question.classes if found[was, said]}
        for was in true
        if any(found[was, said] for said in question.classes)
    }


def _tag_counts(question: Question, pairs: list[tuple[str, str]]) -> dict[str, dict[str, int]]:
    cells = [
        (set(split_tags(was, question.separator)), set(split_tags(said, question.separator))) for was, said in pairs
    ]
    return {
        tag: {
            "found": sum(tag in was and tag in said for was, said in cells),
            "missed": sum(tag in was and tag not in said for was, said in cells),
            "wrong": sum(tag not in was and tag in said for was, said in cells),
        }
        for tag in question.classes
    }
