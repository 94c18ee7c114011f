"""Whether there may be a GPU, known without torch: to ask torch is to import it, which takes seconds."""

from __future__ import annotations

import os
import sys
from pathlib import Path

# What a GPU's driver puts there: NVIDIA's on Linux and on Jetson boards, Windows' own under WSL, AMD's.
_DEVICE_FILES = ("nvidia*", "nvhost-gpu", "nvgpu", "dxg", "kfd")


def may_have_gpu(dev: Path = Path("/dev")) -> bool:
    """Return False where torch can find no GPU, because no driver is loaded; True only says that torch is to be asked.

    Nothing is opened and no library is loaded: initialising CUDA here would break it in processes forked later.
    """
    if sys.platform == "win32":
        return (Path(os.environ.get("SYSTEMROOT", r"C:\Windows")) / "System32" / "nvcuda.dll").exists()
    return any(next(dev.glob(pattern), None) is not None for pattern in _DEVICE_FILES)
