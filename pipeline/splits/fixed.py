"""A fixed split, as a column spells it out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np

from pipeline.errors import EvaluationError
from pipeline.images import split_parts
from pipeline.splits.split import Split

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
    """Return the fixed split that a column spells out, and what is worth saying about it.

    train, training, training_set, trn or fit learn; test, testing, test_set, tst or holdout are tested. val, valid,
    validation, dev or eval are tested where there is no test. Where there are both, test is the test set and val
    learns: its usual work, choosing parameters, is done by cross-validation within the training part, so it would be
    idle otherwise. Upper and lower case are the same.

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
        raise EvaluationError(f"column {column!r}: wanted train and test (or val), found {found}", step)
    parts = [None if text is None else named[text] for text in texts]
    sizes = Counter(parts)
    has_test = sizes[TEST] > 0
    tested = (TEST,) if has_test else (VALIDATION,)
    learned = (TRAIN, VALIDATION) if has_test else (TRAIN,)
    train = np.array([row for row, part in enumerate(parts) if part in learned], dtype=np.int64)
    test = np.array([row for row, part in enumerate(parts) if part in tested], dtype=np.int64)
    only_validation_learns = has_test and not sizes[TRAIN]
    if not len(train) or not len(test) or only_validation_learns:
        side = "training" if not len(train) or only_validation_learns else "test"
        raise EvaluationError(
            f"column {column!r}: wanted both train and test rows, found no {side} rows: {found}", step
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
