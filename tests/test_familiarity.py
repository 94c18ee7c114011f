"""How far training photos lie from one another, and which of them are nearest: exact, whatever copies there are."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_caches import blobs, make_cache, names
from sklearn.neighbors import NearestNeighbors
from test_model_folder import default_cache

from pipeline.cache import FeatureCache
from pipeline.model import Model, fit, training_set
from pipeline.model.training_set import TrainingRef, TrainingSet, key_of, novelty_threshold
from pipeline.progress import Progress

FIT: dict[str, Any] = {"grid": {"logistic.C": 0.1}, "cv": 2, "n_jobs": 1}


def apart(n: int, d: int = 64, seed: int = 0) -> np.ndarray:
    """Return embeddings of n photos of which no two are near-copies."""
    return np.random.default_rng(seed).gamma(0.5, size=(n, d)).astype(np.float32)


def contents(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, 16), dtype=np.uint8)


def to_nearest_other(X: np.ndarray) -> np.ndarray:
    """Return each row's cosine distance to the nearest other one, as scikit-learn has it."""
    return NearestNeighbors(n_neighbors=2, metric="cosine", algorithm="brute").fit(X).kneighbors(X)[0][:, 1]


class Heard(Progress):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


# The distance that photos are held against


def test_the_distance_is_the_99th_percentile_of_those_to_the_nearest_other_photo() -> None:
    X = apart(300)
    wanted = np.quantile(to_nearest_other(X).astype(np.float64), 0.99)
    assert novelty_threshold(X, np.arange(300), contents(300)) == pytest.approx(wanted, abs=1e-6)
    rows = np.arange(0, 300, 3)
    wanted = np.quantile(to_nearest_other(X[rows]).astype(np.float64), 0.99)
    assert novelty_threshold(X, rows, contents(100)) == pytest.approx(wanted, abs=1e-6)


@pytest.mark.parametrize("kind", ["exact", "same embedding", "near"])
def test_copies_do_not_make_the_distance_zero(kind: str) -> None:
    X, digests = apart(200), contents(200)
    wanted = novelty_threshold(X, np.arange(200), digests)
    noise = np.random.default_rng(1).normal(0, 0.01, X.shape) if kind == "near" else 0
    twice = np.vstack([X, (X + noise).astype(np.float32)])
    both = np.vstack([digests, digests if kind == "exact" else contents(200, seed=1)])
    assert to_nearest_other(twice).max() < 0.01  # what a plain percentile would be
    assert novelty_threshold(twice, np.arange(400), both) == pytest.approx(wanted, abs=0.01)


def test_copies_that_are_all_there_is_leave_no_distance() -> None:
    X = np.repeat(apart(1), 20, axis=0)
    assert novelty_threshold(X, np.arange(20), contents(20)) is None
    assert novelty_threshold(X, np.arange(1), contents(1)) is None


def test_look_alikes_without_end_are_photos_and_no_copies() -> None:
    """Two clumps in which everything is alike: near-copies mean nothing, and distances within a clump count."""
    rng = np.random.default_rng(0)
    X = np.repeat(apart(2), 150, axis=0) + rng.normal(0, 0.02, (300, 64)).astype(np.float32)
    wanted = np.quantile(to_nearest_other(X).astype(np.float64), 0.99)
    assert novelty_threshold(X, np.arange(300), contents(300)) == pytest.approx(wanted, abs=1e-6)
    few = np.vstack([X[:20], X[150:170]])  # too few to be without end: those of a clump are near-copies
    between = novelty_threshold(few, np.arange(40), contents(40))
    assert between is not None and between > 20 * wanted


# The search


@pytest.mark.parametrize("in_memory", [True, False])
@pytest.mark.parametrize("k", [1, 3, 500])
def test_the_nearest_are_those_of_scikit_learn(k: int, in_memory: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training_set, "_BLOCK", 64)
    if not in_memory:
        monkeypatch.setattr(training_set, "IN_MEMORY", 0)
    X, asked, rows = apart(400), apart(30, seed=5), np.arange(0, 400, 2)
    photos = TrainingSet(X, rows, [f"{row}.jpg" for row in rows], [""] * 200, place="here")
    found = photos.nearest(asked, k)
    model = NearestNeighbors(n_neighbors=min(k, 200), metric="cosine", algorithm="brute").fit(X[rows])
    distances, places = model.kneighbors(asked)
    assert np.array_equal(found.rows, places)
    np.testing.assert_allclose(1 - found.cosine, distances, atol=1e-6)


def test_a_row_of_zeros_is_like_nothing() -> None:
    photos = TrainingSet(apart(10), np.arange(10), [""] * 10, [""] * 10, place="here")
    assert photos.nearest(np.zeros((1, 64), np.float32)).cosine[0, 0] == 0


# Through a model


@pytest.fixture
def made(tmp_path: Path) -> FeatureCache:
    X, y = blobs(60, d=40, apart=2.0)
    return default_cache(tmp_path / "caches" / "made-x-0123456789ab-01234567.h5", np.abs(X), {"kind": names(y)})


@pytest.fixture
def model(made: FeatureCache) -> Model:
    return fit(made, **FIT)


def test_the_record_says_how_far_and_where(made: FeatureCache, model: Model, tmp_path: Path) -> None:
    beyond = novelty_threshold(made.features(), np.arange(60), made.digest)
    assert model.training == TrainingRef("made-x-0123456789ab", key_of(made), beyond)
    path = model.save(tmp_path / "m.model", weights=False)
    said = json.loads((path / "model.json").read_text())["training"]
    assert said["unfamiliar"]["beyond"] == beyond and said["key"] == key_of(made)
    assert Model.open(path).training == model.training


def test_a_photo_is_unfamiliar_that_lies_beyond(made: FeatureCache, model: Model, tmp_path: Path) -> None:
    X = np.asarray(made.features())
    new = np.abs(np.random.default_rng(3).normal(size=(50, 40)).astype(np.float32)) ** 1.5
    asked = default_cache(tmp_path / "new.h5", np.vstack([X[:5], new]), {}, changes=model.recipe)
    table = model.predict(asked, neighbours=2, cache=made.path.parent)
    distances, places = NearestNeighbors(n_neighbors=2, metric="cosine").fit(X).kneighbors(np.vstack([X[:5], new]))
    assert table["unfamiliar"].tolist() == (distances[:, 0] > model.training.beyond).tolist()
    assert not table["unfamiliar"][:5].any() and 0 < table["unfamiliar"].sum() < 50
    assert table["neighbour"].tolist() == [made.ids[row] for row in places[:, 0]]
    assert table["neighbour_2"].tolist() == [made.ids[row] for row in places[:, 1]]
    np.testing.assert_allclose(table["similarity_2"], 1 - distances[:, 1], atol=1e-6)
    assert table["neighbour"][:5].tolist() == made.ids[:5]


def test_without_the_embeddings_one_line_says_why(made: FeatureCache, model: Model, tmp_path: Path) -> None:
    heard = Heard()
    table = model.predict(made, neighbours=1, cache=tmp_path / "nowhere", progress=heard)
    assert table["unfamiliar"].isna().all() and table["neighbour"].isna().all() and not table["label"].isna().any()
    (note,) = heard.notes
    assert note.startswith("unfamiliar and neighbours stay empty: their embeddings are not available: no cache in")
    assert "made-x-0123456789ab" in note and "--keep-photos" in note
    heard = Heard()
    model.predict(made, cache=tmp_path / "nowhere", progress=heard)
    assert heard.notes[0].startswith("unfamiliar stays empty: ")


def test_a_cache_of_other_photos_or_of_another_recipe_is_not_taken(
    made: FeatureCache, model: Model, tmp_path: Path
) -> None:
    X = np.asarray(made.features())
    others = tmp_path / "others"
    default_cache(others / "a.h5", X, {}, name="others")  # other content
    make_cache(others / "b.h5", X, {}, changes={**model.recipe, "precision": "bf16"})
    default_cache(others / "c.h5", X[:-1], {})  # one is missing
    assert model.open_training_set(others)[0] is None
    moved = default_cache(
        others / "d.h5", X[::-1], {}, ids=[f"new/{row}" for row in range(60)], digests=made.digest[::-1]
    )
    found, _ = model.open_training_set(others)
    assert found is not None and found.place == str(moved.path)
    assert found.ids[0] == "new/59"  # joined by content, wherever it lies now


def test_copies_among_the_training_photos_are_each_named(model: Model, made: FeatureCache, tmp_path: Path) -> None:
    digests = np.array(made.digest)
    digests[1] = digests[0]
    twice = default_cache(tmp_path / "twice" / "a.h5", np.asarray(made.features()), {}, digests=digests)
    found, _ = replace(model, training_digests=digests).open_training_set(twice.path.parent)
    assert found is not None and sorted(found.ids) == sorted(made.ids)


def test_a_model_of_an_earlier_version_says_that_it_knows_nothing(model: Model, made: FeatureCache) -> None:
    heard = Heard()
    table = replace(model, training=TrainingRef()).predict(made, cache=made.path.parent, progress=heard)
    assert table["unfamiliar"].isna().all()
    assert heard.notes == [
        "unfamiliar stays empty: the model was fitted by a version without this record: fit it again"
    ]


def test_rows_without_an_answer_have_none_of_it(model: Model, made: FeatureCache, tmp_path: Path) -> None:
    from pipeline.errors import SkipReason

    X = np.asarray(made.features())[:3]
    asked = default_cache(tmp_path / "n.h5", X, {}, changes=model.recipe, failed={1: SkipReason.EMPTY})
    table = model.predict(asked, neighbours=1, cache=made.path.parent)
    assert table["unfamiliar"].isna().tolist() == [False, True, False]
    assert table["neighbour"].isna().tolist() == [False, True, False]
