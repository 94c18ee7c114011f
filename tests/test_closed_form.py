"""Shared search: the choice and the scores of GridSearchCV itself, from work done once a fold."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import RidgeClassifier
from sklearn.model_selection import GridSearchCV, KFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from pipeline.heads import Head, resolve_heads
from pipeline.search import engine, make_scorer, predict_all, search
from pipeline.search.engine import SharedGrid, SharedTask, SplitPredictions, shared_grid, shared_predictions
from pipeline.search.shared_grid_search import SharedGridSearchCV, search_many

DIGITS, DIGIT = load_digits(return_X_y=True)
DIGITS = DIGITS.astype(np.float32)


def folds(n: int, k: int = 3) -> list[tuple[np.ndarray, np.ndarray]]:
    return list(KFold(k, shuffle=True, random_state=0).split(np.arange(n)))


def first_best(results: dict[str, Any]) -> int:
    return int(np.argmax(results["mean_test_score"]))


def named(name: str, kind: str = "class", grid: list[str] | None = None) -> Head:
    return resolve_heads([name], kind=kind, grid=grid or [])[0]


def both(
    head: Head, X: np.ndarray, y: np.ndarray, scoring: str, splits: Any = None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the results of the shared search and of GridSearchCV, and hold their choices to be the same."""
    splits = splits or folds(len(y))
    labels = int(y.max()) + 1 if head.kind == "class" else 0
    covered = shared_grid(head.estimator, head.grid, head.kind)
    assert covered is not None
    scorer = make_scorer(scoring, head.kind, labels)
    ours = SharedGridSearchCV(head.estimator, head.grid, scoring=scorer, cv=splits, refit=first_best).fit(X, y)
    assert ours.shared_
    oracle = GridSearchCV(head.estimator, head.grid, scoring=scorer, cv=splits, refit=first_best, error_score="raise")
    oracle.fit(X, y)
    assert ours.best_params_ == oracle.best_params_
    assert type(ours.best_estimator_) is type(oracle.best_estimator_)
    assert (ours.best_estimator_.predict(X) == oracle.predict(X)).all()
    return ours.cv_results_, oracle.cv_results_


def agree(ours: dict[str, Any], oracle: dict[str, Any], tolerance: float = 1e-6) -> None:
    for key, values in oracle.items():
        if key.endswith("_score") and "time" not in key and key != "rank_test_score":
            np.testing.assert_allclose(ours[key], values, rtol=tolerance, atol=tolerance, err_msg=key)


# ------------------------------------------------------------------------------------- against GridSearchCV


@pytest.mark.parametrize("scoring", ["balanced_accuracy", "f1_macro"])
@pytest.mark.parametrize("name", ["ridge", "lda", "knn"])
def test_digits_with_their_constant_columns_score_as_with_gridsearchcv(name: str, scoring: str) -> None:
    assert (DIGITS.std(axis=0) == 0).sum() == 3
    agree(*both(named(name), DIGITS[:600], DIGIT[:600], scoring))


@pytest.mark.parametrize(
    ("name", "scoring"), [("lda", "neg_log_loss"), ("knn", "neg_log_loss"), ("knn", "roc_auc_ovr")]
)
def test_probabilities_are_those_of_scikit_learn(name: str, scoring: str) -> None:
    agree(*both(named(name), DIGITS[:500].astype(np.float64), DIGIT[:500], scoring))


@pytest.mark.parametrize("name", ["ridge", "lda", "knn"])
def test_two_classes_score_as_with_gridsearchcv(name: str) -> None:
    agree(*both(named(name), DIGITS[:400].astype(np.float64), DIGIT[:400] % 2, "roc_auc"))


@pytest.mark.parametrize("name", ["ridge", "lda", "knn"])
def test_fewer_rows_than_columns_score_as_with_gridsearchcv(name: str) -> None:
    rng = np.random.default_rng(0)
    y = np.arange(60) % 4
    X = (rng.normal(size=(60, 200)) + 0.4 * np.eye(4)[y].repeat(50, axis=1)).astype(np.float32)
    agree(*both(named(name), X, y, "accuracy"))


@pytest.mark.parametrize("name", ["ridge", "knn"])
def test_numbers_score_as_with_gridsearchcv(name: str) -> None:
    rng = np.random.default_rng(1)
    for n in (40, 200):
        X = rng.normal(5, 2, size=(n, 60))
        y = X[:, 0] * 3 + rng.normal(size=n) + 40
        for scoring in ("r2", "neg_mean_absolute_error"):
            agree(*both(named(name, "number"), X, y, scoring))


@pytest.mark.parametrize("name", ["ridge", "lda", "knn"])
def test_a_class_missing_from_a_training_part_is_never_said(name: str) -> None:
    y = DIGIT[:200].copy()
    y[y == 3] = 5
    only = np.flatnonzero(DIGIT[:200] == 7)
    splits = [(np.setdiff1d(np.arange(200), only), only), *folds(200, 2)]
    for scoring in ("accuracy", "neg_log_loss") if name != "ridge" else ("accuracy",):
        agree(*both(named(name), DIGITS[:200].astype(np.float64), y, scoring, splits))


def test_a_column_that_is_constant_in_one_fold_alone_is_scaled_by_one() -> None:
    X = DIGITS[:120].copy()
    train, test = folds(120)[0]
    X[train, 10] = 3.0
    X[test, 10] = np.linspace(0, 900, len(test))
    for name in ("ridge", "lda", "knn"):
        agree(*both(named(name), X, DIGIT[:120], "accuracy"))


def test_a_tie_goes_to_the_first_of_the_grid() -> None:
    X = np.repeat(np.eye(2, dtype=np.float32), 30, axis=0) * 9
    y, splits = np.repeat([0, 1], 30), [(np.arange(part, 60, 2), np.arange(1 - part, 60, 2)) for part in (0, 1)]
    X += np.random.default_rng(0).normal(size=X.shape).astype(np.float32) * 0.1
    for name, chosen in (("ridge", {"alpha": 1e6}), ("lda", {"shrinkage": 1.0})):
        head = named(name)
        found = search(head, X, y, splits=splits, scoring="accuracy", labels=2, kind="class")
        assert {key.rpartition("__")[2]: value for key, value in found.params.items()} == chosen
        assert found.score == 1.0


def test_rows_that_are_equally_far_are_chosen_among_as_by_scikit_learn() -> None:
    rng = np.random.default_rng(2)
    X = rng.integers(0, 3, size=(150, 3)).astype(np.float32)  # many rows are the same, many distances too
    y = rng.integers(0, 3, 150)
    for scoring in ("accuracy", "neg_log_loss"):
        agree(*both(named("knn"), X, y, scoring), tolerance=1e-9)


@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    n=st.integers(24, 70),
    d=st.integers(2, 90),
    classes=st.integers(2, 5),
    name=st.sampled_from(["ridge", "lda", "knn"]),
)
def test_random_problems_are_scored_as_by_gridsearchcv(seed: int, n: int, d: int, classes: int, name: str) -> None:
    rng = np.random.default_rng(seed)
    y = np.arange(n) % classes
    X = rng.normal(size=(n, d)) + rng.normal(size=(classes, d))[y]
    X[:, rng.integers(0, d)] = 7.3
    grid = ["knn.n_neighbors=7,3,1"] if name == "knn" else []
    agree(*both(named(name, grid=grid), X, y, "accuracy"))


def test_the_results_have_the_layout_of_gridsearchcv() -> None:
    for name in ("ridge", "knn"):
        ours, oracle = both(named(name), DIGITS[:100], DIGIT[:100], "accuracy")
        assert set(ours) == set(oracle)
        assert ours["params"] == oracle["params"]
        assert ours["rank_test_score"].tolist() == oracle["rank_test_score"].tolist()
        for key in ours:
            if key.startswith("param_"):
                assert isinstance(ours[key], np.ma.MaskedArray)
                assert ours[key].tolist() == oracle[key].tolist()
                assert ours[key].dtype == oracle[key].dtype


# ------------------------------------------------------------------------------------------- many label sets


def test_many_label_sets_and_heads_at_once_score_as_each_alone() -> None:
    X, splits = DIGITS[:300], folds(300)
    ys = [DIGIT[:300], DIGIT[:300] % 2, np.random.default_rng(0).integers(0, 4, 300)]
    heads = [named(name) for name in ("ridge", "lda", "knn")]
    searches = [SharedGridSearchCV(head.estimator, head.grid, scoring="accuracy", cv=splits) for head in heads]
    for y, row in zip(ys, search_many(searches, X, ys), strict=True):
        for head, fitted in zip(heads, row, strict=True):
            _, oracle = both(head, X, y, "accuracy")
            assert fitted.shared_
            agree(fitted.cv_results_, oracle)


def test_the_predictions_of_a_fold_are_those_of_the_fitted_head() -> None:
    X, y, (split, *_) = DIGITS[:300].astype(np.float64), DIGIT[:300] % 3, folds(300)
    for name, key in (("ridge", "scores"), ("lda", "probabilities"), ("knn", "probabilities")):
        head = named(name)
        covered = shared_grid(head.estimator, head.grid, head.kind)
        assert covered is not None
        (said,) = shared_predictions(X, [SharedTask([covered], y, [split], 3)])
        assert (said.task, said.head, said.split) == (0, 0, 0)
        assert said.predictions is not None
        for candidate, predictions in zip(covered.candidates, said.predictions, strict=True):
            fitted = head.estimator.set_params(**candidate).fit(X[split[0]], y[split[0]])
            wanted = predict_all(fitted, X[split[1]], 3, "class")
            assert (predictions.labels == wanted.labels).all()
            np.testing.assert_allclose(getattr(predictions, key), getattr(wanted, key), rtol=1e-7, atol=1e-9)


def test_label_sets_of_other_rows_folds_and_kinds_go_through_together() -> None:
    def covered(name: str, kind: str = "class") -> SharedGrid:
        head = named(name, kind)
        found = shared_grid(head.estimator, head.grid, kind)
        assert found is not None
        return found

    X, every, few = DIGITS[:300].astype(np.float64), np.arange(300), np.arange(0, 300, 2)
    wide, mine = folds(300), [(few[train], few[test]) for train, test in folds(150)]
    number = X[:, 20] - X[:, 30]
    number[every % 2 == 1] = np.nan  # in none of its splits
    tasks = [
        SharedTask([covered("ridge"), covered("knn")], DIGIT[:300], wide, 10),
        SharedTask([covered("lda")], DIGIT[:300] % 2, wide, 2),
        SharedTask([covered("ridge", "number"), covered("knn", "number")], number, mine, 0),
    ]
    together = {(said.task, said.head, said.split): said for said in shared_predictions(X, tasks)}
    assert len(together) == 3 * (2 + 1 + 2)
    for place, task in enumerate(tasks):
        for which, head in enumerate(task.heads):
            for number_of, split in enumerate(task.splits):
                (alone,) = shared_predictions(X, [SharedTask([head], task.y, [split], task.labels)])
                _same(together[place, which, number_of], alone)


def _same(one: SplitPredictions, other: SplitPredictions) -> None:
    assert one.predictions is not None and other.predictions is not None
    for mine, theirs in zip(one.predictions, other.predictions, strict=True):
        np.testing.assert_allclose(mine.labels, theirs.labels, rtol=1e-9)


def test_one_label_set_that_wants_scikit_learn_does_not_stop_the_others() -> None:
    heads = [shared_grid(named(name).estimator, named(name).grid, "class") for name in ("ridge", "lda", "knn")]
    single = np.zeros(90, np.int64)
    rare = np.where(np.arange(90) == 0, 2, DIGIT[:90] % 2)
    tasks = [SharedTask(heads, y, folds(90), labels) for y, labels in ((single, 2), (rare, 3), (DIGIT[:90] % 2, 2))]  # type: ignore[arg-type]
    refused = {(s.task, s.head) for s in shared_predictions(DIGITS[:90], tasks) if s.predictions is None}
    assert refused == {(0, 0), (0, 1), (1, 1)}  # one class: ridge and lda; a class of one row: lda


# ------------------------------------------------------------------------------------------------ falling back


@pytest.mark.parametrize(
    ("name", "grid"),
    [
        ("ridge", ["ridge.alpha=1e-4,1"]),
        ("ridge", ["ridge.alpha=1,10", "ridge.fit_intercept=True,False"]),
        ("lda", ["lda.shrinkage=auto,0.5"]),
        ("lda", ["lda.shrinkage=None,0.5"]),
        ("lda", ["lda.shrinkage=0.0,0.5"]),
        ("knn", ["knn.n_neighbors=1,3", "knn.p=1,2"]),
        ("centroid", ["centroid.metric=euclidean,manhattan"]),
        ("logistic", ["logistic.C=1e-7,1"]),
    ],
)
def test_what_is_not_covered_goes_to_gridsearchcv(name: str, grid: list[str]) -> None:
    head = named(name, grid=grid)
    assert shared_grid(head.estimator, head.grid, "class") is None
    if len(head.grid) > 1:
        splits = folds(90)
        found = search(head, DIGITS[:90], DIGIT[:90] % 2, splits=splits, scoring="accuracy", labels=2, kind="class")
        oracle = GridSearchCV(head.estimator, head.grid, cv=splits).fit(DIGITS[:90], DIGIT[:90] % 2)
        assert found.params == oracle.best_params_


def test_another_estimator_or_setting_is_not_covered() -> None:
    class Mine(RidgeClassifier):
        pass

    key = {"ridgeclassifier__alpha": [1.0, 10.0]}
    assert shared_grid(make_pipeline(StandardScaler(), RidgeClassifier()), key, "class") is not None
    assert shared_grid(make_pipeline(StandardScaler(), Mine()), {"mine__alpha": [1.0, 10.0]}, "class") is None
    assert shared_grid(make_pipeline(StandardScaler(with_std=False), RidgeClassifier()), key, "class") is None
    assert shared_grid(make_pipeline(StandardScaler(), RidgeClassifier(tol=1e-2)), key, "class") is None
    assert shared_grid(RidgeClassifier(), {"alpha": [1.0, 10.0]}, "class") is None
    svd = make_pipeline(StandardScaler(), LinearDiscriminantAnalysis())
    assert shared_grid(svd, {"lineardiscriminantanalysis__shrinkage": [0.5, 1.0]}, "class") is None


def test_a_class_of_one_row_warns_as_scikit_learn_does() -> None:
    X, y = DIGITS[:60], DIGIT[:60] % 2
    y[y == 1] = 0
    y[:25], y[25:27] = 1, 2
    splits = [(np.arange(26), np.arange(26, 60)), (np.arange(20, 60), np.arange(20))]
    lda = named("lda", grid=["lda.shrinkage=0.9,0.5"])
    found = search(lda, X, y, splits=splits, scoring="accuracy", labels=3, kind="class")
    assert found.warnings == ("lda: Only one sample available. You may want to reshape your data array (2 times)",)


def test_an_alpha_that_scikit_learn_warns_of_is_left_to_it() -> None:
    ridge = named("ridge", grid=["ridge.alpha=1,1e-3"])
    X = (np.random.default_rng(0).normal(size=(90, 1)) * np.ones((1, 400))).astype(np.float32)
    X[:, 0] = np.random.default_rng(1).normal(size=90)
    found = search(ridge, X, DIGIT[:90], splits=folds(90), scoring="accuracy", labels=10, kind="class")
    (said,) = found.warnings
    assert said.startswith("ridge: Singular matrix in solving dual problem. Using least-squares solution instead.")


def test_the_search_uses_the_shared_work_and_warns_of_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    real = engine.spectrum

    def counted(*parts: Any) -> Any:
        asked.append(parts)
        return real(*parts)

    monkeypatch.setattr(engine, "spectrum", counted)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = search(
            named("lda"), DIGITS[:200], DIGIT[:200], splits=folds(200), scoring="accuracy", labels=10, kind="class"
        )
    assert len(asked) == 3  # once a fold, not once a shrinkage
    assert found.warnings == ()
    assert type(found.estimator.steps[-1][1]) is LinearDiscriminantAnalysis
    assert found.estimator.steps[-1][1].shrinkage == found.params["lineardiscriminantanalysis__shrinkage"]
    assert found.estimator.predict(DIGITS[:200]).shape == (200,)
