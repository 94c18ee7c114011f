"""A newer version of a cache takes nothing from a run, a score, a model or an open cache that uses the older one."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
from fake_backbone import Extractor, features_of, folder_of, put

from pipeline.cache import FeatureCache, add_reference, is_referenced
from pipeline.evaluation import evaluate
from pipeline.report.diagnostics.summary import diagnose, open_result_cache, open_run_images
from pipeline.runs import Run

OPTIONS = {"heads": "centroid", "cv": 2, "n_jobs": 1}


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Photos 0 to 19 in two class folders, the even ones in c0."""
    return folder_of(tmp_path / "photos", range(20))


def evaluated(cache: FeatureCache, out: Path) -> Run:
    evaluate(cache, out=out, cache=cache.path.parent, **OPTIONS)
    return Run.open(out)


def grow(photos: Path) -> None:
    """Add one photo and remove another."""
    put(photos / "c0" / "00020.png", 20)
    (photos / "c1" / "00003.png").unlink()


def test_a_run_keeps_its_version_and_so_its_photos_map_and_neighbours(run: Extractor, photos: Path, tmp_path: Path):
    old = run(photos)
    path, features = old.path, np.array(old.features())
    made = evaluated(old, tmp_path / "elsewhere" / "bees")
    before = diagnose(made, made.info())
    del old
    (photos / "c1" / "00003.png").rename(tmp_path / "kept.png")
    put(photos / "c0" / "00020.png", 20)
    new = run(photos)
    assert run.caches() == sorted([path.name, new.path.name])
    assert "and the older file stays: a run, a score or a model was made from it" in new.summary.notes[0]
    found = open_result_cache(made, made.best())
    assert found.path.name == path.name
    assert np.array_equal(found.features(), features)
    after = diagnose(made, made.info())
    assert after.map is not None and before.map is not None
    assert list(after.map.ids) == list(before.map.ids) and len(after.map) == 20
    assert np.array_equal(after.map.x, before.map.x)
    assert after.mistakes == before.mistakes
    assert after.notes == before.notes
    source, note = open_run_images(made, made.info())
    assert source is not None and "c1/00003.png" in note
    assert run(photos).path == new.path  # found whole, and again nothing is taken away
    assert path.exists()


def test_a_version_goes_when_the_runs_made_from_it_are_gone(run: Extractor, photos: Path, tmp_path: Path):
    old = run(photos).path
    for name in ("one", "two"):
        evaluated(FeatureCache.open(old), tmp_path / "elsewhere" / name)
    grow(photos)
    new = run(photos).path
    shutil.rmtree(tmp_path / "elsewhere" / "one")
    run(photos)
    assert old.exists()
    (tmp_path / "elsewhere" / "two" / "run.json").write_text("{}")  # another run has taken its place
    run(photos)
    assert run.caches() == [new.name]
    assert not is_referenced(old)
    assert not list((tmp_path / "caches").glob(".references/*"))


def test_a_version_that_nothing_needs_goes_at_once(run: Extractor, photos: Path):
    run(photos)
    grow(photos)
    new = run(photos)
    assert run.caches() == [new.path.name]


def test_a_run_of_an_earlier_version_in_the_usual_folder_keeps_its_version(
    run: Extractor, photos: Path, tmp_path: Path
):
    old = run(photos)
    evaluated(old, tmp_path / "runs" / "bees")
    shutil.rmtree(tmp_path / "caches" / ".references")  # which earlier versions did not write
    grow(photos)
    run(photos)
    assert old.path.exists()


def test_a_project_that_was_moved_keeps_its_references(run: Extractor, photos: Path, tmp_path: Path):
    old = run(photos)
    evaluated(old, tmp_path / "elsewhere" / "bees")
    (tmp_path / "moved").mkdir()
    for name in ("caches", "elsewhere"):
        shutil.move(tmp_path / name, tmp_path / "moved" / name)
    assert is_referenced(tmp_path / "moved" / "caches" / old.path.name)


def test_an_open_cache_reads_after_its_file_was_removed(run: Extractor, photos: Path):
    from_extract, opened = run(photos), FeatureCache.open(run(photos).path)
    ids = [path.relative_to(photos).as_posix() for path in sorted(photos.rglob("*.png"))]
    numbers = [int(Path(name).stem) for name in ids]
    grow(photos)
    new = run(photos)
    assert not opened.path.exists() and new.path.exists()
    for cache in (from_extract, opened):
        assert cache.ids == ids
        assert np.array_equal(cache.features(), features_of(numbers, "penultimate"))
        assert cache.labels().tolist() == [name.partition("/")[0] for name in ids]
        assert cache.is_sound() and cache.complete
        assert cache.describe()["images"] == 20


def test_a_cache_is_small_to_pickle(run: Extractor, photos: Path):
    cache = run(photos)
    sent = pickle.dumps(cache)
    assert len(sent) < 20_000
    assert np.array_equal(pickle.loads(sent).features(), cache.features())


def test_a_run_whose_version_was_removed_by_hand_shows_the_newest_and_says_so(
    run: Extractor, photos: Path, tmp_path: Path
):
    old = run(photos)
    made = evaluated(old, tmp_path / "bees")
    grow(photos)
    new = run(photos)
    old.path.unlink()
    found = diagnose(made, made.info())
    assert open_result_cache(made, made.best()).path.name == new.path.name
    assert found.map is not None
    assert len(found.map) == 19
    assert "c1/00003.png" not in found.map.ids
    assert found.notes[0].startswith(f"{old.path.name} is gone; {new.path.name} of the same photos is used instead")


def test_references_that_are_damaged_keep_nothing_and_stop_nothing(run: Extractor, photos: Path, tmp_path: Path):
    old = run(photos)
    folder = tmp_path / "caches" / ".references"
    folder.mkdir()
    for number, text in enumerate(("{", "[]", '{"record": 3}', '{"record": "x", "relative": "y", "sha256": "z"}')):
        (folder / f"{old.path.name}.{number}.json").write_text(text)
    (folder / "gone-model-0000-0000.h5.0.json").write_text("{}")
    grow(photos)
    new = run(photos)
    assert run.caches() == [new.path.name]
    assert not folder.exists()


def test_a_saved_model_keeps_the_version_that_it_learned_from(run: Extractor, photos: Path, tmp_path: Path):
    old = run(photos)
    record = tmp_path / "bees.model" / "model.json"
    record.parent.mkdir()
    record.write_text(json.dumps({"training": {"cache": "photos"}}))
    add_reference(old.path, record)
    grow(photos)
    run(photos)
    assert old.path.exists()
    record.write_text(json.dumps({"training": {"cache": "others"}}))  # fitted again, from another version
    run(photos)
    assert not old.path.exists()
