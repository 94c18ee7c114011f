"""A head as an ONNX graph, from features to answers.

Linear heads are one layer, neighbours and boosted trees are our own nodes, the others are skl2onnx's. Whatever it was
made from, the graph's outputs are ``label``, ``tags`` or ``value``, and beside it ``probabilities`` or ``scores`` where
the head has them, in the order of the model's classes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto

from pipeline.export import linear
from pipeline.export.converted import append_head
from pipeline.export.draft import GraphBuilder
from pipeline.export.neighbours import knn_graph
from pipeline.export.steps import append_steps
from pipeline.export.trees import tree_ensemble
from pipeline.search import predict_all

FEATURES = "features"
ANSWER = {"class": "label", "multi": "tags", "number": "value"}
PROBABILITIES, SCORES = "probabilities", "scores"


def head_graph(estimator: Any, *, name: str, kind: str, classes: int, width: int, store: str) -> onnx.ModelProto:
    """Return the head's graph, from float32 `features` (n, width) to answers.

    Parameters
    ----------
    estimator : fitted scikit-learn estimator
        Its classes are 0, 1, ..., `classes` - 1.
    name : str
        What tables call it, for errors.
    kind : {"class", "number", "multi"}
    classes : int
        How many there are, or tags.
    width : int
    store : {"fp32", "fp16"}
        The type that the features it learned from went through.

    Raises
    ------
    ExportError
        The head cannot be said in ONNX, or needs skl2onnx, which is not installed.
    """
    draft = GraphBuilder(FEATURES, width)
    features = FEATURES
    if store == "fp16":
        features = draft.cast(draft.cast(FEATURES, TensorProto.FLOAT16), TensorProto.FLOAT)
    sure = _how_sure(estimator, kind, classes, width)
    answer, how_sure = (
        _as_layer(draft, features, estimator, kind, width)
        or _as_neighbours(draft, features, estimator, kind)
        or _as_trees(draft, features, estimator, kind)
        or append_head(draft, features, estimator, name=name, kind=kind, sure=sure)
    )
    plain = TensorProto.FLOAT if kind == "number" else TensorProto.INT64
    draft.cast(answer, plain, name=ANSWER[kind])
    outputs: dict[str, tuple[int, list[int | str]]] = {
        ANSWER[kind]: (plain, ["images", classes] if kind == "multi" else ["images"])
    }
    if sure is not None and how_sure is not None:
        draft.cast(how_sure, TensorProto.FLOAT, name=sure)
        outputs[sure] = (TensorProto.FLOAT, ["images", classes])
    return draft.model(outputs)


def _how_sure(estimator: Any, kind: str, classes: int, width: int) -> str | None:
    """Return what the head gives beside its answer."""
    said = predict_all(estimator, np.zeros((1, width), np.float32), classes, kind)
    if said.probabilities is not None:
        return PROBABILITIES
    return None if said.scores is None else SCORES


def _as_layer(
    draft: GraphBuilder, features: str, estimator: Any, kind: str, width: int
) -> tuple[str, str | None] | None:
    layer = linear.fold(estimator, kind, width)
    if layer is None:
        return None
    outputs = draft.node(
        "Gemm", features, draft.constant(layer.weight), draft.constant(layer.bias), transB=1
    )  # (n, d) -> (n, m)
    return append_answers(draft, outputs, layer.answer, len(layer.bias))


def _as_neighbours(draft: GraphBuilder, features: str, estimator: Any, kind: str) -> tuple[str, str | None] | None:
    steps, last = linear.steps_of(estimator)
    found = knn_graph(last, kind)
    x = None if found is None else append_steps(draft, steps, features)
    if found is None or x is None:
        return None
    share = found.onto(draft, x)
    if kind == "number":
        return append_answers(draft, share, linear.NUMBER, 1)
    if kind == "class":
        return draft.node("ArgMax", share, axis=1, keepdims=0), share
    return draft.node("Greater", share, draft.constant(0.5, np.float64)), share


def _as_trees(draft: GraphBuilder, features: str, estimator: Any, kind: str) -> tuple[str, str | None] | None:
    steps, last = linear.steps_of(estimator)
    found = tree_ensemble(last, kind)
    x = None if found is None else append_steps(draft, steps, features)
    if found is None or x is None:
        return None
    return append_answers(draft, found.onto(draft, x), found.answer, 0)


def append_answers(draft: GraphBuilder, outputs: str, answer: str, count: int) -> tuple[str, str | None]:
    """Append what makes answers of a layer's outputs, (n, count); return the names of the answer and of how sure it is.

    See `linear` for what each kind of answer means.
    """
    if answer == linear.NUMBER:
        return draft.node("Reshape", outputs, draft.constant([-1], np.int64)), None
    if answer in (linear.TAGS, linear.TAG_SCORES):
        there = draft.node("Greater", outputs, draft.constant(0.0))
        return there, draft.node("Sigmoid", outputs) if answer == linear.TAGS else outputs
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
