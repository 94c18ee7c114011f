"""What is a runtime, and what can this machine compute with?

Names that every runtime shares: the protocol, properties of the hardware, the check of the input, and telemetry. Torch
is not imported here, because that takes seconds.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    import numpy as np


GRAPHS_FOLDER = "graphs"  # the folder of exported graphs, inside the folder of caches
PRECISIONS = ("fp32", "bf16", "fp16")

# Device files of GPU drivers: NVIDIA's on Linux and on Jetson boards, Windows' under WSL, AMD's.
_DEVICE_FILES = ("nvidia*", "nvhost-gpu", "nvgpu", "dxg", "kfd")

# Images per call, at 224 x 224; on a CPU fewer if they are larger. Images per second on the bundled backbone with two
# threads: ONNX Runtime 282 at 1, 277 at 4, 263 at 8, 255 at 16; torch 140 at 4, 117 at 8, 92 at 32, because glibc
# requests fresh pages from the system on every call for feature maps above 32 MB. Networks with large linear layers
# gain from larger batches (AlexNet on ONNX Runtime: 1.6 times as fast at 4 as at 1). OpenVINO in bf16 is so fast that
# the cost of dispatching batches shows: `extract` reaches 344 at 4, 368 at 8, 357 at 16.
CPU_BATCH_SIZE = 4
OPENVINO_BATCH_SIZE = 8
CUDA_BATCH_SIZE = 256

# Instructions that multiply bf16, as Linux and torch name them; OpenVINO has kernels for the first two.
_BF16_ON_X86 = frozenset(("avx512_bf16", "amx_bf16"))
_BF16_ON_ARM = frozenset(("bf16",))


@runtime_checkable
class Runtime(Protocol):
    """A network that is ready to run; safe to call from several threads at once.

    Attributes
    ----------
    name : str
        ``onnxruntime-cpu``, ``openvino-cpu``, ``torch-cpu`` or ``torch-cuda``; recorded in provenance.
    version : str
        Of the library.
    batch_size : int
        The best number of images per call.
    layers : dict of layer name to width
    """

    name: str
    version: str
    batch_size: int
    layers: dict[str, int]

    def workers(self, count: int) -> AbstractContextManager[None]:
        """Share the cores among `count` simultaneous callers, until the context is left."""
        ...

    def __call__(self, pixels: np.ndarray) -> dict[str, np.ndarray]:
        """Map prepared images, uint8 (b, crop, crop, 3), to ``{layer: float32 (b, width)}``."""
        ...


def may_have_gpu(dev: Path = Path("/dev")) -> bool:
    """Return False if no GPU driver is loaded, so that torch cannot find a GPU; True means only that it may.

    No device is opened and no library is loaded: initialising CUDA here would break it in processes forked later.
    """
    if sys.platform == "win32":
        return (Path(os.environ.get("SYSTEMROOT", r"C:\Windows")) / "System32" / "nvcuda.dll").exists()
    return any(next(dev.glob(pattern), None) is not None for pattern in _DEVICE_FILES)


def batch_size_of(device: str, crop: int, precision: str = "fp32") -> int:
    """Return the best number of images of this side per call on a device, without loading a library."""
    if device.startswith("cuda"):
        return CUDA_BATCH_SIZE
    size = OPENVINO_BATCH_SIZE if precision == "bf16" and has_openvino_bf16() else CPU_BATCH_SIZE
    return max(1, int(size * (224 / crop) ** 2))


def has_bf16(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Return whether this CPU has bf16 instructions; without them bf16 is emulated and slower than fp32."""
    return not (_BF16_ON_X86 | _BF16_ON_ARM).isdisjoint(_cpu_flags(cpuinfo))


def has_openvino_bf16(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Return whether OpenVINO is installed and has bf16 kernels for this CPU, without importing OpenVINO."""
    return find_spec("openvino") is not None and not _BF16_ON_X86.isdisjoint(_cpu_flags(cpuinfo))


def cores() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _cpu_flags(cpuinfo: Path) -> set[str]:
    """Return the feature flags of the first core."""
    try:
        with cpuinfo.open(encoding="utf-8") as lines:
            for line in lines:
                name, _, flags = line.partition(":")
                if name.strip() in ("flags", "Features"):  # x86, Arm
                    return set(flags.split())
        return set()
    except FileNotFoundError:  # macOS, Windows
        import torch

        # A torch without this function counts as a CPU without bf16: the only consequence is a note.
        flags_of_torch: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
        return {name for name, present in flags_of_torch.items() if present is True}


def check_pixels(pixels: np.ndarray, crop: int) -> None:
    """Raise `ValueError` unless the images are uint8 (b, crop, crop, 3)."""
    if pixels.dtype != "uint8" or pixels.ndim != 4 or pixels.shape[1:] != (crop, crop, 3):
        raise ValueError(f"expected uint8 (b, {crop}, {crop}, 3), got {pixels.dtype} {pixels.shape}")


def no_features(layers: Mapping[str, int]) -> dict[str, np.ndarray]:
    """Return the features of an empty batch: ``{layer: float32 (0, width)}``."""
    import numpy as np

    return {layer: np.empty((0, width), np.float32) for layer, width in layers.items()}


@contextlib.contextmanager
def no_telemetry() -> Iterator[None]:
    """Disable the telemetry of ONNX Runtime and OpenVINO while they are imported.

    On import, ONNX Runtime (from 1.29 on) writes a device id under ``~/.cache/Microsoft`` and uploads usage data, and
    OpenVINO writes an id under ``~/intel`` and sends an event. A user who sets ``ORT_DISABLE_TELEMETRY=0`` keeps the
    telemetry of ONNX Runtime.
    """
    # ONNX Runtime reads it when it starts, also in child processes, so the variable is not removed afterwards.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    name = "openvino_telemetry"
    before = sys.modules.get(name)
    sys.modules[name] = None  # type: ignore[assignment]  # makes Python raise ImportError for it
    try:
        yield
    finally:
        del sys.modules[name]
        if before is not None:
            sys.modules[name] = before
