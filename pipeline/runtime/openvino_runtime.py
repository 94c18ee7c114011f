"""How are ONNX graphs run on a CPU in bf16, with OpenVINO?

OpenVINO is an extra, and only this module imports it.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

import numpy as np

from pipeline.backbone import INPUT, OUTPUTS
from pipeline.runtime.base import batch_size_of, check_pixels, cores, no_features, no_telemetry

with no_telemetry():
    import openvino

_ARITHMETIC = {"fp32": "f32", "bf16": "bf16"}


class OpenVinoRuntime:
    """Run an exported graph with OpenVINO; safe to call from several threads at once, one core each.

    Features are the same, bit for bit, for every batch size and number of threads: measured on the bundled backbone in
    bf16, at 1 to 32 images and 1 to 8 threads.

    Parameters
    ----------
    model : bytes
        An ONNX model, as for `OnnxRuntime`.
    layers : mapping of layer name to width
    crop : int
        Side of the square images.
    precision : str
        ``bf16``; in ``fp32`` it is not faster than ONNX Runtime (0.97 to 1.03 times).

    Raises
    ------
    Exception
        OpenVINO cannot run the model; its errors have no common type.
    """

    name = "openvino-cpu"
    version = version("openvino")

    def __init__(self, model: bytes, *, layers: Mapping[str, int], crop: int, precision: str = "bf16") -> None:
        self.layers = dict(layers)
        self.batch_size = batch_size_of("cpu", crop, precision)
        self._crop = crop
        core = openvino.Core()
        self._network = core.compile_model(core.read_model(model), "CPU", _options(precision))
        self._idle: deque[Any] = deque()  # requests of calls that have returned; each holds the memory of one call

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
        try:
            request = self._idle.pop()
        except IndexError:
            request = self._network.create_infer_request()
        request.infer({INPUT: np.ascontiguousarray(pixels)}, share_inputs=True)
        # Copied, because the next call overwrites the request's memory.
        features = {layer: np.array(request.get_tensor(f"{OUTPUTS}{layer}").data) for layer in self.layers}
        self._idle.append(request)
        return features

    def workers(self, count: int) -> contextlib.AbstractContextManager[None]:
        """Do nothing: each call runs on the caller's thread."""
        return contextlib.nullcontext()


def _options(precision: str) -> dict[str, str | int | bool]:
    return {
        "INFERENCE_PRECISION_HINT": _ARITHMETIC[precision],
        # One stream with one thread per core; streams that are not used cost nothing.
        "NUM_STREAMS": cores(),
        "INFERENCE_NUM_THREADS": cores(),
        # A pinned thread would wait for other programs on its core.
        "ENABLE_CPU_PINNING": False,
    }
