"""Files written by an earlier version still open and say the same, and names that are a format stay as they are.

`tests/pinned/v1/` was written by `tests/pinned/make.py`; its photos can be drawn again from their seeds.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import sklearn
from commands import done
from pinned.key_sets import key_sets
from pinned.make import CLASSES, PER_CLASS, draw, make

import pipeline as pl
from pipeline.cache import FeatureCache
from pipeline.errors import ModelError
from pipeline.provenance import Preprocessing, Recipe
from pipeline.runs import UnitKey
from pipeline.studies import Study

PINNED = Path(__file__).parent / "pinned"
V1 = PINNED / "v1"
IDS = [f"{kind}/{number:02d}.{'jpg' if number % 2 else 'png'}" for kind in CLASSES for number in range(PER_CLASS)]
WRITTEN_WITH = "1.9"  # the minor version of scikit-learn that wrote the models
SAME_SKLEARN = ".".join(sklearn.__version__.split(".")[:2]) == WRITTEN_WITH
needs_same_sklearn = pytest.mark.skipif(
    not SAME_SKLEARN, reason=f"the pinned models were written with scikit-learn {WRITTEN_WITH}; their refusal is tested"
)


@pytest.fixture
def v1(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the pinned files as the working folder: readers may write locks, and a report its page."""
    folder = tmp_path / "v1"
    shutil.copytree(V1, folder)
    monkeypatch.chdir(folder)
    return folder


def only(folder: Path, pattern: str) -> Path:
    (found,) = folder.glob(pattern)
    return found


# Caches


def test_a_cache_opens_with_every_row(v1: Path) -> None:
    cache = FeatureCache.open(only(v1 / "features_cache", "photos-*.h5"))
    assert [cache.ids[row] for row in cache.rows] == IDS
    assert cache.skipped["red/broken.jpg"].text.startswith("not an image")
    assert tuple(cache.layers) == ("early", "penultimate")
    assert cache.labels("label").tolist() == [name.partition("/")[0] for name in IDS]
    features = cache.features("penultimate")
    assert features.shape == (36, 1280) and features.dtype == np.float32
    done("cache", "verify", only(v1 / "features_cache", "photos-*.h5"))


def test_pinned_features_are_those_of_today(v1: Path, tmp_path: Path) -> None:
    """Rows written by an earlier version equal what the network says of the same photos today."""
    cache = FeatureCache.open(only(v1 / "features_cache", "photos-*.h5"))
    pinned = cache.features("penultimate")
    again = pl.extract("photos", cache=tmp_path / "fresh")
    assert [again.ids[row] for row in again.rows] == IDS
    np.testing.assert_allclose(again.features("penultimate"), pinned, rtol=0, atol=1e-5 * np.abs(pinned).max())


def test_a_cache_in_parts_opens_as_one(v1: Path) -> None:
    cache = FeatureCache.open(only(v1 / "parts", "shard-*"))
    assert len(cache.rows) == 36
    whole = FeatureCache.open(only(v1 / "features_cache", "photos-*.h5"))
    row = {cache.ids[row]: place for place, row in enumerate(cache.rows)}
    order = [row[name] for name in IDS]
    np.testing.assert_allclose(cache.features("penultimate")[order], whole.features("penultimate"), rtol=0, atol=1e-4)


# Models


@needs_same_sklearn
def test_a_model_without_weights_and_with_kept_photos_predicts_the_same(v1: Path) -> None:
    before = pd.read_csv(v1 / "output" / "predict.csv")
    answers = pl.Model.open("photos.model").predict("photos", neighbours=2)
    assert list(answers.columns) == list(before.columns)
    for column in before.columns:
        if pd.api.types.is_float_dtype(before[column]):
            np.testing.assert_allclose(answers[column].astype(float), before[column], atol=1e-4, err_msg=column)
        else:
            assert (
                answers[column].astype(object).fillna("").astype(str).tolist()
                == before[column].astype(object).fillna("").astype(str).tolist()
            )


@needs_same_sklearn
def test_a_model_of_numbers_opens(v1: Path) -> None:
    model = pl.Model.open("width.model")
    assert (model.label_set, model.kind, model.classes) == ("width_mm", "number", ())
    assert np.isfinite(model.predict("new.png")["value"]).all()


def test_another_minor_version_of_scikit_learn_is_refused_with_its_number(
    v1: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sklearn, "__version__", "1.8.2")
    with pytest.raises(ModelError, match=r"scikit-learn") as refusal:
        pl.Model.open("photos.model")
    assert f"scikit-learn {WRITTEN_WITH}" in refusal.value.message and "1.8" in refusal.value.message


# Runs, scores and studies


def test_a_run_opens_with_the_same_leaderboard_and_still_has_its_report(v1: Path) -> None:
    run = pl.Run.open("run")
    before = pd.read_csv(v1 / "run" / "leaderboard.csv")
    pd.testing.assert_series_equal(run.leaderboard()["mean"], before["mean"], check_dtype=False, rtol=1e-12)
    assert run.leaderboard()["head"].tolist() == before["head"].tolist()
    assert {info.name: info.kind for info in run.label_sets} == {
        "species": "class", "width_mm": "number", "tags": "multi"
    }  # fmt: skip
    assert sorted(run.predictions["id"].unique()) == IDS
    page = done("report", "run", "--photos", "photos").out.strip()
    text = Path(page).read_text(encoding="utf-8")
    assert "species" in text and "blue/00.png" in text


def test_a_score_opens_with_the_same_values(v1: Path) -> None:
    score = pl.ModelScore.open("score")
    before = json.loads((v1 / "output" / "score.json").read_text(encoding="utf-8"))
    assert [s.value for s in score.scores] == [s["value"] for s in before["scores"]]
    assert sorted(score.predictions["id"]) == IDS


def test_a_study_opens_with_the_same_points(v1: Path) -> None:
    study = Study.open("study")
    before = pd.read_csv(v1 / "study" / "points.csv")
    assert [point.score for point in study.points] == before["score"].tolist()
    assert [point.method for point in study.points] == before["method"].tolist()


# Keys


PREPROCESSING = Preprocessing(
    resize=256, crop=224, interpolation="bicubic", antialias=True, mean=(0.5, 0.25, 0.125), std=(1.0, 2.0, 4.0)
)
RECIPE = Recipe(
    backbone="efficientnet_lite0", weights_sha256="ab" * 32, preprocessing=PREPROCESSING, decoder="exact:0123456789",
    photo_rules="1",
)  # fmt: skip


def test_the_key_of_a_fixed_recipe_is_literal() -> None:
    """A changed key makes every cache of every user stale; a new field must be left out of the key at its default."""
    assert RECIPE.key("/photos") == "a62c263de975"
    assert replace(RECIPE, precision="bf16", runtime="openvino").key("/photos") == "8d1a490261d0"
    assert replace(RECIPE, store="fp16").key("/photos") == "4d9429348089"


def test_the_default_recipe_is_that_of_the_pinned_cache(v1: Path) -> None:
    """Every field of the default recipe is as it was, except those that depend on the machine or have a number."""
    cache = FeatureCache.open(only(v1 / "features_cache", "photos-*.h5"))
    before = dict(cache.recipe)
    from pipeline.extraction.api import recipe_of

    now = recipe_of(pl.Backbone.open("efficientnet_lite0")).as_dict()
    apart = ("decoder", "photo_rules")
    assert {k: v for k, v in now.items() if k not in apart} == {k: v for k, v in before.items() if k not in apart}


def test_the_key_of_a_fixed_unit_is_literal() -> None:
    """A changed key computes every stored result again."""
    unit = UnitKey(
        features="f", label_set="l", head="h", estimator="e", params="{}", outer_fold="1", rows="r", inner_fold=2,
        scoring="s", seed=0, versions="v",
    )  # fmt: skip
    assert unit.key().hex() == "f97502f834469140c9f13b6128306cd6"


def test_the_recipe_of_training_from_scratch_is_literal() -> None:
    """It hashes the constants of two modules: a changed one trains every network of every study again."""
    from pipeline.studies.memo import recipe_text
    from pipeline.studies.trials import ScratchTrial

    lesson = object.__new__(ScratchTrial)
    object.__setattr__(lesson, "small", True)
    assert recipe_text(lesson) == "f85b770f49a247d743f51c34"


# Names


def test_the_names_in_the_pinned_files_are_the_listed_ones() -> None:
    assert key_sets(V1) == json.loads((PINNED / "keys_v1.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The same files made by today's version, with a planted network."""
    import fake_backbone

    import pipeline.extraction.encoder as network_module

    folder = tmp_path_factory.mktemp("pinned") / "now"
    before = Path.cwd()

    def run(folder: Path, *words: str, keep: str = "") -> None:
        if words[0] in ("study", "export"):  # these have tests of their own, and are slow
            return
        os.chdir(folder)
        text = done(*words).out
        if keep:
            (folder / "output").mkdir(exist_ok=True)
            (folder / "output" / keep).write_text(text, encoding="utf-8")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(network_module, "open_runtime", fake_backbone.Planted())
        try:
            make(folder, run)
            yield folder
        finally:
            os.chdir(before)


def test_no_name_is_lost_and_every_new_one_is_listed(fresh: Path) -> None:
    """A name may come, listed in `keys_added.json`; none may go or change."""
    pinned = json.loads((PINNED / "keys_v1.json").read_text(encoding="utf-8"))
    added = json.loads((PINNED / "keys_added.json").read_text(encoding="utf-8"))
    found = key_sets(fresh)
    compared = 0
    for kind, names in found.items():
        expected = {*pinned.get(kind, ()), *added.get(kind, ())}
        if kind.startswith("output/doctor"):
            continue
        assert expected - set(names) - OPTIONAL == set(), f"{kind}: names are gone"
        assert set(names) - expected == set(), f"{kind}: names are new: list them in keys_added.json"
        compared += 1
    assert compared >= 25


# Measured only where embeddings differ as those of a real network do.
OPTIONAL = {f"training.unfamiliar.{name}" for name in ("beyond", "distance", "quantile")}


def test_drawing_gives_the_pinned_photos() -> None:
    """The seeds still make the photos whose features are pinned."""
    from PIL import Image

    with Image.open(V1 / "photos" / "red" / "04.png") as stored:
        np.testing.assert_array_equal(np.asarray(stored), np.asarray(draw("red", 4)))
