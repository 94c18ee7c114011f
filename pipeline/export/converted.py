"""A head as skl2onnx converts it, its outputs brought into our order."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, compose

from pipeline.errors import ExportError
from pipeline.export.draft import ML, ML_OPSET, GraphBuilder
from pipeline.export.linear import steps_of, without_target_scaling
from pipeline.runtime.graph_store import OPSET
from pipeline.runtime.telemetry import no_telemetry

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
            f"head {name!r}: wanted skl2onnx, which says it in ONNX, found that it is not installed", INSTALL
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
        f"head {name!r}: wanted a head that ONNX can say, found that {reason}",
        "fit with a head that folds into one layer: --head logistic, or ridge for numbers",
    )
