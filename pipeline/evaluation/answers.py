"""What one candidate said of every row of a question, put together from its folds."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from pipeline.runs import ALL_ROWS, EACH_FOLD, MOST_FOLDS
from pipeline.search import Predictions
from pipeline.splits import Split

_Values = TypeVar("_Values", np.ndarray, np.ndarray | None)


@dataclass(frozen=True, eq=False)
class FoldPrediction:
    """What a candidate that learned from one part of the rows said of others.

    Attributes
    ----------
    predictions : Predictions or None
        None where nothing was asked.
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
    """One candidate's predictions over a question.

    Attributes
    ----------
    out_of_fold : Predictions
        Of the n training rows, each said by a head that never saw it.
    test : Predictions or None
        Of the fixed test set, said by the head refitted on all training rows.
    params : dict
    params_of : str
        ``all rows``, or ``most folds`` where nothing was fitted on all of them.
    inner_scores : tuple of float or None
        A fold each: what the inner search thought of its choice.
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
    """Return what the whole procedure says that picks, in every fold, the candidate that its inner search liked best.

    Its score is honest about the choice among candidates, as the best candidate's own score is not.

    Returns
    -------
    (Answers, list of int) or None
        With the candidate picked in each fold, the first of those that tie; None where a candidate has no inner score
        to be compared by.
    """
    inner = [answer.inner_scores for answer in answers]
    if any(score is None for scores in inner for score in scores):
        return None
    picked = np.argmax(np.array(inner, float), axis=0).tolist()  # (candidates, folds) -> (folds,)
    parts = [answers[which].out_of_fold.take(split.test) for which, split in zip(picked, folds, strict=True)]
    said = CandidatePredictions(
        out_of_fold=order_by_row(folds, parts),
        test=None,
        params={},
        params_of=EACH_FOLD,
        inner_scores=tuple(inner[which][fold] for fold, which in enumerate(picked)),
        warnings=(),
        seconds=sum(answer.seconds for answer in answers),
    )
    return said, picked


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
    """Return the predictions with room for classes that no head knows: probability 0, the lowest score, no tag."""
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
    there = [part for part in parts if part is not None]
    return np.concatenate(there) if there and len(there) == len(parts) else None


def _pad(values: _Values, n_classes: int, fill: float) -> _Values:
    if values is None or values.shape[1] >= n_classes:
        return values
    return np.pad(values, ((0, 0), (0, n_classes - values.shape[1])), constant_values=fill)
