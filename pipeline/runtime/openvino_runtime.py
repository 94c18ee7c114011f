"""The OpenVINO runtime: an exported graph in bf16 on a CPU that has it. It is an extra: only this module imports it."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

import numpy as np

from pipeline.backbone.onnx_backbone import INPUT, OUTPUTS
from pipeline.runtime.base import batch_size_of, check_pixels, cores, no_features, no_telemetry

with no_telemetry():
    import openvino

_ARITHMETIC = {"fp32": "f32", "bf16": "bf16"}


class OpenVinoRuntime:
    """Run an exported graph with OpenVINO; safe to call from several threads at once, a core each.

    The answer is the same, bit for bit, whatever the batch and however many threads call: measured on the bundled
    backbone in bf16, at 1 to 32 images and 1 to 8 threads.

    Parameters
    ----------
    model : bytes
        An ONNX model, as for `OnnxRuntime`.
    layers : mapping of layer name to width
    crop : int
        Side of the square images.
    precision : str
        ``bf16``; in ``fp32`` it is no faster than ONNX Runtime (0.97 to 1.03 times).

    Raises
    ------
    Exception
        Whatever OpenVINO says of a model that it cannot run.
    """

    name = "openvino-cpu"
    version = version("openvino")

    def __init__(self, model: bytes, *, layers: Mapping[str, int], crop: int, precision: str = "bf16") -> None:
        self.layers = dict(layers)
        self.batch_size = batch_size_of("cpu", crop, precision)
        self._crop = crop
        core = openvino.Core()
        self._network = core.compile_model(core.read_model(model), "CPU", _options(precision))
        self._idle: deque[Any] = deque()  # requests: each holds the memory of one call under way

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
        try:
            request = self._idle.pop()
        except IndexError:
            request = self._network.create_infer_request()
        request.infer({INPUT: np.ascontiguousarray(pixels)}, share_inputs=True)
        # Copied: the request's memory is the next call's.
        features = {layer: np.array(request.get_tensor(f"{OUTPUTS}{layer}").data) for layer in self.layers}
        self._idle.append(request)
        return features

    def workers(self, count: int) -> contextlib.AbstractContextManager[None]:
        """Share the cores among `count` callers at once: each runs on the thread that it calls from."""
        return contextlib.nullcontext()


def _options(precision: str) -> dict[str, str | int | bool]:
    return {
        "INFERENCE_PRECISION_HINT": _ARITHMETIC[precision],
        # A stream a core with one thread in it; those that nobody calls cost nothing.
        "NUM_STREAMS": cores(),
        "INFERENCE_NUM_THREADS": cores(),
        # Threads tied to cores wait for what else runs there.
        "ENABLE_CPU_PINNING": False,
    }
