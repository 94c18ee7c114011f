"""What the server answers, as the OpenAPI page describes it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from pydantic import BaseModel, Field

from pipeline.model import Model
from pipeline.model.training_set import TrainingSet
from pipeline.server.batcher import PredictionRow


class ClassProbability(BaseModel):
    """A class, or a tag, and how sure the model is of it."""

    label: str
    probability: float | None = Field(description="Of a head that gives probabilities.")
    score: float | None = Field(description="Of a head that gives none: its decision function.")


class NearestImage(BaseModel):
    """A training photo that is like the one asked about."""

    id: str
    label: str = Field(description="Empty where it is not known.")
    similarity: float = Field(description="Cosine of the two embeddings.")
    thumbnail: str | None = Field(description="Where its small picture is, of a model that keeps them.")


class ImagePrediction(BaseModel):
    """What the model says of a photo."""

    label: str | None = Field(description="The class; null for tags and numbers.")
    labels: list[str] | None = Field(description="All tags of the photo; null for the other kinds.")
    value: float | None = Field(description="The number; null for the other kinds.")
    classes: list[ClassProbability] = Field(description="All classes or tags, the likeliest first.")
    unfamiliar: bool | None = Field(
        description="Whether the photo lies further from the training photos than 99% of them lie from one another; "
        "null where that cannot be said."
    )
    nearest: list[NearestImage] = Field(description="The most similar training photos; empty where none are at hand.")


class ModelInfo(BaseModel):
    """What the model is."""

    name: str
    label_set: str
    task: str = Field(description="class, number or multi (tags).")
    classes: list[str]
    head: str
    backbone: str
    verdict: str = Field(description="What the evaluation found, in a sentence.")
    training_images: int
    unfamiliar: str | None = Field(description="Why nothing can be said of unfamiliar photos; null where it can.")
    nearest: str | None = Field(description="Why no training photos can be named; null where they can.")
    megabytes: float = Field(description="The largest photo.")
    megapixels: float


class Health(BaseModel):
    """Whether the server is well."""

    status: str
    in_house: int = Field(description="Requests that are being answered.")


class ErrorBody(BaseModel):
    """Why there is no answer, and what to do about it."""

    error: str
    next_step: str = Field(alias="try", serialization_alias="try")


def to_response(model: Model, said: PredictionRow, training: TrainingSet | None, neighbours: int) -> ImagePrediction:
    """Return the answer about one photo, with so many neighbours at the most."""
    predictions = said.predictions
    label = labels = value = None
    if model.kind == "number":
        value = float(predictions.labels[0])
    elif model.kind == "multi":
        labels = [tag for tag, there in zip(model.classes, predictions.labels[0], strict=True) if there]
    else:
        label = model.classes[int(predictions.labels[0])]
    unfamiliar = None if said.near is None else model.is_novel(said.near)
    nearest = []
    if said.near is not None and training is not None:
        pairs = zip(said.near.rows[0].tolist(), said.near.cosine[0].tolist(), strict=True)
        nearest = [_neighbour(training, row, cosine) for row, cosine in list(pairs)[:neighbours]]
    return ImagePrediction(
        label=label,
        labels=labels,
        value=value,
        classes=_classes(model.classes, predictions.probabilities, predictions.scores, label),
        unfamiliar=None if unfamiliar is None else bool(unfamiliar[0]),
        nearest=nearest,
    )


def _classes(
    names: Sequence[str], probabilities: np.ndarray | None, scores: np.ndarray | None, said: str | None
) -> list[ClassProbability]:
    """Return the classes, the likeliest first; what the head says comes first whatever its figures are."""
    ranks = scores if probabilities is None else probabilities
    if ranks is None:
        return []
    order = sorted(range(len(names)), key=lambda code: (names[code] != said, -ranks[0, code]))
    return [
        ClassProbability(
            label=names[code],
            probability=None if probabilities is None else float(probabilities[0, code]),
            score=_finite(float(ranks[0, code])) if probabilities is None else None,
        )
        for code in order
    ]


def _neighbour(training: TrainingSet, row: int, cosine: float) -> NearestImage:
    picture = f"/thumbnails/{row}" if training.pictured else None
    return NearestImage(id=training.ids[row], label=training.labels[row], similarity=cosine, thumbnail=picture)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None  # of a class that was not in training
