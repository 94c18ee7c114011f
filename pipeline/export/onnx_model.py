"""How do backbone and head become one ONNX file? It maps uint8 images to predictions; metadata name the classes."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, compose
from PIL import Image

from pipeline.backbone import INPUT, OUTPUTS, Backbone
from pipeline.errors import ExportError
from pipeline.export import linear
from pipeline.export.graph_builder import GraphBuilder, append_steps
from pipeline.export.onnx_heads import append_head, knn_graph, tree_ensemble
from pipeline.export.record import ExportSpec, record_of
from pipeline.images import rgb
from pipeline.progress import Progress
from pipeline.runtime import OPSET, no_telemetry
from pipeline.runtime.onnx_export import LARGEST, NotExportable, export_graph
from pipeline.search import predict_all

FEATURES = "features"
ANSWER = {"class": "label", "multi": "tags", "number": "value"}
PROBABILITIES, SCORES = "probabilities", "scores"


def head_graph(estimator: Any, *, name: str, kind: str, classes: int, width: int, store: str) -> onnx.ModelProto:
    """Return the head's graph, from float32 `features` (n, width) to predictions.

    Parameters
    ----------
    estimator : fitted scikit-learn estimator
        Its classes are 0, 1, ..., `classes` - 1.
    name : str
        The name of the head, for errors.
    kind : {"class", "number", "multi"}
    classes : int
        Number of classes or tags.
    width : int
    store : {"fp32", "fp16"}
        The type that the training features were stored in.

    Raises
    ------
    ExportError
        The head cannot be converted to ONNX, or needs skl2onnx, which is not installed.
    """
    draft = GraphBuilder(FEATURES, width)
    features = FEATURES
    if store == "fp16":
        features = draft.cast(draft.cast(FEATURES, TensorProto.FLOAT16), TensorProto.FLOAT)
    confidence_name = _confidence_name(estimator, kind, classes, width)
    prediction, confidence = (
        _append_layer(draft, features, estimator, kind, width)
        or _append_neighbours(draft, features, estimator, kind)
        or _append_trees(draft, features, estimator, kind)
        or append_head(draft, features, estimator, name=name, kind=kind, sure=confidence_name)
    )
    plain = TensorProto.FLOAT if kind == "number" else TensorProto.INT64
    draft.cast(prediction, plain, name=ANSWER[kind])
    outputs: dict[str, tuple[int, list[int | str]]] = {
        ANSWER[kind]: (plain, ["images", classes] if kind == "multi" else ["images"])
    }
    if confidence_name is not None and confidence is not None:
        draft.cast(confidence, TensorProto.FLOAT, name=confidence_name)
        outputs[confidence_name] = (TensorProto.FLOAT, ["images", classes])
    return draft.model(outputs)


def _confidence_name(estimator: Any, kind: str, classes: int, width: int) -> str | None:
    """Return the name of the second output, probabilities or scores; None if the head has neither."""
    predictions = predict_all(estimator, np.zeros((1, width), np.float32), classes, kind)
    if predictions.probabilities is not None:
        return PROBABILITIES
    return None if predictions.scores is None else SCORES


def _append_layer(
    draft: GraphBuilder, features: str, estimator: Any, kind: str, width: int
) -> tuple[str, str | None] | None:
    layer = linear.fold(estimator, kind, width)
    if layer is None:
        return None
    outputs = draft.node(
        "Gemm", features, draft.constant(layer.weight), draft.constant(layer.bias), transB=1
    )  # (n, d) -> (n, m)
    return append_answers(draft, outputs, layer.answer, len(layer.bias))


def _append_neighbours(draft: GraphBuilder, features: str, estimator: Any, kind: str) -> tuple[str, str | None] | None:
    steps, last = linear.steps_of(estimator)
    found = knn_graph(last, kind)
    x = None if found is None else append_steps(draft, steps, features)
    if found is None or x is None:
        return None
    share = found.append_to(draft, x)
    if kind == "number":
        return append_answers(draft, share, linear.NUMBER, 1)
    if kind == "class":
        return draft.node("ArgMax", share, axis=1, keepdims=0), share
    return draft.node("Greater", share, draft.constant(0.5, np.float64)), share


def _append_trees(draft: GraphBuilder, features: str, estimator: Any, kind: str) -> tuple[str, str | None] | None:
    steps, last = linear.steps_of(estimator)
    found = tree_ensemble(last, kind)
    x = None if found is None else append_steps(draft, steps, features)
    if found is None or x is None:
        return None
    return append_answers(draft, found.append_to(draft, x), found.answer, 0)


def append_answers(draft: GraphBuilder, outputs: str, answer: str, count: int) -> tuple[str, str | None]:
    """Append the step from a layer's outputs, (n, count), to predictions; return the names of the prediction and of
    the probabilities or scores.

    `linear` explains each kind of `answer`.
    """
    if answer == linear.NUMBER:
        return draft.node("Reshape", outputs, draft.constant([-1], np.int64)), None
    if answer in (linear.TAGS, linear.TAG_SCORES):
        present = draft.node("Greater", outputs, draft.constant(0.0))
        return present, draft.node("Sigmoid", outputs) if answer == linear.TAGS else outputs
    if answer == linear.NEAREST:
        half = draft.constant([count // 2, count // 2], np.int64)
        outputs, scored = draft.nodes("Split", outputs, half, count=2, axis=1)
    else:
        scored = outputs
    best = draft.node("ArgMax", outputs, axis=1, keepdims=0)
    if answer == linear.SCORES:
        return best, scored
    if answer == linear.ONE_VS_REST:
        each = draft.node("Sigmoid", scored)
        return best, draft.node("Div", each, draft.node("ReduceSum", each, draft.constant([1], np.int64)))
    return best, draft.node("Softmax", scored, axis=1)


_HEAD = "head/"


def onnx_model(model: ExportSpec, progress: Progress) -> onnx.ModelProto:
    """Return backbone and head as one ONNX model.

    Raises
    ------
    ExportError
        The backbone or the head cannot be converted to ONNX.
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
    progress.note(f"exporting {backbone.name}: takes some seconds")
    if backbone.is_graph:
        return _merge_and_check(_user_graph(backbone, layer), head, layer)
    try:
        graph, _ = export_graph(backbone, [layer])
    except NotExportable as error:
        raise ExportError(
            f"expected a backbone that can be converted to ONNX, got {backbone.name} ({error})", "--format torch"
        ) from error
    return _merge_and_check(onnx.load_model_from_string(graph), head, layer)


def _user_graph(backbone: Backbone, layer: str) -> onnx.ModelProto:
    """Return the graph of a user's own network with this layer as its only output, and without its metadata."""
    body = onnx.load_model_from_string(backbone.read_graph())
    version = next((opset.version for opset in body.opset_import if not opset.domain), None)
    if version != OPSET:
        raise ExportError(
            f"{backbone.name}: expected ONNX operators of version {OPSET}, which the heads use, got {version}",
            "save the network with pl.save_backbone, and fit again",
        )
    del body.metadata_props[:]
    for output in [entry for entry in body.graph.output if entry.name != f"{OUTPUTS}{layer}"]:
        body.graph.output.remove(output)
    return body


def _merge_and_check(body: onnx.ModelProto, head: onnx.ModelProto, layer: str) -> onnx.ModelProto:
    head = compose.add_prefix(head, _HEAD, rename_inputs=True, rename_outputs=False)
    whole = _merge(body, head, f"{OUTPUTS}{layer}")
    if whole.ByteSize() > LARGEST:
        raise ExportError(
            f"expected an ONNX file of at most 2 GB, the limit of the format, got {whole.ByteSize() / 1e9:.1f} GB",
            "fit with another head: knn stores the features of every training photo",
        )
    onnx.checker.check_model(whole)
    return whole


def _merge(body: onnx.ModelProto, head: onnx.ModelProto, features: str) -> onnx.ModelProto:
    """Return both graphs as one: the body's output `features` becomes the head's input."""
    head.ir_version = body.ir_version
    body_versions = {opset.domain: opset.version for opset in body.opset_import}
    for opset in head.opset_import:
        opset.version = body_versions.get(opset.domain, opset.version)
    return compose.merge_models(
        body, head, io_map=[(features, f"{_HEAD}{FEATURES}")], producer_name="transfer-pipeline"
    )


def describe(whole: onnx.ModelProto, model: ExportSpec) -> None:
    """Write the model's record into the metadata: texts unchanged, other values as JSON."""
    for name, value in record_of(model).items():
        entry = whole.metadata_props.add()
        entry.key, entry.value = name, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def reader(whole: onnx.ModelProto) -> Callable[[bytes], np.ndarray]:
    """Return a function from a photo's file to pixels, with the preprocessing in the ONNX file's metadata."""
    preprocessing = json.loads(next(entry.value for entry in whole.metadata_props if entry.key == "preprocessing"))

    def read(data: bytes) -> np.ndarray:
        with Image.open(BytesIO(data)) as photo:
            return rgb.square(
                rgb.upright_rgb(photo), preprocessing["resize"], preprocessing["crop"], preprocessing["interpolation"]
            )

    return read


def runner(path: Path) -> Callable[[np.ndarray], Mapping[str, Any]]:
    """Return a function that runs an ONNX file on uint8 images with ONNX Runtime, without code of this package."""
    with no_telemetry():
        import onnxruntime
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return lambda pixels: dict(zip(names, session.run(names, {INPUT: pixels}), strict=True))
