"""A score that is kept: what is read back is what was computed, and no other question's folder is taken."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from commands import class_folders, done, refused
from made_caches import blobs, names
from test_model_folder import default_cache

from pipeline.cache import FeatureCache
from pipeline.errors import EvaluationError, PipelineError
from pipeline.images import ImageSource
from pipeline.model import Model, ModelScore, fit, model_score
from pipeline.runs import Run

QUICK: dict[str, Any] = {"cv": 2, "n_jobs": 1, "device": "cpu"}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return photos_and_model(tmp_path_factory.mktemp("scored"))


def photos_and_model(place: Path) -> Path:
    """Make photos of ants and bees, a model of them that keeps its photos, and others: some of those too, and wasps."""
    class_folders(place / "photos", 10)
    class_folders(place / "new", 13)
    for kind in ("ants", "bees"):
        for number in range(1, 10):
            (place / "new" / kind / f"{number:02d}.png").unlink()
    shutil.copytree(place / "new" / "ants", place / "new" / "wasps")
    fit(place / "photos", cache=place / "caches", out=place / "bees.model", keep_photos=True, **QUICK)
    return place


@pytest.fixture(scope="module")
def score(place: Path) -> ModelScore:
    return Model.open(place / "bees.model").score(place / "new", cache=place / "caches", out=place / "run", n_jobs=1)


def planted(folder: Path, kind: str, *, head: str) -> tuple[Model, FeatureCache]:
    """Return a model that a folder holds, and a cache of other images of its recipe, with labels of this kind."""
    X, y = blobs(40, d=8, apart=2.0)
    texts = {
        "class": names(y),
        "number": [f"{value:.3f}" for value in X[:, 0]],
        "multi": [";".join(t for t, v in zip(("big", "red"), row, strict=True) if v) or ";" for row in X[:, :2] > 0],
    }[kind]
    made = default_cache(folder / "a.h5", X, {"mark": texts})
    fit(made, column=f"mark:{kind}", heads=head, out=folder / "a.model", weights=False, **QUICK)
    return Model.open(folder / "a.model"), default_cache(folder / "b.h5", X + 0.3, {"mark": texts}, name="b")


def test_what_is_read_back_is_what_was_scored(score: ModelScore, place: Path) -> None:
    found = ModelScore.open(place / "run")
    assert found == score and found.folder == score.folder == place / "run"
    pd.testing.assert_frame_equal(found.predictions, score.predictions)
    plain = Model.open(place / "bees.model").score(place / "new", cache=place / "caches", n_jobs=1)
    assert (found.scores, found.unknown_classes) == (plain.scores, plain.unknown_classes)
    assert found.unknown_classes == {"wasps": 4} and found.n == 12
    assert sorted(item.name for item in (place / "run").iterdir()) == [
        "predictions.parquet", "score.json", "scores.csv",
    ]  # fmt: skip
    table = pd.read_csv(place / "run" / "scores.csv")
    assert table["score"].tolist() == [one.value for one in (*score.scores, *score.scores_apart)]
    assert table["guessing"].notna().sum() == len(score.scores)


@pytest.mark.parametrize("batch_size", [1, 3])
def test_a_score_made_anew_by_another_runtime_agrees_within_the_tolerance(
    score: ModelScore, place: Path, tmp_path: Path, batch_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Torch where ONNX Runtime made the kept score: features within 1e-5 give these scores, not every last bit."""
    monkeypatch.setattr("pipeline.runtime.bundled_graph.bundled_graph", lambda *_: None)
    how: dict[str, Any] = {"n_jobs": 1, "batch_size": batch_size}
    anew = Model.open(place / "bees.model").score(place / "new", cache=tmp_path, **how)
    for before, after in zip(score.scores, anew.scores, strict=True):
        assert (after.scoring, after.n) == (before.scoring, before.n)
        if before.scoring == "neg_log_loss":  # the one that looks at probabilities
            assert after.value != before.value  # else the other runtime did not run
            assert (after.value, after.low, after.high) == pytest.approx(
                (before.value, before.low, before.high), rel=1e-5
            )
        else:
            assert after == before


def test_guessing_is_scored_on_the_same_photos(score: ModelScore) -> None:
    shares = score.predictions["true"].value_counts(normalize=True)
    assert score.guessing == pytest.approx({
        "balanced_accuracy": 1 / 3,
        "accuracy": shares.max(),
        "f1_macro": 2 * shares.max() / (1 + shares.max()) / 3,  # of the class that is said: recall 1; 0 of the others
        "neg_log_loss": (shares * np.log(shares)).sum(),
    })  # fmt: skip


def test_a_score_that_was_kept_before_guessing_was_is_read(place: Path, score: ModelScore, tmp_path: Path) -> None:
    shutil.copytree(place / "run", tmp_path / "run")
    said = json.loads((tmp_path / "run" / "score.json").read_text())
    del said["guessing"]
    (tmp_path / "run" / "score.json").write_text(json.dumps(said))
    found = ModelScore.open(tmp_path / "run")
    assert found.guessing == {} and found.scores == score.scores


def test_every_answer_is_that_of_predict(score: ModelScore, place: Path) -> None:
    model = Model.open(place / "bees.model")
    wanted = model.predict(place / "new", top=2, neighbours=2, cache=place / "caches", n_jobs=1).set_index("id")
    found = score.predictions.set_index("id")
    assert list(found.index) == list(wanted.index)
    assert found["predicted"].tolist() == wanted["label"].tolist()
    assert found["true"].tolist() == [name.partition("/")[0] for name in found.index]
    np.testing.assert_allclose(found["probability"], wanted["probability"], atol=1e-5)
    for name, other in (("neighbour", "neighbour"), ("neighbour_2", "neighbour_2"), ("unfamiliar", "unfamiliar")):
        assert found[name].tolist() == wanted[other].tolist()
    assert score.unfamiliar == wanted["unfamiliar"].sum()
    each = found[["probability of ants", "probability of bees"]]
    np.testing.assert_allclose(each.sum(axis=1), 1, atol=1e-6)
    assert (each.max(axis=1) == found["probability"]).all()
    assert (found["probability_true"][found["true"] == "wasps"] == 0).all()
    assert list(found.index[found["learned"]]) == list(score.seen_in_training)
    assert {"ants/00.png", "bees/00.png"} <= set(score.seen_in_training)


def test_it_says_what_was_scored_by_what(score: ModelScore, place: Path) -> None:
    record = json.loads((place / "bees.model" / "model.json").read_text())
    about = score.about
    assert about["question"]["model"] == record["sha256"]
    assert (about["model"]["path"], about["data"]["place"]) == (str(place / "bees.model"), str(place / "new"))
    assert about["versions"]["scikit-learn"] == record["versions"]["scikit-learn"]
    assert FeatureCache.open(about["data"]["cache"]).ids == score.predictions["id"].tolist()


@pytest.mark.parametrize(
    ("kind", "head", "columns"),
    [
        ("number", "ridge", ["true_value", "predicted_value"]),
        ("multi", "logistic", ["true", "predicted"]),
        ("class", "ridge", ["true", "predicted", "probability", "probability_true"]),
    ],
)
def test_every_kind_of_labels_is_kept(kind: str, head: str, columns: list[str], tmp_path: Path) -> None:
    model, other = planted(tmp_path, kind, head=head)
    made = model.score(other, cache=tmp_path, out=tmp_path / "run")
    found = ModelScore.open(tmp_path / "run")
    assert found == made and found.kind == kind and found.n == 40
    assert set(columns) <= set(found.predictions)
    X = np.asarray(other.features())
    if kind == "number":
        np.testing.assert_allclose(found.predictions["predicted_value"], model.estimator.predict(X), rtol=1e-5)
    if kind == "multi":
        P = model.predict_features(X).probabilities
        np.testing.assert_allclose(found.predictions["probability of red"], P[:, model.classes.index("red")])
        assert found.predictions["true"].tolist() == list(other.columns["mark"])
    if kind == "class":
        assert found.predictions["probability"].isna().all()
        assert not [name for name in found.predictions if name.startswith("probability of")]


def test_the_same_question_is_answered_anew_and_no_other_one_is(score: ModelScore, place: Path, tmp_path: Path) -> None:
    run, model = tmp_path / "run", Model.open(place / "bees.model")
    shutil.copytree(place / "run", run)
    (run / "report.html").write_text("of before")
    assert model.score(place / "new", cache=place / "caches", out=run, n_jobs=1) == score
    assert not (run / "report.html").exists(), "a page about other figures"
    with pytest.raises(EvaluationError) as error:
        model.score(place / "photos", cache=place / "caches", out=run, n_jobs=1)
    assert error.value.message == (
        f"--out {run}: expected this score or an empty folder to put the results in, got a score of other photos"
    )
    assert error.value.next_step == f"--out {tmp_path / 'run-score'}"
    with pytest.raises(EvaluationError, match="got a score of another model"):
        replace(model, sha256="0" * 64).score(place / "new", cache=place / "caches", out=run, n_jobs=1)
    with pytest.raises(EvaluationError, match="got a score of another model"):  # one that no folder holds
        replace(model, sha256="").score(place / "new", cache=place / "caches", out=run, n_jobs=1)
    (run / "score.json").write_text("{")
    with pytest.raises(EvaluationError, match=r"got a score\.json that cannot be read"):
        score.save(run)
    for file, words in (("run.json", "a run of evaluate"), ("thesis.tex", r"thesis\.tex and no score\.json")):
        (tmp_path / file).mkdir()
        (tmp_path / file / file).write_text("{}")
        with pytest.raises(EvaluationError, match=f"got {words}"):
            score.save(tmp_path / file)


def test_an_evaluation_does_not_take_a_score_s_folder(place: Path, score: ModelScore) -> None:
    said = refused("evaluate", place / "photos", "--out", place / "run", "--cache", place / "caches")
    assert said[0].startswith(f"{place / 'run'}: expected a run or an empty folder to put the results in, got score")
    with pytest.raises(EvaluationError, match="expected a run of evaluate, got a score of a model") as error:
        Run.open(place / "run")
    assert error.value.next_step == f"open it as what it is: ModelScore.open({str(place / 'run')!r})"


def spoil(folder: Path, **changes: Any) -> None:
    said = json.loads((folder / "score.json").read_text())
    (folder / "score.json").write_text(json.dumps({**said, **changes}))


def test_a_damaged_score_is_refused(score: ModelScore, place: Path, tmp_path: Path) -> None:
    def opened(number: int, spoiled: Any) -> str:
        folder = tmp_path / str(number)
        shutil.copytree(place / "run", folder)
        spoiled(folder)
        with pytest.raises(PipelineError) as error:
            ModelScore.open(folder)
        assert "pipeline score MODEL DATA --out RUN" in error.value.next_step
        return error.value.message.replace(str(folder), "RUN")

    said = [
        opened(number, spoiled)
        for number, spoiled in enumerate(
            [
                lambda folder: (folder / "score.json").unlink(),
                lambda folder: (folder / "score.json").write_text("{"),
                lambda folder: (folder / "score.json").write_text("[]"),
                lambda folder: spoil(folder, format=2),
                lambda folder: spoil(folder, kind="taste"),
                lambda folder: spoil(folder, n=11),
                lambda folder: spoil(folder, notes=[1]),
                lambda folder: spoil(folder, scores=[{}]),
                lambda folder: spoil(folder, kind="number"),
                lambda folder: (folder / "predictions.parquet").unlink(),
                lambda folder: (folder / "predictions.parquet").write_bytes(b"PAR1"),
            ]
        )
    ]
    assert said == [
        "RUN/score.json: expected a score, got No such file or directory",
        "RUN/score.json: expected a score in JSON, got Expecting property name enclosed in double quotes: line 1 "
        "column 2 (char 1)",
        "RUN/score.json: expected a score of format 1, got list",
        "RUN/score.json: expected a score of format 1, got 2",
        "RUN/score.json: expected a complete score, got ValueError: expected class, number or multi, got 'taste'",
        "RUN/score.json: expected a complete score, got ValueError: 11 photos, but predictions for 12",
        "RUN/score.json: expected a complete score, got TypeError: expected a text, got 1",
        "RUN/score.json: expected a complete score, got KeyError: 'value'",
        "RUN/score.json: expected a complete score, got ValueError: no column true_value, "
        "predicted_value in predictions.parquet",
        "RUN/predictions.parquet: expected the predictions of the score, got No such file or directory",
        "RUN/predictions.parquet: expected the predictions that score.json was written with, got other ones (changed "
        "later, or written by a run that was stopped)",
    ]


def test_without_the_training_photos_it_says_why_nothing_is_unfamiliar(place: Path, tmp_path: Path) -> None:
    model = replace(Model.open(place / "bees.model"), kept=None)
    found = model.score(place / "new", cache=tmp_path / "none", out=tmp_path / "run", n_jobs=1)
    assert found.unfamiliar is None and found.predictions["unfamiliar"].isna().all()
    assert found.notes[-1].startswith(
        "unfamiliar photos and neighbours are not given: their embeddings are not available"
    )
    assert "neighbour" not in found.predictions


def test_the_command_keeps_it_and_says_where(place: Path, score: ModelScore, tmp_path: Path) -> None:
    words = ("score", place / "bees.model", place / "new", "--cache", place / "caches")
    outcome = done(*words, "--out", tmp_path / "run")
    assert outcome.err.splitlines()[-2:] == [
        f"kept in {tmp_path / 'run'}/: every prediction in predictions.parquet, the scores in scores.csv",
        f"next: pipeline report {tmp_path / 'run'}",
    ]
    assert ModelScore.open(tmp_path / "run").scores == score.scores
    said = json.loads(done(*words, "--out", tmp_path / "run", "--json").out)
    assert said["run"] == str(tmp_path / "run") and said["unfamiliar"] == score.unfamiliar
    (tmp_path / "file").touch()
    assert refused(*words, "--out", tmp_path / "file") == (
        f"--out {tmp_path / 'file'}: expected this score or an empty folder to put the results in, got a file",
        f"--out {tmp_path / 'file-score'}",
    )


def test_a_score_that_was_stopped_is_not_taken_for_one_and_the_same_command_mends_it(
    score: ModelScore, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, model = tmp_path / "run", Model.open(place / "bees.model")

    def again() -> ModelScore:
        return model.score(place / "new", cache=place / "caches", out=run, n_jobs=1)

    def unread(*_: Any) -> None:
        raise AssertionError("a photo was read")

    with monkeypatch.context() as patch:
        whole = model_score.replace_file

        def stops(path: Path, content: bytes) -> None:
            if path.name == "score.json":
                raise KeyboardInterrupt
            whole(path, content)

        patch.setattr(model_score, "replace_file", stops)
        with pytest.raises(KeyboardInterrupt):
            again()
        with pytest.raises(EvaluationError, match=r"score\.json: expected a score, got No such file"):
            ModelScore.open(run)
        # What stands there already is the beginning of a score; for the rest of it no photo is read again.
        patch.setattr(model_score, "replace_file", whole)
        patch.setattr(ImageSource, "read", unread)
        assert again() == score
        # A later one that is stopped leaves other predictions than the scores are of.
        patch.setattr(model_score, "replace_file", stops)
        other = replace(score, predictions=score.predictions.assign(probability=0.5))
        with pytest.raises(KeyboardInterrupt):
            other.save(run)
        with pytest.raises(
            EvaluationError, match=r"got other ones .changed later, or written by a run that was stopped"
        ):
            ModelScore.open(run)
    assert again() == score == ModelScore.open(run)


def test_a_study_does_not_take_a_score_s_folder_nor_a_score_a_study_s(
    place: Path, score: ModelScore, tmp_path: Path
) -> None:
    said = refused("study", place / "photos", "--out", place / "run", "--cache", place / "caches")
    assert said[0].startswith(f"{place / 'run'}: expected a run or an empty folder to put the results in, got score")
    (tmp_path / "study").mkdir()
    for file in ("results.sqlite", "study.json"):
        (tmp_path / "study" / file).touch()
    said = refused("score", place / "bees.model", place / "new", "--out", tmp_path / "study")
    assert said == (
        f"--out {tmp_path / 'study'}: expected this score or an empty folder to put the results in, got a study",
        f"--out {tmp_path / 'study-score'}",
    )
