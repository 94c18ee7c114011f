"""Which heads can be written as one linear layer, and how do its outputs become predictions?

The layer includes the scaler of the head; its outputs are in the order of the classes.

A standardized column is ``(x - mean) / scale``, so a layer on standardized features equals another layer on the
features themselves: ``W (x - mean) / scale + b = (W / scale) x + (b - (W / scale) mean)``. The distance to a centroid
is linear too, up to a term that is the same for all classes: ``-|x - c|^2 = 2 c.x - |c|^2 - |x|^2``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

# How the outputs z become predictions; `standalone.answers` implements it in torch, `append_answers` in ONNX.
SOFTMAX = "softmax"  # the largest z is the class, softmax(z) the probabilities
NEAREST = "nearest"  # of 2k outputs the largest of the first k is the class, softmax of the others the probabilities
ONE_VS_REST = "one-vs-rest"  # the largest z is the class, sigmoid(z) the probabilities once they sum to 1
SCORES = "scores"  # the largest z is the class, and z its scores: the head has no probabilities
TAGS = "tags"  # a tag where z > 0, of probability sigmoid(z)
TAG_SCORES = "tag-scores"  # a tag where z > 0, z its score
NUMBER = "number"  # z is the predicted number


@dataclass(frozen=True, eq=False)
class LinearLayer:
    """The layer ``outputs = features @ weight.T + bias``, (n, d) -> (n, m), and the meaning of its outputs.

    Attributes
    ----------
    weight : ndarray of float64, shape (m, d)
    bias : ndarray of float64, shape (m,)
    answer : str
        One of the constants of this module, such as `SOFTMAX`.
    """

    weight: np.ndarray
    bias: np.ndarray
    answer: str

    def __call__(self, X: np.ndarray) -> np.ndarray:
        """Map features, (n, d), to outputs, (n, m)."""
        return X @ self.weight.T + self.bias


def fold(estimator: Any, kind: str, width: int) -> LinearLayer | None:
    """Return the head as one layer on features of this width; None if it is not a known linear head.

    Parameters
    ----------
    estimator : fitted scikit-learn estimator
        A pipeline of scalers and a head, or a bare head; its classes are 0, 1, ..., k - 1.
    kind : {"class", "number", "multi"}
    width : int
    """
    estimator, scale, shift = without_target_scaling(estimator)
    steps, last = steps_of(estimator)
    found = _layer(last, kind, width)
    found = None if found is None else before(steps, found)
    return None if found is None else replace(found, weight=found.weight * scale, bias=found.bias * scale + shift)


def steps_of(estimator: Any) -> tuple[list[Any], Any]:
    """Return the transformers before the head, and the head."""
    from sklearn.pipeline import Pipeline

    if not isinstance(estimator, Pipeline):
        return [], estimator
    *steps, last = (step for _, step in estimator.steps)
    return [step for step in steps if step not in (None, "passthrough")], last


def without_target_scaling(estimator: Any) -> tuple[Any, float, float]:
    """Return a regressor without its target scaling, and the scale and shift that restore the target's units.

    A head without target scaling is returned unchanged, with 1 and 0.
    """
    from sklearn.compose import TransformedTargetRegressor
    from sklearn.pipeline import Pipeline
    from sklearn.preprocessing import StandardScaler

    steps, last = steps_of(estimator)
    if type(last) is not TransformedTargetRegressor or type(last.transformer_) is not StandardScaler:
        return estimator, 1.0, 0.0
    scaler, inner = last.transformer_, last.regressor_
    if steps:
        inner = Pipeline([*((str(number), step) for number, step in enumerate(steps)), ("head", inner)])
    scale = 1.0 if scaler.scale_ is None else float(scaler.scale_[0])
    return inner, scale, 0.0 if scaler.mean_ is None else float(scaler.mean_[0])


def before(steps: Sequence[Any], layer: LinearLayer) -> LinearLayer | None:
    """Return a layer on raw features that equals the steps followed by `layer`; None for unknown steps."""
    from sklearn.decomposition import PCA
    from sklearn.feature_selection import VarianceThreshold
    from sklearn.preprocessing import StandardScaler

    for step in reversed(steps):
        weight, bias = layer.weight, layer.bias
        if type(step) is StandardScaler:
            if step.scale_ is not None:
                weight = weight / step.scale_
            if step.mean_ is not None and step.with_mean:
                bias = bias - weight @ step.mean_
        elif type(step) is VarianceThreshold:
            kept = step.get_support()
            weight = np.zeros((len(weight), len(kept)))
            weight[:, kept] = layer.weight  # (m, kept) -> (m, d)
        elif type(step) is PCA and not step.whiten:
            weight = weight @ np.asarray(step.components_, np.float64)  # (m, c) @ (c, d)
            bias = bias - weight @ np.asarray(step.mean_, np.float64)
        else:
            return None
        layer = replace(layer, weight=weight, bias=bias)
    return layer


def _layer(head: Any, kind: str, width: int) -> LinearLayer | None:
    """Return a bare head as a layer. Types must match exactly: a subclass may predict differently."""
    from sklearn.dummy import DummyClassifier, DummyRegressor
    from sklearn.multiclass import OneVsRestClassifier
    from sklearn.neighbors import NearestCentroid

    if type(head) in (DummyClassifier, DummyRegressor):
        return _constant(head, kind, width)
    if kind == "number":
        return _number(head)
    if type(head) is OneVsRestClassifier:
        return _one_vs_rest(head, kind)
    if type(head) is NearestCentroid:
        return _centroids(head)
    return _decision(head, kind)


def _number(head: Any) -> LinearLayer | None:
    from sklearn.linear_model import ElasticNet, Lasso, LinearRegression, Ridge, RidgeCV

    if type(head) not in (Ridge, RidgeCV, LinearRegression, Lasso, ElasticNet):
        return None
    weight, bias = _coefficients(head)
    return LinearLayer(weight, bias, NUMBER) if len(weight) == 1 else None


def _decision(head: Any, kind: str) -> LinearLayer | None:
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
    from sklearn.linear_model import LogisticRegression, RidgeClassifier, RidgeClassifierCV
    from sklearn.svm import LinearSVC

    with_probabilities = type(head) in (LogisticRegression, LinearDiscriminantAnalysis)
    if not with_probabilities and type(head) not in (LinearSVC, RidgeClassifier, RidgeClassifierCV):
        return None
    weight, bias = _coefficients(head)
    if kind == "multi":
        return None if with_probabilities else LinearLayer(weight, bias, TAG_SCORES)
    if len(weight) == 1:  # two classes: one signed distance z, of which sigmoid(z) is softmax(-z / 2, z / 2)
        share = 0.5 if with_probabilities else 1.0
        weight, bias = np.concatenate([-weight, weight]) * share, np.concatenate([-bias, bias]) * share
    return LinearLayer(weight, bias, SOFTMAX if with_probabilities else SCORES)


def _one_vs_rest(head: Any, kind: str) -> LinearLayer | None:
    """Return the layer of one binary classifier per tag, or per class against all others."""
    each = [_decision(estimator, "class") for estimator in head.estimators_]
    found = [layer for layer in each if layer is not None]
    if len(found) < len(each) or any(layer.answer != found[0].answer for layer in found):
        return None
    halved = found[0].answer == SOFTMAX
    if kind == "class" and len(found) == 1:  # two classes, one signed distance
        return found[0]
    # Each binary layer has two rows, minus and plus the signed distance (or half of it): the second row is used.
    weight = np.concatenate([layer.weight[1:] for layer in found]) * (2.0 if halved else 1.0)
    bias = np.concatenate([layer.bias[1:] for layer in found]) * (2.0 if halved else 1.0)
    if kind == "class":
        return LinearLayer(weight, bias, ONE_VS_REST if halved else SCORES)
    return LinearLayer(weight, bias, TAGS if halved else TAG_SCORES)


def _centroids(head: Any) -> LinearLayer | None:
    """Return the distances to the centroids: plain for the class, divided by the spread for the probabilities.

    Tibshirani et al. (2002), as in `sklearn.neighbors.NearestCentroid`: with equal priors it predicts by the plain
    distance, otherwise by the discriminant score. Its probabilities always come from the discriminant score.
    """
    if head.metric != "euclidean":
        return None
    centroids = np.asarray(head.centroids_, np.float64)
    spread = np.where(head.within_class_std_dev_ != 0, head.within_class_std_dev_, 1.0).astype(np.float64)
    plain = _nearness(centroids, np.zeros(len(centroids)), np.ones_like(spread))
    scored = _nearness(centroids, 2 * np.log(head.class_prior_), spread)
    if not np.isclose(head.class_prior_, 1 / len(centroids)).all():
        return LinearLayer(*scored, SOFTMAX)
    return LinearLayer(np.concatenate([plain[0], scored[0]]), np.concatenate([plain[1], scored[1]]), NEAREST)


def _nearness(centroids: np.ndarray, offset: np.ndarray, spread: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return weight and bias of minus the squared distance over the spread, without terms that all classes share.

    The mean over the classes is subtracted: softmax does not depend on it, and smaller values lose less in float32.
    """
    weight = 2 * centroids / spread**2
    bias = offset - ((centroids / spread) ** 2).sum(axis=1)
    return weight - weight.mean(axis=0), bias - bias.mean()


def _constant(head: Any, kind: str, width: int) -> LinearLayer | None:
    """Return a dummy as a layer with zero weights."""
    if kind == "number":
        values = np.ravel(head.constant_)
        return LinearLayer(np.zeros((1, width)), values, NUMBER) if len(values) == 1 else None
    if head.strategy != "prior":
        return None
    if kind == "class":
        bias = np.log(np.asarray(head.class_prior_, np.float64))
        return LinearLayer(np.zeros((len(bias), width)), bias, SOFTMAX)
    priors = np.array([prior[np.asarray(seen) == 1].sum() for prior, seen in zip(*_priors_by_tag(head), strict=True)])
    with np.errstate(divide="ignore"):  # a tag that all or no training images have has infinite log odds
        return LinearLayer(np.zeros((len(priors), width)), np.log(priors) - np.log1p(-priors), TAGS)


def _priors_by_tag(head: Any) -> tuple[list[np.ndarray], list[np.ndarray]]:
    single = head.n_outputs_ == 1
    return ([head.class_prior_], [head.classes_]) if single else (head.class_prior_, head.classes_)


def _coefficients(head: Any) -> tuple[np.ndarray, np.ndarray]:
    weight = np.atleast_2d(np.asarray(head.coef_, np.float64))
    bias = np.broadcast_to(np.asarray(head.intercept_, np.float64), len(weight))
    return weight, np.array(bias)
