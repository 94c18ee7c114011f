"""A head says in one layer, or in ONNX, what scikit-learn says: every head of the catalogue, on every kind of label."""

from __future__ import annotations

import sys
import warnings
from typing import Any

import numpy as np
import onnxruntime
import pytest
from made_caches import blobs
from scipy.special import expit, softmax
from sklearn.base import clone
from sklearn.decomposition import PCA
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.ensemble import ExtraTreesRegressor
from sklearn.feature_selection import VarianceThreshold
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from sklearn.multiclass import OneVsRestClassifier
from sklearn.neighbors import NearestCentroid
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, StandardScaler
from sklearn.svm import LinearSVC

from pipeline.errors import ExportError
from pipeline.export import onnx_heads
from pipeline.export.linear import NEAREST, ONE_VS_REST, LinearLayer, fold
from pipeline.export.onnx_model import head_graph
from pipeline.heads import RECIPES, named_head
from pipeline.search import predict_all

WIDTH = 12
HEADS = [(kind, name) for kind, recipes in RECIPES.items() for name in recipes]


def table(kind: str, classes: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Features with a column that never varies, one far from zero, and labels of a kind; some rows are there twice."""
    X, y = blobs(90, d=WIDTH, apart=1.0)
    X = X.astype(np.float32)
    X[:, 3] = 0.0
    X[:, 4] = X[:, 4] * 50 + 300
    if kind == "number":
        target = (X[:, 0] * 3 + X[:, 4] / 50 + 7).astype(np.float64)
    elif kind == "multi":
        target = np.column_stack([y == 0, X[:, 0] > 0, X[:, 5] > 0.5]).astype(np.int8)
    else:
        target = y % classes
    return np.concatenate([X, X[:7]]), np.concatenate([target, target[:7]])


def fitted(kind: str, name: str, classes: int = 3, **params: Any) -> Any:
    head = named_head(name, kind, random_state=0)
    estimator = clone(head.estimator)
    if name in ("random-forest", "hist-gradient-boosting"):
        small = {"n_estimators": 7} if name == "random-forest" else {"max_iter": 5}
        last = estimator.steps[-1][1] if hasattr(estimator, "steps") else estimator
        last.set_params(**small)
    if name == "naive-bayes":  # with less, a column that never varied outweighs all others, and nothing is comparable
        estimator.set_params(gaussiannb__var_smoothing=1e-2)
    estimator.set_params(**params)
    X, y = table(kind, classes)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return estimator.fit(X, y)


def new_rows() -> np.ndarray:
    """Rows it learned from, others, and one far away."""
    X, _ = table("class")
    rng = np.random.default_rng(1)
    return np.concatenate([X[:20], X[:40] + rng.normal(0, 0.5, (40, WIDTH)), X[:1] * 30]).astype(np.float32)


def run(estimator: Any, kind: str, classes: int = 3, store: str = "fp32") -> dict[str, np.ndarray]:
    model = head_graph(estimator, name="it", kind=kind, classes=classes, width=WIDTH, store=store)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {"features": new_rows()}), strict=True))


# --- one layer


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("name", ["logistic", "linear-svm", "ridge", "lda"])
def test_the_folded_layer_is_the_decision_function(name: str, classes: int) -> None:
    estimator, X = fitted("class", name, classes), new_rows()
    layer = fold(estimator, "class", WIDTH)
    assert layer is not None and layer.weight.shape == (classes, WIDTH)
    outputs, wanted = layer(X.astype(np.float64)), estimator.decision_function(X.astype(np.float64))
    if classes == 2:  # one signed distance is the difference of two outputs
        np.testing.assert_allclose(np.diff(outputs)[:, 0], wanted * (1 if layer.answer == "softmax" else 2), rtol=1e-9)
        np.testing.assert_allclose(outputs.sum(axis=1), 0.0, atol=1e-9)
    else:
        np.testing.assert_allclose(outputs, wanted, rtol=1e-9, atol=1e-9)
    if layer.answer == "softmax":
        np.testing.assert_allclose(softmax(outputs, axis=1), estimator.predict_proba(X.astype(np.float64)), rtol=1e-7)


def test_a_number_s_layer_is_its_prediction() -> None:
    estimator, X = fitted("number", "ridge"), new_rows().astype(np.float64)
    layer = fold(estimator, "number", WIDTH)
    assert layer is not None
    np.testing.assert_allclose(layer(X)[:, 0], estimator.predict(X), rtol=1e-9)


@pytest.mark.parametrize("name", ["logistic", "ridge", "lda"])
def test_tags_have_an_output_each(name: str) -> None:
    estimator, X = fitted("multi", name), new_rows().astype(np.float64)
    layer = fold(estimator, "multi", WIDTH)
    assert layer is not None
    np.testing.assert_array_equal(layer(X) > 0, estimator.predict(X))
    if hasattr(estimator, "predict_proba"):
        np.testing.assert_allclose(expit(layer(X)), estimator.predict_proba(X), rtol=1e-7)
    else:
        np.testing.assert_allclose(layer(X), estimator.decision_function(X), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("threshold", [None, 0.5])
def test_centroids_are_two_layers_one_for_the_class_and_one_for_how_sure(threshold: float | None) -> None:
    estimator = fitted("class", "centroid", nearestcentroid__shrink_threshold=threshold)
    X = new_rows().astype(np.float64)
    layer = fold(estimator, "class", WIDTH)
    assert layer is not None and layer.answer == NEAREST
    nearness, scored = np.split(layer(X), 2, axis=1)
    np.testing.assert_array_equal(nearness.argmax(axis=1), estimator.predict(X))
    np.testing.assert_allclose(softmax(scored, axis=1), estimator.predict_proba(X), rtol=1e-6, atol=1e-12)


def test_centroids_with_unequal_priors_predict_by_the_score() -> None:
    X, y = table("class")
    head = make_pipeline(VarianceThreshold(), NearestCentroid(priors=[0.6, 0.3, 0.1])).fit(X.astype(np.float64), y)
    layer, rows = fold(head, "class", WIDTH), new_rows().astype(np.float64)
    assert layer is not None and len(layer.bias) == 3
    np.testing.assert_array_equal(layer(rows).argmax(axis=1), head.predict(rows))
    np.testing.assert_allclose(softmax(layer(rows), axis=1), head.predict_proba(rows), rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("last", [LogisticRegression(max_iter=500), LinearSVC(), LinearDiscriminantAnalysis()])
@pytest.mark.parametrize("classes", [2, 3])
def test_one_against_the_rest_is_normalised_as_scikit_learn_does(last: Any, classes: int) -> None:
    X, y = table("class", classes)
    head = make_pipeline(StandardScaler(), OneVsRestClassifier(last)).fit(X.astype(np.float64), y)
    layer, rows = fold(head, "class", WIDTH), new_rows().astype(np.float64)
    assert layer is not None
    np.testing.assert_array_equal(layer(rows).argmax(axis=1), head.predict(rows))
    if layer.answer == ONE_VS_REST:
        each = expit(layer(rows))
        np.testing.assert_allclose(each / each.sum(axis=1, keepdims=True), head.predict_proba(rows), rtol=1e-7)


def test_principal_components_fold_and_steps_that_are_not_known_do_not() -> None:
    X, y = table("class")
    X, rows = X.astype(np.float64), new_rows().astype(np.float64)
    head = make_pipeline(StandardScaler(), PCA(5, random_state=0), RidgeClassifier()).fit(X, y)
    layer = fold(head, "class", WIDTH)
    assert layer is not None
    np.testing.assert_allclose(layer(rows), head.decision_function(rows), rtol=1e-7, atol=1e-9)
    for other in (make_pipeline(MinMaxScaler(), RidgeClassifier()), make_pipeline(PCA(5, whiten=True), LinearSVC())):
        assert fold(other.fit(X, y), "class", WIDTH) is None


def test_a_subclass_is_not_taken_for_what_it_came_from() -> None:
    class Contrary(LogisticRegression):
        def predict(self, X: np.ndarray) -> np.ndarray:
            return 1 - super().predict(X)

    X, y = table("class", 2)
    assert fold(Contrary(max_iter=500).fit(X, y), "class", WIDTH) is None


# --- ONNX


@pytest.mark.parametrize(("kind", "name"), HEADS)
def test_every_head_of_the_catalogue_says_the_same_in_onnx(kind: str, name: str) -> None:
    pytest.importorskip("skl2onnx", reason="the extra `export` is not installed")
    for classes in (2, 3) if kind == "class" else (3,):
        estimator = fitted(kind, name, classes)
        wanted, found = predict_all(estimator, new_rows(), classes, kind), run(estimator, kind, classes)
        same(wanted, found, kind)


@pytest.mark.parametrize("weights", ["uniform", "distance"])
@pytest.mark.parametrize("k", [1, 6])
@pytest.mark.parametrize("kind", ["class", "number", "multi"])
def test_neighbours_vote_as_in_scikit_learn_also_where_a_row_is_known(kind: str, k: int, weights: str) -> None:
    """Some of the rows were learned from, twice: they alone decide, where votes go by the distance."""
    name = "kneighborsregressor" if kind == "number" else "kneighborsclassifier"
    estimator = fitted(kind, "knn", **{f"{name}__n_neighbors": k, f"{name}__weights": weights})
    same(predict_all(estimator, new_rows(), 3, kind), run(estimator, kind), kind)


def same(wanted: Any, found: dict[str, np.ndarray], kind: str) -> None:
    if kind == "number":
        np.testing.assert_allclose(found["value"], wanted.labels, rtol=1e-5)
        assert found["value"].dtype == np.float32 and set(found) == {"value"}
        return
    answer = {"class": "label", "multi": "tags"}[kind]
    np.testing.assert_array_equal(found[answer], wanted.labels)
    assert found[answer].dtype == np.int64
    sure = "probabilities" if wanted.probabilities is not None else "scores"
    assert set(found) == {answer, sure}
    np.testing.assert_allclose(found[sure], wanted.ranks, rtol=1e-4, atol=2e-6)


def test_features_that_were_stored_in_half_precision_are_rounded_first() -> None:
    estimator = fitted("class", "logistic")
    X = new_rows()
    rounded = predict_all(estimator, X.astype(np.float16).astype(np.float32), 3, "class").probabilities
    plain = predict_all(estimator, X, 3, "class").probabilities
    assert rounded is not None and plain is not None and np.abs(rounded - plain).max() > 1e-4
    np.testing.assert_allclose(run(estimator, "class", store="fp16")["probabilities"], rounded, atol=2e-6)


def test_a_head_that_skl2onnx_does_not_know_is_refused_by_name() -> None:
    pytest.importorskip("skl2onnx", reason="the extra `export` is not installed")

    class Unknown(ExtraTreesRegressor):
        pass

    X, y = table("number")
    with pytest.raises(
        ExportError,
        match=r"head 'it': expected a head that can be converted to ONNX, got one that cannot: skl2onnx .* fails",
    ):
        run(Unknown(3, random_state=0).fit(X, y), "number")


def test_without_skl2onnx_the_command_that_installs_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "skl2onnx", None)
    with pytest.raises(ExportError, match=r"expected skl2onnx.*not installed") as caught:
        run(fitted("class", "mlp"), "class")
    assert caught.value.next_step == onnx_heads.INSTALL == "pip install 'transfer-pipeline[export]'"
    for name in ("logistic", "knn", "hist-gradient-boosting", "dummy", "centroid"):
        assert "label" in run(fitted("class", name), "class")  # these need none


def test_a_layer_maps_rows_to_outputs() -> None:
    layer = LinearLayer(np.array([[1.0, 2.0], [0.0, -1.0]]), np.array([0.5, 0.0]), "scores")
    assert layer(np.array([[1.0, 1.0], [2.0, 0.0]])).tolist() == [[3.5, -1.0], [2.5, 0.0]]
