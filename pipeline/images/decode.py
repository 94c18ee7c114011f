"""How an image file's bytes become RGB pixels: by content alone, under one set of rules.

The readers of the formats are called by name, one for each first bytes: no other format that PIL knows (EPS, PSD, PDF)
can be reached, and PIL's own global limit on sizes, which warns, is not in the way of a phone's 108 megapixels.
"""

from __future__ import annotations

import importlib
import re
import warnings
from collections.abc import Callable
from functools import cache
from io import BytesIO
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageFile, features

from pipeline.errors import SkipReason, SourceError, UnreadableImage
from pipeline.images.rgb import exif_orientation, upright_rgb

HEAD = 32  # bytes that `sniff` wants to see

# fmt: off
IMAGE_ENDINGS = frozenset((
    "jpg", "jpeg", "jpe", "jfif", "mpo", "png", "apng", "gif", "bmp", "dib", "webp", "tif", "tiff", "ppm", "pgm", "pbm",
    "pnm", "avif", "avifs", "heic", "heif", "hif", "jp2", "j2k", "jpf", "jpx",
))

# A raw file is a TIFF whose first picture is a thumbnail: to read it would put a stamp in the photo's place.
RAW_ENDINGS = frozenset((
    "3fr", "arw", "cr2", "cr3", "dcr", "dng", "erf", "fff", "iiq", "kdc", "mef", "mos", "mrw", "nef", "nrw", "orf",
    "pef", "raf", "raw", "rw2", "rwl", "sr2", "srf", "srw", "x3f",
))
# fmt: on

_HEIC_BRANDS = frozenset((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1"))
_BMP_HEADERS = frozenset((12, 16, 40, 52, 56, 64, 108, 124))  # the sizes a BMP's second header can have


def ending(name: str) -> str:
    """Return the lower-case ending of a file's name, without the dot: "" where it has none."""
    stem, dot, tail = name.rpartition(".")
    return tail.lower() if dot and stem else ""


def sniff(head: bytes) -> str | None:
    """Return the format that a file's first `HEAD` bytes announce, or None where they announce no image.

    Parameters
    ----------
    head : bytes
        The first bytes of the file; fewer than `HEAD` only where the file is shorter.

    Returns
    -------
    str or None
        "JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM", "AVIF", "HEIC" or "JPEG2000".
    """
    if head.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if head.startswith((b"GIF87a", b"GIF89a")):
        return "GIF"
    if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
        return "WEBP"
    if head.startswith((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")):  # the last two are BigTIFF
        return "TIFF"
    if head.startswith(b"BM") and int.from_bytes(head[14:18], "little") in _BMP_HEADERS:
        return "BMP"
    if len(head) > 3 and head[:1] == b"P" and head[1:2] in b"123456" and head[2:3].isspace():
        # "P6 640", or a comment: a sentence that begins "P1 is" is no picture.
        return "PPM" if head[3:4].isdigit() or head[3:4] == b"#" or head[3:4].isspace() else None
    if head[4:8] == b"ftyp":
        return _sniff_boxes(head)
    if head.startswith((b"\0\0\0\x0cjP  \r\n\x87\n", b"\xff\x4f\xff\x51")):
        return "JPEG2000"
    return None


def _sniff_boxes(head: bytes) -> str | None:
    """Return "AVIF" or "HEIC" for the brands of an ISO media file; films have the same first box."""
    brands = {head[8:12], *(head[start : start + 4] for start in range(16, len(head) - 3, 4))}
    if brands & {b"avif", b"avis"}:  # before mif1, which an AVIF may bear too
        return "AVIF"
    return "HEIC" if brands & _HEIC_BRANDS else None


MAX_PIXELS = 200_000_000
MAX_ASPECT = 50

# A photo of many pixels is a file of many bytes: a JPEG of one flat colour has a byte for 64 of them, a real one for 10
# or fewer. Larger than this, what has next to no bytes is no photo; up to this, nothing takes more than a gigabyte.
BOMB_PIXELS = 64_000_000
BOMB_PIXELS_A_BYTE = 50

#: The rules that determine the pixels of a photo, besides the decoder. A changed rule gets the next number. Features
#: made under an earlier number are used again for the photos that the change does not touch: see `reads_alike`.
PHOTO_RULES = (
    "2: first frame; EXIF orientation applied, unless it is damaged; alpha and transparent colours composited on white;"
    " CMYK and palettes as PIL has them; ICC profiles not applied; 16-bit colour by its high byte; grey of 16 bits, 32"
    " bits or floats scaled to 0..255 and rounded: by the range that the file declares (12-bit TIFF, PGM, JPEG 2000),"
    " otherwise from zero to the image's highest value, from its lowest where that is negative, this range being at"
    " most twice that of the values and at least 1 for floats, 255 for integers, and a sixteenth of the largest value;"
    " 16-bit images of which the highest value is 32768 or more by 255/65535, with a linear passage from 16384 on;"
    " infinities as black and white, not-a-number and a GeoTIFF's no-data value as black; no finite value: unreadable"
)

# Earlier rules whose features may be used again, all that a recipe says of them.
_RULES_1 = (
    "1: first frame; EXIF orientation applied, unless it is damaged; alpha and transparent colours composited on white;"
    " CMYK and palettes as PIL has them; ICC profiles not applied; 16-bit grey scaled by 255/65535 and rounded (12-bit"
    " by 255/4095), 16-bit colour by its high byte; 32-bit and float grey as it is within 0..255, float within 0..1 by"
    " 255, integers within 0..65535 by 255/65535, otherwise its own minimum to maximum as 0..255, not-a-number as the"
    " minimum"
)
EARLIER_RULES = (_RULES_1,)

#: The photos that `EARLIER_RULES` and `PHOTO_RULES` read differently, in words.
CHANGED_PHOTOS = "grey PNG and TIFF photos of 16 bits, 32 bits or floats"

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
    UnreadableImage
        EMPTY, NOT_AN_IMAGE, NO_DECODER, TOO_LARGE (over `most`, or over `BOMB_PIXELS` from too few bytes) or
        TOO_LONG (over `MAX_ASPECT` to 1), the last two from the header, before any pixel is decoded; UNREADABLE for
        whatever the decoder trips over.
    """
    return decode_reduced(data, most=most).image


class ReducedPhoto(NamedTuple):
    """A photo that was decoded at a reduced scale.

    Attributes
    ----------
    image : PIL.Image.Image
        Upright, mode RGB.
    size : tuple of int
        Width and height of the upright photo at full size.
    scale : int
        1, 2, 4 or 8: pixels of the photo per pixel of the image.
    box : tuple of float
        ``(left, top, right, bottom)`` of the photo in the image. The image is larger than ``size / scale`` where the
        size is not a multiple of the scale: libjpeg fills the last column and row up.
    """

    image: Image.Image
    size: tuple[int, int]
    scale: int
    box: tuple[float, float, float, float]


SCALES = (8, 4, 2)  # at which libjpeg can decode, coarsest first


def reduced_scale(size: tuple[int, int], side: int) -> int:
    """Return the coarsest scale at which a JPEG's short side keeps at least `side` pixels: 8, 4, 2 or 1.

    Examples
    --------
    >>> reduced_scale((4000, 3000), 512)  # 1000 x 750
    4
    >>> reduced_scale((640, 480), 512)
    1
    """
    return next((scale for scale in SCALES if min(size) >= side * scale), 1)


def jpeg_size(content: bytes | np.ndarray) -> tuple[int, int] | None:
    """Return width and height of a JPEG from its header, before its orientation is applied; None for anything else."""
    if not isinstance(content, bytes) or sniff(content[:HEAD]) != "JPEG":
        return None
    _silence_pillow()
    try:
        return _opener("JPEG")(BytesIO(content)).size
    except Exception:  # damaged: it has no pixels at any scale
        return None


def decode_reduced(
    data: bytes, scale_of: Callable[[tuple[int, int]], int] | None = None, most: int = MAX_PIXELS
) -> ReducedPhoto:
    """Return the photo's pixels as `decode` does, a JPEG decoded by libjpeg at a reduced scale.

    Parameters
    ----------
    data : bytes
        The whole file.
    scale_of : callable, optional
        Returns the scale for a JPEG of a width and a height, which are those before its orientation is applied: see
        `reduced_scale`. By default, and for other formats, photos are decoded at full size.
    most : int
        Pixels that a photo may have at full size.

    Raises
    ------
    UnreadableImage
        As `decode`.
    """
    if not data:
        raise UnreadableImage(SkipReason.EMPTY)
    found = sniff(data[:HEAD])
    if found is None:
        raise UnreadableImage(SkipReason.NOT_AN_IMAGE, f"begins with {data[:12]!r}")
    if ImageFile.LOAD_TRUNCATED_IMAGES:
        # Half a photo would become features without a word, and PIL keeps the switch for the whole process.
        raise SourceError(
            "photos must be read whole, but PIL.ImageFile.LOAD_TRUNCATED_IMAGES is switched on in this process",
            "set PIL.ImageFile.LOAD_TRUNCATED_IMAGES = False",
        )
    _silence_pillow()
    try:
        image = _open_heic(BytesIO(data), most) if found == "HEIC" else _opener(found)(BytesIO(data))
        size = image.size
        check_size(*size, len(data), most)
        if found == "HEIC":
            image.format = "HEIF"  # `upright_rgb` is to know that it is upright
        scale = scale_of(size) if scale_of and found == "JPEG" else 1
        if scale > 1:
            image.draft(None, (size[0] // scale, size[1] // scale))
            orientation = exif_orientation(image.info.get("exif", b""))
            size, box = _upright_box(size, scale, image.size, orientation)
            return ReducedPhoto(upright_rgb(image), size, scale, box)
        upright = upright_rgb(image)
        return ReducedPhoto(upright, upright.size, 1, (0.0, 0.0, float(upright.width), float(upright.height)))
    except UnreadableImage:
        raise
    except Image.DecompressionBombError as error:
        raise UnreadableImage(SkipReason.TOO_LARGE, _short(error)) from error
    except Exception as error:
        # Damaged bytes reach every corner of the decoders: OSError, SyntaxError, ValueError, struct.error, zlib.error,
        # IndexError and MemoryError have all been seen. None of them may end a run of a million photos.
        raise UnreadableImage(SkipReason.UNREADABLE, _short(error)) from error


def _upright_box(
    size: tuple[int, int], scale: int, reduced: tuple[int, int], orientation: int
) -> tuple[tuple[int, int], tuple[float, float, float, float]]:
    """Return the upright photo's full size, and its box in the upright reduced image.

    Before the image is turned, the photo begins in its upper left corner.
    """
    width, height = size[0] / scale, size[1] / scale
    # Whether rows and columns are exchanged, and whether the stored right and bottom are then the left and the top.
    exchanged = orientation in (5, 6, 7, 8)
    mirrored_x, mirrored_y = orientation in (2, 3, 6, 7), orientation in (3, 4, 7, 8)
    wide, high = reduced
    if exchanged:
        size, (width, height), (wide, high) = (size[1], size[0]), (height, width), (high, wide)
    left, top = (wide - width) * mirrored_x, (high - height) * mirrored_y
    return size, (left, top, left + width, top + height)


def _silence_pillow() -> None:
    """Ignore PIL's warnings of damage: a process that turns warnings into errors must read the same images."""
    if warnings.filters[:1] != [_SILENCE]:  # the first that fits decides
        warnings.filterwarnings("ignore", module=r"PIL\.")


def check_size(width: int, height: int, size: int | None = None, most: int = MAX_PIXELS) -> None:
    """Raise `UnreadableImage` for a size that would blow up in memory, or in the resize.

    `size` is that of the file in bytes, where there is one; `most` the pixels that a photo may have.
    """
    if width < 1 or height < 1:
        raise UnreadableImage(SkipReason.UNREADABLE, f"{width} x {height} pixels")
    if width * height > most:
        raise UnreadableImage(SkipReason.TOO_LARGE, f"{width} x {height} pixels")
    if size is not None and width * height > max(BOMB_PIXELS, size * BOMB_PIXELS_A_BYTE):
        raise UnreadableImage(SkipReason.TOO_LARGE, f"{width} x {height} pixels from {size:,} bytes")
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise UnreadableImage(SkipReason.TOO_LONG, f"{width} x {height} pixels")


def reads_alike(content: bytes | np.ndarray, rules: str) -> bool:
    """Return whether a photo has the same pixels under these rules as under `PHOTO_RULES`; no pixel is decoded.

    Parameters
    ----------
    content : bytes or ndarray
        The whole file, or pixels.
    rules : str
        The text of `PHOTO_RULES` in this or an earlier version; photos under any other text are not alike.
    """
    if rules == PHOTO_RULES:
        return True
    if rules not in EARLIER_RULES:
        return False
    if not isinstance(content, bytes):
        return True  # pixels of 8 bits
    found = sniff(content[:HEAD])
    if found == "PNG":
        # Bit depth and colour type: the first fields of the header, which is always the first chunk.
        return content[12:16] != b"IHDR" or content[24:26] != b"\x10\x00"
    if found != "TIFF":
        return True
    _silence_pillow()
    try:
        return _opener(found)(BytesIO(content)).mode[0] not in "IF"
    except Exception:  # damaged: it fails under both rules, or is read once more
        return False


@cache
def _opener(found: str) -> Callable[[BytesIO], Image.Image]:
    """Return what makes an unread PIL image of a file in the format; PIL's modules load on first use."""
    if found == "JPEG":
        return _jpeg_class()
    module, name, codec = _MODULES[found]
    if codec and not features.check(codec):
        raise UnreadableImage(SkipReason.NO_DECODER, f"this Pillow was built without {found}")
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
        raise UnreadableImage(SkipReason.NO_DECODER, "a HEIC photo: pip install 'transfer-pipeline[heif]'") from None
    photo = pillow_heif.open_heif(file, convert_hdr_to_8bit=True)
    width, height = photo.size
    check_size(width, height, file.getbuffer().nbytes, most)  # to_pillow decodes; opening did not
    return photo.to_pillow()


def _short(error: Exception) -> str:
    """Return the error in one short line."""
    text = " ".join(str(error).split())[:120]
    return text or type(error).__name__
