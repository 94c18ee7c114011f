"""The photos as small squares of pixels: what a network is trained on from scratch, and the null of raw pixels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from joblib import Parallel, delayed
from PIL import Image, ImageOps

from pipeline.engines import workers
from pipeline.images import PHOTO_RULES, ImageSource, decoder_of
from pipeline.progress import Progress

STAGE = "read photos"
SIDE, SMALL_SIDE = 64, 32  # what a network is trained on: photos, and images that are hardly larger than the small side
RAW_SIDE = 16
SAMPLE = 32  # images whose size is looked at
_AT_ONCE = 64


@dataclass(frozen=True)
class PixelSizes:
    """How small the photos are made.

    Attributes
    ----------
    network : int
        Side of the squares that a network is trained on.
    raw : int
        Side of those whose raw pixels a head learns from; images that are smaller stay as they are.
    """

    network: int
    raw: int

    @property
    def small(self) -> bool:
        """Whether these are small images, such as digits, rather than photos."""
        return self.network == SMALL_SIDE


@dataclass(frozen=True, eq=False)
class Pixels:
    """The squares of n photos.

    Attributes
    ----------
    network : ndarray of uint8, (n, side, side, 3)
    raw : ndarray of uint8, (n, raw side, raw side, 3)
    """

    network: np.ndarray
    raw: np.ndarray


def sizes_of(photos: ImageSource, rows: np.ndarray) -> PixelSizes:
    """Return how small the photos are to be made, from the size of some of them."""
    some = rows[np.unique(np.linspace(0, len(rows) - 1, SAMPLE).astype(int))]
    short = int(np.median([min(photos.read(int(row)).pixels().size) for row in some]))
    return PixelSizes(SIDE if short > SMALL_SIDE else SMALL_SIDE, min(RAW_SIDE, short))


def read_pixels(
    photos: ImageSource, rows: np.ndarray, sizes: PixelSizes, *, n_jobs: int | None, progress: Progress
) -> Pixels:
    """Return the squares of these rows: the middle of each photo, as the backbone sees it, made small."""
    parts = [rows[start : start + _AT_ONCE] for start in range(0, len(rows), _AT_ONCE)]
    found = []
    for part in Parallel(n_jobs=workers(n_jobs), prefer="threads", return_as="generator")(
        delayed(_squares)(photos, part, sizes) for part in parts
    ):
        found.append(part)
        progress.advance(STAGE, min(len(found) * _AT_ONCE, len(rows)), len(rows))
    return Pixels(*(np.concatenate(kind) for kind in zip(*found, strict=True)))


def raw_features(*parts: np.ndarray) -> list[np.ndarray]:
    """Return the pixels of each part as float32 features between 0 and 1; one channel where no image has colours."""
    grey = all((part == part[..., :1]).all() for part in parts)
    channels = 1 if grey else 3
    return [(part[..., :channels].reshape(len(part), -1) / np.float32(255)).astype(np.float32) for part in parts]


def pixels_text(sizes: PixelSizes) -> str:
    """Return what names such squares in the store: all that changes them."""
    return f"pixels {sizes.network} and {sizes.raw}, {PHOTO_RULES}, {decoder_of('exact')}"


def _squares(photos: ImageSource, rows: np.ndarray, sizes: PixelSizes) -> tuple[np.ndarray, np.ndarray]:
    network, raw = [], []
    for row in rows:
        image = photos.read(int(row)).pixels()
        network.append(_square(image, sizes.network))
        raw.append(_square(image, sizes.raw))
    return np.stack(network), np.stack(raw)


def _square(image: Image.Image, side: int) -> np.ndarray:
    return np.asarray(ImageOps.fit(image, (side, side), Image.Resampling.BILINEAR))
