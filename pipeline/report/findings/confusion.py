"""Which class was taken for which, and how well each was found."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.intervals import wilson
from pipeline.report.findings.answers import Answers


@dataclass(frozen=True, eq=False)
class Confusion:
    """How often each class was said of each.

    Attributes
    ----------
    classes : tuple of str
    counts : ndarray of int64, shape (k, k)
        Row: what the images are. Column: what was said of them.
    """

    classes: tuple[str, ...]
    counts: np.ndarray

    @property
    def shares(self) -> np.ndarray:
        """``(k, k)`` float64: of the images of each class; a row of zeros for a class without images."""
        return self.counts / np.maximum(self.counts.sum(axis=1, keepdims=True), 1)

    @property
    def commonest_mistakes(self) -> list[tuple[str, str, int]]:
        """(what it is, what was said, how often), the commonest first; those of one count in the order of classes."""
        wrong = self.counts - np.diag(np.diag(self.counts))
        rows, columns = np.nonzero(wrong)
        order = np.argsort(-wrong[rows, columns], kind="stable")
        return [
            (self.classes[rows[place]], self.classes[columns[place]], int(wrong[rows[place], columns[place]]))
            for place in order
        ]


@dataclass(frozen=True)
class ClassRow:
    """How one class was found.

    Attributes
    ----------
    name : str
    n : int
        Images of it.
    precision : float or None
        The share that is right of what was said to be this class; None where nothing was.
    recall, recall_low, recall_high : float or None
        The share of its images that was found, and its 95% interval (Wilson's, the images taken as independent); None
        where there is no image of it.
    f1 : float or None
        Their harmonic mean; None where there is neither an image of it nor one that was said to be.
    taken_for : str
        The class that its images were taken for most often, the first of those that tie; empty where for none.
    times : int
        How often.
    """

    name: str
    n: int
    precision: float | None
    recall: float | None
    recall_low: float | None
    recall_high: float | None
    f1: float | None
    taken_for: str
    times: int


def confusion(answers: Answers) -> Confusion:
    """Return how often each class was said of each."""
    k = len(answers.classes)
    places = answers.true * k + answers.predicted
    return Confusion(answers.classes, np.bincount(places, minlength=k * k).reshape(k, k))


def per_class(answers: Answers) -> tuple[ClassRow, ...]:
    """Return how each class was found, in the order of the classes."""
    found = confusion(answers)
    return tuple(_row(found, place) for place in range(len(found.classes)))


def _row(found: Confusion, place: int) -> ClassRow:
    counts = found.counts
    right, n, said = int(counts[place, place]), int(counts[place].sum()), int(counts[:, place].sum())
    others = counts[place].copy()
    others[place] = 0
    times = int(others.max())
    low, high = wilson(right / n, n) if n else (None, None)
    return ClassRow(
        name=found.classes[place],
        n=n,
        precision=right / said if said else None,
        recall=right / n if n else None,
        recall_low=low,
        recall_high=high,
        f1=2 * right / (n + said) if n + said else None,
        taken_for=found.classes[int(others.argmax())] if times else "",
        times=times,
    )
