"""What every runtime takes, a block of prepared images, and what it answers to an empty one."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np


def check_pixels(pixels: np.ndarray, crop: int) -> None:
    """Refuse anything but uint8 (b, crop, crop, 3)."""
    if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[1:] != (crop, crop, 3):
        raise ValueError(f"wanted uint8 (b, {crop}, {crop}, 3), found {pixels.dtype} {pixels.shape}")


def no_features(layers: Mapping[str, int]) -> dict[str, np.ndarray]:
    """Return the features of no image: ``{layer: float32 (0, width)}``."""
    return {layer: np.empty((0, width), np.float32) for layer, width in layers.items()}
