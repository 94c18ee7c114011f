"""How is the ONNX graph of a head built? Nodes and constants are appended one after the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from pipeline.runtime import OPSET

ML = "ai.onnx.ml"
ML_OPSET = 3  # version of the operators for trees and kernels


class GraphBuilder:
    """An ONNX graph under construction; each method appends a node and returns the name of its output.

    Parameters
    ----------
    source : str
        The name of the input, float32 (n, width).
    width : int
        Number of features.
    """

    def __init__(self, source: str, width: int) -> None:
        self.source, self.width = source, width
        self._nodes: list[onnx.NodeProto] = []
        self._constants: list[onnx.TensorProto] = []
        self._opsets = {"": OPSET, ML: ML_OPSET}

    def node(self, operator: str, *inputs: str, name: str = "", domain: str = "", **attributes: Any) -> str:
        """Append a node with one output, named `name` or by its number."""
        output = name or f"step{len(self._nodes)}"
        self._nodes.append(helper.make_node(operator, list(inputs), [output], domain=domain, **attributes))
        return output

    def nodes(self, operator: str, *inputs: str, count: int, **attributes: Any) -> list[str]:
        """Append a node with several outputs."""
        outputs = [f"step{len(self._nodes)}.{number}" for number in range(count)]
        self._nodes.append(helper.make_node(operator, list(inputs), outputs, **attributes))
        return outputs

    def constant(self, value: Any, kind: Any = np.float32) -> str:
        """Append a constant and return its name."""
        name = f"constant{len(self._constants)}"
        self._constants.append(numpy_helper.from_array(np.array(value, kind), name))
        return name

    def cast(self, source: str, kind: int, *, name: str = "") -> str:
        """Append a conversion to another ONNX type."""
        return self.node("Cast", source, name=name, to=kind)

    def insert(self, graph: onnx.GraphProto) -> None:
        """Append the nodes of another graph; its inputs must be names of this graph."""
        self._nodes += graph.node
        self._constants += graph.initializer

    def model(self, outputs: Mapping[str, tuple[int, list[int | str]]]) -> onnx.ModelProto:
        """Return the model with these outputs, each given as its type and shape."""
        graph = helper.make_graph(
            self._nodes,
            "head",
            [helper.make_tensor_value_info(self.source, TensorProto.FLOAT, ["images", self.width])],
            [helper.make_tensor_value_info(name, *type_and_shape) for name, type_and_shape in outputs.items()],
            self._constants,
        )
        opsets = [helper.make_opsetid(domain, version) for domain, version in self._opsets.items()]
        return helper.make_model(graph, opset_imports=opsets)


def append_steps(draft: GraphBuilder, steps: Sequence[Any], features: str) -> str | None:
    """Append scikit-learn transformers and return the name of their output, double (n, d'); None for unknown ones."""
    from sklearn.decomposition import PCA
    from sklearn.feature_selection import VarianceThreshold
    from sklearn.preprocessing import StandardScaler

    def constant(value: Any) -> str:
        return draft.constant(value, np.float64)

    x = draft.cast(features, TensorProto.DOUBLE)
    for step in steps:
        if type(step) is StandardScaler:
            if step.with_mean:
                x = draft.node("Sub", x, constant(step.mean_))
            if step.with_std:
                x = draft.node("Div", x, constant(step.scale_))
        elif type(step) is VarianceThreshold:
            x = draft.node("Gather", x, draft.constant(np.flatnonzero(step.get_support()), np.int64), axis=1)
        elif type(step) is PCA and not step.whiten:
            x = draft.node("Sub", x, constant(step.mean_))
            x = draft.node("MatMul", x, constant(step.components_.T))
        else:
            return None
    return x
