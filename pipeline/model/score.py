"""How is a model scored on labeled photos, and which of them were in its training data?"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from pipeline.cache import FeatureCache
from pipeline.errors import EvaluationError, LabelError
from pipeline.evaluation import widen_to_classes
from pipeline.evaluation.dataset import Dataset, LabelConfig, check_has_labels, load_labels
from pipeline.evaluation.tasks import describe_spelling, encode, unknown_text
from pipeline.extraction import extract, recipe_of
from pipeline.images import ImageSource
from pipeline.intervals import ScoreInterval, score_with_interval
from pipeline.labels import group_codes, joined_tags, one_hot_notes, split_kind, split_one_hot
from pipeline.model.model_score import NEIGHBOURS, ModelScore, check_score_directory
from pipeline.model.predict import Prediction, decode_mode_of, novelty_column, predict_source, rank_suffix
from pipeline.model.training_set import Neighbors, TrainingSet
from pipeline.provenance import installed
from pipeline.runtime import GRAPHS_FOLDER, emulates
from pipeline.search import SCORINGS, Predictions, best_guess, needs_probabilities, score_predictions

if TYPE_CHECKING:
    from pipeline.model.spec import ModelSpec


PROBABILITY = "probability of "  # start of a column's name; the class follows


def prediction_table(
    model: ModelSpec,
    ids: Sequence[str],
    rows: np.ndarray,
    y: np.ndarray,
    unknown: Sequence[str],
    prediction: Prediction,
    training: TrainingSet | None,
    learned: Sequence[str],
) -> pd.DataFrame:
    """Return the table of the predictions for scored photos; see `ModelScore.predictions` for its columns.

    Parameters
    ----------
    model : ModelSpec
    ids : sequence of str
        Of all predicted photos.
    rows : ndarray of int64, shape (n,)
        The scored photos.
    y : ndarray, shape (n,) or (n, classes)
        Their labels as codes of the model; classes that training lacks have codes beyond those.
    unknown : sequence of str
        The names of the classes that training lacks.
    prediction : Prediction
        For all photos.
    training : TrainingSet or None
        The photos that nearest neighbours were searched in.
    learned : sequence of str
        Ids of the photos that are in the training data.
    """
    seen = set(learned)
    names = [ids[row] for row in rows]
    scored = prediction.take(rows)
    predictions = scored.predictions
    columns = {
        "id": names,
        "digest": [digest.tobytes().hex() for digest in scored.digests],
        "learned": [name in seen for name in names],
        "unfamiliar": novelty_column(model, len(rows), scored.near),
        **_label_columns(model, y, predictions, (*model.classes, *unknown)),
        **_neighbour_columns(scored.near, training),
    }
    table = pd.DataFrame(columns)
    if predictions.probabilities is None or model.kind == "number":
        return table
    probabilities = pd.DataFrame(predictions.probabilities, columns=[f"{PROBABILITY}{name}" for name in model.classes])
    return pd.concat([table, probabilities], axis=1)


def _label_columns(model: ModelSpec, y: np.ndarray, predictions: Predictions, names: Sequence[str]) -> dict[str, Any]:
    """Return the columns of the true and the predicted labels."""
    if model.kind == "number":
        return {"true_value": y.astype(np.float64), "predicted_value": predictions.labels.astype(np.float64)}
    if model.kind == "multi":
        return {
            "true": [joined_tags(row, names[: len(row)], model.separator) for row in y],
            "predicted": [joined_tags(row, model.classes, model.separator) for row in predictions.labels],
        }
    codes = predictions.labels.astype(np.int64)
    probabilities, rows = widen_to_classes(predictions, len(names)).probabilities, np.arange(len(y))
    return {
        "true": [names[code] for code in y],
        "predicted": [names[code] for code in codes],
        "probability": np.full(len(y), np.nan) if probabilities is None else probabilities[rows, codes],
        # `widen_to_classes` gives classes that training lacks the probability 0.
        "probability_true": np.full(len(y), np.nan) if probabilities is None else probabilities[rows, y],
    }


def _neighbour_columns(near: Neighbors | None, training: TrainingSet | None) -> dict[str, Any]:
    """Return the columns of the nearest training photos of each photo; none if they are not available."""
    columns: dict[str, Any] = {}
    if near is None or training is None:
        return columns
    for rank in range(near.rows.shape[1]):
        suffix, rows = rank_suffix(rank), near.rows[:, rank].tolist()
        columns[f"neighbour{suffix}"] = [training.ids[row] for row in rows]
        columns[f"neighbour_label{suffix}"] = [training.labels[row] for row in rows]
        columns[f"similarity{suffix}"] = near.cosine[:, rank]
    return columns


_VERSIONS = ("transfer-pipeline", "scikit-learn", "numpy", "pillow", "torch", "torchvision")

# Matches a column that is given with the kind of its labels, such as NAME:class.
_STATES_KIND = re.compile(r":(class|number|multi)\b")


@dataclass(frozen=True)
class ScoreConfig:
    """Options of scoring a model. See `Model.score`."""

    labels: Any
    column: str | None
    groups: str | None
    id_column: str | None
    label_level: int | None
    cache: Path
    out: Path | None
    random_state: int
    root: str | os.PathLike[str] | None = None
    missing: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class _ScoredRows:
    """The scored photos: their rows in the dataset, their labels as codes of the model, and the unknown classes."""

    dataset: Dataset
    rows: np.ndarray
    y: np.ndarray
    unknown: tuple[str, ...]
    notes: tuple[str, ...]


def score_source(
    model: ModelSpec, source: ImageSource | FeatureCache, config: ScoreConfig, inference: Mapping[str, Any]
) -> ModelScore:
    """Return the scores, and write them if `out` is given. See `Model.score`."""
    dataset, column, separator = _load_labels(model, source, config)
    if isinstance(source, FeatureCache):
        source = source.base
    elif source.requested is not None and (repeats := len(source.requested.ids) - len(source)):
        dataset = replace(dataset, notes=(*dataset.notes, f"{repeats} inputs repeat a photo, which is scored once"))
    question = {
        "model": model.sha256,
        "photos": source.place,
        "labels": _labels_text(config.labels),
        "column": column,
        "groups": config.groups or "",
    }
    training, why_not = None, ""
    if config.out is not None:
        check_score_directory(config.out, question)  # raises before the work, not after it
        source = _extract_features(model, source, config.cache, config.random_state, inference)
        training, why_not = model.open_training_set(config.cache)
    prediction, scored = _predict(model, source, dataset, (column, separator), training, config.cache, inference)
    score = _score(model, scored, prediction, config)
    if config.out is None:
        return replace(score, about={"question": question})
    score = replace(
        score,
        predictions=prediction_table(
            model,
            scored.dataset.ids,
            scored.rows,
            scored.y,
            scored.unknown,
            prediction,
            training,
            score.seen_in_training,
        ),
        about={"question": question, **_provenance(model, source, config, training, why_not)},
    )
    score = _count_novel(score, training, why_not)
    return replace(score, folder=score.save(config.out))


def _load_labels(model: ModelSpec, source: ImageSource | FeatureCache, config: ScoreConfig) -> tuple[Dataset, str, str]:
    """Return the labels of the photos, the name of their column, and the separator of tags."""
    extra_columns = (config.groups,) if config.groups is not None else ()
    (entry,), one_hot = split_one_hot([config.column or model.label_set])
    entry = entry if one_hot is None else one_hot.name
    # Tags and classes with a comma are read as text, so that 1,5 is not read as a decimal number.
    read_as_text = model.kind == "multi" or any("," in name for name in model.classes)
    stated = entry if _STATES_KIND.search(entry) else f"{entry}:{model.kind}"
    label_config = LabelConfig(
        labels=config.labels,
        id_column=config.id_column,
        used=(stated, *extra_columns) if read_as_text else (),
        beside=extra_columns,
        root=config.root,
        level=config.label_level,
        missing=config.missing,
        one_hot=one_hot,
    )
    dataset = load_labels(source, label_config)
    check_has_labels(dataset)
    column, reading = split_kind(entry, list(dataset.columns))
    if reading.kind not in (None, model.kind):
        raise LabelError(
            f"--column {config.column}: expected labels of the kind {model.kind!r}, which the model predicts, "
            f"got {reading.kind!r}",
            f"--column {column}",
        )
    for flag, name in (("column", column), ("groups", config.groups)):
        if name is not None and name not in dataset.columns:
            # A model of one-hot columns has the name of the merged column, which no table has.
            one_hot_hints = one_hot_notes(dataset.columns) if flag == "column" and config.column is None else []
            raise LabelError(
                f"--{flag}: expected the column {name!r}, got {', '.join(map(repr, dataset.columns))}",
                next(iter(one_hot_hints), f"name the column with --{flag}, or give a table with --labels"),
            )
    return dataset, column, reading.separator or model.separator


def _extract_features(
    model: ModelSpec,
    source: ImageSource | FeatureCache,
    folder: Path,
    random_state: int,
    inference: Mapping[str, Any],
) -> ImageSource | FeatureCache:
    """Return the cache of the photos under the model's recipe; the photos if this machine has another recipe."""
    if isinstance(source, FeatureCache):
        return source
    options: dict[str, Any] = {name: str(model.recipe[name]) for name in ("precision", "store")}
    options["decode"] = decode_mode_of(model)
    if recipe_of(model.backbone, **options, device=inference["device"]).as_dict() != dict(model.recipe):
        return source  # `predict_source` notes the difference; the report then has no map of embeddings
    if emulates(options["precision"], inference["device"]):
        return source  # a cache is not extracted so slowly, but a model predicts
    cache = extract(
        source,
        backbone=model.backbone,
        layer=model.layer,
        cache=folder,
        random_state=random_state,
        **options,
        **inference,
    )
    return cache.base  # a photo that is listed twice is scored once


def _predict(
    model: ModelSpec,
    source: ImageSource | FeatureCache,
    dataset: Dataset,
    labels: tuple[str, str],
    training: TrainingSet | None,
    folder: Path,
    inference: Mapping[str, Any],
) -> tuple[Prediction, _ScoredRows]:
    """Return the predictions for all photos, and the photos that have both a label and a prediction."""
    column, separator = labels
    labeled, y, unknown = encode(dataset, column, model.kind, model.classes, separator=separator)
    if not len(labeled):
        raise EvaluationError(
            f"expected labelled photos to score, got none in column {column!r}", "give the labels with --labels TABLE"
        )
    prediction = predict_source(
        model, source, training=training, neighbours=NEIGHBOURS, graphs=folder / GRAPHS_FOLDER, **inference
    )
    ids, notes = dataset.ids, [*dataset.notes, *(dataset.match.notes if dataset.match else ())]
    notes += describe_spelling(dataset, column, model.kind, model.classes)
    if len(labeled) < len(ids):
        notes.append(f"{len(ids) - len(labeled)} of {len(ids)} photos have no label and are left out")
    predicted = np.array([not prediction.errors[row] for row in labeled])
    if not predicted.all():
        failed = labeled[~predicted]
        first = f"{ids[failed[0]]}: {prediction.errors[failed[0]]}"
        if not predicted.any():
            raise EvaluationError(
                f"{dataset.name}: {len(failed)} of {len(labeled)} labelled images cannot be read, e.g. {first}",
                "replace or remove these images",
            )
        notes.append(f"{len(failed)} labeled photos cannot be read and are left out, e.g. {first}")
    return prediction, _ScoredRows(dataset, labeled[predicted], y[predicted], tuple(unknown), tuple(notes))


def _score(model: ModelSpec, scored: _ScoredRows, prediction: Prediction, config: ScoreConfig) -> ModelScore:
    """Return the scores, with and without the photos that are in the training data."""
    rows, y, notes = scored.rows, scored.y, list(scored.notes)
    ids = scored.dataset.ids
    codes = {name: len(model.classes) + number for number, name in enumerate(scored.unknown)}
    present = {name: y[:, code] if model.kind == "multi" else y == code for name, code in codes.items()}
    unknown = {name: count for name, rows_of in present.items() if (count := int(rows_of.sum()))}
    if unknown:
        notes.append(unknown_text(unknown, model.kind))
    training_digests = {digest.tobytes() for digest in model.training_digests}
    new = np.array([prediction.digests[row].tobytes() not in training_digests for row in rows], bool)
    seen = tuple(ids[row] for row in rows[~new])
    if seen:
        notes.append(
            f"{len(seen)} of {len(rows)} photos were in the training data, e.g. {seen[0]}, which inflates the score"
            f"{'; it is also given without them' if new.any() else ''}"
        )
    n_classes = len(model.classes) + len(codes)
    scores_of = _make_scorer(model, scored, prediction, n_classes, config)
    scores, guess = scores_of(np.arange(len(rows))), best_guess(y, model.kind, n_classes)
    names = [score.scoring for score in scores]
    return ModelScore(
        label_set=model.label_set,
        n=len(rows),
        scores=scores,
        guessing={name: score_predictions(name, y, guess, kind=model.kind, n_classes=n_classes) for name in names},
        unknown_classes=unknown,
        seen_in_training=seen,
        notes=tuple(notes),
        scores_apart=scores_of(np.flatnonzero(new)) if seen and new.any() else (),
        kind=model.kind,
        classes=model.classes,
        separator=model.separator,
        name=scored.dataset.name,
    )


def _make_scorer(
    model: ModelSpec, scored: _ScoredRows, prediction: Prediction, n_classes: int, config: ScoreConfig
) -> Callable[[np.ndarray], tuple[ScoreInterval, ...]]:
    """Return a function that returns the scores of a subset of the scored photos, given by position."""
    predictions = widen_to_classes(prediction.predictions.take(scored.rows), n_classes)
    dataset = scored.dataset
    groups = (
        None if config.groups is None else group_codes(dataset.ids, dataset.columns, config.groups, rows=scored.rows)
    )

    def scores_of(subset: np.ndarray) -> tuple[ScoreInterval, ...]:
        return tuple(
            score_with_interval(
                scoring,
                scored.y[subset],
                predictions.take(subset),
                kind=model.kind,
                n_classes=n_classes,
                groups=None if groups is None else groups[subset],
                random_state=config.random_state,
            )
            for scoring in SCORINGS[model.kind]
            if predictions.probabilities is not None or not needs_probabilities(scoring)
        )

    return scores_of


def _count_novel(score: ModelScore, training: TrainingSet | None, why_not: str) -> ModelScore:
    """Return the score with the number of unfamiliar photos, or with a note why it is not known."""
    assert score.predictions is not None
    novel = score.predictions["unfamiliar"]
    if novel.isna().any():
        reason = why_not or "every training photo is a duplicate of every other one"
        missing = (
            "unfamiliar photos are not marked"
            if training is not None
            else "unfamiliar photos and neighbours are not given"
        )
        return replace(score, notes=(*score.notes, f"{missing}: {reason}"))
    count = int(novel.sum())
    notes = score.notes
    if count:
        first = score.predictions["id"][novel.to_numpy(bool)].iloc[0]
        notes = (*notes, f"{count} of {score.n} photos are unfamiliar (unlike all training photos), e.g. {first}")
    return replace(score, unfamiliar=count, notes=notes)


def _provenance(
    model: ModelSpec,
    source: ImageSource | FeatureCache,
    config: ScoreConfig,
    training: TrainingSet | None,
    why_not: str,
) -> dict[str, Any]:
    """Return the provenance of a score as plain JSON values: the model, the photos, the versions."""
    backbone = model.backbone
    return {
        "model": {
            "path": "" if model.folder is None else str(model.folder),
            "head": model.head,
            "params": dict(model.params),
            "layer": model.layer,
            "backbone": f"{backbone.name}:{backbone.weights}",
            "training_images": len(model.training_digests),
            "recipe": dict(model.recipe),
            "versions": dict(model.versions),
        },
        "data": {"place": source.place, "cache": str(source.path) if isinstance(source, FeatureCache) else ""},
        "training": {
            "place": "" if training is None else training.place,
            "kept": model.kept is not None,
            "why_not": why_not,
        },
        "random_state": config.random_state,
        "versions": {name: installed(name) for name in _VERSIONS},
    }


def _labels_text(labels: Any) -> str:
    """Return where the labels are from, as text."""
    if labels is None:
        return "the photos' own"
    if isinstance(labels, str | os.PathLike):
        return str(Path(labels).absolute())
    return "given in Python"
