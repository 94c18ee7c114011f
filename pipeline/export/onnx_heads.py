"""A head as skl2onnx converts it, its outputs brought into our order."""

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
    """Append the head; return the names of its answer and of how sure it is.

    Parameters
    ----------
    draft : Draft
    features : str
        Float32 (n, d).
    estimator : fitted scikit-learn estimator
    name : str
        The head's, for errors.
    kind : {"class", "number", "multi"}
    sure : {"probabilities", "scores", None}
        What it gives beside its answer.

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
    estimator, scale, shift = without_target_scaling(estimator)  # skl2onnx does not know how
    model, tried = _converted(estimator, name, draft.width, kind, sure)
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
    return outputs[0], _sure(draft, outputs[1], tried[1], estimator)


def _converted(
    estimator: Any, name: str, width: int, kind: str, sure: str | None
) -> tuple[onnx.ModelProto, list[np.ndarray]]:
    """Return skl2onnx's model, and what it says of two rows of zeros."""
    try:
        import skl2onnx
        from skl2onnx.common.data_types import DoubleTensorType, FloatTensorType
    except ImportError as error:
        raise ExportError(
            f"head {name!r}: expected skl2onnx, which says it in ONNX, but it is not installed", INSTALL
        ) from error
    options = {"zipmap": False, **({"raw_scores": True} if sure == "scores" else {})}
    # Trees and ties are decided by last bits, so double comes first; some converters know float alone.
    for type_of, dtype in ((DoubleTensorType, np.float64), (FloatTensorType, np.float32)):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # that skl2onnx reads attributes which scikit-learn will drop
                model = skl2onnx.to_onnx(
                    estimator,
                    initial_types=[("features", type_of([None, width]))],
                    options=None if kind == "number" else {id(estimator): options},
                    target_opset={"": OPSET, ML: ML_OPSET},
                )
            return model, _run(model, np.zeros((2, width), dtype))
        except Exception as error:  # skl2onnx and ONNX Runtime have a dozen kinds, without a common one
            reason = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0][:200]}"
    raise _refused(name, f"skl2onnx {skl2onnx.__version__} cannot convert it ({reason})")


def _run(model: onnx.ModelProto, X: np.ndarray) -> list[np.ndarray]:
    with no_telemetry():
        import onnxruntime
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors; skl2onnx declares shapes that are not those of several tags
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, {"features": X})


def _sure(draft: GraphBuilder, output: str, tried: np.ndarray, estimator: Any) -> str:
    """Append what turns the converter's second output into a column a class, or a tag; return its name."""
    from sklearn.svm import SVC

    if tried.ndim == 3:  # of several tags (c, n, 2): how likely not, how likely
        there = draft.node("Gather", output, draft.constant(1, np.int64), axis=2)
        return draft.node("Transpose", there, perm=[1, 0])
    if tried.shape[1] == 1:  # two classes: one signed distance
        return draft.node("Concat", draft.node("Neg", output), output, axis=1)
    if type(steps_of(estimator)[1]) is SVC and tried.shape[1] == 2:  # its two columns stand the wrong way round
        return draft.node("Neg", output)
    return output


def _refused(name: str, reason: str) -> ExportError:
    return ExportError(
        f"head {name!r}: expected a head that ONNX can represent, but {reason}",
        "fit with a head that folds into one layer: --head logistic, or ridge for numbers",
    )


@dataclass(frozen=True, eq=False)
class KnnGraph:
    """The training rows and what each has to say.

    Attributes
    ----------
    rows : ndarray of float32, shape (m, d')
        As the steps before the head make them.
    votes : ndarray of float64, shape (m, c)
        One column a class or tag, 1 where the row is of it; or one column of numbers.
    k : int
    by_distance : bool
        Whether a vote counts by one over the distance.
    """

    rows: np.ndarray
    votes: np.ndarray
    k: int
    by_distance: bool

    def onto(self, draft: GraphBuilder, x: str) -> str:
        """Append the vote on double (n, d') and return its name, double (n, c)."""
        rows = draft.cast(draft.constant(self.rows), TensorProto.DOUBLE)
        last, minus_two = draft.constant([1], np.int64), draft.constant(-2.0, np.float64)
        own = draft.node("ReduceSum", draft.node("Mul", x, x), last)  # (n, 1)
        theirs = draft.constant((self.rows.astype(np.float64) ** 2).sum(axis=1), np.float64)
        crossed = draft.node("MatMul", x, draft.node("Transpose", rows, perm=[1, 0]))
        squares = draft.node("Add", draft.node("Add", draft.node("Mul", crossed, minus_two), own), theirs)  # (n, m)
        nearest, which = draft.nodes("TopK", squares, draft.constant([self.k], np.int64), count=2, largest=0, axis=1)
        votes = draft.node("Gather", draft.constant(self.votes, np.float64), which)  # (n, k, c)
        if not self.by_distance:
            return draft.node("ReduceMean", votes, last, keepdims=0)
        weights = self._weights(draft, nearest)
        share = draft.node("Div", weights, draft.node("ReduceSum", weights, last))
        share = draft.node("Unsqueeze", share, draft.constant([2], np.int64))  # (n, k) -> (n, k, 1)
        return draft.node("ReduceSum", draft.node("Mul", votes, share), last, keepdims=0)

    def _weights(self, draft: GraphBuilder, squares: str) -> str:
        """Append one over the distance, where no row is at none; there those rows alone count: (n, k) -> (n, k)."""
        zero, one = draft.constant(0.0, np.float64), draft.constant(1.0, np.float64)
        at_none = draft.node("LessOrEqual", squares, zero)  # rounding may fall below
        same = draft.cast(at_none, TensorProto.DOUBLE)
        any_same = draft.node("Greater", draft.node("ReduceMax", same, draft.constant([1], np.int64)), zero)
        away = draft.node("Where", at_none, one, squares)
        return draft.node("Where", any_same, same, draft.node("Div", one, draft.node("Sqrt", away)))


def knn_graph(head: Any, kind: str) -> KnnGraph | None:
    """Return a bare head as neighbours; None where it is something else, or measures otherwise."""
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
