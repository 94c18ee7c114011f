"""What every runtime takes: a block of prepared images."""

from __future__ import annotations

import numpy as np


def check_pixels(pixels: np.ndarray, crop: int) -> None:
    """Refuse anything but uint8 (b, crop, crop, 3)."""
    if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[1:] != (crop, crop, 3):
        raise ValueError(f"wanted uint8 (b, {crop}, {crop}, 3), found {pixels.dtype} {pixels.shape}")
