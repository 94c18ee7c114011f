"""From an RGB photo to the square of pixels that a network wants: torchvision's preset, made with PIL alone."""

from __future__ import annotations

import numpy as np
from PIL import Image

from pipeline.images import rgb
from pipeline.provenance import Preprocessing


def preprocess(image: Image.Image, how: Preprocessing) -> np.ndarray:
    """Return the resized and centre-cropped photo, bit for bit what torchvision makes of a PIL image.

    Parameters
    ----------
    image : PIL.Image.Image
        Mode RGB.
    how : Preprocessing
        `resize`, `crop` and `interpolation` are used here; mean, std and value range are the runtime's work.
        `antialias` makes no difference: on PIL images torchvision's resize always filters.

    Returns
    -------
    ndarray of uint8, (crop, crop, 3)
        Read-only. Where the crop is larger than the resized photo, the border is black, as torchvision has it.
    """
    return rgb.square(image, how.resize, how.crop, how.interpolation)


def placement(size: tuple[int, int], how: Preprocessing) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return the size a photo of `size` is resized to, and the left and top of the crop in it."""
    return rgb.placement(size, how.resize, how.crop)
