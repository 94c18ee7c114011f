"""A fixed split, as a column spells it out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from pipeline.errors import EvaluationError
from pipeline.splits.split import Split

TRAIN_NAMES = ("train", "training", "trn", "fit")
VALIDATION_NAMES = ("val", "valid", "validation", "dev")
TEST_NAMES = ("test", "testing", "tst", "holdout", "hold-out", "held-out", "heldout")


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
