"""Backbones: the catalogue, their weights, their own preprocessing, their layers by name.

Importing this room, opening the default backbone and asking for its four named layers does not import torch.
"""

from __future__ import annotations

from pipeline.backbone.backbone import NAMED_LAYERS, Backbone
from pipeline.backbone.info import BackboneDescription, BackboneSummary, LayerInfo, WeightsInfo, describe, summaries
from pipeline.backbone.registry import catalogue

__all__ = [
    "NAMED_LAYERS",
    "Backbone",
    "BackboneDescription",
    "BackboneSummary",
    "LayerInfo",
    "WeightsInfo",
    "catalogue",
    "describe",
    "summaries",
]
