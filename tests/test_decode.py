"""Bytes become the right pixels, or the right reason; nothing else ever comes out."""

from __future__ import annotations

import struct
import sys
import warnings
import zlib
from base64 import b64decode
from contextlib import nullcontext
from io import BytesIO

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile, ImageOps, features

from pipeline.errors import SkipReason, SourceError, UnreadableImage
from pipeline.images import EARLIER_RULES, PHOTO_RULES, decoder_fingerprint, fingerprint
from pipeline.images import decode as decode_room
from pipeline.images.decode import IMAGE_ENDINGS, decode, ending, reads_alike, sniff
from pipeline.images.fingerprint import _SAMPLES
from pipeline.images.rgb import exif_orientation

RED, BLUE = (255, 0, 0), (0, 0, 255)


def gradient(height: int = 24, width: int = 32) -> Image.Image:
    """The picture that the fingerprint's samples were made of: a gradient with noise and a red patch."""
    y, x = np.mgrid[0:height, 0:width]
    values = np.stack([x * 8, y * 10, 255 - 4 * (x + y)], -1)
    values = values + np.random.default_rng(0).integers(-12, 13, values.shape)
    values[6:14, 10:20] = (220, 30, 60)
    return Image.fromarray(np.clip(values, 0, 255).astype(np.uint8))


def saved(image: Image.Image, kind: str, **options) -> bytes:
    file = BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def pixels(data: bytes) -> np.ndarray:
    image = decode(data)
    assert image.mode == "RGB"
    return np.asarray(image)


def reason(data: bytes) -> tuple[SkipReason, str]:
    with pytest.raises(UnreadableImage) as caught:
        decode(data)
    return caught.value.reason, caught.value.detail


def png_header(width: int, height: int) -> bytes:
    """A PNG whose header claims a size; its pixels are never there."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize("kind", ["PNG", "BMP", "PPM", "TIFF", "JPEG2000"])
def test_lossless_formats_give_the_very_pixels(kind):
    if kind == "JPEG2000" and not features.check("jpg_2000"):
        pytest.skip("this Pillow reads no JPEG 2000")
    data = saved(gradient(), kind)
    assert sniff(data[:32]) == kind
    assert np.array_equal(pixels(data), np.asarray(gradient()))


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("JPEG", {"quality": 90}),
        ("JPEG", {"progressive": True}),
        ("WEBP", {"quality": 80}),
        ("AVIF", {"quality": 80}),
    ],
)
def test_lossy_formats_give_what_pil_gives(kind, options):
    if kind != "JPEG" and not features.check(kind.lower()):
        pytest.skip(f"this Pillow writes no {kind}")
    data = saved(gradient(), kind, **options)
    assert np.array_equal(pixels(data), np.asarray(Image.open(BytesIO(data)).convert("RGB")))
    assert np.abs(pixels(data).astype(int) - np.asarray(gradient())).mean() < 12


def test_grey_one_bit_and_palette_become_rgb():
    grey = gradient().convert("L")
    assert np.array_equal(pixels(saved(grey, "JPEG"))[..., 0], np.asarray(Image.open(BytesIO(saved(grey, "JPEG")))))
    bits = Image.fromarray(np.asarray(grey) > 128)
    assert np.array_equal(pixels(saved(bits, "PNG"))[..., 1], np.asarray(bits) * 255)
    few = gradient().quantize(16)
    assert np.array_equal(pixels(saved(few, "PNG")), np.asarray(few.convert("RGB")))


def test_alpha_is_composited_on_white():
    values = np.zeros((2, 3, 4), np.uint8)
    values[..., :3] = (200, 100, 0)
    values[0, :, 3] = (0, 128, 255)
    values[1, :, 3] = 255
    expected = values[..., :3] * (values[..., 3:] / 255) + 255 * (1 - values[..., 3:] / 255)
    found = pixels(saved(Image.fromarray(values), "PNG"))
    assert np.abs(found - expected).max() <= 0.5
    assert found[0, 0].tolist() == [255, 255, 255]
    assert found[0, 2].tolist() == [200, 100, 0]


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_full_alpha_changes_nothing(mode):
    image = gradient().convert("L" if mode == "LA" else "RGB")
    opaque = image.copy()
    opaque.putalpha(255)
    assert np.array_equal(pixels(saved(opaque, "PNG")), np.asarray(image.convert("RGB")))


def test_transparent_palette_entries_and_colours_become_white():
    few = Image.fromarray(np.array([[0, 1, 2]], np.uint8))
    few = few.convert("P")
    few.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90] + [0] * 759)
    found = pixels(saved(few, "PNG", transparency=1))
    assert found[0].tolist() == [[10, 20, 30], [255, 255, 255], [70, 80, 90]]
    gif = pixels(saved(few, "GIF", transparency=2))
    assert gif[0].tolist() == [[10, 20, 30], [40, 50, 60], [255, 255, 255]]
    colour = Image.fromarray(np.array([[[1, 2, 3], [4, 5, 6]]], np.uint8))
    assert pixels(saved(colour, "PNG", transparency=(4, 5, 6)))[0].tolist() == [[1, 2, 3], [255, 255, 255]]
    grey = Image.fromarray(np.array([[7, 8]], np.uint8))
    assert pixels(saved(grey, "PNG", transparency=8))[0].tolist() == [[7, 7, 7], [255, 255, 255]]


def test_sixteen_bit_grey_is_scaled_and_rounded_not_clipped():
    values = np.arange(0, 65536, 13, dtype=np.uint16)[:5041].reshape(71, 71)
    expected = np.rint(values / 257).astype(np.uint8)
    for data in (saved(Image.fromarray(values), "PNG"), saved(Image.fromarray(values), "TIFF")):
        assert np.array_equal(pixels(data)[..., 2], expected)
    big_endian = Image.frombytes("I;16B", (71, 71), values.astype(">u2").tobytes())
    assert np.array_equal(pixels(saved(big_endian, "TIFF"))[..., 0], expected)
    pgm = b"P5 71 71 65535\n" + values.astype(">u2").tobytes()
    assert np.array_equal(pixels(pgm)[..., 0], expected)
    dark = b"P5 2 1 65535\n" + np.array([0, 250], ">u2").tobytes()  # dark, and not a photo of 8 bits
    assert pixels(dark)[0, :, 0].tolist() == [0, 1]


def test_transparent_sixteen_bit_grey_is_white():
    data = saved(Image.fromarray(np.array([[0, 1000, 65535]], np.uint16)), "PNG")
    body = struct.pack(">H", 1000)
    chunk = struct.pack(">I", 2) + b"tRNS" + body + struct.pack(">I", zlib.crc32(b"tRNS" + body))
    at = data.index(b"IDAT") - 4
    assert pixels(data[:at] + chunk + data[at:])[0, :, 0].tolist() == [0, 255, 255]


def test_sixteen_bit_colour_is_scaled():
    values = np.array([[[0, 257 * 7, 65535]]], ">u2")
    raw = zlib.compress(b"\0" + values.tobytes())

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", 1, 1, 16, 2, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", raw) + chunk(b"IEND", b"")
    assert pixels(data)[0, 0].tolist() == [0, 7, 255]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.0, 0.5, 1.0], [0, 128, 255]),
        ([0.0, 100.4, 255.0], [0, 100, 255]),
        ([-1.0, 0.0, 3.0], [0, 64, 255]),
        ([0.0, 1000.0, 4000.0], [0, 64, 255]),
        ([np.nan, 0.2, 1.0], [0, 51, 255]),
        ([np.nan, 0.0, 2.0], [0, 0, 255]),
        ([-5.0, -5.0, -5.0], [0, 0, 0]),
        ([5.0, 5.0, 5.0], [255, 255, 255]),
        ([0.25, 0.25, 0.5], [64, 64, 128]),  # floats within 0..1 keep their brightness
        ([np.inf, 0.0, 10.0], [255, 0, 255]),
        ([-np.inf, 5.0, 10.0], [0, 128, 255]),
        ([-1.0, 0.0, 1.0], [0, 128, 255]),
        ([-30.0, -20.0, -5.0], [0, 85, 212]),  # decibels: zero is white
        ([0.0, 2e-3, 1.004], [0, 1, 255]),
        ([280.0, 295.0, 310.0], [128, 191, 255]),  # kelvins: a small range far from zero is at least half of the greys
        ([1e30, 3.4e38, 0.0], [0, 255, 0]),
        (np.array([0x7F800001, 0, 0x3F800000], np.uint32).view(np.float32), [0, 0, 255]),  # a signalling NaN
    ],
)
def test_float_grey_is_scaled_by_the_rule(values, expected):
    data = saved(Image.fromarray(np.array([values], np.float32)), "TIFF")
    assert pixels(data)[0, :, 0].tolist() == expected


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0, 7, 255], [0, 7, 255]),
        ([0, 7, 100], [0, 7, 100]),
        ([0, 128, 256], [0, 128, 255]),
        ([0, 257, 65535], [0, 1, 255]),
        ([0, 32768, 65536], [0, 128, 255]),
        ([-100, 0, 300], [0, 64, 255]),
    ],
)
def test_integer_grey_is_scaled_by_the_rule(values, expected):
    data = saved(Image.fromarray(np.array([values], np.int32)), "TIFF")
    assert pixels(data)[0, :, 0].tolist() == expected


def sixteen(values, kind: str = "PNG") -> bytes:
    return saved(Image.fromarray(np.array([values], np.uint16)), kind)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0, 7, 255], [0, 7, 255]),
        ([0, 1024, 4095], [0, 64, 255]),  # 12 bits
        ([0, 1024, 4096], [0, 64, 255]),
        ([0, 8192, 16383], [0, 128, 255]),  # 14 bits
        ([0, 16384, 32768], [0, 64, 128]),  # 16 bits, from here on
        ([0, 257, 50000], [0, 1, 195]),
        ([0, 257, 65535], [0, 1, 255]),
        ([7000, 7750, 8500], [128, 191, 255]),  # a thermal camera's counts
        ([0, 0, 0], [0, 0, 0]),
    ],
)
def test_sixteen_bit_grey_is_scaled_by_the_bits_that_it_uses(kind, values, expected):
    assert pixels(sixteen(values, kind))[0, :, 0].tolist() == expected


def test_a_declared_range_is_kept_whatever_the_values():
    assert pixels(b"P5 2 1 4095\n" + np.array([0, 1024], ">u2").tobytes())[0, :, 0].tolist() == [0, 64]
    twelve = Image.frombytes("I;16", (2, 1), np.array([0, 1024], "<u2").tobytes())
    data = bytearray(saved(twelve, "TIFF"))
    at = data.index(struct.pack("<HHIHH", 258, 3, 1, 16, 0))
    # 12 bits a value, packed: 0x000, 0x400 are the bytes 00 04 00
    data[at + 8 : at + 10] = struct.pack("<H", 12)
    (start,) = struct.unpack_from("<I", data, data.index(struct.pack("<HHI", 273, 4, 1)) + 8)
    data[start : start + 3] = b"\x00\x04\x00"
    assert pixels(bytes(data))[0, :, 0].tolist() == [0, 64]


def test_unsigned_32_bit_grey_does_not_turn_negative():
    data = bytearray(saved(Image.fromarray(np.array([[0, 1 << 30, -1]], np.int32)), "TIFF"))
    at = data.index(struct.pack("<HHIHH", 339, 3, 1, 2, 0))
    data[at + 8] = 1  # SampleFormat: unsigned
    assert pixels(bytes(data))[0, :, 0].tolist() == [0, 64, 255]


def test_a_geotiff_s_no_data_value_is_black_and_outside_the_range():
    from PIL.TiffImagePlugin import ImageFileDirectory_v2

    tags = ImageFileDirectory_v2()
    tags[42113] = "-9999"
    data = saved(Image.fromarray(np.array([[-9999.0, 0.0, 50.0, 100.0]], np.float32)), "TIFF", tiffinfo=tags)
    assert pixels(data)[0, :, 0].tolist() == [0, 0, 128, 255]


@pytest.mark.parametrize("values", [[np.nan] * 3, [np.inf, -np.inf, np.nan]])
def test_floats_without_a_finite_value_are_unreadable(values):
    found, detail = reason(saved(Image.fromarray(np.array([values], np.float32)), "TIFF"))
    assert found == SkipReason.UNREADABLE
    assert detail == "none of its 3 values is a finite number"


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from([np.float32, np.int32, np.uint16]),
    st.floats(-2, 17).map(lambda power: 2.0**power),
    st.floats(-1.5, 0.999),
)
def test_images_that_are_nearly_the_same_look_nearly_the_same(kind, top, bottom):
    """The rule has no jump: values that are 0.4% larger change no grey level by more than four."""
    ramp = np.linspace(bottom, 1, 41)[None] * top
    if kind == np.uint16:
        ramp = np.abs(ramp).clip(0, 65000)
    if kind != np.float32:
        ramp = np.rint(ramp)  # the same image twice where that is nothing
    further = ramp * 1.004 if kind == np.float32 else np.rint(ramp * 1.004)
    first, second = (pixels(saved(Image.fromarray(one.astype(kind)), "TIFF")).astype(int) for one in (ramp, further))
    assert np.abs(first - second).max() <= (4 if kind == np.float32 or top > 1000 else 20)  # one unit of few


def test_only_deep_grey_reads_otherwise_under_the_rules_before():
    (before,) = EARLIER_RULES
    ramp = np.arange(6).reshape(2, 3)
    deep = [
        saved(Image.fromarray(ramp.astype(np.uint16)), "PNG"),
        *(saved(Image.fromarray(ramp.astype(kind)), "TIFF") for kind in (np.uint16, np.int32, np.float32)),
    ]
    same = [
        *(saved(gradient(), kind) for kind in ("JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF", "PPM")),
        saved(gradient().convert("L"), "PNG"),
        saved(gradient().convert("L"), "TIFF"),
        saved(gradient().quantize(8), "PNG"),
        b"P5 2 1 65535\n" + bytes(4),
        b"no image",
        np.zeros((2, 2), np.uint8),
    ]
    assert [reads_alike(content, before) for content in deep] == [False] * 4
    assert all(reads_alike(content, before) for content in same)
    assert all(reads_alike(content, PHOTO_RULES) for content in deep)
    assert not reads_alike(same[0], "0: other rules")


def test_cmyk_jpeg_has_the_colours_of_the_photo():
    data = saved(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG", quality=95)
    assert np.abs(pixels(data).astype(int) - RED).max() < 6
    inverted = b64decode(_SAMPLES["cmyk"])
    assert np.array_equal(pixels(inverted), np.asarray(Image.open(BytesIO(inverted)).convert("RGB")))


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "TIFF", "PNG"])
def test_an_animation_gives_its_first_frame(kind):
    first, second = Image.new("RGB", (8, 8), RED), Image.new("RGB", (8, 8), BLUE)
    data = saved(first, kind, save_all=True, append_images=[second], **({"lossless": True} if kind == "WEBP" else {}))
    assert Image.open(BytesIO(data)).n_frames == 2
    assert pixels(data)[4, 4].tolist() == list(RED)


def test_a_picture_of_two_cameras_gives_its_first():
    first, second = Image.new("RGB", (16, 16), RED), Image.new("RGB", (16, 16), BLUE)
    data = saved(first, "MPO", save_all=True, append_images=[second])
    assert Image.open(BytesIO(data)).format == "MPO"
    assert np.abs(pixels(data).astype(int) - RED).max() < 3


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(kind, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = saved(gradient(), kind, exif=exif)
    expected = ImageOps.exif_transpose(Image.open(BytesIO(data))).convert("RGB")
    assert expected.size == ((32, 24) if orientation < 5 else (24, 32))
    assert np.array_equal(pixels(data), np.asarray(expected))


@given(st.binary(max_size=80), st.sampled_from([b"", b"Exif\0\0", b"Exif\0\0II*\0\x08\0\0\0", b"MM\0*\0\0\0\x08"]))
def test_damaged_exif_is_orientation_one_or_a_valid_one(noise, start):
    assert exif_orientation(start + noise) in range(1, 9)


def test_a_photo_with_damaged_exif_is_read_as_it_lies():
    for exif in (b"Exif\0\0II*\0\xff\xff\xff\x7f", b"Exif\0\0II*\0\x08\0\0\0\x40\0\x12\x01", b"Exif\0\0rubbish"):
        data = saved(gradient(), "JPEG", exif=exif)
        assert np.array_equal(pixels(data), pixels(saved(gradient(), "JPEG")))
    assert exif_orientation(None) == 1


@pytest.mark.parametrize("action", ["error", "ignore", "default"])
def test_a_photo_is_read_alike_whatever_a_process_makes_of_warnings(action):
    data = bytearray(saved(gradient(), "TIFF"))
    (start,) = struct.unpack_from("<I", data, 4)
    (count,) = struct.unpack_from("<H", data, start)
    # A tag of text whose bytes lie beyond the file's end: PIL warns, and reads the photo.
    struct.pack_into("<HHII", data, start + 2 + 12 * (count - 1), 0x0131, 2, 1000, len(data) + 5000)
    with warnings.catch_warnings(record=True) as heard:
        pixels(bytes(data))  # whatever it did about warnings comes before what the process says of them
        warnings.simplefilter(action)
        with pytest.raises(UserWarning) if action == "error" else nullcontext():
            Image.open(BytesIO(data)).load()
        assert bool(heard) == (action == "default"), "PIL does warn"
        heard.clear()
        assert pixels(bytes(data)).shape == (24, 32, 3)
        assert not heard


def test_what_is_no_image_is_named_so():
    assert reason(b"") == (SkipReason.EMPTY, "")
    assert reason(b"hello, I am a text") == (SkipReason.NOT_AN_IMAGE, "begins with b'hello, I am '")
    assert reason(b"P1 is a processor")[0] == SkipReason.NOT_AN_IMAGE
    assert reason(b"BMW is a car that is not a bitmap")[0] == SkipReason.NOT_AN_IMAGE
    assert reason(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9")[0] == SkipReason.NOT_AN_IMAGE
    assert reason(b"%PDF-1.7")[0] == SkipReason.NOT_AN_IMAGE
    assert reason(b"8BPS\0\x01" + bytes(40))[0] == SkipReason.NOT_AN_IMAGE
    assert reason(b"\0\0\0\x18ftypisom\0\0\0\0isommp42")[0] == SkipReason.NOT_AN_IMAGE  # a film


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "BMP", "TIFF", "PPM", "WEBP"])
def test_half_a_file_is_unreadable(kind):
    data = saved(gradient(), kind)
    found, detail = reason(data[: len(data) // 2])
    assert found == SkipReason.UNREADABLE
    assert detail and len(detail) <= 120
    assert "\n" not in detail


def test_a_truncated_photo_says_so():
    data = saved(gradient(240, 320), "JPEG")
    assert reason(data[:-2000])[1].startswith("image file is truncated")
    error = UnreadableImage(*reason(data[:-2000]))
    assert str(error).startswith("unreadable: truncated or damaged (image file is truncated")


def test_a_header_alone_is_enough_to_refuse_a_size():
    assert reason(png_header(20_001, 10_000)) == (SkipReason.TOO_LARGE, "20001 x 10000 pixels")
    assert reason(png_header(65_000, 65_000)) == (SkipReason.TOO_LARGE, "65000 x 65000 pixels")
    assert reason(png_header(511, 10)) == (SkipReason.TOO_LONG, "511 x 10 pixels")
    assert reason(png_header(10, 501)) == (SkipReason.TOO_LONG, "10 x 501 pixels")
    assert reason(png_header(500, 10))[0] == SkipReason.UNREADABLE  # within the limit, but there are no pixels


def test_a_phone_s_108_megapixels_are_read_without_a_warning():
    data = saved(Image.new("L", (12_000, 9_000), 90), "PNG", compress_level=0)
    assert decode(data).size == (12_000, 9_000)


def test_many_pixels_from_next_to_no_bytes_are_a_bomb(monkeypatch):
    assert decode_room.BOMB_PIXELS == 64_000_000
    monkeypatch.setattr(decode_room, "BOMB_PIXELS", 640_000)
    flat = saved(Image.new("L", (801, 800), 90), "PNG")
    assert reason(flat) == (SkipReason.TOO_LARGE, f"801 x 800 pixels from {len(flat):,} bytes")
    assert decode(flat + bytes(20_000)).size == (801, 800), "a byte for fewer than 50 pixels"
    assert decode(saved(Image.new("L", (800, 800), 90), "PNG")).size == (800, 800)


@pytest.mark.parametrize("values", [[0.25, 1.0], [-3.0, 7.5], [np.nan, 0.5]])
def test_float_grey_is_scaled_alike_however_many_bands_it_is_read_in(values):
    tall = np.resize(np.array(values, np.float32), (3000, 400))  # more than a megapixel
    narrow = pixels(saved(Image.fromarray(tall), "TIFF"))
    assert np.array_equal(narrow[:10], pixels(saved(Image.fromarray(tall[:10]), "TIFF")))
    assert np.array_equal(narrow[-10:], narrow[:10])


def test_heic_without_its_decoder_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    found, detail = reason(b"\0\0\0\x1cftypheic\0\0\0\0mif1heicmiaf" + bytes(40))
    error = UnreadableImage(found, detail)
    assert found == SkipReason.NO_DECODER
    assert "pip install 'transfer-pipeline[heif]'" in str(error)


def test_avif_is_not_taken_for_heic():
    assert sniff(b"\0\0\0\x1cftypmif1\0\0\0\0mif1avifmiaf") == "AVIF"
    assert sniff(b"\0\0\0\x1cftypmif1\0\0\0\0mif1heicmiaf") == "HEIC"


def test_pil_s_switch_for_half_photos_is_refused(monkeypatch):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    with pytest.raises(SourceError, match="LOAD_TRUNCATED_IMAGES is switched on") as caught:
        decode(saved(gradient(), "JPEG"))
    assert caught.value.next_step == "set PIL.ImageFile.LOAD_TRUNCATED_IMAGES = False"


def test_pil_s_globals_are_left_alone():
    before = (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES)
    decode(saved(gradient(), "PNG"))
    assert before == (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_damaged_bytes_give_pixels_or_a_reason_and_nothing_else(data):
    name = data.draw(st.sampled_from(sorted(_SAMPLES)))
    good = bytearray(b64decode(_SAMPLES[name]))
    for _ in range(data.draw(st.integers(1, 6))):
        good[data.draw(st.integers(24, len(good) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(good)))
    try:
        image = decode(bytes(good[:cut]) if data.draw(st.booleans()) else bytes(good))
    except UnreadableImage as error:
        assert error.reason in SkipReason
    else:
        assert image.mode == "RGB"


def test_endings_are_read_in_any_case():
    assert ending("a/b.JPG") == "jpg"
    assert ending("photo") == ""
    assert ending("photo.tar.gz") == "gz"
    assert {"jpg", "jpeg", "png", "heic", "tif"} <= IMAGE_ENDINGS


def test_the_rules_have_a_number():
    assert PHOTO_RULES.startswith("2: ")
    assert [rules[:3] for rules in EARLIER_RULES] == ["1: "]


def test_every_sample_of_the_fingerprint_is_what_its_name_says():
    found = {name: Image.open(BytesIO(b64decode(text))) for name, text in _SAMPLES.items()}
    assert {name: image.format for name, image in found.items()} == {
        "jpeg": "JPEG",
        "progressive": "JPEG",
        "cmyk": "JPEG",
        "png16": "PNG",
        "palette": "PNG",
        "webp": "WEBP",
        "gif": "GIF",
        "tiff": "TIFF",
    }
    assert found["progressive"].info["progressive"] == 1
    assert found["cmyk"].mode == "CMYK"
    assert found["png16"].mode == "I;16"
    assert found["palette"].mode == "P"
    assert "transparency" in found["palette"].info
    # the samples were made of `gradient`
    assert np.abs(pixels(b64decode(_SAMPLES["jpeg"])).astype(int) - np.asarray(gradient())).mean() < 12


def test_the_fingerprint_changes_when_a_decoder_or_the_resize_does(monkeypatch):
    fresh = decoder_fingerprint.__wrapped__
    here = fresh()
    assert here == decoder_fingerprint()
    assert len(here) == 32
    right = fingerprint.decode

    def one_level_off(data: bytes) -> Image.Image:
        image = right(data)
        if image.size == (32, 24):
            image.putpixel((5, 5), tuple(value ^ 1 for value in image.getpixel((5, 5))))
        return image

    monkeypatch.setattr(fingerprint, "decode", one_level_off)
    assert fresh() != here

    def without_webp(data: bytes) -> Image.Image:
        if data[8:12] == b"WEBP":
            raise UnreadableImage(SkipReason.NO_DECODER)
        return right(data)

    monkeypatch.setattr(fingerprint, "decode", without_webp)
    assert fresh() != here
    monkeypatch.setattr(fingerprint, "decode", right)
    resize = Image.Image.resize

    def across_first(self: Image.Image, size: tuple[int, int], how: int) -> Image.Image:
        if self.height <= 2 * self.width:
            return resize(self, size, how)
        return resize(resize(self, (size[0], self.height), how), size, how)

    monkeypatch.setattr(Image.Image, "resize", across_first)  # as older versions of Pillow do with tall photos
    assert fresh() != here
    monkeypatch.setattr(Image.Image, "resize", lambda self, size, how: resize(self, size, Image.Resampling.BOX))
    assert fresh() != here
    monkeypatch.undo()
    assert fresh() == here
