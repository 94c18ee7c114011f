"""What one candidate said of every row of a question, put together from its folds."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.evaluation.units import UnitResult
from pipeline.search import Predictions


@dataclass(frozen=True, eq=False)
class Answers:
    """One candidate's predictions over a question.

    Attributes
    ----------
    out_of_fold : Predictions
        Of the n training rows, each said by a head that never saw it.
    test : Predictions or None
        Of the fixed test set, said by the head refitted on all training rows.
    params : dict
        Chosen on all training rows, or most often over the folds.
    inner_scores : tuple of float or None
        A fold each: what the inner search thought of its choice.
    """

    out_of_fold: Predictions
    test: Predictions | None
    params: dict[str, Any]
    inner_scores: tuple[float | None, ...]
    warnings: tuple[str, ...]
    seconds: float


def collect(n: int, folds: Sequence[UnitResult], final: UnitResult | None) -> Answers:
    """Return the answers from the folds, in fold order, and from the head fitted on all training rows.

    Parameters
    ----------
    n : int
        Training rows; the folds test each of them once.
    """
    positions = np.concatenate([result.test for result in folds])
    order = np.empty(n, np.int64)
    order[positions] = np.arange(n)
    parts = [result.predictions for result in folds]
    everything = [*folds, *([final] if final else [])]
    return Answers(
        join(parts).take(order),
        None if final is None or not len(final.test) else final.predictions,
        final.params if final is not None else most_common([result.params for result in folds]),
        tuple(result.inner_score for result in folds),
        tuple(dict.fromkeys(text for result in everything for text in result.warnings)),
        sum(result.seconds for result in everything),
    )


def choose_in_every_fold(answers: Sequence[Answers], folds: Sequence[np.ndarray]) -> tuple[Answers, list[int]] | None:
    """Return what the whole procedure says that picks, in every fold, the candidate that its inner search liked best.

    Its score is honest about the choice among candidates, as the best candidate's own score is not.

    Parameters
    ----------
    answers : sequence of Answers
    folds : sequence of ndarray
        The test positions of each fold.

    Returns
    -------
    (Answers, list of int) or None
        With the candidate picked in each fold; None where a candidate has no inner score to be compared by.
    """
    if any(score is None for answer in answers for score in answer.inner_scores):
        return None
    picked = [
        int(np.argmax(np.array([answer.inner_scores[fold] for answer in answers], float))) for fold in range(len(folds))
    ]
    positions = np.concatenate(folds)
    order = np.empty(len(positions), np.int64)
    order[positions] = np.arange(len(positions))
    chosen = [answers[which] for which in picked]
    parts = [answer.out_of_fold.take(rows) for answer, rows in zip(chosen, folds, strict=True)]
    said = Answers(
        join(parts).take(order),
        None,
        {},
        tuple(answer.inner_scores[fold] for fold, answer in enumerate(chosen)),
        (),
        sum(answer.seconds for answer in answers),
    )
    return said, picked


def join(parts: Sequence[Predictions]) -> Predictions:
    """Return predictions one after the other; probabilities and scores only where every part has them."""
    return Predictions(
        np.concatenate([part.labels for part in parts]),
        _stack([part.probabilities for part in parts]),
        _stack([part.scores for part in parts]),
    )


def widen(predictions: Predictions, n_classes: int) -> Predictions:
    """Return the predictions with room for classes that no head knows: probability 0, the lowest score."""
    return Predictions(
        predictions.labels,
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


def _pad(values: np.ndarray | None, n_classes: int, fill: float) -> np.ndarray | None:
    if values is None or values.shape[1] >= n_classes:
        return values
    return np.pad(values, ((0, 0), (0, n_classes - values.shape[1])), constant_values=fill)
