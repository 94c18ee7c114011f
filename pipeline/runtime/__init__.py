"""Runtimes: run a backbone's network on batches of prepared images.

`open_runtime` chooses among ONNX Runtime, OpenVINO and torch; importing this package loads none of them.
"""

from __future__ import annotations

from pipeline.runtime.base import (
    GRAPHS_FOLDER,
    PRECISIONS,
    Runtime,
    batch_size_of,
    cores,
    has_bf16,
    has_openvino_bf16,
    may_have_gpu,
    no_telemetry,
)
from pipeline.runtime.graph_cache import OPSET, StoredGraph, remove_unused_graphs, stored_graphs
from pipeline.runtime.open import devices_of, emulates, open_runtime, runtime_name

__all__ = [
    "GRAPHS_FOLDER",
    "OPSET",
    "PRECISIONS",
    "Runtime",
    "StoredGraph",
    "batch_size_of",
    "cores",
    "devices_of",
    "emulates",
    "has_bf16",
    "has_openvino_bf16",
    "may_have_gpu",
    "no_telemetry",
    "open_runtime",
    "remove_unused_graphs",
    "runtime_name",
    "stored_graphs",
]
