"""The table of a model's answers: one row an image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from pipeline.labels import joined_tags
from pipeline.model.answering import Prediction
from pipeline.model.training import Neighbors, TrainingSet
from pipeline.search import Predictions

if TYPE_CHECKING:
    from pipeline.model.model import Model


def prediction_frame(
    model: Model, ids: Sequence[str], answer: Prediction, training: TrainingSet | None, *, top: int, neighbours: int
) -> pd.DataFrame:
    """Return the table that `Model.predict` returns.

    Parameters
    ----------
    model : Model
    ids : sequence of str, length n
    answer : Answer
        About n images.
    training : TrainingPhotos or None
        Among which the nearest were looked for.
    top, neighbours
        As for `Model.predict`.
    """
    said = answer.predictions
    if model.kind == "number":
        columns: dict[str, Any] = {"value": said.labels}
    else:
        columns = _tagged(model, said, top) if model.kind == "multi" else _ranked(model, said, top)
    columns["unfamiliar"] = _unfamiliar(model, len(ids), answer.near)
    columns |= _neighbours(len(ids), answer.near, training, neighbours)
    table = pd.DataFrame({"id": ids, **columns, "error": answer.errors})
    table.loc[table["error"] != "", list(columns)] = None
    return table


def _ranked(model: Model, predictions: Predictions, top: int) -> dict[str, Any]:
    """Return the columns of the `top` likeliest classes, what the head predicts always first."""
    codes = predictions.labels.astype(np.int64)
    columns: dict[str, Any] = {"label": _texts(model.classes)[codes]}
    if predictions.ranks is None:
        return columns
    ranking = predictions.ranks.copy()
    ranking[np.arange(len(ranking)), codes] = np.inf
    return {**columns, **_named(model, "label", predictions, ranking, top)}


def _tagged(model: Model, predictions: Predictions, top: int) -> dict[str, Any]:
    """Return the column of all tags of each image, and those of the `top` likeliest tags."""
    columns: dict[str, Any] = {
        "label": [joined_tags(row, model.classes, model.separator) for row in predictions.labels]
    }
    if predictions.ranks is None:
        return columns
    return {**columns, **_named(model, "tag", predictions, predictions.ranks, top)}


def _named(model: Model, name: str, predictions: Predictions, ranking: np.ndarray, top: int) -> dict[str, Any]:
    """Return names and how sure the head is of each, the highest of the ranking, (n, n_classes), first."""
    values = predictions.ranks
    assert values is not None
    what = "probability" if predictions.probabilities is not None else "score"
    names, rows = _texts(model.classes), np.arange(len(values))
    order = np.argsort(-ranking, axis=1, kind="stable")
    columns = {}
    for place in range(min(top, len(model.classes))):
        columns[f"{name}{_suffix(place)}"] = names[order[:, place]]
        columns[f"{what}{_suffix(place)}"] = values[rows, order[:, place]]
    return columns


def _unfamiliar(model: Model, n: int, near: Neighbors | None) -> Any:
    """Return the column that says which images are unfamiliar, empty where that cannot be said."""
    said = None if near is None else model.is_unfamiliar(near)
    return pd.array([None] * n if said is None else said, dtype="boolean")


def _neighbours(n: int, near: Neighbors | None, training: TrainingSet | None, count: int) -> dict[str, Any]:
    """Return the columns of the nearest training photos, empty where there are none."""
    columns: dict[str, Any] = {}
    for place in range(count):
        names, similarity = np.full(n, None), np.full(n, np.nan, np.float32)
        if near is not None and training is not None and place < near.rows.shape[1]:
            names, similarity = _texts(training.ids)[near.rows[:, place]], near.cosine[:, place]
        columns[f"neighbour{_suffix(place)}"] = names
        columns[f"similarity{_suffix(place)}"] = similarity
    return columns


def _texts(names: Sequence[str]) -> np.ndarray:
    return np.array([*names], dtype=object)


def _suffix(place: int) -> str:
    return "" if place == 0 else f"_{place + 1}"
