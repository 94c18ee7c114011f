"""Predictions of one head, selected from a run's table, and counts of its right and wrong predictions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.labels import split_tags

if TYPE_CHECKING:
    import pandas as pd


OUT_OF_FOLD, ON_TEST = "out of fold", "test"


def predictions_of(predictions: pd.DataFrame, result: Any, *, part: str) -> pd.DataFrame:
    """Return the rows of the head that a result is about; none for a baseline, which has no rows in the table.

    Parameters
    ----------
    predictions : DataFrame
        `Run.predictions`.
    result : Result
    part : {"out of fold", "test"}
    """
    if not len(predictions):
        return predictions
    selected = (predictions["part"] == ON_TEST) == (part == ON_TEST)
    for name in ("label_set", "source", "cache", "layer", "head"):
        selected &= predictions[name] == getattr(result, name)
    return predictions[selected]


def confusion_counts(
    true: Iterable[str], predicted: Iterable[str], rows: Sequence[str], columns: Sequence[str]
) -> np.ndarray:
    """Return the confusion matrix: images per true class (rows) and predicted class (columns).

    Returns
    -------
    ndarray of int64, shape (len(rows), len(columns))
    """
    row_of, column_of = ({name: place for place, name in enumerate(names)} for names in (rows, columns))
    places = [row_of[was] * len(columns) + column_of[guess] for was, guess in zip(true, predicted, strict=True)]
    return np.bincount(np.array(places, np.int64), minlength=len(rows) * len(columns)).reshape(len(rows), -1)


def tag_counts(
    true: Iterable[str], predicted: Iterable[str], tags: Sequence[str], separator: str
) -> dict[str, dict[str, int]]:
    """Return the counts of each tag: ``found``, ``missed``, and predicted where it is absent (``wrong``).

    Parameters
    ----------
    true, predicted : iterable of str
        Cells of tags.
    tags : sequence of str
    separator : str
    """
    pairs = zip(true, predicted, strict=True)
    cells = [(set(split_tags(was, separator)), set(split_tags(guess, separator))) for was, guess in pairs]
    return {
        tag: {
            "found": sum(tag in was and tag in guess for was, guess in cells),
            "missed": sum(tag in was and tag not in guess for was, guess in cells),
            "wrong": sum(tag not in was and tag in guess for was, guess in cells),
        }
        for tag in tags
    }
