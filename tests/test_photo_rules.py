"""Features made under earlier photo rules are used again for the photos that the change does not touch."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fake_backbone
import numpy as np
import pytest
from fake_backbone import Extractor
from PIL import Image

from pipeline.backbone import Backbone
from pipeline.cache import FeatureCache
from pipeline.evaluation import evaluate
from pipeline.extraction import api, recipe_of
from pipeline.extraction.embedder import ImageEmbedder
from pipeline.extraction.reuse import DigestIndex
from pipeline.images import EARLIER_RULES, PHOTO_RULES
from pipeline.model import Model, fit
from pipeline.progress import Progress

RULES_1 = EARLIER_RULES[0]
FORMATS = {"jpg": "JPEG", "png": "PNG", "gif": "GIF", "bmp": "BMP", "webp": "WEBP", "tif": "TIFF"}


class Notes(Progress):
    """A progress that keeps what it is told."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def note(self, text: str) -> None:
        if "unfamiliar" not in text:  # planted features are too much alike to say anything of it
            self.texts.append(text)

    def advance(self, *_: Any) -> None:
        pass


@pytest.fixture
def under_rules_1(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Call a function as the version before did: recipes name the earlier rules."""

    def call(function: Callable[..., Any], *args: Any, **options: Any) -> Any:
        with monkeypatch.context() as patched:
            patched.setattr(api, "PHOTO_RULES", RULES_1)
            return function(*args, **options)

    return call


def deep(path: Path, number: int) -> Path:
    """Write the photo that says `number` in grey of 16 bits; what it says is then another number."""
    grey = np.asarray(fake_backbone.photo(number).convert("L")).astype(np.uint16)
    Image.fromarray(grey * 16).save(path, "PNG" if path.suffix == ".png" else "TIFF")
    fake_backbone.touch(path)
    return path


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Six photos of 8 bits, two of them under endings that say otherwise, and two of 16 bits."""
    for number, (ending, kind) in enumerate(FORMATS.items()):
        path = tmp_path / "photos" / f"c{number % 2}" / f"{number:05d}.{ending}"
        path.parent.mkdir(parents=True, exist_ok=True)
        fake_backbone.photo(number, 64).save(path, kind)
        fake_backbone.touch(path)
    (tmp_path / "photos" / "c0" / "00002.gif").rename(tmp_path / "photos" / "c0" / "00002.png")  # by content
    deep(tmp_path / "photos" / "c0" / "00006.png", 6)
    deep(tmp_path / "photos" / "c1" / "00007.tiff", 7)
    return tmp_path / "photos"


def test_the_literal_rules_of_the_version_before_are_known() -> None:
    """Their text stands in the recipes of every cache and model that version 1 of the rules made."""
    assert (
        hashlib.sha256(RULES_1.encode()).hexdigest()
        == "a67f6a90d75ea30ced2dd981a7374be9114102665f453b2d5d14646df4a0aab7"
    )
    assert recipe_of(fake_backbone.backbone()).photo_rules == PHOTO_RULES != RULES_1


def test_rows_that_the_rules_do_not_touch_are_reused_without_inference(
    run: Extractor, photos: Path, under_rules_1: Callable[..., Any]
) -> None:
    before = under_rules_1(run, photos)
    assert before.recipe["photo_rules"] == RULES_1 and len(run.network.seen) == 8
    after = run(photos)
    assert after.recipe["photo_rules"] == PHOTO_RULES
    assert len(run.network.seen) == 2, "the two of 16 bits"
    assert (after.summary.inferred, after.summary.stored, after.summary.reused) == (2, 2, 6)
    assert after.summary.notes == (
        f"{before.path.name} was made under earlier photo rules: its rows are reused, except those of grey PNG and "
        "TIFF photos of 16 bits, 32 bits or floats, which are computed again",
    )
    same = [row for row, name in enumerate(after.ids) if name not in ("c0/00006.png", "c1/00007.tiff")]
    assert len(same) == 6
    for name in ("digest", "stat", "status", "pixel_statistics"):
        assert np.array_equal(after.header.map(name)[same], before.header.map(name)[same])
    assert np.array_equal(after.features()[same], before.features()[same])
    assert before.path.exists(), "models and runs of the rules before still read it"
    assert run(photos).summary.reused == 8 and run.network.seen == []


def test_a_collection_without_touched_photos_is_reused_whole(
    run: Extractor, tmp_path: Path, under_rules_1: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = fake_backbone.folder_of(tmp_path / "photos", range(5))
    under_rules_1(run, folder, layer=["late", "penultimate"])
    monkeypatch.setattr("pipeline.extraction.encoder.prepare", None)  # nothing is decoded either
    made = run(folder)
    assert run.network.seen == [] and made.summary.reused == 5
    fake_backbone.assert_planted(made)


def test_a_layer_that_the_cache_before_lacks_is_inferred(
    run: Extractor, tmp_path: Path, under_rules_1: Callable[..., Any]
) -> None:
    folder = fake_backbone.folder_of(tmp_path / "photos", range(3))
    before = under_rules_1(run, folder)
    made = run(folder, layer="late")
    assert sorted(run.network.seen) == [0, 1, 2]
    assert made.summary.notes == (f"{before.path.name} holds these images too, but differs in photo_rules",)


def test_a_damaged_row_of_the_cache_before_is_not_reused(
    run: Extractor, tmp_path: Path, under_rules_1: Callable[..., Any]
) -> None:
    folder = fake_backbone.folder_of(tmp_path / "photos", range(3))
    before = under_rules_1(run, folder)
    field = before.header.fields["features/penultimate"]
    with before.path.open("r+b") as file:
        file.seek(field.offset + field.row_bytes)
        file.write(b"\xff" * 8)
    fake_backbone.assert_planted(run(folder))
    assert run.network.seen == [2], "the damaged row is that of the second id, c1/00001 comes last"


def test_other_rules_than_those_of_a_version_before_lend_nothing(
    run: Extractor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = fake_backbone.folder_of(tmp_path / "photos", range(3))
    with monkeypatch.context() as patched:
        patched.setattr(api, "PHOTO_RULES", "0: rules of nobody")
        run(folder)
    run(folder)
    assert sorted(run.network.seen) == [0, 1, 2]


def test_parts_and_arrays_are_reused_too(run: Extractor, tmp_path: Path, under_rules_1: Callable[..., Any]) -> None:
    folder = fake_backbone.folder_of(tmp_path / "photos", range(12))
    for part in ("1/2", "2/2"):
        under_rules_1(run, folder, part=part)
    assert run(folder, part="1/2").summary.inferred == 0 == run(folder).summary.inferred
    array = np.stack([np.asarray(fake_backbone.photo(number)) for number in range(10, 13)])
    under_rules_1(run, array)
    assert run(array).summary.inferred == 0


def test_the_embedder_reuses_what_it_made_under_the_rules_before(
    network: fake_backbone.Planted, photos: Path, tmp_path: Path, under_rules_1: Callable[..., Any]
) -> None:
    embedder = ImageEmbedder(backbone=fake_backbone.backbone(), cache=tmp_path / "caches")
    paths = sorted(str(path) for path in photos.rglob("*.*"))
    before = under_rules_1(embedder.transform, paths)
    network.forget()
    after = embedder.transform(paths)
    touched = [number for number, path in enumerate(paths) if path.endswith(("6.png", "7.tiff"))]
    assert len(network.seen) == 2
    assert np.array_equal(np.delete(after, touched, 0), np.delete(before, touched, 0))


def test_other_processes_find_the_same_rows(run: Extractor, photos: Path, under_rules_1: Callable[..., Any]) -> None:
    import pickle

    before = under_rules_1(run, photos)
    known = DigestIndex([], [before])
    sent = pickle.loads(pickle.dumps(known))
    filed = known.write_file(photos.parent / "known.npy")
    for row, name in enumerate(before.ids):
        content, digest = (photos / name).read_bytes(), before.digest[row].tobytes()
        found = [one.find(digest, content) for one in (known, sent, filed)]
        assert found[0] == found[1] == found[2]
        assert (found[0] >= 0) == (name not in ("c0/00006.png", "c1/00007.tiff"))
        assert known.find(digest) == -1, "without the content nothing is known of the rules"


# --- models


@pytest.fixture
def old(tmp_path: Path, photos: Path, network: fake_backbone.Planted, under_rules_1: Callable[..., Any]) -> Path:
    """A model that was fitted and saved under the rules before, and its cache."""

    def make() -> None:
        fake_backbone.folder_of(tmp_path / "many", range(20, 36))
        cache = Extractor(network, tmp_path / "caches")(tmp_path / "many", backbone=Backbone.open())
        fit(cache, heads="centroid", cv=2, n_jobs=1, nested=False).save(tmp_path / "old.model", weights=False)

    under_rules_1(make)
    return tmp_path / "old.model"


def test_a_model_of_the_rules_before_predicts_with_a_note_on_the_photos_they_change(
    old: Path, photos: Path, tmp_path: Path
) -> None:
    model = Model.open(old)
    assert model.recipe["photo_rules"] == RULES_1
    notes = Notes()
    table = model.predict(photos, cache=tmp_path / "caches", n_jobs=2, progress=notes)
    assert table["error"].tolist() == [""] * 8
    assert notes.texts == [
        "the photo rules for grey PNG and TIFF photos of 16 bits, 32 bits or floats have changed since the model was "
        "fitted: 2 of 8 photos are read by the new rules, the first is c0/00006.png; fit the model again for "
        "predictions that match"
    ]
    notes = Notes()
    model.predict(photos / "c0" / "00000.jpg", cache=tmp_path / "caches", progress=notes)
    assert notes.texts == []


def test_a_model_of_the_rules_before_predicts_from_its_own_cache(old: Path, tmp_path: Path) -> None:
    model, notes = Model.open(old), Notes()
    (path,) = (tmp_path / "caches").glob("*.h5")
    from_cache = model.predict(FeatureCache.open(path), cache=tmp_path / "caches", progress=notes)
    from_photos = model.predict(tmp_path / "many", cache=tmp_path / "caches", progress=notes)
    assert len(from_cache) == 16 and from_cache["label"].tolist() == from_photos["label"].tolist()
    np.testing.assert_allclose(from_cache["probability"], from_photos["probability"], atol=1e-6)
    assert notes.texts == []


def test_a_cache_of_the_rules_before_is_evaluated_with_test_photos_of_now(
    run: Extractor, tmp_path: Path, under_rules_1: Callable[..., Any]
) -> None:
    before = under_rules_1(run, fake_backbone.folder_of(tmp_path / "photos", range(12)))
    test = run(fake_backbone.folder_of(tmp_path / "test", range(20, 26)))
    result = evaluate(before, test=test, heads="centroid", n_jobs=1)
    assert any("test" in note and "photo_rules" in note for note in result.notes)
