"""How is a head that is not linear written in ONNX? Neighbours and boosted trees here, other heads by skl2onnx."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, compose, numpy_helper

from pipeline.errors import ExportError
from pipeline.export.graph_builder import ML, ML_OPSET, GraphBuilder
from pipeline.export.linear import NUMBER, SOFTMAX, steps_of, without_target_scaling
from pipeline.runtime import OPSET, no_telemetry

INSTALL = "pip install 'transfer-pipeline[export]'"
PREFIX = "skl2onnx/"


def append_head(
    draft: GraphBuilder, features: str, estimator: Any, *, name: str, kind: str, sure: str | None
) -> tuple[str, str | None]:
    """Append the head as skl2onnx converts it; return the names of its prediction and of its probabilities or scores.

    Parameters
    ----------
    draft : GraphBuilder
    features : str
        Float32 (n, d).
    estimator : fitted scikit-learn estimator
    name : str
        The head's name, for errors.
    kind : {"class", "number", "multi"}
    sure : {"probabilities", "scores", None}
        What the head returns besides its prediction.

    Returns
    -------
    answer : str
        Classes (n,), tags (n, c) or numbers (n,).
    sure : str or None
        (n, c), of any floating type.

    Raises
    ------
    ExportError
        skl2onnx is not installed, or cannot convert the head.
    """
    estimator, scale, shift = without_target_scaling(estimator)  # skl2onnx cannot convert target scaling
    model, outputs_for_zeros = _convert(estimator, name, draft.width, kind, sure)
    model = compose.add_prefix(model, PREFIX)
    (source,) = model.graph.input
    draft.cast(features, source.type.tensor_type.elem_type, name=source.name)
    draft.insert(model.graph)
    outputs = [output.name for output in model.graph.output]
    if kind == "number":
        value = draft.cast(draft.node("Reshape", outputs[0], draft.constant([-1], np.int64)), TensorProto.DOUBLE)
        value = draft.node("Mul", value, draft.constant(scale, np.float64))
        return draft.node("Add", value, draft.constant(shift, np.float64)), None
    if sure is None or len(outputs) < 2:
        return outputs[0], None
    return outputs[0], _append_confidence(draft, outputs[1], outputs_for_zeros[1], estimator)


def _convert(
    estimator: Any, name: str, width: int, kind: str, sure: str | None
) -> tuple[onnx.ModelProto, list[np.ndarray]]:
    """Return skl2onnx's model, and its outputs for two rows of zeros."""
    try:
        import skl2onnx
        from skl2onnx.common.data_types import DoubleTensorType, FloatTensorType
    except ImportError as error:
        raise ExportError(
            f"head {name!r}: expected skl2onnx to convert it to ONNX, but it is not installed", INSTALL
        ) from error
    options = {"zipmap": False, **({"raw_scores": True} if sure == "scores" else {})}
    # The last bits decide ties and the branches of trees, so double is tried first; some converters support only float.
    for type_of, dtype in ((DoubleTensorType, np.float64), (FloatTensorType, np.float32)):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # skl2onnx reads attributes that scikit-learn deprecates
                model = skl2onnx.to_onnx(
                    estimator,
                    initial_types=[("features", type_of([None, width]))],
                    options=None if kind == "number" else {id(estimator): options},
                    target_opset={"": OPSET, ML: ML_OPSET},
                )
            return model, _run(model, np.zeros((2, width), dtype))
        except Exception as error:  # skl2onnx and ONNX Runtime raise many types without a common base class
            reason = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0][:200]}"
    raise _cannot_convert(name, f"skl2onnx {skl2onnx.__version__} fails ({reason})")


def _run(model: onnx.ModelProto, X: np.ndarray) -> list[np.ndarray]:
    with no_telemetry():
        import onnxruntime
    options = onnxruntime.SessionOptions()
    options.log_severity_level = (
        3  # errors only: for tags skl2onnx declares wrong shapes, which ONNX Runtime warns about
    )
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, {"features": X})


def _append_confidence(draft: GraphBuilder, output: str, example: np.ndarray, estimator: Any) -> str:
    """Append the conversion of skl2onnx's second output to one column per class or tag; return its name."""
    from sklearn.svm import SVC

    if example.ndim == 3:  # tags, (c, n, 2): the probabilities of absent and present
        present = draft.node("Gather", output, draft.constant(1, np.int64), axis=2)
        return draft.node("Transpose", present, perm=[1, 0])
    if example.shape[1] == 1:  # two classes: one signed distance
        return draft.node("Concat", draft.node("Neg", output), output, axis=1)
    if type(steps_of(estimator)[1]) is SVC and example.shape[1] == 2:  # its two columns have the opposite sign
        return draft.node("Neg", output)
    return output


def _cannot_convert(name: str, reason: str) -> ExportError:
    return ExportError(
        f"head {name!r}: expected a head that can be converted to ONNX, got one that cannot: {reason}",
        "fit with a head that folds into one layer: --head logistic, or ridge for numbers",
    )


@dataclass(frozen=True, eq=False)
class KnnGraph:
    """A nearest-neighbour head as a graph: the training rows and their votes.

    Attributes
    ----------
    rows : ndarray of float32, shape (m, d')
        The output of the steps before the head.
    votes : ndarray of float64, shape (m, c)
        One column per class or tag, 1 if the row has it; or one column of numbers.
    k : int
    by_distance : bool
        Whether votes are weighted by one over the distance.
    """

    rows: np.ndarray
    votes: np.ndarray
    k: int
    by_distance: bool

    def append_to(self, draft: GraphBuilder, x: str) -> str:
        """Append the vote for double (n, d') and return its name, double (n, c)."""
        rows = draft.cast(draft.constant(self.rows), TensorProto.DOUBLE)
        last, minus_two = draft.constant([1], np.int64), draft.constant(-2.0, np.float64)
        x_squared = draft.node("ReduceSum", draft.node("Mul", x, x), last)  # (n, 1)
        rows_squared = draft.constant((self.rows.astype(np.float64) ** 2).sum(axis=1), np.float64)
        crossed = draft.node("MatMul", x, draft.node("Transpose", rows, perm=[1, 0]))
        # |x - r|^2 = -2 x.r + |x|^2 + |r|^2
        product = draft.node("Mul", crossed, minus_two)
        squares = draft.node("Add", draft.node("Add", product, x_squared), rows_squared)  # (n, m)
        nearest, indices = draft.nodes("TopK", squares, draft.constant([self.k], np.int64), count=2, largest=0, axis=1)
        votes = draft.node("Gather", draft.constant(self.votes, np.float64), indices)  # (n, k, c)
        if not self.by_distance:
            return draft.node("ReduceMean", votes, last, keepdims=0)
        weights = self._append_weights(draft, nearest)
        share = draft.node("Div", weights, draft.node("ReduceSum", weights, last))
        share = draft.node("Unsqueeze", share, draft.constant([2], np.int64))  # (n, k) -> (n, k, 1)
        return draft.node("ReduceSum", draft.node("Mul", votes, share), last, keepdims=0)

    def _append_weights(self, draft: GraphBuilder, squares: str) -> str:
        """Append the weights of the votes, (n, k) -> (n, k): one over the distance.

        If any distance is zero, the rows at distance zero get weight one and the others zero, as in scikit-learn.
        """
        zero, unit = draft.constant(0.0, np.float64), draft.constant(1.0, np.float64)
        is_zero = draft.node("LessOrEqual", squares, zero)  # rounding may give negative squares
        same = draft.cast(is_zero, TensorProto.DOUBLE)
        any_same = draft.node("Greater", draft.node("ReduceMax", same, draft.constant([1], np.int64)), zero)
        safe = draft.node("Where", is_zero, unit, squares)  # no division by zero
        return draft.node("Where", any_same, same, draft.node("Div", unit, draft.node("Sqrt", safe)))


def knn_graph(head: Any, kind: str) -> KnnGraph | None:
    """Return a bare nearest-neighbour head as a graph; None for other heads and other distances."""
    from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor

    if type(head) is not (KNeighborsRegressor if kind == "number" else KNeighborsClassifier):
        return None
    if head.effective_metric_ != "euclidean" or head.weights not in ("uniform", "distance"):
        return None
    rows, y = np.asarray(head._fit_X, np.float32), np.asarray(head._y)
    if kind == "number":
        votes = y.reshape(len(rows), -1).astype(np.float64)
    elif kind == "class":
        votes = np.eye(len(head.classes_))[y]
    else:
        votes = np.column_stack([np.asarray(seen)[codes] == 1 for seen, codes in zip(head.classes_, y.T, strict=True)])
    return KnnGraph(rows, votes.astype(np.float64), head.n_neighbors, head.weights == "distance")


@dataclass(frozen=True, eq=False)
class TreeEnsemble:
    """A boosting head as a graph of trees.

    Attributes
    ----------
    predictors : list of list of TreePredictor
        One list per boosting iteration, in it one tree per output.
    baseline : ndarray of float64, shape (k,)
        The initial value of each output.
    answer : str
        As for `LinearLayer`.
    """

    predictors: list[list[Any]]
    baseline: np.ndarray
    answer: str

    def append_to(self, draft: GraphBuilder, x: str) -> str:
        """Append the trees for double (n, d') and return the name of their outputs, (n, k); (n, 2) for two classes."""
        raw = draft.node("TreeEnsembleRegressor", x, domain=ML, **self._attributes())
        raw = draft.node("Add", raw, draft.constant(self.baseline))
        if self.answer == SOFTMAX and len(self.baseline) == 1:
            return draft.node("MatMul", raw, draft.constant([[-0.5, 0.5]]))  # sigmoid(z) is softmax(-z / 2, z / 2)
        return raw

    def _attributes(self) -> dict[str, Any]:
        """Return the attributes of ONNX's TreeEnsembleRegressor: lists over the nodes of all trees."""
        trees = [(output, tree.nodes) for iteration in self.predictors for output, tree in enumerate(iteration)]
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
    """Return a bare boosting head as a graph; None for other heads, other losses and categorical features."""
    from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

    boosting = HistGradientBoostingRegressor if kind == "number" else HistGradientBoostingClassifier
    loss = "squared_error" if kind == "number" else "log_loss"
    if type(head) is not boosting or head.loss != loss or head.is_categorical_ is not None:
        return None
    baseline = np.ravel(np.asarray(head._baseline_prediction, np.float64))
    return TreeEnsemble(head._predictors, baseline, NUMBER if kind == "number" else SOFTMAX)
