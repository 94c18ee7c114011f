"""Which bytes and which names are images: read from a file's ending or its first bytes, nothing is decoded."""

from __future__ import annotations

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
