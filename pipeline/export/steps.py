"""What features go through before a head: scalers and the like, as ONNX nodes in double precision.

Neighbours and trees compare: in double precision nothing is decided by a last bit that the head itself did not see.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from onnx import TensorProto

from pipeline.export.draft import GraphBuilder


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
