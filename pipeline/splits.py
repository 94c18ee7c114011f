"""Which rows train and which test: fixed splits from a column, outer folds and inner folds.

Groups and duplicates stay on one side of every split. Splits hold positions into the labelled rows, never ids.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.errors import EvaluationError
from pipeline.images import split_parts
from pipeline.near_duplicates import components

__all__ = ["Split", "check_cv", "inner_folds", "outer_folds", "parts_named", "tied", "train_test"]


@dataclass(frozen=True, eq=False)
class Split:
    """Training rows and test rows: int64 positions into y, ascending, none in both."""

    train: np.ndarray
    test: np.ndarray


def class_name(code: int, classes: Sequence[str]) -> str:
    """Return a class by its name, or by its code where it has none."""
    return repr(classes[code]) if code < len(classes) else f"class {code}"


TRAIN, VALIDATION, TEST = "train", "val", "test"

_ALONE = {"fit": TRAIN}  # a part of a split in a column; a folder of that name may be a class


def parts_named(values: Iterable[str]) -> dict[str, str] | None:
    """Return the part of the split, train, val or test, that each value of a column means; None unless all mean one.

    The names of parts are those of split folders: ``train``, ``training_set``, ``Validation``, ``test2017``, ...
    """
    values = set(values)
    known = {value: _ALONE[value.strip().casefold()] for value in values if value.strip().casefold() in _ALONE}
    others = values - known.keys()
    named = split_parts(others) if others else {}
    return None if named is None else {**known, **named}


def train_test(values: Sequence[str | None], *, column: str = "split") -> tuple[Split, tuple[str, ...]]:
    """Return the fixed split that a column spells out, and notes on how it was read.

    Rows marked train, training, training_set, trn or fit are the training rows; test, testing, test_set, tst or holdout
    are the test rows. Rows marked val, valid, validation, dev or eval are the test rows where there is no test.
    Otherwise they join the training rows: parameters are chosen by cross-validation within the training rows, so a
    validation part would go unused. Upper and lower case are the same.

    Raises
    ------
    EvaluationError
        A value is none of those, or one side is missing; the values found are named.
    """
    texts = [None if value is None or not value.strip() else value.strip() for value in values]
    counts = Counter(text for text in texts if text is not None)
    found = ", ".join(f"{text!r} ({count})" for text, count in counts.most_common(8)) or "nothing"
    if len(counts) > 8:
        found += f" and {len(counts) - 8} more"
    step = "write train and test into the column, or leave --split out to cross-validate"
    named = parts_named(counts)
    if named is None:
        raise EvaluationError(f"column {column!r}: expected train and test (or val), got {found}", step)
    parts = [None if text is None else named[text] for text in texts]
    sizes = Counter(parts)
    has_test = sizes[TEST] > 0
    tested = (TEST,) if has_test else (VALIDATION,)
    trained = (TRAIN, VALIDATION) if has_test else (TRAIN,)
    train = np.array([row for row, part in enumerate(parts) if part in trained], dtype=np.int64)
    test = np.array([row for row, part in enumerate(parts) if part in tested], dtype=np.int64)
    only_validation_trains = has_test and not sizes[TRAIN]
    if not len(train) or not len(test) or only_validation_trains:
        side = "training" if not len(train) or only_validation_trains else "test"
        raise EvaluationError(
            f"column {column!r}: expected both train and test rows, got no {side} rows: {found}", step
        )
    notes = []
    validation = sizes[VALIDATION]
    if has_test and validation:
        notes.append(
            f"column {column!r} holds train, val and test: val ({validation}) joins the training part "
            "(parameters are chosen by cross-validation there), and test is scored once"
        )
    elif validation:
        notes.append(f"column {column!r}: val ({validation}) is the test set")
    missing = sum(text is None for text in texts)
    if missing:
        verb = "has no value" if missing == 1 else "have no value"
        are = "is" if missing == 1 else "are"
        notes.append(f"{missing} of {len(texts)} images {verb} in column {column!r} and {are} left out")
    return Split(train, test), tuple(notes)


def deal_tags(y: np.ndarray, groups: np.ndarray | None, folds: int, random_state: int | None) -> list[Split]:
    """Return folds of rows, or of whole groups, that hold each tag in proportion; y is an indicator, (n, c).

    Iterative stratification (Sechidis, Tsoumakas, Vlahavas 2011, On the stratification of multi-label data): the tag
    with the fewest units left is dealt first, each of its units to the fold that lacks most of the tag. For a tag that
    most images have, the images without it are dealt, because the rarer side is harder to distribute.
    """
    rarer = np.where(y.mean(axis=0) > 0.5, 1 - y, y).astype(np.int64)
    unit_of = np.arange(len(y)) if groups is None else np.unique(groups, return_inverse=True)[1].reshape(len(y))
    units = int(unit_of.max()) + 1
    counts = np.zeros((units, y.shape[1] + 1), np.int64)  # rows with each tag, then all rows
    np.add.at(counts, unit_of, np.column_stack([rarer, np.ones(len(y), np.int64)]))
    rng = np.random.default_rng(random_state)
    # Units in random order, those with many rows first: a large group that comes last would unbalance its fold.
    order = sorted(rng.permutation(units).tolist(), key=lambda unit: -counts[unit, -1])
    tags = [np.flatnonzero(row[:-1]).tolist() for row in counts]
    waiting = [[unit for unit in order if counts[unit, tag]] for tag in range(y.shape[1])]
    left = [len(units_with_tag) for units_with_tag in waiting]
    # Whole numbers, `folds` times what each fold still lacks: fractions would make equal demands differ by rounding.
    demand = np.tile(counts.sum(axis=0), (folds, 1)).tolist()
    tie_break = rng.random((units, folds)).tolist()
    fold_of = np.full(units, -1)

    def assign(unit: int, tag: int) -> None:
        fold = max(range(folds), key=lambda k: (demand[k][tag], demand[k][-1], tie_break[unit][k]))
        fold_of[unit] = fold
        demand[fold][-1] -= folds * int(counts[unit, -1])
        for held in tags[unit]:
            demand[fold][held] -= folds * int(counts[unit, held])
            left[held] -= 1

    while any(left):
        rarest = min((tag for tag in range(len(left)) if left[tag]), key=lambda tag: left[tag])
        for unit in waiting[rarest]:
            if fold_of[unit] < 0:
                assign(unit, rarest)
    for unit in order:
        if fold_of[unit] < 0:
            assign(unit, -1)
    row_fold = fold_of[unit_of]
    return [Split(np.flatnonzero(row_fold != fold), np.flatnonzero(row_fold == fold)) for fold in range(folds)]


def check_tag_counts(y: np.ndarray, splits: Sequence[Split], groups: np.ndarray | None, tags: Sequence[str]) -> None:
    """Raise `EvaluationError` where all rows of a training part have a tag, or none: no head can be trained for it."""
    shares = np.array([y[split.train].mean(axis=0) for split in splits])
    constant = np.flatnonzero(((shares == 0) | (shares == 1)).any(axis=0))
    if not len(constant):
        return
    tag = constant[0]
    name, present = class_name(tag, tags).replace("class", "tag"), int(y[:, tag].sum())
    few, what = (present, "with") if 2 * present <= len(y) else (len(y) - present, "without")
    more = f" (and {len(constant) - 1} more such: {', '.join(class_name(other, tags) for other in constant[1:9])})"
    held = f"{few} {'image' if few == 1 else 'images'} {what} it"
    if groups is not None:
        held += f" in {len(np.unique(groups[y[:, tag] == (what == 'with')]))} of {len(np.unique(groups))} groups"
    rarer = np.minimum(y.sum(axis=0), len(y) - y.sum(axis=0))
    fewest = int(rarer[constant].max()) + 1
    step = f"add images {what} it, or take the tag out of the column"
    if groups is None and (rarer >= fewest).sum() > 1:  # with groups, their number matters, not that of the images
        leave = "it" if len(constant) == 1 else "such tags"
        step = f"pass --min-class-size {fewest} to leave {leave} out, or add images {what} it"
    raise EvaluationError(
        f"tag {name}: expected images with and without it in every training part, got {held}"
        + (more if len(constant) > 1 else ""),
        step,
    )


def outer_folds(
    y: np.ndarray,
    kind: str,
    *,
    groups: np.ndarray | None = None,
    together: np.ndarray | None = None,
    cv: int = 5,
    random_state: int | None = 0,
    classes: Sequence[str] = (),
) -> tuple[list[Split], tuple[str, ...]]:
    """Return folds that test every row exactly once and split no group, and notes on the number of folds.

    Parameters
    ----------
    y : ndarray, shape (n,) or (n, c)
        Codes, numbers, or an indicator of tags.
    kind : {"class", "number", "multi"}
    groups : ndarray, shape (n,), optional
        Rows with the same value stay on the same side of every split.
    together : ndarray, shape (n,), optional
        Duplicates of one image have the same value, and stay on the same side too. With groups, groups that share
        duplicates stay together. Without groups, the first row of each value is assigned and the others follow it.
    cv : int
        Number of folds; reduced to the number of groups, or of distinct images, where there are fewer.
    random_state : int
    classes : sequence of str
        The classes' names, for messages.

    Raises
    ------
    EvaluationError
        A class has fewer rows than there are folds, there are fewer than two groups, or a training part would hold a
        single class, or only images with a tag, or only images without it.
    """
    check_cv(cv)
    n, notes = len(y), []
    folds = cv
    if groups is not None:
        n_groups = len(np.unique(groups))
        groups = tied(groups, together)
        n_tied = len(np.unique(groups))
        joined = f" (duplicates join {n_groups} groups into {n_tied})" if n_tied < n_groups else ""
        if n_tied < 2:
            raise EvaluationError(
                f"expected 2 groups or more to split by, got {n_tied}{joined}",
                "choose another --groups column, or leave it out if the images are independent",
            )
        if n_tied < folds:
            folds = n_tied
            notes.append(f"{cv} folds cut to {folds}: there are {n_tied} groups{joined}")
    if kind == "class":
        _check_class_sizes(y, folds, classes)
        if groups is not None:
            notes += _classes_in_one_group(y, groups, classes)
        elif together is not None:
            notes += _classes_of_duplicates(y, together, classes)
    else:
        if n < 2:
            raise EvaluationError(f"expected 2 labelled images or more, got {n}", "label more images")
        if n < folds:
            folds = n
            notes.append(f"{cv} folds cut to {folds}: there are {n} labelled images")
    if groups is None and together is not None:
        distinct = _max_distinct(y, kind, together)
        if distinct < 2:
            raise EvaluationError(
                "expected 2 distinct images to split by, got duplicates of one image"
                f"{' in each class' if kind == 'class' else ''}",
                "add other images",
            )
        if distinct < folds:
            folds = distinct
            of = "no class has more than" if kind == "class" else "there are"
            notes.append(f"{cv} folds cut to {folds}: {of} {distinct} distinct images")
    splits = _split(y, kind, groups, together, folds, random_state)
    if kind == "class":
        for fold, split in enumerate(splits, start=1):
            present = np.unique(y[split.train])
            if len(present) < 2:
                what = "groups that it tests" if groups is not None else "duplicates of one image that it tests"
                step = "add groups that hold the other classes, or choose another --groups column"
                raise EvaluationError(
                    f"fold {fold} of {folds} would be trained on {class_name(present[0], classes)} alone: "
                    f"the other classes lie within the {what}",
                    step if groups is not None else "add other images of the other classes",
                )
    if kind == "multi":
        check_tag_counts(y, splits, groups, classes)
    return splits, tuple(notes)


def inner_folds(
    y: np.ndarray,
    kind: str,
    *,
    groups: np.ndarray | None = None,
    together: np.ndarray | None = None,
    cv: int = 5,
    random_state: int | None = 0,
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return (train, test) positions into `y` for choosing parameters within one outer training part.

    The number of folds is min(cv, groups, smallest class present or images with or without a tag), and at least 2. A
    split whose training part holds a single class cannot train a head and is dropped. `groups` and `together` are as in
    `outer_folds`; without groups, duplicates count once.

    Raises
    ------
    EvaluationError
        There are too few groups or rows to split, or no split has two classes in its training part.
    """
    check_cv(cv)
    next_step = "add images or groups, choose once with --no-nested, or fix the parameters with --grid HEAD.PARAM=VALUE"
    folds = cv
    if groups is not None:
        groups = tied(groups, together)
        n_groups = len(np.unique(groups))
        if n_groups < 2:
            raise EvaluationError(
                f"choosing parameters expected 2 groups in every training part, got {n_groups}", next_step
            )
        folds = min(folds, n_groups)
    dealt = y if groups is not None or together is None else y[_first_rows(together)[0]]
    if kind == "class":
        counts = np.bincount(dealt)
        counts = counts[counts > 0]
        if len(counts) < 2 or counts.max() < 2:
            found = "a single class" if len(counts) < 2 else "a single image of each class"
            raise EvaluationError(f"choosing parameters expected classes to tell apart twice, got {found}", next_step)
        folds = max(2, min(folds, int(counts.min())))
    else:
        # At least two rows per test part where possible: R2 of a single row is undefined.
        folds = max(2, min(folds, len(dealt) // 2))
        if kind == "multi":
            sides = np.concatenate([y.sum(axis=0), len(y) - y.sum(axis=0)])
            folds = max(2, min(folds, int(sides[sides > 0].min())))
        if len(dealt) < 2:
            raise EvaluationError(f"choosing parameters expected 2 images or more, got {len(dealt)}", next_step)
    splits = [(s.train, s.test) for s in _split(y, kind, groups, together, folds, random_state)]
    if kind == "class":
        splits = [(train, test) for train, test in splits if len(np.unique(y[train])) > 1]
        if not splits:
            raise EvaluationError(
                "choosing parameters expected two classes in the training part of an inner fold, got one in each: "
                "the groups hold one class each",
                next_step,
            )
    return splits


def tied(groups: np.ndarray, together: np.ndarray | None) -> np.ndarray:
    """Return one code per row, shape (n,); groups that share a value of `together` have one code."""
    if together is None:
        return groups
    _, group = np.unique(groups, return_inverse=True)
    _, content = np.unique(together, return_inverse=True)
    n_groups, n_contents = int(group.max()) + 1, int(content.max()) + 1
    if n_contents == len(together):  # no duplicates: the groups keep their names
        return groups
    return components(group, n_groups + content, n_groups + n_contents)[group]


def _first_rows(together: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the first row of each value, ascending, and for every row the position of its value among them."""
    _, first, value = np.unique(together, return_index=True, return_inverse=True)
    position = np.empty(len(first), np.int64)
    position[np.argsort(first)] = np.arange(len(first))
    return np.sort(first), position[value]


def _max_distinct(y: np.ndarray, kind: str, together: np.ndarray) -> int:
    """Return the number of distinct images, of the largest class for classes: no more folds than that are possible."""
    first, _ = _first_rows(together)
    return int(np.bincount(y[first]).max()) if kind == "class" else len(first)


def _split(
    y: np.ndarray,
    kind: str,
    groups: np.ndarray | None,
    together: np.ndarray | None,
    folds: int,
    random_state: int | None,
) -> list[Split]:
    """Return the folds; with `groups`, which already hold duplicates together, `together` is not used."""
    if groups is None and together is not None:
        # The first of each set of duplicates is assigned and the others follow: one group per row would take minutes.
        first, member = _first_rows(together)
        fold = np.empty(len(first), np.int64)
        for number, split in enumerate(_split(y[first], kind, None, None, folds, random_state)):
            fold[split.test] = number
        return [Split(np.flatnonzero(fold[member] != k), np.flatnonzero(fold[member] == k)) for k in range(folds)]
    from sklearn.model_selection import GroupKFold, KFold, StratifiedGroupKFold, StratifiedKFold

    if kind == "multi":
        return deal_tags(y, groups, folds, random_state)
    rows = np.arange(len(y))
    with warnings.catch_warnings():
        # "The least populated class has fewer members than folds": the callers check it and report it themselves.
        warnings.simplefilter("ignore", UserWarning)
        if groups is None:
            maker = (StratifiedKFold if kind == "class" else KFold)(folds, shuffle=True, random_state=random_state)
            pairs = list(maker.split(rows, y))
        elif kind == "class" and np.bincount(y).max() >= folds:
            pairs = list(StratifiedGroupKFold(folds, shuffle=True, random_state=random_state).split(rows, y, groups))
        else:
            pairs = []
        # Its greedy search may leave a fold empty when groups differ much in size. GroupKFold assigns whole
        # groups at random and leaves none empty.
        if groups is not None and (not pairs or any(not len(test) for _, test in pairs)):
            pairs = list(GroupKFold(folds, shuffle=True, random_state=random_state).split(rows, y, groups))
    return [Split(np.asarray(train, dtype=np.int64), np.asarray(test, dtype=np.int64)) for train, test in pairs]


def check_cv(cv: int) -> None:
    """Raise `EvaluationError` for fewer than two folds."""
    if cv < 2:
        raise EvaluationError(f"expected 2 folds or more, got --cv {cv}", "pass --cv 5")


def _check_class_sizes(y: np.ndarray, folds: int, classes: Sequence[str]) -> None:
    counts = np.bincount(y, minlength=len(classes))
    present = np.flatnonzero(counts)
    if len(present) < 2:
        raise EvaluationError(
            f"expected two classes or more, got {class_name(present[0], classes) if len(present) else 'none'} alone",
            "label images of a second class",
        )
    small = [code for code in present[np.argsort(counts[present], kind="stable")] if counts[code] < folds]
    if not small:
        return
    smallest = small[0]
    name, count = class_name(smallest, classes), int(counts[smallest])
    others = "class has" if len(small) == 2 else "classes have"
    more = f" (and {len(small) - 1} more {others} fewer than {folds})" if len(small) > 1 else ""
    images = "image" if count == 1 else "images"
    steps = []
    if len(present) - len(small) > 1:
        steps.append(f"pass --min-class-size {folds} to leave {'it' if len(small) == 1 else 'them'} out")
    steps.append(f"add images of {name}")
    if count > 1:
        steps.append(f"use fewer folds: --cv {count}")
    raise EvaluationError(
        f"expected {folds} images per class, one per fold, got {count} {images} of {name}{more}", ", or ".join(steps)
    )


def _classes_in_one_group(y: np.ndarray, groups: np.ndarray, classes: Sequence[str]) -> list[str]:
    alone = [code for code in np.unique(y) if len(np.unique(groups[y == code])) == 1]
    if not alone:
        return []
    names = ", ".join(class_name(code, classes) for code in alone[:3])
    if len(alone) > 3:
        names += f" and {len(alone) - 3} more"
    verb = "lies" if len(alone) == 1 else "lie each"
    return [f"{names} {verb} within a single group: never both trained on and tested, so its images count as wrong"]


def _classes_of_duplicates(y: np.ndarray, together: np.ndarray, classes: Sequence[str]) -> list[str]:
    alone = [code for code in np.unique(y) if len(np.unique(together[y == code])) == 1 and (y == code).sum() > 1]
    return [
        f"{class_name(code, classes)} is in duplicates of one image alone: never both trained on and tested"
        for code in alone[:3]
    ]
