"""`fit` keeps the best head and its honest scores; a model answers by the same road as extraction."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import pytest
from made_caches import blobs, make_cache, names
from PIL import Image
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from sklearn.metrics import balanced_accuracy_score, f1_score
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from test_model_folder import default_cache

from pipeline.backbone import Backbone
from pipeline.cache import FeatureCache
from pipeline.errors import CacheError, EvaluationError, LabelError, ModelError, PipelineError, SkipReason
from pipeline.evaluation import evaluate
from pipeline.extraction import extract
from pipeline.images import ImageSource
from pipeline.intervals import wilson
from pipeline.model import Model, fit
from pipeline.progress import Progress

COLOURS = {"ant": (150, 60, 40), "bee": (190, 170, 60), "cat": (110, 110, 110)}
QUICK: dict[str, Any] = {"cv": 2, "n_jobs": 1, "device": "cpu"}


def photo(path: Path, kind: str, seed: int, *, size: int = 40) -> Path:
    """Write a small noisy photo of one class."""
    rng = np.random.default_rng([seed, *kind.encode()])
    pixels = rng.normal(COLOURS[kind], 40, (size, size, 3)).clip(0, 255).astype(np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve photos of ants and twelve of bees in class folders."""
    folder = tmp_path_factory.mktemp("data") / "photos"
    for seed in range(12):
        for kind in ("ant", "bee"):
            photo(folder / kind / f"{seed:02d}.png", kind, seed)
    return folder


@pytest.fixture(scope="module")
def caches(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("features_cache")


@pytest.fixture(scope="module")
def bees(photos: Path, caches: Path, tmp_path_factory: pytest.TempPathFactory) -> Model:
    """A model as a person makes one, saved with its weights and opened again."""
    path = tmp_path_factory.mktemp("models") / "bees.model"
    fit(photos, cache=caches, heads="logistic", grid={"logistic.C": 0.1}, out=path, **QUICK)
    return Model.open(path)


@pytest.fixture(scope="module")
def cache(photos: Path, caches: Path) -> FeatureCache:
    return extract(photos, cache=caches)


def test_a_model_that_was_opened_answers_wherever_the_process_goes(
    bees: Model, photos: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    bees.save(tmp_path / "made" / "bees.model")
    monkeypatch.chdir(tmp_path / "made")
    opened = Model.open("bees.model")
    monkeypatch.chdir(tmp_path)
    wanted = bees.predict(photos)
    assert len(wanted) == 24 and opened.predict(photos).equals(wanted)


@pytest.fixture(scope="module")
def new(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """New photos: four good ones, one of them in a folder below, and three that cannot be read."""
    folder = tmp_path_factory.mktemp("data") / "new"
    photo(folder / "a.png", "ant", 100)
    photo(folder / "b.png", "bee", 101)
    photo(folder / "deep" / "c.jpg", "bee", 102, size=90)
    photo(folder / "z.png", "ant", 103)
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "text.jpg").write_text("no photo")
    whole = photo(folder / "cut.png", "ant", 104).read_bytes()
    (folder / "cut.png").write_bytes(whole[: len(whole) // 2])
    return folder


def planted(path: Path, model: Model, X: np.ndarray, **options: Any) -> FeatureCache:
    """Write a cache of the model's own recipe with these features."""
    return default_cache(path, X, options.pop("columns", {}), **{"changes": model.recipe, **options})


# Fitting


def test_the_best_head_is_refitted_as_plain_scikit_learn_would(tmp_path: Path) -> None:
    X, y = blobs(60, d=8, apart=1.5)
    made = default_cache(tmp_path / "a.h5", X, {"kind": names(y)})
    grid = {"logistic.C": [0.001, 0.1, 10.0], "centroid.shrink_threshold": [None]}
    options: dict[str, Any] = {"heads": ["logistic", "centroid"], "grid": grid, "cv": 3, "n_jobs": 1}
    run, model = evaluate(made, **options), fit(made, **options)
    assert model.head == run.best().head == "logistic"
    head = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
    splits = StratifiedKFold(3, shuffle=True, random_state=0)
    wanted = GridSearchCV(
        head, {"logisticregression__C": [0.001, 0.1, 10.0]}, scoring="balanced_accuracy", cv=splits
    ).fit(X, y)
    assert model.params == {"C": wanted.best_params_["logisticregression__C"]}
    np.testing.assert_allclose(model.estimator.predict_proba(X), wanted.predict_proba(X), rtol=1e-6)
    assert np.array_equal(model.training_digests, made.digest)
    assert model.verdict == run.verdicts[0]


def test_the_scores_it_carries_are_the_nested_ones_of_the_evaluation(tmp_path: Path) -> None:
    X, y = blobs(60, d=8, apart=1.5)
    made = default_cache(tmp_path / "a.h5", X, {"kind": names(y)})
    options: dict[str, Any] = {"heads": ["lda", "ridge"], "grid": {"lda.shrinkage": [0.1, 0.9]}, "cv": 2, "n_jobs": 1}
    run, model = evaluate(made, **options), fit(made, **options)
    best = run.best()
    own = {"params": model.params, "params_of": "all rows"}
    wanted = [
        {
            **result.as_dict(),
            **(own if result.head == best.head and not result.null else {}),
            "cache": "a.h5",
            "seconds": 0,
        }
        for result in run.results
    ]
    assert [{**score, "seconds": 0} for score in model.scores] == wanted
    assert all(score["nested"] for score in model.scores)
    assert {score["head"] for score in model.scores} == {"lda", "ridge", "chosen", "logistic", "dummy"}
    json.dumps(model.as_dict(), allow_nan=False)


def test_the_parameters_shown_are_those_of_the_model_and_not_those_of_most_folds(tmp_path: Path) -> None:
    X, y = blobs(60, d=8, apart=1.0, seed=2)
    made = default_cache(tmp_path / "a.h5", X, {"kind": names(y)})
    options: dict[str, Any] = {"grid": {"logistic.C": [0.001, 0.01, 0.1, 1.0, 10.0]}, "cv": 3, "n_jobs": 1}
    shown = evaluate(made, **options).best()
    model = fit(made, **options)
    own = [score for score in model.scores if score["head"] == "logistic" and not score["null"]]
    assert {(score["params"]["C"], score["params_of"]) for score in own} == {(model.params["C"], "all rows")}
    # The evaluation alone fits nothing on all rows, chooses otherwise here, and says so.
    assert shown.params_of == "most folds" and shown.params != model.params


def test_with_a_fixed_test_set_it_learns_from_the_training_part_alone(tmp_path: Path) -> None:
    X, y = blobs(60, d=8, apart=1.5)
    test = np.arange(60) % 3 == 0
    columns = {"kind": names(y), "split": ["val" if one else "train" for one in test]}
    made = default_cache(tmp_path / "a.h5", X, columns)
    model = fit(made, grid={"logistic.C": 0.1}, cv=2, n_jobs=1)
    wanted = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=2000)).fit(X[~test], y[~test])
    np.testing.assert_allclose(model.estimator.predict_proba(X), wanted.predict_proba(X), rtol=1e-6)
    assert np.array_equal(model.training_digests, made.digest[~test])
    (score,) = [s for s in model.scores if (s["head"], s["scoring"], s["null"]) == ("logistic", "accuracy", False)]
    assert score["test"] == np.mean(wanted.predict(X[test]) == y[test])


def test_without_nesting_the_model_has_the_parameters_that_the_run_shows(tmp_path: Path) -> None:
    X, y = blobs(60, d=8, apart=1.0)
    made = default_cache(tmp_path / "a.h5", X, {"kind": names(y)})
    options: dict[str, Any] = {"grid": {"logistic.C": [0.0001, 0.01, 1.0]}, "cv": 3, "n_jobs": 1, "nested": False}
    model = fit(made, **options)
    assert model.params == evaluate(made, **options).best().params
    assert all(score["optimistic"] for score in model.scores)


def test_classes_that_nothing_was_learned_of_are_no_answer(tmp_path: Path) -> None:
    X, y = blobs(40, d=8, classes=2, apart=4.0)
    kinds: list[str | None] = ["aardvark" if row in (1, 2) else name for row, name in enumerate(names(y))]
    columns = {"kind": kinds, "split": ["val" if row < 8 else "train" for row in range(40)]}
    model = fit(default_cache(tmp_path / "a.h5", X, columns), grid={"logistic.C": 0.1}, cv=2, n_jobs=1)
    assert model.classes == ("ant", "bee")


def test_own_weights_are_found_wherever_they_lie(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file is recorded by its name, for the model, and by its place, for this machine alone."""
    weights, caches = tmp_path / "weights" / "mine.safetensors", tmp_path / "caches"
    weights.parent.mkdir()
    Backbone.open().save_weights(weights)
    monkeypatch.chdir(tmp_path)
    model = fit(photos, backbone="efficientnet_lite0:weights/mine.safetensors@bundled", cache=caches, **QUICK)
    cache = next(caches.glob("*.h5"))
    monkeypatch.chdir(weights.parent)
    again = fit(str(cache), **QUICK)  # from another folder
    assert model.backbone.weights == again.backbone.weights == "mine.safetensors@bundled"
    saved = Model.open(model.save(tmp_path / "own.model"))
    assert saved.predict(photos)["label"].tolist() == model.predict(photos)["label"].tolist()
    assert str(tmp_path) not in (tmp_path / "own.model" / "model.json").read_text()
    weights.unlink()
    with pytest.raises(CacheError, match=f"{cache.name}: .*expected a weights file at {re.escape(str(weights))}"):
        fit(str(cache), **QUICK)


def test_a_cache_whose_weights_are_gone_is_refused_before_anything_is_fitted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipeline.model import fitting

    def never(*_: object, **__: object) -> None:
        raise AssertionError("something was fitted")

    monkeypatch.setattr(fitting, "run_planned", never)
    X, y = blobs(20, d=8)
    made = make_cache(
        tmp_path / "a.h5", X, {"kind": names(y)}, backbone={"name": "planted", "weights": "none", "weights_sha256": ""}
    )
    with pytest.raises(PipelineError):
        fit(made, cv=2)


def test_an_option_that_does_not_exist_gets_the_nearest(photos: Path) -> None:
    with pytest.raises(PipelineError, match="an unexpected keyword argument 'heds'") as caught:
        fit(photos, heds="logistic")
    assert caught.value.next_step == "did you mean heads?"


# Predicting


def test_one_row_an_input_always(bees: Model, new: Path) -> None:
    table = bees.predict(new, **{"n_jobs": 1})
    assert list(table.columns) == ["id", "label", "probability", "label_2", "probability_2", "unfamiliar", "error"]
    assert table["id"].tolist() == ["a.png", "b.png", "cut.png", "deep/c.jpg", "empty.jpg", "text.jpg", "z.png"]
    good = table[table["error"] == ""]
    assert good["id"].tolist() == ["a.png", "b.png", "deep/c.jpg", "z.png"]
    assert set(good["label"]) <= {"ant", "bee"}
    np.testing.assert_allclose(good["probability"] + good["probability_2"], 1)
    assert (good["probability"] >= good["probability_2"]).all()
    bad = table[table["error"] != ""].set_index("id")
    assert bad.drop(columns="error").isna().all(axis=None)
    assert bad.loc["empty.jpg", "error"] == "empty file"
    assert "not an image" in bad.loc["text.jpg", "error"]
    assert "truncated or damaged" in bad.loc["cut.png", "error"]


def test_one_photo_a_list_and_a_table_are_answered_alike(bees: Model, new: Path, tmp_path: Path) -> None:
    whole = bees.predict(new, n_jobs=1).set_index("id")
    one = bees.predict(new / "b.png", n_jobs=1)
    assert one["id"].tolist() == [str(new / "b.png")]
    several = bees.predict([new / "z.png", new / "a.png"], n_jobs=1)
    assert several["id"].tolist() == [str(new / "z.png"), str(new / "a.png")]
    (new.parent / "table.csv").write_text("path,sort\nz.png,x\ngone.png,y\ndeep/c.jpg,z\n")
    table = bees.predict(new.parent / "table.csv", root=new, n_jobs=1)
    assert table["id"].tolist() == ["z.png", "gone.png", "deep/c.jpg"]
    assert table.set_index("id").loc["gone.png", "error"] == "file is missing"
    for found in (one, several, table[table["error"] == ""]):
        for row in found.itertuples():
            name = row.id.removeprefix(f"{new}/")
            assert row.label == whole.loc[name, "label"]
            assert row.probability == pytest.approx(whole.loc[name, "probability"], rel=1e-4)


def test_predictions_are_those_of_the_cache_of_the_same_photos(bees: Model, photos: Path, cache: FeatureCache) -> None:
    from_cache, from_photos = bees.predict(cache), bees.predict(photos, n_jobs=1)
    assert from_cache["id"].tolist() == from_photos["id"].tolist() == cache.ids
    assert from_cache["label"].tolist() == from_photos["label"].tolist()
    np.testing.assert_allclose(from_cache["probability"], from_photos["probability"], rtol=1e-4)
    assert bees.predict(str(cache.path)).equals(from_cache)
    assert from_cache["label"].tolist() == [bees.classes[code] for code in bees.estimator.predict(cache.features())]


def test_predictions_do_not_depend_on_batch_size_or_jobs(bees: Model, new: Path) -> None:
    tables = [bees.predict(new, batch_size=size, n_jobs=jobs) for size, jobs in ((1, 1), (3, 2), (64, 1))]
    for table in tables[1:]:
        assert table.drop(columns=["probability", "probability_2"]).equals(
            tables[0].drop(columns=["probability", "probability_2"])
        )
        np.testing.assert_allclose(table["probability"], tables[0]["probability"], rtol=1e-4)


def test_a_source_without_one_readable_photo_has_the_same_columns(bees: Model, new: Path) -> None:
    table = bees.predict([new / "empty.jpg", new / "text.jpg"], n_jobs=1)
    assert list(table.columns) == ["id", "label", "probability", "label_2", "probability_2", "unfamiliar", "error"]
    assert (table["error"] != "").all() and table["label"].isna().all()


def test_progress_hears_of_every_image(bees: Model, new: Path) -> None:
    class Heard(Progress):
        last: ClassVar[tuple[str, int, int]]

        def advance(self, stage: str, done: int, total: int) -> None:
            Heard.last = (stage, done, total)

    bees.predict(new, n_jobs=1, progress=Heard())
    assert Heard.last == ("predict", 7, 7)


def test_photos_run_as_in_extraction_and_few_leave_nothing_behind(
    bees: Model, new: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pipeline.extraction.encoder as network_room

    heard: dict[str, Any] = {}
    opened = network_room.open_runtime

    def listen(*given: Any, **options: Any) -> Any:
        heard.update(options)
        return opened(*given, **options)

    monkeypatch.setattr(network_room, "open_runtime", listen)
    bees.predict(new, n_jobs=1, cache=tmp_path)
    # How many they are decides whether the network is exported, as `extract` does for as many.
    assert (heard["images"], heard["graphs"]) == (7, tmp_path / "graphs")
    assert list(tmp_path.iterdir()) == []


def test_another_decoder_is_a_note_and_no_error(bees: Model, new: Path) -> None:
    heard: list[str] = []

    class Heard(Progress):
        def note(self, text: str) -> None:
            heard.append(text)

    other = replace(bees, recipe={**bees.recipe, "decoder": "another"})
    other.predict(new / "a.png", n_jobs=1, progress=Heard())
    assert heard[-1:] == ["features differ slightly from those of the machine that fitted the model, in decoder"]


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory, bees: Model) -> Model:
    """A model of three classes and 8 features, to be asked about planted caches."""
    X, y = blobs(60, d=8, apart=1.5)
    made = planted(tmp_path_factory.mktemp("caches") / "a.h5", bees, X, columns={"kind": names(y)})
    return fit(made, grid={"logistic.C": 1.0}, cv=2, n_jobs=1)


def test_classes_come_in_the_order_of_their_probability(three: Model, tmp_path: Path) -> None:
    X, _ = blobs(30, d=8, apart=1.5, seed=4)
    table = three.predict(planted(tmp_path / "a.h5", three, X), top=5)  # more than there are
    assert list(table.columns) == [
        "id", "label", "probability", "label_2", "probability_2", "label_3", "probability_3", "unfamiliar", "error",
    ]  # fmt: skip
    P = three.estimator.predict_proba(X)
    order = np.argsort(-P, axis=1)
    for place, suffix in enumerate(("", "_2", "_3")):
        assert table[f"label{suffix}"].tolist() == [three.classes[code] for code in order[:, place]]
        np.testing.assert_allclose(table[f"probability{suffix}"], np.sort(P, axis=1)[:, -1 - place])
    assert list(three.predict(planted(tmp_path / "b.h5", three, X), top=1).columns) == [
        "id", "label", "probability", "unfamiliar", "error",
    ]  # fmt: skip
    with pytest.raises(ModelError, match="top: expected 1 or more, got 0"):
        three.predict(tmp_path, top=0)


def test_the_label_is_what_the_estimator_predicts_even_against_its_scores(three: Model, tmp_path: Path) -> None:
    X, y = blobs(60, d=8, apart=1.0)
    # One column a pair of classes: no score a class, so there are labels alone.
    pairs = SVC(decision_function_shape="ovo").fit(np.vstack([X, X + 9]), np.concatenate([y, y % 1 + 3]))
    model = replace(three, estimator=pairs, classes=("ant", "bee", "cat", "dog"))
    table = model.predict(planted(tmp_path / "a.h5", three, X))
    assert list(table.columns) == ["id", "label", "unfamiliar", "error"]
    assert table["label"].tolist() == [model.classes[code] for code in pairs.predict(X)]


def test_heads_without_probabilities_write_scores(three: Model, tmp_path: Path) -> None:
    X, y = blobs(60, d=8, apart=1.5)
    ridge = RidgeClassifier().fit(X, y)
    table = replace(three, estimator=ridge).predict(planted(tmp_path / "a.h5", three, X), top=2)
    assert list(table.columns) == ["id", "label", "score", "label_2", "score_2", "unfamiliar", "error"]
    assert table["label"].tolist() == [three.classes[code] for code in ridge.predict(X)]
    np.testing.assert_allclose(table["score"], ridge.decision_function(X).max(axis=1))


def test_models_of_numbers_write_a_value(bees: Model, tmp_path: Path) -> None:
    X, _ = blobs(40, d=8)
    columns = {"size": [f"{value:.5f}" for value in X[:, 0]]}
    made = planted(tmp_path / "a.h5", bees, X, columns=columns, failed={3: SkipReason.TOO_LARGE})
    model = fit(made, grid={"ridge.alpha": 1.0}, cv=2, n_jobs=1)
    assert (model.kind, model.classes) == ("number", ())
    table = model.predict(made)
    assert list(table.columns) == ["id", "value", "unfamiliar", "error"]
    good = table["error"] == ""
    np.testing.assert_allclose(table["value"][good], model.estimator.predict(X)[good])
    assert np.isnan(table["value"][3]) and table["error"][3] == SkipReason.TOO_LARGE.text
    model.save(tmp_path / "size.model", weights=False)
    assert Model.open(tmp_path / "size.model").predict(made).equals(table)
    assert "Predicts `size` for a photo: a number." in (tmp_path / "size.model" / "README.md").read_text()


def test_a_cache_of_another_recipe_or_layer_is_refused_by_name(three: Model, tmp_path: Path) -> None:
    X, _ = blobs(10, d=8)
    other = make_cache(tmp_path / "a.h5", X, {}, changes={**three.recipe, "precision": "bf16", "backbone": "resnet50"})
    with pytest.raises(
        ModelError,
        match=r"a\.h5: expected features made with the model's recipe, got another recipe: backbone, precision differ",
    ) as error:
        three.predict(other)
    assert error.value.next_step == "predict from the images themselves"
    late = make_cache(tmp_path / "b.h5", {"late": X}, {}, changes=three.recipe)
    with pytest.raises(CacheError, match="expected layer 'penultimate', got late"):
        three.predict(late)


# Scoring


@pytest.fixture
def labelled(three: Model, tmp_path: Path) -> tuple[FeatureCache, np.ndarray, list[str | None]]:
    """20 planted images; one without a label, one that failed, two of a class that was never learned."""
    X, y = blobs(20, d=8, apart=1.5, seed=7)
    kinds: list[str | None] = list(names(y))
    kinds[0], kinds[5], kinds[6] = None, "yak", "yak"
    columns = {"kind": kinds, "place": [f"g{row % 10}" for row in range(20)], "sort": kinds[::-1]}
    made = planted(tmp_path / "new.h5", three, X, columns=columns, failed={9: SkipReason.EMPTY}, name="new")
    return made, X, kinds


def test_scores_are_those_made_by_hand(three: Model, labelled: Any) -> None:
    made, X, kinds = labelled
    rows = [row for row in range(20) if row not in (0, 9)]
    truth = [kinds[row] for row in rows]
    said = [three.classes[code] for code in three.estimator.predict(X[rows])]
    found = three.score(made)
    scores = {score.scoring: score for score in found.scores}
    right = float(np.mean([one == other for one, other in zip(truth, said, strict=True)]))
    assert (found.n, found.label_set, scores["accuracy"].n) == (18, "kind", 18)
    assert (scores["accuracy"].value, scores["accuracy"].low, scores["accuracy"].high) == (right, *wilson(right, 18))
    assert scores["balanced_accuracy"].value == pytest.approx(balanced_accuracy_score(truth, said))
    assert scores["f1_macro"].value == pytest.approx(f1_score(truth, said, average="macro"))
    P = np.column_stack([three.estimator.predict_proba(X[rows]), np.zeros(18)])
    code = {**{name: number for number, name in enumerate(three.classes)}, "yak": 3}
    own = P[np.arange(18), [code[str(kind)] for kind in truth]].clip(np.finfo(float).eps)
    assert scores["neg_log_loss"].value == pytest.approx(np.log(own).mean())
    assert found.unknown_classes == {"yak": 2}
    assert found.seen_in_training == ()
    assert found.notes == (
        "1 of 20 photos have no label and are left out",
        "1 labeled photos cannot be read and are left out, e.g. 00009.jpg: empty file",
        "classes that training never saw count as wrong: yak (2)",
    )
    json.dumps(found.as_dict(), allow_nan=False)


def test_photos_that_were_learned_from_are_named(bees: Model, photos: Path, tmp_path: Path) -> None:
    for kind in ("ant", "bee"):
        photo(tmp_path / "some" / kind / "new.png", kind, 500)
    shutil.copy(photos / "bee" / "03.png", tmp_path / "some" / "bee" / "renamed.png")
    found = bees.score(tmp_path / "some", n_jobs=1)
    assert found.seen_in_training == ("bee/renamed.png",)
    note = (
        "1 of 3 photos were in the training data, e.g. bee/renamed.png, which inflates the score; "
        "it is also given without them"
    )
    assert found.notes == (note,)
    shutil.rmtree(tmp_path / "some" / "bee")
    photo(tmp_path / "some" / "bee" / "new.png", "bee", 500)
    without = bees.score(tmp_path / "some", n_jobs=1)
    assert without.scores_apart == () and without.seen_in_training == ()
    assert found.scores_apart == without.scores


def test_groups_make_the_intervals(three: Model, labelled: Any) -> None:
    found = three.score(labelled[0], groups="place")
    assert all("10 groups" in score.method or "9 groups" in score.method for score in found.scores)
    table = {"kind": {name: kind for name, kind in zip(labelled[0].ids, labelled[2], strict=True) if kind}}
    assert three.score(labelled[0], table, groups="place").scores == found.scores  # groups from the source
    plain = three.score(labelled[0])
    assert plain.scores[1].low != found.scores[1].low


def test_labels_come_from_a_table_or_another_column(three: Model, labelled: Any, tmp_path: Path) -> None:
    made, _, kinds = labelled
    assert three.score(made, column="sort").unknown_classes == {"yak": 2}
    rows = [f"{name}, {kind} " for name, kind in zip(made.ids, kinds, strict=True) if kind == "bee"]
    (tmp_path / "t.csv").write_text("\n".join(["image,kind", *rows]))
    assert three.score(made, tmp_path / "t.csv", id_column="image").n == len(rows)
    ids = dict.fromkeys(made.ids[:5], " bee ")  # by hand, untidy
    assert three.score(made, {"kind": ids}).unknown_classes == {}


def test_what_cannot_be_scored_is_refused(three: Model, labelled: Any, bees: Model, new: Path, tmp_path: Path) -> None:
    made = labelled[0]
    with pytest.raises(LabelError, match="--column: expected the column 'knid', got 'kind', 'place', 'sort'") as error:
        three.score(made, column="knid")
    assert error.value.next_step == "name the column with --column, or give a table with --labels"
    with pytest.raises(LabelError, match="--groups: expected the column 'patient'"):
        three.score(made, groups="patient")
    with pytest.raises(LabelError, match="a: expected labels, got none: 1 images and no class folders"):
        bees.score(new / "a.png", n_jobs=1)
    empty = planted(tmp_path / "e.h5", three, np.zeros((3, 8)), columns={"kind": [None] * 3})
    with pytest.raises(EvaluationError, match="expected labelled photos to score, got none in column 'kind'"):
        three.score(empty)
    failed = planted(
        tmp_path / "f.h5", three, np.zeros((1, 8)), columns={"kind": ["ant"]}, failed={0: SkipReason.EMPTY}
    )
    with pytest.raises(EvaluationError, match=r"1 of 1 labelled images cannot be read, e\.g\. 00000\.jpg: empty file"):
        three.score(failed)


# The whole road, with the real network


def test_a_test_folder_is_extracted_as_the_cache_was(
    photos: Path, caches: Path, cache: FeatureCache, tmp_path: Path
) -> None:
    test = tmp_path / "later"
    for seed in range(3):
        for kind in ("ant", "bee", "cat"):
            photo(test / kind / f"{seed}.png", kind, 300 + seed)
    half = extract(photos, cache=caches, store="fp16")
    for made in (cache, half):
        run = evaluate(made, test=test, cache=caches, heads="centroid", **QUICK)
        assert run.info().test == 9
        assert "later: classes that training never saw count as wrong: cat (3)" in run.notes
        (accuracy,) = [r.test for r in run.results if (r.head, r.scoring) == ("centroid", "accuracy")]
        assert accuracy is not None and accuracy <= 6 / 9
    stores = [FeatureCache.open(path).recipe["store"] for path in caches.glob("later-*.h5")]
    assert sorted(stores) == ["fp16", "fp32"]


def test_images_are_evaluated_as_their_cache_is(photos: Path, caches: Path, cache: FeatureCache) -> None:
    options: dict[str, Any] = {"cache": caches, "heads": "centroid", **QUICK}
    from_photos, from_cache = evaluate(photos, **options), evaluate(cache, **options)
    assert from_photos.predictions.equals(from_cache.predictions)
    assert from_photos.name == from_cache.name == "photos"
    both = evaluate([photos, cache], **options)
    assert len(both.label_sets) == 1 and len(both.predictions) == 24


def test_arrays_are_evaluated_with_labels_by_row(caches: Path) -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 60, (12, 16, 16, 3)).astype(np.uint8)
    images[6:] += 150
    source = ImageSource.open(images)
    labels = {"bright": dict(zip(source.ids, ["no"] * 6 + ["yes"] * 6, strict=True))}
    run = evaluate(images, labels=labels, cache=caches, heads="centroid", **QUICK)
    assert run.best().mean == 1
    assert run.info().classes == ("no", "yes")


def test_the_table_of_answers_can_be_written(bees: Model, new: Path, tmp_path: Path) -> None:
    table = bees.predict(new, n_jobs=1)
    table.to_parquet(tmp_path / "t.parquet")
    assert pd.read_parquet(tmp_path / "t.parquet")["id"].tolist() == table["id"].tolist()
