"""The ONNX Runtime runtime: uint8 images in, float32 embeddings out, on a CPU in fp32; torch is not imported."""

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
        self._network = core.compile_model(core.read_model(model), "CPU", _openvino_options(precision))
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


def _openvino_options(precision: str) -> dict[str, str | int | bool]:
    return {
        "INFERENCE_PRECISION_HINT": _ARITHMETIC[precision],
        # A stream a core with one thread in it; those that nobody calls cost nothing.
        "NUM_STREAMS": cores(),
        "INFERENCE_NUM_THREADS": cores(),
        # Threads tied to cores wait for what else runs there.
        "ENABLE_CPU_PINNING": False,
    }
