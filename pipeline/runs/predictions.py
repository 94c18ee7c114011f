"""What one head said, out of a run's table of predictions, and how often it said what of which."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.labels import split_tags

if TYPE_CHECKING:
    import pandas as pd


OUT_OF_FOLD, ON_TEST = "out of fold", "test"


def predictions_of(predictions: pd.DataFrame, result: Any, *, part: str) -> pd.DataFrame:
    """Return the rows of the head that a result is about; none where it has none, as a null.

    Parameters
    ----------
    predictions : DataFrame
        `Run.predictions`.
    result : Result
    part : {"out of fold", "test"}
    """
    if not len(predictions):
        return predictions
    mine = (predictions["part"] == ON_TEST) == (part == ON_TEST)
    for name in ("label_set", "source", "cache", "layer", "head"):
        mine &= predictions[name] == getattr(result, name)
    return predictions[mine]


def confusion_counts(
    true: Iterable[str], predicted: Iterable[str], rows: Sequence[str], columns: Sequence[str]
) -> np.ndarray:
    """Return how many images of each class, a row each, were said to be of each class, a column each.

    Returns
    -------
    ndarray of int64, shape (len(rows), len(columns))
    """
    row_of, column_of = ({name: place for place, name in enumerate(names)} for names in (rows, columns))
    places = [row_of[was] * len(columns) + column_of[said] for was, said in zip(true, predicted, strict=True)]
    return np.bincount(np.array(places, np.int64), minlength=len(rows) * len(columns)).reshape(len(rows), -1)


def tag_counts(
    true: Iterable[str], predicted: Iterable[str], tags: Sequence[str], separator: str
) -> dict[str, dict[str, int]]:
    """Return of each tag how often it was ``found``, ``missed``, and said where it is not (``wrong``).

    Parameters
    ----------
    true, predicted : iterable of str
        Cells of tags.
    tags : sequence of str
    separator : str
    """
    pairs = zip(true, predicted, strict=True)
    cells = [(set(split_tags(was, separator)), set(split_tags(said, separator))) for was, said in pairs]
    return {
        tag: {
            "found": sum(tag in was and tag in said for was, said in cells),
            "missed": sum(tag in was and tag not in said for was, said in cells),
            "wrong": sum(tag not in was and tag in said for was, said in cells),
        }
        for tag in tags
    }
