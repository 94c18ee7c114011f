"""The square of pixels is torchvision's, bit for bit; the twelve numbers are numpy's."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pipeline.images import PIXEL_STATISTICS, pixel_statistics, preprocess
from pipeline.images.preprocess import PERCENTILES
from pipeline.provenance import Preprocessing

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
PRESETS = [(232, 224, "bilinear"), (256, 224, "bicubic"), (384, 384, "bicubic"), (342, 299, "bilinear")]
SIZES = [(500, 375), (375, 500), (256, 256), (1000, 21), (23, 907), (640, 427), (3, 5), (257, 255), (1, 40)]


def how(resize: int, crop: int, interpolation: str, antialias: bool = True) -> Preprocessing:
    return Preprocessing(resize, crop, interpolation, antialias, MEAN, STD)


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def torchvision_s(image: Image.Image, wanted: Preprocessing) -> np.ndarray:
    """What `torchvision.transforms._presets.ImageClassification` does before it makes a tensor."""
    from torchvision.transforms import functional
    from torchvision.transforms.functional import InterpolationMode

    mode = InterpolationMode(wanted.interpolation)
    # On PIL images torchvision warns that it ignores antialias=False, so both values of ours have this one oracle.
    resized = functional.resize(image, [wanted.resize], interpolation=mode, antialias=True)
    return np.asarray(functional.center_crop(resized, [wanted.crop]))


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("size", SIZES)
def test_pixels_equal_torchvision_s_at_its_presets(preset, size):
    image = noise(*size)
    found = preprocess(image, how(*preset))
    assert found.dtype == np.uint8
    assert found.shape == (preset[1], preset[1], 3)
    assert np.array_equal(found, torchvision_s(image, how(*preset)))


@settings(max_examples=150, deadline=None)
@given(
    width=st.integers(1, 300),
    height=st.integers(1, 300),
    resize=st.integers(1, 70),
    crop=st.integers(1, 90),
    interpolation=st.sampled_from(["nearest", "nearest-exact", "box", "bilinear", "hamming", "bicubic", "lanczos"]),
    antialias=st.booleans(),
)
def test_pixels_equal_torchvision_s_at_any_size(width, height, resize, crop, interpolation, antialias):
    if int(resize * max(width, height) / min(width, height)) > 4000:
        resize = 3
    image, wanted = noise(width, height), how(resize, crop, interpolation, antialias)
    assert np.array_equal(preprocess(image, wanted), torchvision_s(image, wanted))


def test_pixels_equal_the_whole_preset_of_real_weights():
    import torch
    from torchvision.models import ResNet50_Weights

    preset = ResNet50_Weights.IMAGENET1K_V2.transforms()
    wanted = how(preset.resize_size[0], preset.crop_size[0], preset.interpolation.value, preset.antialias)
    image = noise(431, 317)
    ours = torch.from_numpy(preprocess(image, wanted).copy()).permute(2, 0, 1) / 255
    ours = (ours - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]
    assert torch.equal(ours, preset(image))


def test_a_crop_larger_than_the_photo_has_a_black_border():
    found = preprocess(Image.new("RGB", (10, 10), (9, 9, 9)), how(10, 13, "bilinear"))
    assert found[1:11, 1:11].min() == 9  # torchvision pads (3 // 2) before and the rest after
    assert found[0].max() == found[11:].max() == found[:, 0].max() == found[:, 11:].max() == 0


@settings(max_examples=60, deadline=None)
@given(width=st.integers(1, 40), height=st.integers(1, 40), seed=st.integers(0, 2**16), levels=st.integers(1, 256))
def test_the_twelve_numbers_are_numpy_s(width, height, seed, levels):
    values = np.random.default_rng(seed).integers(0, levels, (height, width, 3), dtype=np.uint8)
    found = pixel_statistics(Image.fromarray(values))
    assert found.dtype == np.float32
    assert found.shape == (12,) == (len(PIXEL_STATISTICS),)
    scaled = values / 255
    assert found[:3] == pytest.approx(scaled.mean(axis=(0, 1)), abs=1e-6)
    assert found[3:6] == pytest.approx(scaled.std(axis=(0, 1)), abs=1e-6)
    ordered = np.sort(values, axis=None)
    for name, number in zip(PIXEL_STATISTICS[6:], found[6:], strict=True):
        share = int(name.removeprefix("percentile_"))
        rank = -(-share * ordered.size // 100)  # the smallest rank that holds this share, in whole numbers
        assert number == np.float32(ordered[rank - 1] / 255)


def test_percentiles_are_numpy_s_inverted_cdf():
    values = np.random.default_rng(3).integers(0, 256, (64, 100, 3), dtype=np.uint8)
    expected = np.percentile(values, PERCENTILES, method="inverted_cdf") / 255
    assert pixel_statistics(Image.fromarray(values))[6:] == pytest.approx(expected, abs=1e-7)


def test_a_flat_photo_has_no_spread():
    found = dict(zip(PIXEL_STATISTICS, pixel_statistics(Image.new("RGB", (4000, 3000), (255, 127, 0))), strict=True))
    assert [found[f"std_{colour}"] for colour in ("red", "green", "blue")] == [0, 0, 0]
    assert found["mean_red"] == 1
    assert found["mean_blue"] == 0
    assert found["percentile_95"] == 1
    assert found["percentile_1"] == 0
