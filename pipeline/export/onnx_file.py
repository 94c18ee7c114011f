"""Backbone and head as one ONNX file: uint8 images in, answers out, its classes and its origin in the metadata."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import compose
from PIL import Image

from pipeline.backbone import Backbone
from pipeline.backbone.graph_file import INPUT, OUTPUTS
from pipeline.errors import ExportError
from pipeline.export.head_graph import FEATURES, head_graph
from pipeline.export.record import ExportSpec, record_of
from pipeline.images import rgb
from pipeline.progress import Progress
from pipeline.runtime.graph_export import LARGEST, NotExportable, export_graph
from pipeline.runtime.graph_store import OPSET
from pipeline.runtime.telemetry import no_telemetry

_HEAD = "head/"


def onnx_model(model: ExportSpec, progress: Progress) -> onnx.ModelProto:
    """Return backbone and head as one ONNX model.

    Raises
    ------
    ExportError
        The backbone or the head cannot be said in ONNX.
    """
    backbone, layer = model.backbone, model.layer
    width = backbone.resolve_layers([layer])[layer]
    head = head_graph(
        model.estimator,
        name=model.head,
        kind=model.kind,
        classes=len(model.classes),
        width=width,
        store=str(model.recipe["store"]),
    )
    progress.note(f"exporting {backbone.name}: some seconds")
    if backbone.is_graph:
        return _finished(_own_graph(backbone, layer), head, layer)
    try:
        graph, _ = export_graph(backbone, [layer])
    except NotExportable as error:
        raise ExportError(
            f"wanted {backbone.name} as an ONNX graph, found that it cannot be one ({error})", "--format torch"
        ) from error
    return _finished(onnx.load_model_from_string(graph), head, layer)


def _own_graph(backbone: Backbone, layer: str) -> onnx.ModelProto:
    """Return the graph of a person's own network with this layer alone, and nothing that it said of itself."""
    body = onnx.load_model_from_string(backbone.read_graph())
    version = next((opset.version for opset in body.opset_import if not opset.domain), None)
    if version != OPSET:
        raise ExportError(
            f"{backbone.name}: wanted ONNX operators of version {OPSET}, as those of the heads are, found {version}",
            "save the network with pl.save_backbone, and fit again",
        )
    del body.metadata_props[:]
    for output in [one for one in body.graph.output if one.name != f"{OUTPUTS}{layer}"]:
        body.graph.output.remove(output)
    return body


def _finished(body: onnx.ModelProto, head: onnx.ModelProto, layer: str) -> onnx.ModelProto:
    head = compose.add_prefix(head, _HEAD, rename_inputs=True, rename_outputs=False)
    whole = _joined(body, head, f"{OUTPUTS}{layer}")
    if whole.ByteSize() > LARGEST:
        raise ExportError(
            f"wanted an ONNX file, which holds 2 GB at most, found {whole.ByteSize() / 1e9:.1f} GB",
            "fit with another head: the nearest neighbours keep every training photo's features",
        )
    onnx.checker.check_model(whole)
    return whole


def _joined(body: onnx.ModelProto, head: onnx.ModelProto, features: str) -> onnx.ModelProto:
    """Return the two as one: the body's `features` are what the head looks at."""
    head.ir_version = body.ir_version
    theirs = {opset.domain: opset.version for opset in body.opset_import}
    for opset in head.opset_import:
        opset.version = theirs.get(opset.domain, opset.version)
    return compose.merge_models(
        body, head, io_map=[(features, f"{_HEAD}{FEATURES}")], producer_name="transfer-pipeline"
    )


def describe(whole: onnx.ModelProto, model: ExportSpec) -> None:
    """Write into the metadata what the model is; texts as they are, everything else as JSON."""
    for name, value in record_of(model).items():
        entry = whole.metadata_props.add()
        entry.key, entry.value = name, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def reader(whole: onnx.ModelProto) -> Callable[[bytes], np.ndarray]:
    """Return what makes pixels of a photo's file, by the preprocessing that the ONNX file's own metadata give."""
    how = json.loads(next(entry.value for entry in whole.metadata_props if entry.key == "preprocessing"))

    def read(data: bytes) -> np.ndarray:
        with Image.open(BytesIO(data)) as photo:
            return rgb.square(rgb.upright_rgb(photo), how["resize"], how["crop"], how["interpolation"])

    return read


def runner(path: Path) -> Callable[[np.ndarray], Mapping[str, Any]]:
    """Return what runs an ONNX file on uint8 images, as anybody would with ONNX Runtime alone."""
    with no_telemetry():
        import onnxruntime
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return lambda pixels: dict(zip(names, session.run(names, {INPUT: pixels}), strict=True))
