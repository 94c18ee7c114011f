"""Shrunken centroids: every threshold at once says what scikit-learn's NearestCentroid says, one at a time."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.model_selection import GridSearchCV, KFold

from pipeline.heads import resolve_heads
from pipeline.search.engine import SharedTask, shared_grid, shared_predictions
from pipeline.search.shared_grid_search import SharedGridSearchCV, search_many

(HEAD,) = resolve_heads(["centroid"], kind="class", grid=["centroid.shrink_threshold=30.0,4.0,1.0,0.1,None"])
FOLDS = KFold(3, shuffle=True, random_state=0)
X, DIGIT = load_digits(return_X_y=True)
X, DIGIT = X[:500], DIGIT[:500]


def both(rows: np.ndarray, y: np.ndarray, scoring: str, *, shared: bool = True) -> tuple[Any, Any]:
    ours, oracle = (
        kind(HEAD.estimator, HEAD.grid, scoring=scoring, cv=FOLDS, error_score="raise").fit(rows, y)
        for kind in (SharedGridSearchCV, GridSearchCV)
    )
    assert ours.shared_ == shared
    assert ours.best_params_ == oracle.best_params_
    for key in [key for key in oracle.cv_results_ if key.startswith("split") or key == "mean_test_score"]:
        np.testing.assert_allclose(ours.cv_results_[key], oracle.cv_results_[key], rtol=1e-6, atol=1e-6, err_msg=key)
    return ours, oracle


def without_blank_pixels() -> np.ndarray:
    """Return the digits without pixels that are still in one class: there scikit-learn warns."""
    varies = np.array([[X[digit == DIGIT][:, column].std() > 0.05 for column in range(64)] for digit in range(10)])
    return X[:, varies.all(axis=0)]


@pytest.mark.parametrize("scoring", ["accuracy", "balanced_accuracy", "neg_log_loss", "roc_auc_ovr"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_every_threshold_scores_as_with_gridsearchcv(scoring: str, dtype: type) -> None:
    both(without_blank_pixels().astype(dtype), DIGIT, scoring)


def test_two_classes_and_a_column_of_zeros_score_as_with_gridsearchcv() -> None:
    rows = without_blank_pixels()
    rows = rows + 0.1 * np.random.default_rng(0).normal(size=rows.shape)  # or rows tie, and rounding ranks them
    both(np.hstack([rows, np.zeros((500, 2)), np.full((500, 1), 7.3)]), DIGIT % 2, "roc_auc")
    both(np.hstack([rows * 30, rows]), DIGIT % 2, "roc_auc")


def test_labels_and_probabilities_are_those_of_the_fitted_head() -> None:
    rows = without_blank_pixels()
    train, test = next(iter(FOLDS.split(rows)))
    head = shared_grid(HEAD.estimator, HEAD.grid, "class")
    assert head is not None
    (said,) = shared_predictions(rows, [SharedTask([head], DIGIT, [(train, test)], 10)])
    assert said.predictions is not None
    for candidate, predictions in zip(head.candidates, said.predictions, strict=True):
        fitted = HEAD.estimator.set_params(**candidate).fit(rows[train], DIGIT[train])
        assert (predictions.labels == fitted.predict(rows[test])).all()
        np.testing.assert_allclose(predictions.probabilities, fitted.predict_proba(rows[test]), rtol=1e-7, atol=1e-9)
        np.testing.assert_allclose(predictions.decision, fitted.decision_function(rows[test]), rtol=1e-7)


@pytest.mark.filterwarnings("ignore:self.within_class_std_dev_ has at least 1 zero")
def test_a_column_that_is_still_within_every_class_is_left_to_scikit_learn() -> None:
    rows = np.hstack([without_blank_pixels(), (DIGIT == 3)[:, None] * 1.0])
    both(rows, DIGIT, "accuracy", shared=False)


def test_a_column_that_varies_less_than_the_scaler_sees_is_left_to_scikit_learn() -> None:
    faint = 1.0 + 1e-16 * np.arange(500)[:, None] * 2
    assert np.ptp(faint) > 0
    both(np.hstack([without_blank_pixels(), faint]), DIGIT, "accuracy", shared=False)


def test_many_label_sets_score_as_each_alone() -> None:
    rows = without_blank_pixels()
    sets = {"digit": DIGIT, "odd": DIGIT % 2, "large": np.where(DIGIT > 4, "large", "small")}
    search = SharedGridSearchCV(HEAD.estimator, HEAD.grid, cv=FOLDS)
    found = search_many([search], rows, sets)
    for name, y in sets.items():
        oracle = GridSearchCV(HEAD.estimator, HEAD.grid, cv=FOLDS).fit(rows, y)
        (ours,) = found[name]
        assert ours.shared_
        np.testing.assert_allclose(ours.cv_results_["mean_test_score"], oracle.cv_results_["mean_test_score"])
        assert (ours.predict(rows) == oracle.predict(rows)).all()
