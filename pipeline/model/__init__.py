"""How is the best head trained on all labeled images, saved with its backbone, and used for predictions?"""

from __future__ import annotations

from pipeline.model.fitting import evaluate_and_fit, fit
from pipeline.model.model import Model
from pipeline.model.model_score import NEIGHBOURS, ModelScore
from pipeline.model.predict import decode_mode_of, network_of, rank_classes
from pipeline.model.training_set import EmbeddedTrainingSet, Neighbors, TrainingSet, unit_rows

__all__ = [
    "NEIGHBOURS",
    "EmbeddedTrainingSet",
    "Model",
    "ModelScore",
    "Neighbors",
    "TrainingSet",
    "decode_mode_of",
    "evaluate_and_fit",
    "fit",
    "network_of",
    "rank_classes",
    "unit_rows",
]
