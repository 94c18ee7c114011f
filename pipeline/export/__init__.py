"""Backbone and head as one model that runs elsewhere, in ONNX or in plain torch, with the proof that it is the same."""

from __future__ import annotations

from pipeline.export.api import FORMATS, Exported, check_export, export_model
from pipeline.export.verify import CheckImages, DecodeCheckImages, ParityCheck

__all__ = ["FORMATS", "CheckImages", "DecodeCheckImages", "Exported", "ParityCheck", "check_export", "export_model"]
