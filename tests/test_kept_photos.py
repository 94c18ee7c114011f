"""A model may keep small pictures and embeddings of its training photos: asked for, hashed, enough to answer from."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from commands import class_folders, done, photo, refused
from PIL import Image
from test_familiarity import Heard

from pipeline.errors import ModelError
from pipeline.images import ImageSource, thumbnail
from pipeline.model import Model, fit

KEPT = "training.photos.parquet"
QUICK: dict[str, Any] = {"cv": 2, "n_jobs": 1, "device": "cpu", "heads": "logistic", "grid": {"logistic.C": 0.1}}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photos, a folder of caches, and a model that keeps its photos."""
    place = tmp_path_factory.mktemp("kept")
    class_folders(place / "photos", 10)
    photo(place / "photos" / "ants" / "wide.png", "ants", 50, size=400)
    fit(place / "photos", cache=place / "caches", out=place / "bees.model", keep_photos=True, **QUICK)
    return place


@pytest.fixture(scope="module")
def model(place: Path) -> Model:
    return Model.open(place / "bees.model")


def test_it_is_kept_only_when_asked_for(place: Path, tmp_path: Path) -> None:
    fit(place / "photos", cache=place / "caches", out=tmp_path / "bees.model", weights=False, **QUICK)
    assert not (tmp_path / "bees.model" / KEPT).exists()
    assert Model.open(tmp_path / "bees.model").kept is None


def test_the_table_says_what_is_kept_to_anybody(place: Path, model: Model) -> None:
    table = pd.read_parquet(place / "bees.model" / KEPT)
    source = ImageSource.open(place / "photos")
    assert list(table.columns) == ["id", "label", "digest", "embedding", "thumbnail"]
    assert table["id"].tolist() == source.ids
    assert table["label"].tolist() == [name.partition("/")[0] for name in source.ids]
    assert [bytes(one) for one in table["digest"]] == [one.tobytes() for one in model.training_digests]
    assert table["embedding"][0].dtype == np.float16
    for row in range(len(source)):
        shown = Image.open(io.BytesIO(table["thumbnail"][row]))
        whole = source.read(row).pixels()
        assert shown.format == "JPEG" and max(shown.size) == min(160, max(whole.size))
        small = np.asarray(whole.resize(shown.size, Image.Resampling.BICUBIC), np.float64)
        assert np.abs(np.asarray(shown, np.float64).mean() - small.mean()) < 2


def test_the_record_has_its_hash_and_a_changed_file_is_refused(place: Path, tmp_path: Path) -> None:
    copied = Path(shutil.copytree(place / "bees.model", tmp_path / "bees.model"))
    assert KEPT in json.loads((copied / "model.json").read_text())["files"]
    content = bytearray((copied / KEPT).read_bytes())
    content[len(content) // 2] ^= 1
    (copied / KEPT).write_bytes(content)
    with pytest.raises(ModelError, match=rf"{KEPT}: expected SHA-256 [0-9a-f]{{12}}..., got [0-9a-f]{{12}}"):
        Model.open(copied)
    (copied / KEPT).unlink()
    with pytest.raises(ModelError, match=f"{KEPT}: expected a file of the model, got No such file"):
        Model.open(copied)


def test_moved_away_it_names_the_same_neighbours_as_with_the_cache(place: Path, tmp_path: Path) -> None:
    class_folders(tmp_path / "new", 3, first=80)
    plain = fit(place / "photos", cache=place / "caches", **QUICK)
    moved = Model.open(shutil.copytree(place / "bees.model", tmp_path / "elsewhere.model"))
    heard = Heard()
    wanted = plain.predict(tmp_path / "new", neighbours=3, cache=place / "caches", n_jobs=1)
    found = moved.predict(tmp_path / "new", neighbours=3, cache=tmp_path / "none", n_jobs=1, progress=heard)
    assert heard.notes == [] and not found["unfamiliar"].isna().any()
    assert found["unfamiliar"].tolist() == wanted["unfamiliar"].tolist()
    for suffix in ("", "_2", "_3"):
        # Half precision moves a cosine by less than this.
        np.testing.assert_allclose(found[f"similarity{suffix}"], wanted[f"similarity{suffix}"], atol=2e-4)
    assert found["neighbour"].tolist() == wanted["neighbour"].tolist()


def test_a_copied_model_keeps_what_it_was_given(model: Model, tmp_path: Path) -> None:
    again = Model.open(model.save(tmp_path / "again.model", weights=False))
    assert again.kept is not None and model.kept is not None
    assert again.kept.ids == model.kept.ids and np.array_equal(again.kept.embeddings, model.kept.embeddings)
    assert [again.kept.thumbnail(row) for row in range(21)] == [model.kept.thumbnail(row) for row in range(21)]


def test_pictures_are_found_across_groups_of_rows(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipeline.model import training_set

    wanted = [model.kept.thumbnail(row) for row in range(21)]  # type: ignore[union-attr]
    monkeypatch.setattr(training_set, "ROWS_PER_GROUP", 4)
    assert model.kept is not None
    training_set.EmbeddedTrainingSet(
        model.kept.ids, model.kept.labels, model.kept.embeddings, wanted.__getitem__
    ).write(tmp_path / KEPT, model.training_digests)
    with open(tmp_path / KEPT, "rb") as file:
        again = training_set.EmbeddedTrainingSet.read(file, model.training_digests, "again")
    assert [again.thumbnail(row) for row in range(21)] == wanted
    (tmp_path / KEPT).write_bytes((tmp_path / KEPT).read_bytes() + b" ")
    assert again.thumbnail(3) == b""  # of a file that nobody checked nothing is shown


def test_of_a_cache_the_photos_are_found_where_they_were(place: Path, tmp_path: Path) -> None:
    class_folders(tmp_path / "photos", 6)
    cache = tmp_path / "caches"
    fit(tmp_path / "photos", cache=cache, **QUICK)
    (made,) = cache.glob("*.h5")
    first = tmp_path / "photos" / "ants" / "00.png"
    photo(first, "ants", 99)  # another photo by now
    (tmp_path / "photos" / "bees" / "05.png").unlink()
    heard = Heard()
    kept = fit(made, cache=cache, keep_photos=True, progress=heard, **QUICK).kept
    assert kept is not None and [row for row in range(12) if not kept.thumbnail(row)] == [0, 11]
    assert "2 of 12 photos have no thumbnail (deleted or changed), e.g. ants/00.png" in heard.notes
    shutil.rmtree(tmp_path / "photos")
    with pytest.raises(ModelError, match=r"--keep-photos: expected the photos that .* was made of, got") as error:
        fit(made, cache=cache, keep_photos=True, **QUICK)
    assert "give the photos as DATA" in error.value.next_step


def test_the_kept_photos_come_before_a_cache(model: Model, place: Path) -> None:
    found, why_not = model.open_training_set(place / "caches")
    assert found is not None and found.place == "the model folder" and not why_not
    assert found.labels[0] == "ants" and found.pictured


def test_a_thumbnail_carries_nothing_of_the_original_but_what_it_shows(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "our garden, 52.1 N"
    Image.new("RGB", (300, 100), "red").save(tmp_path / "a.jpg", exif=exif, comment=b"secret")
    small = thumbnail(ImageSource.open(tmp_path / "a.jpg").read(0))
    shown = Image.open(io.BytesIO(small))
    assert shown.size == (53, 160)  # upright
    assert b"garden" not in small and b"secret" not in small and not shown.getexif()


def test_on_the_command_line(place: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    out = tmp_path / "out.model"
    words = ["fit", place / "photos", "--cache", place / "caches", "--cv", "2", "--jobs", "1", "--no-weights"]
    fitted = done(*words, "--keep-photos", "--out", out)
    assert fitted.next_command[-5:] == ["NEW_PHOTOS", "--cache", str(place / "caches"), "--jobs", "1"]
    asked = ["predict", out, place / "photos" / "ants" / "wide.png", "--jobs", "1", "--neighbours", "2"]
    (row,) = (json.loads(line) for line in done(*asked, "--format", "jsonl").lines)
    assert (row["id"], row["neighbour"], row["unfamiliar"]) == (str(asked[2]), "ants/wide.png", False)
    assert row["similarity"] == pytest.approx(1, abs=1e-3) and row["neighbour_2"] != "ants/wide.png"
    done(*asked, "--out", "odd.name", "--format", "parquet")
    assert pd.read_parquet("odd.name")["neighbour"].tolist() == ["ants/wide.png"]
    assert refused(*asked, "--format", "parquet")[0].startswith("--format parquet: expected a file to write")
    assert refused(*asked, "--format", "xml")[0] == "--format: expected one of csv, parquet, jsonl, got 'xml'"
