"""`--decode fast`: pixels near the exact ones, large JPEGs decoded at a reduced scale, the same errors, another key."""

from __future__ import annotations

import importlib
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import fake_backbone
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_caches import blobs, make_cache, names
from PIL import Image
from progress_notes import Notes

import pipeline.extraction.encoder as network_room
from pipeline.backbone import Backbone
from pipeline.errors import EvaluationError, SkipReason, SourceError, UnreadableImage
from pipeline.evaluation import evaluate
from pipeline.extraction import extract, recipe_of
from pipeline.images import (
    FAST_FULL_SIZE,
    ImageSource,
    Photo,
    decode_mode,
    decoder_fingerprint,
    decoder_of,
    fingerprint,
    is_reduced,
    pixel_statistics,
    prepare,
    preprocess,
    thumbnail,
)
from pipeline.images.decode import decode, decode_reduced, reduced_scale
from pipeline.images.preprocess import preprocess_fast, resizing_library
from pipeline.model import Model, fit
from pipeline.provenance import Preprocessing

# The package exports a function of the same name.
preprocess_module = importlib.import_module("pipeline.images.preprocess")

LITE = fake_backbone.REAL  # 256, 224, bicubic
FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
SIZES = [(500, 375), (375, 500), (640, 427), (1600, 1200), (333, 500), (257, 255), (100, 70), (37, 53), (1500, 31)]
QUICK: dict[str, Any] = {"cv": 2, "n_jobs": 1, "device": "cpu"}


def how(resize: int, crop: int, interpolation: str) -> Preprocessing:
    return Preprocessing(resize, crop, interpolation, True, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


def picture(width: int, height: int, kind: str = "photo", seed: int = 0) -> Image.Image:
    """Return waves with grain; or nothing but black and white grain, which overshoots most where it is resized."""
    rng = np.random.default_rng(seed)
    if kind == "grain":
        return Image.fromarray(rng.choice([0, 255], (height, width, 3)).astype(np.uint8))
    y, x = np.mgrid[0:height, 0:width]
    waves = np.stack([x * 255 / width, y * 255 / height, 128 + 100 * np.sin(x / 9) * np.cos(y / 7)], -1)
    return Image.fromarray((waves + rng.integers(-12, 13, waves.shape)).clip(0, 255).astype(np.uint8))


def jpeg(image: Image.Image, **options: Any) -> Photo:
    file = BytesIO()
    image.save(file, "JPEG", quality=90, **options)
    return Photo(bytes(16), (1, 1), file.getvalue())


def assert_near(fast: np.ndarray, exact: np.ndarray, *, most: int = 2) -> None:
    """The contract: 999 of 1,000 grey levels at most one off. And what was measured: none more than two."""
    assert fast.dtype == exact.dtype == np.uint8
    assert fast.shape == exact.shape
    off = np.abs(fast.astype(int) - exact)
    assert (off > 1).mean() <= 0.001
    assert off.max() <= most


# --- the pixels -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("preset", [(256, 224, "bicubic"), (232, 224, "bilinear"), (160, 160, "lanczos")])
@pytest.mark.parametrize("kind", ["photo", "grain"])
@pytest.mark.parametrize("size", SIZES)
def test_pixels_are_hardly_a_grey_level_from_the_exact_ones(preset: Any, kind: str, size: Any) -> None:
    image = picture(*size, kind)
    # Bilinear cannot overshoot, so that nothing is clipped between its two steps.
    assert_near(preprocess_fast(image, how(*preset)), preprocess(image, how(*preset)), most=2 - ("linear" in preset[2]))


@settings(max_examples=150, deadline=None)
@given(
    width=st.integers(1, 300),
    height=st.integers(1, 300),
    resize=st.integers(1, 90),
    crop=st.integers(1, 90),
    interpolation=st.sampled_from(["nearest", "box", "bilinear", "hamming", "bicubic", "lanczos"]),
    kind=st.sampled_from(["photo", "grain"]),
)
def test_pixels_are_near_at_any_size(**given: Any) -> None:
    image = picture(given["width"], given["height"], given["kind"])
    if max(image.size) > 50 * min(image.size):
        return  # refused before it gets here
    wanted = how(given["resize"], given["crop"], given["interpolation"])
    fast, exact = preprocess_fast(image, wanted).astype(int), preprocess(image, wanted)
    assert fast.shape == exact.shape
    assert np.abs(fast - exact).max() <= 2


@pytest.mark.parametrize("options", [{"subsampling": kind} for kind in (0, 1, 2)] + [{"progressive": True}], ids=str)
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_jpegs_of_every_kind_are_near_and_have_the_exact_statistics(mode: str, orientation: int, options: Any) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    photo = jpeg(picture(400, 300).convert(mode), exif=exif, **options)
    exact, statistics = prepare(photo, LITE)
    fast, same_statistics = prepare(photo, LITE, "fast")
    assert_near(fast, exact)
    assert not np.array_equal(fast, exact)  # or it would not be the fast road
    assert np.array_equal(same_statistics, statistics)


def test_other_formats_and_arrays_take_the_fast_resize_too() -> None:
    file = BytesIO()
    picture(400, 300).save(file, "PNG")
    for content in (file.getvalue(), np.asarray(picture(400, 300))):
        photo = Photo(bytes(16), (1, 1), content)
        fast, exact = prepare(photo, LITE, "fast")[0], prepare(photo, LITE)[0]
        assert_near(fast, exact)
        assert not np.array_equal(fast, exact)


def test_a_large_photo_handed_over_in_strips_is_the_same_as_in_one_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    image = picture(700, 500)
    whole = preprocess_fast(image, LITE)
    monkeypatch.setattr(preprocess_module, "_STRIP", 4 * 700 * 7)
    assert np.array_equal(preprocess_fast(image, LITE), whole)
    monkeypatch.setattr(preprocess_module, "_STRIP", 1)
    assert np.array_equal(preprocess_fast(image, LITE), whole)


@pytest.mark.parametrize(
    ("size", "wanted"),
    [
        ((256, 256), how(256, 224, "bicubic")),  # nothing to resize
        ((400, 300), how(200, 224, "bicubic")),  # a border
        ((300, 700), how(256, 224, "bicubic")),  # tall: PIL may resize down first
        ((400, 300), how(256, 224, "nearest")),
        ((400, 300), how(256, 224, "box")),
        ((400, 300), how(256, 224, "hamming")),
    ],
)
def test_what_the_library_would_do_otherwise_is_left_to_pil(size: tuple[int, int], wanted: Preprocessing) -> None:
    image = picture(*size, "grain")
    assert np.array_equal(preprocess_fast(image, wanted), preprocess(image, wanted))


@pytest.mark.parametrize("size", [(500, 375), (375, 500), (100, 70), (256, 256), (300, 700)])
@pytest.mark.parametrize("interpolation", list(FILTERS))
def test_exact_is_pil_s_resize_then_crop(size: tuple[int, int], interpolation: str) -> None:
    photo = jpeg(picture(*size))
    image = photo.pixels()
    short, long = 256, int(256 * max(size) / min(size))
    resized = image.resize((short, long) if size[0] <= size[1] else (long, short), FILTERS[interpolation])
    left, top = (round((side - 224) / 2) for side in resized.size)
    pixels, statistics = prepare(photo, how(256, 224, interpolation))
    assert np.array_equal(pixels, np.asarray(resized.crop((left, top, left + 224, top + 224))))
    assert np.array_equal(statistics, pixel_statistics(image))


@pytest.mark.parametrize(
    ("reason", "content"),
    [
        (SkipReason.EMPTY, b""),
        (SkipReason.NOT_AN_IMAGE, b"no photo"),
        (SkipReason.UNREADABLE, jpeg(picture(90, 60)).content[:900]),
        (SkipReason.UNREADABLE, b"\xff\xd8\xff" + bytes(500)),
        (SkipReason.TOO_LONG, jpeg(picture(1020, 20)).content),
        (SkipReason.TOO_LARGE, jpeg(picture(90, 60)).content.replace(b"\x08\0\x3c\0\x5a", b"\x08" + 4 * b"\x7f")),
    ],
    ids=["empty", "not an image", "truncated", "damaged", "too long", "too large"],
)
def test_photos_that_cannot_be_read_have_the_same_reasons(reason: SkipReason, content: bytes) -> None:
    found = []
    for mode in ("exact", "fast"):
        with pytest.raises(UnreadableImage) as caught:
            prepare(Photo(bytes(16), (1, 1), content), LITE, mode)
        found.append((caught.value.reason, str(caught.value)))
    assert found == [(reason, found[0][1])] * 2


# --- large JPEGs ------------------------------------------------------------------------------------------------------


def stripes(width: int, height: int) -> Image.Image:
    """Return a smooth pattern that a shift changes everywhere."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    share = width / 12
    waves = [np.sin(x / share), np.sin(y / share), np.sin((x + 2 * y) / share)]
    return Image.fromarray(np.rint(128 + 100 * np.stack(waves, -1)).astype(np.uint8))


@pytest.mark.parametrize(
    ("size", "side", "scale"),
    [
        ((640, 480), 512, 1),
        ((1023, 4000), 512, 1),
        ((1024, 4000), 512, 2),
        ((2047, 3000), 512, 2),
        ((4000, 3000), 512, 4),
        ((4095, 4096), 512, 4),
        ((8000, 6000), 512, 8),
        ((12000, 9000), 512, 8),
    ],
)
def test_the_scale_is_the_coarsest_whose_short_side_suffices(size: tuple[int, int], side: int, scale: int) -> None:
    assert reduced_scale(size, side) == reduced_scale(size[::-1], side) == scale


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(("size", "scale"), [((131, 97), 2), ((263, 201), 4), ((523, 405), 8), ((405, 523), 8)])
def test_a_reduced_photo_lies_where_the_full_size_one_does(orientation: int, size: tuple[int, int], scale: int) -> None:
    """The sides are no multiples of the scale, so that the photo ends within a pixel of the reduced image."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = jpeg(stripes(*size), exif=exif, subsampling=0).content
    wanted = how(24, 20, "bicubic")
    full = decode(content)
    reduced = decode_reduced(content, lambda size: scale)
    assert (reduced.scale, reduced.size) == (scale, full.size)
    left, top, right, bottom = reduced.box
    assert (right - left, bottom - top) == (full.width / scale, full.height / scale)
    exact = preprocess(full, wanted).astype(int)
    off = np.abs(preprocess_fast(reduced.image, wanted, reduced.size, reduced.box) - exact)
    careless = np.abs(preprocess_fast(reduced.image, wanted) - exact)  # the whole reduced image taken for the photo
    assert off.mean() < 0.5
    assert off.max() <= 3
    assert careless.mean() > 4


@pytest.mark.parametrize("options", [{"subsampling": kind} for kind in (0, 1, 2)] + [{"progressive": True}], ids=str)
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_large_jpegs_of_every_kind_are_near(mode: str, options: Any) -> None:
    photo = jpeg(stripes(1400, 1060).convert(mode), **options)
    assert is_reduced(photo.content, LITE)
    exact, statistics = prepare(photo, LITE)
    fast, reduced_statistics = prepare(photo, LITE, "fast")
    full_size, same_statistics = prepare(photo, LITE, FAST_FULL_SIZE)
    assert 0 < np.abs(fast.astype(int) - exact).mean() < 0.6
    assert_near(full_size, exact)
    assert np.array_equal(same_statistics, statistics)
    assert not np.array_equal(reduced_statistics, statistics)
    assert np.abs(reduced_statistics - statistics).max() < 0.01  # of a scale of 0 to 1


def test_the_size_of_the_crop_decides_which_photos_are_reduced(monkeypatch: pytest.MonkeyPatch) -> None:
    side = 2 * preprocess_module.REDUCED_SIDE * LITE.resize
    small, large = jpeg(picture(side, side - 1)).content, jpeg(picture(side, side)).content
    assert (is_reduced(small, LITE), is_reduced(large, LITE)) == (False, True)
    file = BytesIO()
    picture(side, side).save(file, "PNG")
    assert not is_reduced(file.getvalue(), LITE)  # only libjpeg can
    assert not is_reduced(np.zeros((side, side, 3), np.uint8), LITE)
    assert not is_reduced(large[:30], LITE)  # damaged
    assert not is_reduced(jpeg(picture(side, 2 * side)).content, LITE)  # tall: PIL resizes it, at full size
    assert not is_reduced(jpeg(picture(2 * side, side)).content, LITE)  # its orientation may make it tall
    assert not is_reduced(large, replace(LITE, interpolation="nearest"))


def test_a_large_jpeg_that_ends_early_is_unreadable_in_both_modes() -> None:
    content = jpeg(picture(1400, 1100)).content
    for mode in ("exact", "fast", FAST_FULL_SIZE):
        with pytest.raises(UnreadableImage) as caught:
            prepare(Photo(bytes(16), (1, 1), content[: len(content) // 2]), LITE, mode)
        assert caught.value.reason == SkipReason.UNREADABLE


def test_thumbnails_of_large_jpegs_look_as_those_of_the_full_size() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    photo = jpeg(stripes(1400, 1060), exif=exif)
    small = Image.open(BytesIO(thumbnail(photo)))
    full = photo.pixels()
    full.thumbnail((160, 160))
    assert small.size == full.size == (121, 160)
    assert not small.getexif()
    assert np.abs(np.asarray(small, int) - np.asarray(full, int)).mean() < 3  # what JPEG itself loses


def test_rows_of_an_earlier_fast_cache_are_reused_except_those_of_large_jpegs(
    run: fake_backbone.Extractor, tmp_path: Path, decoded: list[str]
) -> None:
    photos = fake_backbone.folder_of(tmp_path / "photos", range(4), side=80)  # PNG
    for number, side in ((4, 48), (5, 80)):  # JPEG: 80 pixels are reduced to 40, 48 are not
        path = photos / "c0" / f"{number:05d}.jpg"
        fake_backbone.photo(number, side).save(path, "JPEG", quality=100, subsampling=0)
        fake_backbone.touch(path)
    before = run(photos, decode=FAST_FULL_SIZE)
    assert sorted(run.network.seen) == list(range(6))
    run.network.forget()
    heard = Notes()
    after = run(photos, decode="fast", progress=heard)
    assert run.network.seen == [5]
    assert decoded == [FAST_FULL_SIZE] * 6 + ["fast"]
    assert before.recipe["decoder"].startswith("fast:") and after.recipe["decoder"].startswith("fast2:")
    fake_backbone.assert_planted(after)
    assert heard.texts == [
        f"{before.path.name} was made before `--decode fast` reduced large photos: its rows are reused, except those "
        "of large JPEG photos, which are computed again"
    ]


def test_a_model_of_an_earlier_version_decodes_at_full_size(model: Model, tmp_path: Path, decoded: list[str]) -> None:
    new = class_folders(tmp_path / "new", 1)
    earlier = replace(model, recipe={**model.recipe, "decoder": decoder_of(FAST_FULL_SIZE)})
    heard = Notes()
    earlier.predict(new, n_jobs=1, progress=heard)
    earlier.score(new, n_jobs=1)
    assert decoded == [FAST_FULL_SIZE] * 4
    assert not any("features differ slightly" in note for note in heard.texts)


# --- the key ----------------------------------------------------------------------------------------------------------


def test_exact_has_the_key_it_always_had_and_fast_another() -> None:
    exact, fast = recipe_of(Backbone.open()), recipe_of(Backbone.open(), decode="fast")
    assert exact.decoder == decoder_fingerprint()
    assert exact == recipe_of(Backbone.open(), decode="exact")
    assert list(exact.differences(fast.as_dict())) == ["decoder"]
    before = recipe_of(Backbone.open(), decode=FAST_FULL_SIZE)
    assert fast.decoder.startswith("fast2:")
    assert before.decoder.startswith("fast:")
    assert len({made.key("/photos") for made in (exact, before, fast)}) == 3
    modes = [decode_mode(made.decoder) for made in (exact, before, fast)]
    assert modes == ["exact", FAST_FULL_SIZE, "fast"]


def test_the_fast_fingerprint_changes_with_the_decoders_and_with_the_resize(monkeypatch: pytest.MonkeyPatch) -> None:
    full_size = fingerprint.full_size_fingerprint.__wrapped__
    monkeypatch.setattr(fingerprint, "full_size_fingerprint", lambda: full_size())  # computed each time
    fresh = fingerprint.fast_fingerprint.__wrapped__
    here = fresh()
    assert here == decoder_of("fast")
    with monkeypatch.context() as other:
        other.setattr(fingerprint, "decoder_fingerprint", lambda: "another")
        assert fresh() != here
    with monkeypatch.context() as other:
        other.setattr(fingerprint, "preprocess_fast", lambda *given: preprocess_fast(*given) ^ 1)
        assert fresh() != here
    with monkeypatch.context() as other:
        other.setattr(fingerprint, "REDUCED_SIDE", 3)
        assert fresh() != here
    with monkeypatch.context() as other:  # a libjpeg that reduces otherwise
        changed = decode_reduced(jpeg(picture(32, 24)).content, lambda size: 2)
        other.setattr(fingerprint, "decode_reduced", lambda *given: changed)
        assert fresh() != here
    assert fresh() == here


def test_without_the_library_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cykooz_resizer", None)
    with pytest.raises(SourceError) as caught:
        resizing_library.__wrapped__()
    assert caught.value.message == "--decode fast: expected the package cykooz-resizer, got none"
    assert caught.value.next_step == "pip install 'transfer-pipeline[fast]', or --decode exact"


def test_neither_mode_loads_torch() -> None:
    code = (
        "import sys, pipeline.images as i; i.decoder_of('fast'); "
        "print('torch' in sys.modules, 'cykooz_resizer' in sys.modules); "
    )
    alone = "import sys, pipeline.images as i; i.decoder_of('exact'); print('cykooz_resizer' in sys.modules)"
    for words, said in ((code, "False True"), (alone, "False")):
        assert subprocess.run([sys.executable, "-c", words], capture_output=True, text=True).stdout.strip() == said


# --- the roads that decode --------------------------------------------------------------------------------------------


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The mode that each photo was prepared in."""
    seen: list[str] = []

    def noting(mode: str, made: Any) -> Any:
        return lambda *given: (seen.append(mode), made(*given))[1]

    modes = preprocess_module._PREPARE
    monkeypatch.setattr(preprocess_module, "_PREPARE", {mode: noting(mode, made) for mode, made in modes.items()})
    return seen


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> fake_backbone.Extractor:
    network = fake_backbone.Planted()
    monkeypatch.setattr(network_room, "open_runtime", network)
    return fake_backbone.Extractor(network, tmp_path / "caches")


def test_the_modes_have_a_cache_each_and_each_names_the_other(
    run: fake_backbone.Extractor, tmp_path: Path, decoded: list[str]
) -> None:
    photos = fake_backbone.folder_of(tmp_path / "photos", range(6), side=32)
    exact = run(photos)
    assert decoded == ["exact"] * 6
    heard = Notes()
    fast = run(photos, decode="fast", progress=heard)
    assert decoded == ["exact"] * 6 + ["fast"] * 6
    assert fast.path != exact.path
    assert np.array_equal(fast.pixel_statistics(), exact.pixel_statistics())
    assert heard.texts == [
        f"{exact.path.name} holds these images too, but differs in decoder; --decode exact would use it"
    ]
    exact.path.unlink()
    assert run(photos).summary.notes == (
        f"{fast.path.name} holds these images too, but differs in decoder; --decode fast would use it",
    )
    half = run(photos, store="fp16").summary.notes
    assert any(note.endswith("differs in decoder, store; --store fp32 --decode fast would use it") for note in half)
    decoded.clear()
    run(photos, decode="fast", recheck=2)
    assert decoded == ["fast"] * 2


def test_no_mode_is_promised_that_decodes_otherwise_here(
    run: fake_backbone.Extractor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos = fake_backbone.folder_of(tmp_path / "photos", range(3))
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr("pipeline.extraction.api.decoder_of", lambda mode: "fast2:elsewhere")
        other = run(photos, decode="fast")
    assert run(photos).summary.notes == (f"{other.path.name} holds these images too, but differs in decoder",)


def test_a_mode_that_there_is_not_is_refused(tmp_path: Path) -> None:
    fake_backbone.put(tmp_path / "a.png", 1)
    with pytest.raises(SourceError) as caught:
        extract(tmp_path, decode="quick")
    assert caught.value.message == "decode: expected exact or fast, got 'quick'"
    assert caught.value.next_step == "--decode exact"


def test_a_test_cache_of_the_other_mode_is_refused(tmp_path: Path) -> None:
    X, y = blobs(24, classes=2)
    columns = {"kind": names(y)}
    train = make_cache(tmp_path / "a.h5", X, columns)
    other = make_cache(tmp_path / "b.h5", X, columns, changes={"decoder": "fast2:any"}, name="other")
    with pytest.raises(
        EvaluationError, match=r"b\.h5: expected test features made as those of a\.h5, got others: decoder\n"
    ):
        evaluate(train, test=other, column="kind", **QUICK)


def class_folders(folder: Path, n: int, start: int = 0) -> Path:
    for number in range(start, start + 2 * n):
        name = folder / ("ant", "bee")[number % 2] / f"{number}.jpg"
        name.parent.mkdir(parents=True, exist_ok=True)
        picture(60 + 20 * (number % 2), 50, seed=number).save(name)
    return folder


@pytest.fixture
def model(tmp_path: Path) -> Iterator[Model]:
    out = tmp_path / "a.model"
    fit(
        class_folders(tmp_path / "photos", 4),
        cache=tmp_path / "caches",
        decode="fast",
        out=out,
        heads="logistic",
        grid={"logistic.C": 0.1},
        **QUICK,
    )
    yield Model.open(out)


def test_a_model_decodes_as_it_was_trained(model: Model, tmp_path: Path, decoded: list[str]) -> None:
    heard = Notes()
    new = class_folders(tmp_path / "new", 1)
    said = model.predict(new, n_jobs=1, progress=heard)
    assert decoded == ["fast"] * 2
    assert not any("features differ slightly" in note for note in heard.texts)
    assert list(said["error"]) == ["", ""]
    model.score(new, n_jobs=1)
    assert decoded == ["fast"] * 4
    exact = replace(model, recipe={**model.recipe, "decoder": decoder_fingerprint()})
    exact.predict(new, n_jobs=1)
    assert decoded == ["fast"] * 4 + ["exact"] * 2


def test_a_test_set_of_photos_is_decoded_as_the_training_photos_were(tmp_path: Path, decoded: list[str]) -> None:
    train = extract(class_folders(tmp_path / "train", 4), cache=tmp_path / "caches", decode="fast")
    decoded.clear()
    evaluate(
        train, test=ImageSource.open(class_folders(tmp_path / "test", 2, start=20)), cache=tmp_path / "caches", **QUICK
    )
    assert decoded == ["fast"] * 4
