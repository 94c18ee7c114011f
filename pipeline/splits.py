"""Folds: which rows train and which test. Groups stay whole, classes stay in proportion, every row is tested once.

Several tags an image are kept in proportion by iterative stratification (Sechidis, Tsoumakas, Vlahavas 2011, On the
stratification of multi-label data, ECML PKDD, algorithm 1).
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.errors import EvaluationError

TRAIN_NAMES = ("train", "training", "trn", "fit")
VALIDATION_NAMES = ("val", "valid", "validation", "dev")
TEST_NAMES = ("test", "testing", "tst", "holdout", "hold-out", "held-out", "heldout")


@dataclass(frozen=True, eq=False)
class Split:
    """Rows to learn from and rows to be tested on: int64 positions into y, ascending, none in both."""

    train: np.ndarray
    test: np.ndarray


def outer_folds(
    y: np.ndarray,
    kind: str,
    *,
    groups: np.ndarray | None = None,
    cv: int = 5,
    random_state: int | None = 0,
    classes: Sequence[str] = (),
) -> tuple[list[Split], tuple[str, ...]]:
    """Return folds that test every row exactly once and break no group, and what was cut to make them.

    Parameters
    ----------
    y : ndarray, shape (n,) or (n, c)
        Codes, numbers, or an indicator of tags.
    kind : {"class", "number", "multi"}
    groups : ndarray, shape (n,), optional
        Rows with the same value stay on the same side of every split.
    cv : int
        Folds wanted; cut to the number of groups (or, for numbers and tags, of rows).
    random_state : int
    classes : sequence of str
        The classes' names, for messages.

    Raises
    ------
    EvaluationError
        A class has fewer rows than there are folds, fewer than two groups, or a fold would learn from one class, or
        of a tag from images with it, or without it, alone.
    """
    _check_cv(cv)
    n, notes = len(y), []
    folds = cv
    if groups is not None:
        n_groups = len(np.unique(groups))
        if n_groups < 2:
            raise EvaluationError(
                f"wanted 2 groups or more to split by, found {n_groups}",
                "choose another --groups column, or leave it out if the images are independent",
            )
        if n_groups < folds:
            folds = n_groups
            notes.append(f"{cv} folds cut to {folds}: there are {n_groups} groups")
    if kind == "class":
        _refuse_small_classes(y, folds, classes)
        if groups is not None:
            notes += _classes_in_one_group(y, groups, classes)
    else:
        if n < 2:
            raise EvaluationError(f"wanted 2 labelled images or more, found {n}", "label more images")
        if n < folds:
            folds = n
            notes.append(f"{cv} folds cut to {folds}: there are {n} labelled images")
    splits = _split(y, kind, groups, folds, random_state)
    if kind == "class":
        for fold, split in enumerate(splits, start=1):
            present = np.unique(y[split.train])
            if len(present) < 2:
                raise EvaluationError(
                    f"fold {fold} of {folds} would learn from {_name(present[0], classes)} alone: "
                    "the other classes lie within the groups that it tests",
                    "add groups that hold the other classes, or choose another --groups column",
                )
    if kind == "multi":
        _refuse_lonely_tags(y, splits, groups, classes)
    return splits, tuple(notes)


def inner_folds(
    y: np.ndarray, kind: str, *, groups: np.ndarray | None = None, cv: int = 5, random_state: int | None = 0
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return (train, test) positions into `y` for choosing parameters within one outer training part.

    The number of folds is min(cv, groups, smallest class present or images with or without a tag), and at least 2. A
    split whose training part holds a single class teaches nothing and is dropped.

    Raises
    ------
    EvaluationError
        There are too few groups or rows to split, or no split has two classes to learn from.
    """
    _check_cv(cv)
    way_out = "add images or groups, choose once with --no-nested, or fix the parameters with --grid HEAD.PARAM=VALUE"
    folds = cv
    if groups is not None:
        n_groups = len(np.unique(groups))
        if n_groups < 2:
            raise EvaluationError(
                f"choosing parameters wanted 2 groups in every training part, found {n_groups}", way_out
            )
        folds = min(folds, n_groups)
    if kind == "class":
        counts = np.bincount(y)
        counts = counts[counts > 0]
        if len(counts) < 2 or counts.max() < 2:
            found = "a single class" if len(counts) < 2 else "a single image of each class"
            raise EvaluationError(f"choosing parameters wanted classes to tell apart twice, found {found}", way_out)
        folds = max(2, min(folds, int(counts.min())))
    else:
        # Two rows a test part at least, where that can be had: R2 of one row is undefined.
        folds = max(2, min(folds, len(y) // 2))
        if kind == "multi":
            sides = np.concatenate([y.sum(axis=0), len(y) - y.sum(axis=0)])
            folds = max(2, min(folds, int(sides[sides > 0].min())))
        if len(y) < 2:
            raise EvaluationError(f"choosing parameters wanted 2 images or more, found {len(y)}", way_out)
    splits = [(s.train, s.test) for s in _split(y, kind, groups, folds, random_state)]
    if kind == "class":
        splits = [(train, test) for train, test in splits if len(np.unique(y[train])) > 1]
        if not splits:
            raise EvaluationError(
                "choosing parameters wanted two classes in the training part of an inner fold, found one in each: "
                "the groups hold one class each",
                way_out,
            )
    return splits


def train_test(values: Sequence[str | None], *, column: str = "split") -> tuple[Split, tuple[str, ...]]:
    """Return the fixed split that a column spells out, and what is worth saying about it.

    train, training, trn or fit learn; test, testing, tst or holdout are tested. val, valid, validation or dev are
    tested where there is no test. Where there are both, test is the test set and val learns: its usual work,
    choosing parameters, is done by cross-validation within the training part, so it would be idle otherwise.
    Upper and lower case are the same.

    Raises
    ------
    EvaluationError
        A value is none of those, or one side is missing; the values found are named.
    """
    texts = [None if value is None or not value.strip() else value.strip().casefold() for value in values]
    counts = Counter(text for text in texts if text is not None)
    found = ", ".join(f"{text!r} ({count})" for text, count in counts.most_common(8)) or "nothing"
    if len(counts) > 8:
        found += f" and {len(counts) - 8} more"
    step = "write train and test into the column, or leave --split out to cross-validate"
    unknown = [text for text in counts if text not in (*TRAIN_NAMES, *VALIDATION_NAMES, *TEST_NAMES)]
    if unknown:
        raise EvaluationError(f"column {column!r}: wanted train and test (or val), found {found}", step)
    has_test = any(text in TEST_NAMES for text in counts)
    tested = TEST_NAMES if has_test else VALIDATION_NAMES
    learned = (*TRAIN_NAMES, *VALIDATION_NAMES) if has_test else TRAIN_NAMES
    train = np.array([row for row, text in enumerate(texts) if text in learned], dtype=np.int64)
    test = np.array([row for row, text in enumerate(texts) if text in tested], dtype=np.int64)
    only_validation_learns = has_test and not any(text in TRAIN_NAMES for text in counts)
    if not len(train) or not len(test) or only_validation_learns:
        side = "training" if not len(train) or only_validation_learns else "test"
        raise EvaluationError(
            f"column {column!r}: wanted both train and test rows, found no {side} rows: {found}", step
        )
    notes = []
    validation = sum(counts[name] for name in VALIDATION_NAMES)
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


def _split(y: np.ndarray, kind: str, groups: np.ndarray | None, folds: int, random_state: int | None) -> list[Split]:
    from sklearn.model_selection import GroupKFold, KFold, StratifiedGroupKFold, StratifiedKFold

    if kind == "multi":
        return _dealt(y, groups, folds, random_state)
    rows = np.arange(len(y))
    with warnings.catch_warnings():
        # "The least populated class has fewer members than folds": known here, and dealt with by the callers.
        warnings.simplefilter("ignore", UserWarning)
        if groups is None:
            maker = (StratifiedKFold if kind == "class" else KFold)(folds, shuffle=True, random_state=random_state)
            pairs = list(maker.split(rows, y))
        elif kind == "class" and np.bincount(y).max() >= folds:
            pairs = list(StratifiedGroupKFold(folds, shuffle=True, random_state=random_state).split(rows, y, groups))
        else:
            pairs = []
        # Its greedy search may leave a fold empty when groups differ much in size; whole groups dealt at random do not.
        if groups is not None and (not pairs or any(not len(test) for _, test in pairs)):
            pairs = list(GroupKFold(folds, shuffle=True, random_state=random_state).split(rows, y, groups))
    return [Split(np.asarray(train, dtype=np.int64), np.asarray(test, dtype=np.int64)) for train, test in pairs]


def _dealt(y: np.ndarray, groups: np.ndarray | None, folds: int, random_state: int | None) -> list[Split]:
    """Return folds of rows, or of whole groups, that hold each tag in proportion; y is an indicator, (n, c).

    The tag with the fewest units left is dealt first, each of its units to the fold that lacks most of the tag. Of a
    tag that most images have, the images without it are dealt: what is rare is hard to share out.
    """
    rarer = np.where(y.mean(axis=0) > 0.5, 1 - y, y).astype(np.int64)
    unit_of = np.arange(len(y)) if groups is None else np.unique(groups, return_inverse=True)[1].reshape(len(y))
    units = int(unit_of.max()) + 1
    counts = np.zeros((units, y.shape[1] + 1), np.int64)  # rows with each tag, then all rows
    np.add.at(counts, unit_of, np.column_stack([rarer, np.ones(len(y), np.int64)]))
    rng = np.random.default_rng(random_state)
    # Units in random order, those with many rows first: a large group that comes last finds no room.
    order = sorted(rng.permutation(units).tolist(), key=lambda unit: -counts[unit, -1])
    tags = [np.flatnonzero(row[:-1]).tolist() for row in counts]
    waiting = [[unit for unit in order if counts[unit, tag]] for tag in range(y.shape[1])]
    left = [len(one) for one in waiting]
    # In whole numbers, `folds` times the wish of each fold, so that equal wishes are equal.
    wish = np.tile(counts.sum(axis=0), (folds, 1)).tolist()
    luck = rng.random((units, folds)).tolist()
    fold_of = np.full(units, -1)

    def deal(unit: int, tag: int) -> None:
        fold = max(range(folds), key=lambda one: (wish[one][tag], wish[one][-1], luck[unit][one]))
        fold_of[unit] = fold
        wish[fold][-1] -= folds * int(counts[unit, -1])
        for held in tags[unit]:
            wish[fold][held] -= folds * int(counts[unit, held])
            left[held] -= 1

    while any(left):
        rarest = min((tag for tag in range(len(left)) if left[tag]), key=lambda tag: left[tag])
        for unit in waiting[rarest]:
            if fold_of[unit] < 0:
                deal(unit, rarest)
    for unit in order:
        if fold_of[unit] < 0:
            deal(unit, -1)
    row_fold = fold_of[unit_of]
    return [Split(np.flatnonzero(row_fold != fold), np.flatnonzero(row_fold == fold)) for fold in range(folds)]


def _refuse_lonely_tags(y: np.ndarray, splits: Sequence[Split], groups: np.ndarray | None, tags: Sequence[str]) -> None:
    """Raise where a training part has a tag on all of its rows, or on none: nothing could be learned of it."""
    learned = np.array([y[split.train].mean(axis=0) for split in splits])
    lonely = np.flatnonzero(((learned == 0) | (learned == 1)).any(axis=0))
    if not len(lonely):
        return
    tag = lonely[0]
    name, there = _name(tag, tags).replace("class", "tag"), int(y[:, tag].sum())
    few, what = (there, "with") if 2 * there <= len(y) else (len(y) - there, "without")
    more = f" (and {len(lonely) - 1} more such: {', '.join(_name(one, tags) for one in lonely[1:9])})"
    held = f"{few} {'image' if few == 1 else 'images'} {what} it"
    if groups is not None:
        held += f" in {len(np.unique(groups[y[:, tag] == (what == 'with')]))} of {len(np.unique(groups))} groups"
    raise EvaluationError(
        f"tag {name}: wanted images with and without it in every training part, found {held}"
        + (more if len(lonely) > 1 else ""),
        f"add images {what} it, or take the tag out of the column",
    )


def _check_cv(cv: int) -> None:
    if cv < 2:
        raise EvaluationError(f"wanted 2 folds or more, found --cv {cv}", "pass --cv 5")


def _refuse_small_classes(y: np.ndarray, folds: int, classes: Sequence[str]) -> None:
    counts = np.bincount(y, minlength=len(classes))
    present = np.flatnonzero(counts)
    if len(present) < 2:
        raise EvaluationError(
            f"wanted two classes or more, found {_name(present[0], classes) if len(present) else 'none'} alone",
            "label images of a second class",
        )
    small = [code for code in present[np.argsort(counts[present], kind="stable")] if counts[code] < folds]
    if not small:
        return
    smallest = small[0]
    name, count = _name(smallest, classes), int(counts[smallest])
    others = "class has" if len(small) == 2 else "classes have"
    more = f" (and {len(small) - 1} more {others} fewer than {folds})" if len(small) > 1 else ""
    images = "image" if count == 1 else "images"
    if count >= 2:
        step = f"pass --cv {count}, or add images of {name}"
    else:
        step = f"add images of {name}, or clear its label to leave it out: it cannot be both learned and tested"
    raise EvaluationError(
        f"wanted {folds} images of every class, one a fold, found {count} {images} of {name}{more}", step
    )


def _classes_in_one_group(y: np.ndarray, groups: np.ndarray, classes: Sequence[str]) -> list[str]:
    alone = [code for code in np.unique(y) if len(np.unique(groups[y == code])) == 1]
    if not alone:
        return []
    names = ", ".join(_name(code, classes) for code in alone[:3])
    if len(alone) > 3:
        names += f" and {len(alone) - 3} more"
    verb = "lies" if len(alone) == 1 else "lie each"
    return [f"{names} {verb} within a single group: never both learned and tested, so its images count as wrong"]


def _name(code: int, classes: Sequence[str]) -> str:
    return repr(classes[code]) if code < len(classes) else f"class {code}"
