"""How this machine decodes and resizes images, as one digest that changes with a decoder or the resize.

The embedded samples were written once by Pillow 13 from a 32 x 24 gradient with noise and a red patch, or from a
smaller one where the format is bulky; `tests/test_decode.py` says what is in each.
"""

from __future__ import annotations

from base64 import b64decode
from functools import cache, partial
from hashlib import blake2b

import numpy as np
from PIL import Image

from pipeline.errors import UnreadableImage
from pipeline.images.decode import SCALES, decode, decode_reduced
from pipeline.images.preprocess import FAST_FULL_SIZE, REDUCED_SIDE, preprocess_fast
from pipeline.provenance import Preprocessing

# A recipe's decoder begins with one of them; no digest does.
_FULL_SIZE = "fast:"  # `--decode fast` before large JPEGs were decoded at a reduced scale
_FAST = "fast2:"


@cache
def decoder_fingerprint() -> str:
    """Return the digest of what this machine's decoders and PIL's resize make of a few tiny images.

    Equal digests mean equal pixels for the same file; a decoder that is missing counts as "none". HEIC and AVIF are
    left out: to install their decoders must not make the features of all other photos be computed again.
    """
    seen = blake2b(digest_size=16)
    for name, text in _SAMPLES.items():
        seen.update(name.encode())
        try:
            image = decode(b64decode(text))
        except UnreadableImage:
            seen.update(b"none")
            continue
        seen.update(image.tobytes())
        for how in (Image.Resampling.BILINEAR, Image.Resampling.BICUBIC):
            for size in ((11, 9), (45, 37)):  # smaller and larger
                seen.update(np.asarray(image.resize(size, how)).tobytes())
            # A tall one: which way is resized first then differs from one Pillow to another, and what is clipped too.
            tall = image.crop((0, 0, 8, image.height))
            seen.update(np.asarray(tall.resize((6, 7), how)).tobytes())
    return seen.hexdigest()


@cache
def full_size_fingerprint() -> str:
    """Return the mark and the digest of what the fast resize makes of the samples at full size.

    Raises
    ------
    SourceError
        The library that resizes is not installed.
    """
    seen = blake2b(decoder_fingerprint().encode(), digest_size=16)
    image = decode(b64decode(_SAMPLES["jpeg"]))  # 32 x 24
    for interpolation in ("bilinear", "bicubic"):
        for resize, crop in ((11, 9), (45, 37)):  # smaller and larger
            seen.update(preprocess_fast(image, _how(interpolation, resize, crop)).tobytes())
    return _FULL_SIZE + seen.hexdigest()


@cache
def fast_fingerprint() -> str:
    """Return what stands in a recipe for `--decode fast`: its mark and the digest of what it makes of the samples.

    Raises
    ------
    SourceError
        The library that resizes is not installed.
    """
    seen = blake2b(f"{full_size_fingerprint()} {REDUCED_SIDE}".encode(), digest_size=16)
    for name in ("jpeg", "progressive"):  # 32 x 24
        for scale in SCALES:
            reduced = decode_reduced(b64decode(_SAMPLES[name]), partial(_always, scale))
            seen.update(reduced.image.tobytes())
            seen.update(preprocess_fast(reduced.image, _how("bicubic", 5, 4), reduced.size, reduced.box).tobytes())
    return _FAST + seen.hexdigest()


def _always(scale: int, _: tuple[int, int]) -> int:
    return scale


def _how(interpolation: str, resize: int, crop: int) -> Preprocessing:
    return Preprocessing(resize, crop, interpolation, True, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


def decoder_of(mode: str) -> str:
    """Return what stands in a recipe made on this machine for one of `DECODES`, or for `FAST_FULL_SIZE`."""
    return {"exact": decoder_fingerprint, "fast": fast_fingerprint, FAST_FULL_SIZE: full_size_fingerprint}[mode]()


def decode_mode(decoder: str) -> str:
    """Return which of `DECODES`, or `FAST_FULL_SIZE`, a recipe's `decoder` stands for."""
    if decoder.startswith(_FAST):
        return "fast"
    return FAST_FULL_SIZE if decoder.startswith(_FULL_SIZE) else "exact"


_SAMPLES = {
    "jpeg": (
        "/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDAAgGBgcGBQgHBwcJCQgKDBQNDAsLDBkSEw8UHRofHh0aHBwgJC4nICIsIxwcKDcpLDAxNDQ0Hyc5"
        "PTgyPC4zNDL/2wBDAQkJCQwLDBgNDRgyIRwhMjIyMjIyMjIyMjIyMjIyMjIyMjIyMjIyMjIyMjIyMjIyMjIyMjIyMjIyMjIyMjIyMjL/wAAR"
        "CAAYACADASIAAhEBAxEB/8QAGAABAQEBAQAAAAAAAAAAAAAABQACBAf/xAAlEAABAwMDAwUAAAAAAAAAAAABAAMRAgUhBBMxEkFRIjJhcfD/"
        "xAAXAQEAAwAAAAAAAAAAAAAAAAAGAQQH/8QAIBEAAQQDAAIDAAAAAAAAAAAAAwABAhEEBSEGQRIxUf/aAAwDAQACEQMRAD8A82Yt8TiIGZSD"
        "VtIyY5xKcbt5IwMcH58LdVu1NVZ22iafMgJft9wWEbF17U+OHBkFeJ5/Fqu7Zu23Oo5jRAmACQO0pFnQQAekfuEhbLY/TubzRAMRkGefCaZt"
        "hmRTg8opk7abwuf2moMsYjPAcrZvd36WG7fJI6YEd0izbxI9E/SlKlm5JP1YVrTz4u9i3wMU84Xdp7dJ9vOQQpSIZ2SRmfqf6401/9k="
    ),
    "progressive": (
        "/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDAAgGBgcGBQgHBwcJCQgKDBQNDAsLDBkSEw8UHRofHh0aHBwgJC4nICIsIxwcKDcpLDAxNDQ0Hyc5"
        "PTgyPC4zNDL/2wBDAQkJCQwLDBgNDRgyIRwhMjIyMjIyMjIyMjIyMjIyMjIyMjIyMjIyMjIyMjIyMjIyMjIyMjIyMjIyMjIyMjIyMjL/wgAR"
        "CAAYACADASEAAhEBAxEB/8QAFwABAQEBAAAAAAAAAAAAAAAABAIDBv/EABgBAQEAAwAAAAAAAAAAAAAAAAUGAAID/9oADAMBAAIQAxAAAAHm"
        "kUW+6SXJrJ5DS2ZT3i99x3//xAAYEAADAQEAAAAAAAAAAAAAAAAAAQMCE//aAAgBAQABBQJTFMWBYFM56JzYpimKYpmZn//EAB4RAAICAgID"
        "AAAAAAAAAAAAAAECAAMEEQUSEzFB/9oACAEDAQE/AcPtYdLKSVOjOJyErfbn5PMrWEr6mPZMayf/xAAbEQACAgMBAAAAAAAAAAAAAAAAAgED"
        "BBESIf/aAAgBAgEBPwHKyVT1i2+GjcGa3cagd+V0XWl9p//EABgQAAIDAAAAAAAAAAAAAAAAAAEgABEh/9oACAEBAAY/AlwQ2G//xAAYEAAD"
        "AQEAAAAAAAAAAAAAAAAAAWEQQf/aAAgBAQABPyHZp4Nj4C4pkCRIgf/aAAwDAQACAAMAAAAQyaCf/8QAGxEAAgIDAQAAAAAAAAAAAAAAAREA"
        "IUFRgZH/2gAIAQMBAT8QFRZF87M+4erAkMm2NRymSXggquAqf//EABoRAAMBAAMAAAAAAAAAAAAAAAABIRExQdH/2gAIAQIBAT8QQ6YnDQEY"
        "xPQ/S4Oci2f/xAAdEAEAAwEAAwEBAAAAAAAAAAABABEhMUFRYXHw/9oACAEBAAE/EKryqNuMa13LhrQKHi5SDT+5ETDOP31Ftr7WE3iDVaN9"
        "9Rbsw9limCvMCzv8lRnWS1+tEn//2Q=="
    ),
    "cmyk": (
        "/9j/7gAOQWRvYmUAZAAAAAAA/9sAQwANCQoLCggNCwoLDg4NDxMgFRMSEhMnHB4XIC4pMTAuKS0sMzpKPjM2RjcsLUBXQUZMTlJTUjI+WmFa"
        "UGBKUVJP/8AAFAgADAAQBEMRAE0RAFkRAEsRAP/EABoAAAICAwAAAAAAAAAAAAAAAAAHBQYBAgT/xAAkEAABBAEEAQUBAAAAAAAAAAABAgME"
        "EQAFBhIhFBMiMVFSsf/aAA4EQwBNAFkASwAAPwCD2TGiypBRMe9JCW+SVcgmzY67yrzNBXHaCm46nDdUlJP8yd3JqsqPHCobYdWVgEFJNCj9"
        "YzsY+lNttSShhfNsVSru83i6At5hLimShRv2lNEZXXNSedipXITxcN8k0RXeGKrb3ZSKxseBH/Gds55ZvvDGft75TmPBjkgcMrGovLCSbwz/"
        "2Q=="
    ),
    "png16": (
        "iVBORw0KGgoAAAANSUhEUgAAABAAAAAMEAAAAAAeHL4eAAABQ0lEQVR4nF3MLU/DQACA4et9tN2la9nWhBTCmSVkZgZTg56pQaOnQWOmcfyB"
        "GswMZmamZmZ6pqYhqalpIAfJLWnX9dorjgxe/eTVzPfjGInLJwDsCAl73ToduXo0k8I/Wyl6/gyrqR3pmSYxF4EZ7wOSY16z/WwUWht73REI"
        "AOawLG/0zA2LW5IhYUetQ3df88I/TPUMGomiJO8In+9njdt4iopA0WpCcmsrmQg08iEZ4mZyscDc2pDcTIxUesMlEnTnrI5jLNkoBCtrq0kz"
        "kUzxXoz5cdyL9dRIQTZ407S2o96idfobPdPkYElyM3m5Br/Bjppx6xR+zWAJQOlrku7ASRAAI/2+d0MkYAnLfqTo58MfQLKaDZeHqaIdkR7m"
        "NRu9/jsAAADmSFQTJMSdojX7A1pHUSRITnLpYd64jVtNTsEPYcKRDtHXhBMAAAAASUVORK5CYII="
    ),
    "palette": (
        "iVBORw0KGgoAAAANSUhEUgAAABAAAAAMBAMAAACZySCyAAAAMFBMVEW62ku+u1Vaz4IazZ/DnWC9e24woKYxe7fOTXfSKWLgGlXKGnNpPa8Z"
        "Rdh7ELwlEOei0VZMAAAAEHRSTlMAECAwQFBgcICQoLDA0ODwVOCoyAAAAFVJREFUeJw9zMEJgDAMQNGfNIM4QsGFu4c4QsEJKt6V9CyUeCj4"
        "rw++BNEZB8osrOHow2kwLhqiIJPekjI1ZS0EMKrhbD065rDrArKmm+hgDAjnP/MBQrofvgtMQ9MAAAAASUVORK5CYII="
    ),
    "webp": (
        "UklGRvQAAABXRUJQVlA4IOgAAABwBwCdASogABgAPp1EmkklpCIhMBgIALATiWwAnTKEeZ+NfjlybmzbYZwJx9zgPEU2jOoPAGQgfTm+yCPR"
        "tH+karcagAD+9ZbsOpnudwQcsbE4pg+3/0juwu23FWL+sj5d2IV7XoMEOKtviOoiVLb5/33fnsnRfYxsQboyRsogtkc/qvvnBt/29dZ1gSZK"
        "ZoUy+f2GtxKP/mA2msB90W7FLWxurwoLS9gugi4PuhTYQI9NJAZxLjyDc2RrzVnl+b06o50ZzH49miHpiOCk/HgvDV62V/KN8BQE7Wu0YP7c"
        "eIXY+YsmFdAA"
    ),
    "gif": (
        "R0lGODdhEAAMAIMAALraS767VVrPghrNn8OdYL17bjCgpjF7t85Nd9IpYuAaVcoac2k9rxlF2HsQvCUQ5ywAAAAAEAAMAAAIbgAfCBTooKDB"
        "BQgRDiRosGDCBQoaSGzAoGJFBw8TJJhIMYGCjwoQiBS5cSIDkB9HjmxwoOUBlAoKyBzpsqVHkDJzFmhpoGdPnQSCBvXpU4BRoUgHKDVgtGmA"
        "p1ADKFXa1CiAq1gBTB1QVUBWrAEBADs="
    ),
    "tiff": (
        "SUkqAK4AAACAA4HvIWhNxEgINgzhFkIgKLlWBJRs4JJJ2hRBA4auMVDpqm4XKRUCY7rETHZYDNIMscIJ1DY6hAwtQSmFkpUenV3BQWN0PDtY"
        "Fs+swunN1F0wAxEsUUoham02otUlUxrItGJYIQ4stEmV1IgpA1ZLMWK5REpZJYzrdDopZnVXLIxstXlR2LAhgxrJ8WNZJE5roQ2Nc6o1rGJV"
        "tYqsxpEV2tgZQEAACgAAAQMAAQAAAAgAAAABAQMAAQAAAAYAAAACAQMAAwAAACwBAAADAQMAAQAAAAUAAAAGAQMAAQAAAAIAAAARAQQAAQAA"
        "AAgAAAAVAQMAAQAAAAMAAAAWAQMAAQAAAAYAAAAXAQQAAQAAAKUAAAAcAQMAAQAAAAEAAAAAAAAACAAIAAgA"
    ),
}
