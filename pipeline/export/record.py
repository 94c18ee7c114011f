"""What is exported, and what an exported model says of itself."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Protocol

import numpy as np

from pipeline.backbone import Backbone
from pipeline.errors import ExportError
from pipeline.provenance import installed

FORMAT = 1
KIND = "transfer-pipeline export"


class ExportSpec(Protocol):
    """What an export needs of a model; `pipeline.model.Model` is one."""

    @property
    def label_set(self) -> str: ...
    @property
    def kind(self) -> str: ...
    @property
    def classes(self) -> tuple[str, ...]: ...
    @property
    def head(self) -> str: ...
    @property
    def estimator(self) -> Any: ...
    @property
    def params(self) -> Mapping[str, Any]: ...
    @property
    def layer(self) -> str: ...
    @property
    def backbone(self) -> Backbone: ...
    @property
    def recipe(self) -> Mapping[str, Any]: ...
    @property
    def training_digests(self) -> np.ndarray: ...
    @property
    def verdict(self) -> str: ...
    @property
    def versions(self) -> Mapping[str, str]: ...
    @property
    def separator(self) -> str: ...


def record_of(model: ExportSpec) -> dict[str, Any]:
    """Return what the exported model says of itself, as plain JSON values."""
    preprocessing = asdict(model.backbone.preprocessing)
    return {
        "kind": KIND,
        "format": FORMAT,
        "label_set": model.label_set,
        "task": model.kind,
        "classes": list(model.classes),
        **({"separator": model.separator} if model.kind == "multi" else {}),
        "preprocessing": {**preprocessing, "mean": list(preprocessing["mean"]), "std": list(preprocessing["std"])},
        "provenance": {
            "backbone": model.backbone.name,
            "weights": model.backbone.weights,
            "weights_sha256": model.backbone.weights_sha256,
            "layer": model.layer,
            "head": model.head,
            "params": dict(model.params),
            "decoder": model.recipe["decoder"],
            "photo_rules": model.recipe["photo_rules"],
            "training_images": len(model.training_digests),
            "training_sha256": hashlib.sha256(np.ascontiguousarray(model.training_digests).tobytes()).hexdigest(),
            "verdict": model.verdict,
            "fitted_with": dict(model.versions),
            "exported_with": {name: installed(name) for name in ("transfer-pipeline", "torch", "torchvision", "onnx")},
        },
    }


def check_exportable(model: ExportSpec) -> None:
    """Raise `ExportError` for a model whose answers no exported network could give.

    Exported networks compute in fp32, and their outputs stand in the order of the head's own classes.
    """
    precision = str(model.recipe["precision"])
    if precision != "fp32":
        raise ExportError(
            f"expected a head that learned from fp32 features, as the exported network makes them, got {precision}: "
            "it would answer otherwise than `pipeline predict`",
            "fit again with --precision fp32",
        )
    seen = getattr(model.estimator, "classes_", None)
    if model.kind == "class" and seen is not None and list(seen) != list(range(len(model.classes))):
        raise ExportError(
            f"head {model.head!r}: expected one that learned all {len(model.classes)} classes, got {len(seen)} of them",
            "fit again on photos of every class",
        )
