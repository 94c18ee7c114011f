"""Check images: small images of every kind that readers decode differently, identical on every machine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from io import BytesIO
from typing import Any, ClassVar

import numpy as np
from PIL import Image

from pipeline.images.listing import Listing
from pipeline.images.photo import Photo
from pipeline.images.source import ImageSource

WIDTH, HEIGHT = 96, 64


@dataclass(frozen=True)
class _BytesReader:
    """Reads images whose files are in memory."""

    files: tuple[bytes, ...]

    encoded: ClassVar = True

    def read(self, row: int, image_id: str) -> Photo:
        data = self.files[row]
        return Photo(blake2b(data, digest_size=16).digest(), (len(data), 0), data)

    def take(self, rows: Sequence[int]) -> _BytesReader:
        return _BytesReader(tuple(self.files[row] for row in rows))


def kinds_source() -> ImageSource:
    """Return the images of `photo_kinds` as a source; an id is the name of the kind."""
    files = photo_kinds()
    stat = np.array([(len(data), 0) for data in files.values()], np.int64)
    listing = Listing("kinds", "kinds of images", list(files), stat, _BytesReader(tuple(files.values())))
    return ImageSource(**vars(listing))


def photo_kinds() -> dict[str, bytes]:
    """Return ``{name: file}``: transparency, CMYK, palettes, one bit, deep grey and EXIF orientation."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    noise = np.random.default_rng(0).integers(0, 40, (HEIGHT, WIDTH, 3))
    values = (np.stack([x * 2, y * 3, 210 - x - y], -1) + noise).clip(0, 255).astype(np.uint8)
    colour = Image.fromarray(values)
    grey = colour.convert("L")
    alpha = Image.fromarray((x * 255 // (WIDTH - 1)).astype(np.uint8))
    ramp = np.asarray(grey).astype(np.float64) / 255
    few = colour.quantize(16)
    see_through = bytes(index * 17 for index in range(16))

    def with_alpha(image: Image.Image) -> Image.Image:
        copy = image.copy()
        copy.putalpha(alpha)
        return copy

    def turned(orientation: int) -> Image.Exif:
        exif = Image.Exif()
        exif[0x0112] = orientation
        return exif

    made: list[tuple[str, Image.Image, str, dict[str, Any]]] = [
        ("colour-alpha.png", with_alpha(colour), "PNG", {}),
        ("grey-alpha.png", with_alpha(grey), "PNG", {}),
        ("palette.png", few, "PNG", {}),
        ("palette-alpha.png", few, "PNG", {"transparency": see_through}),
        ("palette-transparent.gif", few, "GIF", {"transparency": 3}),
        ("colour-transparent.png", colour, "PNG", {"transparency": colour.getpixel((9, 9))}),
        ("grey-transparent.png", grey, "PNG", {"transparency": grey.getpixel((9, 9))}),
        ("one-bit.png", Image.fromarray(np.asarray(grey) > 110), "PNG", {}),
        ("cmyk.jpg", colour.convert("CMYK"), "JPEG", {"quality": 90}),
        ("cmyk.tif", colour.convert("CMYK"), "TIFF", {}),
        ("16-bit.png", Image.fromarray((ramp * 65535).astype(np.uint16)), "PNG", {}),
        ("12-bit-in-16.png", Image.fromarray((ramp * 4095).astype(np.uint16)), "PNG", {}),
        ("16-bit.tif", Image.fromarray((ramp * 40000).astype(np.uint16)), "TIFF", {}),
        ("32-bit.tif", Image.fromarray((ramp * 100_000 - 20_000).astype(np.int32)), "TIFF", {}),
        ("float.tif", Image.fromarray((ramp * 1.004).astype(np.float32)), "TIFF", {}),
        ("float-gaps.tif", Image.fromarray(np.where(ramp < 0.3, np.nan, ramp * 40 - 9).astype(np.float32)), "TIFF", {}),
        *((f"turned-{number}.jpg", colour, "JPEG", {"exif": turned(number), "quality": 90}) for number in (3, 6)),
        ("turned-5.png", colour, "PNG", {"exif": turned(5)}),
        ("turned-8-alpha.png", with_alpha(colour), "PNG", {"exif": turned(8)}),
        ("turned-7-16-bit.png", Image.fromarray((ramp * 4095).astype(np.uint16)), "PNG", {"exif": turned(7)}),
        ("turned-6.tif", colour, "TIFF", {"exif": turned(6)}),
    ]
    files = {}
    for name, image, kind, options in made:
        file = BytesIO()
        image.save(file, kind, **options)
        files[name] = file.getvalue()
    return files
