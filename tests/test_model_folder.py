"""A model folder is written whole, checked before it is read, and never unpickled."""

from __future__ import annotations

import hashlib
import io
import json
import re
import shutil
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skops.io
from made_caches import blobs, make_cache, names
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.ensemble import StackingClassifier, VotingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.multiclass import OutputCodeClassifier
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import FunctionTransformer, make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC

from pipeline.backbone import Backbone
from pipeline.cache import FeatureCache
from pipeline.errors import EvaluationError, ModelError
from pipeline.extraction import recipe_of
from pipeline.heads import catalogue, resolve_heads
from pipeline.model import Model, fit
from pipeline.model.storage import check_savable
from pipeline.provenance import sha256_json

CANARY = "canary"


class Strange(ClassifierMixin, BaseEstimator):
    """An estimator of nobody's list."""

    def fit(self, X: np.ndarray, y: np.ndarray) -> Strange:
        self.classes_ = np.unique(y)
        return self

    def predict(self, X: np.ndarray) -> np.ndarray:
        return np.full(len(X), self.classes_[0])


def default_cache(path: Path, X: np.ndarray, columns: Any, **options: Any) -> FeatureCache:
    """Write a cache that says it was made by the bundled backbone."""
    backbone = Backbone.open()
    made = {"changes": recipe_of(backbone).as_dict(), "backbone": backbone.record()}
    return make_cache(path, X, columns, **{**made, **options})


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> FeatureCache:
    X, y = blobs(60, d=8, apart=3.0)
    columns = {"kind": names(y), "size": [f"{value:.4f}" for value in X[:, 0]]}
    return default_cache(tmp_path_factory.mktemp("caches") / "made.h5", X, columns)


@pytest.fixture(scope="module")
def model(cache: FeatureCache) -> Model:
    return fit(cache, column="kind", grid={"logistic.C": [0.01, 1.0]}, cv=3, n_jobs=1)


@pytest.fixture(scope="module")
def bees(model: Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model.save(tmp_path_factory.mktemp("models") / "bees.model", weights=False)


@pytest.fixture
def copied(bees: Path, tmp_path: Path) -> Path:
    """A copy of the model folder, to be tampered with."""
    return Path(shutil.copytree(bees, tmp_path / "bees.model"))


def rewrite(path: Path, **changes: Any) -> None:
    """Change entries of the record as one does who knows how its hash is made."""
    record = {**json.loads((path / "model.json").read_text()), **changes}
    del record["sha256"]
    record["sha256"] = sha256_json(record)
    (path / "model.json").write_text(json.dumps(record))


def put_head(path: Path, head: bytes) -> None:
    """Put another head into the folder, its hash in the record."""
    (path / "head.skops").write_bytes(head)
    files = json.loads((path / "model.json").read_text())["files"]
    rewrite(path, files={**files, "head.skops": hashlib.sha256(head).hexdigest()})


# What is in it


def test_the_folder_holds_what_the_record_says(model: Model, tmp_path: Path) -> None:
    path = model.save(tmp_path / "deep" / "bees.model")
    found = {item.name for item in path.iterdir()}
    assert found == {"model.json", "head.skops", "backbone.safetensors", "training.digests", "README.md"}
    record = json.loads((path / "model.json").read_text())
    assert record["files"] == {
        name: hashlib.sha256((path / name).read_bytes()).hexdigest() for name in found - {"model.json"}
    }
    assert (record["format"], record["kind"], record["task"]) == (1, "transfer-pipeline model", "class")
    assert record["classes"] == ["ant", "bee", "cat"]
    assert record["backbone"]["name"] == "efficientnet_lite0"
    assert record["backbone"]["preprocessing"]["crop"] == 224
    assert record["recipe"] == dict(model.recipe)
    assert record["params"] == dict(model.params) and record["params"]["C"] in (0.01, 1.0)
    assert record["training_images"] == 60
    assert {row["scoring"] for row in record["scores"]} == {"balanced_accuracy", "accuracy", "f1_macro", "neg_log_loss"}
    assert {row["head"] for row in record["scores"]} == {"logistic", "dummy"}
    assert all(row["nested"] and row["cache"] == "made.h5" for row in record["scores"])
    assert {"scikit-learn", "skops", "torch", "transfer-pipeline"} <= record["versions"].keys()
    assert str(tmp_path) not in (path / "model.json").read_text()
    again = Model.open(path)
    assert again.as_dict() == model.as_dict()
    assert np.array_equal(again.training_digests, model.training_digests)


def test_the_readme_says_what_it_is_and_how_good(bees: Path, model: Model) -> None:
    text = (bees / "README.md").read_text()
    for line in (
        "# bees.model",
        "Predicts `kind` for a photo: one of 3 classes: ant, bee, cat.",
        f"> {model.verdict}",
        "pipeline predict bees.model new.jpg",
        "Nested cross-validation: neither a head nor the choice of its parameters used the photos it is scored on.",
        "trained on 60 photos",
    ):
        assert line in text
    first = model.scores[0]
    assert f"{first['mean']:.3f} | {first['low']:.3f} to {first['high']:.3f} |" in text


def test_without_weights_it_is_small_and_finds_them_again(bees: Path, model: Model) -> None:
    assert sum(item.stat().st_size for item in bees.iterdir()) < 200_000
    assert not (bees / "backbone.safetensors").exists()
    assert Model.open(bees).backbone == model.backbone


def test_the_readme_is_a_persons_to_add_to(copied: Path) -> None:
    (copied / "README.md").write_text("These are our bees.")
    Model.open(copied)


# Saved and loaded in another process, for every head of the catalogue


ASK = """
import sys
import numpy as np
from pathlib import Path
from pipeline.model import Model

folder = Path(sys.argv[1])
X = np.load(folder / "X.npy")
for path in sorted(folder.glob("*.model")):
    said = Model.open(path).predict_features(X)
    values = {"labels": said.labels, "probabilities": said.probabilities, "scores": said.scores}
    np.savez(path.with_suffix(".npz"), **{name: value for name, value in values.items() if value is not None})
"""


@pytest.fixture(scope="module")
def saved_heads(model: Model, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Model]]:
    """Every head of the catalogue fitted, saved and asked again by another process, in another place."""
    made, folder = tmp_path_factory.mktemp("made"), tmp_path_factory.mktemp("moved")
    X, y = blobs(60, d=8, apart=2.0)
    models = {}
    targets = {
        "class": y,
        "number": X[:, 0].astype(float),
        "multi": np.column_stack([y == 0, y > 0, X[:, 0] > 1]).astype(np.int8),
    }
    for kind, target in targets.items():
        for head in resolve_heads([entry.name for entry in catalogue() if entry.kind == kind], kind=kind):
            estimator = head.estimator.fit(X, target)
            name = f"{kind}-{head.name}"
            classes = {"class": model.classes, "number": (), "multi": ("a", "b", "c")}[kind]
            # Of the labels that these heads learned nothing is counted.
            models[name] = replace(model, estimator=estimator, head=head.name, kind=kind, classes=classes, evidence={})
            shutil.move(models[name].save(made / f"{name}.model", weights=False), folder / f"{name}.model")
    np.save(folder / "X.npy", blobs(20, d=8, seed=9)[0])
    subprocess.run([sys.executable, "-c", ASK, str(folder)], check=True, cwd=folder)
    return folder, models


@pytest.mark.parametrize("name", [f"{entry.kind}-{entry.name}" for entry in catalogue()])
def test_a_loaded_head_answers_as_before_it_was_saved(name: str, saved_heads: tuple[Path, dict[str, Model]]) -> None:
    folder, models = saved_heads
    wanted = models[name].predict_features(np.load(folder / "X.npy"))
    found = np.load(folder / f"{name}.npz")
    assert np.array_equal(found["labels"], wanted.labels)
    for what in ("probabilities", "scores"):
        values = getattr(wanted, what)
        assert (what in found) == (values is not None)
        if values is not None:
            np.testing.assert_allclose(found[what], values, rtol=0, atol=1e-12)


def test_it_predicts_from_another_place(bees: Path, cache: FeatureCache, tmp_path: Path) -> None:
    moved = shutil.copytree(bees, tmp_path / "elsewhere" / "renamed")
    wanted = Model.open(bees).predict(cache)
    assert Model.open(moved).predict(cache).equals(wanted)


# Damage


@pytest.mark.parametrize("name", ["head.skops", "training.digests", "backbone.safetensors"])
def test_a_file_that_was_changed_is_named(name: str, model: Model, tmp_path: Path) -> None:
    path = model.save(tmp_path / "bees.model")
    content = bytearray((path / name).read_bytes())
    content[len(content) // 2] ^= 1
    (path / name).write_bytes(content)
    with pytest.raises(
        ModelError, match=rf"{name}: expected SHA-256 [0-9a-f]{{12}}\.\.\., got [0-9a-f]{{12}}\.\.\."
    ) as error:
        Model.open(path)
    assert "copy the model folder again from where it was made" in error.value.next_step
    (path / name).unlink()
    with pytest.raises(ModelError, match=f"{name}: expected a file of the model, got No such file"):
        Model.open(path)


def test_a_record_that_was_changed_is_refused(copied: Path) -> None:
    record = copied / "model.json"
    text = record.read_text()
    record.write_text(text.replace('"bee"', '"wasp"', 1))
    with pytest.raises(ModelError, match="expected an unchanged record, got one that was edited"):
        Model.open(copied)
    record.write_text(text[: len(text) // 2])
    with pytest.raises(ModelError, match=r"model\.json: expected a model's record, got JSONDecodeError"):
        Model.open(copied)
    record.write_text('["a list"]')
    with pytest.raises(ModelError, match=r"model\.json: expected a model's record, got TypeError"):
        Model.open(copied)
    record.write_text('{"format": "tfjs", "kind": "graph-model"}')
    with pytest.raises(ModelError, match="expected a transfer-pipeline model, got 'graph-model'"):
        Model.open(copied)


def test_another_format_is_refused(copied: Path) -> None:
    rewrite(copied, format=2)
    with pytest.raises(ModelError, match="expected model format 1, got 2") as error:
        Model.open(copied)
    assert error.value.next_step == "install the version of transfer-pipeline that wrote it"


def test_another_scikit_learn_is_refused(copied: Path) -> None:
    versions = json.loads((copied / "model.json").read_text())["versions"]
    rewrite(copied, versions={**versions, "scikit-learn": "1.2.2"})
    with pytest.raises(ModelError, match=r"expected scikit-learn 1\.2, which fitted the head, got 1\.") as error:
        Model.open(copied)
    assert error.value.next_step == "pip install 'scikit-learn==1.2.*', or fit the model again"


def test_no_folder_and_no_model_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="nowhere: expected a model folder, got no such path"):
        Model.open(tmp_path / "nowhere")
    with pytest.raises(ModelError, match=r"expected a model folder, got no model\.json in it"):
        Model.open(tmp_path)


# Nothing is made of a strange type, whatever the file says


def test_a_type_that_is_not_on_the_list_is_refused_and_never_made(copied: Path, tmp_path: Path) -> None:
    head = skops.io.dumps(LogisticRegression(C=0.123))
    with zipfile.ZipFile(io.BytesIO(head)) as archive:
        schema = archive.read("schema.json").decode()
    (C,) = re.findall(r'\{[^{}]*"content": "0\.123"[^{}]*\}', schema)
    canary = tmp_path / CANARY
    touch = {
        "__class__": "Path", "__module__": "pathlib", "__loader__": "ReduceNode", "__id__": 99,
        "content": {}, "reduce": {},
    }  # fmt: skip
    partial = skops.io.dumps(Touch(str(canary)))
    assert not canary.exists()
    for content in (_with_schema(head, schema.replace(C, json.dumps(touch))), partial):
        put_head(copied, content)
        with pytest.raises(
            ModelError,
            match=r"head\.skops: (expected only types that a model may hold, got|expected a stored head, got)",
        ):
            Model.open(copied)
        assert not canary.exists()
    with pytest.raises(ModelError, match=r"expected only types that a model may hold, got .*Touch"):
        Model.open(copied)


class Touch(BaseEstimator):
    """Makes a file when it comes back to life."""

    def __init__(self, path: str = "") -> None:
        self.path = path

    def __setstate__(self, state: dict[str, Any]) -> None:
        Path(state["path"]).touch()


def test_the_canary_would_have_sung(tmp_path: Path) -> None:
    canary = tmp_path / CANARY
    content = skops.io.dumps(Touch(str(canary)))
    skops.io.loads(content, trusted=skops.io.get_untrusted_types(data=content))
    assert canary.exists()


def _with_schema(head: bytes, schema: str) -> bytes:
    changed = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(head)) as archive, zipfile.ZipFile(changed, "w") as out:
        for name in archive.namelist():
            out.writestr(name, schema if name == "schema.json" else archive.read(name))
    return changed.getvalue()


@pytest.mark.parametrize("head", [b"", b"not a zip", b"PK\x03\x04 damaged"])
def test_a_head_that_is_none_is_refused(head: bytes, copied: Path) -> None:
    put_head(copied, head)
    with pytest.raises(ModelError, match=r"head\.skops: expected a stored head, got"):
        Model.open(copied)


def test_a_head_that_could_not_be_stored_is_refused_before_any_work(tmp_path: Path) -> None:
    out = tmp_path / "x.model"
    with pytest.raises(ModelError, match=r"head 'Strange': expected only types .*, got .*Strange"):
        fit(tmp_path / "nothing there", heads=Strange(), out=out)
    with pytest.raises(ModelError, match=r"head 'LogisticRegression': expected only types .*, got .*len"):
        fit(tmp_path / "nothing there", heads=make_pipeline(FunctionTransformer(len), LogisticRegression()), out=out)
    # A tree appears only when it is fitted, so the head is fitted to a handful of rows.
    trees = KNeighborsClassifier(algorithm="kd_tree")
    with pytest.raises(ModelError, match=r"expected only types .*, got .*KDTree"):
        fit(tmp_path / "nothing there", heads=["logistic", trees], out=out)
    assert not out.exists()


def test_a_head_of_scikit_learn_by_import_path_can_be_saved(cache: FeatureCache, tmp_path: Path) -> None:
    path = tmp_path / "svc.model"
    fitted = fit(cache, column="kind", heads="sklearn.svm.SVC", cv=2, n_jobs=1, out=path, weights=False)
    assert Model.open(path).predict(cache).equals(fitted.predict(cache))


@pytest.mark.parametrize(
    "head",
    [
        CalibratedClassifierCV(LinearSVC(), cv=2),
        CalibratedClassifierCV(GaussianNB(), cv=2, method="isotonic"),
        CalibratedClassifierCV(GaussianNB(), cv=2, method="temperature"),
        VotingClassifier([("a", LogisticRegression()), ("b", GaussianNB())], voting="soft"),
        StackingClassifier([("a", GaussianNB())], cv=2),  # no `predict` before it is fitted
        make_pipeline(StandardScaler(), StackingClassifier([("a", GaussianNB())], cv=2)),
        OutputCodeClassifier(LogisticRegression(), random_state=0),
    ],
    ids=lambda head: type(head).__name__,
)
def test_heads_made_of_other_heads_are_saved_and_answer_the_same(head: Any, model: Model, tmp_path: Path) -> None:
    X = np.random.default_rng(1).normal(size=(30, 8)).astype(np.float32)
    y = np.arange(30) % 3
    check_savable([head])
    estimator = clone(head).fit(X, y)
    made = replace(model, head="made", estimator=estimator)
    made.save(tmp_path / "made.model", weights=False)
    opened = Model.open(tmp_path / "made.model").estimator
    assert np.array_equal(opened.predict(X), estimator.predict(X))
    if hasattr(estimator, "predict_proba"):
        assert np.array_equal(opened.predict_proba(X), estimator.predict_proba(X))


def test_what_cannot_be_saved_is_named_with_what_can_be_done(tmp_path: Path) -> None:
    with pytest.raises(ModelError) as raised:
        check_savable(GridSearchCV(GaussianNB(), {"var_smoothing": [1e-9]}, cv=2))
    assert raised.value.message == (
        "head 'GridSearchCV': expected only types that a model folder may hold, got "
        "sklearn.metrics._scorer._PassthroughScorer, sklearn.model_selection._split.StratifiedKFold "
        "(other types are not built from a file)"
    )
    assert "only score it with `pipeline evaluate`" in raised.value.next_step


def test_a_model_that_is_not_saved_may_be_of_any_type(cache: FeatureCache, tmp_path: Path) -> None:
    fitted = fit(cache, column="kind", heads=Strange(), cv=2, n_jobs=1)
    with pytest.raises(
        ModelError, match=r"head 'Strange': expected only types that a model folder may hold, got .*Strange"
    ):
        fitted.save(tmp_path / "x.model")
    assert list(tmp_path.iterdir()) == []


# The place


def test_what_is_no_model_is_never_overwritten(model: Model, bees: Path, tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "ant.jpg").write_bytes(b"")
    with pytest.raises(ModelError, match=r"got a folder that also holds ant\.jpg") as error:
        model.save(folder)
    assert error.value.next_step == f"--out {tmp_path / 'photos.new.model'}"
    mixed = Path(shutil.copytree(bees, tmp_path / "mixed.model"))
    (mixed / "notes.txt").write_text("mine")
    with pytest.raises(ModelError, match=r"got a folder that also holds notes\.txt"):
        model.save(mixed)
    file = tmp_path / "file.model"
    file.write_text("")
    with pytest.raises(ModelError, match="expected a folder for the model, got a file"):
        model.save(file)
    with pytest.raises(ModelError, match=r"file\.model/x: expected to write the model here, got a file: .*file\.model"):
        fit(tmp_path / "nothing there", out=file / "x")
    assert sorted(item.name for item in tmp_path.iterdir()) == ["file.model", "mixed.model", "photos"]


def test_an_empty_folder_is_a_place(model: Model, tmp_path: Path) -> None:
    (tmp_path / "bees.model").mkdir()
    assert Model.open(model.save(tmp_path / "bees.model", weights=False)).classes == model.classes


def test_an_earlier_model_is_replaced_whole(model: Model, copied: Path) -> None:
    (copied / "backbone.safetensors").write_bytes(b"of an earlier model with weights")
    other = replace(model, label_set="other")
    other.save(copied, weights=False)
    assert Model.open(copied).label_set == "other"
    assert [item.name for item in copied.parent.iterdir()] == ["bees.model"]
    assert not (copied / "backbone.safetensors").exists()


@pytest.mark.parametrize("moment", ["weights", "rename"])
def test_an_earlier_model_stays_when_saving_fails(
    moment: str, model: Model, copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    if moment == "weights":
        monkeypatch.setattr(Backbone, "save_weights", full)
    else:
        monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(ModelError, match="expected to write the model here, got No space left on device"):
        replace(model, label_set="other").save(copied)
    assert Model.open(copied).label_set == "kind"
    assert [item.name for item in copied.parent.iterdir()] == ["bees.model"]


def test_several_label_sets_are_refused_before_anything_is_fitted(
    cache: FeatureCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipeline.model import fitting

    def never(*_: object, **__: object) -> None:
        raise AssertionError("something was fitted")

    monkeypatch.setattr(fitting, "run_planned", never)
    with pytest.raises(EvaluationError, match="fit: expected one label set, got 2: kind, size") as error:
        fit(cache, out=tmp_path / "x.model")
    assert error.value.next_step == "choose one with --column kind"
    X, y = blobs(20, d=8)
    other = default_cache(tmp_path / "b.h5", X, {"kind": names(y)}, name="other")
    with pytest.raises(EvaluationError, match="fit: expected one collection of images, got 2: made, other"):
        fit([cache, other], column="kind")
