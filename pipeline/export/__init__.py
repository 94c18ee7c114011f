"""Backbone and head as one model that runs elsewhere, in ONNX or in plain torch, with the proof that it is the same."""

from __future__ import annotations

from pipeline.export.formats import FORMATS, Exported, export_model, refuse_export
from pipeline.export.proof import Kinds, Proof, Witnesses

__all__ = ["FORMATS", "Exported", "Kinds", "Proof", "Witnesses", "export_model", "refuse_export"]
