"""The search room: it chooses as GridSearchCV does, scores as scikit-learn does, and swallows nothing."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import threadpoolctl
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.dummy import DummyClassifier, DummyRegressor
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score, f1_score, get_scorer, log_loss, roc_auc_score
from sklearn.model_selection import GridSearchCV
from sklearn.neighbors import KNeighborsClassifier
from sklearn.svm import SVC

from pipeline.errors import HeadError
from pipeline.heads import Head, resolve_heads
from pipeline.search import (
    Predictions,
    best_guess,
    check_scoring,
    make_scorer,
    needs_probabilities,
    predict_all,
    score_predictions,
    search,
)
from pipeline.splits import inner_folds

RNG = np.random.default_rng(3)
Y = np.arange(90) % 3
X = (RNG.normal(size=(90, 12)) + 1.2 * np.eye(3)[Y].repeat(4, axis=1)).astype(np.float32)


def head(estimator: Any, grid: dict[str, list[Any]] | None = None, kind: str = "class") -> Head:
    return Head("mine", kind, estimator, grid or {})


def run(h: Head, *, y: np.ndarray = Y, scoring: str = "balanced_accuracy", labels: int = 3, **options: Any) -> Any:
    splits = options.pop("splits", None) or inner_folds(y, "class")
    return search(h, X, y, splits=splits, scoring=scoring, labels=labels, kind="class")


# ------------------------------------------------------------------------------------------------ choosing


@pytest.mark.parametrize("name", ["logistic", "knn", "ridge"])
def test_the_choice_is_that_of_gridsearchcv(name: str) -> None:
    (h,) = resolve_heads([name], kind="class")
    splits = inner_folds(Y, "class")
    found = run(h, splits=splits)
    oracle = GridSearchCV(h.estimator, h.grid, scoring="balanced_accuracy", cv=splits).fit(X, Y)
    assert found.params == oracle.best_params_
    assert found.score == pytest.approx(oracle.best_score_)
    assert (found.estimator.predict(X) == oracle.predict(X)).all()
    assert not hasattr(h.estimator, "classes_")  # the head itself stays unfitted


def test_a_single_combination_is_fitted_without_a_search() -> None:
    for grid, C in (({}, 1.0), ({"C": [7.0]}, 7.0)):
        found = search(head(SVC(), grid), X, Y, splits=[], scoring="accuracy", labels=3, kind="class")
        assert (found.score, found.params) == (None, grid and {"C": 7.0})
        assert found.estimator.C == C
        assert (found.estimator.predict(X) == SVC(C=C).fit(X, Y).predict(X)).all()


def test_a_grid_without_folds_is_refused() -> None:
    with pytest.raises(HeadError, match="expected folds to choose among 2 combinations, got none"):
        search(head(SVC(), {"C": [1, 2]}), X, Y, splits=[], scoring="accuracy", labels=3, kind="class")


def test_more_neighbours_than_rows_are_left_out_aloud() -> None:
    (h,) = resolve_heads(["knn"], kind="class")
    rows = np.arange(18)
    splits = inner_folds(Y[rows], "class", cv=2)
    found = search(h, X[rows], Y[rows], splits=splits, scoring="accuracy", labels=3, kind="class")
    assert found.warnings == ("knn: n_neighbors 20, 10 left out: the smallest training part has 9 rows",)
    assert found.params["kneighborsclassifier__n_neighbors"] <= 9
    (fixed,) = resolve_heads(["knn"], kind="class", grid=["knn.n_neighbors=50", "knn.weights=uniform"])
    with pytest.raises(HeadError, match=r"expected 50 neighbours, got 18 training rows\ntry: pass --grid knn"):
        search(fixed, X[rows], Y[rows], splits=splits, scoring="accuracy", labels=3, kind="class")


def test_fits_that_stop_early_are_counted_and_not_printed() -> None:
    (h,) = resolve_heads(["logistic"], kind="class", grid=["logistic.max_iter=1", "logistic.C=0.1,100"])
    splits = inner_folds(Y, "class")
    found = run(h, splits=splits)
    assert found.warnings == ("logistic: 11 of 11 fits stopped before converging (max_iter)",)


class Odd(ClassifierMixin, BaseEstimator):
    """Warns, or fails, as told."""

    def __init__(self, trouble: str = "", strength: int = 0) -> None:
        self.trouble = trouble
        self.strength = strength

    def fit(self, X: np.ndarray, y: np.ndarray) -> Odd:
        self.classes_ = np.unique(y)
        if self.trouble == "warn":
            warnings.warn("columns are alike\nand more", RuntimeWarning, stacklevel=2)
        elif self.trouble == "twice":
            for _ in range(2):
                warnings.warn("not yet", ConvergenceWarning, stacklevel=2)
        elif self.trouble == "threads":
            self.threads_ = {pool["num_threads"] for pool in threadpoolctl.threadpool_info()}
        elif self.trouble:
            raise ZeroDivisionError("no such thing\nas this")
        return self

    def predict(self, X: np.ndarray) -> np.ndarray:
        return np.full(len(X), self.classes_[0])


def test_other_warnings_come_back_as_text_with_a_count() -> None:
    assert run(head(Odd("warn"))).warnings == ("mine: columns are alike",)
    found = run(head(Odd("warn"), {"strength": [1, 2]}))
    assert found.warnings == ("mine: columns are alike (11 times)",)
    assert run(head(Odd("twice"))).warnings == ("mine: 1 of 1 fits stopped before converging (max_iter)",)


@pytest.mark.parametrize("grid", [{}, {"strength": [1, 2]}])
def test_an_estimators_own_error_names_the_head_and_the_cause(grid: dict[str, list[Any]]) -> None:
    with pytest.raises(HeadError) as caught:
        run(head(Odd("fail"), grid))
    assert caught.value.message == "head 'mine': expected it to learn and predict, got ZeroDivisionError: no such thing"
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    with pytest.raises(HeadError, match="The 'C' parameter of SVC must be"):
        run(head(SVC(), {"C": [-1]}))


def test_a_fit_has_one_thread() -> None:
    assert run(head(Odd("threads"))).estimator.threads_ == {1}


def test_the_first_of_equals_is_chosen() -> None:
    assert run(head(Odd(), {"strength": [5, 1, 9]})).params == {"strength": 5}


def test_rows_are_read_and_not_copied_or_changed(tmp_path: Any) -> None:
    np.save(tmp_path / "x.npy", X)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    (h,) = resolve_heads(["logistic"], kind="class", grid={"logistic.C": [0.01, 1]})
    found = search(h, mapped, Y, splits=inner_folds(Y, "class"), scoring="accuracy", labels=3, kind="class")
    assert (found.estimator.predict(X) == run(h, scoring="accuracy").estimator.predict(X)).all()


# ---------------------------------------------------------------------------------------------- predictions


def test_probabilities_stand_in_the_columns_of_all_the_classes() -> None:
    seen = Y != 1
    model = LogisticRegression().fit(X[seen], 2 * Y[seen])  # codes 0 and 4 of 6
    said = predict_all(model, X, 6, "class")
    assert said.probabilities is not None
    assert said.probabilities.shape == (90, 6)
    np.testing.assert_allclose(said.probabilities[:, [0, 4]], model.predict_proba(X), rtol=1e-6)
    assert (said.probabilities[:, [1, 2, 3, 5]] == 0).all()
    np.testing.assert_allclose(said.probabilities.sum(axis=1), 1, rtol=1e-12)
    assert (said.labels == model.predict(X)).all()
    assert said.labels.dtype == np.int64


def test_scores_of_absent_classes_are_minus_infinity_and_the_argmax_is_the_label() -> None:
    for codes in (Y, np.where(Y == 1, 0, Y)):  # three classes, and two
        model = SVC(break_ties=True).fit(X, 2 * codes)
        said = predict_all(model, X, 5, "class")
        assert said.probabilities is None
        assert said.scores is not None
        assert (said.scores.argmax(axis=1) == said.labels).all()
        assert np.isneginf(said.scores[:, [1, 3]]).all()
    ovo = SVC(decision_function_shape="ovo").fit(X[:, :4], np.arange(90) % 4)
    assert predict_all(ovo, X[:, :4], 4, "class").scores is None


def test_numbers_are_float64_of_one_dimension() -> None:
    (h,) = resolve_heads(["svr"], kind="number", grid={"svr.C": 1})
    found = search(h, X, Y * 1.0, splits=[], scoring="r2", labels=0, kind="number")
    said = predict_all(found.estimator, X, 0, "number")
    assert (said.labels.shape, said.labels.dtype, said.probabilities) == ((90,), np.float64, None)


@pytest.mark.parametrize("kind", ["class", "number", "multi"])
def test_the_best_guess_is_what_a_dummy_says_of_the_rows_that_it_learned_from(kind: str) -> None:
    rng = np.random.default_rng(0)
    y = {
        "class": rng.choice(4, 50, p=[0.1, 0.5, 0.1, 0.3]),
        "number": rng.normal(size=50),
        "multi": (rng.random((50, 3)) < [0.2, 0.6, 0.9]).astype(np.int8),
    }[kind]
    dummy = DummyRegressor() if kind == "number" else DummyClassifier(strategy="prior")
    wanted = predict_all(dummy.fit(np.zeros((50, 1)), y), np.zeros((50, 1)), 4, kind)
    found = best_guess(y, kind, 4)
    np.testing.assert_allclose(found.labels, wanted.labels)
    if kind != "number":
        np.testing.assert_allclose(found.probabilities, wanted.probabilities)


def test_taking_rows_takes_them_of_every_part() -> None:
    said = Predictions(np.arange(4), np.eye(4), None).take(np.array([2, 0]))
    assert said.labels.tolist() == [2, 0]
    assert said.probabilities is not None
    assert said.probabilities.argmax(axis=1).tolist() == [2, 0]


# -------------------------------------------------------------------------------------------------- scoring


@pytest.mark.parametrize("scoring", ["accuracy", "balanced_accuracy", "f1_macro", "neg_log_loss", "roc_auc_ovr"])
def test_scores_of_classes_are_scikit_learns(scoring: str) -> None:
    wide = X.astype(np.float64)  # in float32 our rows are made to sum to 1 more exactly than scikit-learn's
    model = LinearDiscriminantAnalysis().fit(wide[:40], Y[:40])
    said = predict_all(model, wide[40:], 3, "class")
    ours = score_predictions(scoring, Y[40:], said, kind="class", n_classes=3)
    assert ours == pytest.approx(get_scorer(scoring)(model, wide[40:], Y[40:]), rel=1e-12)
    assert make_scorer(scoring, "class", 3)(model, wide[40:], Y[40:]) == ours


@pytest.mark.parametrize("scoring", ["r2", "neg_mean_absolute_error", "neg_root_mean_squared_error"])
def test_scores_of_numbers_are_scikit_learns(scoring: str) -> None:
    (h,) = resolve_heads(["ridge"], kind="number")
    wide = X.astype(np.float64)
    y = wide[:, 0] + 100
    model = h.estimator.fit(wide[:40], y[:40])
    said = predict_all(model, wide[40:], 0, "number")
    ours = score_predictions(scoring, y[40:], said, kind="number", n_classes=0)
    assert ours == pytest.approx(get_scorer(scoring)(model, wide[40:], y[40:]), rel=1e-12)


def test_a_fold_without_a_class_neither_raises_nor_warns() -> None:
    model = LogisticRegression().fit(X[Y != 2], Y[Y != 2])  # never saw class 2
    rows = np.flatnonzero(Y != 0)  # and class 0 is not tested
    y = Y[rows]
    said = predict_all(model, X[rows], 3, "class")
    assert said.probabilities is not None

    def score(scoring: str) -> float:
        return make_scorer(scoring, "class", 3)(model, X[rows], y)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scikit-learn's own do warn
        assert score("balanced_accuracy") == pytest.approx(balanced_accuracy_score(y, said.labels))
        assert score("f1_macro") == pytest.approx(f1_score(y, said.labels, average="macro"))
        assert score("neg_log_loss") == pytest.approx(-log_loss(y, said.probabilities, labels=[0, 1, 2]))
    for scoring in ("accuracy", "balanced_accuracy", "f1_macro", "neg_log_loss", "f1_weighted", "roc_auc_ovr"):
        assert np.isfinite(score(scoring))


def test_roc_auc_of_a_fold_without_a_class_is_over_the_classes_there_are() -> None:
    model = LogisticRegression().fit(X, Y)
    rows = np.flatnonzero(Y != 0)
    P = model.predict_proba(X[rows])[:, 1:]
    expected = roc_auc_score(Y[rows] == 2, P[:, 1] / P.sum(axis=1))
    assert make_scorer("roc_auc_ovr", "class", 3)(model, X[rows], Y[rows]) == pytest.approx(expected)


def test_a_score_that_a_fold_does_not_have_is_left_out_of_the_choice_aloud() -> None:
    y = np.r_[np.zeros(45, int), np.ones(45, int)]
    splits = [
        (np.arange(0, 90, 2), np.arange(1, 90, 2)),
        (np.arange(30, 90), np.arange(30)),
    ]  # the second tests one class
    found = run(head(KNeighborsClassifier(), {"n_neighbors": [3, 5]}), y=y, labels=2, scoring="roc_auc", splits=splits)
    assert found.warnings == ("mine: roc_auc is undefined in 1 of 2 inner folds",)
    assert found.score is not None and np.isfinite(found.score)
    with pytest.raises(HeadError, match="expected a score that is defined in an inner fold, got none"):
        run(head(KNeighborsClassifier(), {"n_neighbors": [3, 5]}), y=y, labels=2, scoring="roc_auc", splits=splits[1:])


@pytest.mark.parametrize(
    ("scoring", "kind", "message", "step"),
    [
        ("acuracy", "class", "expected a scoring, got 'acuracy'", "did you mean --scoring accuracy"),
        ("zzz", "number", "expected a scoring, got 'zzz'", "use r2, neg_mean_absolute_error"),
        ("r2", "class", "expected one for classes, got one for numbers", "use balanced_accuracy, accuracy"),
        ("accuracy", "number", "expected one for numbers, got one for classes", "use r2"),
        ("f1", "class", "expected two classes, got 3", "--scoring f1_macro"),
        ("roc_auc", "class", "expected two classes, got 3", "--scoring roc_auc_ovr"),
    ],
)
def test_scorings_that_cannot_be_had(scoring: str, kind: str, message: str, step: str) -> None:
    with pytest.raises(HeadError) as caught:
        make_scorer(scoring, kind, 3)
    assert message in caught.value.message
    assert step in caught.value.next_step


def test_scorings_about_probabilities_say_so() -> None:
    assert needs_probabilities("neg_log_loss") and needs_probabilities("roc_auc_ovr")
    assert not needs_probabilities("accuracy") and not needs_probabilities("roc_auc")
    with pytest.raises(HeadError, match="scoring 'neg_log_loss': expected probabilities, got none: head 'ridge'"):
        run(resolve_heads(["ridge"], kind="class")[0], scoring="neg_log_loss")
    with pytest.raises(HeadError, match="expected probabilities, got none"):
        score_predictions("neg_log_loss", Y, Predictions(Y), kind="class", n_classes=3)


def test_every_scoring_of_scikit_learn_has_a_kind_or_an_error() -> None:
    from sklearn.metrics import get_scorer_names

    model = DummyClassifier().fit(X, Y)
    numbers = [name for name in get_scorer_names() if _fits(name, "number")]
    assert {"r2", "neg_max_error", "neg_root_mean_squared_error", "d2_absolute_error_score"} <= set(numbers)
    assert not {"accuracy", "f1_macro", "neg_log_loss", "roc_auc", "top_k_accuracy"} & set(numbers)
    for name in get_scorer_names():
        if name not in numbers and not name.endswith("_samples") and _fits(name, "class"):
            assert np.isfinite(make_scorer(name, "class", 3)(model, X, Y)), name


def _fits(scoring: str, kind: str) -> bool:
    try:
        check_scoring(scoring, kind, 3)
    except HeadError:
        return False
    return True
