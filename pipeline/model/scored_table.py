"""The table of a score's predictions: one row a photo that was scored. See `ModelScore`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from pipeline.evaluation.answers import widen_to_classes
from pipeline.labels import joined_tags
from pipeline.model.answering import Prediction
from pipeline.model.training import TrainingSet
from pipeline.search import Predictions

if TYPE_CHECKING:
    from pipeline.model.model import Model

PROBABILITY = "probability of "  # before a class's name


def prediction_table(
    model: Model,
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
    model : Model
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
    training : TrainingPhotos or None
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


def _said(model: Model, y: np.ndarray, said: Predictions, names: Sequence[str]) -> dict[str, Any]:
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


def _unfamiliar(model: Model, rows: np.ndarray, answer: Prediction) -> Any:
    said = None if answer.near is None else model.is_unfamiliar(answer.near)
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
