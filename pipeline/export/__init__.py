"""How is a model exported to ONNX or plain torch, and how is it checked that the export predicts the same?"""

from __future__ import annotations

from pipeline.export.api import FORMATS, Exported, check_export, export_model
from pipeline.export.verify import CheckImages, DecodeCheckImages, ParityCheck

__all__ = ["FORMATS", "CheckImages", "DecodeCheckImages", "Exported", "ParityCheck", "check_export", "export_model"]
