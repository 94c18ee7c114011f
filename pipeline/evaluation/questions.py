"""What is to be evaluated: label sets over caches, with their groups and fixed splits, joined by id."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.cache import FeatureCache
from pipeline.errors import EvaluationError, LabelError
from pipeline.images import ImageSource
from pipeline.labels import LabelSet, group_codes, join, label_sets, read_label_table
from pipeline.splits import TEST_NAMES, TRAIN_NAMES, VALIDATION_NAMES, train_test

SPLIT = "split"
NO_SPLIT = "none"

Columns = dict[str, list[str | None]]


@dataclass(frozen=True, eq=False)
class Collection:
    """The images of one DATA with what is known of each, in the order of its cache's rows.

    Attributes
    ----------
    caches : tuple of FeatureCache
        One a backbone, all over the same images.
    columns : mapping of column name to n texts
    notes : tuple of str
    """

    name: str
    caches: tuple[FeatureCache, ...]
    columns: Mapping[str, Sequence[str | None]]
    notes: tuple[str, ...] = ()

    @property
    def rows(self) -> np.ndarray:
        """Rows that every cache has features for, ascending."""
        common = self.caches[0].rows
        for cache in self.caches[1:]:
            common = np.intersect1d(common, cache.rows)
        return common


@dataclass(frozen=True, eq=False)
class Question:
    """One label set over the images of one collection: what a head is trained and scored on.

    Attributes
    ----------
    labels : LabelSet
        Its `rows` count in the caches' rows.
    groups : ndarray of int64, shape (n,), or None
        Of the labelled rows.
    train : ndarray of int64
        Positions into ``labels.rows`` that may be learned from.
    test : ndarray of int64 or None
        Positions that are scored once; None without a fixed test set.
    test_collection : Collection or None
        Where the test set is DATA of its own: `test` then counts in `test_labels`.
    """

    collection: Collection
    labels: LabelSet
    groups: np.ndarray | None
    train: np.ndarray
    test: np.ndarray | None = None
    test_collection: Collection | None = None
    test_rows: np.ndarray | None = None
    test_y: np.ndarray | None = None
    test_groups: np.ndarray | None = None
    unknown_classes: tuple[str, ...] = ()  # in the test set alone; their codes follow those of the labels
    notes: tuple[str, ...] = ()

    @property
    def n_classes(self) -> int:
        return len(self.labels.classes)


def gather(
    data: Any,
    caches: Sequence[FeatureCache],
    *,
    labels: str | os.PathLike[str] | Mapping[str, Any] | None,
    id_column: str | None,
    column: Sequence[str] = (),
) -> Collection:
    """Return the collection of `data` with its labels joined by id.

    Labels come from the table where one is given, otherwise from the source itself; from the cache only where the
    cache is all there is, so an edited table is never stale.
    """
    first = caches[0]
    own: Columns = dict(data.columns) if isinstance(data, ImageSource) else first.columns
    name = data.name if isinstance(data, ImageSource) else str(first.provenance["source"])
    if labels is None:
        return Collection(name, tuple(caches), own)
    table = labels if isinstance(labels, Mapping) else read_label_table(labels, id_column=id_column, columns=column)
    joined = join(first.ids, table)
    # Split folders still say what they say, unless the table says otherwise.
    columns = {**{key: own[key] for key in (SPLIT,) if key in own}, **joined}
    return Collection(name, tuple(caches), columns, tuple(getattr(joined, "notes", ())))


def questions(
    collection: Collection,
    *,
    column: Sequence[str] = (),
    groups: str | None = None,
    split: str | None = None,
    test: Collection | None = None,
    id_column: str | None = None,
) -> list[Question]:
    """Return one question a label set.

    Parameters
    ----------
    collection : Collection
    column : sequence of str
        GLOB or GLOB:KIND; every column that looks like labels when empty.
    groups : str, optional
        Column of groups that stay on one side of every split.
    split : str, optional
        Column that fixes train and test; ``none`` ignores a column of that very name, which is used by itself.
    test : Collection, optional
        A test set of its own.

    Raises
    ------
    LabelError, EvaluationError
        No labels, an unknown column, or a test set without anything to score.
    """
    if split not in (None, NO_SPLIT) and test is not None:
        raise EvaluationError("wanted one test set, found both a split column and test data", "leave one of them out")
    cache = collection.caches[0]
    notes = list(collection.notes)
    columns = collection.columns
    if not columns:
        raise LabelError(
            f"{collection.name}: wanted labels, found none: the images are not in class folders",
            "put each class into a folder of its own, or give a table with --labels TABLE",
        )
    split = _split_column(split, test, columns)
    for name, value in (("groups", groups), ("split", split)):
        if value is not None and value not in columns:
            raise LabelError(
                f"{name}: wanted the column {value!r}, found {', '.join(sorted(columns))}",
                f"--{name} {sorted(columns)[0]}",
            )
    rows = collection.rows
    ids = [cache.ids[row] for row in rows]
    present = {name: [values[row] for row in rows] for name, values in columns.items()}
    exclude = [name for name in (id_column, groups, split) if name is not None]
    found = label_sets(ids, present, column=column, exclude=exclude)
    without = len(cache) - len(rows)
    if without:
        first = next(iter(cache.skipped.items()), None)
        notes.append(
            f"{without} of {len(cache)} images have no features and are left out"
            + (f", e.g. {first[0]}: {first[1].text}" if first else "")
        )
    result = []
    for number, labelled in enumerate(found):
        question = _question(collection, labelled, ids, present, rows, groups, split, test)
        result.append(_with_notes(question, notes if number == 0 else []))
    return result


def _question(
    collection: Collection,
    labelled: LabelSet,
    ids: Sequence[str],
    present: Columns,
    rows: np.ndarray,
    groups: str | None,
    split: str | None,
    test: Collection | None,
) -> Question:
    codes = None if groups is None else group_codes(ids, present, groups, rows=labelled.rows)
    in_cache = LabelSet(
        labelled.name,
        labelled.kind,
        rows[labelled.rows],
        labelled.y,
        labelled.classes,
        labelled.unlabelled,
        labelled.notes,
        labelled.digest,
    )
    everything = np.arange(len(in_cache))
    if split is not None:
        fixed, notes = train_test([present[split][row] for row in labelled.rows], column=split)
        return Question(
            collection,
            in_cache,
            codes,
            fixed.train,
            fixed.test,
            notes=(*notes, *_shared_groups(codes, fixed.train, fixed.test)),
        )
    if test is not None:
        return _with_test(collection, in_cache, codes, groups, test)
    return Question(collection, in_cache, codes, everything)


def _with_test(
    collection: Collection, labels: LabelSet, groups: np.ndarray | None, group_column: str | None, test: Collection
) -> Question:
    """Return the question with the labels of a test set read in the classes of the training set."""
    if labels.name not in test.columns:
        raise LabelError(
            f"{test.name}: wanted the label column {labels.name!r} in the test data, "
            f"found {', '.join(sorted(test.columns)) or 'none'}",
            "give the test set's labels in the same table with --labels, or in class folders",
        )
    notes = [*test.notes]
    rows, y, unknown = encode(test, labels)
    if not len(rows):
        raise EvaluationError(
            f"{test.name}: wanted labelled test images, found none in column {labels.name!r}",
            "give the test set's labels with --labels TABLE",
        )
    if unknown:
        listed = ", ".join(f"{name} ({count})" for name, count in sorted(unknown.items()))
        notes.append(f"{test.name}: classes that training never saw count as wrong: {listed}")
    test_groups = None
    if group_column is not None and group_column in test.columns:
        test_groups = group_codes(test.caches[0].ids, test.columns, group_column, rows=rows)
    return Question(
        collection,
        labels,
        groups,
        np.arange(len(labels)),
        np.arange(len(rows)),
        test,
        rows,
        y,
        test_groups,
        tuple(unknown),
        tuple(notes),
    )


def encode(collection: Collection, labels: LabelSet) -> tuple[np.ndarray, np.ndarray, dict[str, int]]:
    """Return the labelled rows of a collection, their labels in another label set's codes, and the unknown classes.

    A class that is not among `labels.classes` gets a code of its own beyond them: no head can answer it, so it
    counts as wrong.
    """
    values = collection.columns[labels.name]
    rows = np.array([row for row in collection.rows if values[row] is not None], np.int64)
    ids = collection.caches[0].ids
    y, unknown = codes_of([str(values[row]) for row in rows], [ids[row] for row in rows], labels.kind, labels.classes)
    return rows, y, unknown


def codes_of(
    texts: Sequence[str], ids: Sequence[str], kind: str, classes: Sequence[str]
) -> tuple[np.ndarray, dict[str, int]]:
    """Return labels as numbers or as codes into `classes`, and how often each class beyond them occurs.

    Raises
    ------
    LabelError
        A text that is no finite number where numbers are wanted.
    """
    if kind == "number":
        return np.array([_number(text, name) for text, name in zip(texts, ids, strict=True)]), {}
    code = {name: number for number, name in enumerate(classes)}
    unknown: dict[str, int] = {}
    for text in texts:
        if text not in code or text in unknown:
            unknown[text] = unknown.get(text, 0) + 1
            code.setdefault(text, len(code))
    return np.array([code[text] for text in texts], np.int64), unknown


def _number(text: str, name: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not np.isfinite(value):
        raise LabelError(f"{name}: wanted a number, found {text!r}", "mend the cell, or leave it empty")
    return value


def _split_column(
    split: str | None, test: Collection | None, columns: Mapping[str, Sequence[str | None]]
) -> str | None:
    """Return the column that fixes the split: the one asked for, or one named `split` that says nothing else."""
    if split == NO_SPLIT or test is not None:
        return None
    if split is not None or SPLIT not in columns:
        return split
    names = {text.strip().casefold() for text in columns[SPLIT] if text}
    known = {*TRAIN_NAMES, *VALIDATION_NAMES, *TEST_NAMES}
    return SPLIT if names and names <= known and names & set(TRAIN_NAMES) and names - set(TRAIN_NAMES) else None


def _shared_groups(groups: np.ndarray | None, train: np.ndarray, test: np.ndarray) -> list[str]:
    if groups is None:
        return []
    shared = np.intersect1d(groups[train], groups[test])
    if not len(shared):
        return []
    return [f"{len(shared)} groups lie on both sides of the fixed split: the test score is not about new groups"]


def _with_notes(question: Question, notes: Sequence[str]) -> Question:
    values = {**question.__dict__, "notes": (*notes, *question.labels.notes, *question.notes)}
    return Question(**values)
