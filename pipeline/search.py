"""Search: choose a head's parameters by cross-validation within the rows it may see, and refit it on all of them."""

from __future__ import annotations

import contextlib
import difflib
import math
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin, clone

from pipeline.errors import HeadError, PipelineError
from pipeline.heads import Head

# The first one chooses; the others stand beside it.
SCORINGS = {
    "class": ("balanced_accuracy", "accuracy", "f1_macro", "neg_log_loss"),
    "number": ("r2", "neg_mean_absolute_error"),
}
Scorer = Callable[[Any, np.ndarray, np.ndarray], float]


@dataclass(frozen=True, eq=False)
class Fitted:
    """A head refitted on all the rows it was given, with what the search chose.

    Parameters
    ----------
    estimator : fitted scikit-learn estimator
    params : dict
        The chosen values by the estimator's own parameter names; empty without a grid.
    score : float or None
        Mean inner score of the chosen parameters (optimistic: it was chosen as the best); None without a search.
    warnings : tuple of str
        What the estimator warned of, counted.
    seconds : float
    """

    estimator: Any
    params: dict[str, Any]
    score: float | None
    warnings: tuple[str, ...]
    seconds: float


@dataclass(frozen=True, eq=False)
class Predictions:
    """What a head says of n rows.

    Parameters
    ----------
    labels : ndarray, shape (n,)
        int64 codes, or float64 numbers.
    probabilities : ndarray of float64, shape (n, n_classes), or None
        Over all the classes (0 for a class that was not in training); rows sum to 1.
    scores : ndarray of float64, shape (n, n_classes), or None
        The decision function, for heads without probabilities (-inf for a class that was not in training).
    """

    labels: np.ndarray
    probabilities: np.ndarray | None = None
    scores: np.ndarray | None = None

    def take(self, rows: np.ndarray) -> Predictions:
        """Return the predictions of some rows."""
        probabilities = None if self.probabilities is None else self.probabilities[rows]
        scores = None if self.scores is None else self.scores[rows]
        return Predictions(self.labels[rows], probabilities, scores)


def search(
    head: Head,
    X: np.ndarray,
    y: np.ndarray,
    *,
    splits: Sequence[tuple[np.ndarray, np.ndarray]],
    scoring: str,
    labels: int,
    kind: str,
) -> Fitted:
    """Return the head with the parameters that score best over the splits, refitted on all rows of X.

    Parameters
    ----------
    head : Head
    X : ndarray, shape (n, d)
    y : ndarray, shape (n,)
        Codes 0..labels-1 (some may be absent), or numbers.
    splits : sequence of (train, test)
        Positions into X, from `inner_folds`. Not looked at when the grid holds a single combination: nothing is
        chosen then.
    scoring : str
    labels : int
        How many classes there are; 0 for numbers.
    kind : {"class", "number"}

    Raises
    ------
    HeadError
        The estimator failed (named, with its own words), or the scoring does not fit.
    """
    from sklearn.model_selection import GridSearchCV, ParameterGrid

    start = time.perf_counter()
    scorer = make_scorer(scoring, kind, labels)
    if needs_probabilities(scoring) and not head.probabilities:
        raise HeadError(
            f"scoring {scoring!r}: wanted probabilities, found none: head {head.name!r} gives none",
            "choose a head that gives them (see pipeline heads), or another --scoring",
        )
    smallest = min([len(train) for train, _ in splits], default=len(y))
    grid, said = _grid_that_fits(head, smallest, len(y))
    combinations = len(ParameterGrid(grid))
    score: float | None = None
    with _one_thread(), _caught(head.name) as caught:
        if combinations <= 1:
            params = {key: values[0] for key, values in grid.items()}
            fits = 1
            estimator = clone(head.estimator).set_params(**params).fit(X, y)
        else:
            if not len(splits):
                raise HeadError(
                    f"head {head.name!r}: wanted folds to choose among {combinations} combinations, found none",
                    "fix the parameters with --grid HEAD.PARAM=VALUE, or give more rows",
                )
            fits = combinations * len(splits) + 1
            searched = GridSearchCV(
                head.estimator, grid, scoring=scorer, cv=list(splits), refit=_best_index, error_score="raise"
            ).fit(X, y)
            estimator, params = searched.best_estimator_, dict(searched.best_params_)
            scores = _fold_scores(searched.cv_results_)
            score = float(np.nanmean(scores[searched.best_index_]))
            undefined = int(np.isnan(scores).all(axis=0).sum())
            if undefined:
                said.append(f"{head.name}: {scoring} is undefined in {undefined} of {len(splits)} inner folds")
    return Fitted(estimator, params, score, (*said, *_summary(head.name, caught, fits)), time.perf_counter() - start)


def predict_all(estimator: Any, X: np.ndarray, n_classes: int, kind: str) -> Predictions:
    """Return labels, and probabilities (or else scores) over all the classes, in the codes' order.

    A class that the estimator never saw gets probability 0 and score -inf.
    """
    with _one_thread(), _caught(type(estimator).__name__):
        if kind == "number":
            return Predictions(np.asarray(estimator.predict(X), dtype=np.float64).reshape(len(X)))
        codes = np.asarray(estimator.predict(X)).astype(np.int64)
        seen = np.asarray(estimator.classes_).astype(np.int64)
        if hasattr(estimator, "predict_proba"):
            return Predictions(codes, probabilities=_all_classes(estimator.predict_proba(X), seen, n_classes))
        if not hasattr(estimator, "decision_function"):
            return Predictions(codes)
        raw = np.asarray(estimator.decision_function(X), dtype=np.float64)
        if raw.ndim == 1:  # two classes: one signed distance
            raw = np.column_stack([-raw, raw])
        if raw.shape[1] != len(seen):  # one column a pair of classes (ovo): no score for a class
            return Predictions(codes)
        scores = np.full((len(X), n_classes), -np.inf)
        scores[:, seen] = raw
        return Predictions(codes, scores=scores)


def make_scorer(scoring: str, kind: str, n_classes: int) -> Scorer:
    """Return a function (estimator, X, y) -> score that a fold without a class neither stops nor makes warn.

    accuracy, balanced_accuracy, f1_macro, neg_log_loss (classes) and r2, neg_mean_absolute_error (numbers) are scored
    over all `n_classes`; any other name is scikit-learn's own scorer of that name.

    Raises
    ------
    HeadError
        No such scoring (with the nearest names), or one for the other kind of label.
    """
    check_scoring(scoring, kind, n_classes)

    def scorer(estimator: Any, X: np.ndarray, y: np.ndarray) -> float:
        return score_predictions(scoring, y, predict_all(estimator, X, n_classes, kind), kind=kind, n_classes=n_classes)

    return scorer


def check_scoring(scoring: str, kind: str, n_classes: int = 0) -> None:
    """Raise unless the scoring exists and fits the kind of label."""
    from sklearn.metrics import get_scorer_names

    known = get_scorer_names()
    if scoring not in known:
        near = difflib.get_close_matches(scoring, known, n=3, cutoff=0.5)
        raise HeadError(
            f"wanted a scoring, found {scoring!r}",
            f"did you mean --scoring {' or --scoring '.join(near)}?" if near else f"use {', '.join(SCORINGS[kind])}",
        )
    if _scoring_kind(scoring) != kind:
        wanted = {"class": "classes", "number": "numbers"}
        raise HeadError(
            f"scoring {scoring!r}: wanted one for {wanted[kind]}, found one for {wanted[_scoring_kind(scoring)]}",
            f"use {', '.join(SCORINGS[kind])}",
        )
    if kind == "class" and n_classes > 2 and scoring in _TWO_CLASSES:
        near = [f"{scoring}_macro", f"{scoring}_ovr", "matthews_corrcoef"]
        raise HeadError(
            f"scoring {scoring!r}: wanted two classes, found {n_classes}",
            f"use --scoring {next(name for name in near if name in known)}",
        )


def needs_probabilities(scoring: str) -> bool:
    """Say whether the scoring is about probabilities, so that heads without them cannot have it."""
    from sklearn.metrics import get_scorer

    method = getattr(get_scorer(scoring), "_response_method", "predict")
    return method == "predict_proba"


def score_predictions(scoring: str, y: np.ndarray, predictions: Predictions, *, kind: str, n_classes: int) -> float:
    """Return the score of predictions: scikit-learn's own number, without its warnings.

    Balanced accuracy is the mean recall over the classes in `y`; macro F1 is the mean over the classes in `y` or
    among the predictions; log loss clips probabilities as scikit-learn does, by the smallest step of their type.
    """
    labels, P = predictions.labels, predictions.probabilities
    if scoring == "accuracy":
        return float(np.mean(labels == y))
    if scoring == "balanced_accuracy":
        true = np.bincount(y, minlength=n_classes)
        right = np.bincount(y[labels == y], minlength=n_classes)
        return float(np.mean(right[true > 0] / true[true > 0]))
    if scoring == "f1_macro":
        true, said = np.bincount(y, minlength=n_classes), np.bincount(labels, minlength=n_classes)
        right = np.bincount(y[labels == y], minlength=n_classes)
        some = true + said > 0
        return float(np.mean(2 * right[some] / (true + said)[some]))
    if scoring == "neg_log_loss":
        if P is None:
            raise HeadError(
                "scoring 'neg_log_loss': wanted probabilities, found none: this head gives none",
                "choose a head that gives them (see pipeline heads), or another --scoring",
            )
        return -float(np.mean(log_losses(y, P)))
    if scoring == "r2":
        from sklearn.metrics import r2_score

        return float(r2_score(y, labels)) if len(y) > 1 else math.nan
    if scoring == "neg_mean_absolute_error":
        return -float(np.mean(np.abs(y - labels)))
    return _scikit_learns_score(scoring, y, predictions, kind, n_classes)


def _scikit_learns_score(scoring: str, y: np.ndarray, predictions: Predictions, kind: str, n_classes: int) -> float:
    """Return what scikit-learn's scorer of that name says; NaN where it is undefined for these rows."""
    from sklearn.metrics import get_scorer

    rows = np.arange(len(y)).reshape(-1, 1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # classes that are absent, undefined parts: every score says its n
        try:
            return float(get_scorer(scoring)(replay(predictions, kind, n_classes), rows, y))
        except Exception as error:
            present = np.unique(y)
            # ROC AUC and its like want each class in y: score these rows over the classes that they have.
            if kind == "class" and predictions.probabilities is not None and 1 < len(present) < n_classes:
                return _scikit_learns_score(scoring, *_over_present(y, predictions, present), kind, len(present))
            if kind == "class" and len(present) == 1 < n_classes:
                return math.nan
            raise HeadError(
                f"scoring {scoring!r}: wanted a score of {len(y)} rows, found {_first_line(error)}",
                f"use one of {', '.join(SCORINGS[kind])}",
            ) from error


def _over_present(y: np.ndarray, predictions: Predictions, present: np.ndarray) -> tuple[np.ndarray, Predictions]:
    """Return y and predictions recoded to the classes in y, as if only they had been on offer."""
    assert predictions.probabilities is not None
    P = _all_classes(predictions.probabilities[:, present], np.arange(len(present)), len(present))
    return np.searchsorted(present, y), Predictions(P.argmax(axis=1), P)


def log_losses(y: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Return each row's log loss, probabilities clipped as in `sklearn.metrics.log_loss`; shape (n,)."""
    eps = np.finfo(probabilities.dtype).eps
    said = probabilities[np.arange(len(y)), y]
    return -np.log(np.clip(said, eps, 1 - eps))


class _ReplayClassifier(ClassifierMixin, BaseEstimator):
    """Says again what was predicted: X holds row numbers. For scikit-learn's scorers, which want an estimator."""

    def __init__(self, predictions: Predictions | None = None, n_classes: int = 0) -> None:
        self.predictions = predictions
        self.n_classes = n_classes

    def __sklearn_is_fitted__(self) -> bool:
        return True

    @property
    def classes_(self) -> np.ndarray:
        return np.arange(self.n_classes)

    def fit(self, X: np.ndarray, y: np.ndarray) -> _ReplayClassifier:
        return self

    def predict(self, X: np.ndarray) -> np.ndarray:
        assert self.predictions is not None
        return self.predictions.labels[X[:, 0]]


class _WithProbabilities(_ReplayClassifier):
    def predict_proba(self, X: np.ndarray) -> np.ndarray:
        assert self.predictions is not None and self.predictions.probabilities is not None
        return self.predictions.probabilities[X[:, 0]]


class _WithScores(_ReplayClassifier):
    def decision_function(self, X: np.ndarray) -> np.ndarray:
        assert self.predictions is not None and self.predictions.scores is not None
        scores = self.predictions.scores[X[:, 0]]
        return (scores[:, 1] - scores[:, 0]) / 2 if self.n_classes == 2 else scores


class _ReplayRegressor(RegressorMixin, BaseEstimator):
    def __init__(self, predictions: Predictions | None = None) -> None:
        self.predictions = predictions

    def __sklearn_is_fitted__(self) -> bool:
        return True

    def fit(self, X: np.ndarray, y: np.ndarray) -> _ReplayRegressor:
        return self

    def predict(self, X: np.ndarray) -> np.ndarray:
        assert self.predictions is not None
        return self.predictions.labels[X[:, 0]]


def replay(predictions: Predictions, kind: str, n_classes: int) -> Any:
    """Return an estimator that says these predictions again; its X is a column of row numbers."""
    if kind == "number":
        return _ReplayRegressor(predictions)
    if predictions.probabilities is not None:
        return _WithProbabilities(predictions, n_classes)
    if predictions.scores is not None:
        return _WithScores(predictions, n_classes)
    return _ReplayClassifier(predictions, n_classes)


_NUMBER_SCORINGS = ("r2", "explained_variance", "d2_absolute_error_score")
_NUMBER_PREFIXES = ("neg_mean_", "neg_root_mean_", "neg_median_", "neg_max_error")
_TWO_CLASSES = (
    "f1", "precision", "recall", "jaccard", "roc_auc", "neg_brier_score", "d2_brier_score",
    "positive_likelihood_ratio", "neg_negative_likelihood_ratio",
)  # fmt: skip


def _scoring_kind(scoring: str) -> str:
    return "number" if scoring in _NUMBER_SCORINGS or scoring.startswith(_NUMBER_PREFIXES) else "class"


def _all_classes(probabilities: np.ndarray, seen: np.ndarray, n_classes: int) -> np.ndarray:
    """Return probabilities over all classes, in float64, rows summing to 1: (n, seen) -> (n, n_classes)."""
    P = np.zeros((len(probabilities), n_classes))
    P[:, seen] = probabilities
    total = P.sum(axis=1, keepdims=True)
    # float32 rows miss 1 by more than scikit-learn's metrics accept in float64.
    return np.divide(P, total, out=P, where=total > 0)


def _grid_that_fits(head: Head, smallest: int, n: int) -> tuple[dict[str, list[Any]], list[str]]:
    """Return the grid without the numbers of neighbours that a training part does not have, and say so."""
    grid, said = dict(head.grid), []
    for key, values in head.grid.items():
        if key.rpartition("__")[2] != "n_neighbors":
            continue
        # A single value is not searched: it is only fitted, on all the rows.
        rows = n if len(values) == 1 else smallest
        kept = [value for value in values if not isinstance(value, int | np.integer) or value <= rows]
        if not kept:
            raise HeadError(
                f"head {head.name!r}: wanted {min(values)} neighbours, found {rows} rows to learn from",
                f"pass --grid {head.name}.n_neighbors={rows}",
            )
        if len(kept) < len(values):
            grid[key] = kept
            gone = ", ".join(str(value) for value in values if value not in kept)
            said.append(f"{head.name}: n_neighbors {gone} left out: the smallest training part has {rows} rows")
    return grid, said


def _fold_scores(results: dict[str, Any]) -> np.ndarray:
    """Return GridSearchCV's scores, shape (combinations, folds)."""
    folds = sum(key.startswith("split") and key.endswith("_test_score") for key in results)
    return np.column_stack([results[f"split{fold}_test_score"] for fold in range(folds)])


def _best_index(results: dict[str, Any]) -> int:
    """Return the first of the best combinations, over the folds where the score is defined."""
    scores = _fold_scores(results)
    scores = scores[:, ~np.isnan(scores).all(axis=0)]
    if not scores.size or np.isnan(scores).any(axis=1).all():
        raise HeadError(
            "wanted a score that is defined in an inner fold, found none", "choose another --scoring, or add rows"
        )
    return int(np.argmax(np.nan_to_num(scores.mean(axis=1), nan=-np.inf)))


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """One BLAS and OpenMP thread: on these shapes two made a grid five times slower; workers share the cores."""
    from threadpoolctl import threadpool_limits

    with threadpool_limits(limits=1):
        yield


@contextlib.contextmanager
def _caught(name: str) -> Iterator[list[warnings.WarningMessage]]:
    """Collect the warnings within, and turn an estimator's own exception into a HeadError that names the head."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            yield caught
        except (PipelineError, MemoryError):
            raise
        except Exception as error:
            raise HeadError(
                f"head {name!r}: wanted it to learn and predict, found {type(error).__name__}: {_first_line(error)}",
                "change its parameters with --grid, or choose another head",
            ) from error


def _summary(name: str, caught: Sequence[warnings.WarningMessage], fits: int) -> list[str]:
    from sklearn.exceptions import ConvergenceWarning

    stopped = sum(issubclass(w.category, ConvergenceWarning) for w in caught)
    said = []
    if stopped:
        # One estimator may warn once a class; no more fits can have stopped than there were.
        said.append(f"{name}: {min(stopped, fits)} of {fits} fits stopped before converging (max_iter)")
    others = Counter(_first_line(w.message) for w in caught if not issubclass(w.category, ConvergenceWarning))
    others = Counter(
        {text: count for text, count in others.items() if "test scores are non-finite" not in text}
    )  # said
    said += [f"{name}: {text} ({count} times)" if count > 1 else f"{name}: {text}" for text, count in others.items()]
    return said


def _first_line(error: Warning | Exception | str) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
