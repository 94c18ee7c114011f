"""`extract`: every image on its own row, and the network run only where nothing knows the features."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import fake_backbone
import numpy as np
import pytest
from fake_backbone import assert_planted
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.cache import FeatureCache
from pipeline.errors import CacheError, SkipReason
from pipeline.extraction import extract
from pipeline.images import ImageSource


@pytest.fixture
def photos(tmp_path) -> Path:
    return fake_backbone.folder_of(tmp_path / "photos", range(20))


# --- each image on its own row ----------------------------------------------------------------------------------------

BROKEN = {
    SkipReason.EMPTY: b"",
    SkipReason.NOT_AN_IMAGE: b"text that is named .png",
    SkipReason.UNREADABLE: b"\x89PNG\r\n\x1a\n and no more",
    SkipReason.MISSING: None,
    SkipReason.NOT_FINITE: 7,
}


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    kinds=st.lists(st.sampled_from([None, None, *BROKEN]), min_size=1, max_size=30),
    batch_size=st.sampled_from([None, 1, 3, 64]),
    n_jobs=st.sampled_from([None, 1, 2, 5]),
    store=st.sampled_from(["fp32", "fp16"]),
)
def test_every_image_comes_back_on_its_own_row_under_any_failures(
    tmp_path_factory, network, kinds, batch_size, n_jobs, store
):
    folder = tmp_path_factory.mktemp("mix")
    for number, kind in enumerate(kinds):
        path = folder / "photos" / f"{number:05d}.png"
        content = BROKEN.get(kind)
        fake_backbone.put(path, content if isinstance(content, bytes) else number)
    network.spoilt = [number for number, kind in enumerate(kinds) if kind is SkipReason.NOT_FINITE]
    source = ImageSource.open(folder / "photos")
    for number, kind in enumerate(kinds):
        if kind is SkipReason.MISSING:
            (folder / "photos" / f"{number:05d}.png").unlink()
    options: dict[str, Any] = {"backbone": fake_backbone.backbone(), "cache": folder / "c", "store": store}
    cache = extract(source, batch_size=batch_size, n_jobs=n_jobs, **options)
    expected = {f"{number:05d}.png": kind for number, kind in enumerate(kinds) if kind is not None}
    assert cache.skipped == expected
    assert_planted(cache, list(expected))
    assert cache.summary.failed == len(expected)
    assert cache.summary.stored == len(kinds) - len(expected)

    network.forget()
    again = extract(source, **options)
    assert_planted(again, list(expected))
    assert (again.summary.stored, again.summary.inferred, network.seen) == (0, 0, [])


def test_order_of_the_blocks_does_not_matter(run, tmp_path, monkeypatch):
    photos = fake_backbone.folder_of(tmp_path / "photos", range(60))
    first = np.array(run(photos, n_jobs=1).features())
    shutil.rmtree(tmp_path / "caches")
    slow = iter([0.05, 0.0, 0.02] * 100)
    whole = fake_backbone.PlantedRuntime.__call__

    def late(self: Any, pixels: np.ndarray) -> dict[str, np.ndarray]:
        time.sleep(next(slow))
        return whole(self, pixels)

    monkeypatch.setattr(fake_backbone.PlantedRuntime, "__call__", late)
    cache = run(photos, n_jobs=4, batch_size=5)
    assert np.array_equal(cache.features(), first)
    assert_planted(cache)


def test_real_preprocessing_keeps_the_planted_number(run, tmp_path):
    photos = fake_backbone.folder_of(tmp_path / "photos", range(1000, 1008), side=64)
    assert_planted(run(photos, backbone=fake_backbone.backbone(preprocessing=fake_backbone.REAL)))


def test_embeddings_of_the_bundled_network_do_not_depend_on_batch_size_order_or_jobs(tmp_path):
    sample = pytest.importorskip("sklearn.datasets").load_sample_image("china.jpg")
    crops = np.stack([sample[7 * i : 7 * i + 200, 15 * i : 15 * i + 200] for i in range(24)])
    reference = extract(crops, cache=tmp_path, device="cpu", batch_size=24, n_jobs=1).features()
    scale = np.abs(reference).max()
    assert reference.shape == (24, 1280) and np.unique(reference[:, :8].round(4), axis=0).shape[0] == 24
    order = np.random.default_rng(0).permutation(24)
    for turn, options in enumerate([{"batch_size": 1, "n_jobs": 2}, {"batch_size": 5, "n_jobs": 2}, {"n_jobs": 1}]):
        other = extract(crops[order], cache=tmp_path / str(turn), device="cpu", **options)
        assert other.summary.inferred == 24
        assert np.abs(other.features() - reference[order]).max() <= 1e-5 * scale


@pytest.mark.gpu
def test_a_gpu_fills_the_cache_that_a_cpu_goes_on_with(tmp_path):
    sample = pytest.importorskip("sklearn.datasets").load_sample_image("china.jpg")
    crops = np.stack([sample[i : i + 200, 2 * i : 2 * i + 200] for i in range(200)])
    reference = extract(crops, cache=tmp_path / "cpu", device="cpu", layer="all")
    found = extract(crops, cache=tmp_path / "gpu", device="cuda", layer="all", batch_size=64)
    assert found.summary.inferred == 200
    assert found.summary.runtime.startswith("torch-cuda ")
    for layer in reference.layers:
        wanted = reference.features(layer)
        assert np.abs(found.features(layer) - wanted).max() <= 1e-4 * np.abs(wanted).max(), layer
    assert extract(crops, cache=tmp_path / "gpu", device="cpu", layer="all").summary.inferred == 0


# --- nothing is computed twice ----------------------------------------------------------------------------------------


def test_second_extract_runs_no_inference_and_reads_no_image(run, photos, network, monkeypatch):
    first = run(photos)
    assert (first.summary.stored, first.summary.inferred) == (20, 20)

    def fail(*_: Any) -> None:
        raise AssertionError("an image was read")

    monkeypatch.setattr(ImageSource, "read", fail)
    second = run(photos)
    assert second.path == first.path
    assert (second.summary.reused, second.summary.inferred, network.opened) == (20, 0, [])
    assert_planted(second)


def test_a_full_hit_does_not_import_torch(tmp_path):
    photos = fake_backbone.folder_of(tmp_path / "photos", range(3))
    script = (
        "import sys\n"
        "from pipeline.extraction import extract\n"
        f"cache = extract({str(photos)!r}, cache={str(tmp_path / 'caches')!r}, device='cpu')\n"
        "print(cache.summary.inferred, cache.features().shape, 'torch' in sys.modules, 'sklearn' in sys.modules)\n"
    )

    def started() -> str:
        command = [sys.executable, "-W", "error", "-c", script]
        return subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[1]).stdout

    assert started().split()[0] == "3"
    assert started().strip() == "0 (3, 1280) False False"


def test_ten_new_photos_infer_ten(run, photos, network):
    before = run(photos)
    old = np.array(before.features())
    fake_backbone.folder_of(photos, range(20, 30))
    cache = run(photos)
    assert sorted(network.seen) == list(range(20, 30))
    assert (cache.summary.stored, cache.summary.reused, cache.summary.inferred) == (10, 20, 10)
    assert_planted(cache)
    rows = [cache.ids.index(name) for name in before.ids]
    assert np.array_equal(cache.features()[rows], old)
    assert not before.path.exists()


def test_an_edited_photo_infers_one(run, photos, network):
    run(photos)
    fake_backbone.put(photos / "c0" / "00004.png", 999)
    cache = run(photos)
    assert network.seen == [999]
    assert (cache.summary.stored, cache.summary.reused) == (1, 19)
    row = cache.ids.index("c0/00004.png")
    assert np.array_equal(cache.features()[row], fake_backbone.features_of([999], "penultimate")[0])


def test_a_renamed_photo_infers_none(run, photos, network):
    run(photos)
    (photos / "c0" / "00004.png").rename(photos / "c1" / "00004.png")
    cache = run(photos)
    assert (network.seen, cache.summary.reused, cache.summary.inferred) == ([], 20, 0)
    assert_planted(cache)
    assert cache.columns["label"][cache.ids.index("c1/00004.png")] == "c1"


def test_a_moved_folder_infers_none_and_keeps_both_caches(run, photos, network, tmp_path):
    first = run(photos)
    shutil.copytree(photos, tmp_path / "elsewhere" / "photos")
    second = run(tmp_path / "elsewhere" / "photos")
    assert (network.opened and network.seen, second.summary.reused) == ([], 20)
    assert_planted(second)
    assert len(run.caches()) == 2 and first.path.exists()


def test_a_touched_photo_infers_none(run, photos, network):
    first = run(photos)
    fake_backbone.touch(photos / "c0" / "00004.png")
    second = run(photos)
    assert (network.seen, second.summary.reused) == ([], 20)
    assert second.path != first.path and not first.path.exists()
    assert_planted(second)


def test_a_deleted_photo_infers_none(run, photos, network):
    run(photos)
    (photos / "c0" / "00004.png").unlink()
    cache = run(photos)
    assert (network.opened, cache.summary.images, cache.summary.reused) == ([], 19, 19)
    assert_planted(cache)


def test_photos_are_not_read_again_when_others_are_new(run, photos, monkeypatch):
    run(photos)
    fake_backbone.folder_of(photos, range(20, 23))
    read: list[str] = []
    whole = ImageSource.read

    def watched(self: ImageSource, row: int) -> Any:
        read.append(self.ids[row])
        return whole(self, row)

    monkeypatch.setattr(ImageSource, "read", watched)
    run(photos)
    assert sorted(fake_backbone.number_of(name) for name in read) == [20, 21, 22]


def test_one_more_layer_leaves_the_others_bit_for_bit(run, photos, network):
    first = run(photos)
    old = np.array(first.features()).tobytes()
    cache = run(photos, layer="early")
    assert network.opened[0].layers == {"early": 40}
    assert (cache.summary.stored, cache.summary.inferred) == (20, 20)
    assert set(cache.layers) == {"early", "penultimate"}
    assert np.array(cache.features("penultimate")).tobytes() == old
    assert_planted(cache)
    assert not first.path.exists()


def test_fewer_layers_later_is_a_full_hit(run, photos, network):
    path = run(photos, layer=["late", "early"]).path
    for fewer in (["early"], "late", ["late", "early"]):
        cache = run(photos, layer=fewer)
        assert (cache.path, cache.summary.inferred, network.opened) == (path, 0, [])


def test_new_photos_get_all_the_layers_that_were_ever_asked_for(run, photos, network):
    run(photos, layer=["early", "penultimate"])
    fake_backbone.folder_of(photos, [77])
    cache = run(photos)
    assert network.seen == [77]
    assert set(cache.layers) == {"early", "penultimate"}
    assert_planted(cache)


def test_a_layer_more_with_edited_new_and_broken_photos_among_them(run, photos, network):
    fake_backbone.put(photos / "c0" / "00100.png", b"broken")
    run(photos)
    fake_backbone.put(photos / "c0" / "00004.png", 4, side=8)  # other bytes, says the same
    fake_backbone.folder_of(photos, [50])
    fake_backbone.put(photos / "c1" / "00101.png", b"")
    cache = run(photos, layer="middle")
    assert_planted(cache, ["c0/00100.png", "c1/00101.png"])
    assert sorted(network.seen) == sorted([*range(20), 50])


def test_a_photo_edited_between_the_runs_of_two_layers_is_one_photo_in_both(run, photos, network, monkeypatch):
    run(photos)
    source = ImageSource.open(photos)  # listed before the edit: size and time say unchanged
    fake_backbone.put(photos / "c0" / "00004.png", 444)
    cache = run(source, layer="early")
    row = cache.ids.index("c0/00004.png")
    assert np.array_equal(cache.features("early")[row], fake_backbone.features_of([444], "early")[0])
    assert np.array_equal(cache.features("penultimate")[row], fake_backbone.features_of([444], "penultimate")[0])


def test_edited_labels_of_a_table_are_new_and_infer_none(run, photos, network, tmp_path):
    table = tmp_path / "table.csv"
    names = [f"photos/c{number % 2}/{number:05d}.png" for number in range(20)]
    table.write_text("id,species\n" + "".join(f"{name},ant\n" for name in names))
    assert run(table).columns["species"] == ["ant"] * 20
    table.write_text("id,species,sex\n" + "".join(f"{name},bee,f\n" for name in names))
    cache = run(table)
    assert (network.seen, cache.summary.reused) == ([], 20)
    assert cache.columns == {"species": ["bee"] * 20, "sex": ["f"] * 20}
    assert FeatureCache.open(cache.path).labels("species").tolist() == ["bee"] * 20
    assert len(run.caches()) == 1


def test_a_column_of_long_texts_is_left_out_and_named(run, photos, tmp_path):
    table = tmp_path / "table.csv"
    table.write_text(f"id,label,report\nphotos/c0/00000.png,a,{'long ' * 300}\nphotos/c1/00001.png,b,short\n")
    cache = run(table)
    assert list(cache.columns) == ["label"]
    note = "column 'report' is not kept in the cache: a text of 1,499 characters is not a label"
    assert cache.summary.notes == (note,)
    assert run(table).summary.inferred == 0


def test_same_photos_in_two_rows_are_two_rows(run, tmp_path):
    for name in ("00005.png", "a/00005.png", "b/00005.png"):
        fake_backbone.put(tmp_path / "photos" / name, 5)
    assert_planted(run(tmp_path / "photos"))


def test_folders_of_one_name_do_not_collide(run, tmp_path):
    first = run(fake_backbone.folder_of(tmp_path / "a" / "train", range(5)))
    second = run(fake_backbone.folder_of(tmp_path / "b" / "train", range(100, 105)))
    assert first.path != second.path
    assert_planted(run(tmp_path / "a" / "train"))
    assert_planted(run(tmp_path / "b" / "train"))
    assert len(run.caches()) == 2


def test_a_cache_as_data_is_returned_whole(run, photos, network):
    path = run(photos).path
    for data in (path, str(path), FeatureCache.open(path)):
        cache = run(data)
        assert (cache.path, network.opened) == (path, [])
        assert_planted(cache)
    with pytest.raises(CacheError, match="expected layer 'early', got penultimate"):
        run(path, layer="early")


def test_evaluating_again_opens_no_file_that_the_cache_knows(run, tmp_path, monkeypatch) -> None:
    """A photo without an image's ending is told by its first bytes, once."""
    import pipeline.images.folder as folder_room
    from pipeline.evaluation import evaluate

    opened: list[str] = []
    head = folder_room._head

    def watched(path: str) -> bytes:
        opened.append(path)
        return head(path)

    for number in range(12):
        path = fake_backbone.put(tmp_path / "photos" / f"c{number % 2}" / f"{number:05d}.png", number)
        path.rename(path.with_suffix(""))
    monkeypatch.setattr(folder_room, "_head", watched)
    options = {"backbone": fake_backbone.backbone(), "cache": tmp_path / "caches", "heads": "knn", "cv": 2, "n_jobs": 1}
    evaluate(tmp_path / "photos", grid=["knn.n_neighbors=1"], **options)
    assert len(opened) == 12
    evaluate(tmp_path / "photos", grid=["knn.n_neighbors=1"], **options)
    assert len(opened) == 12
