"""Labels that may be wrong: images of which a head that had not seen them is sure that they are something else.

References
----------
Northcutt, Jiang, Chuang (2021), Confident learning: estimating uncertainty in dataset labels. JAIR 70. Of its rules
the confident joint with the class thresholds, and the ranking by normalized margin; cleanlab is theirs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.report.findings.answers import Answers


@dataclass(frozen=True)
class Suspect:
    """An image whose label may be wrong.

    Attributes
    ----------
    id : str
    label : str
        What it is said to be.
    suggested : str
        What the head takes it for.
    probability_of_label, probability_of_suggested : float
    margin : float
        The first less the second: the lower, the more suspicious.
    part : str
        Which model it was: the number of the fold that the image was left out of, or "test"; as in `Answers`.
    """

    id: str
    label: str
    suggested: str
    probability_of_label: float
    probability_of_suggested: float
    margin: float
    part: str = ""


def suspects(answers: Answers) -> tuple[Suspect, ...] | None:
    """Return the images whose label may be wrong, the most suspicious first.

    The threshold of a class is how sure the head is of it, on average, on the images that bear its label. An image is
    suspected when another class is the likeliest and reaches that class's own threshold: a head that is unsure of a
    class everywhere accuses nobody of belonging to it for nothing.

    Parameters
    ----------
    answers : Answers
        Out of fold: of a head that has learned a label, nothing is learned about it.

    Returns
    -------
    tuple of Suspect or None
        None for a head without probabilities.
    """
    if not (answers.has_probabilities and answers.has_own_probabilities):
        return None
    k = len(answers.classes)
    there = np.bincount(answers.true, minlength=k)
    sums = np.bincount(answers.true, answers.probability_true, minlength=k)
    # Of a class that no image bears, none is suspected to be.
    threshold = np.where(there > 0, sums / np.maximum(there, 1), np.inf)
    other = (answers.predicted != answers.true) & (answers.probability >= threshold[answers.predicted])
    margin = answers.probability_true - answers.probability
    rows = np.flatnonzero(other)
    rows = rows[np.argsort(margin[rows], kind="stable")]
    return tuple(
        Suspect(
            answers.ids[row],
            answers.classes[answers.true[row]],
            answers.classes[answers.predicted[row]],
            float(answers.probability_true[row]),
            float(answers.probability[row]),
            float(margin[row]),
            str(answers.part[row]),
        )
        for row in rows
    )
