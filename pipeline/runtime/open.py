"""Open the runtime that fits a backbone, a device and a precision."""

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
    """Return a runtime with the network loaded, on the GPU where there is one and `device` does not say otherwise.

    On a CPU in fp32 that is ONNX Runtime where the store has a graph of these layers, or where there are images enough
    to export one; in bf16 it is OpenVINO where that is installed and the CPU computes in bf16 by itself; torch in all
    other cases. ONNX Runtime and torch agree to 1e-5. A stored graph of the bundled backbone runs without importing
    torch, and so does a person's own ONNX file.

    Parameters
    ----------
    backbone : Backbone
    layers : sequence of str
        As for `Backbone.resolve_layers`.
    device : str
        ``auto``, ``cpu``, ``cuda`` or ``cuda:1``.
    precision : str
        ``fp32``, ``bf16`` or (on a GPU) ``fp16``: the arithmetic of the network; the answer is float32.
    images : int, optional
        How many are to be run; in fp32 a graph is exported only for many.
    graphs : path, optional
        The folder of exported graphs, made when the first is stored; without one none is stored.
    compile : bool
        Let torch compile the network for the GPU, once, before the first answer; nothing on a CPU. In lower precision
        this moves features as far as the precision itself does (0.6% of the largest, tried in bf16), and no key tells.
    progress : Progress
        Hears of an export before it starts, why a backbone runs with torch that should not, and of what does not fit
        into the GPU's memory.

    Raises
    ------
    BackboneError
        If the device is not there, or cannot compute in this precision, or OpenVINO cannot run this network, or ONNX
        Runtime a person's own.
    """
    if backbone.is_graph:
        from pipeline.runtime.graph_runtimes import own_runtime

        return own_runtime(backbone, layers, device=device, precision=precision)
    if graphs is not None and precision == "fp32" and _is_cpu(device):
        from pipeline.runtime.graph_runtimes import graph_runtime

        runtime = graph_runtime(backbone, layers, folder=Path(graphs), images=images, progress=progress)
        if runtime is not None:
            return runtime
    if precision == "bf16" and _is_cpu(device):
        if has_openvino_bf16():
            from pipeline.runtime.graph_runtimes import openvino_runtime

            folder = None if graphs is None else Path(graphs)
            return openvino_runtime(backbone, layers, folder=folder, images=images, progress=progress)
        if not has_bf16():
            progress.note("this CPU has no bf16 of its own: it is emulated, and slower than --precision fp32")
    from pipeline.runtime.torch_runtime import TorchRuntime

    return TorchRuntime(backbone, layers, device=device, precision=precision, compile=compile, progress=progress)


def runtime_name(device: str = "auto") -> str:
    """Return the name of the runtime that `open_runtime` opens here in lower precision, without loading a network.

    Torch is imported only where there may be a GPU, OpenVINO not at all: the name is part of a cache's key, and a
    complete cache is recognised without either.
    """
    if _is_cpu(device):
        return "openvino-cpu" if has_openvino_bf16() else "torch-cpu"
    from pipeline.runtime.torch_runtime import resolve_device

    return f"torch-{resolve_device(device).type}"


def devices_of(device: str) -> list[str]:
    """Return the devices that a device's name means: several where it means all of several GPUs.

    Raises
    ------
    BackboneError
        If there is no such device.
    """
    if _is_cpu(device):
        return ["cpu"]
    from pipeline.runtime.torch_runtime import count_gpus, resolve_device

    found = resolve_device(device)
    every = device in ("auto", "cuda")
    return [f"cuda:{number}" for number in range(count_gpus())] if every and count_gpus() > 1 else [str(found)]


def _is_cpu(device: str) -> bool:
    """Return whether a device's name means the CPU; torch is asked only where there may be a GPU."""
    if device != "auto":
        return device == "cpu"
    if not may_have_gpu():
        return True
    from pipeline.runtime.torch_runtime import resolve_device

    return resolve_device(device).type == "cpu"
