"""How are ONNX graphs run on a CPU in fp32, with ONNX Runtime? Torch is not imported here."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping

import numpy as np

from pipeline.backbone import INPUT, OUTPUTS
from pipeline.runtime.base import batch_size_of, check_pixels, no_features, no_telemetry

with no_telemetry():
    import onnxruntime


class OnnxRuntime:
    """Run an exported graph with ONNX Runtime; safe to call from several threads at once, one core each.

    All threads share one session: two sessions are not faster (273 images per second instead of 277) and hold the
    weights twice.

    Parameters
    ----------
    model : bytes
        An ONNX model: from uint8 `pixels` (b, crop, crop, 3) to a float32 ``features/<layer>`` (b, width) per layer.
    layers : mapping of layer name to width
    crop : int
        Side of the square images.

    Raises
    ------
    Exception
        ONNX Runtime cannot run the model; its errors have no common type.
    """

    name = "onnxruntime-cpu"
    version: str = onnxruntime.__version__

    def __init__(self, model: bytes, *, layers: Mapping[str, int], crop: int) -> None:
        self.layers = dict(layers)
        self.batch_size = batch_size_of("cpu", crop)
        self._crop = crop
        self._outputs = [f"{OUTPUTS}{layer}" for layer in layers]
        self._session = onnxruntime.InferenceSession(model, _options(), providers=["CPUExecutionProvider"])

    def __call__(self, pixels: np.ndarray) -> dict[str, np.ndarray]:
        """Map prepared images, uint8 (b, crop, crop, 3), to ``{layer: float32 (b, width)}``, C-contiguous.

        Raises
        ------
        ValueError
            The images have another shape or type.
        """
        check_pixels(pixels, self._crop)
        if not len(pixels):
            return no_features(self.layers)
        features = self._session.run(self._outputs, {INPUT: np.ascontiguousarray(pixels)})
        return dict(zip(self.layers, features, strict=True))

    def workers(self, count: int) -> contextlib.AbstractContextManager[None]:
        """Do nothing: each call runs on the caller's thread."""
        return contextlib.nullcontext()


def _options() -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    # Only the caller's thread: without a thread pool, no thread uses a core while it waits.
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    # The last optimisations include convolutions in blocks of channels, which are 3.5 times as fast.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    # Without the arena every call requests fresh pages from the system: 0.8 of the speed at 4 images per call.
    options.enable_cpu_mem_arena = options.enable_mem_pattern = True
    options.log_severity_level = 3  # errors only; its warnings concern its optimisations
    return options
