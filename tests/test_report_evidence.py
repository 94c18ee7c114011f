"""A run that was kept is opened again, and what it has to show is joined by id: with caches and photos, or without."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from made_caches import blobs, make_cache, names
from PIL import Image
from sklearn.linear_model import LogisticRegression

from pipeline.cache import FeatureCache
from pipeline.errors import EvaluationError, SkipReason
from pipeline.evaluation import evaluate
from pipeline.extraction import extract
from pipeline.images import ImageSource
from pipeline.report.diagnostics.predictions import (
    best_probabilistic_result,
    load_class_predictions,
    load_number_predictions,
    load_tag_rows,
    open_cache_images,
)
from pipeline.report.diagnostics.summary import diagnose, open_run_images
from pipeline.runs import Run, predictions_of

TAGS = ("big", "odd", "red")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, FeatureCache, FeatureCache]:
    """A run of two heads on classes, numbers and tags, with a test set of its own under the very same ids."""
    folder = tmp_path_factory.mktemp("made")
    X, y = blobs(80, d=40, apart=2.0)
    rng = np.random.default_rng(1)
    tags = X[:, :3] + rng.normal(size=(80, 3)) > 1
    columns = {
        "kind": names(y),
        "size": [f"{value:.4f}" for value in X[:, 0] + X[:, 1]],
        "marks": [";".join(name for name, there in zip(TAGS, row, strict=True) if there) or ";" for row in tags],
    }
    X[7] = X[6]
    cache = make_cache(folder / "a.h5", X, columns, failed={79: SkipReason.EMPTY}, name="a")
    T, t = blobs(30, d=40, apart=2.0, seed=2)
    test = make_cache(
        folder / "t.h5", T, {"kind": [*names(t)[:-1], "yak"], "size": ["1"] * 30, "marks": ["big"] * 30}, name="t"
    )
    run = evaluate(
        cache,
        column=["kind", "size", "marks:multi"],
        test=test,
        heads=["logistic", "ridge"],
        grid={"logistic.C": 1.0, "ridge.alpha": 1.0},
        scoring=(),
        cv=4,
        n_jobs=1,
        out=folder / "run",
    )
    return run, cache, test


def test_a_run_is_opened_as_it_was_saved(made: tuple[Run, FeatureCache, FeatureCache]) -> None:
    run = made[0]
    assert run.folder is not None
    opened = Run.open(run.folder)
    assert opened == run
    assert opened.joined == run.joined and opened.folder == run.folder
    assert opened.predictions.equals(run.predictions)
    assert opened.label_sets[0].test_copies == run.label_sets[0].test_copies
    again = Run.from_dict(json.loads(json.dumps(run.as_dict())), run.predictions)
    assert again == run and again.as_dict() == run.as_dict() and again.folder is None


def test_the_probability_of_the_own_class_is_that_of_the_head_refitted(
    made: tuple[Run, FeatureCache, FeatureCache],
) -> None:
    run, cache, _ = made
    table = predictions_of(run.predictions, best_probabilistic_result(run, run.info("kind")), part="out of fold")
    y, X = np.array(cache.columns["kind"]), np.asarray(cache.stored()[:])
    row_of = {name: row for row, name in enumerate(cache.ids)}
    rows = np.array([row_of[name] for name in table["id"]])
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    for fold in range(4):
        asked = (table["part"] == str(fold)).to_numpy()
        model = make_pipeline(StandardScaler(), LogisticRegression(C=1.0, max_iter=1000)).fit(
            X[rows[~asked]], y[rows[~asked]]
        )
        P = model.predict_proba(X[rows[asked]])
        own = P[np.arange(asked.sum()), np.searchsorted(model.classes_, y[rows[asked]])]
        assert table["probability_true"][asked].to_numpy() == pytest.approx(own, abs=1e-3)
        assert table["probability"][asked].to_numpy() == pytest.approx(P.max(axis=1), abs=1e-3)


def test_a_class_that_training_never_saw_has_no_probability(made: tuple[Run, FeatureCache, FeatureCache]) -> None:
    run = made[0]
    result = best_probabilistic_result(run, run.info("kind"))
    found = load_class_predictions(run, run.info("kind"), part="test", result=result)
    assert found is not None and found.classes == ("ant", "bee", "cat", "yak")
    yak = found.true == 3
    assert yak.sum() == 1 and found.probability_true[yak] == 0.0 and 3 not in found.predicted
    right = found.true == found.predicted
    assert np.array_equal(found.probability[right], found.probability_true[right])
    assert set(found.part) == {"test"} and len(found) == 30


def test_tags_and_numbers_have_no_probability_of_their_own(made: tuple[Run, FeatureCache, FeatureCache]) -> None:
    table = made[0].predictions
    assert table.loc[table["label_set"] != "kind", "probability_true"].isna().all()


def test_answers_are_those_of_the_best_head_or_of_the_one_named(made: tuple[Run, FeatureCache, FeatureCache]) -> None:
    run = made[0]
    info = run.info("kind")
    best = run.best("kind")
    for result in (best, next(one for one in run.of("kind") if one.head == "ridge")):
        found = load_class_predictions(run, info, result=None if result is best else result)
        assert found is not None and (found.head, found.layer, found.cache) == (result.head, result.layer, result.cache)
        table = run.predictions.query("label_set == 'kind' and part != 'test' and head == @result.head")
        assert list(found.ids) == table["id"].tolist() and list(found.labels) == table["true"].tolist()
        assert [found.classes[code] for code in found.predicted] == table["predicted"].tolist()
        assert np.mean(found.true == found.predicted) == pytest.approx(
            next(one.mean for one in run.of("kind", scoring="accuracy") if (one.head, one.null) == (result.head, False))
        )
        assert found.has_probabilities == (result.head == "logistic") == found.has_own_probabilities
    assert load_class_predictions(run, info, result=run.of("kind")[-1]) is None, "a null has no table"


def test_numbers_and_tags_are_joined_too(made: tuple[Run, FeatureCache, FeatureCache]) -> None:
    run, cache, _ = made
    size, marks = run.info("size"), run.info("marks")
    assert (
        load_class_predictions(run, size) is None
        and load_tag_rows(run, size) is None
        and load_number_predictions(run, marks) is None
    )
    numbers = load_number_predictions(run, size)
    assert numbers is not None and len(numbers) == 79
    known = dict(zip(cache.ids, cache.columns["size"], strict=True))
    assert numbers.true.tolist() == [float(str(known[name])) for name in numbers.ids]
    rows = load_tag_rows(run, marks)
    assert rows is not None and [row.name for row in rows] == list(TAGS)
    table = predictions_of(run.predictions, run.best("marks"), part="out of fold")
    for row in rows:
        was, said = (np.array([row.name in cell.split(";") for cell in table[name]]) for name in ("true", "predicted"))
        assert (row.n, row.found, row.wrong) == (was.sum(), (was & said).sum(), (said & ~was).sum())
        assert row.recall == pytest.approx((was & said).sum() / was.sum())
        assert row.precision == pytest.approx((was & said).sum() / said.sum())
        assert row.f1 == pytest.approx(2 * row.precision * row.recall / (row.precision + row.recall))


def test_all_there_is_to_show_is_about_the_same_images(made: tuple[Run, FeatureCache, FeatureCache]) -> None:
    run, cache, _ = made
    found = diagnose(run, run.info("kind"))
    assert found.predictions is not None and found.confusion is not None and found.per_class is not None
    assert found.confusion.counts.sum() == len(found.predictions) == 79
    assert sum(row.n for row in found.per_class) == 79
    assert found.test_confusion is not None and found.test_confusion.counts.sum() == 30
    assert [one.head for one in found.results] == [one.head for one in run.of("kind")]
    # The test set has other images under the same ids: it is no part of the map of this cache.
    assert found.map is not None and sorted(found.map.ids) == sorted(cache.ids[:79])
    kinds = dict(zip(cache.ids, cache.columns["kind"], strict=True))
    assert [kinds[name] for name in found.map.ids] == found.map.labels.tolist()
    assert found.duplicates is not None
    assert [(pair.first, pair.other, pair.exact) for pair in found.duplicates.pairs] == [
        ("00006.jpg", "00007.jpg", False)
    ]
    assert found.duplicates.pairs[0].label_of_first == kinds["00006.jpg"]
    part = dict(zip(found.predictions.ids, found.predictions.part, strict=True))
    assert found.mistakes and all(
        part[near.id] != part[one.id] and kinds[near.id] == near.label
        for one in found.mistakes
        for near in one.neighbours
    )
    assert all(len(one.neighbours) == 3 for one in found.mistakes)
    assert found.label_issues is not None and found.label_issues_by == "logistic"
    assert diagnose(run, run.info("size")).map is not None
    assert diagnose(run, run.info("marks")).tags == load_tag_rows(run, run.info("marks"))


def test_a_cache_that_is_gone_leaves_a_note_and_all_the_rest(
    made: tuple[Run, FeatureCache, FeatureCache], tmp_path: Path
) -> None:
    run, _, _ = made
    gone = str(tmp_path / "gone.h5")
    table = run.predictions.assign(cache=gone)
    moved = replace(run, results=tuple(replace(one, cache=gone) for one in run.results), predictions=table)
    found = diagnose(moved, moved.info("kind"))
    assert found.map is None and found.duplicates is None
    assert found.notes[0].startswith(f"no map, no duplicates and no similar photos: {gone}: ")
    assert found.confusion is not None and found.calibration == diagnose(run, run.info("kind")).calibration
    assert found.mistakes and all(one.neighbours == () for one in found.mistakes)
    source, note = open_run_images(moved, moved.info("kind"))
    assert source is None and gone in note and "--photos DIR" in note


def test_a_cache_is_found_from_another_working_folder(
    made: tuple[Run, FeatureCache, FeatureCache], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, cache, _ = made
    (tmp_path / "caches").mkdir()
    shutil.copy(cache.path, tmp_path / "caches" / "a.h5")
    there = "caches/a.h5"
    moved = replace(
        run,
        results=tuple(replace(one, cache=there) for one in run.results),
        predictions=run.predictions.assign(cache=there),
        folder=tmp_path / "runs" / "a",
    )
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert diagnose(moved, moved.info("kind")).map is not None


def test_a_run_of_an_earlier_version_lacks_its_suspects_and_says_so(
    made: tuple[Run, FeatureCache, FeatureCache], tmp_path: Path
) -> None:
    run = made[0]
    assert run.folder is not None
    old = shutil.copytree(run.folder, tmp_path / "old")
    said = json.loads((old / "run.json").read_text())
    del said["format"]
    for one in said["results"]:
        del one["test_cache"]
    (old / "run.json").write_text(json.dumps(said))
    pd.read_parquet(old / "predictions.parquet").drop(columns="probability_true").to_parquet(
        old / "predictions.parquet"
    )
    opened = Run.open(old)
    found = diagnose(opened, opened.info("kind"))
    assert found.label_issues is None
    assert any("written by an earlier version" in note and "reuses all results" in note for note in found.notes)
    assert found.map is not None and len(found.map) == 79, "a test set of the same ids is no part of this cache"
    if found.best.head == "logistic":
        assert found.calibration is not None


def test_no_head_with_probabilities_suspects_nobody_and_says_so(
    made: tuple[Run, FeatureCache, FeatureCache],
) -> None:
    run = made[0]
    alone = replace(run, results=tuple(one for one in run.results if one.head not in ("logistic", "chosen")))
    found = diagnose(alone, alone.info("kind"))
    assert found.label_issues is None and found.calibration is None and found.label_issues_by == ""
    assert any("no head gives probabilities" in note and "logistic" in note for note in found.notes)


@pytest.mark.parametrize(
    ("spoil", "expected", "step"),
    [
        (lambda f: (f / "run.json").unlink(), "run.json: expected a run, got No such file", "pipeline evaluate DATA"),
        (lambda f: (f / "run.json").write_text("{"), "run.json: expected a run, got no JSON", "make it again"),
        (lambda f: (f / "run.json").write_text("[]"), "expected a run of format 1, got list", "make it again"),
        (lambda f: (f / "run.json").write_text('{"format": 9}'), "expected a run of format 1, got 9", "make it again"),
        (lambda f: (f / "run.json").write_text('{"format": 1}'), "got one that is not whole", "make it again"),
        (lambda f: (f / "predictions.parquet").unlink(), "predictions.parquet: expected the run's", "make it again"),
        (lambda f: (f / "predictions.parquet").write_bytes(b"PAR1"), "predictions.parquet: expected", "make it again"),
        (
            lambda f: pd.DataFrame({"id": ["a"]}).to_parquet(f / "predictions.parquet"),
            "got no column label_set, source, cache, layer, head, part",
            "make it again",
        ),
        (
            lambda f: ((f / "run.json").unlink(), (f / "study.json").write_text("{}")),
            "expected a run of evaluate, got a study",
            "Study.open",
        ),
    ],
    ids=["none", "cut", "list", "later", "empty", "no table", "cut table", "other table", "study"],
)
def test_what_is_no_run_is_refused_with_the_way_out(
    made: tuple[Run, FeatureCache, FeatureCache], tmp_path: Path, spoil, expected: str, step: str
) -> None:
    assert made[0].folder is not None
    folder = shutil.copytree(made[0].folder, tmp_path / "run")
    spoil(folder)
    with pytest.raises(EvaluationError) as error:
        Run.open(folder)
    assert expected in error.value.message and str(folder) in error.value.message
    assert step in error.value.next_step


def folder_of_photos(path: Path, n: int = 4) -> Path:
    for kind in ("ants", "bees"):
        (path / kind).mkdir(parents=True)
        for number in range(n):
            colour = (40 * number, 200 if kind == "ants" else 20, 90)
            Image.new("RGB", (24, 24), colour).save(path / kind / f"{number}.png")
    return path


def test_photos_are_found_where_they_were_and_where_they_are_now(tmp_path: Path) -> None:
    photos = folder_of_photos(tmp_path / "photos")
    cache = extract(photos, cache=tmp_path / "caches")
    source, note = open_cache_images(cache)
    assert source is not None and source.ids == cache.ids and note == ""
    assert source.read(3).digest == cache.digest[3].tobytes()
    moved = photos.rename(tmp_path / "moved")
    source, note = open_cache_images(cache)
    assert source is None and str(photos) in note and "--photos DIR" in note
    source, note = open_cache_images(cache, moved)
    assert source is not None and source.read(0).digest == cache.digest[0].tobytes() and note == ""
    (moved / "ants" / "2.png").unlink()
    source, note = open_cache_images(cache, moved)
    assert source is not None and note.startswith(f"1 of 8 photos are not in {moved}, e.g. ants/2.png")
    other = folder_of_photos(tmp_path / "other")
    (other / "ants").rename(other / "wasps")
    (other / "bees").rename(other / "hornets")
    source, note = open_cache_images(cache, other)
    assert source is None and "has none of the 8 ids" in note


@pytest.mark.parametrize("kind", ["list", "part", "share", "table", "table over", "array", "built-in"])
def test_photos_of_every_kind_of_source_are_opened_again(kind: str, tmp_path: Path) -> None:
    photos = folder_of_photos(tmp_path / "photos")
    files = sorted(photos.rglob("*.png"))
    table = pd.DataFrame({"path": [str(file.relative_to(photos)) for file in files]})
    if kind == "list":
        source = ImageSource.open(files[:5])
    elif kind == "part":
        source = ImageSource.open(photos).take([1, 2, 6])
    elif kind == "share":
        source = ImageSource.open(photos, share=(1, 2))
    elif kind == "table":
        table.to_csv(photos / "table.csv", index=False)
        source = ImageSource.open(photos / "table.csv")
    elif kind == "table over":
        table.to_csv(tmp_path / "table.csv", index=False)
        source = ImageSource.open(tmp_path / "table.csv", root=photos)
    elif kind == "array":
        source = ImageSource.open(np.zeros((3, 8, 8, 3), np.uint8))
    else:
        source = ImageSource.open("digits").take(range(4))
    cache = extract(source, cache=tmp_path / "caches")
    found, note = open_cache_images(cache)
    if kind == "array":
        assert found is None and "an array in memory" in note and "photos=DIR" in note
        found, note = open_cache_images(cache, source)
    assert found is not None and note == ""
    row_of = {name: row for row, name in enumerate(found.ids)}
    for row, name in enumerate(cache.ids):
        assert found.read(row_of[name]).digest == cache.digest[row].tobytes()


def test_the_photos_of_a_list_that_are_gone_are_counted(tmp_path: Path) -> None:
    files = sorted(folder_of_photos(tmp_path / "photos").rglob("*.png"))
    cache = extract(ImageSource.open(files), cache=tmp_path / "caches")
    files[0].unlink()
    found, note = open_cache_images(cache)
    assert found is not None and len(found) == 7 and note.startswith("1 of 8 photos are not in")
    for file in files[1:]:
        file.unlink()
    found, note = open_cache_images(cache)
    assert found is None and "expected 8 photos, got none of them" in note
