"""Which runtime is used for a backbone, a device and a precision?"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.progress import SILENT, Progress
from pipeline.runtime.base import Runtime, has_bf16, has_openvino_bf16, may_have_gpu

if TYPE_CHECKING:
    from pipeline.backbone import Backbone


def open_runtime(
    backbone: Backbone,
    layers: Sequence[str],
    *,
    device: str = "auto",
    precision: str = "fp32",
    images: int | None = None,
    graphs: str | Path | None = None,
    compile: bool = False,
    progress: Progress = SILENT,
) -> Runtime:
    """Load the network into a runtime, by default on the GPU if there is one.

    On a CPU in fp32 the runtime is ONNX Runtime for the bundled backbone, whose graph is shipped, and for others if the
    store has a graph of these layers or there are enough images to export one. In bf16 it is OpenVINO if it is
    installed and the CPU has bf16 instructions; otherwise it is torch. ONNX Runtime and torch agree to 1e-5. The
    bundled backbone in fp32 and a user's ONNX file run without importing torch.

    Parameters
    ----------
    backbone : Backbone
    layers : sequence of str
        As for `Backbone.resolve_layers`.
    device : str
        ``auto``, ``cpu``, ``cuda`` or ``cuda:1``.
    precision : str
        ``fp32``, ``bf16`` or (on a GPU) ``fp16``: the arithmetic of the network; features are float32.
    images : int, optional
        How many images there are; in fp32 a graph is exported only for many.
    graphs : path, optional
        The folder of exported graphs, created with the first graph; without it no graph is stored.
    compile : bool
        Compile the network with torch for the GPU, before the first call returns; no effect on a CPU. In lower
        precision this changes features as much as the precision does (0.6% of the largest, measured in bf16), and the
        cache key does not show it.
    progress : Progress
        Receives notes on an export before it starts, on a backbone that ONNX Runtime cannot run, and on batches that do
        not fit into the GPU's memory.

    Raises
    ------
    BackboneError
        The device does not exist or cannot compute in this precision, or OpenVINO or ONNX Runtime cannot run the
        network.
    """
    if backbone.is_graph:
        from pipeline.runtime.graph_runtimes import own_runtime

        return own_runtime(backbone, layers, device=device, precision=precision)
    if precision == "fp32" and _is_cpu(device):
        from pipeline.runtime.graph_runtimes import bundled_runtime, graph_runtime

        runtime = bundled_runtime(backbone, layers, progress=progress)
        if runtime is None and graphs is not None:
            runtime = graph_runtime(backbone, layers, folder=Path(graphs), images=images, progress=progress)
        if runtime is not None:
            return runtime
    if precision == "bf16" and _is_cpu(device):
        if has_openvino_bf16():
            from pipeline.runtime.graph_runtimes import openvino_runtime

            folder = None if graphs is None else Path(graphs)
            return openvino_runtime(backbone, layers, folder=folder, images=images, progress=progress)
        if not has_bf16():
            progress.note("this CPU has no bf16 instructions: bf16 is emulated, and slower than fp32")
    from pipeline.runtime.torch_runtime import TorchRuntime

    return TorchRuntime(backbone, layers, device=device, precision=precision, compile=compile, progress=progress)


def runtime_name(device: str = "auto") -> str:
    """Return the name of the runtime that `open_runtime` opens in lower precision, without loading a network.

    The name is part of the cache key. Torch is imported only if there may be a GPU, and OpenVINO never, so that a
    complete cache is found quickly.
    """
    if _is_cpu(device):
        return "openvino-cpu" if has_openvino_bf16() else "torch-cpu"
    from pipeline.runtime.torch_runtime import resolve_device

    return f"torch-{resolve_device(device).type}"


def emulates(precision: str, device: str = "auto") -> bool:
    """Return whether a device computes in this precision without instructions for it, and so slower than in fp32."""
    if precision != "bf16":
        return False
    if _is_cpu(device):
        return not has_bf16()
    from pipeline.runtime.torch_runtime import has_gpu_bf16

    return not has_gpu_bf16(device)


def devices_of(device: str) -> list[str]:
    """Return the devices that a name means: all GPUs for ``auto`` and ``cuda``, otherwise one device.

    Raises
    ------
    BackboneError
        There is no such device.
    """
    if _is_cpu(device):
        return ["cpu"]
    from pipeline.runtime.torch_runtime import count_gpus, resolve_device

    found = resolve_device(device)
    every = device in ("auto", "cuda")
    return [f"cuda:{number}" for number in range(count_gpus())] if every and count_gpus() > 1 else [str(found)]


def _is_cpu(device: str) -> bool:
    """Return whether a name means the CPU; torch is imported only if there may be a GPU."""
    if device != "auto":
        return device == "cpu"
    if not may_have_gpu():
        return True
    from pipeline.runtime.torch_runtime import resolve_device

    return resolve_device(device).type == "cpu"
