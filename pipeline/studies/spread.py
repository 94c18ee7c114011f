"""How far a mean over draws may be from the one that endless draws and endless test images would give.

Two things might have been otherwise: which labels were drawn, and which images are the test. Each has its own limits,
and the two are put together as limits of a sum of independent parts are, their distances added in squares (MOVER).

References
----------
Zou, Donner (2008), Construction of confidence limits about effect measures: a general approach. Stat. Med. 27.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from pipeline.intervals import score_with_interval
from pipeline.search import Predictions
from pipeline.studies.lessons import SCORING

HOW = (
    "95%, for the draws of labels and the test images together: Student's t over the draws, and over the test images "
    "the mean over the draws of MOVER of Wilson's, one a class (whole groups resampled where there are groups); the "
    "two combined in squares. With all labels there is one draw, and the seeds of training from scratch in its place; "
    "how much lies in which images were labelled is not told there. Differences: of the same draws and images, by the "
    "jackknife over images or groups."
)
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Estimate:
    """A value and its 95% limits."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, eq=False)
class TestSet:
    """The test images.

    Attributes
    ----------
    y : ndarray of int64, (m,)
    classes : int
    groups : ndarray, (m,), or None
    """

    y: np.ndarray
    classes: int
    groups: np.ndarray | None

    @property
    def weights(self) -> np.ndarray:
        """What each image counts in balanced accuracy, (m,)."""
        counts = np.bincount(self.y, minlength=self.classes)
        return 1 / (np.count_nonzero(counts) * counts[self.y])


def mean_score(exam: TestSet, predicted: Sequence[np.ndarray], *, random_state: int) -> Estimate:
    """Return the mean score of some draws with its interval.

    Parameters
    ----------
    exam : Exam
    predicted : sequence of ndarray of int64, (m,)
        One a draw.
    random_state : int
    """
    found = [
        score_with_interval(
            SCORING,
            exam.y,
            Predictions(said),
            kind="class",
            n_classes=exam.classes,
            groups=exam.groups,
            random_state=random_state,
        )
        for said in predicted
    ]
    values = np.array([one.value for one in found])
    below = float(np.mean([one.value - one.low for one in found]))
    above = float(np.mean([one.high - one.value for one in found]))
    mean, half = float(values.mean()), half_of_draws(values)
    return Estimate(mean, max(0.0, mean - math.hypot(below, half)), min(1.0, mean + math.hypot(above, half)))


def mean_lead(exam: TestSet, leader: Sequence[np.ndarray], rival: Sequence[np.ndarray], more: np.ndarray) -> Estimate:
    """Return by how much the leader's mean score is higher on the same draws and images, with its interval.

    Parameters
    ----------
    exam : Exam
    leader, rival : sequence of ndarray of int64, (m,)
        What each predicted, a pair a draw.
    more : ndarray, (draws,)
        What is added to the lead of each draw and does not depend on the test images.
    """
    right = np.stack([first == exam.y for first in leader]).astype(float)
    right -= np.stack([second == exam.y for second in rival])
    leads = right @ exam.weights + more  # (draws,)
    half = math.hypot(half_of_draws(leads), _half_of_images(exam, right.mean(axis=0)))
    mean = float(leads.mean())
    return Estimate(mean, mean - half, mean + half)


def half_of_draws(values: np.ndarray) -> float:
    """Return half the width of Student's interval of the mean; 0 for a single draw, of which nothing is told."""
    if len(values) < 2:
        return 0.0
    t = float(stats.t.ppf((1 + CONFIDENCE) / 2, len(values) - 1))
    return t * float(np.std(values, ddof=1)) / math.sqrt(len(values))


def _half_of_images(exam: TestSet, differences: np.ndarray) -> float:
    """Return half the width of the interval of a weighted mean of differences, (m,), the images or groups varying.

    By the jackknife, which leaves out one image or group after the other. At least what one of them a class would make:
    few without a difference do not prove that there is none, and a class of one group does not tell how groups differ.
    """
    members = np.arange(len(exam.y)) if exam.groups is None else np.unique(exam.groups, return_inverse=True)[1].ravel()
    units, classes = int(members.max()) + 1, exam.classes
    if units < 2:
        return 1.0  # one group tells nothing of others: any difference may be
    place = members * classes + exam.y  # (m,), unit by class
    counts = np.bincount(place, minlength=units * classes).reshape(units, classes)
    sums = np.bincount(place, differences, minlength=units * classes).reshape(units, classes)
    there = counts.sum(axis=0) > 0
    counts, sums = counts[:, there], sums[:, there]
    left, rest = counts.sum(axis=0) - counts, sums.sum(axis=0) - sums  # (units, classes), without each unit
    means = np.where(left > 0, rest / np.maximum(left, 1), 0).sum(axis=1) / np.count_nonzero(left, axis=1).clip(1)
    variance = (units - 1) / units * float(np.sum((means - means.mean()) ** 2))
    fewest = float(np.sum((1 / (len(counts[0]) * np.count_nonzero(counts, axis=0))) ** 2))
    return float(stats.t.ppf((1 + CONFIDENCE) / 2, units - 1)) * math.sqrt(max(variance, fewest))
