"""From an RGB photo to the square of pixels that a network wants: torchvision's preset, made with PIL alone."""

from __future__ import annotations

import numpy as np
from PIL import Image

from pipeline.provenance import Preprocessing

_FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "nearest-exact": Image.Resampling.NEAREST,
    "box": Image.Resampling.BOX,
    "bilinear": Image.Resampling.BILINEAR,
    "hamming": Image.Resampling.HAMMING,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


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
    size, (left, top) = placement(image.size, how)
    if size != image.size:
        image = image.resize(size, _FILTERS[how.interpolation])
    if (left, top) != (0, 0) or size != (how.crop, how.crop):
        image = image.crop((left, top, left + how.crop, top + how.crop))  # outside the photo PIL puts black
    return np.asarray(image)  # (crop, crop, 3)


def placement(size: tuple[int, int], how: Preprocessing) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return the size a photo of `size` is resized to, and the left and top of the crop in it."""
    width, height = size
    short, long = sorted(size)
    long = int(how.resize * long / short)  # truncated, not rounded
    resized = (how.resize, long) if width <= height else (long, how.resize)
    return resized, (_corner(resized[0], how.crop), _corner(resized[1], how.crop))


def _corner(side: int, crop: int) -> int:
    """Return where the crop begins; below zero where torchvision would pad."""
    return -((crop - side) // 2) if crop > side else round((side - crop) / 2.0)
