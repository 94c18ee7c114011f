"""Runtimes: run a backbone on a block of prepared images, a file a runtime."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    import numpy as np

    from pipeline.backbone import Backbone

__all__ = ["PRECISIONS", "Runtime", "open_runtime", "runtime_name"]

PRECISIONS = ("fp32", "bf16", "fp16")


@runtime_checkable
class Runtime(Protocol):
    """A network that is ready to run; safe to call from several threads at once.

    Attributes
    ----------
    name : str
        Such as ``torch-cpu`` or ``torch-cuda``; recorded in provenance.
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
    backbone: Backbone, layers: Sequence[str], *, device: str = "auto", precision: str = "fp32"
) -> Runtime:
    """Return a runtime with the network loaded, on the GPU where there is one and `device` does not say otherwise.

    Parameters
    ----------
    backbone : Backbone
    layers : sequence of str
        As for `Backbone.resolve_layers`.
    device : str
        ``auto``, ``cpu``, ``cuda`` or ``cuda:1``.
    precision : str
        ``fp32``, ``bf16`` or (on a GPU) ``fp16``: the arithmetic of the network; the answer is float32.

    Raises
    ------
    BackboneError
        If the device is not there, or cannot compute in this precision.
    """
    from pipeline.runtime.torch_runtime import TorchRuntime

    return TorchRuntime(backbone, layers, device=device, precision=precision)


def runtime_name(device: str = "auto") -> str:
    """Return the name that `open_runtime` would give the runtime for this device, without loading a network."""
    from pipeline.runtime.torch_runtime import resolve_device

    return f"torch-{resolve_device(device).type}"
