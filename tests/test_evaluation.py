"""`evaluate` is nested, held against its nulls, and says what it did."""

from __future__ import annotations

import inspect
import json
import pickle
from dataclasses import fields
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from made_caches import Spy, blobs, make_cache, names
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score, log_loss
from sklearn.model_selection import GridSearchCV, ParameterGrid, StratifiedGroupKFold, StratifiedKFold
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from pipeline.cache import FeatureCache
from pipeline.errors import BackboneError, EvaluationError, HeadError, PipelineError
from pipeline.evaluation import evaluate
from pipeline.evaluation.api import Options
from pipeline.evaluation.units import FitJob, gather, run_job
from pipeline.heads import FAST, resolve_heads
from pipeline.intervals import compare_with_best
from pipeline.progress import Progress
from pipeline.runs import CHOSEN, DUMMY, PIXELS, Result, Run
from pipeline.search import shared_scores

QUICK = {"knn.n_neighbors": 9, "knn.weights": "uniform", "lda.shrinkage": 0.1}


class Column(ClassifierMixin, BaseEstimator):
    """Says class 1 where one column of X is positive: a choice among many of them is all luck on noise."""

    def __init__(self, column: int = 0) -> None:
        self.column = column

    def fit(self, X: np.ndarray, y: np.ndarray) -> Column:
        self.classes_ = np.unique(y)
        return self

    def predict(self, X: np.ndarray) -> np.ndarray:
        return (X[:, self.column] > 0).astype(np.int64)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> FeatureCache:
    """60 images, three classes that overlap, a number, groups of four, and one image in ten without a label."""
    X, y = blobs(60, apart=1.5)
    columns = {
        "kind": names(y),
        "size": [f"{value:.4f}" for value in X[:, 0] + X[:, 1]],
        "patient": [f"p{row // 4:02d}" for row in range(60)],
        "some": [None if row % 10 == 0 else name for row, name in enumerate(names(y))],
    }
    layers = {"late": X[:, ::-1].copy(), "penultimate": X}
    return make_cache(tmp_path_factory.mktemp("caches") / "made.h5", layers, columns)


@pytest.fixture(scope="module")
def compared(cache: FeatureCache) -> Run:
    """Three heads, one of them without anything to choose, on a column of classes and a column of numbers."""
    return run_of(
        cache,
        column=["kind", "size"],
        heads=["knn", "ridge", KNeighborsClassifier(3)],
        grid={"knn.n_neighbors": [1, 9], "knn.weights": "uniform", "ridge.alpha": [1.0, 100.0]},
        cv=3,
    )


def run_of(data: Any, **options: Any) -> Run:
    return evaluate(data, **{"cv": 2, "n_jobs": 1, **options})


def noise(path: Path, n: int = 100, d: int = 300, seed: int = 3) -> FeatureCache:
    """Random labels and many more random columns than rows; one seed in twenty would lie outside an interval of 95%."""
    rng = np.random.default_rng(seed)
    columns = {"label": names(rng.permutation(np.arange(n) % 2))}
    return make_cache(path, rng.normal(size=(n, d)), columns)


@pytest.mark.gpu
def test_a_gpu_gives_the_scores_that_a_cpu_does(cache: FeatureCache) -> None:
    heads = ["ridge", "lda", "knn", "logistic"]
    here = run_of(cache, column="kind", heads=heads, cv=3, device="cpu")
    torch.cuda.reset_peak_memory_stats()
    there = run_of(cache, column="kind", heads=heads, cv=3, device="cuda")
    assert torch.cuda.max_memory_allocated() > 0  # it was there
    for one, other in zip(here.results, there.results, strict=True):
        assert (one.label_set, one.head, one.params) == (other.label_set, other.head, other.params)
        # One prediction of the 60 may stand exactly between two classes.
        assert other.mean == pytest.approx(one.mean, abs=1 / 30), one.head


# Workers


def test_workers_read_the_cache_that_was_opened_though_they_were_started_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    X, y = blobs(90, classes=3, apart=4.0)
    monkeypatch.setattr("pipeline.evaluation.executor.FEWEST_ROWS", 0)
    found = []
    for place, features in (("one", X), ("two", np.random.default_rng(0).normal(size=X.shape))):
        (tmp_path / place).mkdir()
        monkeypatch.chdir(tmp_path / place)
        made = make_cache(Path("a.h5"), features, {"kind": names(y)})
        found.append(run_of(made, column="kind", heads=["lda", "centroid"], cv=3, n_jobs=2).best().mean)
    assert found[0] > 0.9 and found[1] < 0.6  # the workers of the first had its folder, and a file of that name in it
    # What is open stays so wherever this process goes.
    monkeypatch.chdir(tmp_path)
    assert run_of(made, column="kind", heads=["lda", "centroid"], cv=3).best().mean == found[1]


# Honesty


def test_shuffled_labels_score_like_dummy(tmp_path: Path) -> None:
    run = run_of(noise(tmp_path / "noise.h5"), heads="fast", cv=3)
    rated = [result for result in run.of("label") if not result.null]
    assert {result.head for result in rated} == {*FAST, CHOSEN}
    for result in rated:
        assert result.nested
        assert result.low is not None and result.high is not None
        assert result.low <= 0.5 <= result.high, result
    assert "no better than guessing" in run.verdicts[0]


def test_shuffled_labels_score_like_dummy_by_default(tmp_path: Path) -> None:
    best = run_of(noise(tmp_path / "noise.h5"), cv=3).best()
    assert best.nested
    assert best.low is not None and best.high is not None
    assert best.low <= 0.5 <= best.high


def test_shuffled_numbers_score_like_dummy(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    columns = {"size": [f"{value:.3f}" for value in rng.normal(size=90)]}
    run = run_of(make_cache(tmp_path / "noise.h5", rng.normal(size=(90, 200)), columns), cv=3)
    assert run.best().mean == pytest.approx(0, abs=0.15)
    assert "no better than guessing" in run.verdicts[0]


def test_the_dummy_says_what_guessing_is_worth_however_the_folds_fall(tmp_path: Path) -> None:
    # Classes of one size in groups of one class: the commonest of a training part is the rarest of what it is asked.
    y = np.repeat(np.arange(6), 20)
    number = np.random.default_rng(0).normal(size=len(y)) + y
    sizes, sites = [f"{value:.3f}" for value in number], [f"{row // 10}" for row in range(120)]
    columns = {"kind": names(y), "size": sizes, "site": sites}
    made = make_cache(tmp_path / "grouped.h5", np.random.default_rng(1).normal(size=(120, 8)), columns)
    run = run_of(made, column=["kind", "size:number"], groups="site", heads="ridge", cv=3)
    found = {result.scoring: result.mean for result in run.results if result.head == DUMMY}
    wanted = {"balanced_accuracy": 1 / 6, "accuracy": 1 / 6, "neg_log_loss": -np.log(6), "r2": 0.0}
    assert {scoring: found[scoring] for scoring in wanted} == pytest.approx(wanted, abs=1e-9)
    # Those of each fold, which ties are told by, are of the same guess.
    (dummy,) = [one for one in run.of("kind", scoring="accuracy") if one.head == DUMMY]
    assert max(dummy.fold_scores) > 0


def test_a_choice_outside_the_folds_flatters_and_is_marked(tmp_path: Path) -> None:
    made = noise(tmp_path / "noise.h5", n=60, d=60, seed=1)
    options: dict[str, Any] = {"heads": Column(), "grid": {"Column.column": list(range(60))}}
    honest, flattered = run_of(made, **options), run_of(made, **options, nested=False)
    low, mean = honest.best().low, honest.best().mean
    assert low is not None and mean is not None and low <= 0.5
    assert (flattered.best().low or 0) > 0.5
    assert not flattered.best().nested
    assert flattered.best().optimistic
    assert flattered.best().as_dict()["optimistic"] is True
    assert flattered.leaderboard()["optimistic"].all()
    assert not honest.leaderboard()["optimistic"].any()
    assert "optimistic: the parameters were chosen on these same photos (--no-nested)" in flattered.verdicts[0]
    assert "optimistic" not in honest.verdicts[0]


def test_both_nulls_stand_beside_every_label_set(compared: Run) -> None:
    for info in compared.label_sets:
        nulls = [result for result in compared.of(info.name) if result.null]
        assert [(null.layer, null.head) for null in nulls] == [
            (PIXELS, "logistic" if info.kind == "class" else "ridge"),
            ("none", DUMMY),
        ]
        assert compared.of(info.name)[-2:] == nulls


def test_the_pixel_statistics_are_what_their_null_sees(tmp_path: Path) -> None:
    X, y = blobs(60, apart=0)
    statistics = np.zeros((60, 12))
    statistics[:, 3] = y
    made = make_cache(tmp_path / "a.h5", X, {"kind": names(y)}, statistics=statistics)
    run = run_of(made, heads="centroid", grid={"centroid.shrink_threshold": [None]})
    (null,) = [result for result in run.of("kind") if result.layer == PIXELS]
    assert null.mean == 1
    assert "color statistics: 100" in run.verdicts[0]


# Nesting, against a reference written by hand


def by_hand(X: np.ndarray, y: np.ndarray, groups: np.ndarray | None, grid: dict[str, list[float]]) -> dict[str, Any]:
    """Return nested predictions by plain scikit-learn."""
    head = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
    kind = StratifiedKFold if groups is None else StratifiedGroupKFold
    labels, sure, fold_of = np.zeros(len(y), int), np.zeros(len(y)), np.zeros(len(y), int)
    params, scores = [], []
    for fold, (train, test) in enumerate(kind(3, shuffle=True, random_state=7).split(X, y, groups)):
        inner = kind(3, shuffle=True, random_state=7)
        splits = list(inner.split(X[train], y[train], None if groups is None else groups[train]))
        searched = GridSearchCV(head, grid, scoring="balanced_accuracy", cv=splits).fit(X[train], y[train])
        labels[test], fold_of[test] = searched.predict(X[test]), fold
        sure[test] = searched.predict_proba(X[test]).max(axis=1)
        params.append(searched.best_params_["logisticregression__C"])
        scores.append(searched.best_score_)
    return {"labels": labels, "sure": sure, "fold": fold_of, "params": params, "inner": scores}


@pytest.mark.parametrize("grouped", [False, True])
def test_nested_predictions_equal_plain_scikit_learn(cache: FeatureCache, grouped: bool) -> None:
    X, y = blobs(60, apart=1.5)
    groups = np.array([f"p{row // 4:02d}" for row in range(60)]) if grouped else None
    wanted = by_hand(X, y, groups, {"logisticregression__C": [0.001, 0.1, 10.0]})
    run = run_of(
        cache,
        column="kind",
        groups="patient" if grouped else None,
        grid={"logistic.C": [0.001, 0.1, 10.0]},
        random_state=7,
        cv=3,
    )
    said = run.predictions
    assert said["id"].tolist() == cache.ids
    assert said["true"].tolist() == names(y)
    assert said["predicted"].tolist() == names(wanted["labels"])
    assert said["part"].tolist() == [str(fold) for fold in wanted["fold"]]
    np.testing.assert_allclose(said["probability"], wanted["sure"], rtol=1e-6)
    assert run.best().mean == balanced_accuracy_score(y, wanted["labels"])
    assert run.best().params["C"] in wanted["params"]
    in_folds = [balanced_accuracy_score(y[m], wanted["labels"][m]) for m in (wanted["fold"] == f for f in range(3))]
    assert run.best().fold_scores == pytest.approx(in_folds)


def test_scikit_learn_fits_only_the_selected_parameters_of_each_fold(
    cache: FeatureCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The grid is solved in one stack, whose scores are kept when a single fit is left to scikit-learn."""
    fits = []
    fit = LogisticRegression.fit
    monkeypatch.setattr(LogisticRegression, "fit", lambda self, *given: (fits.append(self.C), fit(self, *given))[1])
    run = evaluate(cache, column="kind", heads="logistic", cv=3, n_jobs=1)
    assert len(fits) == 6  # one per fold, for the features and for the pixel statistics
    best = next(result for result in run.of("kind") if result.head == "logistic" and not result.null)
    assert fits.count(best.params["C"]) >= 2


def test_a_unit_reports_the_inner_score_of_its_choice(cache: FeatureCache) -> None:
    X, y = blobs(60, apart=1.5)
    (head,) = resolve_heads(["logistic"], kind="class", grid={"logistic.C": [0.001, 0.1, 10.0]})
    rows = np.arange(60)
    splits = list(StratifiedKFold(3, shuffle=True, random_state=7).split(X, y))
    for (train, test), wanted in zip(splits, by_hand(X, y, None, head.grid)["inner"], strict=True):
        inner = list(StratifiedKFold(3, shuffle=True, random_state=7).split(X[train], y[train]))
        unit = FitJob(
            key=(0, 0, 0), head=head, choices=list(ParameterGrid(head.grid)), X=X, train=rows[train], y=y[train],
            folds=inner, ask_X=X, ask=rows[test], scoring="balanced_accuracy", kind="class", n_classes=3,
        )  # fmt: skip
        result = run_job(unit)
        assert unit.chosen(result.scores) == (result.choice, pytest.approx(wanted))


def test_without_nesting_one_choice_is_made_over_the_folds_themselves(cache: FeatureCache) -> None:
    X, y = blobs(60, apart=1.5)
    grid = {"logisticregression__C": [0.001, 0.1, 10.0]}
    folds = list(StratifiedKFold(3, shuffle=True, random_state=7).split(X, y))
    head = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
    searched = GridSearchCV(head, grid, scoring="balanced_accuracy", cv=folds).fit(X, y)
    options: dict[str, Any] = {"grid": {"logistic.C": [0.001, 0.1, 10.0]}, "random_state": 7}
    run = run_of(cache, column="kind", nested=False, cv=3, **options)
    assert run.best().params == {"C": searched.best_params_["logisticregression__C"]}
    labels = np.empty(60, int)
    for train, test in folds:
        labels[test] = searched.best_estimator_.fit(X[train], y[train]).predict(X[test])
    assert run.predictions["predicted"].tolist() == names(labels)


def test_the_chosen_row_is_the_inner_winner_of_every_fold(cache: FeatureCache, compared: Run) -> None:
    X, y = blobs(60, apart=1.5)
    labels, picked = np.empty(60, int), []
    heads: dict[str, Any] = {
        "knn": (make_pipeline(StandardScaler(), KNeighborsClassifier()), {"kneighborsclassifier__n_neighbors": [1, 9]}),
        "KNeighborsClassifier": (KNeighborsClassifier(3), {}),
    }
    said = compared.predictions.query("label_set == 'kind'")
    for fold, (train, test) in enumerate(StratifiedKFold(3, shuffle=True, random_state=0).split(X, y)):
        splits = list(StratifiedKFold(3, shuffle=True, random_state=0).split(X[train], y[train]))
        found = {
            name: GridSearchCV(head, grid, scoring="balanced_accuracy", cv=splits).fit(X[train], y[train])
            for name, (head, grid) in heads.items()
        }
        # The ridge is not made by hand: its inner score comes from a run of its own.
        from sklearn.linear_model import RidgeClassifier

        ridge = make_pipeline(StandardScaler(), RidgeClassifier())
        grid = {"ridgeclassifier__alpha": [1.0, 100.0]}
        found["ridge"] = GridSearchCV(ridge, grid, scoring="balanced_accuracy", cv=splits).fit(X[train], y[train])
        order = ["knn", "ridge", "KNeighborsClassifier"]
        winner = max(order, key=lambda name: found[name].best_score_)
        picked.append(winner)
        labels[test] = found[winner].predict(X[test])
        assert set(said.query(f"part == '{fold}'")["id"]) == {cache.ids[row] for row in test}
    (chosen,) = [result for result in compared.of("kind") if result.head == CHOSEN]
    assert chosen.params == {"in_each_fold": picked}
    assert chosen.mean == balanced_accuracy_score(y, labels)
    assert said.query("head == 'chosen'")["predicted"].tolist() == names(labels)


def test_one_head_alone_needs_no_row_for_the_choice(cache: FeatureCache) -> None:
    run = run_of(cache, column="kind", heads="knn", grid={"knn.n_neighbors": [1, 9]})
    assert CHOSEN not in {result.head for result in run.results}


def test_heads_that_cannot_be_compared_within_the_folds_leave_the_choice_out_and_say_so(tmp_path: Path) -> None:
    X, y = blobs(24, classes=2)
    columns = {"kind": names(y), "place": ["north" if row % 2 else "south" for row in range(24)]}
    made = make_cache(tmp_path / "two.h5", X, columns)
    fixed = {"logistic.C": 1.0, "centroid.shrink_threshold": [None]}
    with pytest.raises(EvaluationError, match="choosing parameters expected 2 groups in every training part, got 1"):
        run_of(made, column="kind", groups="place", heads="logistic")
    # With nothing to choose there is nothing to split for, and the nulls do not stop what is held against them.
    run = run_of(made, column="kind", groups="place", heads=["logistic", "centroid"], grid=fixed)
    assert CHOSEN not in {result.head for result in run.results}
    assert [result.params for result in run.of("kind") if result.layer == PIXELS] == [{}]
    assert run.verdicts[0].endswith("a little optimistic: the best of 2")


# Groups and folds


def test_no_group_is_on_both_sides_of_an_outer_or_inner_fold(tmp_path: Path) -> None:
    Spy.seen.clear()
    n = 48
    groups = np.array([f"g{row % 12}" for row in range(n)])
    y = np.arange(n) // 2 % 2
    X = np.column_stack([np.arange(n), np.zeros(n)])
    made = make_cache(tmp_path / "a.h5", X, {"kind": names(y), "place": groups.tolist()})
    run = run_of(made, column="kind", groups="place", heads=Spy(), grid={"Spy.width": [1.0, 2.0]}, cv=3)
    outer = [set(part["id"]) for _, part in run.predictions.groupby("part")]
    assert len(outer) == 3
    asked_after: list[tuple[frozenset[int], frozenset[int]]] = []
    fitted: frozenset[int] = frozenset()
    for what, rows in Spy.seen:
        if what == "fit":
            fitted = rows
        else:
            asked_after.append((fitted, rows))
    assert len(asked_after) >= 3 * (2 * 3 + 1)
    for learned, asked in asked_after:
        assert not {groups[row] for row in learned} & {groups[row] for row in asked}
    assert run.info().groups == 12


def test_intervals_take_whole_groups(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    X, y = blobs(120, classes=2, apart=1.0)
    X = X + np.repeat(rng.normal(size=(12, X.shape[1])), 10, axis=0)  # rows of a group err together
    made = make_cache(tmp_path / "a.h5", X, {"kind": names(y), "place": [f"g{row // 10}" for row in range(120)]})
    options: dict[str, Any] = {"column": "kind", "heads": "centroid", "grid": {"centroid.shrink_threshold": [None]}}
    grouped = run_of(made, groups="place", **options)
    alone = run_of(made, **options)
    assert grouped.best().method.startswith("bootstrap of 12 groups")
    assert "group" not in alone.best().method
    assert "photos of new groups" in grouped.verdicts[0]
    assert "right on" in alone.verdicts[0] and "new groups" not in alone.verdicts[0]


def test_folds_are_cut_to_the_groups_and_it_is_said(tmp_path: Path) -> None:
    X, y = blobs(36, classes=2)
    made = make_cache(tmp_path / "a.h5", X, {"kind": names(y), "place": [f"g{row % 3}" for row in range(36)]})
    run = run_of(made, column="kind", groups="place", heads="centroid", cv=5)
    assert run.info().folds == 3
    assert "5 folds cut to 3: there are 3 groups" in run.notes


def test_a_class_smaller_than_the_folds_is_named_with_the_way_out(tmp_path: Path) -> None:
    X, _ = blobs(20)
    made = make_cache(tmp_path / "a.h5", X, {"kind": ["ant"] * 17 + ["bee"] * 3})
    with pytest.raises(EvaluationError, match="expected 5 images per class, one per fold, got 3 images of 'bee'") as e:
        run_of(made, cv=5)
    assert e.value.next_step == "add images of 'bee', or use fewer folds: --cv 3"
    assert run_of(made, heads="centroid", cv=3).info().folds == 3


def test_few_numbers_cut_the_folds(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    made = make_cache(tmp_path / "a.h5", rng.normal(size=(4, 3)), {"size": ["1.5", "2.5", "3.25", "4.5"]})
    run = run_of(made, heads="ridge", grid="ridge.alpha=1", cv=5)
    assert run.info().folds == 4
    assert "5 folds cut to 4: there are 4 labelled images" in run.notes


def test_one_class_alone_is_refused(tmp_path: Path) -> None:
    made = make_cache(tmp_path / "a.h5", blobs(9)[0], {"kind": ["ant"] * 9})
    with pytest.raises(PipelineError, match="expected two classes or more, got only 'ant'"):
        run_of(made)


# Several label sets, heads, layers and caches


def test_heads_that_fit_one_kind_are_left_out_of_the_other_and_named(cache: FeatureCache) -> None:
    run = run_of(
        cache, column=["kind", "size"], heads=["centroid", "knn", "svr"], grid={"knn.n_neighbors": 5, "svr.C": 1}
    )
    assert {result.head for result in run.of("kind")} == {"centroid", "knn", CHOSEN, "logistic", DUMMY}
    assert {result.head for result in run.of("size")} == {"knn", "svr", CHOSEN, "ridge", DUMMY}
    assert "kind: svr cannot learn class labels and is left out" in run.notes
    assert "size: centroid cannot learn number labels and is left out" in run.notes


def test_a_label_set_without_a_fitting_head_gets_the_default_and_it_is_said(cache: FeatureCache) -> None:
    grid = {"sklearn.svm.SVC.C": [1.0]}
    run = run_of(cache, column=["kind", "size"], heads="sklearn.svm.SVC", grid=grid)
    assert run.best("kind").head == "sklearn.svm.SVC"
    assert run.best("size").head == "ridge"
    assert "size: sklearn.svm.SVC cannot learn number labels; ridge is used instead" in run.notes


def test_a_head_that_fits_no_label_set_is_refused(cache: FeatureCache) -> None:
    with pytest.raises(HeadError, match="head 'svr': expected one that learns classes, got one that does not"):
        run_of(cache, column="kind", heads=["centroid", "svr"])


def test_default_heads_are_logistic_and_ridge(cache: FeatureCache) -> None:
    run = run_of(cache, column=["kind", "size"])
    assert (run.best("kind").head, run.best("size").head) == ("logistic", "ridge")
    assert (run.info("kind").scoring, run.info("size").scoring) == ("balanced_accuracy", "r2")
    assert {result.scoring for result in run.results if result.label_set == "kind"} == {
        "balanced_accuracy",
        "accuracy",
        "f1_macro",
        "neg_log_loss",
    }


def test_asking_for_the_dummy_alone_evaluates_the_default_beside_it(cache: FeatureCache) -> None:
    run = run_of(cache, column="kind", heads="dummy")
    assert [result.head for result in run.of("kind")] == ["logistic", "logistic", DUMMY]


def test_the_first_scoring_asked_for_chooses(cache: FeatureCache) -> None:
    grid = {"knn.n_neighbors": [1, 15]}
    run = run_of(cache, column="kind", heads="knn", grid=grid, scoring="neg_log_loss")
    assert run.info().scoring == "neg_log_loss"
    assert run.best().scoring == "neg_log_loss"
    assert run.best().params["n_neighbors"] == 15  # a single neighbour is always sure, and its log loss says so
    assert run.results[0].scoring == "neg_log_loss"


def test_a_scoring_for_one_kind_leaves_the_other_without_and_is_refused(cache: FeatureCache) -> None:
    with pytest.raises(EvaluationError, match="label set 'kind': scoring 'r2': expected one for classes") as error:
        run_of(cache, column=["kind", "size"], scoring="r2")
    assert "--scoring balanced_accuracy" in error.value.next_step
    both = run_of(cache, column=["kind", "size"], scoring=["r2", "accuracy"], heads=["centroid", "ridge"])
    assert (both.info("kind").scoring, both.info("size").scoring) == ("accuracy", "r2")
    with pytest.raises(HeadError, match="expected a scoring, got 'acuracy'"):
        run_of(cache, column="kind", scoring="acuracy")


def test_a_scoring_by_probabilities_is_refused_for_a_head_without(cache: FeatureCache) -> None:
    with pytest.raises(HeadError, match="head 'ridge' gives none"):
        run_of(cache, column="kind", heads="ridge", scoring="neg_log_loss")


def test_several_layers_are_compared_on_the_same_folds(cache: FeatureCache) -> None:
    run = run_of(cache, column="kind", layer=["penultimate", "late"], heads="knn", grid={"knn.n_neighbors": 5})
    rated = [result for result in run.of("kind") if not result.null and result.head != CHOSEN]
    assert {result.layer for result in rated} == {"penultimate", "late"}
    parts = run.predictions.query("head == 'knn'").pivot(index="id", columns="layer", values="part")
    assert (parts["late"] == parts["penultimate"]).all()
    (chosen,) = [result for result in run.of("kind") if result.head == CHOSEN]
    assert set(chosen.params["in_each_fold"]) <= {"knn/late", "knn/penultimate"}
    assert "with the best of 2 combinations (knn/" in run.verdicts[0]


def test_caches_over_the_same_images_share_folds_and_the_choice(cache: FeatureCache, tmp_path: Path) -> None:
    X = np.random.default_rng(5).normal(size=(60, 4))
    other = make_cache(
        tmp_path / "other.h5", X, dict(cache.columns), digests=np.array(cache.digest), changes={"backbone": "noise"}
    )
    run = run_of([other, cache, cache], column="kind", heads="centroid", grid={"centroid.shrink_threshold": [None]})
    assert len(run.label_sets) == 1
    rated = [result for result in run.of("kind") if not result.null and result.head != CHOSEN]
    assert [result.backbone for result in rated] == ["planted", "noise"]  # best first
    parts = run.predictions.query("head == 'centroid'").pivot(index="id", columns="cache", values="part")
    assert (parts.iloc[:, 0] == parts.iloc[:, 1]).all()
    (chosen,) = [result for result in run.of("kind") if result.head == CHOSEN]
    assert set(chosen.params["in_each_fold"]) <= {"centroid/planted", "centroid/noise"}


def test_caches_over_different_images_are_told_apart(cache: FeatureCache, tmp_path: Path) -> None:
    X, y = blobs(30, apart=6.0, seed=3)
    other = make_cache(tmp_path / "other.h5", X, {"kind": names(y)})  # of the same name, with ids in common
    run = run_of([cache, other], column="kind", heads="centroid")
    assert [(info.name, info.source, info.n) for info in run.label_sets] == [
        ("kind", "made", 60),
        ("kind", "made-2", 30),
    ]
    assert run.best("kind").source == "made"
    assert run.best("kind", source="made-2").n == 30
    assert {result.source for result in run.of("kind", source="made-2")} == {"made-2"}
    assert len(run.verdicts) == 2
    assert len(run.predictions.query("source == 'made-2'")) == 30


# The form of the results


def test_results_have_the_promised_fields_and_plain_json(compared: Run) -> None:
    promised = {
        "label_set", "cache", "backbone", "layer", "head", "n", "scoring", "mean", "low", "high", "nested", "test",
        "test_low", "test_high", "params", "seconds", "optimistic",
    }  # fmt: skip
    text = json.dumps(compared.as_dict(), allow_nan=False)
    rows = json.loads(text)["results"]
    for row in rows:
        assert promised <= row.keys()
        assert (row["test"], row["test_low"], row["test_high"]) == (None, None, None)
        assert row["n"] == 60
    keys = [(row["label_set"], row["layer"], row["head"], row["scoring"]) for row in rows]
    assert len(set(keys)) == len(keys)
    assert list(compared.leaderboard().columns) == [
        "label_set", "source", "cache", "backbone", "layer", "head", "n", "scoring", "mean", "low", "high", "nested",
        "optimistic", "tied", "p_best", "test", "test_low", "test_high", "test_apart", "test_apart_low",
        "test_apart_high", "params", "params_of", "seconds",
    ]  # fmt: skip


def test_results_are_best_first(compared: Run) -> None:
    for info in compared.label_sets:
        rated = [result.mean for result in compared.of(info.name) if not result.null and result.head != CHOSEN]
        assert rated == sorted(rated, key=lambda mean: -(mean or 0))
        assert compared.best(info.name).mean == rated[0]


def test_every_labelled_image_is_predicted_once_by_every_head(compared: Run, cache: FeatureCache) -> None:
    assert set(compared.predictions["head"]) == {"knn", "ridge", "KNeighborsClassifier", CHOSEN}
    for _, table in compared.predictions.groupby(["label_set", "head"]):
        assert table["id"].tolist() == cache.ids
        assert sorted(set(table["part"])) == ["0", "1", "2"]
    numbers = compared.predictions.query("label_set == 'size'")
    assert numbers["true_value"].tolist()[:60] == [float(text or "nan") for text in cache.columns["size"]]
    assert numbers["predicted_value"].notna().all()


def test_scores_are_those_of_the_predictions_table(compared: Run) -> None:
    for head in ("knn", "KNeighborsClassifier", "ridge"):
        table = compared.predictions.query(f"label_set == 'kind' and head == '{head}'")
        (found,) = [result for result in compared.of("kind") if result.head == head]
        assert found.mean == balanced_accuracy_score(table["true"], table["predicted"])


# Ties


def test_ties_are_those_of_a_paired_test_over_the_fold_scores(compared: Run) -> None:
    for label_set, scoring in (("kind", "balanced_accuracy"), ("kind", "f1_macro"), ("size", "r2")):
        results = [result for result in compared.of(label_set, scoring=scoring) if result.head != CHOSEN]
        rated = [result for result in results if not result.null]
        best = max(rated, key=lambda result: result.mean or 0)
        wanted = compare_with_best(
            scoring, [result.fold_scores for result in results], results.index(best), sizes=[(40, 20)] * 3
        )
        assert [(result.p_best, result.tied) for result in results] == [(one.p, one.tied) for one in wanted]
        assert (best.p_best, best.tied) == (1.0, True)
        assert {result.null for result in results} == {True, False}  # both nulls are of the family
    assert {result.tied for result in compared.results if result.head == CHOSEN} == {None}


def test_random_labels_are_tied_with_the_dummy_and_separate_classes_are_not(tmp_path: Path) -> None:
    X, y = blobs(100, classes=2, apart=4.0)
    rng = np.random.default_rng(0)
    columns = {"kind": names(y), "luck": names(rng.permutation(y))}
    run = run_of(make_cache(tmp_path / "a.h5", X, columns), heads=["knn", "lda"], grid=QUICK, cv=5)
    (dummy,) = [result for result in run.of("luck") if result.head == DUMMY]
    assert dummy.tied
    assert "no better than guessing" in run.verdicts[1] or "tied with the dummy" in run.verdicts[1]
    real = {result.head: result.tied for result in run.of("kind") if result.layer != PIXELS}
    assert real == {"knn": True, "lda": True, CHOSEN: None, DUMMY: False}
    assert "no better than" not in run.verdicts[0] and "tied" not in run.verdicts[0]


def test_two_folds_tell_nothing_of_ties(cache: FeatureCache) -> None:
    run = run_of(cache, column="kind", heads=["knn", "lda"], grid=QUICK, cv=2)
    assert {(result.tied, result.p_best) for result in run.results} == {(None, None)}


# The parameters that are shown


def test_parameters_say_what_they_were_chosen_on(cache: FeatureCache, tmp_path: Path) -> None:
    grid = {"knn.n_neighbors": [1, 9], "knn.weights": "uniform", "lda.shrinkage": 0.1}
    said = {
        result.head: result.params_of
        for result in run_of(cache, column="kind", heads=["knn", "lda"], grid=grid).of("kind")
        if not result.null
    }
    assert said == {"knn": "most folds", "lda": "all rows", CHOSEN: "each fold"}
    once = run_of(cache, column="kind", heads=["knn", "lda"], grid=grid, nested=False)
    assert {result.params_of for result in once.results} == {"all rows"}
    X, y = blobs(60)
    made = make_cache(tmp_path / "a.h5", X, {"kind": names(y), "split": ["test", "train", "train"] * 20})
    tested = run_of(made, heads=["knn", "lda"], grid=grid).of("kind")
    assert {result.params_of for result in tested if result.head != CHOSEN} == {"all rows"}


def test_images_without_a_label_are_left_out_and_counted(cache: FeatureCache) -> None:
    run = run_of(cache, column="some", heads="centroid")
    assert (run.info().n, run.info().unlabelled) == (54, 6)
    assert "6 of 60 images have no label and are left out, e.g. 00000.jpg" in run.notes
    assert len(run.predictions) == 54
    assert run.best().n == 54


def test_notes_name_their_label_set_where_there_are_several(cache: FeatureCache) -> None:
    run = run_of(cache, column=["kind", "some"], heads="centroid")
    assert "some: 6 of 60 images have no label and are left out, e.g. 00000.jpg" in run.notes


def test_parameters_that_json_cannot_say_become_text(cache: FeatureCache) -> None:
    from sklearn.ensemble import BaggingClassifier

    grid = {"BaggingClassifier.estimator": [KNeighborsClassifier(3), LogisticRegression(C=0.5)]}
    run = run_of(cache, column="kind", heads=BaggingClassifier(n_estimators=2), grid=grid)
    assert run.best().params["estimator"] in ("KNeighborsClassifier(n_neighbors=3)", "LogisticRegression(C=0.5)")
    json.dumps(run.as_dict(), allow_nan=False)


def test_a_score_that_is_undefined_is_null_and_not_nan(tmp_path: Path) -> None:
    X, y = blobs(24, classes=2)
    tested = np.flatnonzero(y == 0)[:3]
    columns = {
        "kind": names(y),
        "split": ["test" if row in tested else "train" for row in range(24)],
        "place": [f"g{row % 4}" for row in range(24)],  # so few that the interval takes four scores, not hundreds
    }
    made = make_cache(tmp_path / "a.h5", X, columns)
    run = run_of(made, groups="place", heads="lda", grid={"lda.shrinkage": 0.1}, scoring="roc_auc")
    auc = run.best()
    assert auc.mean is not None and (auc.test, auc.test_low) == (None, None)  # one class alone in the test set
    json.dumps(run.as_dict(), allow_nan=False)
    run.save(tmp_path / "run")


# Determinism and workers


def without_seconds(run: Run) -> list[dict[str, Any]]:
    return [{**result.as_dict(), "seconds": 0} for result in run.results]


def test_the_same_seed_gives_the_same_run_with_any_number_of_jobs(tmp_path: Path) -> None:
    X, y = blobs(300, apart=1.0)
    made = make_cache(tmp_path / "a.h5", X, {"kind": names(y)})
    options: dict[str, Any] = {
        "heads": ["random-forest", "logistic"],
        "grid": {"random-forest.n_estimators": 5, "random-forest.min_samples_leaf": 5, "logistic.C": [0.1, 1.0]},
        "cv": 3,
    }
    alone, together = (evaluate(made, **options, n_jobs=jobs) for jobs in (1, 2))
    assert without_seconds(alone) == without_seconds(together)
    assert alone.predictions.equals(together.predictions)
    assert alone.verdicts == together.verdicts
    other = evaluate(made, **options, n_jobs=1, random_state=1)
    assert without_seconds(other) != without_seconds(alone)


class Breaks(Column):
    """Cannot learn."""

    def fit(self, X: np.ndarray, y: np.ndarray) -> Breaks:
        raise ValueError(f"no use for {len(X)} rows")


@pytest.mark.parametrize("rows, jobs", [(40, 1), (700, 2)])
def test_an_estimator_that_fails_is_named_with_its_own_words(rows: int, jobs: int, tmp_path: Path) -> None:
    X, y = blobs(rows, classes=2)
    made = make_cache(tmp_path / "a.h5", X, {"kind": names(y)})
    with pytest.raises(
        HeadError, match=f"head 'Breaks': expected it to learn and predict, got ValueError: no use for {rows // 2} rows"
    ):
        run_of(made, heads=Breaks(), n_jobs=jobs)


def test_workers_get_the_place_of_the_features_and_read_the_rows_they_need(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from joblib import Parallel, delayed

    from pipeline.evaluation import executor

    made = make_cache(
        tmp_path / "a.h5", np.random.default_rng(0).normal(size=(400, 2000)), {"kind": ["ant", "bee"] * 200}
    )
    units: list[FitJob] = []

    def keep(batches: Any, **_: Any) -> Any:
        units.extend(unit for batch in batches for unit in batch.units)
        raise LookupError

    monkeypatch.setattr(executor, "run_batches", keep)
    with pytest.raises(LookupError):
        run_of(made)
    assert all(len(pickle.dumps(unit.X)) < 20_000 < made.features().nbytes for unit in units)
    rows = np.array([7, 3, 399])
    seen = Parallel(n_jobs=2)(delayed(gather)(unit.X, rows) for unit in (units[0], units[-1]))
    for found in seen:
        assert np.array_equal(found, made.features()[rows]) or np.array_equal(found, made.pixel_statistics()[rows])


def test_a_gpu_that_is_named_searches_too_and_finds_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pipeline.evaluation import api, executor

    X, y = blobs(90, d=40)
    made = make_cache(tmp_path / "a.h5", X, {"kind": names(y), "other": names(y % 2)})
    options: dict[str, Any] = {"column": ["kind", "other"], "heads": ["ridge", "knn"]}
    plain = run_of(made, **options)
    devices: list[str] = []

    def seen(*given: Any, device: str, **how: Any) -> Any:
        devices.append(device)
        return shared_scores(*given, device=device, **how)

    monkeypatch.setattr(executor, "shared_scores", seen)
    monkeypatch.setattr(api, "devices_of", lambda device: {"cuda:0": ["torch"]}[device])
    there = run_of(made, device="cuda:0", **options)
    assert set(devices) == {"torch"}
    for one, other in zip(plain.results, there.results, strict=True):
        assert (one.head, one.params) == (other.head, other.params)
        assert one.mean == pytest.approx(other.mean, abs=1e-3 if one.layer == PIXELS else 1e-9)  # one is L-BFGS's


def test_a_gpu_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    X, y = blobs(30)
    with pytest.raises(BackboneError, match="CUDA GPU"):
        run_of(make_cache(tmp_path / "a.h5", X, {"kind": names(y)}), device="cuda:7")


def test_half_precision_features_are_learned_from_as_float32(tmp_path: Path) -> None:
    X, y = blobs(45)
    made = make_cache(tmp_path / "a.h5", X, {"kind": names(y)}, changes={"store": "fp16"})
    assert made.features().dtype == np.float16
    wide = make_cache(tmp_path / "b.h5", X.astype(np.float16).astype(np.float32), {"kind": names(y)})
    options: dict[str, Any] = {"heads": "logistic", "grid": {"logistic.C": [0.1]}}
    half, full = run_of(made, **options), run_of(wide, **options)
    assert half.predictions["probability"].equals(full.predictions["probability"])
    assert log_loss(half.predictions["true"], np.eye(3)[y]) >= 0


def test_options_are_the_keywords_of_evaluate() -> None:
    keywords = list(inspect.signature(evaluate).parameters)
    assert [field.name for field in fields(Options)] == keywords[1:]


def test_progress_counts_every_fit_once(cache: FeatureCache) -> None:
    class Heard(Progress):
        counts: ClassVar[list[tuple[int, int]]] = []

        def advance(self, stage: str, done: int, total: int) -> None:
            self.counts.append((done, total))

    run_of(cache, column="kind", heads=["centroid", "lda"], grid={"lda.shrinkage": 0.1}, progress=Heard())
    assert Heard.counts[-1] == (8, 8)  # 2 heads and 2 nulls, 2 folds
    assert [total for _, total in Heard.counts] == [8] * len(Heard.counts)
    assert len({done for done, _ in Heard.counts}) == len(Heard.counts)


def test_warnings_of_a_head_are_in_its_results(cache: FeatureCache) -> None:
    run = run_of(cache, column="kind", heads=LogisticRegression(max_iter=1))
    (text,) = run.best().warnings
    assert "LogisticRegression" in text and "stopped before converging" in text


def test_a_result_is_the_same_after_json(compared: Run) -> None:
    row = json.loads(json.dumps(compared.results[0].as_dict()))
    again = Result(**{name: row[name] for name in Result.__dataclass_fields__})
    assert again.as_dict() == compared.results[0].as_dict()


def test_what_was_joined_is_told_before_anything_is_fitted(tmp_path: Path) -> None:
    X, y = blobs(60)
    made = make_cache(tmp_path / "a.h5", X)
    rows = {name: text for name, text in zip(made.ids, names(y), strict=True) if name != made.ids[3]}
    table = {
        "kind": rows,
        "size": {name: f"{value:.3f}" if value > 0 else None for name, value in zip(rows, X[:, 0], strict=False)},
        "rare": {name: "z" if number == 0 else "xy"[number % 2] for number, name in enumerate(rows)},
        "patient": {**{name: str(100 + number) for number, name in enumerate(rows)}, "nobody.jpg": "7"},
    }
    heard: list[Any] = []

    class Ear(Progress):
        def joined(self, reports: Any) -> None:
            heard.extend(reports)

        def advance(self, stage: str, done: int, total: int) -> None:
            assert heard

    run = run_of(made, labels=table, heads="ridge", grid={"ridge.alpha": 1.0}, progress=Ear())
    (report,) = run.joined
    assert heard == [report]
    assert [(one.name, one.kind, one.rows, one.missing) for one in report.label_sets] == [
        ("kind", "class", 59, 1), ("size", "number", len([v for v in X[:59, 0] if v > 0]),
                                   1 + len([v for v in X[:59, 0] if v <= 0])),
    ]  # fmt: skip
    assert report.match is not None
    assert (report.match.strangers, report.match.stranger) == (1, "nobody.jpg")
    assert (report.match.absent, report.match.absentee) == (1, made.ids[3])
    reasons = {one.column: one.reason for one in report.skipped}
    assert reasons["patient"] == "59 different whole numbers in 59 rows look like numbers of patients or photos"
    # A class of one image stops a run over that column, not one over all columns.
    assert "got 1 image of 'z'" in reasons["rare"]
    with pytest.raises(EvaluationError, match="got 1 image of 'z'"):
        run_of(made, labels=table, column=["rare", "kind"], heads="ridge", grid={"ridge.alpha": 1.0})
    assert set(report.notes) <= set(run.notes)
    assert json.loads(json.dumps(run.as_dict()))["joined"] == [report.as_dict()]


def test_a_note_that_holds_for_several_label_sets_is_told_once(cache: FeatureCache, tmp_path: Path) -> None:
    X, y = blobs(60)
    rng = np.random.default_rng(0)
    columns: dict[str, Any] = {f"size{n}": [f"{value:.3f}" for value in rng.normal(size=60)] for n in range(5)}
    made = make_cache(tmp_path / "a.h5", X, {"kind": names(y), **columns})
    run = run_of(made, heads=["centroid", "ridge"], grid={"ridge.alpha": 1.0, "centroid.shrink_threshold": 1.0})
    assert "size0, size1, size2 and 2 more label sets: centroid cannot learn number labels and is left out" in run.notes
