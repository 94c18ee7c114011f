"""Photos of every kind, and what becomes of them on a bad day: seeds and their mutations, each by its number."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping
from functools import cache
from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image, features

_RUBBISH = [b"\0", b"\xff", b"\x7f\xff", b"\xff\xff\xff\xff", b"\0\0\0\0", b"\x80\0\0\0", b"\x7f\xff\xff\xff", b"\x01"]


@cache
def seeds() -> Mapping[str, bytes]:
    """Return ``{file name: content}`` of whole photos in every format and mode, and of bombs."""
    return {**_photos(), **_turned(), **_bombs()}


def mutation(number: int) -> tuple[str, bytes]:
    """Return the photo of this number: a seed, damaged in one to three ways; its name has the seed's ending."""
    rng = np.random.default_rng([20261125, number])
    names = sorted(seeds())
    name = names[number % len(names)]
    data = seeds()[name]
    for _ in range(int(rng.integers(1, 4))):
        data = _damaged(data, seeds()[names[int(rng.integers(len(names)))]], rng)
    if data.startswith(b"\x89PNG") and rng.random() < 0.5:
        data = with_right_crcs(data)  # otherwise no damage gets past the check of its chunk
    stem, _, ending = name.rpartition(".")
    return f"{number:05d}-{stem}.{ending}", data


def _damaged(data: bytes, other: bytes, rng: np.random.Generator) -> bytes:
    changed = bytearray(data)
    size = max(1, len(data))
    at = int(rng.integers(size))
    match int(rng.integers(8)):
        case 0:  # a few flipped bits
            for place in rng.integers(size, size=int(rng.integers(1, 17))).tolist():
                changed[place : place + 1] = bytes(
                    byte ^ 1 << int(rng.integers(8)) for byte in changed[place : place + 1]
                )
        case 1:  # in the header, where sizes, offsets and counts are
            at = int(rng.integers(min(size, 96)))
            changed[at : at + 1] = rng.bytes(1)
        case 2:  # a number that is as large, as small or as negative as can be
            at = int(rng.integers(min(size, 512)))
            rubbish = _RUBBISH[int(rng.integers(len(_RUBBISH)))]
            changed[at : at + len(rubbish)] = rubbish
        case 3:
            del changed[at:]
        case 4:  # a piece is missing
            del changed[at : at + int(rng.integers(1, 200))]
        case 5:  # a piece is there twice
            changed[at:at] = changed[at : at + int(rng.integers(1, 200))]
        case 6:  # a piece of another photo
            start = int(rng.integers(max(1, len(other))))
            changed[at : at + int(rng.integers(0, 100))] = other[start : start + int(rng.integers(1, 400))]
        case 7:
            changed[at : at + 40] = rng.bytes(40)
    return bytes(changed)


def with_right_crcs(png: bytes) -> bytes:
    """Return a PNG whose chunks have the checksums of what is in them, as far as it can be walked."""
    fixed, at = bytearray(png), 8
    while at + 12 <= len(fixed):
        (length,) = struct.unpack_from(">I", fixed, at)
        if at + 12 + length > len(fixed):
            break
        struct.pack_into(">I", fixed, at + 8 + length, zlib.crc32(fixed[at + 4 : at + 8 + length]))
        at += 12 + length
    return bytes(fixed)


def _saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = BytesIO()
    image.copy().save(file, kind, **options)  # saving leaves its settings behind in the image
    return file.getvalue()


def _picture(width: int = 48, height: int = 36) -> Image.Image:
    rng = np.random.default_rng(7)
    smooth = np.linspace(0, 200, width)[None, :, None] + np.linspace(0, 40, height)[:, None, None]
    return Image.fromarray((smooth + rng.integers(0, 15, (height, width, 3))).clip(0, 255).astype(np.uint8))


def _photos() -> dict[str, bytes]:
    rgb = _picture()
    grey = rgb.convert("L")
    alpha = rgb.copy()
    alpha.putalpha(grey)
    sixteen = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    floats = Image.fromarray(np.asarray(grey).astype(np.float32) / 255)

    def moving(kind: str) -> bytes:
        return _saved(rgb, kind, save_all=True, append_images=[rgb.rotate(turn) for turn in (90, 180)])

    made = {
        "baseline.jpg": _saved(rgb, "JPEG"),
        "progressive.jpg": _saved(rgb, "JPEG", progressive=True),
        "cmyk.jpg": _saved(rgb.convert("CMYK"), "JPEG"),
        "grey.jpg": _saved(grey, "JPEG"),
        "restarts.jpg": _saved(rgb, "JPEG", restart_marker_rows=1),
        "two.mpo": moving("MPO"),
        "bit.png": _saved(rgb.convert("1"), "PNG"),
        "grey.png": _saved(grey, "PNG"),
        "sixteen.png": _saved(sixteen, "PNG"),
        "palette.png": _saved(rgb.quantize(16), "PNG"),
        "clear.png": _saved(rgb.quantize(16), "PNG", transparency=3),
        "colour.png": _saved(rgb, "PNG"),
        "alpha.png": _saved(alpha, "PNG"),
        "greyalpha.png": _saved(alpha.convert("LA"), "PNG"),
        "moving.apng": moving("PNG"),
        "still.gif": _saved(rgb.quantize(32), "GIF"),
        "moving.gif": moving("GIF"),
        "plain.bmp": _saved(rgb, "BMP"),
        "palette.bmp": _saved(rgb.quantize(16), "BMP"),
        "plain.ppm": _saved(rgb, "PPM"),
        "ascii.pgm": b"P2 3 2 255\n0 10 20\n30 40 255\n",
        "deep.pgm": _saved(sixteen, "PPM"),
        "raw.tif": _saved(rgb, "TIFF"),
        "lzw.tif": _saved(rgb, "TIFF", compression="tiff_lzw"),
        "deflate.tif": _saved(rgb, "TIFF", compression="tiff_deflate"),
        "jpeg.tif": _saved(rgb, "TIFF", compression="jpeg"),
        "packbits.tif": _saved(rgb.convert("1"), "TIFF", compression="packbits"),
        "fax.tif": _saved(rgb.convert("1"), "TIFF", compression="group4"),
        "sixteen.tif": _saved(sixteen, "TIFF"),
        "floats.tif": _saved(floats, "TIFF"),
        "alpha.tif": _saved(alpha, "TIFF"),
        "cmyk.tif": _saved(rgb.convert("CMYK"), "TIFF"),
        "pages.tif": moving("TIFF"),
        "big.tif": _saved(rgb, "TIFF", big_tiff=True),
        "box.heic": b"\0\0\0\x1cftypheic\0\0\0\0mif1heicmiaf" + bytes(200),
    }
    if features.check("webp"):
        made["lossy.webp"] = _saved(rgb, "WEBP")
        made["lossless.webp"] = _saved(alpha, "WEBP", lossless=True)
        made["moving.webp"] = moving("WEBP")
    if features.check("avif"):
        made["plain.avif"] = _saved(rgb, "AVIF")
    if features.check("jpg_2000"):
        made["plain.jp2"] = _saved(rgb, "JPEG2000")
    return made


def _turned() -> dict[str, bytes]:
    """A photo for each of the eight orientations."""
    turned = {}
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        turned[f"turned{orientation}.jpg"] = _saved(_picture(), "JPEG", exif=exif)
    return turned


def _bombs() -> dict[str, bytes]:
    """Files of a few kilobytes that would be gigabytes of pixels, a mile long, or frames without end."""
    jpeg = bytearray(_saved(_picture(), "JPEG"))
    at = jpeg.index(b"\xff\xc0")
    struct.pack_into(">HH", jpeg, at + 5, 60_000, 60_000)
    tall = bytearray(_saved(_picture(), "JPEG"))
    struct.pack_into(">HH", tall, at + 5, 65_000, 3_000)  # within the limit of pixels
    tiff = bytearray(_saved(Image.new("L", (16, 16)), "TIFF"))
    for tag in (256, 257):
        place = tiff.index(struct.pack("<HH", tag, 4 if struct.pack("<HH", tag, 4) in tiff else 3))
        struct.pack_into("<HHII", tiff, place, tag, 4, 1, 100_000)
    bmp = bytearray(_saved(_picture(), "BMP"))
    struct.pack_into("<ii", bmp, 18, 60_000, -60_000)
    dot = Image.new("P", (1, 1))
    frame = b"\x21\xf9\x04\0\0\0\0\0\x2c\0\0\0\0\x01\0\x01\0\0\x02\x02\x44\x01\0"
    gif = _saved(dot, "GIF")
    loop = bytearray(_saved(Image.new("L", (16, 16)), "TIFF"))
    (start,) = struct.unpack_from("<I", loop, 4)
    (entries,) = struct.unpack_from("<H", loop, start)
    struct.pack_into("<I", loop, start + 2 + 12 * entries, start)  # the page after the first is the first
    made = {
        "pixels.png": _png(60_000, 60_000, b"\0" * 100),
        "inflating.png": _png(7_000, 7_000, bytes(7_001 * 7_000)),
        "endless.png": _png(64, 64, bytes(200_000_000)),  # inflates to far more than its pixels
        "aspect.png": _png(60_000, 1, bytes(60_001)),
        "pixels.jpg": bytes(jpeg),
        "within.jpg": bytes(tall),
        "pixels.tif": bytes(tiff),
        "pixels.bmp": bytes(bmp),
        "pixels.gif": b"GIF89a" + struct.pack("<HH", 65_535, 65_535) + gif[10:],
        "frames.gif": gif[:-1] + frame * 20_000 + b";",
        "loop.tif": bytes(loop),
        "text.png": _png(8, 8, bytes(72), extra=_chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(100_000_000)))),
        "profile.png": _png(8, 8, bytes(72), extra=_chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(100_000_000)))),
    }
    if features.check("webp"):
        made["frames.webp"] = _saved(
            Image.new("RGB", (4, 4)),
            "WEBP",
            save_all=True,
            append_images=[Image.new("RGB", (4, 4), n) for n in range(300)],
        )
    return made


def _png(width: int, height: int, raw: bytes, *, extra: bytes = b"") -> bytes:
    """Return a grey PNG of these sizes whose compressed part inflates to `raw`."""
    header = _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + extra + _chunk(b"IDAT", zlib.compress(raw, 9)) + _chunk(b"IEND", b"")


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
