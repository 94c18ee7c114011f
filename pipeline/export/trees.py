"""Histogram gradient boosting as one ONNX tree ensemble.

skl2onnx 1.20 cannot write it for onnx 1.23: it gives truth values where onnx takes integers alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from onnx import numpy_helper

from pipeline.export.draft import ML, GraphBuilder
from pipeline.export.linear import NUMBER, SOFTMAX


@dataclass(frozen=True, eq=False)
class TreeEnsemble:
    """Boosted trees.

    Attributes
    ----------
    predictors : list of list of TreePredictor
        A round, and in it a tree an output.
    baseline : ndarray of float64, shape (k,)
        What the outputs start from.
    answer : str
    """

    predictors: list[list[Any]]
    baseline: np.ndarray
    answer: str

    def onto(self, draft: GraphBuilder, x: str) -> str:
        """Append the trees on double (n, d') and return the name of their outputs, (n, k); two classes have two."""
        raw = draft.node("TreeEnsembleRegressor", x, domain=ML, **self._attributes())
        raw = draft.node("Add", raw, draft.constant(self.baseline))
        if self.answer == SOFTMAX and len(self.baseline) == 1:
            return draft.node("MatMul", raw, draft.constant([[-0.5, 0.5]]))  # sigmoid(z) is softmax(-z / 2, z / 2)
        return raw

    def _attributes(self) -> dict[str, Any]:
        """Return the ensemble as ONNX has it: every column a list over the nodes of all trees."""
        trees = [(output, tree.nodes) for round_ in self.predictors for output, tree in enumerate(round_)]
        nodes = np.concatenate([tree for _, tree in trees])
        tree_of = np.repeat(np.arange(len(trees)), [len(tree) for _, tree in trees])
        number = np.concatenate([np.arange(len(tree)) for _, tree in trees])
        output = np.array([output for output, _ in trees])[tree_of]
        leaf = nodes["is_leaf"].astype(bool)
        integers = {
            "nodes_treeids": tree_of,
            "nodes_nodeids": number,
            "nodes_featureids": np.where(leaf, 0, nodes["feature_idx"]),
            "nodes_truenodeids": np.where(leaf, 0, nodes["left"]),
            "nodes_falsenodeids": np.where(leaf, 0, nodes["right"]),
            "nodes_missing_value_tracks_true": np.where(leaf, 0, nodes["missing_go_to_left"]),
            "target_treeids": tree_of[leaf],
            "target_nodeids": number[leaf],
            "target_ids": output[leaf],
        }
        doubles = {
            "nodes_values_as_tensor": np.where(leaf, 0.0, nodes["num_threshold"]),
            "target_weights_as_tensor": nodes["value"][leaf],
        }
        return {
            **{name: [int(value) for value in values] for name, values in integers.items()},
            **{name: numpy_helper.from_array(values.astype(np.float64)) for name, values in doubles.items()},
            "nodes_modes": ["LEAF" if end else "BRANCH_LEQ" for end in leaf],
            "n_targets": len(self.baseline),
        }


def tree_ensemble(head: Any, kind: str) -> TreeEnsemble | None:
    """Return a bare head as trees; None where it is something else, or something that they do not cover."""
    from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

    boosting = HistGradientBoostingRegressor if kind == "number" else HistGradientBoostingClassifier
    loss = "squared_error" if kind == "number" else "log_loss"
    if type(head) is not boosting or head.loss != loss or head.is_categorical_ is not None:
        return None
    baseline = np.ravel(np.asarray(head._baseline_prediction, np.float64))
    return TreeEnsemble(head._predictors, baseline, NUMBER if kind == "number" else SOFTMAX)
