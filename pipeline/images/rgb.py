"""From any PIL image to upright 8-bit RGB, and to the square of pixels that a network takes.

This file needs numpy and Pillow alone. Exports carry a copy of it, so that an exported model reads a transparent, a
CMYK or a 16-bit photo exactly as `pipeline predict` does.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import Image

_FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "nearest-exact": Image.Resampling.NEAREST,
    "box": Image.Resampling.BOX,
    "bilinear": Image.Resampling.BILINEAR,
    "hamming": Image.Resampling.HAMMING,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}

_TURNS = {  # EXIF orientation: what puts the photo upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

_TURNED_ALREADY = ("TIFF", "HEIF")  # their readers apply the orientation

# TIFF's tags
_BITS, _PHOTOMETRIC, _SAMPLE_FORMAT, _NO_DATA = 258, 262, 339, 42113

SIXTEEN = 65535.0


def upright_rgb(image: Image.Image) -> Image.Image:
    """Return an image as it was opened, in mode RGB and upright: `to_rgb`, then the EXIF orientation."""
    image.load()
    exif = image.info.get("exif", b"")
    turn = None if image.format in _TURNED_ALREADY else _TURNS.get(exif_orientation(exif))
    rgb = to_rgb(image)
    return rgb if turn is None else rgb.transpose(turn)


def to_rgb(image: Image.Image) -> Image.Image:
    """Return the image in mode RGB by the rules in `PHOTO_RULES`; an RGB image comes back itself.

    Raises
    ------
    ValueError
        An image of floats without one finite value.
    """
    if image.mode[0] in "IF":
        return _grey(image).convert("RGB")
    if image.has_transparency_data:
        return _on_white(image)
    return image if image.mode == "RGB" else image.convert("RGB")


def _on_white(image: Image.Image) -> Image.Image:
    rgba = image if image.mode == "RGBA" else image.convert("RGBA")
    lowest, _ = rgba.getchannel("A").getextrema()
    if lowest == 255:
        return rgba.convert("RGB")
    white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
    return Image.alpha_composite(white, rgba).convert("RGB")


def grey_range(low: float, high: float, unit: float) -> tuple[float, float]:
    """Return the values that become black and white in an image of these lowest and highest values.

    Continuous in both values: two images that are nearly the same look nearly the same.

    Parameters
    ----------
    low, high : float
        The lowest and the highest finite value.
    unit : float
        The shortest range: 1 for floats, 255 for integers.

    Examples
    --------
    >>> grey_range(0.1, 0.9, 1)  # floats within 0..1
    (0.0, 1.0)
    >>> grey_range(0.0, 4095.0, 255)  # 12 bits
    (0.0, 4095.0)
    >>> grey_range(-3.0, 9.0, 1)
    (-3.0, 9.0)
    >>> grey_range(280.0, 310.0, 1)  # a small range far from zero keeps its contrast
    (250.0, 310.0)
    """
    from_zero = max(high, 0.0) - min(low, 0.0)
    span = max(unit, max(abs(low), abs(high)) / 16, min(from_zero, 2 * (high - low)))
    black = float(low) if low < 0 else max(0.0, high - span)
    return black, black + span


@np.errstate(all="ignore")  # numpy warns of signalling not-a-numbers and of the largest floats
def _grey(image: Image.Image) -> Image.Image:
    """Return 16-bit, 32-bit or float grey as 8-bit grey: scaled, never clipped."""
    tags = getattr(image, "tag_v2", {})
    values = np.asarray(image)  # (h, w)
    if image.mode == "I" and tags.get(_BITS) == (32,) and tags.get(_SAMPLE_FORMAT, (1,)) == (1,):
        values = values.view(np.uint32)  # Pillow has no mode for them
    no_data = _no_data(tags)
    declared = _declared_white(image, tags)
    if declared is not None:
        black, white = 0.0, declared
    else:
        low, high = _range(values, no_data)
        black, white = grey_range(low, high, 1.0 if image.mode == "F" else 255.0)
        if image.mode.startswith("I;16"):
            # Values of 14 bits or fewer are taken for such; those that use the 16th bit are scaled by all 16 bits.
            share = min(max(high / 16384 - 1, 0.0), 1.0)
            black, white = (1 - share) * black, (1 - share) * white + share * SIXTEEN
    grey = np.zeros(values.shape, np.uint8)
    for rows in _bands(values):
        band = values[rows].astype(np.float64)
        if no_data is not None:
            band[band == no_data] = np.nan
        band = np.nan_to_num(band, nan=black, posinf=white, neginf=black)
        grey[rows] = np.rint((band - black) * 255 / (white - black)).clip(0, 255)
    if tags.get(_PHOTOMETRIC) == 0:  # TIFF's "white is zero", which Pillow turns for 8 bits alone
        grey = 255 - grey
    if isinstance(clear := image.info.get("transparency"), int):
        grey[values == clear] = 255  # the transparent grey, on white
    return Image.fromarray(grey)


def _declared_white(image: Image.Image, tags: Any) -> float | None:
    """Return the value that the file itself declares to be white, None where it declares none."""
    if tags.get(_BITS) == (12,):
        return 4095.0
    # Pillow has scaled these two to 16 bits by the range in their header.
    declares = (image.format == "PPM" and image.mode == "I") or image.format == "JPEG2000"
    return SIXTEEN if declares else None


def _no_data(tags: Any) -> float | None:
    """Return the value that a GeoTIFF uses for pixels without one, None where it names none."""
    try:
        return float(str(tags[_NO_DATA]).strip().strip("\0"))
    except (KeyError, ValueError):
        return None


def _range(values: np.ndarray, no_data: float | None) -> tuple[float, float]:
    """Return the lowest and the highest value that is finite."""
    low, high = np.inf, -np.inf
    for rows in _bands(values):
        band = values[rows]
        good = np.isfinite(band) if no_data is None else np.isfinite(band) & (band.astype(np.float64) != no_data)
        if good.any():
            low, high = min(low, float(band[good].min())), max(high, float(band[good].max()))
    if low > high:
        raise ValueError(f"none of its {values.size:,} values is a finite number")
    return low, high


def _bands(values: np.ndarray) -> Iterator[slice]:
    """Give the rows of an image a megapixel at a time: as float64, a large one would take gigabytes."""
    rows = max(1, (1 << 20) // values.shape[1])
    for start in range(0, len(values), rows):
        yield slice(start, start + rows)


def exif_orientation(exif: Any) -> int:
    """Return the orientation (1 to 8) in a block of EXIF; 1 where there is none or the block is damaged.

    Read here because PIL's reader warns of damage, and a warning's fate is the whole process's to choose.
    """
    if not isinstance(exif, bytes):
        return 1
    block = exif.removeprefix(b"Exif\0\0")
    order = {b"II": "<", b"MM": ">"}.get(block[:2])
    if order is None:
        return 1
    try:
        (start,) = struct.unpack_from(order + "I", block, 4)
        (count,) = struct.unpack_from(order + "H", block, start)
        for entry in range(start + 2, start + 2 + 12 * count, 12):
            tag, kind = struct.unpack_from(order + "HH", block, entry)
            if tag == 0x0112:
                (value,) = struct.unpack_from(order + ("I" if kind == 4 else "H"), block, entry + 8)
                return value if 1 <= value <= 8 else 1
    except struct.error:
        return 1
    return 1


def square(image: Image.Image, resize: int, crop: int, interpolation: str) -> np.ndarray:
    """Return an RGB image resized to `resize` on its short side, its centre cut out: uint8 (crop, crop, 3), read-only.

    Where the crop is larger than the resized image, the border is black.
    """
    size, (left, top) = placement(image.size, resize, crop)
    if size != image.size:
        image = image.resize(size, _FILTERS[interpolation])
    if (left, top) != (0, 0) or size != (crop, crop):
        image = image.crop((left, top, left + crop, top + crop))  # outside the image PIL puts black
    return np.asarray(image)


def placement(size: tuple[int, int], resize: int, crop: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return the size an image of `size` is resized to, and the left and top of the crop in it."""
    width, height = size
    short, long = sorted(size)
    long = int(resize * long / short)  # truncated, not rounded
    resized = (resize, long) if width <= height else (long, resize)
    return resized, (_corner(resized[0], crop), _corner(resized[1], crop))


def _corner(side: int, crop: int) -> int:
    """Return where the crop begins; below zero where torchvision would pad."""
    return -((crop - side) // 2) if crop > side else round((side - crop) / 2.0)
