"""The store of a run: what was computed once is not computed again, and what changed is never answered from it."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from made_caches import Spy, blobs, make_cache, names

from pipeline.backbone import Backbone
from pipeline.cache import FeatureCache
from pipeline.errors import EvaluationError, ModelError
from pipeline.evaluation import evaluate, executor, units
from pipeline.extraction import recipe_of
from pipeline.model import fit
from pipeline.progress import Progress
from pipeline.runs import Run, RunsDir, Store, StoredResult, UnitKey

X, Y = blobs(60, apart=1.5)
LABELS: dict[str, list[str | None]] = {
    "kind": list(names(Y)),
    "odd": ["yes" if row % 2 else "no" for row in range(60)],
    "size": [f"{value:.3f}" for value in X[:, 0]],
}
GRID = {"logistic.C": [0.01, 1.0], "ridge.alpha": [1.0, 100.0], "knn.n_neighbors": [3, 5]}


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> FeatureCache:
    return make_cache(tmp_path_factory.mktemp("caches") / "made.h5", X, LABELS)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """What was computed: each unit's head with how many of its choices were scored."""
    heard: list[tuple[str, int]] = []
    real = executor.run_batch

    def listening(batch: executor.JobBatch, **how: Any) -> list[units.FitResult]:
        results = real(batch, **how)
        by_key = {unit.key: unit for unit in batch.units}
        heard.extend((by_key[one.key].head.name, len(one.scores)) for one in results if not one.refused)
        return results

    monkeypatch.setattr(executor, "run_batch", listening)
    return heard


def run_of(cache: FeatureCache, out: Path | None, **options: Any) -> Run:
    wanted = {"heads": ["logistic", "ridge", "knn"], "column": ["kind", "odd"], "grid": GRID, "cv": 3, "n_jobs": 1}
    return evaluate(cache, out=out, **{**wanted, **options})


def scores(run: Run) -> list[tuple[Any, ...]]:
    return [(r.label_set, r.head, r.layer, r.scoring, r.mean, r.low, r.high, r.params, r.p_best) for r in run.results]


# ------------------------------------------------------------------------------------------- what is computed


def test_the_same_run_again_computes_nothing_and_says_the_same(
    cache: FeatureCache, tmp_path: Path, asked: list[tuple[str, int]]
) -> None:
    first = run_of(cache, tmp_path)
    assert len(asked) == 2 * 5 * 3  # label sets, heads with the two nulls, folds
    asked.clear()
    again = run_of(cache, tmp_path)
    assert asked == []
    assert scores(again) == scores(first)
    assert again.predictions.equals(first.predictions)
    assert [one.seconds for one in again.results] == pytest.approx([one.seconds for one in first.results], abs=2e-3)
    assert scores(run_of(cache, None)) == scores(first)


def test_a_new_value_computes_its_own_cells_alone(
    cache: FeatureCache, tmp_path: Path, asked: list[tuple[str, int]]
) -> None:
    run_of(cache, tmp_path)
    asked.clear()
    more = {**GRID, "logistic.C": [0.01, 0.1, 1.0]}
    grown = run_of(cache, tmp_path, grid=more)
    assert asked == [("logistic", 1)] * 6  # of three values, one; two label sets, three folds
    assert scores(grown) == scores(run_of(cache, None, grid=more))


def test_a_new_label_set_or_head_computes_itself_alone(
    cache: FeatureCache, tmp_path: Path, asked: list[tuple[str, int]]
) -> None:
    run_of(
        cache,
        tmp_path,
        column="kind",
        heads=["ridge", "knn"],
        grid={k: GRID[k] for k in ("ridge.alpha", "knn.n_neighbors")},
    )
    asked.clear()
    run_of(cache, tmp_path, column="kind")
    assert sorted(asked) == [("logistic", 2)] * 3
    asked.clear()
    run_of(cache, tmp_path)
    assert len(asked) == 5 * 3
    assert {name for name, _ in asked} == {"logistic", "ridge", "knn", "dummy"}  # the pixels' head is a logistic


def test_changed_labels_features_seeds_and_folds_are_computed_anew(
    cache: FeatureCache, tmp_path: Path, asked: list[tuple[str, int]]
) -> None:
    first = run_of(cache, tmp_path / "run", column="kind")
    everything = len(asked)
    flipped = {**LABELS, "kind": [*LABELS["kind"][1:], "ant"]}
    other_labels = make_cache(tmp_path / "labels" / "made.h5", X, flipped)
    other_features = make_cache(tmp_path / "features" / "made.h5", X, LABELS, changes={"weights_sha256": "1" * 64})
    other_images = make_cache(
        tmp_path / "images" / "made.h5", X + 1, LABELS, digests=np.arange(960, dtype=np.uint8).reshape(60, 16)
    )
    for made, options in (
        (other_labels, {}),
        (other_features, {}),
        (other_images, {}),
        (cache, {"random_state": 1}),
        (cache, {"cv": 4}),
    ):
        asked.clear()
        found = run_of(made, tmp_path / "run", column="kind", **options)
        # Of another cv, or labels, everything; under another seed all that has one in it or in its folds.
        assert len(asked) == everything * (4 if "cv" in options else 3) // 3
        assert scores(found) == scores(run_of(made, None, column="kind", **options))
    asked.clear()
    assert scores(run_of(cache, tmp_path / "run", column="kind")) == scores(first)
    assert asked == []


def test_labels_that_leave_the_folds_as_they_are_are_told_apart(
    cache: FeatureCache, tmp_path: Path, asked: list[tuple[str, int]]
) -> None:
    """Folds that are in proportion are the same where two classes change their names."""
    run_of(cache, tmp_path / "run", column="kind")
    everything = len(asked)
    asked.clear()
    other = {"ant": "bee", "bee": "ant"}
    renamed = {**LABELS, "kind": [other.get(str(name), name) for name in LABELS["kind"]]}
    made = make_cache(tmp_path / "renamed" / "made.h5", X, renamed)
    found = run_of(made, tmp_path / "run", column="kind")
    assert len(asked) == everything
    assert found.predictions.equals(run_of(made, None, column="kind").predictions)


def test_another_estimator_of_the_same_name_is_computed_anew(
    cache: FeatureCache, tmp_path: Path, asked: list[tuple[str, int]]
) -> None:
    for width, computed in ((1.0, 9), (1.0, 0), (2.0, 3)):
        asked.clear()
        run_of(cache, tmp_path, column="kind", heads=[Spy(width)], grid={})
        assert len(asked) == computed  # beside the nulls, which are known from the first


def test_a_fixed_test_set_and_a_single_choice_are_known_too(
    cache: FeatureCache, tmp_path: Path, asked: list[tuple[str, int]]
) -> None:
    test_X, test_y = blobs(30, apart=1.5, seed=3)
    test = make_cache(tmp_path / "test.h5", test_X, {"kind": names(test_y)}, name="later")
    for nested in (True, False):
        first = run_of(cache, tmp_path / "run", column="kind", test=test, nested=nested)
        asked.clear()
        again = run_of(cache, tmp_path / "run", column="kind", test=test, nested=nested)
        assert asked == []
        assert scores(again) == scores(first) and [r.test for r in again.results] == [r.test for r in first.results]
    other = make_cache(
        tmp_path / "other.h5", test_X + 1, {"kind": names(test_y)}, name="later", digests=np.full((30, 16), 9, np.uint8)
    )
    moved = run_of(cache, tmp_path / "run", column="kind", test=other)
    assert {name for name, _ in asked} and moved.best().test != first.best().test


# ------------------------------------------------------------------------------------------ stopped and damaged

COMMAND = """
import sys
from pathlib import Path
from pipeline.cache import FeatureCache
from pipeline.evaluation import evaluate, executor
import time
real = executor.run_batch
def slow(batch, **how):
    time.sleep(0.15)
    return real(batch, **how)
executor.run_batch = slow
grid = {"random-forest.n_estimators": [5, 10], "ridge.alpha": [1.0, 100.0]}
heads = ["random-forest", "ridge"]
cache = FeatureCache.open(sys.argv[1])
evaluate(cache, out=sys.argv[2], heads=heads, column=["kind", "odd"], grid=grid, cv=3, n_jobs=1)
"""


def test_a_killed_run_goes_on_where_it_stood(cache: FeatureCache, tmp_path: Path, asked: list[tuple[str, int]]) -> None:
    kept = []
    for wanted in (4, 9):
        process = subprocess.Popen([sys.executable, "-c", COMMAND, str(cache.path), str(tmp_path)])
        deadline = time.monotonic() + 600
        while fitted(tmp_path) < wanted and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        kept.append(fitted(tmp_path))
        assert not (tmp_path / "run.json").exists()
    assert 4 <= kept[0] <= kept[1] and 9 <= kept[1] < 24
    grid = {"random-forest.n_estimators": [5, 10], "ridge.alpha": [1.0, 100.0]}
    options: dict[str, Any] = {"heads": ["random-forest", "ridge"], "grid": grid}
    finished = run_of(cache, tmp_path, **options)
    assert len(asked) == 2 * 4 * 3 - kept[1]  # nothing that was kept is computed again
    assert scores(finished) == scores(run_of(cache, None, **options))


def fitted(folder: Path) -> int:
    """How many units of a folder's store were fitted on a whole training part."""
    path = folder / "results.sqlite"
    if not path.exists():
        return 0
    with sqlite3.connect(path) as connection:
        try:
            (count,) = connection.execute("SELECT COUNT(*) FROM units WHERE inner_fold IS NULL").fetchone()
        except sqlite3.OperationalError:  # not made yet
            return 0
    return int(count)


def test_an_unfinished_run_keeps_its_folder_to_itself(cache: FeatureCache, tmp_path: Path) -> None:
    from pipeline.runs import RunsDir

    class Stop(Progress):
        def advance(self, stage: str, done: int, total: int) -> None:
            raise KeyboardInterrupt

    under: Any = RunsDir(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        run_of(cache, under, progress=Stop())
    assert [item.name for item in tmp_path.glob("*/*")] == ["results.sqlite"]
    assert run_of(cache, under, column="odd").folder == tmp_path / "made-2"
    assert run_of(cache, under).folder == tmp_path / "made"
    assert sorted(item.name for item in (tmp_path / "made").iterdir()) == [
        "leaderboard.csv", "predictions.parquet", "results.sqlite", "run.json",
    ]  # fmt: skip


def test_a_damaged_cell_is_computed_again(cache: FeatureCache, tmp_path: Path, asked: list[tuple[str, int]]) -> None:
    first = run_of(cache, tmp_path, column="kind")
    with sqlite3.connect(tmp_path / "results.sqlite") as connection:
        connection.execute("UPDATE units SET score = score + 1 WHERE head = 'ridge' AND outer_fold = '1'")
        connection.execute("UPDATE units SET predictions = zeroblob(9) WHERE head = 'knn' AND outer_fold = '2'")
    asked.clear()
    again = run_of(cache, tmp_path, column="kind")
    assert sorted(name for name, _ in asked) == ["knn", "ridge"]
    assert scores(again) == scores(first)


CHANGES = {
    "text for a score": "UPDATE units SET score = 'much'",
    "bytes for a score": "UPDATE units SET score = x'00ff'",
    "text for predictions": "UPDATE units SET predictions = 'none'",
    "a number for predictions": "UPDATE units SET predictions = 7",
    "text for seconds": "UPDATE units SET seconds = 'long'",
    "bytes for warnings": "UPDATE units SET warnings = x'00ff'",
    "text for a checksum": "UPDATE units SET crc32 = 'right'",
    "no unit": "DELETE FROM units",
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_changed_rows_are_computed_again(
    change: str, cache: FeatureCache, tmp_path: Path, asked: list[tuple[str, int]]
) -> None:
    options: dict[str, Any] = {"heads": ["centroid"], "column": "kind", "grid": {}}
    first = run_of(cache, tmp_path, **options)
    with sqlite3.connect(tmp_path / "results.sqlite") as connection:
        connection.execute(change)
    connection.close()
    computed = list(asked)
    asked.clear()
    assert scores(run_of(cache, tmp_path, **options)) == scores(first)
    assert sorted(asked) == sorted(computed)


SCHEMAS = {
    "no table": "DROP TABLE units; CREATE TABLE units (key BLOB PRIMARY KEY)",
    "another table": "DROP TABLE units; CREATE TABLE units (key, score, predictions, warnings, seconds, crc32)",
    "no facts": "DROP TABLE facts; CREATE TABLE facts (other TEXT)",
    "a view": "DROP TABLE units; CREATE VIEW units AS SELECT 1 AS key",
}


@pytest.mark.parametrize("change", SCHEMAS.values(), ids=SCHEMAS)
def test_a_changed_schema_is_an_error_with_the_way_out(change: str, cache: FeatureCache, tmp_path: Path) -> None:
    options: dict[str, Any] = {"heads": ["centroid"], "column": "kind", "grid": {}}
    run_of(cache, tmp_path, **options)
    with sqlite3.connect(tmp_path / "results.sqlite") as connection:
        connection.executescript(change)
    connection.close()
    with pytest.raises(EvaluationError, match=r"results\.sqlite") as raised:
        run_of(cache, tmp_path, **options)
    assert raised.value.next_step.startswith("move it away, e.g. mv "), raised.value


# ------------------------------------------------------------------------------------------- an earlier run


def own_cache(path: Path) -> FeatureCache:
    backbone = Backbone.open()
    return make_cache(path, X, LABELS, changes=recipe_of(backbone).as_dict(), backbone=backbone.record())


def test_fit_takes_from_an_earlier_run_what_it_computed_and_gives_the_same_model(
    tmp_path: Path, asked: list[tuple[str, int]]
) -> None:
    cache = own_cache(tmp_path / "made.h5")
    grid = {name: values for name, values in GRID.items() if name != "ridge.alpha"}
    options: dict[str, Any] = {"heads": ["logistic", "knn"], "column": "kind", "grid": grid, "cv": 3, "n_jobs": 1}
    fresh = fit(cache, **options)
    evaluate(cache, out=tmp_path / "run", **options)
    before = (tmp_path / "run" / "results.sqlite").read_bytes()
    asked.clear()
    reused = fit(cache, run=tmp_path / "run", **options)
    assert asked == []
    assert (tmp_path / "run" / "results.sqlite").read_bytes() == before
    strip = [{**score, "seconds": 0} for score in fresh.scores]
    assert [{**score, "seconds": 0} for score in reused.scores] == strip
    assert (reused.params, reused.verdict, reused.notes) == (fresh.params, fresh.verdict, fresh.notes)
    assert np.array_equal(reused.estimator.predict(X), fresh.estimator.predict(X))
    # A further head is computed alone.
    more = {**options, "heads": ["logistic", "knn", "centroid"]}
    fit(cache, run=RunsDir(tmp_path), **{**more, "column": "odd"})
    assert {head for head, _ in asked} >= {"logistic", "knn", "centroid"}  # of another label set, all are new
    asked.clear()
    fit(cache, run=tmp_path / "run", **more)
    assert {head for head, _ in asked if head != "logistic"} == {"centroid"}


def test_fit_reads_every_run_over_the_images_and_passes_by_a_damaged_one(
    tmp_path: Path, asked: list[tuple[str, int]]
) -> None:
    cache = own_cache(tmp_path / "made.h5")
    options: dict[str, Any] = {"heads": "centroid", "cv": 3, "n_jobs": 1}
    for column in ("kind", "odd"):
        evaluate(cache, out=RunsDir(tmp_path / "runs"), column=column, **options)
    asked.clear()
    fit(cache, run=RunsDir(tmp_path / "runs"), column="odd", **options)
    assert asked == []
    (damaged,) = (tmp_path / "runs").glob("*-2/results.sqlite")
    damaged.write_bytes(b"no store" * 100)
    heard: list[str] = []

    class Listening(Progress):
        def note(self, text: str) -> None:
            heard.append(text)

    fit(cache, run=RunsDir(tmp_path / "runs"), column="odd", progress=Listening(), **options)
    assert asked
    assert [text for text in heard if text.startswith(f"its results are computed again: {damaged}: ")]
    with pytest.raises(ModelError, match=r"expected the folder of a run, got one without results\.sqlite"):
        fit(cache, run=tmp_path / "nowhere", column="odd", **options)


def test_a_file_that_is_no_store_is_named_with_the_way_out(cache: FeatureCache, tmp_path: Path) -> None:
    (tmp_path / "results.sqlite").write_text("no store at all, whatever its name says" * 50)
    with pytest.raises(EvaluationError, match=r"results.sqlite: expected a store of results, got a file that") as error:
        run_of(cache, tmp_path)
    assert error.value.next_step.startswith("move it away, e.g. mv ")


def test_a_store_of_another_format_is_refused(cache: FeatureCache, tmp_path: Path) -> None:
    run_of(cache, tmp_path, column="odd", heads="ridge", grid={"ridge.alpha": 1.0})
    with sqlite3.connect(tmp_path / "results.sqlite") as connection:
        connection.execute("UPDATE facts SET value = '99' WHERE name = 'format'")
    with pytest.raises(EvaluationError, match="expected results of format 1, got format 99"):
        run_of(cache, tmp_path)


# --------------------------------------------------------------------------------------------- what a unit is


def test_the_store_can_be_read_by_anyone(cache: FeatureCache, tmp_path: Path) -> None:
    run = run_of(
        cache, tmp_path, column="kind", heads="knn", grid={"knn.n_neighbors": [3, 5], "knn.weights": "uniform"}
    )
    with sqlite3.connect(tmp_path / "results.sqlite") as connection:
        table = pd.read_sql("SELECT * FROM units", connection)
    knn = table[table["head"] == "knn"]
    assert len(knn) == 3 * (2 * 3 + 1)  # outer folds, values x inner folds, the fit of the chosen one
    assert {tuple(sorted(json.loads(text).items())) for text in knn["parameters"]} == {
        (("n_neighbors", 3), ("weights", "uniform")), (("n_neighbors", 5), ("weights", "uniform")),
    }  # fmt: skip
    assert set(knn["outer_fold"]) == {"0", "1", "2"} and set(knn["seed"]) == {0}
    assert all(text.startswith("kind:") for text in knn["label_set"])
    assert "scikit-learn" in knn["versions"].iloc[0]
    assert run.best().head == "knn"


def test_what_is_put_is_got_and_every_part_of_a_cell_tells() -> None:
    cell = UnitKey("f", "l", "h", "e", "{}", "0", "r", 1, "accuracy", 0, "v")
    arrays = {"labels": np.arange(3), "probabilities": np.eye(3)}
    undefined = StoredResult(float("nan"), {}, (), 0.5)
    with Store.open(None) as store:
        fitted = UnitKey(**{**cell.__dict__, "inner_fold": None, "scoring": None})
        store.put([(cell, undefined), (fitted, StoredResult(float("nan"), arrays, ("a", "ü"), 1.25))])
        found = store.get([cell.key(), fitted.key(), b"0" * 16])
        assert set(found) == {cell.key(), fitted.key()} and len(store) == 2
        assert np.isnan(found[cell.key()].score) and found[fitted.key()].warnings == ("a", "ü")
        for name, values in arrays.items():
            np.testing.assert_array_equal(found[fitted.key()].arrays[name], values)
    for name, value in cell.__dict__.items():
        changed = {**cell.__dict__, name: value + 1 if isinstance(value, int) else f"{value}!"}
        assert UnitKey(**changed).key() != cell.key(), name
