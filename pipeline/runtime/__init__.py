"""Runtimes: run a backbone's network on batches of prepared images; one module per library."""

from __future__ import annotations

from pipeline.runtime.base import (
    GRAPHS_FOLDER,
    PRECISIONS,
    Runtime,
    batch_size_of,
    has_bf16,
)
from pipeline.runtime.graph_cache import StoredGraph, remove_unused_graphs, stored_graphs
from pipeline.runtime.open import devices_of, open_runtime, runtime_name

__all__ = [
    "GRAPHS_FOLDER",
    "PRECISIONS",
    "Runtime",
    "StoredGraph",
    "batch_size_of",
    "devices_of",
    "has_bf16",
    "open_runtime",
    "remove_unused_graphs",
    "runtime_name",
    "stored_graphs",
]
