"""A run is kept whole, and read back."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from made_caches import blobs, make_cache, names

from pipeline import runs
from pipeline.errors import EvaluationError
from pipeline.evaluation import evaluate
from pipeline.runs import Run, RunScope, plain_params, run_directory


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    X, y = blobs(30, apart=3.0)
    columns = {"kind": names(y), "größe": [f"{value:.4f}" for value in X[:, 0]]}
    made = make_cache(
        tmp_path_factory.mktemp("caches") / "a.h5", X, columns, ids=[f"ä/{row:02d}.jpg" for row in range(30)]
    )
    grid = {"knn.n_neighbors": [3, 5], "knn.weights": "uniform"}
    return evaluate(made, heads="knn", grid=grid, cv=2, n_jobs=1)


def about(run: Run) -> RunScope:
    return RunScope.of_run(run.as_dict())


def test_a_saved_run_is_read_back_by_pandas(run: Run, tmp_path: Path) -> None:
    folder = run.save(tmp_path / "runs" / "made")
    assert sorted(item.name for item in folder.iterdir()) == ["leaderboard.csv", "predictions.parquet", "run.json"]
    assert pd.read_parquet(folder / "predictions.parquet").equals(run.predictions)
    board = pd.read_csv(folder / "leaderboard.csv")
    assert list(board.columns) == list(runs.LEADERBOARD)
    assert board["mean"].tolist() == pytest.approx([result.mean for result in run.results])
    assert [json.loads(text) for text in board["params"]] == [result.params for result in run.results]
    assert json.loads((folder / "run.json").read_text()) == run.as_dict()


def test_a_run_is_saved_over_an_earlier_one(run: Run, tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text("old")
    assert json.loads((run.save(tmp_path) / "run.json").read_text())["name"] == run.name


def test_a_file_that_cannot_be_written_leaves_the_earlier_one(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run.save(tmp_path)
    before = {item.name: item.read_bytes() for item in tmp_path.iterdir()}

    def full(self: Path, content: bytes) -> int:
        self.touch()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(
        EvaluationError, match="expected to write the results here, got No space left on device"
    ) as error:
        run.save(tmp_path)
    assert error.value.next_step == "give a folder that you may write with --out DIR"
    assert {item.name: item.read_bytes() for item in tmp_path.iterdir()} == before


def test_a_place_that_is_a_file_is_refused(run: Run, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(EvaluationError, match="file/run: expected to write the results here, got Not a directory"):
        run.save(tmp_path / "file" / "run")


def test_a_run_is_not_put_among_other_things(run: Run, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(EvaluationError, match=r"expected a run or an empty folder .* got thesis.tex and no run.json"):
        run.save(tmp_path)
    assert [item.name for item in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_run_takes_the_place_of_the_same_question_alone(run: Run, tmp_path: Path) -> None:
    place = tmp_path / "made"
    assert run_directory(about(run), place) == (place, None)
    run.save(place)
    assert run_directory(about(run), place) == (place, None)
    # More images, other scores and other folds are no other question; other classes, a kind, a head or a cache are.
    grown = replace(run, label_sets=tuple(replace(info, n=99, folds=7) for info in run.label_sets))
    assert run_directory(about(grown), place) == (place, None)
    classes = replace(run.label_sets[0], classes=("red", "blue"))
    other_heads = [replace(one, head="lda" if one.head == "knn" else one.head) for one in run.results]
    other_cache = [replace(one, cache="b.h5") for one in run.results]
    for other, words in (
        (replace(run, label_sets=(classes, *run.label_sets[1:])), "label sets"),
        (replace(run, results=tuple(other_heads)), "heads"),
        (replace(run, results=tuple(other_cache)), "images or features"),
    ):
        said = f"{place}/ holds a run over other {words}; this run goes to {place}-2/"
        assert run_directory(about(other), place) == (tmp_path / "made-2", said)
    replace(run, results=tuple(other_heads)).save(tmp_path / "made-2")
    assert run_directory(about(replace(run, results=tuple(other_heads))), place)[0] == tmp_path / "made-2"
    assert run_directory(about(replace(run, results=tuple(other_cache))), place)[0] == tmp_path / "made-3"


def test_a_run_over_more_goes_on_where_it_stood_and_one_over_less_does_not(run: Run, tmp_path: Path) -> None:
    place = tmp_path / "made"
    run.save(place)
    one = replace(run, label_sets=run.label_sets[:1], results=tuple(r for r in run.results if r.label_set == "kind"))
    assert run_directory(about(one), place)[0] == tmp_path / "made-2"
    one.save(tmp_path / "less")
    more = replace(run, results=(*run.results, replace(run.results[0], head="lda")))
    assert run_directory(about(more), tmp_path / "less") == (tmp_path / "less", None)
    assert RunScope.from_json(about(more).as_json()) == about(more)


def test_what_a_stopped_save_left_is_replaced_and_what_cannot_be_read_is_not(run: Run, tmp_path: Path) -> None:
    place = tmp_path / "made"
    place.mkdir()
    (place / "leaderboard.csv").touch()
    assert run_directory(about(run), place) == (place, None)
    (place / "run.json").write_text("{")
    assert run_directory(about(run), place) == (
        tmp_path / "made-2",
        f"{place}/ holds a run.json that cannot be read; this run goes to {tmp_path / 'made-2'}/",
    )


def test_label_sets_are_found_by_name(run: Run) -> None:
    assert run.info("kind").classes == ("ant", "bee", "cat")
    assert run.best("größe").scoring == "r2"
    assert [result.scoring for result in run.of("kind", scoring="accuracy")] == ["accuracy"] * 3
    with pytest.raises(EvaluationError, match="expected one label set, got kind, größe") as error:
        run.best()
    assert error.value.next_step == "--column kind"
    with pytest.raises(EvaluationError, match="expected the label set 'sort', got kind, größe"):
        run.best("sort")
    with pytest.raises(EvaluationError, match="expected the label set 'kind' of elsewhere"):
        run.info("kind", source="elsewhere")


def test_runs_are_equal_when_their_results_are(run: Run) -> None:
    assert run == Run(run.name, run.results, run.label_sets, pd.DataFrame(), run.notes, run.verdicts)


def test_parameters_get_their_short_names_and_plain_values() -> None:
    given = {
        "logisticregression__C": np.float64(0.1),
        "pca__n_components": np.int64(3),
        "mlpclassifier__hidden_layer_sizes": (64, 32),
        "outer__inner__alpha": None,
        "weights": "uniform",
        "prior": np.array([0.5, 0.5]),
        "limit": math.inf,
        "flag": np.True_,
    }
    plain = plain_params(given)
    assert plain == {
        "C": 0.1,
        "n_components": 3,
        "hidden_layer_sizes": [64, 32],
        "alpha": None,
        "weights": "uniform",
        "prior": [0.5, 0.5],
        "limit": "inf",
        "flag": True,
    }
    assert json.loads(json.dumps(plain, allow_nan=False)) == plain


def test_parameters_of_one_short_name_keep_their_full_names() -> None:
    given = {"pca__n_components": 3, "nmf__n_components": 4, "ridge__alpha": 1.0}
    assert plain_params(given) == {"pca__n_components": 3, "nmf__n_components": 4, "alpha": 1.0}
