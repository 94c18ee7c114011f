"""Whether there may be a GPU, known without torch: to ask torch is to import it, which takes seconds."""

from __future__ import annotations

import os
import sys
from pathlib import Path

# What a GPU's driver puts there: NVIDIA's on Linux and on Jetson boards, Windows' own under WSL, AMD's.
_DEVICE_FILES = ("nvidia*", "nvhost-gpu", "nvgpu", "dxg", "kfd")

# Images a call. The runtimes say what was measured; on a CPU fewer of larger images.
CPU_BATCH_SIZE = 4  # at 224 x 224
CUDA_BATCH_SIZE = 256


def may_have_gpu(dev: Path = Path("/dev")) -> bool:
    """Return False where torch can find no GPU, because no driver is loaded; True only says that torch is to be asked.

    Nothing is opened and no library is loaded: initialising CUDA here would break it in processes forked later.
    """
    if sys.platform == "win32":
        return (Path(os.environ.get("SYSTEMROOT", r"C:\Windows")) / "System32" / "nvcuda.dll").exists()
    return any(next(dev.glob(pattern), None) is not None for pattern in _DEVICE_FILES)


def batch_size_of(device: str, crop: int) -> int:
    """Return how many images of this side a call is best given on a device, known before anything is loaded."""
    return CUDA_BATCH_SIZE if device.startswith("cuda") else max(1, int(CPU_BATCH_SIZE * (224 / crop) ** 2))
