"""Twelve numbers of a photo's colours: the null that every score is held against."""

from __future__ import annotations

import numpy as np
from PIL import Image

PERCENTILES = (1, 5, 25, 50, 75, 95)

#: The names of the numbers that `pixel_statistics` returns.
PIXEL_STATISTICS: tuple[str, ...] = (
    "mean_red",
    "mean_green",
    "mean_blue",
    "std_red",
    "std_green",
    "std_blue",
    *(f"percentile_{share}" for share in PERCENTILES),
)


def pixel_statistics(image: Image.Image) -> np.ndarray:
    """Return mean and spread of each channel and percentiles of all three together, on a scale of 0 to 1.

    Parameters
    ----------
    image : PIL.Image.Image
        The decoded photo, mode RGB, before any resize.

    Returns
    -------
    ndarray of float32, (12,)
        In the order of `PIXEL_STATISTICS`. The spread is the population's; a percentile is the smallest value that at
        least this share of the samples does not exceed (numpy's "inverted_cdf").
    """
    counts = np.array(image.histogram(), dtype=np.int64).reshape(3, 256)
    pixels = image.size[0] * image.size[1]
    values = np.arange(256)
    mean = counts @ values / pixels  # (3,)
    spread = (values - mean[:, np.newaxis]) ** 2  # (3, 256); centred first, or a flat photo's spread would cancel out
    std = np.sqrt((counts * spread).sum(axis=1) / pixels)  # (3,)
    pooled = np.cumsum(counts.sum(axis=0))  # (256,)
    shares = np.searchsorted(100 * pooled, np.array(PERCENTILES) * pooled[-1])  # (6,)
    return (np.concatenate([mean, std, shares]) / 255).astype(np.float32)
