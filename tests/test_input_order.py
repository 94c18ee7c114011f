"""A list or a table gives one row per input, in input order, under the id as given; the network runs once per image."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from fake_backbone import Extractor, features_of, folder_of, put

from pipeline.cache import FeatureCache
from pipeline.evaluation import evaluate
from pipeline.images import ImageSource
from pipeline.model import Model, fit
from pipeline.report.displays import EmbeddingMapDisplay


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder: ``p/c0`` with the even photos of 0 to 7, ``p/c1`` with the odd ones."""
    monkeypatch.chdir(tmp_path)
    folder_of(tmp_path / "p", range(8))
    return tmp_path


def names_of(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.png"))


def test_extract_of_a_list_keeps_order_and_repeats(folder: Path, run: Extractor) -> None:
    names = [f"p/{name}" for name in names_of(folder / "p")]
    asked = [names[5], names[2], names[4], names[5]]
    whole = run("p")
    features = dict(zip([f"p/{name}" for name in whole.ids], whole.features("penultimate"), strict=True))
    run.network.forget()
    cache = run(asked)
    assert cache.ids == asked
    assert len(cache) == 4
    assert cache.rows.tolist() == [0, 1, 2, 3]
    assert np.array_equal(cache.features("penultimate"), [features[name] for name in asked])
    assert np.array_equal(cache.stored("penultimate")[[3, 1]], [features[asked[3]], features[asked[1]]])
    assert np.array_equal(cache.digest[0], cache.digest[3])
    assert not np.array_equal(cache.digest[0], cache.digest[1])
    assert cache.base.ids == sorted({name.removeprefix("p/") for name in asked})
    assert FeatureCache.open(cache.path).ids == cache.base.ids
    assert run.network.seen == []  # known from the folder
    assert run(asked[::-1]).path == cache.path
    assert run(asked[::-1]).ids == asked[::-1]


def test_an_image_named_twice_runs_through_the_network_once(folder: Path, run: Extractor) -> None:
    asked = [str(put(folder / "b.png", 5)), str(put(folder / "a.png", 6)), str(folder / "b.png")]
    cache = run(asked)
    assert np.array_equal(cache.features("penultimate"), features_of([5, 6, 5], "penultimate"))
    assert sorted(run.network.seen) == [5, 6]


def test_extract_of_a_table_keeps_order_repeats_and_spelling(folder: Path, run: Extractor) -> None:
    put(folder / "b.png", 5)
    put(folder / "a.png", 6)
    (folder / "t.csv").write_text("id,label\nb.png,x\ngone.png,z\n./a.png,y\nb.png,x\n")
    cache = run("t.csv")
    assert cache.ids == ["b.png", "gone.png", "./a.png", "b.png"]
    assert cache.rows.tolist() == [0, 2, 3]
    assert cache.labels().tolist() == ["x", "y", "x"]
    assert cache.columns == {"label": ["x", "z", "y", "x"]}
    assert np.array_equal(cache.features("penultimate"), features_of([5, 6, 5], "penultimate"))
    assert list(cache.skipped) == ["gone.png"]
    assert cache.pixel_statistics().shape == (3, 12)
    assert cache.is_sound() and cache.damaged().size == 0


def test_a_folder_in_a_list_is_expanded_where_it_stands(folder: Path) -> None:
    put(folder / "z.png", 1)
    one, *_ = sorted(path.as_posix() for path in Path("p/c0").iterdir())
    below = sorted(path.as_posix() for path in Path("p/c1").iterdir())
    source = ImageSource.open(["z.png", "p/c1/", one])
    assert source.requested is not None
    assert source.requested.ids == ["z.png", *below, one]
    assert [source.ids[row] for row in source.requested.rows] == source.requested.ids


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """A model of red and blue photos, and the photos."""
    home = tmp_path_factory.mktemp("order")
    rng = np.random.default_rng(0)
    from PIL import Image

    for kind, colour in (("red", (230, 30, 30)), ("blue", (30, 30, 230))):
        (home / "p" / kind).mkdir(parents=True)
        for number in range(8):
            pixels = (rng.normal(0, 20, (32, 32, 3)) + colour).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(home / "p" / kind / f"{number}.png")
    made = fit(home / "p", heads="centroid", cv=2, n_jobs=1, cache=home / "caches", out=home / "m.model")
    assert made.classes == ("blue", "red")
    return Model.open(home / "m.model")


@pytest.fixture
def home(model: Model, monkeypatch: pytest.MonkeyPatch) -> Path:
    assert model.folder is not None
    monkeypatch.chdir(model.folder.parent)
    return model.folder.parent


LIST = ["p/red/3.png", "p/blue/1.png", "p/red/0.png", "p/red/3.png"]


def test_predict_answers_a_list_in_its_order(home: Path, model: Model) -> None:
    table = model.predict(LIST, n_jobs=1, neighbours=1, cache="caches")
    assert table["id"].tolist() == LIST
    assert table["label"].tolist() == ["red", "blue", "red", "red"]
    assert table["neighbour"].tolist() == [name.removeprefix("p/") for name in LIST]
    folder = model.predict("p", n_jobs=1).set_index("id")["label"]
    assert folder.index.tolist() == sorted(folder.index)
    assert [folder[name.removeprefix("p/")] for name in LIST] == table["label"].tolist()


def test_predict_answers_a_table_in_its_order_whatever_its_other_columns_hold(home: Path, model: Model) -> None:
    rows = "p/red/3.png,ann\ngone.png,ann\np\\blue\\1.png,ann\nbad.png,bob\np/red/3.png,bob\n"
    (home / "t.csv").write_text("path,by\n" + rows)
    (home / "bad.png").write_bytes(b"<html>")
    table = model.predict("t.csv", n_jobs=1)
    assert table["id"].tolist() == ["p/red/3.png", "gone.png", "p\\blue\\1.png", "bad.png", "p/red/3.png"]
    assert table["label"].fillna("").tolist() == ["red", "", "blue", "", "red"]
    assert table["error"].tolist()[:1] == [""]
    assert table["error"][1] == "file is missing"
    assert "not an image" in table["error"][3]


def test_predict_of_a_list_s_cache_is_that_of_the_list(home: Path, model: Model) -> None:
    from pipeline.extraction import extract

    cache = extract(LIST, n_jobs=1, cache="caches")
    table = model.predict(cache)
    assert table["id"].tolist() == LIST
    assert table["label"].tolist() == ["red", "blue", "red", "red"]
    assert model.predict(cache.path)["id"].tolist() == ["blue/1.png", "red/0.png", "red/3.png"]


def test_a_parquet_table_of_images_is_answered_in_its_order(home: Path, model: Model) -> None:
    names = ["red/2.png", "blue/0.png", "red/1.png"]
    images = [(home / "p" / name).read_bytes() for name in names]
    pd.DataFrame({"id": names, "image": images}).to_parquet(home / "t.parquet")
    table = model.predict("t.parquet", n_jobs=1)
    assert table["id"].tolist() == names
    assert table["label"].tolist() == ["red", "blue", "red"]


@pytest.mark.parametrize("form", ["csv", "json", "jsonl", "parquet"])
def test_the_command_answers_in_the_order_of_its_arguments(home: Path, form: str) -> None:
    from commands import pipeline

    out = {"parquet": ["--out", "o.parquet"], "jsonl": ["--format", "jsonl"], "json": ["--json"], "csv": []}[form]
    done = pipeline("predict", "m.model", *LIST, "--jobs", "1", *out)
    assert done.code == 0, done.err
    if form == "csv":
        table = pd.read_csv(io.StringIO(done.out))
    elif form == "json":
        table = pd.DataFrame(json.loads(done.out)["predictions"])
    elif form == "jsonl":
        table = pd.read_json(io.StringIO(done.out), lines=True)
    else:
        table = pd.read_parquet("o.parquet")
    assert table["id"].tolist() == LIST
    assert table["label"].tolist() == ["red", "blue", "red", "red"]


def test_what_a_source_leaves_out_is_said_when_it_is_predicted(home: Path, model: Model) -> None:
    from test_familiarity import Heard

    heard = Heard()
    (home / "more").mkdir(exist_ok=True)
    (home / "more" / "a.png").write_bytes((home / "p/red/0.png").read_bytes())
    (home / "more" / "b.nef").write_bytes(b"raw")
    assert model.predict("more", n_jobs=1, progress=heard)["id"].tolist() == ["a.png"]
    assert any("b.nef" in note for note in heard.notes), heard.notes


def test_evaluate_uses_an_image_of_a_list_once_and_takes_labels_by_the_ids_as_given(home: Path) -> None:
    from pipeline.extraction import extract

    asked = [f"p/{kind}/{number}.png" for number in (7, 3, 1, 0, 2, 6, 5, 4) for kind in ("red", "blue")]
    asked += asked[:3]
    labels = {"kind": {name: name.split("/")[1] for name in asked}}
    options = {"heads": "centroid", "cv": 2, "n_jobs": 1, "cache": "caches", "out": None}
    run = evaluate(asked, labels=labels, **options)
    assert run.info().n == 16
    assert sorted(set(run.predictions["id"])) == sorted({name.removeprefix("p/") for name in asked})
    for row in run.predictions.itertuples():
        assert row.true == row.id.split("/")[0]
    view = evaluate(extract(asked, n_jobs=1, cache="caches"), labels=labels, **options)
    assert view.info().n == 16
    assert "p: 3 rows repeat an image and are used once" in view.notes
    assert [one.mean for one in view.results] == [one.mean for one in run.results]


def test_ids_as_given_win_where_they_are_other_photos_own_ids(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``a/a/1.png`` lies at ``a/1.png`` below the common folder: by position of the names labels would be swapped."""
    from pipeline.evaluation.dataset import LabelConfig, load_labels

    monkeypatch.chdir(tmp_path)
    for path, number in (("a/1.png", 1), ("a/a/1.png", 2)):
        put(tmp_path / path, number)
    source = ImageSource.open(["a/1.png", "a/a/1.png"])
    assert source.ids == ["1.png", "a/1.png"]
    given = load_labels(source, LabelConfig({"label": {"a/1.png": "one", "a/a/1.png": "two"}}))
    assert given.columns["label"] == ["one", "two"]
    own = load_labels(source, LabelConfig({"label": {"1.png": "one", "a/1.png": "two"}}))
    assert own.columns["label"] == ["one", "two"]


def test_score_counts_a_repeated_photo_once(home: Path, model: Model) -> None:
    labels = {"label": {name: name.split("/")[1] for name in LIST}}
    found = model.score(LIST, labels, n_jobs=1)
    assert found.n == 3
    assert "1 inputs repeat a photo, which is scored once" in found.notes
    assert next(one.value for one in found.scores if one.scoring == "accuracy") == 1.0


def test_a_map_of_a_list_shows_each_photo_once(home: Path) -> None:
    from pipeline.extraction import extract

    cache = extract([*LIST, "p/blue/2.png"], n_jobs=1, cache="caches")
    display = EmbeddingMapDisplay.from_cache(cache, ["r", "b", "r", "r", "b"])
    assert list(display.map.ids) == ["blue/1.png", "blue/2.png", "red/0.png", "red/3.png"]
    assert display.map.labels.tolist() == ["b", "b", "r", "r"]
