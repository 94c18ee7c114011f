"""The mistakes a head was surest of, each beside the training photos that are most like it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.model.training_set import unit_rows
from pipeline.near_duplicates import row_blocks
from pipeline.report.findings.answers import Answers, NumberAnswers
from pipeline.report.findings.features import Features

_BLOCK = 4096


@dataclass(frozen=True)
class Neighbour:
    """A training photo that is like another photo.

    Attributes
    ----------
    id, label : str
    cosine : float
        Of the two embeddings.
    """

    id: str
    label: str
    cosine: float


@dataclass(frozen=True)
class Mistake:
    """An image that a head was wrong about.

    Attributes
    ----------
    id, true, predicted : str
    probability : float
        Of what was said; NaN where the head gives none.
    neighbours : tuple of Neighbour
        The most alike first; empty where the features of the image are not to be had.
    part : str
        Which model it was: the number of the fold that the image was left out of, or "test"; as in `Answers`.
    """

    id: str
    true: str
    predicted: str
    probability: float
    neighbours: tuple[Neighbour, ...] = ()
    part: str = ""


def most_confident_mistakes(
    answers: Answers,
    features: Features | None,
    *,
    most: int = 12,
    neighbours: int = 3,
    trained: tuple[Answers, Features] | None = None,
    random_state: int = 0,
) -> tuple[Mistake, ...]:
    """Return the mistakes that the head was surest of.

    Parameters
    ----------
    answers : Answers
    features : Features or None
        Without them there are no neighbours.
    most : int
    neighbours : int
        How many, among the images that the head learned from when it was asked: for an answer out of fold those of all
        other folds.
    trained : (Answers, Features), optional
        For answers about a test set: those out of fold, about the images that the head learned from.
    random_state : int
        Where the head gives no probabilities, as many mistakes are drawn at random.

    Returns
    -------
    tuple of Mistake
        The surest first; where two are equally sure, the one with the less probable truth. Drawn ones in the order of
        `answers`.
    """
    wrong = answers.wrong
    if answers.has_probabilities:
        truth = np.where(np.isfinite(answers.probability_true), answers.probability_true, 0.0)
        chosen = wrong[np.lexsort((truth[wrong], -answers.probability[wrong]))][:most]
    else:
        chosen = np.sort(np.random.default_rng(random_state).permutation(wrong)[:most])
    near: list[tuple[Neighbour, ...]] = [()] * len(chosen)
    if features is not None and len(chosen):
        near = _nearest(answers, chosen, features, *(trained or (answers, features)), neighbours)
    return tuple(
        Mistake(
            answers.ids[row],
            answers.classes[answers.true[row]],
            answers.classes[answers.predicted[row]],
            float(answers.probability[row]),
            mine,
            str(answers.part[row]),
        )
        for row, mine in zip(chosen, near, strict=True)
    )


def largest_errors(
    answers: NumberAnswers,
    features: Features | None,
    *,
    most: int = 12,
    neighbours: int = 3,
    trained: tuple[NumberAnswers, Features] | None = None,
) -> tuple[Mistake, ...]:
    """Return the images whose number a head missed by most, the furthest first; numbers stand as texts.

    Parameters as of `most_confident_mistakes`.
    """
    errors = np.abs(answers.predicted - answers.true)
    chosen = np.argsort(-errors, kind="stable")[:most]
    chosen = chosen[errors[chosen] > 0]
    near: list[tuple[Neighbour, ...]] = [()] * len(chosen)
    if features is not None and len(chosen):
        near = _nearest(answers, chosen, features, *(trained or (answers, features)), neighbours)
    said = [f"{value:.4g}" for value in answers.predicted]
    return tuple(
        Mistake(answers.ids[row], answers.labels[row], said[row], float("nan"), mine, str(answers.part[row]))
        for row, mine in zip(chosen, near, strict=True)
    )


def _nearest(
    answers: Answers | NumberAnswers,
    chosen: np.ndarray,
    features: Features,
    known: Answers | NumberAnswers,
    learned: Features,
    k: int,
) -> list[tuple[Neighbour, ...]]:
    """Return of each chosen image the k most alike among the known ones that are in another fold."""
    at = features.rows([answers.ids[row] for row in chosen])
    rows = learned.rows(known.ids)
    usable = np.flatnonzero(rows >= 0)
    asked = unit_rows(features.X[np.maximum(at, 0)])  # (chosen, d)
    cosine = np.empty((len(chosen), len(usable)), np.float32)
    for block in row_blocks(len(usable), _BLOCK):
        cosine[:, block] = asked @ unit_rows(learned.X[rows[usable[block]]]).T
    same_part = answers.part[chosen][:, None] == known.part[usable][None, :]
    cosine[same_part | (at < 0)[:, None]] = -np.inf
    found, labels = [], known.labels
    for mine in cosine:
        order = np.argsort(-mine, kind="stable")[:k]
        found.append(
            tuple(
                Neighbour(known.ids[row], str(labels[row]), float(mine[place]))
                for place, row in zip(order, usable[order], strict=True)
                if np.isfinite(mine[place])
            )
        )
    return found
