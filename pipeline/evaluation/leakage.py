"""Which images are duplicates? They stay on one side of every split, and are reported across a fixed split."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from pipeline.cache import RowSubset
from pipeline.evaluation.dataset import Dataset, LabeledRows
from pipeline.near_duplicates import CrossDuplicates, DuplicateGroups, find_duplicates, find_duplicates_between
from pipeline.splits import tied

MOST_NAMED = 3


@dataclass(frozen=True, eq=False)
class DuplicateGuard:
    """Duplicates among the images of a dataset, and between them and those of a separate test set.

    Found once, from the penultimate layer of the first cache (or the first layer that both have), for all label sets.

    Attributes
    ----------
    collection : Collection
    test : Collection or None
    folds : int
        Into which the collection is to be split.
    """

    collection: Dataset
    test: Dataset | None
    folds: int

    @cached_property
    def found(self) -> DuplicateGroups:
        """All duplicates among the rows of the dataset, before `suits` is applied."""
        return find_duplicates(self._features(self.collection), self._digests(self.collection))

    @cached_property
    def copies(self) -> DuplicateGroups:
        """The same, without the near ones where they mean too little to be acted on."""
        return self.found if self.found.suits(self.folds) else self.found.exact_only()

    @cached_property
    def across(self) -> DuplicateGroups:
        """Duplicates between the dataset's rows and, after them, the test set's."""
        assert self.test is not None
        pairs = find_duplicates_between(
            self._features(self.collection),
            self._digests(self.collection),
            self._features(self.test),
            self._digests(self.test),
        )
        return pairs if self.found.suits(self.folds) else pairs.exact_only()

    def together(self, part: LabeledRows) -> tuple[np.ndarray | None, list[str]]:
        """Return which rows of a part stay together, one code per set of duplicates, and notes on it.

        None where there are no duplicates. Near-duplicates are ignored where they would tie groups or classes so that
        too
        little is left to split, and so are exact duplicates that tie all groups to one.
        """
        at = self._positions(part.rows)
        clusters, exact = self.copies.clusters[at], self.copies.content[at]
        codes, notes = clusters, []
        if len(np.unique(clusters)) < len(np.unique(exact)) and not self._leaves_enough(part, clusters, exact):
            codes = exact
            notes.append(
                "near-duplicates would tie too many groups or whole classes: only exact duplicates stay together"
            )
        if len(np.unique(codes)) == len(part):
            return None, notes
        if part.groups is not None and len(np.unique(part.groups)) > 1 == len(np.unique(tied(part.groups, codes))):
            return None, ["duplicates tie all groups to one another: only groups are kept whole"]
        return codes, notes

    def twins(self, train: LabeledRows, test: LabeledRows) -> CrossDuplicates:
        """Return which test rows duplicate training rows."""
        learned = self._positions(train.rows)
        if test.collection is train.collection:
            return self.copies.twins(learned, self._positions(test.rows))
        test_rows = len(self._rows) + np.searchsorted(test.collection.rows, test.rows)
        return self.across.twins(learned, test_rows)

    def about(self, parts: Sequence[LabeledRows]) -> list[str]:
        """Return notes on the duplicates among these training parts, and how splits treat them."""
        rows, first = np.unique(np.concatenate([part.rows for part in parts]), return_index=True)
        at, place = self._positions(rows), np.arange(len(rows))
        if parts[0].groups is not None:
            place = np.unique(np.concatenate([part.groups for part in parts])[first], return_inverse=True)[1]
        clusters, content = self.copies.clusters[at], self.copies.content[at]
        # Duplicates within one group stay together anyway, so no note is needed.
        apart = np.bincount(np.unique(np.column_stack([clusters, place]), axis=0)[:, 0]) > 1
        copies = np.flatnonzero(apart[clusters])
        notes = []
        if len(copies):
            exact = int((np.bincount(content[copies])[content[copies]] > 1).sum())
            first_row, second_row = np.flatnonzero(clusters == clusters[copies[0]])[:2]
            what = "exact duplicates" if exact == len(copies) else "duplicates" if exact else "near-duplicates"
            part_exact = f" ({exact} exactly)" if 0 < exact < len(copies) else ""
            ids = self.collection.ids
            notes.append(
                f"{len(copies)} images are {what} of one another{part_exact}, "
                f"e.g. {ids[rows[first_row]]} and {ids[rows[second_row]]}: "
                "they stay on one side of every split"
            )
        if not self.found.suits(self.folds):
            notes.append(
                f"{self.collection.name}: too many images look nearly alike "
                "to separate near-duplicates from similar images: "
                "only exact duplicates are kept on one side; name scenes or subjects with --groups COLUMN"
            )
        return notes

    def about_labels(self, part: LabeledRows, names: Sequence[str]) -> list[str]:
        """Return a note on duplicates with different labels: one of the two may be wrong."""
        at = self._positions(part.rows)
        content = self.copies.content[at]
        first = np.full(int(self.copies.content.max(initial=-1)) + 1, -1)  # of each content: its first row in the part
        first[content[::-1]] = np.arange(len(part))[::-1]
        exact = np.column_stack([first[content], np.arange(len(part))])
        exact = exact[exact[:, 0] < exact[:, 1]]
        near = first[self.copies.pairs]
        pairs = np.concatenate([exact, near[(near >= 0).all(axis=1)]])
        differing = pairs[part.y[pairs[:, 0]] != part.y[pairs[:, 1]]]
        if not len(differing):
            return []
        ids = part.ids
        left, right = (f"{ids[row]} ({names[part.y[row]]})" for row in sorted(differing[0].tolist()))
        what = "duplicates" if len(exact) else "near-duplicates"
        count = "1 pair" if len(pairs) == 1 else f"{len(differing)} of {len(pairs)} pairs"
        have = "has" if len(differing) == 1 else "have"
        return [f"{count} of {what} {have} different labels, e.g. {left} and {right}: one may be wrong"]

    def _leaves_enough(self, part: LabeledRows, clusters: np.ndarray, exact: np.ndarray) -> bool:
        """Return whether near-duplicates leave enough groups, and keep no class whole that exact duplicates do not."""
        if part.groups is not None:
            before, after = _sizes(part.groups), _sizes(tied(part.groups, clusters))
            largest = max(before.max(), len(part) / self.folds)
            return len(after) >= min(self.folds, len(before)) and bool(after.max() <= largest)
        if part.y.dtype.kind != "i" or part.y.ndim > 1:
            return True
        return not (_within_one(clusters, part.y) & ~_within_one(exact, part.y)).any()

    def _features(self, collection: Dataset) -> RowSubset:
        name = self._layer
        return RowSubset(
            collection.caches[0].stored(name), self._rows if collection is self.collection else collection.rows
        )

    @staticmethod
    def _digests(collection: Dataset) -> np.ndarray:
        return np.asarray(collection.caches[0].digest)[collection.rows]

    @cached_property
    def _rows(self) -> np.ndarray:
        return self.collection.rows

    def _positions(self, rows: np.ndarray) -> np.ndarray:
        """Return the places of rows of the collection among those that have features."""
        return np.searchsorted(self._rows, rows)

    @cached_property
    def _layer(self) -> str:
        cache = self.collection.caches[0]
        name = cache.layer_name(None)
        if self.test is not None and name not in self.test.caches[0].layers:
            return self.collection.layers[0][0]
        return name


def find_leakage(collection: Dataset, test: Dataset | None, folds: int) -> DuplicateGuard | None:
    """Return the guard over a collection and its test set; None before their features are extracted."""
    return DuplicateGuard(collection, test, folds) if collection.caches and (test is None or test.caches) else None


def describe_leakage(twins: CrossDuplicates, train: LabeledRows, test: LabeledRows) -> list[str]:
    """Return a note on the test images that duplicate training images."""
    if not len(twins):
        return []
    ids, of = test.ids, train.ids
    exact = int(twins.exact.sum())
    shown = [
        f"{ids[tested]} of {of[learned]}{'' if same else f' (cosine {cosine:.3f})'}"
        for tested, learned, cosine, same in zip(
            twins.test[:MOST_NAMED], twins.train, twins.cosine, twins.exact, strict=False
        )
    ]
    exactly = (
        " exact duplicates" if exact == len(twins) else f" duplicates ({exact} exact)" if exact else " near-duplicates"
    )
    return [
        f"{len(twins)} of {len(test)} test images are{exactly} of training images: {', '.join(shown)}"
        f"{', ...' if len(twins) > MOST_NAMED else ''}; the test score is given with and without them"
    ]


def _sizes(codes: np.ndarray) -> np.ndarray:
    return np.unique(codes, return_counts=True)[1]


def _within_one(clusters: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return of each class whether all its rows, more than one, are of one cluster."""
    pairs = np.unique(np.column_stack([y, clusters]), axis=0)[:, 0]
    return (np.bincount(pairs) == 1) & (np.bincount(y) > 1)
