"""From predictions to results: scores with their intervals, the table of predictions, the verdict."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from pipeline.evaluation.answers import Answers, choose_in_every_fold, widen
from pipeline.evaluation.plan import Task
from pipeline.evaluation.verdict import verdict
from pipeline.intervals import Score, score_with_interval
from pipeline.runs import CHOSEN, LabelSetInfo, Result
from pipeline.search import Predictions, needs_probabilities, score_predictions


def describe(task: Task) -> LabelSetInfo:
    """Return what was asked."""
    question = task.question
    labels = question.labels
    return LabelSetInfo(
        labels.name,
        labels.kind,
        len(question.train),
        labels.classes,
        labels.unlabelled,
        None if question.groups is None else len(np.unique(question.groups[question.train])),
        len(task.folds),
        None if question.test is None else len(question.test),
        task.choice,
    )


def report(
    task: Task, answers: Sequence[Answers], *, nested: bool, random_state: int
) -> tuple[list[Result], list[dict[str, Any]], str]:
    """Return a task's results (best first, nulls last), its predictions as tables, and its verdict."""
    question = task.question
    rated = [number for number, candidate in enumerate(task.candidates) if not candidate.null]
    results: list[list[Result]] = []
    tables = []
    for candidate, answer in zip(task.candidates, answers, strict=True):
        first = candidate.cache
        shared = {
            "cache": str(first.path),
            "backbone": candidate.backbone,
            "layer": candidate.layer,
            "head": candidate.head.name,
            "null": candidate.null,
        }
        results.append(_results(task, answer, shared, nested, random_state))
        if not candidate.null:
            tables += _tables(task, answer, candidate.layer, candidate.head.name, str(first.path))

    order = sorted(rated, key=lambda number: -_of(results[number], task.choice).mean)
    best = order[0]
    shown, shown_results = answers[best], results[best]
    listed = [result for number in order for result in results[number]]
    if nested and len(rated) > 1:
        chosen = choose_in_every_fold([answers[number] for number in rated], [split.test for split in task.folds])
        if chosen is not None:
            shown, picked = chosen
            names = [
                f"{task.candidates[rated[which]].head.name}/{task.candidates[rated[which]].layer}" for which in picked
            ]
            shared = {
                "cache": str(task.candidates[best].cache.path),
                "backbone": task.candidates[best].backbone,
                "layer": task.candidates[best].layer,
                "head": CHOSEN,
                "null": False,
            }
            shown_results = _results(task, shown, shared, nested, random_state, params={"in_each_fold": names})
            listed += shown_results
    for number, candidate in enumerate(task.candidates):
        if candidate.null:
            listed += results[number]

    on_test = question.test is not None
    if on_test:  # chosen on the training part alone, then looked at once
        shown_results = results[best]
        said, true = answers[best].test, _test_truth(task)
    else:
        said, true = shown.out_of_fold, question.labels.y[question.train]
    assert said is not None
    names = _class_names(task)
    sentence = verdict(
        describe(task),
        _of(results[best], task.choice),
        shown_results,
        [result for result in listed if result.null],
        [names(code) for code in true],
        [names(code) for code in said.labels],
        on_test=on_test,
    )
    return listed, tables, sentence


def _results(
    task: Task,
    answer: Answers,
    shared: dict[str, Any],
    nested: bool,
    random_state: int,
    params: dict[str, Any] | None = None,
) -> list[Result]:
    """Return one result a scoring; a scoring that needs probabilities only where the head gives them."""
    question = task.question
    labels = question.labels
    y = labels.y[question.train]
    groups = None if question.groups is None else question.groups[question.train]
    found = []
    for scoring in task.scorings:
        if needs_probabilities(scoring) and answer.out_of_fold.probabilities is None:
            continue
        score = score_with_interval(
            scoring,
            y,
            answer.out_of_fold,
            kind=labels.kind,
            n_classes=len(labels.classes),
            groups=groups,
            random_state=random_state,
        )
        test = _test_score(task, answer, scoring, random_state)
        by_fold = [
            score_predictions(
                scoring,
                y[split.test],
                answer.out_of_fold.take(split.test),
                kind=labels.kind,
                n_classes=len(labels.classes),
            )
            for split in task.folds
        ]
        found.append(
            Result(
                label_set=labels.name,
                n=len(y),
                scoring=scoring,
                mean=score.value,
                low=_number(score.low),
                high=_number(score.high),
                nested=nested,
                test=None if test is None else test.value,
                test_low=None if test is None else _number(test.low),
                test_high=None if test is None else _number(test.high),
                params=_short(answer.params) if params is None else params,
                seconds=round(answer.seconds, 3),
                method=score.method,
                fold_scores=tuple(_number(value) for value in by_fold),
                warnings=answer.warnings,
                **shared,
            )
        )
    return found


def _test_score(task: Task, answer: Answers, scoring: str, random_state: int) -> Score | None:
    if answer.test is None:
        return None
    question = task.question
    y = _test_truth(task)
    n_classes = len(question.labels.classes)
    if question.labels.kind == "class":
        n_classes = max(n_classes, int(y.max()) + 1)  # a class that training never saw is always missed
    groups = question.test_groups
    if groups is None and question.groups is not None and question.test is not None and question.test_y is None:
        groups = question.groups[question.test]
    return score_with_interval(
        scoring,
        y,
        widen(answer.test, n_classes),
        kind=question.labels.kind,
        n_classes=n_classes,
        groups=groups,
        random_state=random_state,
    )


def _tables(task: Task, answer: Answers, layer: str, head: str, cache: str) -> list[dict[str, Any]]:
    """Return the predictions as columns: out of fold, and on the test set where there is one."""
    question = task.question
    labels = question.labels
    fold_of = np.empty(len(question.train), np.int64)
    for fold, split in enumerate(task.folds):
        fold_of[split.test] = fold
    ids = question.collection.caches[0].ids
    names = _class_names(task)

    def table(rows: np.ndarray, row_ids: Sequence[str], part: Sequence[str], y: np.ndarray, said: Predictions) -> dict:
        values = {
            "label_set": labels.name,
            "cache": cache,
            "layer": layer,
            "head": head,
            "id": [row_ids[row] for row in rows],
            "part": part,
        }
        if labels.kind == "number":
            return {**values, "true_value": y, "predicted_value": said.labels}
        sure = np.nan if said.probabilities is None else said.probabilities.max(axis=1)
        return {
            **values,
            "true": [names(code) for code in y],
            "predicted": [names(code) for code in said.labels],
            "probability": sure,
        }

    rows = labels.rows[question.train]
    parts = [table(rows, ids, [str(fold) for fold in fold_of], labels.y[question.train], answer.out_of_fold)]
    if answer.test is not None and question.test is not None:
        elsewhere = question.test_collection
        test_rows = labels.rows[question.test] if elsewhere is None else question.test_rows
        test_ids = ids if elsewhere is None else elsewhere.caches[0].ids
        assert test_rows is not None
        parts.append(table(test_rows, test_ids, ["test"] * len(test_rows), _test_truth(task), answer.test))
    return parts


def _test_truth(task: Task) -> np.ndarray:
    question = task.question
    assert question.test is not None
    return question.labels.y[question.test] if question.test_y is None else question.test_y


def _class_names(task: Task) -> Any:
    """Return the function from a code to its class, or from a number to its text."""
    labels, unknown = task.question.labels, task.question.unknown_classes
    if labels.kind == "number":
        return lambda value: f"{value:g}"
    names = (*labels.classes, *unknown)
    return lambda code: names[code]


def _of(results: Sequence[Result], scoring: str) -> Result:
    return next(result for result in results if result.scoring == scoring)


def _number(value: float) -> float | None:
    """Return the number, or None where nothing can be said: JSON has no NaN."""
    return None if math.isnan(value) else float(value)


def _short(params: dict[str, Any]) -> dict[str, Any]:
    """Return the parameters under the names that a person gave them: C, not logisticregression__C."""
    return {
        name.rpartition("__")[2]: getattr(value, "item", lambda value=value: value)() for name, value in params.items()
    }
