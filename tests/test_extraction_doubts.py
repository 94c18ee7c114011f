"""`extract` where something fails, has changed or is damaged: nothing is stale in silence, nothing is guessed."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import fake_backbone
import numpy as np
import pytest
from fake_backbone import assert_planted

import pipeline.extraction.encoder as network_room
from pipeline.cache import STORED, CacheLock, FeatureCache
from pipeline.errors import CacheError, PipelineError, SkipReason, SourceError, UnreadableImage
from pipeline.images import ImageSource, Photo
from pipeline.images import folder as folder_room
from pipeline.progress import Progress


@pytest.fixture
def photos(tmp_path) -> Path:
    return fake_backbone.folder_of(tmp_path / "photos", range(20))


# --- photos that fail -------------------------------------------------------------------------------------------------


def test_a_failed_photo_is_tried_again_when_it_changes_and_not_before(run, photos, network, monkeypatch):
    broken = fake_backbone.put(photos / "c0" / "00100.png", b"broken")
    assert_planted(run(photos), ["c0/00100.png"])
    with monkeypatch.context() as patch:
        patch.setattr(ImageSource, "read", lambda *_: pytest.fail("an image was read"))
        assert run(photos).skipped == {"c0/00100.png": SkipReason.NOT_AN_IMAGE}
    fake_backbone.put(broken, 100)
    cache = run(photos)
    assert network.seen == [100]
    assert_planted(cache)


def test_a_missing_photo_is_tried_again_when_it_is_back(run, photos, network, tmp_path):
    source = ImageSource.open(photos)
    path = photos / "c0" / "00004.png"
    path.rename(tmp_path / "away.png")
    cache = run(source)
    assert cache.skipped == {"c0/00004.png": SkipReason.MISSING}
    assert run(source).summary.failed == 1
    (tmp_path / "away.png").rename(path)
    healed = run(source)
    assert (network.seen, healed.summary.stored, healed.path) == ([4], 1, cache.path)
    assert_planted(healed)


@pytest.mark.parametrize("reason", [SkipReason.NO_DECODER, SkipReason.FORBIDDEN])
def test_a_reason_outside_the_file_is_looked_at_in_every_run(run, photos, network, monkeypatch, reason):
    with monkeypatch.context() as patch:
        whole = Photo.pixels

        def without_decoder(self: Photo, *_: Any) -> Any:
            image = whole(self)
            if fake_backbone.numbers_in(np.asarray(image)[None])[0] in (4, 5):
                raise UnreadableImage(reason)
            return image

        patch.setattr(Photo, "pixels", without_decoder)
        first = run(photos)
        assert first.skipped == {"c0/00004.png": reason, "c1/00005.png": reason}
        with CacheLock.shared(first.path):  # nothing has changed, so nothing is written and no lock is wanted
            assert run(photos).summary.failed == 2
    healed = run(photos)
    assert sorted(network.seen) == [4, 5]
    assert_planted(healed)


def test_features_that_are_not_finite_are_a_reason_and_not_tried_again(run, photos, network):
    network.spoilt = [3]
    assert run(photos).skipped == {"c1/00003.png": SkipReason.NOT_FINITE}
    again = run(photos)
    assert (network.seen, again.summary.failed) == ([], 1)
    assert_planted(again, ["c1/00003.png"])


def test_features_too_large_for_half_storage_are_not_finite(run, tmp_path, network):
    photos = fake_backbone.folder_of(tmp_path / "photos", [5, 64 * 70_000])
    assert run(photos).summary.failed == 0
    cache = run(photos, store="fp16")
    assert cache.skipped == {"c0/4480000.png": SkipReason.NOT_FINITE}
    assert cache.features().dtype == np.float16 and np.isfinite(cache.features()).all()


def test_on_error_stop_names_the_photo_and_keeps_what_was_before(run, photos, network):
    fake_backbone.put(photos / "c0" / "00009x.png", b"")  # ids sort it after c0/00008.png
    with pytest.raises(SourceError) as caught:
        run(photos, on_error="stop", n_jobs=1, batch_size=1)
    assert caught.value.message == "c0/00009x.png: empty file"
    assert caught.value.next_step == "fix or remove the photo, or leave it out with --on-error skip"
    assert network.seen == [0, 2, 4, 6, 8]
    with pytest.raises(SourceError, match=r"c0/00009x\.png: empty file"):
        run(photos, on_error="stop")  # also where the cache is complete but for that photo
    assert len(network.seen) == 15
    with pytest.raises(SourceError, match=r"c0/00009x\.png: empty file"):
        run(photos, on_error="stop")
    cache = run(photos)
    assert (network.seen, cache.summary.reused, cache.summary.failed) == ([], 20, 1)
    (photos / "c0" / "00009x.png").unlink()
    assert_planted(run(photos, on_error="stop"))


# --- nothing is stale in silence --------------------------------------------------------------------------------------


def change_behind(path: Path, number: int) -> None:
    """Change a photo's content and nothing that a listing shows."""
    before = path.stat()
    fake_backbone.put(path, number)
    assert path.stat().st_size == before.st_size, "the planted photos are of one size"
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.fixture
def bitmaps(tmp_path, monkeypatch) -> Path:
    """Photos whose files are all of one size."""
    whole = fake_backbone.photo
    monkeypatch.setattr(fake_backbone, "put", lambda path, number, side=16: _put_bitmap(path, whole(number, side)))
    return fake_backbone.folder_of(tmp_path / "photos", range(12))


def _put_bitmap(path: Path, image: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, "BMP")
    fake_backbone.touch(path)


def test_rehash_finds_content_changed_behind_an_unchanged_size_and_time(run, bitmaps, network):
    first = run(bitmaps)
    change_behind(bitmaps / "c0" / "00004.png", 77)
    assert run(bitmaps).summary.inferred == 0
    cache = run(bitmaps, rehash=True)
    assert (network.seen, cache.summary.stored, cache.path) == ([77], 1, first.path)
    assert np.array_equal(
        cache.features()[cache.ids.index("c0/00004.png")], fake_backbone.features_of([77], "penultimate")[0]
    )
    with CacheLock.shared(first.path):
        assert run(bitmaps, rehash=True).summary.inferred == 0  # nothing to write, so no lock is wanted


def test_rehash_of_changed_photos_trusts_content_alone(run, bitmaps, network):
    run(bitmaps)
    change_behind(bitmaps / "c0" / "00004.png", 77)
    fake_backbone.folder_of(bitmaps, [90])
    cache = run(bitmaps, rehash=True)
    assert sorted(network.seen) == [77, 90]
    assert (cache.summary.stored, cache.summary.reused) == (2, 11)


def test_recheck_finds_a_changed_photo_and_a_doctored_row(run, bitmaps, network):
    cache = run(bitmaps)
    assert run(bitmaps, recheck=5).summary.rechecked == len(network.seen) == 5
    assert run(bitmaps, recheck=100).summary.rechecked == 12
    assert run(bitmaps, recheck=100).summary.inferred == 0
    path = bitmaps / "c0" / "00004.png"
    change_behind(path, 77)
    with pytest.raises(SourceError) as caught:
        run(bitmaps, recheck=12)
    assert caught.value.message == (
        "c0/00004.png: expected the image that the cache was made from, got another content with the same size and time"
    )
    assert "--rehash" in caught.value.next_step
    change_behind(path, 4)
    doctor(cache.path, 4)
    with pytest.raises(CacheError, match="1 of 12 rows compared differ") as doctored:
        run(bitmaps, recheck=12)
    assert cache.ids[4] in str(doctored.value)


def test_a_few_reused_rows_are_rechecked_where_the_network_is_loaded_anyway(run, bitmaps, network):
    assert run(bitmaps, recheck=None).summary.rechecked == 0  # there is nothing but what was computed just now
    assert len(network.seen) == 12
    assert run(bitmaps, recheck=None).summary.rechecked == 0
    assert not network.opened, "it was loaded for nothing else"
    fake_backbone.folder_of(bitmaps, [90])
    grown = run(bitmaps, recheck=None).summary
    assert (grown.inferred, grown.rechecked, grown.stored, grown.reused) == (1, 3, 1, 12)
    assert network.seen[0] == 90 and set(network.seen[1:]) < set(range(12)) and len(network.seen) == 4
    assert "1 went through the network; 3 rechecked; " in grown.text
    fake_backbone.folder_of(bitmaps, [91])
    assert run(bitmaps, recheck=0).summary.rechecked == 0
    assert network.seen == [91]


def test_wrong_rows_are_not_handed_on_in_silence(run, bitmaps, network):
    cache = run(bitmaps)
    for row in cache.rows:
        doctor(cache.path, int(row))
    fake_backbone.folder_of(bitmaps, [90])
    with pytest.raises(
        CacheError, match=r"penultimate features of .* are not what the network gives .*3 of 3"
    ) as caught:
        run(bitmaps, recheck=None)
    assert caught.value.next_step.startswith("pipeline cache remove ")


def test_a_recheck_of_what_cannot_be_decoded_any_more_says_so(run, bitmaps, network, monkeypatch):
    run(bitmaps)

    def without_decoder(self: Photo, *_: Any) -> Any:
        raise UnreadableImage(SkipReason.NO_DECODER)

    monkeypatch.setattr(Photo, "pixels", without_decoder)
    with pytest.raises(SourceError, match="got needs a decoder that is not installed") as caught:
        run(bitmaps, recheck=2)
    assert "install the image decoder" in caught.value.next_step


def test_a_recheck_of_rows_that_get_a_layer_more_looks_at_what_the_loaded_network_has(run, bitmaps, network):
    run(bitmaps, layer="penultimate")
    added = run(bitmaps, layer=["penultimate", "early"], recheck=None).summary
    assert (added.inferred, added.rechecked, len(network.opened)) == (12, 0, 1)
    assert run(bitmaps, layer=["penultimate", "early"], recheck=4).summary.rechecked == 4


def doctor(path: Path, row: int) -> None:
    """Change a stored feature and its checksum with it."""
    from pipeline.cache.create import RawFile
    from pipeline.cache.reader import checksums

    header = FeatureCache.open(path).header
    with RawFile(path) as rows:
        features = np.array(header.features("penultimate")[row])
        rows.write(header.fields["features/penultimate"], row, features + 1)
        rows.write(header.fields["crc32"], row, checksums(header.take(np.array([row]))))
    assert FeatureCache.open(path).is_sound()


def test_an_edit_between_listing_and_reading_cannot_come_back_as_the_listed_photo(run, photos, network):
    source = ImageSource.open(photos)
    path = photos / "c0" / "00004.png"
    before = path.read_bytes(), path.stat()
    fake_backbone.put(path, 500)
    cache = run(source)  # the row is of what was read, size and time too
    assert np.array_equal(cache.features()[2], fake_backbone.features_of([500], "penultimate")[0])
    path.write_bytes(before[0])
    os.utime(path, ns=(before[1].st_atime_ns, before[1].st_mtime_ns))
    healed = run(ImageSource.open(photos))
    assert (network.seen, healed.path) == ([4], cache.path)
    assert_planted(healed)


@pytest.mark.parametrize(
    "name",
    ["features/penultimate", "pixel_statistics", "ids", "labels/label", "digest", "stat", "status", "crc32"],
)
def test_a_damaged_row_is_healed_bit_for_bit_and_no_other_is_computed(run, photos, network, name):
    cache = run(photos)
    content = cache.path.read_bytes()
    field = cache.header.fields[name]
    with open(cache.path, "r+b") as file:
        file.seek(field.offset + 7 * field.row_bytes)
        byte = file.read(1)[0]
        file.seek(-1, 1)
        file.write(bytes([byte ^ 0x81]))
    assert FeatureCache.open(cache.path).damaged().tolist() == [7]
    healed = run(photos)
    assert (healed.summary.inferred, healed.summary.stored, healed.path) == (1, 1, cache.path)
    assert network.seen == [fake_backbone.number_of(cache.ids[7])]
    assert cache.path.read_bytes() == content


def test_a_damaged_row_is_not_lent(run, photos, network, tmp_path):
    cache = run(photos)
    for name, row in (("ids", 3), ("features/penultimate", 7)):
        field = cache.header.fields[name]
        with open(cache.path, "r+b") as file:
            file.seek(field.offset + row * field.row_bytes)
            file.write(b"\xff")
    fake_backbone.folder_of(photos, [20])
    assert_planted(run(photos))
    assert len(network.seen) == 3
    damaged = FeatureCache.open(run(photos).path)
    with open(damaged.path, "r+b") as file:
        file.seek(damaged.header.fields["features/penultimate"].offset)
        file.write(b"\xff")
    shutil.copytree(photos, tmp_path / "copy")
    assert_planted(run(tmp_path / "copy"))
    assert network.seen == [0]


def test_a_cache_under_the_name_of_another_is_refused(run, photos, tmp_path):
    first = run(photos)
    other = run(fake_backbone.folder_of(tmp_path / "b" / "photos", range(30, 50)))
    shutil.copy(other.path, first.path)
    with pytest.raises(CacheError) as caught:
        run(photos)
    assert caught.value.message == (
        f"{first.path}: expected the features that belong to this name, got those of another cache"
    )


def test_a_cache_that_a_person_renamed_lends_and_is_never_removed(run, photos, tmp_path, network):
    path = run(photos).path
    path.rename(tmp_path / "caches" / "mine.h5")
    fake_backbone.folder_of(photos, [20])
    assert_planted(run(photos))
    assert network.seen == [20]
    assert (tmp_path / "caches" / "mine.h5").exists()


def test_earlier_files_that_cannot_be_read_are_named(run, photos, network):
    path = run(photos).path
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(CacheError, match="truncated"):
        run(photos)
    fake_backbone.folder_of(photos, [20])
    cache = run(photos)
    assert len(network.seen) == 21
    assert [note for note in cache.summary.notes if note.startswith("an earlier cache cannot be used: ")]


class Notes(Progress):
    def __init__(self) -> None:
        self.notes: list[str] = []
        self.steps: list[tuple[int, int]] = []

    def note(self, text: str) -> None:
        self.notes.append(text)

    def advance(self, stage: str, done: int, total: int) -> None:
        self.steps.append((done, total))


def test_a_near_miss_says_what_differs_and_the_flag_that_would_use_it(run, photos):
    full = run(photos)
    heard = Notes()
    half = run(photos, store="fp16", progress=heard)
    assert heard.notes == [f"{full.path.name} holds these images too, but differs in store; --store fp32 would use it"]
    assert half.summary.notes == tuple(heard.notes)
    other = run(photos, backbone=fake_backbone.backbone(weights_sha256="0" * 64))
    assert f"{half.path.name} holds these images too, but differs in store, weights_sha256" in other.summary.notes
    assert f"{full.path.name} holds these images too, but differs in weights_sha256" in other.summary.notes
    assert run(photos, store="fp16").summary.notes == ()


def test_growing_says_that_it_costs_the_space_twice(run, photos):
    old = run(photos).path.name
    fake_backbone.folder_of(photos, [20])
    assert run(photos).summary.notes == (
        f"images, labels or layers have changed: rows of {old} are copied into a new file of 0.1 MB, and the older "
        "file is removed when no process reads it",
    )


def test_progress_runs_from_nothing_to_all(run, photos):
    heard = Notes()
    run(photos, progress=heard)
    assert heard.steps[0] == (0, 20) and heard.steps[-1] == (20, 20)
    assert heard.steps == sorted(heard.steps)


def test_an_old_generation_is_kept_while_a_reader_holds_it(run, photos, tmp_path):
    old = run(photos)
    features = old.features()
    with CacheLock.shared(old.path):
        fake_backbone.folder_of(photos, [20])
        new = run(photos)
        assert run.caches() == sorted([old.path.name, new.path.name])
        assert np.array_equal(features, FeatureCache.open(old.path).features())
    assert run(photos).path == new.path
    assert run.caches() == [new.path.name]


# --- what a person may ask for ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("option", "text"),
    [
        ({"on_error": "ignore"}, "on_error: expected skip or stop, got 'ignore'"),
        ({"store": "int8"}, "store: expected fp32 or fp16, got 'int8'"),
        ({"precision": "fp8"}, "precision: expected fp32, bf16, fp16, got 'fp8'"),
        ({"batch_size": 0}, "batch_size: expected 1 or more, got 0"),
        ({"batch_size": -4}, "batch_size: expected 1 or more, got -4"),
        ({"n_jobs": 0}, "n_jobs: expected a number of workers, got 0"),
        ({"recheck": -1}, "recheck: expected a number of rows, got -1"),
    ],
)
def test_options_that_make_no_sense_are_errors(run, photos, tmp_path, option, text):
    with pytest.raises(PipelineError) as caught:
        run(photos, **option)
    assert caught.value.message == text
    assert not (tmp_path / "caches").exists()


def test_minus_one_job_is_every_core(run, photos):
    assert_planted(run(photos, n_jobs=-1))


def test_no_space_is_said_before_any_image_is_read_and_nothing_stays(run, photos, tmp_path, monkeypatch):
    monkeypatch.setattr(ImageSource, "read", lambda *_: pytest.fail("an image was read"))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: type("Usage", (), {"free": 1000})())
    with pytest.raises(CacheError) as caught:
        run(photos)
    assert caught.value.message == f"{tmp_path / 'caches'}: expected 0 MB for the cache, got 0 MB free"
    assert not list((tmp_path / "caches").iterdir())


def test_a_run_that_stores_nothing_leaves_no_file(run, photos, tmp_path, monkeypatch):
    def fail(*_: Any, **__: Any) -> None:
        raise CacheError("no such device", "--device cpu")

    monkeypatch.setattr(network_room, "open_runtime", fail)
    with pytest.raises(CacheError, match="no such device"):
        run(photos)
    assert not list((tmp_path / "caches").iterdir())


def test_a_folder_that_cannot_be_written_is_one_clear_error(run, photos, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(CacheError) as caught:
        run(photos, cache=tmp_path / "file" / "caches")
    assert caught.value.message.startswith(f"{tmp_path / 'file' / 'caches'}: expected to write a cache here, got ")
    assert caught.value.next_step == "give a folder that you may write with --cache DIR"


def test_provenance_says_what_is_recorded_and_not_keyed(run, photos):
    cache = run(photos, batch_size=7, n_jobs=2, device="cpu")
    said = cache.provenance
    assert (said["batch_size"], said["n_jobs"], said["device"], said["source"]) == (7, 2, "cpu", "photos")
    assert said["layers"] == {"penultimate": 1280}
    assert said["versions"].keys() >= {"torch", "pillow", "numpy"}
    assert said["recipe"]["weights_sha256"] == said["backbone"]["weights_sha256"]
    assert run(photos, batch_size=1, n_jobs=1).path == cache.path
    assert (cache.status == STORED).all()


def test_files_that_a_cache_knows_are_listed_without_being_opened(run, tmp_path, monkeypatch):
    photos = fake_backbone.folder_of(tmp_path / "photos", range(4))
    for path in photos.rglob("*.png"):
        path.rename(path.with_suffix(""))
    first = run(photos)
    assert first.ids[0] == "c0/00000"
    monkeypatch.setattr(folder_room, "_head", lambda path: pytest.fail(f"{path} was opened"))
    assert run(photos).summary.inferred == 0
    assert run(str(photos)).path == first.path
