"""Logistic regression in one stack: scikit-learn's choice, its objective or better, its scores once converged."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, KFold, StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from pipeline.heads import resolve_heads
from pipeline.search import make_scorer
from pipeline.search.engine import SharedTask, shared_grid, shared_predictions, shared_scores
from pipeline.search.solvers.logistic import Chain, Coefficients, logistic_coefficients, logistic_predictions, pays_off

DIGITS, DIGIT = load_digits(return_X_y=True)
DIGITS = DIGITS.astype(np.float32)
CS = (1e-4, 1e-3, 1e-2, 1e-1, 1e0, 1e1, 1e2)
Split = tuple[np.ndarray, np.ndarray]


def wide(n: int, d: int = 150, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return features as a network's: a few strong directions, many weak ones, all positive; and three classes."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 3, n)
    strong = rng.normal(size=(n, 12)) + 1.5 * np.eye(3)[y].repeat(4, axis=1)
    X = np.logaddexp(0, strong @ rng.normal(size=(12, d)) + rng.normal(size=(n, d)))
    return X.astype(np.float32), y


def folds(y: np.ndarray, k: int = 3, seed: int = 0) -> list[Split]:
    return list(StratifiedKFold(k, shuffle=True, random_state=seed).split(np.zeros(len(y)), y))


def solved(X: np.ndarray, y: np.ndarray, train: np.ndarray, Cs: Sequence[float] = CS, **how: Any) -> Coefficients:
    (fit,) = logistic_coefficients(X, [Chain(y[train], train, Cs, int(y.max()) + 1)], **how)
    assert fit is not None
    return fit


def objective(X: np.ndarray, y: np.ndarray, W: np.ndarray, b: np.ndarray, C: float) -> float:
    """Return scikit-learn's objective in float64: W are the weights of standardised features."""
    raw = X.astype(np.float64) @ W.T.astype(np.float64) + b
    if raw.shape[1] == 1:
        raw = np.column_stack([np.zeros(len(raw)), raw])
    top = raw.max(axis=1)
    losses = top + np.log(np.exp(raw - top[:, None]).sum(axis=1)) - raw[np.arange(len(y)), y]
    return float(losses.mean() + (W.astype(np.float64) ** 2).sum() / (2 * C * len(y)))


def label_sets() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(3)
    X, y = wide(300)
    return {
        "ten digits": (DIGITS[:500], DIGIT[:500]),
        "one digit": (DIGITS[:500], (DIGIT[:500] == 8).astype(int)),
        "three classes": (X, y),
        "random, separable": (X[:180], rng.integers(0, 2, 180)),
        "random, not separable": (DIGITS[:600], rng.integers(0, 2, 600)),
        "fewer rows than columns": (X[:90], y[:90]),
    }


# ------------------------------------------------------------------------------------- against scikit-learn


@pytest.mark.parametrize("name", label_sets())
def test_the_objective_at_every_c_is_no_higher_than_scikit_learn_s(name: str) -> None:
    X, y = label_sets()[name]
    train, _ = folds(y)[0]
    fit, scaler = solved(X, y, train), StandardScaler().fit(X[train])
    Z = scaler.transform(X[train])
    for C, W, b in zip(CS, fit.weights, fit.intercepts, strict=True):
        theirs = LogisticRegression(C=C, max_iter=2000).fit(Z, y[train])
        ours = objective(Z, y[train], W.T * scaler.scale_, b + scaler.mean_ @ W, C)
        assert ours <= objective(Z, y[train], theirs.coef_, theirs.intercept_, C) * (1 + 1e-6)


@pytest.mark.parametrize("name", label_sets())
def test_scores_are_those_of_scikit_learn_run_to_convergence(name: str) -> None:
    X, y = label_sets()[name]
    ours, theirs = np.zeros((3, len(CS))), np.zeros((3, len(CS)))
    for fold, (train, test) in enumerate(folds(y)):
        (said,) = logistic_predictions(X[test], [solved(X, y, train)])
        for place, C in enumerate(CS):
            model = make_pipeline(StandardScaler(), LogisticRegression(C=C, tol=1e-8, max_iter=20000))
            P = model.fit(X[train].astype(np.float64), y[train]).predict_proba(X[test].astype(np.float64))
            ours[fold, place] = (said[place].labels == y[test]).mean()
            theirs[fold, place] = (P.argmax(axis=1) == y[test]).mean()
            if C <= 1e-2:
                np.testing.assert_allclose(said[place].probabilities, P, atol=2e-3)
    np.testing.assert_allclose(ours.mean(axis=0), theirs.mean(axis=0), atol=0.002)


@pytest.mark.parametrize("scoring", ["balanced_accuracy", "neg_log_loss"])
def test_the_same_c_is_chosen_as_by_gridsearchcv(scoring: str) -> None:
    head = resolve_heads(["logistic"], kind="class", grid=[])[0]
    covered = shared_grid(head.estimator, head.grid, "class")
    assert covered is not None and covered.solver == "logistic"
    rng = np.random.default_rng(5)
    sets = [DIGIT[:500], DIGIT[:500] % 2, DIGIT[:500] // 4, np.where(rng.random(500) < 0.3, 0, DIGIT[:500] % 2)]
    tasks = [SharedTask([covered] * 2, y, folds(y), int(y.max()) + 1) for y in sets]  # twice: enough columns to gain
    for task, tables in zip(tasks, shared_scores(DIGITS[:500], tasks, [scoring] * len(tasks)), strict=True):
        scorer = make_scorer(scoring, "class", task.labels)
        assert tables[0] is not None
        means = np.asarray(tables[0]).mean(axis=1)
        converged = clone(head.estimator).set_params(logisticregression__tol=1e-8, logisticregression__max_iter=20000)
        oracle = GridSearchCV(converged, head.grid, scoring=scorer, cv=task.splits)
        oracle.fit(DIGITS[:500].astype(np.float64), task.y)
        assert means.argmax() == oracle.best_index_
        if scoring == "balanced_accuracy":
            np.testing.assert_allclose(means, oracle.cv_results_["mean_test_score"], atol=0.002)
        # Where it stops by default its scores at weak regularisation are a row or two off: another of equals may win.
        theirs = GridSearchCV(head.estimator, head.grid, scoring=scorer, cv=task.splits).fit(DIGITS[:500], task.y)
        assert theirs.cv_results_["mean_test_score"][means.argmax()] >= theirs.best_score_ - 0.01


def test_an_estimator_or_value_outside_the_range_is_gridsearchcv_s() -> None:
    key = "logisticregression__C"

    def covered(Cs: list[float], **params: Any) -> bool:
        estimator = make_pipeline(StandardScaler(), LogisticRegression(**{"max_iter": 2000, **params}))
        return shared_grid(estimator, {key: Cs}, "class") is not None

    assert covered([1e-6, 1e4], random_state=7)  # lbfgs draws nothing
    assert not covered([1e-7, 1.0])
    assert not covered([1.0, 1e5])
    assert not covered([1.0, 2.0], fit_intercept=False)
    assert not covered([1.0, 2.0], class_weight="balanced")
    assert not covered([1.0, 2.0], max_iter=50)


# ------------------------------------------------------------------------------------- many at once


def test_label_sets_of_own_rows_folds_and_classes_go_through_one_stack() -> None:
    X, y = wide(260)
    rng = np.random.default_rng(8)
    chains = []
    for codes, kept in (
        (y, np.arange(260)),
        (y % 2, np.flatnonzero(rng.random(260) < 0.6)),
        (rng.integers(0, 5, 260), np.flatnonzero(rng.random(260) < 0.8)),
        (np.where(y == 1, 3, y), np.arange(0, 260, 2)),  # of four classes, one never seen
    ):
        for train, _ in KFold(3, shuffle=True, random_state=len(kept)).split(kept):
            rows = kept[train].astype(np.int64)
            chains.append(Chain(codes[rows], rows, CS[:5], 5))
    together = logistic_coefficients(X, chains)
    for chain, fit in zip(chains, together, strict=True):
        (alone,) = logistic_coefficients(X, [chain])
        assert fit is not None and alone is not None
        (said,), (same,) = logistic_predictions(X, [fit]), logistic_predictions(X, [alone])
        for C, ours, again in zip(chain.Cs, said, same, strict=True):
            assert ours.probabilities is not None and ours.probabilities.shape == (260, 5)
            np.testing.assert_allclose(ours.probabilities, again.probabilities, atol=0.01)
            model = make_pipeline(StandardScaler(), LogisticRegression(C=C, tol=1e-8, max_iter=20000))
            P = model.fit(X[chain.train].astype(np.float64), chain.y).predict_proba(X.astype(np.float64))
            np.testing.assert_allclose(ours.probabilities[:, model.classes_], P, atol=0.01)
            assert not ours.probabilities[:, np.setdiff1d(np.arange(5), model.classes_)].any()


def test_side_by_side_is_the_same_as_one_after_the_other() -> None:
    X, y = wide(200)
    chains = [Chain(y[train], train, CS[:4], 3) for train, _ in folds(y, 4)]
    for one, two in zip(logistic_coefficients(X, chains), logistic_coefficients(X, chains, n_jobs=2), strict=True):
        assert one is not None and two is not None
        np.testing.assert_allclose(one.weights, two.weights, atol=2e-3 * np.abs(one.weights).max())


def test_what_one_chain_cannot_do_stops_no_other() -> None:
    X, y = wide(120)
    X[7, 3] = np.nan
    rows = np.arange(120)
    without = rows[rows != 7]
    chains = [
        Chain(y[rows], rows, CS, 3),  # not finite
        Chain(np.zeros(119, int), without, CS, 3),  # a single class
        Chain(y[without], without, CS, 3),
    ]
    assert [fit is not None for fit in logistic_coefficients(X, chains)] == [False, False, True]


def test_many_chains_answer_as_each_alone() -> None:
    X, y = wide(150)
    X += 1000  # a mean that would cost float32 its digits
    fits = [fit for train, _ in folds(y) if (fit := solved(X, y, train))]
    for fit, said in zip(fits, logistic_predictions(X, fits), strict=True):
        for W, b, one in zip(fit.weights, fit.intercepts, said, strict=True):
            raw = X.astype(np.float64) @ W + b
            P = np.exp(raw - raw.max(axis=1, keepdims=True))
            np.testing.assert_allclose(one.probabilities, P / P.sum(axis=1, keepdims=True), atol=1e-3)


def test_cs_in_any_order_come_back_in_theirs() -> None:
    X, y = wide(120)
    train, _ = folds(y)[0]
    up, down = solved(X, y, train, CS), solved(X, y, train, CS[::-1])
    np.testing.assert_array_equal(up.weights, down.weights[::-1])
    twice = solved(X, y, train, (1.0, 0.1, 1.0))
    np.testing.assert_allclose(twice.weights[0], twice.weights[2], atol=1e-3 * np.abs(twice.weights).max())


# ------------------------------------------------------------------------------------- features that hardly vary


def test_a_feature_that_is_constant_in_a_training_part_has_no_weight_there() -> None:
    X, y = wide(150)
    train, test = folds(y)[0]
    X[train, 5] = 3.0
    X[test, 5] = np.linspace(0, 900, len(test))
    fit = solved(X, y, train, CS[:5])
    assert not fit.weights[:, 5].any()
    (said,) = logistic_predictions(X[test], [fit])
    for C, ours in zip(CS, said, strict=False):
        model = make_pipeline(StandardScaler(), LogisticRegression(C=C, tol=1e-8, max_iter=20000))
        P = model.fit(X[train].astype(np.float64), y[train]).predict_proba(X[test].astype(np.float64))
        np.testing.assert_allclose(ours.probabilities, P, atol=0.01)


@pytest.mark.parametrize(("spread", "covered"), [(3e-4, True), (1e-6, False)])
def test_a_feature_that_varies_elsewhere_alone_is_learnt_rightly_or_left_to_scikit_learn(
    spread: float, covered: bool
) -> None:
    X, y = wide(150)
    train, test = folds(y)[0]
    rng = np.random.default_rng(2)
    X[:, 5] = 0
    X[train, 5] = (y[train] + rng.normal(size=len(train))) * spread
    X[test, 5] = rng.normal(size=len(test)) * 1.5
    fit, other = logistic_coefficients(X, [Chain(y[rows], rows, CS[:5], 3) for rows in (train, np.arange(150))])
    assert other is not None
    assert (fit is not None) == covered
    if fit is not None:
        (said,) = logistic_predictions(X[train], [fit])
        for C, ours in zip(CS, said, strict=False):
            model = make_pipeline(StandardScaler(), LogisticRegression(C=C, tol=1e-8, max_iter=20000))
            P = model.fit(X[train].astype(np.float64), y[train]).predict_proba(X[train].astype(np.float64))
            np.testing.assert_allclose(ours.probabilities, P, atol=0.01)


# ------------------------------------------------------------------------------------- where it is used, and on what


def test_a_label_set_that_gains_nothing_is_left_to_scikit_learn() -> None:
    X, y = wide(300)
    one = [Chain(y[:200] % 2, np.arange(200), CS, 2)]
    assert not pays_off(one, 150)  # about as many rows as features
    assert pays_off(one, 1280)
    assert pays_off(one * 100, 150)
    assert not pays_off(one, 64)  # a single fit of few features is all overhead
    assert pays_off(one * 5, 12)  # pixel statistics in five folds
    assert not pays_off([Chain(y, np.arange(300), [1.0], 3)] * 100, 150)  # a single C
    assert pays_off(one, 64, device="cuda")
    covered = shared_grid(*_logistic(), "class")
    assert covered is not None
    (said,) = shared_predictions(X[:, :64], [SharedTask([covered], y % 2, folds(y)[:1], 2)])
    assert said.predictions is None


def test_torch_s_arrays_give_what_numpy_s_do() -> None:
    X, y = wide(200)
    train, test = folds(y)[0]
    _agree_on("torch", X, y, train, test)


@pytest.mark.gpu
def test_a_gpu_gives_what_the_cpu_does() -> None:
    X, y = wide(2000, d=300)
    train, test = folds(y)[0]
    _agree_on("cuda", X, y, train, test)


def _agree_on(device: str, X: np.ndarray, y: np.ndarray, train: np.ndarray, test: np.ndarray) -> None:
    for codes in (y, y % 2):
        here, there = solved(X, codes, train), solved(X, codes, train, device=device)
        (said,), (same,) = logistic_predictions(X[test], [here]), logistic_predictions(X[test], [there])
        for one, other in zip(said, same, strict=True):
            np.testing.assert_allclose(one.probabilities, other.probabilities, atol=0.01)


def _logistic() -> tuple[Any, dict[str, list[Any]]]:
    head = resolve_heads(["logistic"], kind="class", grid=[])[0]
    return head.estimator, head.grid
