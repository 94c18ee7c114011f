"""Nearest neighbours as ONNX nodes: distances to every training row, the nearest k, their votes.

skl2onnx 1.20 has neighbours too, but gives a training photo met again the weight 1 where scikit-learn lets it decide
alone: with `weights="distance"` its probabilities were 0.95 off (tried).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from onnx import TensorProto

from pipeline.export.draft import GraphBuilder


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
