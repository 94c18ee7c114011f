"""From an RGB photo to the square of pixels that a network wants: torchvision's preset, made with PIL alone."""

from __future__ import annotations

import math
from functools import cache
from io import BytesIO
from types import ModuleType
from typing import Any

import numpy as np
from PIL import Image

from pipeline.errors import SourceError
from pipeline.images import rgb
from pipeline.images.decode import MAX_PIXELS, decode_reduced, jpeg_size, reduced_scale
from pipeline.images.photo import Photo
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


_FILTERS = {  # interpolation: its name over there and its reach in pixels of the smaller image; of smooth filters alone
    "bilinear": ("bilinear", 1.0),
    "bicubic": ("catmull_rom", 2.0),
    "lanczos": ("lanczos3", 3.0),
}

# PIL resizes across first and then down, except (from Pillow 13) photos of which the height shrinks by more than twice
# as many pixels as the width, and the grey levels clipped in between are then others.
_TALL = 1.9

_STRIP = 1 << 20  # bytes of a photo that are handed over at once: a large photo is never copied whole


def can_resize_fast(size: tuple[int, int], how: Preprocessing) -> bool:
    """Return whether photos of this size are resized by the library, or by PIL because it would do otherwise."""
    (wide, high), _ = placement(size, how)
    width, height = size
    return (
        how.interpolation in _FILTERS
        and size != (wide, high)
        and how.crop <= min(wide, high)
        and height <= _TALL * width
    )


def preprocess_fast(
    image: Image.Image,
    how: Preprocessing,
    size: tuple[int, int] | None = None,
    box: tuple[float, float, float, float] | None = None,
) -> np.ndarray:
    """Return what `preprocess` does, the same or next to it in every grey level.

    Parameters
    ----------
    image : PIL.Image.Image
        Mode RGB.
    how : Preprocessing
    size : tuple of int, optional
        Width and height of the photo, where the image is the photo at a reduced scale: they determine the crop.
    box : tuple of float, optional
        ``(left, top, right, bottom)`` of the photo in the image; by default the whole image.

    Returns
    -------
    ndarray of uint8, (crop, crop, 3)
        Read-only. `preprocess`'s own pixels where there is nothing to resize, where the crop is larger than the
        resized photo, for tall photos, and for interpolations that the library does not have.

    Raises
    ------
    SourceError
        The library is not installed.
    """
    size = size or image.size
    if not can_resize_fast(size, how):
        return preprocess(image, how)
    (wide, high), (left, top) = placement(size, how)
    x, y, right, bottom = box or (0.0, 0.0, float(image.width), float(image.height))
    library = resizing_library()
    name, reach = _FILTERS[how.interpolation]
    width = image.width
    scale_x, scale_y = (right - x) / wide, (bottom - y) / high  # pixels of the image per pixel of the crop
    margin = reach * max(scale_y, 1) + 1
    first = max(0, math.floor(y + top * scale_y - margin))
    last = min(image.height, math.ceil(y + (top + how.crop) * scale_y + margin))
    resizer = library.Resizer()

    def resized(pixels: bytes, size: tuple[int, int], box: tuple[float, ...], target: tuple[int, int]) -> bytes:
        """Return the pixels of `target`'s size in ``(left, top, width, height)`` of the image of `size`."""
        options = library.ResizeOptions(
            resize_alg=library.ResizeAlg.convolution(library.FilterType[name]),
            crop_box=library.CropBox(*box),
            use_alpha=False,
        )
        made = library.ImageData(*target, library.PixelType.U8x4)
        resizer.resize(library.ImageData(*size, library.PixelType.U8x4, pixels), made, options)
        return made.get_buffer()

    # Each row for itself, so in strips; nothing is resized down here.
    strips = []
    at_once = max(1, _STRIP // (4 * width))
    for start in range(first, last, at_once):
        rows = min(at_once, last - start)
        strip = image.crop((0, start, width, start + rows)).tobytes("raw", "RGBX")
        across = (x + left * scale_x, 0, min(how.crop * scale_x, width), rows)
        strips.append(resized(strip, (width, rows), across, (how.crop, rows)))
    down = (0, y + top * scale_y - first, how.crop, min(how.crop * scale_y, last - first))
    square = resized(b"".join(strips), (how.crop, last - first), down, (how.crop, how.crop))
    return np.frombuffer(square, np.uint8).reshape(how.crop, how.crop, 4)[:, :, :3]


@cache
def resizing_library() -> ModuleType | Any:
    """Return the package that resizes, or say how to get it."""
    try:
        import cykooz_resizer
    except ImportError as error:
        raise SourceError(
            "--decode fast: expected the package cykooz-resizer, got none",
            "pip install 'transfer-pipeline[fast]', or --decode exact",
        ) from error
    return cykooz_resizer


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


#: How photos may become pixels.
DECODES = ("exact", "fast")

#: `--decode fast` as it was before large JPEGs were decoded at a reduced scale. Models that were fitted with it still
#: predict with it.
FAST_FULL_SIZE = "fast-full-size"

# Short side that a JPEG keeps at a reduced scale, as a multiple of the side that it is resized to. Decision 39 has the
# measurements.
REDUCED_SIDE = 2


def is_reduced(content: bytes | np.ndarray, how: Preprocessing) -> bool:
    """Return whether `--decode fast` decodes this file at a reduced scale; only its header is read."""
    size = jpeg_size(content)
    return size is not None and _scale_of(size, how) > 1


def _scale_of(size: tuple[int, int], how: Preprocessing) -> int:
    """Return the scale at which `--decode fast` decodes a JPEG of this width and height, 1 for the full size."""
    # PIL resizes at full size alone, and the orientation may exchange the sides.
    reducible = can_resize_fast(size, how) and can_resize_fast((size[1], size[0]), how)
    return reduced_scale(size, REDUCED_SIDE * how.resize) if reducible else 1


def _prepare_exact(photo: Photo, how: Preprocessing, most: int) -> tuple[np.ndarray, Image.Image]:
    image = photo.pixels(most)
    return preprocess(image, how), image


def _prepare_fast(photo: Photo, how: Preprocessing, most: int) -> tuple[np.ndarray, Image.Image]:
    if not isinstance(photo.content, bytes):
        return _prepare_full_size(photo, how, most)
    reduced = decode_reduced(photo.content, lambda size: _scale_of(size, how), most)
    return preprocess_fast(reduced.image, how, reduced.size, reduced.box), reduced.image


def _prepare_full_size(photo: Photo, how: Preprocessing, most: int) -> tuple[np.ndarray, Image.Image]:
    image = photo.pixels(most)
    return preprocess_fast(image, how), image


_PREPARE = {"exact": _prepare_exact, "fast": _prepare_fast, FAST_FULL_SIZE: _prepare_full_size}


def prepare(photo: Photo, how: Preprocessing, decode: str = "exact") -> tuple[np.ndarray, np.ndarray]:
    """Return the photo's pixels for the network, and its statistics.

    Parameters
    ----------
    photo : Photo
    how : Preprocessing
    decode : {"exact", "fast"}
        ``exact`` gives torchvision's pixels bit for bit. ``fast`` gives those of `preprocess_fast`; a JPEG with a short
        side of at least ``2 * REDUCED_SIDE * how.resize`` pixels is decoded at a half, a quarter or an eighth of its
        size, and its statistics are those of the smaller image.

    Returns
    -------
    pixels : ndarray of uint8, (crop, crop, 3)
    statistics : ndarray of float32, (12,)

    Raises
    ------
    UnreadableImage
        With the reason, the same one in both modes.
    """
    pixels, image = _PREPARE[decode](photo, how, MAX_PIXELS)
    return pixels, pixel_statistics(image)


def squared(photo: Photo, how: Preprocessing, decode: str = "exact", *, most_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Return the photo's pixels for the network alone, as `prepare` does, of a photo of so many pixels at the most."""
    return _PREPARE[decode](photo, how, most_pixels)[0]


SIDE = 160  # pixels of the long side
QUALITY = 80


def thumbnail(photo: Photo, side: int = SIDE) -> bytes:
    """Return the photo as a small upright JPEG, none of the original's metadata in it.

    Raises
    ------
    UnreadableImage
        With the reason.
    """
    if isinstance(photo.content, bytes):
        image = decode_reduced(photo.content, lambda size: reduced_scale(size, 2 * side)).image
    else:
        image = photo.pixels()
    image.thumbnail((side, side))  # in place, and never larger than it was
    image.info.clear()  # where and when a photo was taken is not what it shows
    small = BytesIO()
    image.save(small, "JPEG", quality=QUALITY)
    return small.getvalue()
