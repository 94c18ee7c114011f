"""`Question`: one label set over one collection, and the parts of it that are learned from and tested on. Pure data."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from pipeline.duplicates import CrossDuplicates
from pipeline.evaluation.collecting import Dataset
from pipeline.labels import JoinReport


@dataclass(frozen=True, eq=False)
class LabeledRows:
    """Labelled images of one collection: to learn from, or to be tested on.

    Attributes
    ----------
    collection : Collection
    rows : ndarray of int64, shape (m,)
        Rows of the collection and of its caches.
    y : ndarray, shape (m,) or (m, c)
        Codes, numbers, or an indicator of tags.
    groups : ndarray of str, shape (m,), or None
        Names of the groups.
    together : ndarray of int64, shape (m,), or None
        One code a set of copies, which are to stay on one side of every split; None where no two rows are copies.
    """

    collection: Dataset
    rows: np.ndarray
    y: np.ndarray
    groups: np.ndarray | None = None
    together: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def ids(self) -> list[str]:
        return [self.collection.ids[row] for row in self.rows]

    def digests(self) -> np.ndarray:
        """Return the content of the images, ``(m, 16)`` uint8."""
        return np.ascontiguousarray(self.collection.caches[0].digest[self.rows])

    def take(self, positions: np.ndarray) -> LabeledRows:
        groups = None if self.groups is None else self.groups[positions]
        together = None if self.together is None else self.together[positions]
        return replace(self, rows=self.rows[positions], y=self.y[positions], groups=groups, together=together)


@dataclass(frozen=True, eq=False)
class Task:
    """One label set over one collection: what a head learns, and what it is tested on.

    Attributes
    ----------
    name : str
    kind : {"class", "number", "multi"}
    classes : tuple of str
        Those that can be learned; y holds codes into them, or a column for each tag.
    unlabelled : int
        Images without a label, which are left out.
    train : Part
        What may be learned from.
    test : Part or None
        Scored once.
    unknown_classes : tuple of str
        In the test set alone; their codes or columns follow those of `classes`, so that no head is ever right on them.
    twins : Twins or None
        The test rows that are copies of training rows, where there are any.
    notes : tuple of str
        About this label set, without its name.
    general : tuple of str
        What holds for all label sets of the collection.
    joined : Joined or None
        What was joined to the collection; the same for all its label sets.
    separator : str
        Between the tags of a cell; empty for the other kinds.
    asked : bool
        Whether the column was asked for by its exact name or with a kind.
    """

    name: str
    kind: str
    classes: tuple[str, ...]
    unlabelled: int
    train: LabeledRows
    test: LabeledRows | None = None
    unknown_classes: tuple[str, ...] = ()
    twins: CrossDuplicates | None = None
    notes: tuple[str, ...] = ()
    general: tuple[str, ...] = ()
    joined: JoinReport | None = None
    separator: str = ""
    asked: bool = True

    @property
    def n_classes(self) -> int:
        return len(self.classes)

    @property
    def tested_on_new_groups(self) -> bool:
        """Whether the test set, or else every fold, holds groups that were not learned from."""
        if self.train.groups is None:
            return False
        if self.test is None:
            return True
        return self.test.groups is not None and not np.isin(self.test.groups, self.train.groups).any()
