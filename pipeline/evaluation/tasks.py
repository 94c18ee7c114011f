"""Which label sets are evaluated? Builds one `Task` per label column, with its groups and test set."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from pipeline.errors import EvaluationError, LabelError
from pipeline.evaluation.dataset import SPLIT, Dataset, LabeledRows, Task, check_has_labels, is_split_column
from pipeline.evaluation.leakage import DuplicateGuard, describe_leakage
from pipeline.evaluation.unreadable import UnreadableImages
from pipeline.images.values import value_key
from pipeline.labels import (
    JoinReport,
    group_codes,
    indicator,
    label_sets,
    label_text,
    marker_notes,
    match,
    missing_options,
    separator_of,
    spelling_notes,
    tag_cells,
    unknown_column,
)
from pipeline.splits import train_test

NO_SPLIT = "none"

MOST_LEFT_OUT = 5  # small classes that a note names


def build_tasks(
    collection: Dataset,
    *,
    column: Sequence[str] = (),
    groups: str | None = None,
    split: str | None = None,
    test: Dataset | None = None,
    id_column: str | None = None,
    min_class_size: int | None = None,
    guard: DuplicateGuard | None = None,
) -> list[Task]:
    """Return one task per label set.

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
    id_column : str, optional
        A column that is no label.
    min_class_size : int, optional
        Leave out classes, or tags, with fewer images to train on than this.
    guard : Guard, optional
        Over the collection and its test set; copies are not looked for without.

    Raises
    ------
    LabelError, EvaluationError
        No labels, an unknown column, or a test set without anything to score.
    """
    check_has_labels(collection)
    if min_class_size is not None and min_class_size < 1:
        raise EvaluationError(f"min_class_size: expected 1 or more images, got {min_class_size}", "--min-class-size 5")
    columns = collection.columns
    announced = is_split_column(columns.get(SPLIT, ()))
    for flag, name in (("groups", groups), ("split", None if split == NO_SPLIT else split)):
        if name is not None and name not in columns:
            error = unknown_column(name, list(columns))
            raise LabelError(f"--{flag} {name}: {error.message}", error.next_step)
    fixed, notes = _split_column(split, test, announced)

    rows = collection.rows
    ids = [collection.ids[row] for row in rows]
    present = {name: [values[row] for row in rows] for name, values in columns.items()}
    exclude = [name for name in (id_column, groups, fixed, SPLIT if announced else None) if name is not None]
    found = label_sets(ids, present, column=column, exclude=exclude, kinds=collection.kinds)
    if groups is not None:
        names = Counter(text for text in present[groups] if text is not None)
        notes += marker_notes(groups, names, "read as a group")
    unreadable = UnreadableImages.of(collection)
    general = [*_without_features(collection), *collection.notes, *notes]
    joined = JoinReport(
        collection.name, len(ids), tuple(labels.joined for labels in found), tuple(found.skipped), collection.match
    )
    result = []
    for labelled in found:
        codes = None if groups is None else _group_names(collection, groups, rows[labelled.rows])
        part = LabeledRows(collection, rows[labelled.rows], labelled.y, codes)
        question = Task(
            labelled.name,
            labelled.kind,
            labelled.classes,
            labelled.unlabelled,
            part,
            general=tuple(general),
            joined=joined,
            separator=labelled.separator,
            requested=labelled.name in found.requested,
        )
        if fixed is not None:
            question = _with_split(question, columns[fixed], fixed)
        elif test is not None:
            question = _with_test(question, groups, test)
        if min_class_size is not None:
            question = _without_small(question, min_class_size)
        question, about_copies = _guarded(question, guard)
        own = [note for note in labelled.notes if note not in labelled.counted]
        lost = "" if unreadable is None or labelled.kind != "class" else unreadable.about_lost(labelled.name)
        all_notes = [*([lost] if lost else []), *own, *question.notes, *_about_groups(question, groups), *about_copies]
        result.append(replace(question, notes=tuple(all_notes)))
    if guard is not None:
        general += guard.about([question.train for question in result])
        result = [replace(question, general=tuple(general)) for question in result]
    return result


def encode(
    collection: Dataset, name: str, kind: str, classes: Sequence[str], *, separator: str = ""
) -> tuple[np.ndarray, np.ndarray, dict[str, int]]:
    """Return the labelled rows of a collection, their labels in another label set's codes, and the unknown classes.

    See `codes_of`.
    """
    values = [label_text(text) for text in collection.columns[name]]
    rows = np.array([row for row in collection.rows if values[row]], np.int64)
    texts = [str(values[row]) for row in rows]
    ids = [collection.ids[row] for row in rows]
    y, unknown = codes_of(texts, ids, kind, classes, separator=separator, name=name)
    return rows, y, unknown


def describe_spelling(collection: Dataset, name: str, kind: str, classes: Sequence[str]) -> list[str]:
    """Return sentences on labels that are read as a class of another spelling, and on likely markers of missing ones.

    Parameters are those of `encode`, which maps the labels.
    """
    if kind != "class":
        return []
    counts = Counter(text for row in collection.rows if (text := label_text(collection.columns[name][row])))
    chosen = match(counts, classes)
    strange = Counter({text: times for text, times in counts.items() if chosen[text] not in classes})
    return [
        *spelling_notes(name, {text: to for text, to in chosen.items() if to in classes}, counts),
        *marker_notes(name, strange, "read as a class that training never saw"),
    ]


def codes_of(
    texts: Sequence[str],
    ids: Sequence[str],
    kind: str,
    classes: Sequence[str],
    *,
    separator: str = "",
    name: str = "label",
) -> tuple[np.ndarray, dict[str, int]]:
    """Return labels as numbers or as codes into `classes`, and how often each class beyond them occurs.

    A class that is not among `classes` gets a code of its own beyond them: no head can answer it, so it counts as
    wrong. Tags become an indicator, those beyond `classes` columns of their own; one that all of these images have is
    passed over: it tells nothing apart. Another spelling of a class, such as `1.0` for `1`, is that class.

    Raises
    ------
    LabelError
        A text that is no finite number where numbers are expected; one that differs from a class only in case, spaces
        or
        leading zeros; a cell of tags that cannot be read completely.
    """
    if kind == "number":
        return np.array([_number(text, name) for text, name in zip(texts, ids, strict=True)], np.float64), {}
    if kind == "multi":
        cells = _tags_in(texts, ids, classes, separator, name)
        counts = Counter(tag for cell in cells for tag in cell if tag not in set(classes))
        beyond = {tag: times for tag, times in counts.items() if times < len(cells)}
        return indicator(cells, [*classes, *beyond]), beyond
    chosen = match(texts, classes)
    texts = [chosen[text] for text in texts]
    code = {name: number for number, name in enumerate(classes)}
    unknown: dict[str, int] = {}
    for text in texts:
        if text not in code or text in unknown:
            unknown[text] = unknown.get(text, 0) + 1
            code.setdefault(text, len(code))
    return np.array([code[text] for text in texts], np.int64), unknown


def _tags_in(
    texts: Sequence[str], ids: Sequence[str], classes: Sequence[str], separator: str, name: str
) -> list[tuple[str, ...]]:
    """Return the tags of each cell in the spelling of `classes`.

    Another table may separate its tags otherwise than the training table: of the separators that occur, the
    one with the fewest unknown tags is taken, the given one where several are as good.
    """
    own = separator_of(texts)
    readings: list[list[tuple[str, ...]]] = []
    refused: LabelError | None = None
    for mark in dict.fromkeys([separator, *([own] if own else [])]):
        try:
            readings.append(tag_cells(texts, ids, mark, name))
        except LabelError as error:
            refused = refused or error
    if not readings:
        assert refused is not None
        raise refused
    known = {value_key(tag) for tag in classes}
    cells = min(readings, key=lambda cells: sum(value_key(tag) not in known for cell in cells for tag in cell))
    chosen = match([tag for cell in cells for tag in cell], classes, "tag")
    return [tuple(sorted({chosen[tag] for tag in cell})) for cell in cells]


def unknown_text(unknown: Mapping[str, int], kind: str = "class") -> str:
    """Return the sentence that names classes or tags which training never saw."""
    listed = ", ".join(f"{name} ({count})" for name, count in sorted(unknown.items()))
    if kind == "multi":
        return f"tags that training never saw count as missed: {listed}"
    return f"classes that training never saw count as wrong: {listed}"


def _split_column(split: str | None, test: Dataset | None, announced: bool) -> tuple[str | None, list[str]]:
    """Return the column that fixes the split: the requested one, or one named `split` with no other values."""
    if split not in (None, NO_SPLIT):
        return split, []
    if not announced:
        return None, []
    if split == NO_SPLIT:
        return None, [f"column {SPLIT!r} is ignored: all labelled images are cross-validated"]
    if test is not None:
        return None, [f"column {SPLIT!r} is ignored: {test.name} is the test set"]
    return SPLIT, [f"column {SPLIT!r} defines the training and the test images (--split none ignores it)"]


def _with_split(question: Task, values: Sequence[str | None], column: str) -> Task:
    """Return the question with the fixed split that a column spells out.

    A class of which nothing is learned is no class of the question: heads cannot answer it.
    """
    labelled = question.train
    fixed, notes = train_test([values[row] for row in labelled.rows], column=column)
    train, test = labelled.take(fixed.train), labelled.take(fixed.test)
    if question.kind == "number":
        return replace(question, train=train, test=test, notes=notes)
    if question.kind == "multi":
        return _tags_split(question, train, test, notes, column)
    learned = np.unique(train.y)
    strange = np.setdiff1d(test.y, learned)
    code = np.zeros(len(question.classes), np.int64)
    code[learned], code[strange] = np.arange(len(learned)), len(learned) + np.arange(len(strange))
    if len(strange):
        counts = {question.classes[old]: int((test.y == old).sum()) for old in strange}
        notes = (*notes, unknown_text(counts))
    return replace(
        question,
        classes=tuple(question.classes[old] for old in learned),
        unknown_classes=tuple(question.classes[old] for old in strange),
        train=replace(train, y=code[train.y]),
        test=replace(test, y=code[test.y]),
        notes=notes,
    )


def _tags_split(question: Task, train: LabeledRows, test: LabeledRows, notes: tuple[str, ...], column: str) -> Task:
    """Return a question of tags with its fixed split, as `_with_split` does of classes."""
    counts = train.y.sum(axis=0)
    learned = np.flatnonzero((counts > 0) & (counts < len(train)))
    strange = np.flatnonzero((counts == 0) & (test.y.sum(axis=0) > 0))
    everywhere = ", ".join(question.classes[tag] for tag in np.flatnonzero(counts == len(train)))
    names = np.array(question.classes, dtype=object)
    if len(learned) < 2:
        raise EvaluationError(
            f"column {column!r}: expected two or more tags of {question.name!r} that some training images have and "
            f"lack, got {', '.join(names[learned]) or 'none'}",
            "move images between the training and the test part, or leave --split out to cross-validate",
        )
    if everywhere:
        notes = (*notes, f"on all training images, and left out: {everywhere}")
    if len(strange):
        notes = (*notes, unknown_text({names[tag]: int(test.y[:, tag].sum()) for tag in strange}, "multi"))
    return replace(
        question,
        classes=tuple(names[learned]),
        unknown_classes=tuple(names[strange]),
        train=replace(train, y=train.y[:, learned]),
        test=replace(test, y=test.y[:, [*learned, *strange]]),
        notes=notes,
    )


def _with_test(question: Task, groups: str | None, test: Dataset) -> Task:
    """Return the question with a test set of its own, its labels read in the classes of the training set."""
    if question.name not in test.columns:
        raise LabelError(
            f"{test.name}: expected the label column {question.name!r} in the test data, "
            f"got {', '.join(sorted(test.columns)) or 'none'}",
            "give the test set's labels in the same table with --labels, or in class folders",
        )
    rows, y, unknown = encode(test, question.name, question.kind, question.classes, separator=question.separator)
    if not len(rows):
        raise EvaluationError(
            f"{test.name}: expected labelled test images, got none in column {question.name!r}",
            "give the test set's labels with --labels TABLE",
        )
    notes = [*_without_features(test), *test.notes]
    notes += [
        f"{test.name}: {note}" for note in describe_spelling(test, question.name, question.kind, question.classes)
    ]
    unlabelled = len(test.rows) - len(rows)
    if unlabelled:
        notes.append(f"{test.name}: {unlabelled} of {len(test.ids)} images have no label and are left out")
    if unknown:
        notes.append(f"{test.name}: {unknown_text(unknown, question.kind)}")
    names = None
    if groups is not None and groups in test.columns:
        names = _spelled_as(question.train.groups, _group_names(test, groups, rows))
    elif groups is not None:
        notes.append(f"{test.name}: has no column {groups!r}: its intervals take the images as independent")
    return replace(question, test=LabeledRows(test, rows, y, names), unknown_classes=tuple(unknown), notes=tuple(notes))


def _without_small(question: Task, fewest: int) -> Task:
    """Return the question without the classes, or tags, that fewer images to train on have; they are named in a note.

    Images of such a class are left out on both sides of a fixed split. Images with such a tag stay.
    """
    train, test = question.train, question.test
    if question.kind == "number":
        return question
    if question.kind == "multi":
        with_it = train.y.sum(axis=0)
        counts = np.minimum(with_it, len(train) - with_it)  # a tag that nearly all images have is as hard to split
    else:
        counts = np.bincount(train.y, minlength=question.n_classes)
    kept, small = np.flatnonzero(counts >= fewest), np.flatnonzero(counts < fewest)
    if not len(small):
        return question
    what = "tags" if question.kind == "multi" else "classes"
    listed = [
        f"{question.classes[code]!r} ({counts[code]})" for code in small[np.argsort(counts[small], kind="stable")]
    ]
    named = ", ".join(listed[:MOST_LEFT_OUT])
    if len(listed) > MOST_LEFT_OUT:
        named += f" and {len(listed) - MOST_LEFT_OUT} more"
    if len(kept) < 2:
        left = f"only {question.classes[kept[0]]!r}" if len(kept) else "none"
        raise EvaluationError(
            f"label set {question.name!r}: expected two {what} with {fewest} images or more, got {left}; fewer images: "
            f"{named}",
            f"pass a smaller --min-class-size, or add images of {question.classes[small[np.argmax(counts[small])]]!r}",
        )
    noun = what.removesuffix("es" if what == "classes" else "s") if len(small) == 1 else what
    note = f"--min-class-size {fewest} leaves out {len(small)} {noun}: {named}"
    classes = tuple(question.classes[code] for code in kept)
    if question.kind == "multi":
        beyond = question.n_classes + np.arange(len(question.unknown_classes))
        train = replace(train, y=train.y[:, kept])
        test = None if test is None else replace(test, y=test.y[:, [*kept, *beyond]])
        return replace(question, classes=classes, train=train, test=test, notes=(*question.notes, note))
    code = np.full(question.n_classes + len(question.unknown_classes), -1, np.int64)
    code[kept] = np.arange(len(kept))
    code[question.n_classes :] = len(kept) + np.arange(len(question.unknown_classes))
    train, dropped = _recoded(train, code)
    note += f", {dropped} {'image' if dropped == 1 else 'images'}"
    if test is not None:
        test, dropped = _recoded(test, code)
        if dropped:
            note += f" to train on and {dropped} to test on"
        if not len(test):
            raise EvaluationError(
                f"label set {question.name!r}: expected test images of the classes with {fewest} images or more, got "
                "none",
                "pass a smaller --min-class-size, or add test images",
            )
    return replace(question, classes=classes, train=train, test=test, notes=(*question.notes, note))


def _recoded(part: LabeledRows, code: np.ndarray) -> tuple[LabeledRows, int]:
    """Return the part with new codes of its classes, without the rows whose code is -1, and how many those were."""
    y = code[part.y]
    stays = np.flatnonzero(y >= 0)
    return replace(part.take(stays), y=y[stays]), len(part) - len(stays)


def _group_names(collection: Dataset, column: str, rows: np.ndarray) -> np.ndarray:
    """Return the group of each row by name, so that those of a test set can be compared."""
    group_codes(collection.ids, collection.columns, column, rows=rows)  # refuses a row without a group
    values = collection.columns[column]
    return np.array([str(values[row]) for row in rows])


def _spelled_as(groups: np.ndarray | None, names: np.ndarray) -> np.ndarray:
    """Return group names in the spelling that the training groups have: patient `1.0` is patient `1`."""
    known = {value_key(name): name for name in ([] if groups is None else np.unique(groups).tolist())}
    return np.array([known.get(value_key(name), name) for name in names.tolist()], dtype=object).astype(str)


def _number(text: str, name: str) -> float:
    try:
        value = float(text) if "_" not in text else np.nan  # Python reads 1_000 as a number, tables do not mean it
    except ValueError:
        value = np.nan
    if not np.isfinite(value):
        raise LabelError(
            f"{name}: expected a finite number, got {text!r}",
            f"correct the cell, or read it as missing: {missing_options([text])}",
        )
    return value


def _without_features(collection: Dataset) -> list[str]:
    """Name the images that no features could be made of."""
    found = UnreadableImages.of(collection)
    return [] if found is None else [found.left_out]


def _about_groups(question: Task, column: str | None) -> list[str]:
    train, test = question.train, question.test
    if test is None or train.groups is None or test.groups is None:
        return []
    shared = np.intersect1d(train.groups, test.groups)
    if not len(shared):
        return []
    lie = f"1 group of column {column!r} lies" if len(shared) == 1 else f"{len(shared)} groups of {column!r} lie"
    return [f"{lie} on both sides of the fixed split, e.g. {shared[0]}: the test score is not about new groups"]


def _guarded(question: Task, guard: DuplicateGuard | None) -> tuple[Task, list[str]]:
    """Return the question with its duplicates held together, or named where they lie on both sides of a fixed split."""
    if guard is None:
        return question, []
    train, test = question.train, question.test
    together, notes = guard.together(train)
    question = replace(question, train=replace(train, together=together))
    if question.kind == "class":
        notes += guard.about_labels(train, question.classes)
    if test is not None:
        twins = guard.twins(train, test)
        notes += describe_leakage(twins, train, test)
        question = replace(question, twins=twins if len(twins) else None)
    return question, notes
