"""Stored predictions, features and images of a run, as arrays joined by image id."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.cache import FeatureCache
from pipeline.errors import PipelineError, SourceError
from pipeline.images import FileReader, ImageSource
from pipeline.labels import SEPARATORS, separator_of
from pipeline.near_duplicates import RowSource
from pipeline.runs import CHOSEN, ON_TEST, OUT_OF_FOLD, LabelSetInfo, Result, Run, predictions_of, tag_counts

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, eq=False)
class StoredFeatures:
    """One layer of a cache.

    Attributes
    ----------
    ids : sequence of str, length n
    X : array or LazyRows, shape (n, d)
    has : ndarray of bool, shape (n,)
        Whether the row holds features: an image that could not be read has none.
    digests : ndarray of uint8, shape (n, 16)
        Of the images' content.
    """

    ids: Sequence[str]
    X: RowSource = field(repr=False)
    has: np.ndarray = field(repr=False)
    digests: np.ndarray = field(repr=False)

    @classmethod
    def of(cls, cache: FeatureCache, layer: str | None = None) -> StoredFeatures:
        """Return a layer of a cache, by default the penultimate one.

        Raises
        ------
        CacheError
            No such layer, or the cache is incomplete or damaged.
        """
        has = np.zeros(len(cache), bool)
        has[cache.rows] = True
        return cls(cache.ids, cache.stored(layer), has, np.asarray(cache.digest))

    @cached_property
    def _row_of(self) -> dict[str, int]:
        return {name: row for row, name in enumerate(self.ids) if self.has[row]}

    def rows(self, ids: Sequence[str]) -> np.ndarray:
        """``(len(ids),)`` int64: the row of each image, -1 where it has no features here."""
        return np.array([self._row_of.get(name, -1) for name in ids], np.int64)


_SHARE = re.compile(r" \[share \d+ of \d+\]$")
_PART = re.compile(r"/\[\d+ of \d+: [0-9a-f]+\]$")  # some rows of a source
_FILES = re.compile(r"/\[\d+ files [0-9a-f]+\]$")  # a list of photos
_SHARDS = re.compile(r" \[\d+ shards: [0-9a-f]+\]$")  # a list of shards
_OVER = re.compile(r" over (.+)$")  # a table of ids in another folder
_STEP = "name their folder: photos=DIR, or --photos DIR"


def open_cache_images(cache: FeatureCache, photos: Any = None) -> tuple[ImageSource | None, str]:
    """Return the photos of a cache, by the ids that they have there, or why they are not available.

    Parameters
    ----------
    cache : FeatureCache
    photos : path or ImageSource, optional
        Where they are now; by default where the cache says that they were.

    Returns
    -------
    (ImageSource or None, str)
        With a note, empty where all were found.
    """
    return open_images(cache.place, cache.ids, cache.path.name, photos)


def open_images(place: str, ids: Sequence[str], name: str, photos: Any = None) -> tuple[ImageSource | None, str]:
    """Return the photos of these ids, or why they are not available.

    Parameters
    ----------
    place : str
        Where they were, as `ImageSource.place` gives it.
    ids : sequence of str
    name : str
        What is about them, for a person.
    photos : path or ImageSource, optional
        Where they are now.
    """
    try:
        source = _opened(place, ids) if photos is None else ImageSource.open(photos)
    except PipelineError as error:
        return None, f"no photos are shown: {error.message}; {_STEP}"
    if source is None:
        return None, f"no photos are shown: {name} was made from an array in memory; {_STEP}"
    present = set(source.ids)
    missing = [name for name in ids if name not in present]
    if len(missing) == len(ids):
        return None, (
            f"no photos are shown: {source.place} has none of the {len(ids):,} ids of {name}, "
            f"e.g. {missing[0]}; {_STEP}"
        )
    if missing:
        return source, f"{len(missing):,} of {len(ids):,} photos are not in {source.place}, e.g. {missing[0]}; {_STEP}"
    return source, ""


def _opened(place: str, ids: Sequence[str]) -> ImageSource | None:
    """Return the source at the place that a cache names; None for an array in memory, which has none."""
    place = _PART.sub("", _SHARE.sub("", place))
    if place.startswith("array:"):
        return None
    if place.startswith("builtin:"):
        return ImageSource.open(place.removeprefix("builtin:").partition("@")[0])
    if _FILES.search(place):
        return _files(Path(_FILES.sub("", place)), ids)
    over = _OVER.search(place)
    if over and not Path(place).exists():
        return ImageSource.open(_OVER.sub("", place), root=over[1])
    return ImageSource.open(_SHARDS.sub("", place))  # of shards that were listed, the folder that all lie in


def _files(base: Path, ids: Sequence[str]) -> ImageSource:
    """Return the photos of a list, those that are still there: ids are relative to their folder."""
    present = [name for name in ids if (base / name).is_file()]
    if not present:
        raise SourceError(f"{base}: expected {len(ids):,} photos, got none of them", "name the folder they are in")
    stat = [(base / name).stat() for name in present]
    return ImageSource(
        name=base.name,
        place=str(base),
        ids=present,
        stat=np.array([(entry.st_size, entry.st_mtime_ns) for entry in stat], np.int64),
        reader=FileReader(str(base)),
    )


FOLDS = "folds"
OLD_RUN = (
    "this run was written by an earlier version, without the probability of each image's own label: run the same "
    "`pipeline evaluate` again, which reuses all results"
)


@dataclass(frozen=True, eq=False)
class ClassPredictions:
    """The class predictions of one head for n images.

    Attributes
    ----------
    ids : tuple of str
    part : ndarray of str, shape (n,)
        The number of the fold in which the image was predicted, or "test".
    true, predicted : ndarray of int64, shape (n,)
        Places in `classes`.
    probability : ndarray of float64, shape (n,)
        Of the predicted class; NaN where the head gives none.
    probability_true : ndarray of float64, shape (n,)
        Of the image's own class; NaN likewise, and in a run of an earlier version.
    classes : tuple of str
        Those of the training images, then those that only test images have.
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
        """Return the rows with a wrong prediction, ascending."""
        return np.flatnonzero(self.true != self.predicted)

    @property
    def has_probabilities(self) -> bool:
        """Return whether every image has the probability of its prediction."""
        return len(self) > 0 and bool(np.isfinite(self.probability).all())

    @property
    def has_own_probabilities(self) -> bool:
        """Return whether every image has the probability of its label."""
        return len(self) > 0 and bool(np.isfinite(self.probability_true).all())

    @property
    def labels(self) -> np.ndarray:
        """``(n,)`` of str: the class of each image."""
        return np.array(self.classes, dtype=object)[self.true].astype(str)

    def take(self, rows: np.ndarray) -> ClassPredictions:
        """Return the predictions of some of the images."""
        arrays = {name: getattr(self, name)[rows] for name in _ARRAYS}
        return replace(self, ids=tuple(self.ids[row] for row in rows), **arrays)


def describe_fold(part: str) -> str:
    """Return the model of a prediction as text: ``the model of fold 3`` (from 1); empty for a test set.

    Parameters
    ----------
    part : str
        As in `ClassPredictions.part`: the number of a fold from 0, or "test".
    """
    return f"the model of fold {int(part) + 1}" if part.isdecimal() else ""


_ARRAYS = ("part", "true", "predicted", "probability", "probability_true")


@dataclass(frozen=True, eq=False)
class NumberPredictions:
    """The number predictions of one head for n images.

    Attributes
    ----------
    ids, part, head, layer, cache, label_set, source
        As of `ClassPredictions`.
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
        """``(n,)`` of str: the number of each image, as text."""
        return np.array([f"{value:.4g}" for value in self.true])


@dataclass(frozen=True)
class TagRow:
    """The results of one tag.

    Attributes
    ----------
    name : str
    n : int
        Images that have it.
    found, missed, wrong : int
        Images that have it and are predicted to; that have it and are not; that are predicted to and do not have it.
    precision, recall, f1 : float or None
        None where it is not defined: no image has the tag, or none is predicted to.
    """

    name: str
    n: int
    found: int
    missed: int
    wrong: int
    precision: float | None
    recall: float | None
    f1: float | None


def load_class_predictions(
    run: Run, info: LabelSetInfo, *, part: str = FOLDS, result: Result | None = None
) -> ClassPredictions | None:
    """Return the predictions of a head for a label set of classes.

    Parameters
    ----------
    run : Run
    info : LabelSetInfo
        One of the run's.
    part : {"folds", "test"}
        Each training image, predicted by a head that was not trained on it, or the fixed test set.
    result : Result, optional
        By default that of the best head by the scoring of the choice.

    Returns
    -------
    ClassPredictions or None
        None where there are none: another kind of labels, no test set, a baseline.
    """
    if info.kind != "class":
        return None
    result = result or run.best(info.name, source=info.source)
    table = _rows(run, result, part)
    return class_predictions_from(table, info.classes, **_fields(table, result)) if len(table) else None


def class_predictions_from(table: pd.DataFrame, classes: Sequence[str], **fields: Any) -> ClassPredictions:
    """Return the class predictions of a table: ``id, true, predicted, probability, probability_true``.

    Parameters
    ----------
    table : DataFrame
    classes : sequence of str
        Those of the training images.
    **fields
        The further fields: ``part, head, layer, cache, label_set, source``, as of `ClassPredictions`.
    """
    known = set(classes)
    strange = sorted({name for name in (*table["true"], *table["predicted"]) if name not in known})
    classes = (*classes, *strange)
    code = {name: place for place, name in enumerate(classes)}
    nothing = np.full(len(table), np.nan)
    probability, own = (
        table[name].to_numpy(np.float64) if name in table else nothing for name in ("probability", "probability_true")
    )
    return ClassPredictions(
        ids=tuple(table["id"]),
        **fields,
        true=np.array([code[name] for name in table["true"]], np.int64),
        predicted=np.array([code[name] for name in table["predicted"]], np.int64),
        probability=probability,
        probability_true=own,
        classes=classes,
    )


def load_number_predictions(
    run: Run, info: LabelSetInfo, *, part: str = FOLDS, result: Result | None = None
) -> NumberPredictions | None:
    """Return the predictions of a head for a label set of numbers, or None. See `load_class_predictions`."""
    if info.kind != "number":
        return None
    result = result or run.best(info.name, source=info.source)
    table = _rows(run, result, part)
    return number_predictions_from(table, **_fields(table, result)) if len(table) else None


def number_predictions_from(table: pd.DataFrame, **fields: Any) -> NumberPredictions:
    """Return the number predictions of a table: ``id, true_value, predicted_value``. See `answers_in`."""
    true, predicted = (table[name].to_numpy(np.float64) for name in ("true_value", "predicted_value"))
    return NumberPredictions(ids=tuple(table["id"]), **fields, true=true, predicted=predicted)


def load_tag_rows(
    run: Run, info: LabelSetInfo, *, part: str = FOLDS, result: Result | None = None
) -> tuple[TagRow, ...] | None:
    """Return the results of each tag in the order of the tags, or None. See `load_class_predictions`."""
    if info.kind != "multi":
        return None
    table = _rows(run, result or run.best(info.name, source=info.source), part)
    return tag_rows_from(table, info.classes) if len(table) else None


def tag_rows_from(table: pd.DataFrame, tags: Sequence[str], *, separator: str = "") -> tuple[TagRow, ...]:
    """Return the results of each of these tags, from a table of predicted cells: ``true, predicted``."""
    # The cells were joined by what splits the column; one tag a cell at the most needs nothing to split it.
    separator = separator or separator_of(table["true"]) or separator_of(table["predicted"]) or SEPARATORS[0]
    counts = tag_counts(table["true"], table["predicted"], tags, separator)
    return tuple(_tag_row(name, **counts[name]) for name in tags)


def best_probabilistic_result(run: Run, info: LabelSetInfo) -> Result | None:
    """Return the best head, by the scoring of the choice, that gives probabilities; None where none does.

    Only the predictions show whether a head gives probabilities.
    """
    rated = [entry for entry in run.of(info.name, source=info.source) if not entry.null]
    rated.sort(key=lambda entry: entry.head == CHOSEN)  # stable: a head of its own before the whole procedure
    for result in rated:
        found = load_class_predictions(run, info, result=result)
        if found is not None and found.has_probabilities:
            return result
    return None


def _rows(run: Run, result: Result, part: str) -> pd.DataFrame:
    return predictions_of(run.predictions, result, part=ON_TEST if part == ON_TEST else OUT_OF_FOLD)


def _fields(table: pd.DataFrame, result: Result) -> dict[str, Any]:
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
