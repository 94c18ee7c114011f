"""Score a model on labelled photos, and say which of them it should not be judged by."""

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
from pipeline.evaluation.dataset import Dataset, LabelConfig, check_has_labels, load_labels
from pipeline.evaluation.scores import widen_to_classes
from pipeline.evaluation.tasks import describe_spelling, encode, unknown_text
from pipeline.extraction import extract, recipe_of
from pipeline.images import ImageSource
from pipeline.intervals import ScoreInterval, score_with_interval
from pipeline.labels import group_codes, joined_tags, split_kind, split_one_hot
from pipeline.model.model_score import NEIGHBOURS, ModelScore, check_score_directory
from pipeline.model.predict import Prediction, decode_mode_of, predict_source
from pipeline.model.training_set import TrainingSet
from pipeline.provenance import installed
from pipeline.runtime import GRAPHS_FOLDER
from pipeline.search import SCORINGS, Predictions, best_guess, needs_probabilities, score_predictions

if TYPE_CHECKING:
    from pipeline.model.spec import ModelSpec


PROBABILITY = "probability of "  # before a class's name


def prediction_table(
    model: ModelSpec,
    ids: Sequence[str],
    rows: np.ndarray,
    y: np.ndarray,
    unknown: Sequence[str],
    answer: Prediction,
    training: TrainingSet | None,
    learned: Sequence[str],
) -> pd.DataFrame:
    """Return the predictions.

    Parameters
    ----------
    model : ModelSpec
    ids : sequence of str
        Of all photos that were asked about.
    rows : ndarray of int64, shape (n,)
        Those that were scored.
    y : ndarray, shape (n,) or (n, classes)
        Their labels, in the model's codes; classes that it never saw have codes beyond those.
    unknown : sequence of str
        The names of these.
    answer : Answer
        About all photos.
    training : TrainingSet or None
        Among which the nearest were looked for.
    learned : sequence of str
        Ids of the photos that the model learned from.
    """
    seen = set(learned)
    names = [ids[row] for row in rows]
    said = answer.predictions.take(rows)
    columns = {
        "id": names,
        "digest": [answer.digests[row].tobytes().hex() for row in rows],
        "learned": [name in seen for name in names],
        "unfamiliar": _unfamiliar(model, rows, answer),
        **_said(model, y, said, (*model.classes, *unknown)),
        **_near(rows, answer, training),
    }
    table = pd.DataFrame(columns)
    if said.probabilities is None or model.kind == "number":
        return table
    each = pd.DataFrame(said.probabilities, columns=[f"{PROBABILITY}{name}" for name in model.classes])
    return pd.concat([table, each], axis=1)


def _said(model: ModelSpec, y: np.ndarray, said: Predictions, names: Sequence[str]) -> dict[str, Any]:
    """Return what the photos are, and what was said of them."""
    if model.kind == "number":
        return {"true_value": y.astype(np.float64), "predicted_value": said.labels.astype(np.float64)}
    if model.kind == "multi":
        return {
            "true": [joined_tags(row, names[: len(row)], model.separator) for row in y],
            "predicted": [joined_tags(row, model.classes, model.separator) for row in said.labels],
        }
    codes = said.labels.astype(np.int64)
    wide, each = widen_to_classes(said, len(names)).probabilities, np.arange(len(y))
    return {
        "true": [names[code] for code in y],
        "predicted": [names[code] for code in codes],
        "probability": np.full(len(y), np.nan) if wide is None else wide[each, codes],
        # A class that training never saw has no probability: 0.
        "probability_true": np.full(len(y), np.nan) if wide is None else wide[each, y],
    }


def _unfamiliar(model: ModelSpec, rows: np.ndarray, answer: Prediction) -> Any:
    said = None if answer.near is None else model.is_novel(answer.near)
    return pd.array([None] * len(rows) if said is None else said[rows], dtype="boolean")


def _near(rows: np.ndarray, answer: Prediction, training: TrainingSet | None) -> dict[str, Any]:
    """Return the training photos nearest to each, and how alike they are."""
    columns: dict[str, Any] = {}
    if answer.near is None or training is None:
        return columns
    for place in range(answer.near.rows.shape[1]):
        end = "" if place == 0 else f"_{place + 1}"
        theirs = answer.near.rows[rows, place].tolist()
        columns[f"neighbour{end}"] = [training.ids[one] for one in theirs]
        columns[f"neighbour_label{end}"] = [training.labels[one] for one in theirs]
        columns[f"similarity{end}"] = answer.near.cosine[rows, place]
    return columns


_VERSIONS = ("transfer-pipeline", "scikit-learn", "numpy", "pillow", "torch", "torchvision")

# Whether a column is given with the kind of its labels.
_STATES_KIND = re.compile(r":(class|number|multi)\b")


@dataclass(frozen=True)
class ScoreConfig:
    """What a model is scored by, and where that is kept. See `Model.score`."""

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
    """The photos that are scored: rows of the source, their labels in the model's codes, classes beyond those."""

    known: Dataset
    rows: np.ndarray
    y: np.ndarray
    unknown: tuple[str, ...]
    notes: tuple[str, ...]


def score_source(
    model: ModelSpec, source: ImageSource | FeatureCache, asked: ScoreConfig, answering: Mapping[str, Any]
) -> ModelScore:
    """Return the scores, and keep them where that is asked for. See `Model.score`."""
    known, column, separator = _labelled(model, source, asked)
    if isinstance(source, FeatureCache):
        source = source.base
    elif source.requested is not None and (repeats := len(source.requested.ids) - len(source)):
        known = replace(known, notes=(*known.notes, f"{repeats} inputs repeat a photo, which is scored once"))
    question = {
        "model": model.sha256,
        "photos": source.place,
        "labels": _labels_text(asked.labels),
        "column": column,
        "groups": asked.groups or "",
    }
    training, why_not = None, ""
    if asked.out is not None:
        check_score_directory(asked.out, question)  # better known before the work than after it
        source = _kept_features(model, source, asked.cache, asked.random_state, answering)
        training, why_not = model.open_training_set(asked.cache)
    answer, scored = _answered(model, source, known, (column, separator), training, asked.cache, answering)
    found = _scores(model, scored, answer, asked)
    if asked.out is None:
        return replace(found, about={"question": question})
    found = replace(
        found,
        predictions=prediction_table(
            model, scored.known.ids, scored.rows, scored.y, scored.unknown, answer, training, found.seen_in_training
        ),
        about={"question": question, **_about(model, source, asked, training, why_not)},
    )
    found = _with_familiarity(model, found, training, why_not)
    return replace(found, folder=found.save(asked.out))


def _labelled(model: ModelSpec, source: ImageSource | FeatureCache, asked: ScoreConfig) -> tuple[Dataset, str, str]:
    """Return what is known of the photos, the column of their labels, and what separates the tags of a cell."""
    beside = (asked.groups,) if asked.groups is not None else ()
    (entry,), one_hot = split_one_hot([asked.column or model.label_set])
    entry = entry if one_hot is None else one_hot.name
    # Classes that hold a comma, and tags, are text: 1,5 is no number there.
    text = model.kind == "multi" or any("," in name for name in model.classes)
    stated = entry if _STATES_KIND.search(entry) else f"{entry}:{model.kind}"
    labelling = LabelConfig(
        labels=asked.labels,
        id_column=asked.id_column,
        used=(stated, *beside) if text else (),
        beside=beside,
        root=asked.root,
        level=asked.label_level,
        missing=asked.missing,
        one_hot=one_hot,
    )
    known = load_labels(source, labelling)
    check_has_labels(known)
    column, reading = split_kind(entry, list(known.columns))
    if reading.kind not in (None, model.kind):
        raise LabelError(
            f"--column {asked.column}: expected labels of the kind {model.kind!r}, which the model predicts, "
            f"got {reading.kind!r}",
            f"--column {column}",
        )
    for flag, name in (("column", column), ("groups", asked.groups)):
        if name is not None and name not in known.columns:
            raise LabelError(
                f"--{flag}: expected the column {name!r}, got {', '.join(map(repr, known.columns))}",
                f"name the column with --{flag}, or give a table with --labels",
            )
    return known, column, reading.separator or model.separator


def _kept_features(
    model: ModelSpec,
    source: ImageSource | FeatureCache,
    folder: Path,
    random_state: int,
    answering: Mapping[str, Any],
) -> ImageSource | FeatureCache:
    """Return the cache of the photos, made by the model's own recipe; the photos where this machine has another one."""
    if isinstance(source, FeatureCache):
        return source
    how: dict[str, Any] = {name: str(model.recipe[name]) for name in ("precision", "store")}
    how["decode"] = decode_mode_of(model)
    if recipe_of(model.backbone, **how, device=answering["device"]).as_dict() != dict(model.recipe):
        return source  # `predict_source` says what differs, and the answers are kept without a map
    made = extract(
        source, backbone=model.backbone, layer=model.layer, cache=folder, random_state=random_state, **how, **answering
    )
    return made.base  # a photo that is named twice is scored once


def _answered(
    model: ModelSpec,
    source: ImageSource | FeatureCache,
    known: Dataset,
    labels: tuple[str, str],
    training: TrainingSet | None,
    folder: Path,
    answering: Mapping[str, Any],
) -> tuple[Prediction, _ScoredRows]:
    """Return what the model says of all photos, and those that have both a label and an answer."""
    column, separator = labels
    labelled, y, unknown = encode(known, column, model.kind, model.classes, separator=separator)
    if not len(labelled):
        raise EvaluationError(
            f"expected labelled photos to score, got none in column {column!r}", "give the labels with --labels TABLE"
        )
    answer = predict_source(
        model, source, training=training, neighbours=NEIGHBOURS, graphs=folder / GRAPHS_FOLDER, **answering
    )
    ids, notes = known.ids, [*known.notes, *(known.match.notes if known.match else ())]
    notes += describe_spelling(known, column, model.kind, model.classes)
    if len(labelled) < len(ids):
        notes.append(f"{len(ids) - len(labelled)} of {len(ids)} photos have no label and are left out")
    answered = np.array([not answer.errors[row] for row in labelled])
    if not answered.all():
        failed = labelled[~answered]
        first = f"{ids[failed[0]]}: {answer.errors[failed[0]]}"
        if not answered.any():
            raise EvaluationError(
                f"{known.name}: {len(failed)} of {len(labelled)} labelled images cannot be read, e.g. {first}",
                "replace or remove these images",
            )
        notes.append(f"{len(failed)} labelled photos have no answer and are left out, e.g. {first}")
    return answer, _ScoredRows(known, labelled[answered], y[answered], tuple(unknown), tuple(notes))


def _scores(model: ModelSpec, scored: _ScoredRows, answer: Prediction, asked: ScoreConfig) -> ModelScore:
    """Return the scores, with and without the photos that the model learned from."""
    rows, y, notes = scored.rows, scored.y, list(scored.notes)
    ids = scored.known.ids
    codes = {name: len(model.classes) + number for number, name in enumerate(scored.unknown)}
    found = {name: y[:, code] if model.kind == "multi" else y == code for name, code in codes.items()}
    unknown = {name: count for name, those in found.items() if (count := int(those.sum()))}
    if unknown:
        notes.append(unknown_text(unknown, model.kind))
    learned = {digest.tobytes() for digest in model.training_digests}
    new = np.array([answer.digests[row].tobytes() not in learned for row in rows], bool)
    seen = tuple(ids[row] for row in rows[~new])
    if seen:
        notes.append(
            f"{len(seen)} of {len(rows)} photos were in the training data, e.g. {seen[0]}: the score flatters"
            f"{', and is given without them too' if new.any() else ''}"
        )
    n_classes = len(model.classes) + len(codes)
    scores_of = _scorer(model, scored, answer, n_classes, asked)
    scores, guess = scores_of(np.arange(len(rows))), best_guess(y, model.kind, n_classes)
    names = [one.scoring for one in scores]
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
        name=scored.known.name,
    )


def _scorer(
    model: ModelSpec, scored: _ScoredRows, answer: Prediction, n_classes: int, asked: ScoreConfig
) -> Callable[[np.ndarray], tuple[ScoreInterval, ...]]:
    """Return the function from some of the scored photos to their scores."""
    said = widen_to_classes(answer.predictions.take(scored.rows), n_classes)
    known = scored.known
    groups = None if asked.groups is None else group_codes(known.ids, known.columns, asked.groups, rows=scored.rows)

    def scores_of(these: np.ndarray) -> tuple[ScoreInterval, ...]:
        return tuple(
            score_with_interval(
                scoring,
                scored.y[these],
                said.take(these),
                kind=model.kind,
                n_classes=n_classes,
                groups=None if groups is None else groups[these],
                random_state=asked.random_state,
            )
            for scoring in SCORINGS[model.kind]
            if said.probabilities is not None or not needs_probabilities(scoring)
        )

    return scores_of


def _with_familiarity(model: ModelSpec, found: ModelScore, training: TrainingSet | None, why_not: str) -> ModelScore:
    """Return the score with how many photos are unfamiliar, or why that is not known."""
    assert found.predictions is not None
    strange = found.predictions["unfamiliar"]
    if strange.isna().any():
        why = why_not or "no training photo has another one that is no copy of it"
        what = "which photos are unfamiliar is not known" + (
            ", nor what they are most like" if training is None else ""
        )
        return replace(found, notes=(*found.notes, f"{what}: {why}"))
    count = int(strange.sum())
    notes = found.notes
    if count:
        first = found.predictions["id"][strange.to_numpy(bool)].iloc[0]
        notes = (*notes, f"{count} of {found.n} photos are unfamiliar, e.g. {first}: unlike all that was learned from")
    return replace(found, unfamiliar=count, notes=notes)


def _about(
    model: ModelSpec,
    source: ImageSource | FeatureCache,
    asked: ScoreConfig,
    training: TrainingSet | None,
    why_not: str,
) -> dict[str, Any]:
    """Return what a reader wants to know later: the model, the photos, the versions."""
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
        "random_state": asked.random_state,
        "versions": {name: installed(name) for name in _VERSIONS},
    }


def _labels_text(labels: Any) -> str:
    """Return where the labels are from, for a person."""
    if labels is None:
        return "the photos' own"
    if isinstance(labels, str | os.PathLike):
        return str(Path(labels).absolute())
    return "given in Python"
