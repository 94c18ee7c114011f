"""How do predictions become results? Collects out-of-fold predictions, scores them, and makes tables and verdicts."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np

from pipeline.errors import HeadError
from pipeline.evaluation.dataset import LabeledRows, Task
from pipeline.evaluation.plan import Candidate, TaskPlan
from pipeline.evaluation.units import count_combinations
from pipeline.evaluation.verdict import VerdictInput, verdict
from pipeline.intervals import ScoreInterval, compare_with_best, score_with_interval
from pipeline.labels import joined_tags
from pipeline.runs import ALL_ROWS, CHOSEN, EACH_FOLD, MOST_FOLDS, LabelSetInfo, Result, TestCopy, plain_params
from pipeline.search import Predictions, average_precisions, needs_probabilities, score_predictions
from pipeline.splits import Split

_Values = TypeVar("_Values", np.ndarray, np.ndarray | None)


@dataclass(frozen=True, eq=False)
class FoldPrediction:
    """Predictions of a candidate for rows that it was not trained on.

    Attributes
    ----------
    predictions : Predictions or None
        None where no rows were to be predicted.
    params : dict
        The chosen parameters.
    inner_score : float or None
        Their mean score over the inner folds; None where nothing was chosen or compared.
    warnings : tuple of str
    seconds : float
    """

    predictions: Predictions | None
    params: dict[str, Any]
    inner_score: float | None
    warnings: tuple[str, ...]
    seconds: float


@dataclass(frozen=True, eq=False)
class CandidatePredictions:
    """One candidate's predictions for a task.

    Attributes
    ----------
    out_of_fold : Predictions
        Of the n training rows, each predicted by a head that was not trained on it.
    test : Predictions or None
        Of the fixed test set, predicted by the head refitted on all training rows.
    params : dict
    params_of : str
        ``all rows``, or ``most folds`` where nothing was fitted on all of them.
    inner_scores : tuple of float or None
        One per fold: the inner search's score of its choice.
    warnings : tuple of str
    seconds : float
    """

    out_of_fold: Predictions
    test: Predictions | None
    params: dict[str, Any]
    params_of: str
    inner_scores: tuple[float | None, ...]
    warnings: tuple[str, ...]
    seconds: float


def collect_predictions(
    folds: Sequence[Split], results: Sequence[FoldPrediction], whole: FoldPrediction | None
) -> CandidatePredictions:
    """Return the answers from the folds, in fold order, and from the head fitted on all training rows."""
    everything = [*results, *([whole] if whole else [])]
    return CandidatePredictions(
        order_by_row(folds, [result.predictions for result in results if result.predictions is not None]),
        None if whole is None else whole.predictions,
        whole.params if whole is not None else most_common([result.params for result in results]),
        MOST_FOLDS if whole is None else ALL_ROWS,
        tuple(result.inner_score for result in results),
        tuple(dict.fromkeys(text for result in everything for text in result.warnings)),
        sum(result.seconds for result in everything),
    )


def select_per_fold(
    answers: Sequence[CandidatePredictions], folds: Sequence[Split]
) -> tuple[CandidatePredictions, list[int]] | None:
    """Return the predictions of nested selection: in each fold, those of the candidate with the best inner score.

    Its score includes the choice among candidates; the best candidate's own score is optimistic.

    Returns
    -------
    (CandidatePredictions, list of int) or None
        With the candidate picked in each fold, the first of those that tie; None where a candidate has no inner score
        to be compared by.
    """
    inner = [answer.inner_scores for answer in answers]
    if any(score is None for scores in inner for score in scores):
        return None
    picked = np.argmax(np.array(inner, float), axis=0).tolist()  # (candidates, folds) -> (folds,)
    parts = [answers[which].out_of_fold.take(split.test) for which, split in zip(picked, folds, strict=True)]
    selected = CandidatePredictions(
        out_of_fold=order_by_row(folds, parts),
        test=None,
        params={},
        params_of=EACH_FOLD,
        inner_scores=tuple(inner[which][fold] for fold, which in enumerate(picked)),
        warnings=(),
        seconds=sum(answer.seconds for answer in answers),
    )
    return selected, picked


def order_by_row(folds: Sequence[Split], parts: Sequence[Predictions]) -> Predictions:
    """Return the folds' predictions as those of rows 0..n-1; the folds test each row once.

    Probabilities and scores stay only where every part has them.
    """
    order = np.argsort(np.concatenate([split.test for split in folds]))
    return Predictions(
        np.concatenate([part.labels for part in parts]),
        _stack([part.probabilities for part in parts]),
        _stack([part.scores for part in parts]),
    ).take(order)


def widen_to_classes(predictions: Predictions, n_classes: int) -> Predictions:
    """Return the predictions with columns for classes that no head was trained on.

    Probability 0, the lowest score, no tag.
    """
    return Predictions(
        _pad(predictions.labels, n_classes, 0) if predictions.labels.ndim == 2 else predictions.labels,
        _pad(predictions.probabilities, n_classes, 0.0),
        _pad(predictions.scores, n_classes, -np.inf),
    )


def most_common(params: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the parameters that were chosen most often, the earliest of those that tie."""
    texts = [json.dumps(chosen, sort_keys=True, default=str) for chosen in params]
    return params[texts.index(Counter(texts).most_common(1)[0][0])]


def _stack(parts: Sequence[np.ndarray | None]) -> np.ndarray | None:
    present = [part for part in parts if part is not None]
    return np.concatenate(present) if present and len(present) == len(parts) else None


def _pad(values: _Values, n_classes: int, fill: float) -> _Values:
    if values is None or values.shape[1] >= n_classes:
        return values
    return np.pad(values, ((0, 0), (0, n_classes - values.shape[1])), constant_values=fill)


@dataclass(frozen=True, eq=False)
class TaskReport:
    """The results of one task.

    Attributes
    ----------
    info : LabelSetInfo
    results : list of Result
        Best first, baselines last.
    tables : list of dict
        The predictions, equally long columns for each head and part.
    verdict : str
    """

    info: LabelSetInfo
    results: list[Result]
    tables: list[dict[str, Any]]
    verdict: str


@dataclass(frozen=True, eq=False)
class _ScoredCandidate:
    """One candidate, or the whole procedure of choosing: its answers and its results, one a scoring."""

    answers: CandidatePredictions
    results: list[Result]
    tables: list[dict[str, Any]]

    def under(self, scoring: str) -> Result:
        return next(result for result in self.results if result.scoring == scoring)


def report_task(
    task: TaskPlan, answers: Sequence[CandidatePredictions], *, nested: bool, random_state: int
) -> TaskReport:
    """Return the results, tables and verdict of a task."""
    question = task.question
    lines = [_line(task, number, answer, nested, random_state) for number, answer in enumerate(answers)]
    lines = _compared(task, lines)
    rated = sorted((lines[number] for number in task.rated), key=lambda line: -_value(line.under(task.choice)))
    baselines = [line for line, candidate in zip(lines, task.candidates, strict=True) if candidate.null]
    best = rated[0]
    chosen = _chosen(task, answers, best, random_state) if nested and len(rated) > 1 else None
    listed = [*rated, *([chosen] if chosen else []), *baselines]

    # On a test set: the best on the training part, then looked at once. Otherwise the whole procedure of choosing
    # where there was a choice, so that the figure is not the best of several.
    if question.test is not None:
        shown, part, predicted = best, question.test, best.answers.test
    else:
        shown = chosen or best
        part, predicted = question.train, shown.answers.out_of_fold
    assert predicted is not None
    info = describe_label_set(task)
    text = _text_of(question)
    evidence = VerdictInput(
        best=best.under(task.choice),
        shown=shown.results,
        baselines=[result for line in baselines for result in line.results],
        true=[text(value) for value in part.y],
        predicted=[text(value) for value in predicted.labels],
        on_test=question.test is not None,
        new_groups=question.tested_on_new_groups,
        heads=len(rated),
        tags=_each_tag(question, part, predicted),
    )
    results = [result for line in listed for result in line.results]
    tables = [table for line in listed for table in line.tables]
    return TaskReport(info, results, tables, verdict(info, evidence))


def describe_label_set(task: TaskPlan) -> LabelSetInfo:
    """Return the information on a task's label set."""
    question = task.question
    return LabelSetInfo(
        name=question.name,
        kind=question.kind,
        n=len(question.train),
        classes=question.classes,
        unlabelled=question.unlabelled,
        groups=None if question.train.groups is None else len(np.unique(question.train.groups)),
        folds=len(task.folds),
        test=None if question.test is None else len(question.test),
        scoring=task.choice,
        source=question.train.collection.name,
        test_copies=_test_copies(question),
    )


def _test_copies(question: Task) -> tuple[TestCopy, ...]:
    twins, test = question.twins, question.test
    if twins is None or test is None:
        return ()
    ids, of = test.ids, question.train.ids
    rows = zip(twins.test, twins.train, twins.cosine, twins.exact, strict=True)
    return tuple(
        TestCopy(ids[tested], of[trained], round(float(cosine), 4), bool(exact))
        for tested, trained, cosine, exact in rows
    )


def _line(
    task: TaskPlan, number: int, answers: CandidatePredictions, nested: bool, random_state: int
) -> _ScoredCandidate:
    """Return one candidate with its results and predictions."""
    candidate = task.candidates[number]
    shared = {
        "cache": str(candidate.cache.path),
        "backbone": candidate.backbone,
        "layer": candidate.layer,
        "head": candidate.head.name,
        "null": candidate.null,
        "nested": nested,
        "params": plain_params(answers.params),
        # Where there is nothing to choose, all rows would choose the same.
        "params_of": answers.params_of if count_combinations(candidate.head) > 1 else ALL_ROWS,
        "test_cache": _test_cache(task.question, candidate),
    }
    return _ScoredCandidate(answers, _results(task, answers, shared, random_state), _tables(task, answers, shared))


def _test_cache(question: Task, candidate: Candidate) -> str:
    """Return where the features of a test set of its own are; empty where there is none."""
    train, test = question.train.collection, question.test
    if test is None or test.collection is train:
        return ""
    return str(test.collection.caches[train.caches.index(candidate.cache)].path)


def _compared(task: TaskPlan, lines: Sequence[_ScoredCandidate]) -> list[_ScoredCandidate]:
    """Return the lines with what sets each apart from the best.

    One family of comparisons a scoring, baselines included.
    """
    sizes = [(len(split.train), len(split.test)) for split in task.folds]
    found: dict[tuple[int, str], Result] = {}
    for scoring in task.scorings:
        results = {
            number: result for number, line in enumerate(lines) for result in line.results if result.scoring == scoring
        }
        numbers = list(results)
        best = max((number for number in task.rated if number in results), key=lambda n: _value(results[n]), default=-1)
        if best < 0:  # no head gives the probabilities it needs
            continue
        folds = [results[number].fold_scores for number in numbers]
        compared = compare_with_best(scoring, folds, numbers.index(best), sizes=sizes)
        for number, comparison in zip(numbers, compared, strict=True):
            found[number, scoring] = replace(results[number], tied=comparison.tied, p_best=comparison.p)
    return [
        replace(line, results=[found.get((number, result.scoring), result) for result in line.results])
        for number, line in enumerate(lines)
    ]


def _chosen(
    task: TaskPlan, answers: Sequence[CandidatePredictions], best: _ScoredCandidate, random_state: int
) -> _ScoredCandidate | None:
    """Return the whole procedure of choosing among the candidates in every fold; None where they cannot be compared."""
    found = select_per_fold([answers[number] for number in task.rated], task.folds)
    if found is None:
        return None
    selected, picked = found
    names = _names([task.candidates[number] for number in task.rated])
    first = best.results[0]
    shared = {
        "cache": first.cache,
        "backbone": first.backbone,
        "layer": first.layer,
        "head": CHOSEN,
        "null": False,
        "nested": True,
        "params": {"in_each_fold": [names[which] for which in picked]},
        "params_of": selected.params_of,
    }
    return _ScoredCandidate(selected, _results(task, selected, shared, random_state), _tables(task, selected, shared))


def _names(candidates: Sequence[Candidate]) -> list[str]:
    """Return the candidates' names: as much of head, backbone and layer as tells them apart."""
    parts = [(candidate.head.name, candidate.backbone, candidate.layer) for candidate in candidates]
    telling = [place for place in range(3) if place == 0 or len({part[place] for part in parts}) > 1]
    return ["/".join(part[place] for place in telling) for part in parts]


def _results(task: TaskPlan, answers: CandidatePredictions, shared: dict[str, Any], random_state: int) -> list[Result]:
    """Return one result per scoring; a scoring that needs probabilities only where the head gives them."""
    question = task.question
    train = question.train
    found = []
    for scoring in task.scorings:
        if needs_probabilities(scoring) and answers.out_of_fold.probabilities is None:
            continue
        score = _score(question, train, answers.out_of_fold, scoring, random_state)
        test = apart = None
        if question.test is not None and answers.test is not None:
            test = _score_or_nothing(question, question.test, answers.test, scoring, random_state)
            apart = _score_apart(question, question.test, answers.test, scoring, random_state)
        found.append(
            Result(
                label_set=question.name,
                source=train.collection.name,
                n=len(train),
                scoring=scoring,
                mean=_number(score.value),
                low=_number(score.low),
                high=_number(score.high),
                test=_number(test.value) if test else None,
                test_low=_number(test.low) if test else None,
                test_high=_number(test.high) if test else None,
                test_apart=_number(apart.value) if apart else None,
                test_apart_low=_number(apart.low) if apart else None,
                test_apart_high=_number(apart.high) if apart else None,
                seconds=round(answers.seconds, 3),
                method=score.method,
                fold_scores=tuple(
                    _fold_score(question, train.y[split.test], answers.out_of_fold.take(split.test), scoring)
                    for split in task.folds
                ),
                warnings=answers.warnings,
                **shared,
            )
        )
    return found


def _score(
    question: Task, part: LabeledRows, predictions: Predictions, scoring: str, random_state: int
) -> ScoreInterval:
    # A class that training never saw has a code of its own, which no head answers: it is always missed.
    n_classes = question.n_classes + len(question.unknown_classes)
    if question.kind == "multi":
        n_classes = part.y.shape[1]
    return score_with_interval(
        scoring,
        part.y,
        widen_to_classes(predictions, n_classes),
        kind=question.kind,
        n_classes=n_classes,
        groups=part.groups,
        random_state=random_state,
    )


def _score_or_nothing(
    question: Task, part: LabeledRows, predictions: Predictions, scoring: str, random_state: int
) -> ScoreInterval | None:
    """Return the score of a test set; None where it has none, because it lacks a class, say.

    The training part, whose score is known by now, is no reason to stop after all the work.
    """
    try:
        return _score(question, part, predictions, scoring, random_state)
    except HeadError:
        return None


def _score_apart(
    question: Task, part: LabeledRows, predictions: Predictions, scoring: str, random_state: int
) -> ScoreInterval | None:
    """Return the score of a test set without duplicates of training images.

    None where there are none, or no other rows.
    """
    if question.twins is None or len(question.twins) == len(part):
        return None
    left = np.setdiff1d(np.arange(len(part)), question.twins.test)
    return _score_or_nothing(question, part.take(left), predictions.take(left), scoring, random_state)


def _fold_score(question: Task, y: np.ndarray, predictions: Predictions, scoring: str) -> float | None:
    try:
        value = score_predictions(scoring, y, predictions, kind=question.kind, n_classes=question.n_classes)
    except HeadError:
        return None
    return _number(value)


def _tables(task: TaskPlan, answers: CandidatePredictions, shared: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the predictions as columns: out of fold, and on the test set where there is one; none for baselines."""
    if shared["null"]:
        return []
    question = task.question
    fold_of = np.empty(len(question.train), np.int64)
    for fold, split in enumerate(task.folds):
        fold_of[split.test] = fold
    parts = [_table(question, question.train, answers.out_of_fold, [str(fold) for fold in fold_of], shared)]
    if question.test is not None and answers.test is not None:
        parts.append(_table(question, question.test, answers.test, ["test"] * len(question.test), shared))
    return parts


def _table(
    question: Task, part: LabeledRows, predictions: Predictions, names: Sequence[str], shared: dict[str, Any]
) -> dict[str, Any]:
    columns = {
        "label_set": question.name,
        "source": question.train.collection.name,
        **{key: shared[key] for key in ("cache", "layer", "head")},
        "id": part.ids,
        "part": list(names),
    }
    if question.kind == "number":
        return {**columns, "true_value": part.y, "predicted_value": predictions.labels}
    text = _text_of(question)
    return {
        **columns,
        "true": [text(code) for code in part.y],
        "predicted": [text(code) for code in predictions.labels],
        "probability": _probability_of(question, predictions, predictions.labels),
        "probability_true": _probability_of(question, predictions, part.y),
    }


def _probability_of(question: Task, predictions: Predictions, codes: np.ndarray) -> np.ndarray | float:
    """Return the probability of one class a row, by its code; NaN where there is none, or each tag has its own."""
    if predictions.probabilities is None or question.kind == "multi":
        return np.nan
    # A class that training never saw has a code of its own, and no probability.
    wide = widen_to_classes(predictions, question.n_classes + len(question.unknown_classes)).probabilities
    assert wide is not None
    return wide[np.arange(len(codes)), codes]


def _text_of(question: Task) -> Callable[[Any], str]:
    """Return the function from a code to its class, from a number to its text, or from a row of tags to its cell."""
    if question.kind == "number":
        return lambda value: f"{value:g}"
    names = (*question.classes, *question.unknown_classes)
    if question.kind == "multi":
        return lambda row: joined_tags(row, names[: len(row)], question.separator)
    return lambda code: names[code]


def _each_tag(question: Task, part: LabeledRows, predictions: Predictions) -> dict[str, float]:
    """Return the average precision of each tag that the rows have; nothing for the other kinds."""
    ranks = predictions.ranks
    if question.kind != "multi" or ranks is None:
        return {}
    found = average_precisions(part.y[:, : question.n_classes], ranks)
    return {name: float(value) for name, value in zip(question.classes, found, strict=True) if not np.isnan(value)}


def _value(result: Result) -> float:
    return -math.inf if result.mean is None else result.mean


def _number(value: float) -> float | None:
    """Return the number, or None for NaN and infinity, which JSON lacks."""
    return float(value) if math.isfinite(value) else None
