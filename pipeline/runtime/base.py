"""What every runtime shares: its protocol, what this machine computes with, input checks, no telemetry.

Torch is not imported here: that takes seconds.
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


GRAPHS_FOLDER = "graphs"  # the store's name inside the folder of caches
PRECISIONS = ("fp32", "bf16", "fp16")

# What a GPU's driver puts there: NVIDIA's on Linux and on Jetson boards, Windows' own under WSL, AMD's.
_DEVICE_FILES = ("nvidia*", "nvhost-gpu", "nvgpu", "dxg", "kfd")

# Images a call, at 224 x 224; on a CPU fewer of larger ones. Measured on the bundled backbone with two threads, images
# a second: ONNX Runtime 282 at 1, 277 at 4, 263 at 8, 255 at 16; torch 140 at 4, 117 at 8, 92 at 32, because beyond
# 32 MB a map glibc asks the system for fresh pages on every call. Networks with large linear layers gain from company
# (AlexNet on ONNX Runtime: 1.6 times as fast at 4 as at 1). OpenVINO in bf16 is so fast that handing out blocks shows:
# `extract` makes 344 at 4, 368 at 8, 357 at 16.
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
        Of the library that runs.
    batch_size : int
        How many images a call is best given.
    layers : dict of layer name to width
    """

    name: str
    version: str
    batch_size: int
    layers: dict[str, int]

    def workers(self, count: int) -> AbstractContextManager[None]:
        """Share the cores among `count` callers at once, until the context is left."""
        ...

    def __call__(self, pixels: np.ndarray) -> dict[str, np.ndarray]:
        """Map prepared images, uint8 (b, crop, crop, 3), to ``{layer: float32 (b, width)}``."""
        ...


def may_have_gpu(dev: Path = Path("/dev")) -> bool:
    """Return False where torch can find no GPU, because no driver is loaded; True only says that torch is to be asked.

    Nothing is opened and no library is loaded: initialising CUDA here would break it in processes forked later.
    """
    if sys.platform == "win32":
        return (Path(os.environ.get("SYSTEMROOT", r"C:\Windows")) / "System32" / "nvcuda.dll").exists()
    return any(next(dev.glob(pattern), None) is not None for pattern in _DEVICE_FILES)


def batch_size_of(device: str, crop: int, precision: str = "fp32") -> int:
    """Return how many images of this side a call is best given on a device, known before anything is loaded."""
    if device.startswith("cuda"):
        return CUDA_BATCH_SIZE
    size = OPENVINO_BATCH_SIZE if precision == "bf16" and has_openvino_bf16() else CPU_BATCH_SIZE
    return max(1, int(size * (224 / crop) ** 2))


def has_bf16(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Return whether this CPU multiplies bf16 by itself; without, it is emulated and slower than fp32."""
    return not (_BF16_ON_X86 | _BF16_ON_ARM).isdisjoint(_cpu_flags(cpuinfo))


def has_openvino_bf16(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Return whether OpenVINO is installed and this CPU one that it computes bf16 on; OpenVINO is not imported."""
    return find_spec("openvino") is not None and not _BF16_ON_X86.isdisjoint(_cpu_flags(cpuinfo))


def cores() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _cpu_flags(cpuinfo: Path) -> set[str]:
    """Return the names of the first core's abilities."""
    try:
        with cpuinfo.open(encoding="utf-8") as lines:
            for line in lines:
                name, _, flags = line.partition(":")
                if name.strip() in ("flags", "Features"):  # x86, Arm
                    return set(flags.split())
        return set()
    except FileNotFoundError:  # macOS, Windows
        import torch

        # A torch that cannot say is taken for a CPU without: that costs a note, and no feature.
        known: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
        return {name for name, there in known.items() if there is True}


def check_pixels(pixels: np.ndarray, crop: int) -> None:
    """Refuse anything but uint8 (b, crop, crop, 3)."""
    if pixels.dtype != "uint8" or pixels.ndim != 4 or pixels.shape[1:] != (crop, crop, 3):
        raise ValueError(f"expected uint8 (b, {crop}, {crop}, 3), got {pixels.dtype} {pixels.shape}")


def no_features(layers: Mapping[str, int]) -> dict[str, np.ndarray]:
    """Return the features of no image: ``{layer: float32 (0, width)}``."""
    import numpy as np

    return {layer: np.empty((0, width), np.float32) for layer, width in layers.items()}


@contextlib.contextmanager
def no_telemetry() -> Iterator[None]:
    """Import ONNX Runtime or OpenVINO here, and neither numbers its users nor tells its maker what they run.

    On import, ONNX Runtime (from 1.29 on) makes a device's number under ``~/.cache/Microsoft`` and uploads what it
    runs, and OpenVINO makes one under ``~/intel`` and sends an event. A user who sets ``ORT_DISABLE_TELEMETRY=0``
    himself has it his way.
    """
    # Read when ONNX Runtime starts, by the processes that start from this one too; so it stays.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    name = "openvino_telemetry"
    before = sys.modules.get(name)
    sys.modules[name] = None  # type: ignore[assignment]  # Python's own way to say: not there
    try:
        yield
    finally:
        del sys.modules[name]
        if before is not None:
            sys.modules[name] = before
