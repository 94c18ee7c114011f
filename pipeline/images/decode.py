"""From an image file's bytes to RGB pixels, by content alone, under one set of rules.

The readers of the formats are called by name, one for each first bytes: no other format that PIL knows (EPS, PSD, PDF)
can be reached, and PIL's own global limit on sizes, which warns, is not in the way of a phone's 108 megapixels.
"""

from __future__ import annotations

import importlib
import re
import struct
import warnings
from collections.abc import Callable, Iterator
from functools import cache
from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image, ImageFile, features

from pipeline.errors import SkipReason, SourceError, UnreadablePhoto
from pipeline.images.sniff import HEAD, sniff

MAX_PIXELS = 200_000_000
MAX_ASPECT = 50

# A photo of many pixels is a file of many bytes: a JPEG of one flat colour has a byte for 64 of them, a real one for 10
# or fewer. Larger than this, what has next to no bytes is no photo; up to this, nothing takes more than a gigabyte.
BOMB_PIXELS = 64_000_000
BOMB_PIXELS_A_BYTE = 50

#: What the pixels of a photo depend on besides the decoder. Change a rule, change the number: old features are then
#: not used again.
PHOTO_RULES = (
    "1: first frame; EXIF orientation applied, unless it is damaged; alpha and transparent colours composited on white;"
    " CMYK and palettes as PIL has them; ICC profiles not applied; 16-bit grey scaled by 255/65535 and rounded (12-bit"
    " by 255/4095), 16-bit colour by its high byte; 32-bit and float grey as it is within 0..255, float within 0..1 by"
    " 255, integers within 0..65535 by 255/65535, otherwise its own minimum to maximum as 0..255, not-a-number as the"
    " minimum"
)

_SILENCE = ("ignore", None, Warning, re.compile(r"PIL\."), 0)  # as `warnings` keeps it

_MODULES = {  # format: PIL's module, its class, the codec that PIL may have been built without
    "PNG": ("PngImagePlugin", "PngImageFile", "zlib"),
    "GIF": ("GifImagePlugin", "GifImageFile", None),
    "BMP": ("BmpImagePlugin", "BmpImageFile", None),
    "WEBP": ("WebPImagePlugin", "WebPImageFile", "webp"),
    "TIFF": ("TiffImagePlugin", "TiffImageFile", None),
    "PPM": ("PpmImagePlugin", "PpmImageFile", None),
    "AVIF": ("AvifImagePlugin", "AvifImageFile", "avif"),
    "JPEG2000": ("Jpeg2KImagePlugin", "Jpeg2KImageFile", "jpg_2000"),
}

FORMATS = ("JPEG", *_MODULES, "HEIC")

_TURNS = {  # EXIF orientation: what puts the photo upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def decode(data: bytes, most: int = MAX_PIXELS) -> Image.Image:
    """Return the photo's pixels as an upright RGB image.

    Parameters
    ----------
    data : bytes
        The whole file.
    most : int
        Pixels that a photo may have.

    Returns
    -------
    PIL.Image.Image
        Mode RGB, by `PHOTO_RULES`.

    Raises
    ------
    UnreadablePhoto
        EMPTY, NOT_AN_IMAGE, NO_DECODER, TOO_LARGE (over `most`, or over `BOMB_PIXELS` from too few bytes) or
        TOO_LONG (over `MAX_ASPECT` to 1), the last two from the header, before any pixel is decoded; UNREADABLE for
        whatever the decoder trips over.
    """
    if not data:
        raise UnreadablePhoto(SkipReason.EMPTY)
    found = sniff(data[:HEAD])
    if found is None:
        raise UnreadablePhoto(SkipReason.NOT_AN_IMAGE, f"begins with {data[:12]!r}")
    if ImageFile.LOAD_TRUNCATED_IMAGES:
        # Half a photo would become features without a word, and PIL keeps the switch for the whole process.
        raise SourceError(
            "photos must be read whole, but PIL.ImageFile.LOAD_TRUNCATED_IMAGES is switched on in this process",
            "set PIL.ImageFile.LOAD_TRUNCATED_IMAGES = False",
        )
    _hush()
    try:
        image = _open_heic(BytesIO(data), most) if found == "HEIC" else _opener(found)(BytesIO(data))
        check_size(*image.size, len(data), most)
        image.load()
        upright = image if found in ("TIFF", "HEIC") else _turned(image)  # those two are turned as they are read
        return to_rgb(upright)
    except UnreadablePhoto:
        raise
    except Image.DecompressionBombError as error:
        raise UnreadablePhoto(SkipReason.TOO_LARGE, _short(error)) from error
    except Exception as error:
        # Damaged bytes reach every corner of the decoders: OSError, SyntaxError, ValueError, struct.error, zlib.error,
        # IndexError and MemoryError have all been seen. None of them may end a run of a million photos.
        raise UnreadablePhoto(SkipReason.UNREADABLE, _short(error)) from error


def _hush() -> None:
    """Let PIL get over damage in silence: where a process makes errors of warnings, another would read the photo."""
    if warnings.filters[:1] != [_SILENCE]:  # the first that fits decides
        warnings.filterwarnings("ignore", module=r"PIL\.")


def check_size(width: int, height: int, size: int | None = None, most: int = MAX_PIXELS) -> None:
    """Raise `UnreadablePhoto` for a size that would blow up in memory, or in the resize.

    `size` is that of the file in bytes, where there is one; `most` the pixels that a photo may have.
    """
    if width < 1 or height < 1:
        raise UnreadablePhoto(SkipReason.UNREADABLE, f"{width} x {height} pixels")
    if width * height > most:
        raise UnreadablePhoto(SkipReason.TOO_LARGE, f"{width} x {height} pixels")
    if size is not None and width * height > max(BOMB_PIXELS, size * BOMB_PIXELS_A_BYTE):
        raise UnreadablePhoto(SkipReason.TOO_LARGE, f"{width} x {height} pixels from {size:,} bytes")
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise UnreadablePhoto(SkipReason.TOO_LONG, f"{width} x {height} pixels")


def to_rgb(image: Image.Image) -> Image.Image:
    """Return the image in mode RGB by `PHOTO_RULES`; an RGB image comes back itself."""
    if image.mode[0] in "IF":
        return _narrowed(image).convert("RGB")
    if image.has_transparency_data:
        return _on_white(image)
    return image if image.mode == "RGB" else image.convert("RGB")


@cache
def _opener(found: str) -> Callable[[BytesIO], Image.Image]:
    """Return what makes an unread PIL image of a file in the format; PIL's modules load on first use."""
    if found == "JPEG":
        return _jpeg_class()
    module, name, codec = _MODULES[found]
    if codec and not features.check(codec):
        raise UnreadablePhoto(SkipReason.NO_DECODER, f"this Pillow was built without {found}")
    return getattr(importlib.import_module(f"PIL.{module}"), name)


def _jpeg_class() -> Callable[[BytesIO], Image.Image]:
    from PIL.JpegImagePlugin import JpegImageFile

    class Jpeg(JpegImageFile):
        """A JPEG whose EXIF block is not searched for a print resolution, which costs time and warns."""

        def _read_dpi_from_exif(self) -> None:
            return None

    return Jpeg


def _open_heic(file: BytesIO, most: int) -> Image.Image:
    try:
        import pillow_heif
    except ImportError:
        raise UnreadablePhoto(SkipReason.NO_DECODER, "a HEIC photo: pip install 'transfer-pipeline[heif]'") from None
    photo = pillow_heif.open_heif(file, convert_hdr_to_8bit=True)
    width, height = photo.size
    check_size(width, height, file.getbuffer().nbytes, most)  # to_pillow decodes; opening did not
    return photo.to_pillow()


def _turned(image: Image.Image) -> Image.Image:
    turn = _TURNS.get(exif_orientation(image.info.get("exif", b"")))
    return image if turn is None else image.transpose(turn)


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


def _on_white(image: Image.Image) -> Image.Image:
    rgba = image if image.mode == "RGBA" else image.convert("RGBA")
    lowest, _ = rgba.getchannel("A").getextrema()
    if lowest == 255:
        return rgba.convert("RGB")
    white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
    return Image.alpha_composite(white, rgba).convert("RGB")


@np.errstate(all="ignore")  # numpy warns of signalling not-a-numbers and of the largest floats
def _narrowed(image: Image.Image) -> Image.Image:
    """Return 16-bit, 32-bit or float grey as 8-bit grey: scaled, never clipped."""
    values = np.asarray(image)  # (h, w)
    if image.mode.startswith("I;16"):
        tags = getattr(image, "tag_v2", {})
        grey = _sixteen(4095 if tags.get(258) == (12,) else 65535)[values]
        if tags.get(262) == 0:  # TIFF's "white is zero", which PIL turns for 8 bits alone
            grey = 255 - grey
        if isinstance(clear := image.info.get("transparency"), int):
            grey[values == clear] = 255  # the transparent grey, on white
        return Image.fromarray(grey)
    if image.mode == "I" and image.format == "PPM":  # PIL has scaled these to 65,535 already
        return Image.fromarray(_sixteen(65535)[values])
    low, high = _range(values)
    if image.mode == "F" and low >= 0 and high <= 1:
        bottom, top = 0.0, 1.0
    elif low >= 0 and high <= 255:
        bottom, top = 0.0, 255.0
    elif image.mode == "I" and low >= 0 and high <= 65535:
        bottom, top = 0.0, 65535.0
    else:
        bottom, top = low, high
    span = top - bottom
    grey = np.zeros(values.shape, np.uint8)
    if 0 < span < np.inf:
        for some in _bands(values):
            filled = np.nan_to_num(values[some].astype(np.float64), nan=bottom, posinf=top, neginf=bottom)
            grey[some] = np.rint((filled - bottom) * (255 / span))
    return Image.fromarray(grey)


def _range(values: np.ndarray) -> tuple[float, float]:
    """Return the lowest and the highest value that is finite; zeros where none is."""
    low, high = np.inf, -np.inf
    for some in _bands(values):
        finite = values[some][np.isfinite(values[some])]
        if finite.size:
            low, high = min(low, float(finite.min())), max(high, float(finite.max()))
    return (low, high) if low <= high else (0.0, 0.0)


def _bands(values: np.ndarray) -> Iterator[slice]:
    """Give the rows of an image a megapixel at a time: as float64, a large one would take gigabytes."""
    rows = max(1, (1 << 20) // values.shape[1])
    for start in range(0, len(values), rows):
        yield slice(start, start + rows)


@cache
def _sixteen(top: int) -> np.ndarray:
    """Return the 8-bit grey of each 16-bit value, (65536,): `top` is white."""
    values = np.arange(65536, dtype=np.uint32)
    return np.minimum((values * 255 + top // 2) // top, 255).astype(np.uint8)


def _short(error: Exception) -> str:
    """Return the error in one short line."""
    text = " ".join(str(error).split())[:120]
    return text or type(error).__name__
