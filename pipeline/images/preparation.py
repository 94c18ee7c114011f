"""From a photo to what is asked of it: the network's square of pixels and the twelve numbers of its colours."""

from __future__ import annotations

import numpy as np

from pipeline.images.decode import MAX_PIXELS
from pipeline.images.fast_resize import preprocess_fast
from pipeline.images.photo import Photo
from pipeline.images.preprocess import preprocess
from pipeline.images.statistics import pixel_statistics
from pipeline.provenance import Preprocessing

_RESIZES = {"exact": preprocess, "fast": preprocess_fast}

#: How photos may become pixels.
DECODES = tuple(_RESIZES)


def prepare(photo: Photo, how: Preprocessing, decode: str = "exact") -> tuple[np.ndarray, np.ndarray]:
    """Return the photo's pixels for the network, and its statistics.

    Parameters
    ----------
    photo : Photo
    how : Preprocessing
    decode : {"exact", "fast"}
        Whether the pixels are torchvision's bit for bit, or those of `preprocess_fast`. The statistics are the same.

    Returns
    -------
    pixels : ndarray of uint8, (crop, crop, 3)
    statistics : ndarray of float32, (12,)

    Raises
    ------
    UnreadablePhoto
        With the reason, the same one in both modes.
    """
    image = photo.pixels()
    return _RESIZES[decode](image, how), pixel_statistics(image)


def squared(photo: Photo, how: Preprocessing, decode: str = "exact", *, most_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Return the photo's pixels for the network alone, as `prepare` does, of a photo of so many pixels at the most."""
    return _RESIZES[decode](photo.pixels(most_pixels), how)
