"""Backbone and head as one model that runs elsewhere, in ONNX or in plain torch, with the proof that it is the same."""

from __future__ import annotations

from pipeline.export.formats import FORMATS, Exported, export_model, check_export
from pipeline.export.proof import DecodeCheckImages, ParityCheck, CheckImages

__all__ = ["FORMATS", "Exported", "DecodeCheckImages", "ParityCheck", "CheckImages", "export_model", "check_export"]
