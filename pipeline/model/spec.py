"""`ModelSpec`: which data make up a model? Prediction, scoring, storage and the model card each take one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.backbone import Backbone
from pipeline.model.training_set import EmbeddedTrainingSet, Neighbors, TrainingRef, TrainingSet, find_training_set
from pipeline.search import Predictions, predict_all


@dataclass(frozen=True, eq=False)
class ModelSpec:
    """The data of a model: a frozen backbone, the head that was trained on its features, and their provenance.

    Attributes
    ----------
    label_set : str
        The column of the training labels.
    kind : {"class", "number", "multi"}
    classes : tuple of str
        In the order of the head's codes, or for tags of its output columns; empty for numbers.
    head : str
        The head's name.
    estimator : fitted scikit-learn estimator
        Maps features ``(n, d)`` to codes into `classes`, to numbers, or to an indicator of tags.
    params : dict
        The hyperparameters that the search selected.
    layer : str
    backbone : Backbone
    recipe : mapping
        Everything that changes a feature, as it was for the training photos.
    scores : tuple of mapping
        The results of the evaluation that selected the head: nested, with intervals, with the baselines.
    training_digests : ndarray of uint8, shape (m, 16)
        Content digests of the training photos.
    notes : tuple of str
    verdict : str
        The result of the evaluation, in one sentence.
    versions : mapping
        Versions of the libraries that the model was fitted with.
    separator : str
        Between the tags in a cell; empty for the other kinds.
    evidence : mapping
        Counts of the training data and of the mistakes, from `count_evidence`; empty for models of earlier versions.
    training : TrainingRef
        Where the embeddings of the training photos are, and the distance beyond which a photo is unfamiliar.
    kept : EmbeddedTrainingSet or None
        Their embeddings and thumbnails, if the model keeps them.
    folder : Path or None
        Where the model was opened; None for a model that was not saved.
    sha256 : str
        Hash of the record of that folder, which holds the hashes of the other files; empty for a model that was not
        saved.
    """

    label_set: str
    kind: str
    classes: tuple[str, ...]
    head: str
    estimator: Any = field(repr=False)
    params: Mapping[str, Any]
    layer: str
    backbone: Backbone = field(repr=False)
    recipe: Mapping[str, Any] = field(repr=False)
    scores: tuple[Mapping[str, Any], ...] = field(repr=False)
    training_digests: np.ndarray = field(repr=False)
    notes: tuple[str, ...] = field(default=(), repr=False)
    verdict: str = ""
    versions: Mapping[str, str] = field(default_factory=dict, repr=False)
    separator: str = field(default="", repr=False)
    evidence: Mapping[str, Any] = field(default_factory=dict, repr=False)
    training: TrainingRef = field(default=TrainingRef(), repr=False)
    kept: EmbeddedTrainingSet | None = field(default=None, repr=False)
    folder: Path | None = field(default=None, repr=False)
    sha256: str = field(default="", repr=False)

    def as_dict(self) -> dict[str, Any]:
        """Return the data and the scores of the model as plain JSON values."""
        return {
            "label_set": self.label_set,
            "task": self.kind,
            "classes": list(self.classes),
            "head": self.head,
            "params": dict(self.params),
            "layer": self.layer,
            "backbone": self.backbone.record(),
            "recipe": dict(self.recipe),
            "verdict": self.verdict,
            "scores": [dict(score) for score in self.scores],
            "training_images": len(self.training_digests),
            "training": self.training.as_dict(),
            "notes": list(self.notes),
            "versions": dict(self.versions),
            **({"separator": self.separator} if self.kind == "multi" else {}),
            "evidence": dict(self.evidence),
        }

    def predict_features(self, X: np.ndarray) -> Predictions:
        """Return the head's predictions for features, ``(n, d)``."""
        return predict_all(self.estimator, X, len(self.classes), self.kind)

    def is_novel(self, near: Neighbors) -> np.ndarray | None:
        """Return whether each image is further from its nearest training photo than the threshold, (n,).

        None if the model has no threshold.
        """
        beyond = self.training.beyond
        return None if beyond is None else 1 - near.cosine[:, 0].astype(np.float64) > beyond

    def open_training_set(self, folder: Path) -> tuple[TrainingSet | None, str]:
        """Return the training photos that the model keeps, or those in a cache of this folder.

        Returns
        -------
        training_set : TrainingSet or None
        why_not : str
            Why the training photos are not available; empty if they are.
        """
        return find_training_set(
            folder,
            training=self.training,
            kept=self.kept,
            digests=self.training_digests,
            recipe=self.recipe,
            layer=self.layer,
            label_set=self.label_set,
        )
