"""Whether a head that says 0.8 is right 8 times in 10.

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
from pipeline.report.findings.answers import Answers

FEWEST = 10  # images in a bin, where there are so many


@dataclass(frozen=True)
class Bin:
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
    bins : tuple of Bin
        Of about equally many images, the unsure first; equal probabilities are in one bin.
    error : float
        The expected calibration error: the mean distance of the two over the images, bin by bin.
    lead : float
        How much surer it is than right on average: above 0 it is too sure, below 0 too modest.
    """

    bins: tuple[Bin, ...]
    error: float
    lead: float


def calibration(answers: Answers, *, bins: int = 10) -> Calibration | None:
    """Return how sure the head is of what it says, held against how often it is right.

    Parameters
    ----------
    answers : Answers
    bins : int
        At the most; fewer where there are not `FEWEST` images for each, or where many probabilities are equal.

    Returns
    -------
    Calibration or None
        None for a head without probabilities.
    """
    if not answers.has_probabilities:
        return None
    order = np.argsort(answers.probability, kind="stable")
    probability = answers.probability[order]
    right = (answers.true == answers.predicted)[order]
    n = len(order)
    count = max(1, min(bins, n // FEWEST))
    edges = np.round(np.linspace(0, n, count + 1)).astype(np.int64)
    # Equal probabilities stay in one bin: in which one an image lies must not be a matter of the rows' order.
    edges[1:-1] = np.searchsorted(probability, probability[edges[1:-1]], side="left")
    edges = np.unique(edges)
    found = tuple(_bin(probability[a:b], right[a:b]) for a, b in itertools.pairwise(edges))
    error = sum(one.n * abs(one.probability - one.accuracy) for one in found) / n
    return Calibration(found, float(error), float(probability.mean() - right.mean()))


def _bin(probability: np.ndarray, right: np.ndarray) -> Bin:
    accuracy = float(right.mean())
    low, high = wilson(accuracy, len(right))
    return Bin(
        float(probability[0]), float(probability[-1]), len(right), float(probability.mean()), accuracy, low, high
    )
