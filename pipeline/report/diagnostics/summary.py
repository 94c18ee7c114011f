"""All diagnostics of one label set, joined by image id, and the saved models fitted on the same cache."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.cache import FeatureCache, RowSubset, latest_version, records_of
from pipeline.errors import PipelineError
from pipeline.images import ImageSource
from pipeline.report.diagnostics.confusion import Calibration, ClassRow, Confusion, calibration, confusion, per_class
from pipeline.report.diagnostics.embedding_map import EmbeddingMap, embedding_map
from pipeline.report.diagnostics.mistakes import (
    DuplicatePairs,
    LabelIssue,
    Mistake,
    find_duplicate_pairs,
    label_issues,
    most_confident_mistakes,
    with_neighbours,
)
from pipeline.report.diagnostics.predictions import (
    OLD_RUN,
    ClassPredictions,
    NumberPredictions,
    StoredFeatures,
    TagRow,
    best_probabilistic_result,
    load_class_predictions,
    load_number_predictions,
    load_tag_rows,
    open_cache_images,
)
from pipeline.runs import ON_TEST, OUT_OF_FOLD, LabelSetInfo, Result, Run, predictions_of


@dataclass(frozen=True, eq=False)
class Diagnostics:
    """The diagnostics of one label set.

    Attributes
    ----------
    info : LabelSetInfo
    results : tuple of Result
        By the scoring that ranks the heads, best first, baselines last.
    best : Result
    predictions, test_predictions : ClassPredictions or None
        Of the best head, out of fold and on the fixed test set; None for other kinds of labels, or where there is no
        such set.
    numbers, test_numbers : NumberPredictions or None
        The same of numbers.
    tags, test_tags : tuple of TagRow or None
        The same of several tags an image, counted.
    confusion, test_confusion : Confusion or None
    per_class, test_per_class : tuple of ClassRow or None
    calibration : Calibration or None
        Of the best head, out of fold; None where it gives no probabilities.
    mistakes : tuple of Mistake
        Of the best head, out of fold, the most confident first.
    label_issues : tuple of LabelIssue or None
        None where no head gives probabilities.
    label_issues_by : str
        The head that disagrees with the labels: the best of those that give probabilities.
    map : EmbeddingMap or None
        None where the cache is gone.
    duplicates : DuplicatePairs or None
        Among the images of the folds; None where the cache is gone.
    notes : tuple of str
        Parts that are left out, each with the next step.
    """

    info: LabelSetInfo
    results: tuple[Result, ...]
    best: Result
    predictions: ClassPredictions | None
    test_predictions: ClassPredictions | None
    numbers: NumberPredictions | None
    test_numbers: NumberPredictions | None
    tags: tuple[TagRow, ...] | None
    test_tags: tuple[TagRow, ...] | None
    confusion: Confusion | None
    test_confusion: Confusion | None
    per_class: tuple[ClassRow, ...] | None
    test_per_class: tuple[ClassRow, ...] | None
    calibration: Calibration | None
    mistakes: tuple[Mistake, ...]
    label_issues: tuple[LabelIssue, ...] | None
    label_issues_by: str
    map: EmbeddingMap | None
    duplicates: DuplicatePairs | None
    notes: tuple[str, ...] = ()


def diagnose(
    run: Run, info: LabelSetInfo, *, most_mistakes: int = 12, neighbours: int = 3, most_points: int = 20_000
) -> Diagnostics:
    """Return the diagnostics of a label set.

    For a missing part there is a note. Images are not opened: see `open_run_images`.

    Parameters
    ----------
    run : Run
    info : LabelSetInfo
        One of the run's.
    most_mistakes, neighbours, most_points : int
        As of `most_confident_mistakes` and `embedding_map`.
    """
    best = run.best(info.name, source=info.source)
    features, notes = load_features(run, best)
    found = diagnose_predictions(run, info, features, most_mistakes=most_mistakes, neighbours=neighbours)
    notes += found.notes
    if features is None:
        return replace(found, notes=tuple(notes))
    ids, labels = labelled(run, best, features)
    rows = features.rows(ids)
    present = np.flatnonzero(rows >= 0)
    drawn = embedding_map(
        RowSubset(features.X, rows[present]), [ids[row] for row in present], labels[present], most=most_points
    )
    if drawn is not None and len(drawn) < drawn.of:
        notes.append(f"the map shows {len(drawn):,} of {drawn.of:,} images, drawn of each class in proportion")
    folds = predictions_of(run.predictions, best, part=OUT_OF_FOLD)
    duplicates = find_duplicate_pairs(features, list(folds["id"]), _texts(folds), folds=info.folds)
    return replace(found, map=drawn, duplicates=duplicates, notes=tuple(notes))


def diagnose_predictions(
    run: Run,
    info: LabelSetInfo,
    features: StoredFeatures | None,
    *,
    most_mistakes: int = 12,
    neighbours: int = 3,
    separate_label_issues: int = 0,
) -> Diagnostics:
    """Return the diagnostics without the map and the duplicates, which label sets of one cache share.

    Parameters
    ----------
    run, info, most_mistakes, neighbours
        As of `diagnose`.
    features : StoredFeatures or None
        Without them mistakes have no neighbours.
    separate_label_issues : int
        If positive, a possible label error is no mistake, and the first ones have neighbours.
    """
    predictions, test = load_class_predictions(run, info), load_class_predictions(run, info, part=ON_TEST)
    issues, label_issues_by, notes = _label_issues(run, info)
    mistakes: tuple[Mistake, ...] = ()
    if predictions is not None:
        exclude = {issue.id for issue in issues or ()} if separate_label_issues else ()
        mistakes = most_confident_mistakes(
            predictions, features, most=most_mistakes, neighbours=neighbours, exclude=exclude
        )
        if issues and separate_label_issues:
            issues = with_neighbours(issues, predictions, features, first=separate_label_issues, k=neighbours)
    return Diagnostics(
        info=info,
        results=tuple(run.of(info.name, source=info.source)),
        best=run.best(info.name, source=info.source),
        predictions=predictions,
        test_predictions=test,
        numbers=load_number_predictions(run, info),
        test_numbers=load_number_predictions(run, info, part=ON_TEST),
        tags=load_tag_rows(run, info),
        test_tags=load_tag_rows(run, info, part=ON_TEST),
        confusion=None if predictions is None else confusion(predictions),
        test_confusion=None if test is None else confusion(test),
        per_class=None if predictions is None else per_class(predictions),
        test_per_class=None if test is None else per_class(test),
        calibration=None if predictions is None else calibration(predictions),
        mistakes=mistakes,
        label_issues=issues,
        label_issues_by=label_issues_by,
        map=None,
        duplicates=None,
        notes=tuple(notes),
    )


def load_features(run: Run, result: Result) -> tuple[StoredFeatures | None, list[str]]:
    """Return the features that a result was trained on; None, and a note, where they are not available."""
    try:
        cache = open_result_cache(run, result)
        return StoredFeatures.of(cache, result.layer), _about_version(result.cache, cache)
    except PipelineError as error:
        return None, [f"no map, no duplicates and no similar photos: {error.message}; {error.next_step}"]


def open_run_images(run: Run, info: LabelSetInfo, photos: Any = None) -> tuple[ImageSource | None, str]:
    """Return the images of a label set, or why they are not available.

    Parameters
    ----------
    run : Run
    info : LabelSetInfo
        One of the run's.
    photos : path or ImageSource, optional
        Where they are now; by default where they were when their features were extracted.

    Returns
    -------
    (ImageSource or None, str)
        With a note, empty where all of them were found.
    """
    try:
        cache = open_result_cache(run, run.best(info.name, source=info.source))
    except PipelineError as error:
        if photos is None:
            return None, f"no photos are shown: {error.message}; name their folder: photos=DIR, or --photos DIR"
        try:
            return ImageSource.open(photos), ""
        except PipelineError as refused:
            return None, f"no photos are shown: {refused.message}; {refused.next_step}"
    return open_cache_images(cache, photos)


def open_result_cache(run: Run, result: Result) -> FeatureCache:
    """Return the cache that a result was trained on.

    A path that is relative is looked for in the working folder, and in the folders that the run lies in. Where the file
    is gone, the newest version of the same cache in its folder is returned.

    Raises
    ------
    CacheError
        It is gone, or cannot be trusted.
    """
    return find_cache(run.folder, result.cache)


def find_cache(folder: Path | None, place: str) -> FeatureCache:
    """Return the cache at a path that a run records; if it is gone, its newest version.

    See `open_cache`.
    """
    path = resolve_path(folder, place)
    if not path.exists():
        for other in _readings(folder, place):
            if (later := latest_version(other)) is not None:
                return later
    return FeatureCache.open(path)


def _about_version(place: str, cache: FeatureCache) -> list[str]:
    """Return the note on a newer version that replaces the cache of a run."""
    name = Path(place).name
    if name == cache.path.name:
        return []
    return [
        f"{name} is gone; {cache.path.name} of the same photos is used instead: a photo that was edited since the run "
        "has its new features and picture, and one that was removed has none"
    ]


def resolve_path(folder: Path | None, place: str) -> Path:
    """Return the path that a run records: relative to the working folder, or to a folder above the run."""
    return next((path for path in _readings(folder, place) if path.exists()), Path(place))


def _readings(folder: Path | None, place: str) -> list[Path]:
    """Return the possible meanings of a path that a run records."""
    path = Path(place)
    above = [] if path.is_absolute() or folder is None else folder.absolute().parents
    return [path, *(parent / path for parent in above)]


def _label_issues(run: Run, info: LabelSetInfo) -> tuple[tuple[LabelIssue, ...] | None, str, list[str]]:
    """Return the possible label errors, the head that disagrees with the labels, and notes."""
    if info.kind != "class":
        return None, "", []
    result = best_probabilistic_result(run, info)
    if result is None:
        return (
            None,
            "",
            ["no label errors are shown: no head gives probabilities; evaluate one that does, e.g. logistic"],
        )
    predictions = load_class_predictions(run, info, result=result)
    assert predictions is not None
    found = label_issues(predictions)
    return found, result.head, [f"no label errors are shown: {OLD_RUN}"] if found is None else []


def labelled(run: Run, best: Result, features: StoredFeatures) -> tuple[list[str], np.ndarray]:
    """Return the ids and labels of the images of this cache: in the folds, then in the test set.

    A separate test set may have other images under the same ids, so its ids are not looked up in this cache.
    """
    parts = [predictions_of(run.predictions, best, part=part) for part in (OUT_OF_FOLD, ON_TEST)]
    folds, test = ([str(name) for name in part["id"]] for part in parts)
    if best.test_cache or set(folds) & set(test) or (features.rows(test) < 0).any():
        return folds, _texts(parts[0])
    return [*folds, *test], np.concatenate([_texts(part) for part in parts])


def _texts(table: Any) -> np.ndarray:
    """Return the labels of a table of predictions: texts, or numbers."""
    if "true_value" in table and table["true_value"].notna().any():
        return table["true_value"].to_numpy(np.float64)
    return table["true"].to_numpy(dtype=object).astype(str)


RECORD = "model.json"
MOST_BYTES = 64 << 20  # of a record


@dataclass(frozen=True)
class SavedModel:
    """A saved model.

    Attributes
    ----------
    name : str
        Of its folder.
    head, layer : str
    params : mapping
        Selected on all its training images.
    training_images : int
    """

    name: str
    head: str
    layer: str
    params: Mapping[str, Any]
    training_images: int


def saved_models(run: Run, info: LabelSetInfo) -> tuple[SavedModel, ...]:
    """Return the saved models of a label set that were fitted on a cache that the run names, by the name of the folder.

    A model is found by the reference that it left beside the cache; one that was moved, or fitted by an earlier
    version, is not found.
    """
    found: dict[Path, SavedModel] = {}
    results = {result.cache: result for result in run.of(info.name, source=info.source) if not result.null}
    for result in results.values():
        try:
            records = records_of(open_result_cache(run, result).path)
        except PipelineError:
            continue  # the cache is gone, which stands among the notes
        for path in records:
            model = _read(path, info) if path.name == RECORD else None
            if model is not None:
                found[path] = model
    return tuple(found[path] for path in sorted(found))


def _read(path: Path, info: LabelSetInfo) -> SavedModel | None:
    """Return the model of a record, None where it is of another label set or cannot be read."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        if path.stat().st_size > MOST_BYTES:
            return None
        record = json.loads(path.read_text(encoding="utf-8"))
        if (record["label_set"], record["task"], list(record["classes"])) == (info.name, info.kind, list(info.classes)):
            return SavedModel(
                path.parent.name,
                str(record["head"]),
                str(record["layer"]),
                dict(record["params"]),
                int(record["training_images"]),
            )
    return None
