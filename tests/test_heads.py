"""The heads room: every named head learns, grids reach the parameter that is meant, and slips are named."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.ensemble import StackingClassifier, StackingRegressor, VotingClassifier
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from pipeline.errors import HeadError
from pipeline.heads import FAST, Head, catalogue, estimator_text, fits, parse_grid, resolve_heads
from pipeline.search import predict_all, score_predictions, search
from pipeline.splits import inner_folds

CLASS_NAMES = [entry.name for entry in catalogue() if entry.kind == "class"]
NUMBER_NAMES = [entry.name for entry in catalogue() if entry.kind == "number"]


def planted(n_classes: int, n: int = 150, d: int = 64) -> tuple[np.ndarray, np.ndarray]:
    """Embedding-like rows: not negative, some columns dead, the class in a few of them; float32 (n, d)."""
    rng = np.random.default_rng(7)
    y = np.arange(n) % max(n_classes, 2)
    X = np.maximum(rng.normal(size=(n, d)), 0).astype(np.float32)
    X[:, :8] = 0
    strength = rng.random(n) if n_classes == 0 else np.ones(n)
    for code in range(max(n_classes, 2)):
        X[y == code, 8 + 6 * code : 14 + 6 * code] += 0.9
    if n_classes == 0:
        X[:, 8:24] += 2 * strength[:, None].astype(np.float32)
        return X, strength
    return X, y


def only(heads: Any, kind: str = "class", grid: Any = ()) -> Head:
    (head,) = resolve_heads(heads, kind=kind, grid=grid)
    return head


def params(head: Head) -> dict[str, Any]:
    return {key: value for key, value in head.estimator.get_params().items() if not hasattr(value, "get_params")}


def test_the_catalogue_is_the_promised_one() -> None:
    assert CLASS_NAMES == [
        "logistic", "linear-svm", "ridge", "lda", "knn", "centroid", "naive-bayes", "rbf-svm", "random-forest",
        "hist-gradient-boosting", "mlp", "dummy",
    ]  # fmt: skip
    assert NUMBER_NAMES == ["ridge", "knn", "svr", "hist-gradient-boosting", "dummy"]
    logistic = catalogue()[0]
    assert logistic.grid == {"C": [1e-4, 1e-3, 1e-2, 1e-1, 1e0, 1e1, 1e2]}
    assert logistic.estimator == "StandardScaler() + LogisticRegression(max_iter=2000)"
    with_probabilities = {entry.name for entry in catalogue() if entry.probabilities}
    assert with_probabilities == set(CLASS_NAMES) - {"linear-svm", "ridge", "rbf-svm"}


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("name", [name for name in CLASS_NAMES if name != "dummy"])
def test_every_head_for_classes_beats_the_dummy_without_a_warning(name: str, n_classes: int) -> None:
    X, y = planted(n_classes)
    train, test = np.arange(100), np.arange(100, 150)
    splits = inner_folds(y[train], "class", cv=2)
    scores = {}
    for head in resolve_heads([name, "dummy"], kind="class"):
        found = search(
            head, X[train], y[train], splits=splits, scoring="balanced_accuracy", labels=n_classes, kind="class"
        )
        assert found.warnings == ()
        said = predict_all(found.estimator, X[test], n_classes, "class")
        assert (said.probabilities is not None) == head.probabilities
        scores[head.name] = score_predictions("balanced_accuracy", y[test], said, kind="class", n_classes=n_classes)
    assert scores["dummy"] == pytest.approx(1 / n_classes)
    assert scores[name] > 1 / n_classes + 0.3


@pytest.mark.parametrize("name", [name for name in NUMBER_NAMES if name != "dummy"])
def test_every_head_for_numbers_beats_the_dummy_without_a_warning(name: str) -> None:
    X, y = planted(0)
    train, test = np.arange(100), np.arange(100, 150)
    scores = {}
    for unit in (1.0, 1e6):  # metres or micrometres: the same fit
        for head in resolve_heads([name, "dummy"], kind="number"):
            splits = inner_folds(unit * y[train], "number", cv=2)
            found = search(head, X[train], unit * y[train], splits=splits, scoring="r2", labels=0, kind="number")
            assert found.warnings == ()
            said = predict_all(found.estimator, X[test], 0, "number")
            scores[head.name, unit] = score_predictions("r2", unit * y[test], said, kind="number", n_classes=0)
    assert scores["dummy", 1.0] <= 0
    assert scores[name, 1.0] > 0.4
    assert scores[name, 1e6] == pytest.approx(scores[name, 1.0], abs=0.02)


def test_logistic_converges_over_its_whole_grid_on_float32_embeddings() -> None:
    rng = np.random.default_rng(0)
    n, d = 320, 1280
    y = rng.integers(0, 3, n)
    # ReLU-like and of low rank, as embeddings are; labels at random, the case that needs the most iterations.
    X = np.maximum(rng.normal(size=(n, 40)) @ rng.normal(size=(40, d)) / 6 + 0.3 * rng.normal(size=(n, d)), 0)
    head = only("logistic")
    for labels in (y, (X[:, 0] > np.median(X[:, 0])).astype(int)):
        for C in head.grid["logisticregression__C"]:
            clone(head.estimator).set_params(logisticregression__C=C).fit(
                X.astype(np.float32), labels
            )  # warnings raise


def test_more_regularised_values_come_first_so_that_ties_go_to_them() -> None:
    grids = {entry.name: entry.grid for entry in catalogue()}
    assert grids["logistic"]["C"] == sorted(grids["logistic"]["C"])
    assert grids["ridge"]["alpha"] == sorted(grids["ridge"]["alpha"], reverse=True)
    assert grids["knn"]["n_neighbors"] == sorted(grids["knn"]["n_neighbors"], reverse=True)
    assert len(grids["lda"]["shrinkage"]) == len(grids["ridge"]["alpha"]) == 7


def test_grid_keys_are_the_estimators_own() -> None:
    for kind in ("class", "number"):
        for head in resolve_heads(["all", "dummy"], kind=kind):
            assert set(head.grid) <= set(head.estimator.get_params())


def test_nothing_deprecated_is_set() -> None:
    for entry in catalogue():
        head = only(entry.name, entry.kind)
        steps = [step for _, step in head.estimator.steps] if isinstance(head.estimator, Pipeline) else [head.estimator]
        for step in steps:
            for name, parameter in inspect.signature(type(step).__init__).parameters.items():
                if parameter.default == "deprecated":
                    assert step.get_params()[name] == "deprecated"


def test_knn_is_brute_force() -> None:
    for kind in ("class", "number"):
        assert {v for k, v in params(only("knn", kind)).items() if k.endswith("__algorithm")} == {"brute"}


def test_the_seed_reaches_every_head_that_draws() -> None:
    for kind in ("class", "number"):
        for head in resolve_heads(["all"], kind=kind, random_state=11):
            seeds = {value for key, value in params(head).items() if key.endswith("random_state")}
            seeds -= {None} if head.name in ("ridge",) else set()
            assert seeds <= {11}, head.name
    assert resolve_heads(["sklearn.svm.SVC"], kind="class", random_state=3)[0].estimator.random_state == 3
    assert resolve_heads([SVC(random_state=5)], kind="class", random_state=3)[0].estimator.random_state == 5


# ---------------------------------------------------------------------------------------- what was asked for


def test_groups_give_the_heads_that_fit_each_once() -> None:
    assert [h.name for h in resolve_heads("fast", kind="class")] == list(FAST)
    assert [h.name for h in resolve_heads(["fast"], kind="number")] == ["ridge", "knn"]
    assert [h.name for h in resolve_heads(["knn", "fast", "knn"], kind="number")] == ["knn", "ridge"]
    assert [h.name for h in resolve_heads(["all"], kind="class")] == [n for n in CLASS_NAMES if n != "dummy"]


def test_a_head_that_does_not_fit_is_never_substituted() -> None:
    with pytest.raises(HeadError) as caught:
        resolve_heads(["logistic"], kind="number")
    assert caught.value.message == "head 'logistic': expected one that learns numbers, got one that does not"
    assert "choose one of ridge, knn, svr, hist-gradient-boosting" in caught.value.next_step
    for head in ("sklearn.linear_model.Ridge", Ridge(), "svr"):
        with pytest.raises(HeadError, match="expected one that learns classes, got one that does not"):
            resolve_heads([head], kind="class")


def test_fits_says_which_label_sets_a_head_can_learn() -> None:
    assert fits("logistic", "class") and not fits("logistic", "number")
    assert fits("ridge", "class") and fits("ridge", "number") and fits("fast", "number")
    assert fits("sklearn.svm.SVC", "class") and not fits("sklearn.svm.SVC", "number")
    assert fits(Ridge(), "number") and not fits(Ridge(), "class")
    with pytest.raises(HeadError, match="'logistc'"):
        fits("logistc", "class")


@pytest.mark.parametrize(
    ("head", "message", "step"),
    [
        ("logistc", "expected a head, got 'logistc'; there are fast, all, logistic", "did you mean --head logistic"),
        ("Random_Forest", "expected a head, got 'Random_Forest'", "--head random-forest"),
        ("xyzzy", "expected a head, got 'xyzzy'", "import path like --head sklearn.svm.SVC"),
        ("sklearn.svm.SVM", "expected 'SVM' in sklearn.svm, got no such name", "sklearn.svm.SVC"),
        ("sklearn.smv.SVC", "expected a module 'sklearn.smv', got none that imports", "install its package"),
        ("sklearn.svm", "head 'sklearn.svm': expected a scikit-learn estimator class, got a module", "sklearn.svm.SVC"),
        ("numpy.linalg.svd", "expected a scikit-learn estimator class, got a", "the class itself"),
        ("collections.Counter", "head Counter: expected a scikit-learn estimator, got one without fit", "import path"),
        ("sklearn.ensemble.VotingClassifier", "expected a class that can be made without arguments", "pass the object"),
        (3, "head int: expected a scikit-learn estimator, got one without fit, predict, get_params", "pass a name"),
        (".SVC", "expected an import path", "sklearn.svm.SVC"),
    ],
)
def test_what_is_no_head_says_what_was_found(head: Any, message: str, step: str) -> None:
    with pytest.raises(HeadError) as caught:
        resolve_heads([head], kind="class")
    assert message in caught.value.message
    assert step in caught.value.next_step


@pytest.mark.parametrize(
    ("head", "kind", "probabilities"),
    [
        (StackingClassifier([("a", LogisticRegression())], cv=2), "class", True),
        (StackingClassifier([("a", LogisticRegression())], final_estimator=SVC(), cv=2), "class", False),
        (make_pipeline(StandardScaler(), StackingClassifier([("a", LogisticRegression())], cv=2)), "class", True),
        (StackingRegressor([("a", Ridge())], cv=2), "number", False),
        (SVC(), "class", False),
    ],
)
def test_an_estimator_that_shows_predict_only_once_it_is_fitted_is_a_head(
    head: Any, kind: str, probabilities: bool
) -> None:
    (resolved,) = resolve_heads([head], kind=kind)
    assert resolved.probabilities is probabilities


def test_a_pipeline_that_ends_in_no_estimator_is_no_head() -> None:
    with pytest.raises(HeadError, match="head Pipeline: expected a scikit-learn estimator, got one without predict"):
        resolve_heads([make_pipeline(StandardScaler())], kind="class")


def test_no_head_at_all_is_refused() -> None:
    with pytest.raises(HeadError, match="expected a head to train, got none"):
        resolve_heads([], kind="class")


def test_estimators_come_by_path_class_or_object_and_are_left_alone() -> None:
    mine = make_pipeline(StandardScaler(), LogisticRegression(C=3))
    vote = VotingClassifier([("a", SVC())])
    heads = resolve_heads(["sklearn.svm.SVC", SVC, SVC(C=2), SVC(C=4), mine, vote], kind="class")
    assert [h.name for h in heads] == [
        "sklearn.svm.SVC",
        "SVC",
        "SVC-2",
        "SVC-3",
        "LogisticRegression",
        "VotingClassifier",
    ]
    assert [h.grid for h in heads] == [{}] * 6
    assert heads[2].estimator.C == 2
    assert mine[-1].random_state is None  # a copy was seeded
    assert heads[4].estimator[-1].random_state == 0
    assert heads[4].estimator[-1].C == 3
    assert resolve_heads(heads, kind="class")[0] is not None
    (again,) = resolve_heads([only("logistic")], kind="class")
    assert again.name == "logistic"


# ------------------------------------------------------------------------------------------------- the grids


def test_a_grid_replaces_one_parameter_and_one_value_fixes_it() -> None:
    assert only("logistic", grid=["logistic.C=0.01,0.1,1"]).grid == {"logisticregression__C": [0.01, 0.1, 1]}
    assert only("logistic", grid={"logistic.C": 3}).grid == {"logisticregression__C": [3]}
    rbf = only("rbf-svm", grid=["rbf-svm.C=1"])
    assert rbf.grid == {"svc__C": [1], "svc__gamma": [1e-4, "scale"]}
    assert only("svr", "number", {"svr.C": np.array([1.0, 2.0])}).grid == {
        "transformedtargetregressor__regressor__C": [1.0, 2.0]
    }
    assert only("knn", grid=["knn.p=1,2"]).grid.keys() == {
        "kneighborsclassifier__n_neighbors", "kneighborsclassifier__weights", "kneighborsclassifier__p",
    }  # fmt: skip
    assert only("sklearn.svm.SVC", grid=["sklearn.svm.SVC.C=1,2"]).grid == {"C": [1, 2]}
    assert only("logistic", grid=["logistic.standardscaler__with_mean=True,False"]).grid[
        "standardscaler__with_mean"
    ] == [True, False]


def test_values_read_as_python_literals_and_else_as_text() -> None:
    found = parse_grid(["a.x=1e-3,None,True,balanced", "b.hidden=(64,),(128, 64)", "c.y='a,b'", "a.x=2", "d.v=-1"])
    assert found == {
        "a.x": [1e-3, None, True, "balanced", 2],
        "b.hidden": [(64,), (128, 64)],
        "c.y": ["a,b"],
        "d.v": [-1],
    }
    assert parse_grid({"logistic.class_weight": "balanced"}) == {"logistic.class_weight": ["balanced"]}


def test_a_grid_for_a_head_of_the_other_kind_waits_for_its_label_set() -> None:
    assert only("ridge", "number", ["logistic.C=1"]).grid.keys() == {"ridge__alpha"}


@pytest.mark.parametrize(
    ("grid", "message", "step"),
    [
        (["logistic.c=1"], "expected a parameter of StandardScaler() + LogisticRegression", "logistic.C=..."),
        (["logistic.max_itr=1"], "got 'max_itr'", "did you mean --grid logistic.max_iter=..."),
        (["logistic.zzz=1"], "got 'zzz'", "its parameters:"),
        (["knn.n_neighbors=1"], "expected one of the heads logistic, got 'knn'", "add --head knn"),
        (["logstic.C=1"], "got 'logstic'", "did you mean --grid logistic.C=...?"),
        (["logistic.C"], "expected HEAD.PARAM=VALUE,VALUE, got 'logistic.C'", "--grid logistic.C=0.01,0.1,1"),
        (["C=1"], "expected HEAD.PARAM=VALUE", "logistic.C"),
        ({"logistic.C": []}, "expected at least one value, got none", "give a value"),
    ],
)
def test_a_grid_that_reaches_nothing_says_what_is_near(grid: Any, message: str, step: str) -> None:
    with pytest.raises(HeadError) as caught:
        resolve_heads(["logistic"], kind="class", grid=grid)
    assert message in caught.value.message
    assert step in caught.value.next_step


def test_a_short_name_that_means_two_parameters_asks_for_the_full_one() -> None:
    twice = VotingClassifier([("a", SVC()), ("b", LogisticRegression())])
    with pytest.raises(HeadError, match=r"expected one parameter, got a__C, b__C\ntry: write it in full"):
        resolve_heads([twice], kind="class", grid=["VotingClassifier.C=1"])


def test_an_estimator_is_told_in_one_line() -> None:
    text = estimator_text(only("svr", "number").estimator)
    assert text == "StandardScaler() + TransformedTargetRegressor(regressor=SVR(), transformer=StandardScaler())"
    for entry in catalogue():
        assert "\n" not in entry.estimator
        assert "random_state" not in entry.estimator
