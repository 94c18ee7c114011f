"""`fit` and `Model`: the chosen head refitted on every labelled photo, with the backbone it belongs to."""

from __future__ import annotations

from pipeline.model.fitting import fit
from pipeline.model.model import Model
from pipeline.model.model_score import ModelScore

__all__ = ["Model", "ModelScore", "fit"]
