"""Copies among the images of a run, those with different labels first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.cache import RowSubset
from pipeline.near_duplicates import DuplicateGroups, find_duplicates
from pipeline.report.findings.features import Features


@dataclass(frozen=True)
class Pair:
    """Two images that are copies of one another.

    Attributes
    ----------
    one, other : str
        Ids.
    label_of_one, label_of_other : str
    cosine : float
        Of their embeddings less the mean of all images'; 1 for exact copies.
    exact : bool
        Whether the two have one content.
    """

    one: str
    other: str
    label_of_one: str
    label_of_other: str
    cosine: float
    exact: bool

    @property
    def differs(self) -> bool:
        """Whether the two bear different labels: one may be wrong."""
        return self.label_of_one != self.label_of_other


@dataclass(frozen=True)
class FoundCopies:
    """The copies among some images.

    Attributes
    ----------
    pairs : tuple of Pair
        Those with different labels first, then the most alike. Of several exact copies each stands beside the first.
    images : int
        How many images are a copy of another.
    too_alike : bool
        Whether so many images look alike that near-copies mean nothing; the pairs are exact copies then.
    """

    pairs: tuple[Pair, ...]
    images: int
    too_alike: bool


def copies_among(
    features: Features, ids: Sequence[str], labels: Sequence[str] | np.ndarray, *, folds: int
) -> FoundCopies:
    """Return which of these images are copies of one another.

    Near-copies are let go where they would not be kept together by an evaluation with as many folds: see
    `Copies.suits`.
    """
    rows = features.rows(ids)
    at = np.flatnonzero(rows >= 0)
    found = find_duplicates(RowSubset(features.X, rows[at]), features.digests[rows[at]])
    too_alike = not found.suits(folds)
    if too_alike:
        found = found.exact_only()
    pairs = []
    for one, other, cosine, exact in _pairs(found):
        first, second = at[one], at[other]
        pairs.append(Pair(ids[first], ids[second], str(labels[first]), str(labels[second]), cosine, exact))
    pairs.sort(key=lambda pair: (not pair.differs, -pair.cosine, pair.one, pair.other))
    return FoundCopies(tuple(pairs), int((np.bincount(found.clusters)[found.clusters] > 1).sum()), too_alike)


def _pairs(found: DuplicateGroups) -> list[tuple[int, int, float, bool]]:
    """Return positions of copies: each exact one with the first of its content, and near-copies by their firsts."""
    order = np.argsort(found.content, kind="stable")
    first = np.zeros(int(found.content.max(initial=-1)) + 1, np.int64)  # of each content
    first[found.content[order][::-1]] = order[::-1]
    exact = np.flatnonzero(first[found.content] != np.arange(len(found.content)))
    pairs = [(int(first[found.content[row]]), int(row), 1.0, True) for row in exact]
    near = zip(first[found.pairs].tolist(), found.cosine.tolist(), strict=True)
    return pairs + [(min(pair), max(pair), round(cosine, 4), False) for pair, cosine in near]
