"""The built-in sources: the crops stay inside their quadrants, and what the columns say is in the pixels."""

from __future__ import annotations

import pickle
from collections import Counter
from importlib.util import find_spec

import numpy as np
import pytest
from PIL import Image

from pipeline.errors import SourceError
from pipeline.images import ImageSource, builtin
from pipeline.images.builtin import MAX_ZOOM, PHOTOGRAPHS, SIDE, _photograph, draw, photo_crops

pytest.importorskip("skimage", reason="scikit-image is not installed: pip install 'transfer-pipeline[demo]'")


@pytest.fixture(scope="module")
def crops() -> ImageSource:
    return ImageSource.open("photo-crops")


def test_there_are_twenty_crops_of_each_quadrant_of_eighteen_photographs(crops):
    assert len(crops) == 1440
    assert crops.name == "photo-crops"
    assert crops.ids == sorted(set(crops.ids))
    assert set(Counter(crops.columns["quadrant"]).values()) == {20}
    assert len(set(crops.columns["photo"])) == 18
    assert crops.ids[:2] == ["astronaut/q1/01", "astronaut/q1/02"]
    assert all(
        image_id.startswith(quadrant + "/")
        for image_id, quadrant in zip(crops.ids, crops.columns["quadrant"], strict=True)
    )
    assert {name: len(set(column)) for name, column in crops.columns.items() if name != "zoom"} == {
        "photo": 18,
        "kind": 9,
        "colour": 2,
        "orientation": 4,
        "random": 3,
        "quadrant": 72,
    }


def test_no_crop_crosses_a_quadrant_and_all_quadrants_tile_the_photograph(crops):
    for name in PHOTOGRAPHS:
        width, height = _photograph(name).size
        tiles = [draw(f"{name}/q{number}/01", 0).quadrant for number in (1, 2, 3, 4)]
        assert sum((right - left) * (bottom - top) for left, top, right, bottom in tiles) == width * height
        assert tiles[0][:2] == (0, 0)
        assert tiles[3][2:] == (width, height)
    for image_id in crops.ids:
        crop = draw(image_id, 0)
        assert crop.quadrant[0] <= crop.box[0] < crop.box[2] <= crop.quadrant[2]
        assert crop.quadrant[1] <= crop.box[1] < crop.box[3] <= crop.quadrant[3]
        assert crop.box[2] - crop.box[0] == crop.box[3] - crop.box[1]


@pytest.mark.parametrize("row", [0, 333, 808, 1439])
def test_a_crop_is_cut_enlarged_and_turned_as_its_columns_say(crops, row):
    crop = draw(crops.ids[row], 0)
    square = _photograph(crops.columns["photo"][row]).crop(crop.box).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    turned = np.rot90(np.asarray(square), int(crops.columns["orientation"][row]) // 90)  # against the clock
    assert np.array_equal(np.asarray(crops.read(row).pixels()), turned)
    left, top, right, bottom = crop.quadrant
    side = min(right - left, bottom - top) / float(crops.columns["zoom"][row])
    assert side == pytest.approx(crop.box[2] - crop.box[0], abs=0.05)


def test_what_is_drawn_is_spread_as_promised(crops):
    zoom = np.log(np.array(crops.columns["zoom"], dtype=float)) / np.log(MAX_ZOOM)
    assert zoom.min() >= 0
    assert zoom.max() < 1.02  # a side is a whole number of pixels
    assert np.abs(np.histogram(zoom, 4, (0, 1.02))[0] / 1440 - 0.25).max() < 0.04
    for column in ("orientation", "random"):
        counts = np.array(list(Counter(crops.columns[column]).values()))
        assert np.abs(counts / 1440 - 1 / len(counts)).max() < 0.04
    drawn = np.array(crops.columns["random"])
    agree = (drawn[1:] == drawn[:-1]).mean()
    assert abs(agree - 1 / 3) < 0.04  # not by place


def test_colour_is_the_photograph_s(crops):
    for name, (_, _, colour) in PHOTOGRAPHS.items():
        values = np.asarray(_photograph(name)).astype(int)
        grey = np.abs(values - values[..., :1]).max() == 0
        assert (colour == "grey") == grey


def test_crops_are_made_again_the_same_and_all_differ(crops):
    rows = range(0, 1440, 7)
    first = [crops.read(row).digest for row in rows]
    assert first == [ImageSource.open("photo-crops").read(row).digest for row in rows]
    assert len(set(first)) == len(first)
    photo = crops.read(7)
    assert photo.stat == tuple(crops.stat[7])
    assert len(photo.digest) == 16


def test_another_seed_is_another_source(crops):
    other = photo_crops(seed=1)
    assert other.ids == crops.ids
    assert other.place != crops.place
    assert (other.stat[:, 1] != crops.stat[:, 1]).all()
    assert other.read(0).digest != crops.read(0).digest


def test_the_place_names_seed_and_versions(crops):
    assert crops.place.startswith("builtin:photo-crops@seed-0,scikit-image-")
    assert ",scikit-learn-" in crops.place


def test_crops_travel_to_workers_without_pixels(crops):
    crops.read(0)
    part = crops.take(range(8))
    assert len(pickle.dumps(part)) < 3000
    again = pickle.loads(pickle.dumps(part))
    assert again.read(5).digest == crops.read(5).digest


def test_without_scikit_image_the_extra_is_named(monkeypatch):
    monkeypatch.setattr(builtin, "find_spec", lambda name: None if name == "skimage" else find_spec(name))
    builtin._package_file.cache_clear()
    builtin._photograph.cache_clear()
    builtin.draw.cache_clear()
    with pytest.raises(SourceError, match="needs scikit-image, which is not installed") as caught:
        ImageSource.open("photo-crops")
    assert caught.value.next_step == "pip install 'transfer-pipeline[demo]'"


def test_digits_are_scikit_learn_s_in_its_order():
    from sklearn.datasets import load_digits

    source, theirs = ImageSource.open("digits"), load_digits()
    assert len(source) == 1797
    assert source.ids[12] == "000012"
    assert source.columns["label"] == [str(label) for label in theirs.target]
    assert source.place.startswith("builtin:digits@scikit-learn-")
    for row in range(0, 1797, 100):
        expected = np.rint(theirs.images[row] * 255 / 16)
        assert np.array_equal(np.asarray(source.read(row).pixels())[..., 0], expected)
