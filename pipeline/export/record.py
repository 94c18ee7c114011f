"""Which models can be exported, and which metadata does an export contain?"""

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
    """The attributes of a model that an export needs; `pipeline.model.Model` has them."""

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
    """Return the metadata of an exported model as plain JSON values."""
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
    """Raise `ExportError` for a model whose predictions no exported network can reproduce.

    Exported networks compute in fp32, and their outputs are in the order of the head's classes.
    """
    precision = str(model.recipe["precision"])
    if precision != "fp32":
        raise ExportError(
            f"expected a head that was trained on fp32 features, which exported networks compute, got {precision}",
            "fit again with --precision fp32",
        )
    trained = getattr(model.estimator, "classes_", None)
    if model.kind == "class" and trained is not None and list(trained) != list(range(len(model.classes))):
        raise ExportError(
            f"head {model.head!r}: expected a head trained on all {len(model.classes)} classes, got {len(trained)}",
            "fit again on photos of every class",
        )
