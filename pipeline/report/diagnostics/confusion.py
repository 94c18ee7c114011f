"""Confusion matrix, results per class, and calibration.

References
----------
Naeini, Cooper, Hauskrecht (2015), Obtaining well calibrated probabilities using Bayesian binning. AAAI: the expected
calibration error. Guo, Pleiss, Sun, Weinberger (2017), On calibration of modern neural networks. ICML: of the class
that is predicted, for any number of classes.
Nguyen, O'Connor (2015), Posterior calibration and exploratory analysis for natural language processing models. EMNLP:
bins of equal count, so that no bin depends on three images.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

from pipeline.intervals import wilson
from pipeline.report.diagnostics.predictions import ClassPredictions


@dataclass(frozen=True, eq=False)
class Confusion:
    """The confusion matrix.

    Attributes
    ----------
    classes : tuple of str
    counts : ndarray of int64, shape (k, k)
        Row: label. Column: prediction.
    """

    classes: tuple[str, ...]
    counts: np.ndarray

    @property
    def shares(self) -> np.ndarray:
        """``(k, k)`` float64: of the images of each class; a row of zeros for a class without images."""
        return self.counts / np.maximum(self.counts.sum(axis=1, keepdims=True), 1)

    @property
    def commonest_mistakes(self) -> list[tuple[str, str, int]]:
        """Return (label, prediction, count), the most common first; equal counts in the order of classes."""
        wrong = self.counts - np.diag(np.diag(self.counts))
        rows, columns = np.nonzero(wrong)
        order = np.argsort(-wrong[rows, columns], kind="stable")
        return [
            (self.classes[rows[place]], self.classes[columns[place]], int(wrong[rows[place], columns[place]]))
            for place in order
        ]


@dataclass(frozen=True)
class ClassRow:
    """The results of one class.

    Attributes
    ----------
    name : str
    n : int
        Images of it.
    precision : float or None
        The share of the predictions of this class that are correct; None without any.
    recall, recall_low, recall_high : float or None
        The share of its images that is predicted as this class, with its 95% interval (Wilson's, for independent
        images); None without an image of it.
    f1 : float or None
        Their harmonic mean; None without an image and a prediction of it.
    taken_for : str
        The class that its images are wrongly predicted as most often, the first of ties; empty without mistakes.
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
    """Return the confusion matrix."""
    k = len(predictions.classes)
    places = predictions.true * k + predictions.predicted
    return Confusion(predictions.classes, np.bincount(places, minlength=k * k).reshape(k, k))


def per_class(predictions: ClassPredictions) -> tuple[ClassRow, ...]:
    """Return the results of each class, in the order of the classes."""
    found = confusion(predictions)
    return tuple(_row(found, place) for place in range(len(found.classes)))


def _row(found: Confusion, place: int) -> ClassRow:
    counts = found.counts
    right, n, predicted = int(counts[place, place]), int(counts[place].sum()), int(counts[:, place].sum())
    others = counts[place].copy()
    others[place] = 0
    times = int(others.max())
    low, high = wilson(right / n, n) if n else (None, None)
    return ClassRow(
        name=found.classes[place],
        n=n,
        precision=right / predicted if predicted else None,
        recall=right / n if n else None,
        recall_low=low,
        recall_high=high,
        f1=2 * right / (n + predicted) if n + predicted else None,
        taken_for=found.classes[int(others.argmax())] if times else "",
        times=times,
    )


FEWEST = 10  # images in a bin, where there are so many


@dataclass(frozen=True)
class CalibrationBin:
    """Images with about the same probability.

    Attributes
    ----------
    low, high : float
        The least and the greatest of their probabilities.
    n : int
    probability : float
        The mean probability of the predictions.
    accuracy, accuracy_low, accuracy_high : float
        The share of correct predictions, with its 95% interval: Wilson's, for independent images.
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
    """The probabilities of a head against its accuracy.

    Attributes
    ----------
    bins : tuple of CalibrationBin
        Of about equally many images, low probabilities first; equal probabilities are in one bin.
    error : float
        The expected calibration error: the mean distance of the two over the images, bin by bin.
    lead : float
        Mean probability less accuracy: above 0 the probabilities are too high, below 0 too low.
    """

    bins: tuple[CalibrationBin, ...]
    error: float
    lead: float


def calibration(predictions: ClassPredictions, *, bins: int = 10) -> Calibration | None:
    """Return the calibration of the predictions.

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
    # Equal probabilities stay in one bin: the bin of an image must not depend on the order of the rows.
    edges[1:-1] = np.searchsorted(probability, probability[edges[1:-1]], side="left")
    edges = np.unique(edges)
    found = tuple(_bin(probability[a:b], right[a:b]) for a, b in itertools.pairwise(edges))
    error = sum(each.n * abs(each.probability - each.accuracy) for each in found) / n
    return Calibration(found, float(error), float(probability.mean() - right.mean()))


def _bin(probability: np.ndarray, right: np.ndarray) -> CalibrationBin:
    accuracy = float(right.mean())
    low, high = wilson(accuracy, len(right))
    return CalibrationBin(
        float(probability[0]), float(probability[-1]), len(right), float(probability.mean()), accuracy, low, high
    )
