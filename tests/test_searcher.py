"""SharedGridSearchCV is a searcher of scikit-learn's: contract, results, many label sets, falling back."""

from __future__ import annotations

import doctest
import pickle
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression, Ridge, RidgeClassifier
from sklearn.model_selection import GridSearchCV, GroupKFold, KFold, cross_val_score
from sklearn.multiclass import OneVsRestClassifier
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from pipeline import SharedGridSearchCV, search_many
from pipeline.heads import resolve_heads
from pipeline.search import candidate_scores, candidates_of, engine, shared_grid_search
from pipeline.search.engine import SharedGrid, SharedTask, shared_grid, shared_predictions
from pipeline.search.solvers.backend import arrays_on

X, DIGIT = load_digits(return_X_y=True)
X, DIGIT = X[:300], DIGIT[:300]
NAMES = np.array([f"digit {digit}" for digit in range(10)])[DIGIT]
FOLDS = KFold(3, shuffle=True, random_state=0)


def ridge() -> Pipeline:
    return make_pipeline(StandardScaler(), RidgeClassifier())


ALPHAS = {"ridgeclassifier__alpha": [1000.0, 10.0, 1.0]}
LDA = make_pipeline(StandardScaler(), LinearDiscriminantAnalysis(solver="lsqr", shrinkage=0.1))
SHRINKAGES = {"lineardiscriminantanalysis__shrinkage": [0.9, 0.5, 0.1]}
KNN = make_pipeline(StandardScaler(), KNeighborsClassifier(algorithm="brute"))
NEAREST = {"kneighborsclassifier__n_neighbors": [9, 3, 1], "kneighborsclassifier__weights": ["uniform", "distance"]}


def same(ours: Any, oracle: Any) -> None:
    assert set(ours.cv_results_) == set(oracle.cv_results_)
    for key, values in oracle.cv_results_.items():
        if key.endswith("test_score"):
            np.testing.assert_allclose(ours.cv_results_[key], values, rtol=1e-6, err_msg=key)
    assert ours.cv_results_["params"] == oracle.cv_results_["params"]
    assert (ours.best_index_, ours.best_params_) == (oracle.best_index_, oracle.best_params_)
    assert ours.n_splits_ == oracle.n_splits_


def failed_by_gridsearchcv(estimator: Any) -> dict[str, str]:
    two_dimensions = "Ridge takes several columns of numbers, which GridSearchCV does not say of itself"
    return {"check_supervised_y_2d": two_dimensions} if "Ridge()" in repr(estimator) else {}


@pytest.mark.filterwarnings("ignore")  # the checks hold what is warned of themselves
@parametrize_with_checks(
    [
        SharedGridSearchCV(ridge(), ALPHAS, cv=2, error_score="raise"),
        SharedGridSearchCV(
            make_pipeline(StandardScaler(), Ridge()), {"ridge__alpha": [10.0, 1.0]}, cv=2, error_score="raise"
        ),
    ],
    expected_failed_checks=failed_by_gridsearchcv,
)
def test_the_estimator_checks_of_scikit_learn_pass(estimator: Any, check: Any) -> None:
    check(estimator)


@pytest.mark.parametrize("scoring", [None, "accuracy", "f1_macro", "neg_log_loss", "roc_auc_ovr", "matthews_corrcoef"])
@pytest.mark.parametrize(("head", "grid"), [(ridge(), ALPHAS), (LDA, SHRINKAGES), (KNN, NEAREST)])
def test_named_classes_score_as_with_gridsearchcv(head: Any, grid: dict[str, list[Any]], scoring: str | None) -> None:
    if scoring in ("neg_log_loss", "roc_auc_ovr") and not hasattr(head, "predict_proba"):
        return
    ours, oracle = (
        kind(head, grid, scoring=scoring, cv=FOLDS).fit(X, NAMES) for kind in (SharedGridSearchCV, GridSearchCV)
    )
    assert ours.shared_
    same(ours, oracle)
    assert ours.best_score_ == pytest.approx(oracle.best_score_)
    assert (ours.classes_ == oracle.classes_).all()
    assert (ours.predict(X) == oracle.predict(X)).all()
    assert ours.score(X, NAMES) == pytest.approx(oracle.score(X, NAMES))
    assert type(ours.best_estimator_.steps[-1][1]) is type(head.steps[-1][1])


def test_two_classes_that_a_head_is_sure_of_rank_by_its_decision_as_in_gridsearchcv() -> None:
    rng = np.random.default_rng(0)
    rows = np.where(rng.random((300, 1)) < 0.02, -1, 1) * (2.0 * (DIGIT[:, None] % 2) - 1) * 40 + rng.normal(
        size=(300, 30)
    )
    ours, oracle = (
        kind(LDA, SHRINKAGES, scoring="roc_auc", cv=FOLDS).fit(rows, DIGIT % 2)
        for kind in (SharedGridSearchCV, GridSearchCV)
    )
    assert ours.shared_
    same(ours, oracle)


def test_numbers_frames_lists_and_whole_numbers_go_in() -> None:
    head, grid = make_pipeline(StandardScaler(), Ridge()), {"ridge__alpha": [100.0, 1.0]}
    frame = pd.DataFrame(X, columns=[f"column {place}" for place in range(64)])
    for rows in (X, frame, X.astype(int), X.astype(int).tolist()):
        ours, oracle = (kind(head, grid, cv=FOLDS).fit(rows, DIGIT) for kind in (SharedGridSearchCV, GridSearchCV))
        assert ours.shared_
        same(ours, oracle)
        assert hasattr(ours, "feature_names_in_") == hasattr(oracle, "feature_names_in_")


def test_threads_groups_clone_pickle_and_nesting_work() -> None:
    search = SharedGridSearchCV(LDA, SHRINKAGES, cv=GroupKFold(3), n_jobs=2)
    groups = np.arange(300) // 10
    ours, oracle = (
        one.fit(X, NAMES, groups=groups) for one in (clone(search), GridSearchCV(LDA, SHRINKAGES, cv=search.cv))
    )
    assert ours.shared_
    same(ours, oracle)
    again = pickle.loads(pickle.dumps(ours))
    assert (again.predict(X) == ours.predict(X)).all()
    assert clone(search).get_params()["n_jobs"] == 2
    nested = cross_val_score(SharedGridSearchCV(LDA, SHRINKAGES, cv=FOLDS), X, NAMES, cv=FOLDS)
    np.testing.assert_allclose(nested, cross_val_score(GridSearchCV(LDA, SHRINKAGES, cv=FOLDS), X, NAMES, cv=FOLDS))


@pytest.mark.parametrize(
    "changed",
    [
        {"param_grid": {**ALPHAS, "ridgeclassifier__fit_intercept": [True, False]}},
        {"param_grid": [ALPHAS, {"ridgeclassifier__alpha": [5.0]}]},
        {"param_grid": {"ridgeclassifier__alpha": [1e-5, 1.0]}},
        {"scoring": ["accuracy", "f1_macro"], "refit": "accuracy"},
        {"scoring": lambda estimator, X, y: estimator.score(X, y)},
        {"return_train_score": True},
        {
            "estimator": make_pipeline(StandardScaler(), LogisticRegression()),
            "param_grid": {"logisticregression__C": [1.0]},
        },
    ],
)
def test_what_cannot_be_shared_is_gridsearchcvs(changed: dict[str, Any]) -> None:
    search = SharedGridSearchCV(ridge(), ALPHAS, cv=2).set_params(**changed)
    assert not search.fit(X[:100], DIGIT[:100] % 2).shared_
    parameters = {key: value for key, value in search.get_params(deep=False).items() if key != "device"}
    assert search.best_params_ == GridSearchCV(**parameters).fit(X[:100], DIGIT[:100] % 2).best_params_


def test_errors_are_gridsearchcvs_own() -> None:
    holes = X.copy()
    holes[3, 4] = np.nan
    with pytest.raises(ValueError, match="Input X contains NaN"):
        SharedGridSearchCV(ridge(), ALPHAS, cv=FOLDS, error_score="raise").fit(holes, NAMES)
    with pytest.raises(ValueError, match="n_splits=200"):
        SharedGridSearchCV(ridge(), ALPHAS, cv=200).fit(X, NAMES)
    with pytest.raises(ValueError, match="n_neighbors"):
        many = {"kneighborsclassifier__n_neighbors": [500]}
        SharedGridSearchCV(KNN, many, cv=FOLDS, error_score="raise").fit(X, NAMES)


# ------------------------------------------------------------------------------------------- many label sets


@pytest.mark.parametrize("splits", [FOLDS, list(FOLDS.split(X)), 3])
def test_missing_labels_leave_rows_out_of_their_own_label_set_alone(splits: Any) -> None:
    some: Any = NAMES.astype(object)
    some[::4] = None
    gaps = np.where(np.arange(300) % 5 == 0, np.nan, DIGIT % 3)
    sets = {"all": NAMES, "some": some, "gaps": gaps, "signs": np.where(DIGIT > 4, 1, -1)}
    searches = [SharedGridSearchCV(head, grid, cv=splits) for head, grid in ((ridge(), ALPHAS), (KNN, NEAREST))]
    found = search_many(searches, X, sets)
    assert list(found) == list(sets)
    for name, y in sets.items():
        rows = np.flatnonzero([value is not None and value == value for value in y])
        cv = splits
        if isinstance(splits, list):
            place = dict(zip(rows.tolist(), range(len(rows)), strict=True))
            cv = [tuple([place[row] for row in part if row in place] for part in split) for split in splits]
        for search, ours in zip(searches, found[name], strict=True):
            oracle = GridSearchCV(search.estimator, search.param_grid, cv=cv).fit(X[rows], np.array(list(y[rows])))
            assert ours.shared_
            same(ours, oracle)
            assert ours.predict(X[:5]).tolist() == oracle.predict(X[:5]).tolist()


def test_label_sets_share_one_decomposition_a_fold(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    real = engine.spectrum
    monkeypatch.setattr(engine, "spectrum", lambda *parts: asked.append(parts) or real(*parts))
    searches = [SharedGridSearchCV(head, grid, cv=FOLDS) for head, grid in ((ridge(), ALPHAS), (LDA, SHRINKAGES))]
    found = search_many(searches, X, [NAMES, DIGIT % 2, DIGIT % 3])
    assert len(asked) == 3
    assert [[one.shared_ for one in row] for row in found] == [[True, True]] * 3
    alone = SharedGridSearchCV(ridge(), ALPHAS, cv=FOLDS).fit_many(X, {"odd": DIGIT % 2})
    assert alone["odd"].best_params_ == found[1][0].best_params_


def test_a_label_set_of_one_class_falls_back_alone() -> None:
    search = SharedGridSearchCV(ridge(), ALPHAS, cv=FOLDS)
    single, double = search.fit_many(X, [np.where(np.arange(300) < 2, DIGIT[0], DIGIT), DIGIT % 2])
    assert double.shared_ and single.shared_


# ------------------------------------------------------------------------------------- rows in parts, threads, tags


def test_a_column_that_one_fold_alone_makes_vary_keeps_its_digits() -> None:
    rows = X.copy()
    _, test = next(iter(FOLDS.split(X)))
    rows[:, 1] = np.random.default_rng(0).normal(size=300) * 1e-4 + 50
    rows[test[0], 1] = 1e6
    rows[:, 0] = 5.0
    rows[test[1], 0] = 9.0
    for head, grid in ((ridge(), ALPHAS), (LDA, SHRINKAGES)):
        ours, oracle = (kind(head, grid, cv=FOLDS).fit(rows, NAMES) for kind in (SharedGridSearchCV, GridSearchCV))
        assert ours.shared_
        same(ours, oracle)


@pytest.mark.parametrize("kind", ["repeated", "shuffled", "once", "learned and tested"])
def test_splits_of_every_kind_score_as_with_gridsearchcv(kind: str) -> None:
    rng = np.random.default_rng(0)
    shuffled = [(part[:200], part[200:]) for part in (rng.permutation(300) for _ in range(3))]
    splits = {
        "repeated": [*FOLDS.split(X), *KFold(3, shuffle=True, random_state=1).split(X)],
        "shuffled": shuffled,
        "once": shuffled[:1],
        "learned and tested": [(np.arange(300), np.arange(300)), (rng.integers(0, 300, 250), np.arange(300))],
    }[kind]
    ours, oracle = (one(LDA, SHRINKAGES, cv=splits).fit(X, NAMES) for one in (SharedGridSearchCV, GridSearchCV))
    assert ours.shared_
    same(ours, oracle)


HEADS = [
    (name, head.estimator, head.grid)
    for name in ("ridge", "lda", "knn")
    for head in resolve_heads([name], kind="class")
]


@pytest.mark.parametrize("device", ["torch", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_torch_says_what_numpy_says(device: str) -> None:
    rows, splits = X.astype(np.float32), list(FOLDS.split(X))
    assert arrays_on(device).xp.__name__ == "torch"
    heads: Any = [shared_grid(estimator, grid, "class") for _, estimator, grid in HEADS]
    for some in (splits, [(train[:50], test) for train, test in splits]):  # more rows than columns, and fewer
        task = SharedTask(heads, DIGIT, some, 10)
        here, there = (
            {(said.head, said.split): said.predictions for said in shared_predictions(rows, [task], device=one)}
            for one in ("cpu", device)
        )
        for key, predictions in here.items():
            for mine, theirs in zip(predictions or [], there[key] or [], strict=True):
                assert (mine.labels == theirs.labels).all()
                if mine.probabilities is not None:
                    np.testing.assert_allclose(mine.probabilities, theirs.probabilities, rtol=1e-3, atol=1e-5)


def test_an_exception_in_a_thread_is_raised_and_who_stops_asking_stops_the_threads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    head = SharedGrid("ridge", "class", [{}, {}], [(1.0,), (10.0,)])
    task = SharedTask([head], DIGIT, list(FOLDS.split(X)), 10)
    for _ in shared_predictions(X, [task], n_jobs=2):
        break

    def broken(*_: Any) -> None:
        raise MemoryError("no room for it")

    monkeypatch.setattr(engine, "spectrum", broken)
    with pytest.raises(MemoryError, match="no room"):
        list(shared_predictions(X, [task], n_jobs=2))


TAGS = np.column_stack([DIGIT % 2, DIGIT > 4, np.isin(DIGIT, [1, 4, 7]), DIGIT == 3]).astype(np.int8)


@pytest.mark.parametrize("rows", [X, X[:, ::8]])
def test_an_indicator_is_learned_as_scikit_learn_learns_it(rows: np.ndarray) -> None:
    train, test = next(iter(FOLDS.split(X)))
    heads = [
        SharedGrid("ridge", "multi", [], [(1000.0,), (1.0,)]),
        SharedGrid("lda", "multi", [], [(0.9,), (0.1,)]),
        SharedGrid("knn", "multi", [], [(5, "uniform"), (4, "uniform"), (5, "distance")]),
    ]
    models: dict[str, Any] = {
        "ridge": lambda alpha: RidgeClassifier(alpha=alpha),
        "lda": lambda shrinkage: OneVsRestClassifier(LinearDiscriminantAnalysis(solver="lsqr", shrinkage=shrinkage)),
        "knn": lambda k, weights: KNeighborsClassifier(k, weights=weights, algorithm="brute"),
    }
    said = list(shared_predictions(rows, [SharedTask(heads, TAGS, [(train, test)], TAGS.shape[1])]))
    assert len(said) == 3
    for one in said:
        head = heads[one.head]
        assert one.predictions is not None
        for values, predictions in zip(head.values, one.predictions, strict=True):
            fitted = make_pipeline(StandardScaler(), models[head.solver](*values)).fit(rows[train], TAGS[train])
            assert (predictions.labels == fitted.predict(rows[test])).all()
            if head.solver == "ridge":
                np.testing.assert_allclose(
                    predictions.scores, fitted.decision_function(rows[test]), rtol=1e-7, atol=1e-9
                )
                continue
            wanted = fitted.predict_proba(rows[test])
            if head.solver == "knn":
                wanted = np.column_stack([tag[:, 1] for tag in wanted])
            np.testing.assert_allclose(predictions.probabilities, wanted, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("scoring", ["average_precision", "f1_macro"])
@pytest.mark.parametrize("name", ["ridge", "lda", "knn"])
def test_tags_are_scored_as_by_gridsearchcv(name: str, scoring: str) -> None:
    (head,) = resolve_heads([name], kind="multi")
    candidates, _ = candidates_of(head, 200, 300)
    ours, oracle = (
        candidate_scores(
            head, candidates, X, TAGS, splits=list(FOLDS.split(X)), scoring=scoring, labels=4, kind="multi", share=share
        )[0]
        for share in (True, False)
    )
    assert shared_grid(head.estimator, head.grid, "multi") is not None
    np.testing.assert_allclose(ours, oracle, rtol=1e-6)


def test_the_docstring_is_true() -> None:
    assert doctest.testmod(shared_grid_search).failed == 0
