"""The ONNX Runtime runtime: uint8 images in, float32 embeddings out, on a CPU in fp32; torch is not imported."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping

import numpy as np

from pipeline.backbone.onnx_backbone import INPUT, OUTPUTS
from pipeline.runtime.base import batch_size_of, check_pixels, no_features, no_telemetry

with no_telemetry():
    import onnxruntime


class OnnxRuntime:
    """Run an exported graph with ONNX Runtime; safe to call from several threads at once, a core each.

    All threads share one session: two sessions are no faster (273 images a second, against 277) and hold the weights
    twice.

    Parameters
    ----------
    model : bytes
        An ONNX model: uint8 `pixels` (b, crop, crop, 3) to one float32 ``features/<layer>`` (b, width) a layer.
    layers : mapping of layer name to width
    crop : int
        Side of the square images.

    Raises
    ------
    Exception
        Whatever ONNX Runtime says of a model that it cannot run.
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
            If the images are not of that shape and type.
        """
        check_pixels(pixels, self._crop)
        if not len(pixels):
            return no_features(self.layers)
        features = self._session.run(self._outputs, {INPUT: np.ascontiguousarray(pixels)})
        return dict(zip(self.layers, features, strict=True))

    def workers(self, count: int) -> contextlib.AbstractContextManager[None]:
        """Share the cores among `count` callers at once: each runs on the thread that it calls from."""
        return contextlib.nullcontext()


def _options() -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    # The caller's thread alone: no pool of threads is made, so none spins while it waits.
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    # Convolutions in blocks of channels are among the last optimisations: 3.5 times as fast as without.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    # Without the arena every call asks the system for fresh pages: 0.8 of the speed at 4 images a call.
    options.enable_cpu_mem_arena = options.enable_mem_pattern = True
    options.log_severity_level = 3  # errors; its warnings are about its own optimisations
    return options
