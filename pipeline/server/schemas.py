"""In what form does the server return predictions and errors? The OpenAPI page shows these docstrings."""

from __future__ import annotations

import math

from pydantic import BaseModel, Field

from pipeline.model import Model, TrainingSet, rank_classes
from pipeline.search import Predictions
from pipeline.server.batcher import PredictionRow


class ClassProbability(BaseModel):
    """A class or a tag with its probability or score."""

    label: str
    probability: float | None = Field(description="Null for a head without probabilities.")
    score: float | None = Field(description="The decision function of a head without probabilities.")


class NearestImage(BaseModel):
    """A training photo that is similar to the photo that was sent."""

    id: str
    label: str = Field(description="Empty if it is not recorded.")
    similarity: float = Field(description="Cosine of the two embeddings.")
    thumbnail: str | None = Field(description="Path of its thumbnail; null if the model does not keep thumbnails.")


class ImagePrediction(BaseModel):
    """The model's prediction for a photo."""

    label: str | None = Field(description="The class; null for tags and numbers.")
    labels: list[str] | None = Field(description="All tags of the photo; null for the other kinds.")
    value: float | None = Field(description="The number; null for the other kinds.")
    classes: list[ClassProbability] = Field(description="All classes or tags, the most probable first.")
    unfamiliar: bool | None = Field(
        description="Whether the photo is further from the training photos than 99% of them are from one another; "
        "null if the training photos are not available."
    )
    nearest: list[NearestImage] = Field(
        description="The most similar training photos; empty if they are not available."
    )


class ModelInfo(BaseModel):
    """The model behind the server."""

    name: str
    label_set: str
    task: str = Field(description="class, number or multi (tags).")
    classes: list[str]
    head: str
    backbone: str
    verdict: str = Field(description="The result of the evaluation, in one sentence.")
    training_images: int
    unfamiliar: str | None = Field(description="Why unfamiliar photos are not marked; null if they are.")
    nearest: str | None = Field(description="Why no training photos are returned; null if they are.")
    megabytes: float = Field(description="Size of the largest photo.")
    megapixels: float


class Health(BaseModel):
    """The state of the server."""

    status: str
    in_house: int = Field(description="Requests that are running.")


class ErrorBody(BaseModel):
    """The reason of an error, and what to do."""

    error: str
    next_step: str = Field(alias="try", serialization_alias="try")


def to_response(model: Model, row: PredictionRow, training: TrainingSet | None, neighbours: int) -> ImagePrediction:
    """Return the response for one photo, with at most `neighbours` training photos."""
    predictions = row.predictions
    label = labels = value = None
    if model.kind == "number":
        value = float(predictions.labels[0])
    elif model.kind == "multi":
        labels = [tag for tag, present in zip(model.classes, predictions.labels[0], strict=True) if present]
    else:
        label = model.classes[int(predictions.labels[0])]
    unfamiliar = None if row.near is None else model.is_novel(row.near)
    nearest = []
    if row.near is not None and training is not None:
        pairs = zip(row.near.rows[0].tolist(), row.near.cosine[0].tolist(), strict=True)
        nearest = [_neighbour(training, number, cosine) for number, cosine in list(pairs)[:neighbours]]
    return ImagePrediction(
        label=label,
        labels=labels,
        value=value,
        classes=_classes(model, predictions),
        unfamiliar=None if unfamiliar is None else bool(unfamiliar[0]),
        nearest=nearest,
    )


def _classes(model: Model, predictions: Predictions) -> list[ClassProbability]:
    """Return the classes in the order of `rank_classes`; an empty list for a head with classes alone."""
    order, values = rank_classes(predictions, model.kind), predictions.ranks
    if order is None or values is None:
        return []
    has_probabilities = predictions.probabilities is not None
    return [
        ClassProbability(
            label=model.classes[code],
            probability=float(values[0, code]) if has_probabilities else None,
            score=None if has_probabilities else _finite(float(values[0, code])),
        )
        for code in order[0].tolist()
    ]


def _neighbour(training: TrainingSet, row: int, cosine: float) -> NearestImage:
    picture = f"/thumbnails/{row}" if training.pictured else None
    return NearestImage(id=training.ids[row], label=training.labels[row], similarity=cosine, thumbnail=picture)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None  # a class without training photos has no finite score
