"""Backbones: the catalogue, and the weights, preprocessing and layers of each network.

Importing this package does not import torch; neither does opening the default backbone or reading the names and widths
of its four named layers.
"""

from __future__ import annotations

from pipeline.backbone.backbone import NAMED_LAYERS, Backbone
from pipeline.backbone.info import BackboneDescription, BackboneSummary, LayerInfo, WeightsInfo, describe, summaries
from pipeline.backbone.onnx_backbone import (
    ENDING,
    INPUT,
    OUTPUTS,
    check_preprocessing,
    is_graph_file,
    three_numbers,
    write_graph_file,
)
from pipeline.backbone.registry import catalogue, hash_prefix
from pipeline.backbone.weights import file_sha256

__all__ = [
    "ENDING",
    "INPUT",
    "NAMED_LAYERS",
    "OUTPUTS",
    "Backbone",
    "BackboneDescription",
    "BackboneSummary",
    "LayerInfo",
    "WeightsInfo",
    "catalogue",
    "check_preprocessing",
    "describe",
    "file_sha256",
    "hash_prefix",
    "is_graph_file",
    "summaries",
    "three_numbers",
    "write_graph_file",
]
