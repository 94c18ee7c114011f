"""The most confident mistakes, possible label errors, and duplicates among the images of a run.

References
----------
Northcutt, Jiang, Chuang (2021), Confident learning: estimating uncertainty in dataset labels. JAIR 70. Of its rules
the confident joint with the class thresholds, and the ranking by normalized margin; cleanlab is theirs.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np

from pipeline.cache import RowSubset
from pipeline.model import unit_rows
from pipeline.near_duplicates import DuplicateGroups, find_duplicates, row_blocks
from pipeline.report.diagnostics.predictions import ClassPredictions, NumberPredictions, StoredFeatures

_BLOCK = 4096


@dataclass(frozen=True)
class SimilarImage:
    """A training image that is similar to another image.

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
    """An image with a wrong prediction.

    Attributes
    ----------
    id, true, predicted : str
    probability : float
        Of the prediction; NaN where the head gives none.
    neighbours : tuple of SimilarImage
        The most similar first; empty where the features of the image are not available.
    part : str
        The model: the number of the fold that the image was left out of, or "test"; as in `ClassPredictions`.
    """

    id: str
    true: str
    predicted: str
    probability: float
    neighbours: tuple[SimilarImage, ...] = ()
    part: str = ""


def most_confident_mistakes(
    predictions: ClassPredictions,
    features: StoredFeatures | None,
    *,
    most: int = 12,
    neighbours: int = 3,
    trained: tuple[ClassPredictions, StoredFeatures] | None = None,
    exclude: Collection[str] = (),
    random_state: int = 0,
) -> tuple[Mistake, ...]:
    """Return the most confident mistakes.

    Parameters
    ----------
    answers : ClassPredictions
    features : StoredFeatures or None
        Without them there are no neighbours.
    most : int
    neighbours : int
        How many similar training images: for a prediction out of fold, those of all other folds.
    trained : (Answers, Features), optional
        For predictions of a test set: the predictions out of fold, of the training images.
    exclude : collection of str
        Ids that are left out: those that are shown elsewhere.
    random_state : int
        Where the head gives no probabilities, as many mistakes are drawn at random.

    Returns
    -------
    tuple of Mistake
        The most confident first; of equal ones that with the less probable label first. Drawn ones in the order of
        `predictions`.
    """
    wrong = predictions.wrong
    if exclude:
        wrong = np.array([row for row in wrong.tolist() if predictions.ids[row] not in exclude], np.int64)
    if predictions.has_probabilities:
        truth = np.where(np.isfinite(predictions.probability_true), predictions.probability_true, 0.0)
        chosen = wrong[np.lexsort((truth[wrong], -predictions.probability[wrong]))][:most]
    else:
        chosen = np.sort(np.random.default_rng(random_state).permutation(wrong)[:most])
    near: list[tuple[SimilarImage, ...]] = [()] * len(chosen)
    if features is not None and len(chosen):
        near = _nearest(predictions, chosen, features, *(trained or (predictions, features)), neighbours)
    return tuple(
        Mistake(
            predictions.ids[row],
            predictions.classes[predictions.true[row]],
            predictions.classes[predictions.predicted[row]],
            float(predictions.probability[row]),
            similar,
            str(predictions.part[row]),
        )
        for row, similar in zip(chosen, near, strict=True)
    )


def largest_errors(
    predictions: NumberPredictions,
    features: StoredFeatures | None,
    *,
    most: int = 12,
    neighbours: int = 3,
    trained: tuple[NumberPredictions, StoredFeatures] | None = None,
) -> tuple[Mistake, ...]:
    """Return the images with the largest errors, the largest first; numbers are texts.

    Parameters as of `most_confident_mistakes`.
    """
    errors = np.abs(predictions.predicted - predictions.true)
    chosen = np.argsort(-errors, kind="stable")[:most]
    chosen = chosen[errors[chosen] > 0]
    near: list[tuple[SimilarImage, ...]] = [()] * len(chosen)
    if features is not None and len(chosen):
        near = _nearest(predictions, chosen, features, *(trained or (predictions, features)), neighbours)
    predicted = [f"{value:.4g}" for value in predictions.predicted]
    return tuple(
        Mistake(
            predictions.ids[row],
            predictions.labels[row],
            predicted[row],
            float("nan"),
            similar,
            str(predictions.part[row]),
        )
        for row, similar in zip(chosen, near, strict=True)
    )


def _nearest(
    predictions: ClassPredictions | NumberPredictions,
    chosen: np.ndarray,
    features: StoredFeatures,
    known: ClassPredictions | NumberPredictions,
    learned: StoredFeatures,
    k: int,
) -> list[tuple[SimilarImage, ...]]:
    """Return for each chosen image the k most similar known images of other folds."""
    at = features.rows([predictions.ids[row] for row in chosen])
    rows = learned.rows(known.ids)
    usable = np.flatnonzero(rows >= 0)
    queries = unit_rows(features.X[np.maximum(at, 0)])  # (chosen, d)
    cosine = np.empty((len(chosen), len(usable)), np.float32)
    for block in row_blocks(len(usable), _BLOCK):
        cosine[:, block] = queries @ unit_rows(learned.X[rows[usable[block]]]).T
    same_part = predictions.part[chosen][:, None] == known.part[usable][None, :]
    cosine[same_part | (at < 0)[:, None]] = -np.inf
    found, labels = [], known.labels
    for similar in cosine:
        order = np.argsort(-similar, kind="stable")[:k]
        found.append(
            tuple(
                SimilarImage(known.ids[row], str(labels[row]), float(similar[place]))
                for place, row in zip(order, usable[order], strict=True)
                if np.isfinite(similar[place])
            )
        )
    return found


@dataclass(frozen=True)
class LabelIssue:
    """A possible label error.

    Attributes
    ----------
    id : str
    label : str
        Its label.
    suggested : str
        The class that the head predicts.
    probability_of_label, probability_of_suggested : float
    margin : float
        The first less the second: the lower, the more likely the label is wrong.
    part : str
        The model: the number of the fold that the image was left out of, or "test"; as in `ClassPredictions`.
    neighbours : tuple of SimilarImage
        The most similar training images; empty unless `with_neighbours` adds them.
    """

    id: str
    label: str
    suggested: str
    probability_of_label: float
    probability_of_suggested: float
    margin: float
    part: str = ""
    neighbours: tuple[SimilarImage, ...] = ()


def label_issues(predictions: ClassPredictions) -> tuple[LabelIssue, ...] | None:
    """Return possible label errors, the most likely first.

    The threshold of a class is its mean probability on the images with its label. An image is a possible label error if
    another class is the most probable one and reaches the threshold of that class. A head with low probabilities for a
    class everywhere thus flags few images for it.

    Parameters
    ----------
    answers : ClassPredictions
        Out of fold: a head repeats the labels that it was trained on.

    Returns
    -------
    tuple of LabelIssue or None
        None for a head without probabilities.
    """
    if not (predictions.has_probabilities and predictions.has_own_probabilities):
        return None
    k = len(predictions.classes)
    present = np.bincount(predictions.true, minlength=k)
    sums = np.bincount(predictions.true, predictions.probability_true, minlength=k)
    # A class without images has no threshold.
    threshold = np.where(present > 0, sums / np.maximum(present, 1), np.inf)
    other = (predictions.predicted != predictions.true) & (predictions.probability >= threshold[predictions.predicted])
    margin = predictions.probability_true - predictions.probability
    rows = np.flatnonzero(other)
    rows = rows[np.argsort(margin[rows], kind="stable")]
    return tuple(
        LabelIssue(
            predictions.ids[row],
            predictions.classes[predictions.true[row]],
            predictions.classes[predictions.predicted[row]],
            float(predictions.probability_true[row]),
            float(predictions.probability[row]),
            float(margin[row]),
            str(predictions.part[row]),
        )
        for row in rows
    )


def with_neighbours(
    issues: Sequence[LabelIssue], predictions: ClassPredictions, features: StoredFeatures | None, *, first: int, k: int
) -> tuple[LabelIssue, ...]:
    """Return the issues, the first ones with the k most similar images of other folds.

    Parameters
    ----------
    issues : sequence of LabelIssue
    predictions : ClassPredictions
        Out of fold, of these images.
    features : StoredFeatures or None
        Without them the issues are returned as they are.
    first, k : int
    """
    row_of = {name: row for row, name in enumerate(predictions.ids)}
    pictured_issues = [issue for issue in issues[:first] if issue.id in row_of]
    if features is None or not pictured_issues or len(pictured_issues) < len(issues[:first]):
        return tuple(issues)
    rows = np.array([row_of[issue.id] for issue in pictured_issues], np.int64)
    near = _nearest(predictions, rows, features, predictions, features, k)
    pictured = [replace(issue, neighbours=images) for issue, images in zip(pictured_issues, near, strict=True)]
    return (*pictured, *issues[first:])


@dataclass(frozen=True)
class DuplicatePair:
    """Two images that are duplicates of each other.

    Attributes
    ----------
    first, other : str
        Ids.
    label_of_first, label_of_other : str
    cosine : float
        Of their centered embeddings; 1 for exact duplicates.
    exact : bool
        Whether the two have the same content.
    """

    first: str
    other: str
    label_of_first: str
    label_of_other: str
    cosine: float
    exact: bool

    @property
    def differs(self) -> bool:
        """Return whether the two have different labels: one may be wrong."""
        return self.label_of_first != self.label_of_other


@dataclass(frozen=True)
class DuplicatePairs:
    """The duplicates among some images.

    Attributes
    ----------
    pairs : tuple of DuplicatePair
        Those with different labels first, then the most similar. Exact duplicates are paired with the first.
    images : int
        How many images are a duplicate of another.
    too_alike : bool
        Whether so many images look alike that near-duplicates mean nothing; the pairs are exact duplicates then.
    """

    pairs: tuple[DuplicatePair, ...]
    images: int
    too_alike: bool


def find_duplicate_pairs(
    features: StoredFeatures, ids: Sequence[str], labels: Sequence[str] | np.ndarray, *, folds: int
) -> DuplicatePairs:
    """Return which of these images are duplicates of each other.

    Near-duplicates are ignored where an evaluation with as many folds would not keep them together: see
    `DuplicateGroups.suits`.
    """
    rows = features.rows(ids)
    at = np.flatnonzero(rows >= 0)
    found = find_duplicates(RowSubset(features.X, rows[at]), features.digests[rows[at]])
    too_alike = not found.suits(folds)
    if too_alike:
        found = found.exact_only()
    pairs = []
    for first, other, cosine, exact in _pairs(found):
        row, twin = at[first], at[other]
        pairs.append(DuplicatePair(ids[row], ids[twin], str(labels[row]), str(labels[twin]), cosine, exact))
    pairs.sort(key=lambda pair: (not pair.differs, -pair.cosine, pair.first, pair.other))
    return DuplicatePairs(tuple(pairs), int((np.bincount(found.clusters)[found.clusters] > 1).sum()), too_alike)


def _pairs(found: DuplicateGroups) -> list[tuple[int, int, float, bool]]:
    """Return positions of duplicates: exact ones with the first of their content, near ones by the first of each."""
    order = np.argsort(found.content, kind="stable")
    first = np.zeros(int(found.content.max(initial=-1)) + 1, np.int64)  # of each content
    first[found.content[order][::-1]] = order[::-1]
    exact = np.flatnonzero(first[found.content] != np.arange(len(found.content)))
    pairs = [(int(first[found.content[row]]), int(row), 1.0, True) for row in exact]
    near = zip(first[found.pairs].tolist(), found.cosine.tolist(), strict=True)
    return pairs + [(min(pair), max(pair), round(cosine, 4), False) for pair, cosine in near]
