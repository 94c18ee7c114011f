"""Which class was taken for which, and how well each was found. Whether a head that says 0.8 is right 8 times in 10.

References
----------
Naeini, Cooper, Hauskrecht (2015), Obtaining well calibrated probabilities using Bayesian binning. AAAI: the expected
calibration error. Guo, Pleiss, Sun, Weinberger (2017), On calibration of modern neural networks. ICML: of the class
that is said, for any number of classes.
Nguyen, O'Connor (2015), Posterior calibration and exploratory analysis for natural language processing models. EMNLP:
bins of equal count, so that no bin is a matter of three images.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

from pipeline.intervals import wilson
from pipeline.report.diagnostics.predictions import ClassPredictions


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


def confusion(predictions: ClassPredictions) -> Confusion:
    """Return how often each class was said of each."""
    k = len(predictions.classes)
    places = predictions.true * k + predictions.predicted
    return Confusion(predictions.classes, np.bincount(places, minlength=k * k).reshape(k, k))


def per_class(predictions: ClassPredictions) -> tuple[ClassRow, ...]:
    """Return how each class was found, in the order of the classes."""
    found = confusion(predictions)
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


FEWEST = 10  # images in a bin, where there are so many


@dataclass(frozen=True)
class CalibrationBin:
    """Images of which the head was about equally sure.

    Attributes
    ----------
    low, high : float
        The least and the greatest of their probabilities.
    n : int
    probability : float
        How sure it was of what it said, on average.
    accuracy, accuracy_low, accuracy_high : float
        How often it was right, and the 95% interval: Wilson's, the images taken as independent.
    """

    low: float
    high: float
    n: int
    probability: float
    accuracy: float
    accuracy_low: float
    accuracy_high: float


@dataclass(frozen=True)
class Calibration:
    """How sure a head is, held against how often it is right.

    Attributes
    ----------
    bins : tuple of CalibrationBin
        Of about equally many images, the unsure first; equal probabilities are in one bin.
    error : float
        The expected calibration error: the mean distance of the two over the images, bin by bin.
    lead : float
        How much surer it is than right on average: above 0 it is too sure, below 0 too modest.
    """

    bins: tuple[CalibrationBin, ...]
    error: float
    lead: float


def calibration(predictions: ClassPredictions, *, bins: int = 10) -> Calibration | None:
    """Return how sure the head is of what it says, held against how often it is right.

    Parameters
    ----------
    answers : ClassPredictions
    bins : int
        At the most; fewer where there are not `FEWEST` images for each, or where many probabilities are equal.

    Returns
    -------
    Calibration or None
        None for a head without probabilities.
    """
    if not predictions.has_probabilities:
        return None
    order = np.argsort(predictions.probability, kind="stable")
    probability = predictions.probability[order]
    right = (predictions.true == predictions.predicted)[order]
    n = len(order)
    count = max(1, min(bins, n // FEWEST))
    edges = np.round(np.linspace(0, n, count + 1)).astype(np.int64)
    # Equal probabilities stay in one bin: in which one an image lies must not be a matter of the rows' order.
    edges[1:-1] = np.searchsorted(probability, probability[edges[1:-1]], side="left")
    edges = np.unique(edges)
    found = tuple(_bin(probability[a:b], right[a:b]) for a, b in itertools.pairwise(edges))
    error = sum(one.n * abs(one.probability - one.accuracy) for one in found) / n
    return Calibration(found, float(error), float(probability.mean() - right.mean()))


def _bin(probability: np.ndarray, right: np.ndarray) -> CalibrationBin:
    accuracy = float(right.mean())
    low, high = wilson(accuracy, len(right))
    return CalibrationBin(
        float(probability[0]), float(probability[-1]), len(right), float(probability.mean()), accuracy, low, high
    )
