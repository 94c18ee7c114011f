"""An ONNX graph in the making: nodes and constants, one after the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from pipeline.runtime import OPSET

ML = "ai.onnx.ml"
ML_OPSET = 3  # of the operators for trees, kernels and the like


class GraphBuilder:
    """Each step appends a node and returns the name of what it gives.

    Parameters
    ----------
    source : str
        The name of the input, float32 (n, width).
    width : int
    """

    def __init__(self, source: str, width: int) -> None:
        self.source, self.width = source, width
        self._nodes: list[onnx.NodeProto] = []
        self._constants: list[onnx.TensorProto] = []
        self._opsets = {"": OPSET, ML: ML_OPSET}

    def node(self, operator: str, *inputs: str, name: str = "", domain: str = "", **attributes: Any) -> str:
        """Append a node of one output, called `name` or by its number."""
        output = name or f"step{len(self._nodes)}"
        self._nodes.append(helper.make_node(operator, list(inputs), [output], domain=domain, **attributes))
        return output

    def nodes(self, operator: str, *inputs: str, count: int, **attributes: Any) -> list[str]:
        """Append a node of several outputs."""
        outputs = [f"step{len(self._nodes)}.{number}" for number in range(count)]
        self._nodes.append(helper.make_node(operator, list(inputs), outputs, **attributes))
        return outputs

    def constant(self, value: Any, kind: Any = np.float32) -> str:
        name = f"constant{len(self._constants)}"
        self._constants.append(numpy_helper.from_array(np.array(value, kind), name))
        return name

    def cast(self, what: str, kind: int, *, name: str = "") -> str:
        return self.node("Cast", what, name=name, to=kind)

    def insert(self, graph: onnx.GraphProto) -> None:
        """Append all of another graph; its inputs are to be names that this one gives."""
        self._nodes += graph.node
        self._constants += graph.initializer

    def model(self, outputs: Mapping[str, tuple[int, list[int | str]]]) -> onnx.ModelProto:
        """Return the model whose outputs are those named, each with its type and shape."""
        graph = helper.make_graph(
            self._nodes,
            "head",
            [helper.make_tensor_value_info(self.source, TensorProto.FLOAT, ["images", self.width])],
            [helper.make_tensor_value_info(name, *what) for name, what in outputs.items()],
            self._constants,
        )
        opsets = [helper.make_opsetid(domain, version) for domain, version in self._opsets.items()]
        return helper.make_model(graph, opset_imports=opsets)


def append_steps(draft: GraphBuilder, steps: Sequence[Any], features: str) -> str | None:
    """Append the steps and return the name of what they make of features, double (n, d'); None for unknown steps."""
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
