"""`extract` again and again while the photos change: always right, and never one photo more than needed."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import fake_backbone
import numpy as np
import pytest
from fake_backbone import Extractor, assert_planted
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.cache import PENDING, STORED, FeatureCache
from pipeline.cache import reader as header_room
from pipeline.errors import SourceError
from pipeline.images import ImageSource


@pytest.fixture
def photos(tmp_path) -> Path:
    return fake_backbone.folder_of(tmp_path / "photos", range(20))


class Album:
    """A folder of photos, and what each file in it says."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.says: dict[str, int | None] = {}  # None for a file that is no photo
        self.put("00000.png", 0)

    def put(self, name: str, number: int | None) -> None:
        fake_backbone.put(self.folder / name, b"no photo" if number is None else number)
        self.says[name] = number

    def change(self, what: str, which: int, number: int) -> None:
        name = sorted(self.says)[which % len(self.says)]
        if what == "new":
            self.put(f"{number:05d}.png", number)
        elif what == "edit":
            self.put(name, number)
        elif what == "break":
            self.put(name, None)
        elif what == "touch":
            fake_backbone.touch(self.folder / name)
        elif what == "rename":
            self.says[f"{name[:-4]}x.png"] = self.says.pop(name)
            (self.folder / name).rename(self.folder / f"{name[:-4]}x.png")
        elif what == "delete" and len(self.says) > 1:
            (self.folder / name).unlink()
            del self.says[name]


CHANGES = st.tuples(
    st.sampled_from(["new", "new", "edit", "break", "touch", "rename", "delete"]), st.integers(0, 9), st.integers(0, 30)
)
STEPS = st.tuples(st.lists(CHANGES, max_size=4), st.sampled_from(["penultimate", "penultimate", "early"]))


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(STEPS, min_size=1, max_size=5))
def test_any_row_of_changes_infers_what_is_new_and_nothing_else(network, tmp_path_factory, steps):
    folder = tmp_path_factory.mktemp("album")
    album, run = Album(folder / "photos"), Extractor(network, folder / "caches")
    contents: set[int | None] = set()  # what the cache before knew
    layers: set[str] = set()
    for changes, layer in steps:
        for change in changes:
            album.change(*change)
        cache = run(album.folder, layer=layer)
        readable = [number for number in album.says.values() if number is not None]
        new = [number for number in readable if number not in contents or layer not in layers]
        assert sorted(network.seen) == sorted(new)
        assert cache.summary.inferred == cache.summary.stored == len(new)
        assert cache.summary.failed == len(album.says) - len(readable)
        assert cache.ids == sorted(album.says)
        numbers = [album.says[cache.ids[row]] for row in cache.rows]
        layers |= {layer}
        assert set(cache.layers) == layers
        for name in layers:
            assert np.array_equal(cache.features(name), fake_backbone.features_of(numbers, name))
        assert run.caches() == [cache.path.name]
        contents = set(readable)


def interrupted(run: Extractor, photos: Path) -> FeatureCache:
    """Return the cache of a run that was ended half way, rows pending in it."""
    fake_backbone.put(photos / "c0" / "00009x.png", b"")
    with pytest.raises(SourceError):
        run(photos, on_error="stop", n_jobs=1, batch_size=1)
    (path,) = run.folder.glob("*.h5")
    cache = FeatureCache.open(path)
    assert (cache.status == PENDING).sum() == 15 and (cache.status == STORED).sum() == 5
    return cache


def test_an_interrupted_run_goes_on_where_it_stopped(run, photos, network):
    half = interrupted(run, photos)
    cache = run(photos)
    assert cache.path == half.path
    assert len(network.seen) == 15 and not {0, 2, 4, 6, 8} & set(network.seen)
    assert (cache.summary.stored, cache.summary.reused, cache.summary.failed) == (15, 5, 1)
    assert_planted(cache, ["c0/00009x.png"])


def test_an_interrupted_run_lends_to_the_next_when_photos_came_meanwhile(run, photos, network):
    half = interrupted(run, photos)
    fake_backbone.folder_of(photos, [20])
    cache = run(photos)
    assert cache.path != half.path and not half.path.exists()
    assert len(network.seen) == 16
    assert_planted(cache, ["c0/00009x.png"])


@pytest.mark.parametrize("name", ["ids", "labels/label", "stat", "digest", "crc32", "features/penultimate"])
def test_damage_to_rows_still_pending_is_mended_with_them(run, photos, name):
    half = interrupted(run, photos)
    field = half.header.fields[name]
    pending = np.flatnonzero(half.status == PENDING)
    with open(half.path, "r+b") as file:
        for row in pending[::4]:
            file.seek(field.offset + int(row) * field.row_bytes)
            file.write(b"\xff")
    cache = run(photos)
    assert cache.path == half.path
    assert cache.ids == ImageSource.open(photos).ids
    assert cache.columns["label"] == [name[:2] for name in cache.ids]
    assert_planted(cache, ["c0/00009x.png"])


def test_a_status_that_falls_back_to_pending_is_one_row_to_do(run, photos, network):
    cache = run(photos)
    content = cache.path.read_bytes()
    with open(cache.path, "r+b") as file:
        file.seek(cache.header.fields["status"].offset + 7)
        file.write(b"\0")
    assert run(photos).summary.inferred == 1
    assert cache.path.read_bytes() == content


def test_a_cache_that_lends_may_be_removed_meanwhile(run, photos, network, tmp_path, monkeypatch):
    lender = run(photos).path
    shutil.copytree(photos, tmp_path / "elsewhere" / "photos")
    whole = ImageSource.read

    def remove_it(self: ImageSource, row: int) -> Any:
        lender.unlink(missing_ok=True)
        return whole(self, row)

    monkeypatch.setattr(ImageSource, "read", remove_it)
    cache = run(tmp_path / "elsewhere" / "photos")
    assert (network.seen, cache.summary.reused) == ([], 20)
    assert_planted(cache)


def test_rows_are_copied_in_parts_that_fit_into_memory(run, photos, network, monkeypatch):
    monkeypatch.setattr(header_room, "MEMORY", 20_000)  # three rows
    first = run(photos)
    assert first.header.rows_at_once == 3
    fake_backbone.folder_of(photos, [20])
    assert_planted(run(photos))
    assert network.seen == [20]
    assert_planted(run(photos, layer="early"))
    fake_backbone.touch(photos / "c0" / "00004.png")
    assert_planted(run(photos))
    assert network.seen == []
