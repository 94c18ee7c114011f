"""Runtimes: run a backbone on a block of prepared images, a file a runtime."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from pipeline.progress import SILENT, Progress
from pipeline.runtime.devices import batch_size_of, may_have_gpu
from pipeline.runtime.graph_store import StoredGraph, remove_unused_graphs, stored_graphs

if TYPE_CHECKING:
    import numpy as np

    from pipeline.backbone import Backbone

__all__ = [
    "GRAPHS_FOLDER",
    "PRECISIONS",
    "Runtime",
    "StoredGraph",
    "batch_size_of",
    "devices_of",
    "open_runtime",
    "remove_unused_graphs",
    "runtime_name",
    "stored_graphs",
]

GRAPHS_FOLDER = "graphs"  # the store's name inside the folder of caches
PRECISIONS = ("fp32", "bf16", "fp16")


@runtime_checkable
class Runtime(Protocol):
    """A network that is ready to run; safe to call from several threads at once.

    Attributes
    ----------
    name : str
        ``onnxruntime-cpu``, ``torch-cpu`` or ``torch-cuda``; recorded in provenance.
    batch_size : int
        How many images a call is best given.
    layers : dict of layer name to width
    """

    name: str
    batch_size: int
    layers: dict[str, int]

    def workers(self, count: int) -> AbstractContextManager[None]:
        """Share the cores among `count` callers at once, until the context is left."""
        ...

    def __call__(self, pixels: np.ndarray) -> dict[str, np.ndarray]:
        """Map prepared images, uint8 (b, crop, crop, 3), to ``{layer: float32 (b, width)}``."""
        ...


def open_runtime(
    backbone: Backbone,
    layers: Sequence[str],
    *,
    device: str = "auto",
    precision: str = "fp32",
    images: int | None = None,
    graphs: str | Path | None = None,
    progress: Progress = SILENT,
) -> Runtime:
    """Return a runtime with the network loaded, on the GPU where there is one and `device` does not say otherwise.

    On a CPU in fp32 that is ONNX Runtime where the store has a graph of these layers, or where there are images enough
    to export one; torch in all other cases. The two agree to 1e-5. A stored graph of the bundled backbone runs without
    importing torch.

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
        How many are to be run; a graph is exported only for many.
    graphs : path, optional
        The folder of exported graphs, made when the first is stored; without one there are none.
    progress : Progress
        Hears of an export before it starts, and why a backbone runs with torch that should not.

    Raises
    ------
    BackboneError
        If the device is not there, or cannot compute in this precision.
    """
    if graphs is not None and precision == "fp32" and _is_cpu(device):
        from pipeline.runtime.graphs import graph_runtime

        runtime = graph_runtime(backbone, layers, folder=Path(graphs), images=images, progress=progress)
        if runtime is not None:
            return runtime
    from pipeline.runtime.torch_runtime import TorchRuntime

    return TorchRuntime(backbone, layers, device=device, precision=precision)


def runtime_name(device: str = "auto") -> str:
    """Return the name of the runtime that lower precisions run on at this device, without loading a network."""
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
