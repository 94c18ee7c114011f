"""What one head said of the images of one label set, as arrays: what every picture of a run is drawn from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.labels.label_sets import SEPARATORS, separator_of
from pipeline.runs import CHOSEN, ON_TEST, OUT_OF_FOLD, LabelSetInfo, Result, Run, predictions_of, tag_counts

if TYPE_CHECKING:
    import pandas as pd

FOLDS = "folds"
OLD_RUN = (
    "this run was kept by an earlier version, without the probability of each image's own label: give the same "
    "`pipeline evaluate` again, which computes nothing anew"
)


@dataclass(frozen=True, eq=False)
class Answers:
    """What one head said of n images with classes.

    Attributes
    ----------
    ids : tuple of str
    part : ndarray of str, shape (n,)
        The number of the fold that an image was left out of, or "test".
    true, predicted : ndarray of int64, shape (n,)
        Places in `classes`.
    probability : ndarray of float64, shape (n,)
        Of the predicted class; NaN where the head gives none.
    probability_true : ndarray of float64, shape (n,)
        Of the image's own class; NaN likewise, and in a run of an earlier version.
    classes : tuple of str
        Those that were learned, then those that only images of the test set have.
    head, layer, cache, label_set, source : str
        As of `Result`.
    """

    ids: tuple[str, ...]
    part: np.ndarray
    true: np.ndarray
    predicted: np.ndarray
    probability: np.ndarray
    probability_true: np.ndarray
    classes: tuple[str, ...]
    head: str
    layer: str
    cache: str
    label_set: str
    source: str

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def wrong(self) -> np.ndarray:
        """Rows that the head is wrong about, ascending."""
        return np.flatnonzero(self.true != self.predicted)

    @property
    def has_probabilities(self) -> bool:
        """Whether every image has the probability of what was said of it."""
        return len(self) > 0 and bool(np.isfinite(self.probability).all())

    @property
    def has_own_probabilities(self) -> bool:
        """Whether every image has the probability of its own class."""
        return len(self) > 0 and bool(np.isfinite(self.probability_true).all())

    @property
    def labels(self) -> np.ndarray:
        """``(n,)`` of str: the class of each image."""
        return np.array(self.classes, dtype=object)[self.true].astype(str)

    def take(self, rows: np.ndarray) -> Answers:
        """Return the answers about some of the images."""
        arrays = {name: getattr(self, name)[rows] for name in _ARRAYS}
        return replace(self, ids=tuple(self.ids[row] for row in rows), **arrays)


def fold_text(part: str) -> str:
    """Return which model an answer is by, in words: ``the model of fold 3`` (from 1); empty for a test set's answers.

    Parameters
    ----------
    part : str
        As in `Answers.part`: the number of a fold from 0, or "test".
    """
    return f"the model of fold {int(part) + 1}" if part.isdecimal() else ""


_ARRAYS = ("part", "true", "predicted", "probability", "probability_true")


@dataclass(frozen=True, eq=False)
class NumberAnswers:
    """What one head said of n images with numbers.

    Attributes
    ----------
    ids, part, head, layer, cache, label_set, source
        As of `Answers`.
    true, predicted : ndarray of float64, shape (n,)
    """

    ids: tuple[str, ...]
    part: np.ndarray
    true: np.ndarray
    predicted: np.ndarray
    head: str
    layer: str
    cache: str
    label_set: str
    source: str

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def labels(self) -> np.ndarray:
        """``(n,)`` of str: the number of each image, as a person reads it."""
        return np.array([f"{value:.4g}" for value in self.true])


@dataclass(frozen=True)
class TagRow:
    """How one tag was found.

    Attributes
    ----------
    name : str
    n : int
        Images that have it.
    found, missed, wrong : int
        Images that have it and were said to; that have it and were not; that were said to and have it not.
    precision, recall, f1 : float or None
        None where nothing can be said: no image has it, or none was said to.
    """

    name: str
    n: int
    found: int
    missed: int
    wrong: int
    precision: float | None
    recall: float | None
    f1: float | None


def answers_of(run: Run, info: LabelSetInfo, *, part: str = FOLDS, result: Result | None = None) -> Answers | None:
    """Return what a head said of the images of a label set of classes.

    Parameters
    ----------
    run : Run
    info : LabelSetInfo
        One of the run's.
    part : {"folds", "test"}
        Each training image by a head that had not seen it, or the fixed test set.
    result : Result, optional
        By default that of the best head by the scoring of the choice.

    Returns
    -------
    Answers or None
        None where there is nothing: another kind of labels, no test set, a null.
    """
    if info.kind != "class":
        return None
    result = result or run.best(info.name, source=info.source)
    table = _rows(run, result, part)
    return answers_in(table, info.classes, **_asked(table, result)) if len(table) else None


def answers_in(table: pd.DataFrame, classes: Sequence[str], **asked: Any) -> Answers:
    """Return the answers of a table of predictions: ``id, true, predicted, probability, probability_true``.

    Parameters
    ----------
    table : DataFrame
    classes : sequence of str
        Those that were learned.
    **asked
        What was asked of whom: ``part, head, layer, cache, label_set, source``, as of `Answers`.
    """
    known = set(classes)
    strange = sorted({name for name in (*table["true"], *table["predicted"]) if name not in known})
    classes = (*classes, *strange)
    code = {name: place for place, name in enumerate(classes)}
    nothing = np.full(len(table), np.nan)
    probability, own = (
        table[name].to_numpy(np.float64) if name in table else nothing for name in ("probability", "probability_true")
    )
    return Answers(
        ids=tuple(table["id"]),
        **asked,
        true=np.array([code[name] for name in table["true"]], np.int64),
        predicted=np.array([code[name] for name in table["predicted"]], np.int64),
        probability=probability,
        probability_true=own,
        classes=classes,
    )


def number_answers_of(
    run: Run, info: LabelSetInfo, *, part: str = FOLDS, result: Result | None = None
) -> NumberAnswers | None:
    """Return what a head said of the images of a label set of numbers; None likewise. See `answers_of`."""
    if info.kind != "number":
        return None
    result = result or run.best(info.name, source=info.source)
    table = _rows(run, result, part)
    return number_answers_in(table, **_asked(table, result)) if len(table) else None


def number_answers_in(table: pd.DataFrame, **asked: Any) -> NumberAnswers:
    """Return the answers of a table of predicted numbers: ``id, true_value, predicted_value``. See `answers_in`."""
    true, said = (table[name].to_numpy(np.float64) for name in ("true_value", "predicted_value"))
    return NumberAnswers(ids=tuple(table["id"]), **asked, true=true, predicted=said)


def tag_rows(
    run: Run, info: LabelSetInfo, *, part: str = FOLDS, result: Result | None = None
) -> tuple[TagRow, ...] | None:
    """Return how each tag of a label set was found, in the order of the tags; None likewise. See `answers_of`."""
    if info.kind != "multi":
        return None
    table = _rows(run, result or run.best(info.name, source=info.source), part)
    return tag_rows_in(table, info.classes) if len(table) else None


def tag_rows_in(table: pd.DataFrame, tags: Sequence[str], *, separator: str = "") -> tuple[TagRow, ...]:
    """Return how each of these tags was found, from a table of predicted cells: ``true, predicted``."""
    # The cells were joined by what splits the column; one tag a cell at the most needs nothing to split it.
    separator = separator or separator_of(table["true"]) or separator_of(table["predicted"]) or SEPARATORS[0]
    counts = tag_counts(table["true"], table["predicted"], tags, separator)
    return tuple(_tag_row(name, **counts[name]) for name in tags)


def probable_result(run: Run, info: LabelSetInfo) -> Result | None:
    """Return the best head, by the scoring of the choice, that gives probabilities; None where none does.

    Heads without them have no score under a scoring that needs them; only the predictions tell for sure.
    """
    rated = [one for one in run.of(info.name, source=info.source) if not one.null]
    rated.sort(key=lambda one: one.head == CHOSEN)  # stable: a head of its own before the whole procedure
    for result in rated:
        found = answers_of(run, info, result=result)
        if found is not None and found.has_probabilities:
            return result
    return None


def _rows(run: Run, result: Result, part: str) -> pd.DataFrame:
    return predictions_of(run.predictions, result, part=ON_TEST if part == ON_TEST else OUT_OF_FOLD)


def _asked(table: pd.DataFrame, result: Result) -> dict[str, Any]:
    return {
        "part": table["part"].to_numpy(dtype=object).astype(str),
        "head": result.head,
        "layer": result.layer,
        "cache": result.cache,
        "label_set": result.label_set,
        "source": result.source,
    }


def _tag_row(name: str, found: int, missed: int, wrong: int) -> TagRow:
    precision = found / (found + wrong) if found + wrong else None
    recall = found / (found + missed) if found + missed else None
    f1 = 2 * found / (2 * found + missed + wrong) if found + missed + wrong else None
    return TagRow(name, found + missed, found, missed, wrong, precision, recall, f1)
