"""GridSearchCV with the work of a grid, and of many label sets, done once per fold where their parameters allow it."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.base import clone, is_classifier, is_regressor
from sklearn.metrics import check_scoring
from sklearn.model_selection import GridSearchCV, check_cv
from sklearn.utils import _safe_indexing

from pipeline.search.engine import SharedGrid, SharedTask, shared_grid, shared_predictions
from pipeline.search.predictions import Predictions, ReplayClassifier, replay
from pipeline.search.scoring import OverAllClasses
from pipeline.search.solvers.backend import one_thread

Score = Callable[[np.ndarray, np.ndarray, Predictions], float]  # of a split's codes to learn and to test


def score_of(scoring: Any, kind: str, classes: np.ndarray | None) -> tuple[Score, bool] | None:
    """Return how predictions are scored, and whether labels are enough; None where only GridSearchCV can score them.

    A name is scikit-learn's scorer of that name, over the classes of the training part as scikit-learn has them.
    """
    from sklearn.metrics import get_scorer, get_scorer_names

    if isinstance(scoring, OverAllClasses):
        fits = scoring.kind == kind and (classes is None or scoring.n_classes >= len(classes))
        return (lambda train, y, predicted: scoring.of(y, predicted), scoring.labels_only) if fits else None
    name = scoring or ("accuracy" if kind == "class" else "r2")
    if not isinstance(name, str) or name not in get_scorer_names():
        return None
    if name == "accuracy" and kind == "class":
        return (lambda train, y, predicted: float(np.mean(predicted.labels == y))), True
    scorer = get_scorer(name)
    rows = [np.empty((0, 1), np.intp)]

    def score(train: np.ndarray, y: np.ndarray, predicted: Predictions) -> float:
        if len(rows[0]) != len(y):
            rows[0] = np.arange(len(y))[:, None]
        if classes is None:
            return float(scorer(replay(predicted, kind, 0), rows[0], y))
        return float(scorer(ReplayClassifier(predicted, classes, np.unique(train)), rows[0], classes[y]))

    return score, False


def layout(
    candidates: list[dict[str, Any]], scores: np.ndarray, fitting: np.ndarray, scored: np.ndarray
) -> dict[str, Any]:
    """Return scores and seconds, each of shape (candidates, splits), as GridSearchCV's `cv_results_`."""
    from scipy.stats import rankdata

    results: dict[str, Any] = {}
    for name, seconds in (("fit", fitting), ("score", scored)):
        results[f"mean_{name}_time"], results[f"std_{name}_time"] = seconds.mean(axis=1), seconds.std(axis=1)
    for key in sorted({key for candidate in candidates for key in candidate}):
        results[f"param_{key}"] = _masked([candidate.get(key, np.ma.masked) for candidate in candidates])
    results["params"] = candidates
    results |= {f"split{fold}_test_score": scores[:, fold] for fold in range(scores.shape[1])}
    mean = scores.mean(axis=1)
    results["mean_test_score"], results["std_test_score"] = mean, scores.std(axis=1)
    lowest = np.nan if np.isnan(mean).all() else np.nanmin(mean) - 1
    ranks = np.ones(len(mean)) if np.isnan(lowest) else rankdata(-np.where(np.isnan(mean), lowest, mean), method="min")
    results["rank_test_score"] = ranks.astype(np.int32)
    return results


def _masked(values: list[Any]) -> np.ma.MaskedArray:
    """Return one parameter's values, those that a candidate does not set masked."""
    mask = [value is np.ma.masked for value in values]
    given = np.array([value for value in values if value is not np.ma.masked])
    dtype = given.dtype if given.dtype.kind in "biuf" else np.dtype(object)
    column = np.ma.MaskedArray(np.empty(len(values), dtype), mask=mask)
    for place, value in enumerate(values):
        if not mask[place]:
            column[place] = value
    return column


class SharedGridSearchCV(GridSearchCV):
    """GridSearchCV that learns ridge, lda, knn and centroid heads once per fold for the whole grid.

    Choices and scores are GridSearchCV's; those of logistic regression, which scikit-learn stops early where C is
    large, are of fits that are converged at least as far. It *is* GridSearchCV wherever nothing can be shared:
    for another estimator, parameter or value, several scorings, fit parameters, or rows that scikit-learn would warn
    of. The refitted estimator is a clone.

    Parameters
    ----------
    estimator : estimator
        Shared are pipelines of StandardScaler and, named as `make_pipeline` does and with otherwise default parameters,
        RidgeClassifier, Ridge, LinearDiscriminantAnalysis(solver="lsqr"), KNeighborsClassifier or
        KNeighborsRegressor(algorithm="brute"); and of VarianceThreshold, StandardScaler and NearestCentroid.
    param_grid : dict or list of dict
        Shared are alpha, shrinkage, n_neighbors with weights, and shrink_threshold; lists of grids are not.
    scoring : str or callable, default=None
        A scorer's name, or None for the estimator's own score; callables of your own are GridSearchCV's.
    n_jobs : int, default=None
        Threads that take a fold each, with one BLAS thread; GridSearchCV's processes where nothing is shared.
    refit, cv, verbose, pre_dispatch, error_score, return_train_score
        As GridSearchCV's.
    device : str, default="cpu"
        "cuda" and the like: decompositions, products and distances there, through torch.

    Attributes
    ----------
    shared_ : bool
        Whether the work was shared.
    cv_results_, best_estimator_, best_score_, best_params_, best_index_, scorer_, n_splits_, refit_time_, classes_
        As GridSearchCV's. The times in `cv_results_` are each candidate's part of the shared work.

    See Also
    --------
    search_many : Several searches and label sets at once.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sklearn.linear_model import RidgeClassifier
    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn.preprocessing import StandardScaler
    >>> X, y = load_digits(return_X_y=True)
    >>> ridge = make_pipeline(StandardScaler(), RidgeClassifier())
    >>> search = SharedGridSearchCV(ridge, {"ridgeclassifier__alpha": [1000.0, 1.0]}, cv=3).fit(X, y)
    >>> search.best_params_, search.shared_
    ({'ridgeclassifier__alpha': 1.0}, True)
    """

    def __init__(
        self,
        estimator: Any,
        param_grid: Any,
        *,
        scoring: Any = None,
        n_jobs: int | None = None,
        refit: Any = True,
        cv: Any = None,
        verbose: int = 0,
        pre_dispatch: Any = "2*n_jobs",
        error_score: Any = np.nan,
        return_train_score: bool = False,
        device: str = "cpu",
    ) -> None:
        super().__init__(
            estimator,
            param_grid,
            scoring=scoring,
            n_jobs=n_jobs,
            refit=refit,
            cv=cv,
            verbose=verbose,
            pre_dispatch=pre_dispatch,
            error_score=error_score,
            return_train_score=return_train_score,
        )
        self.device = device

    def fit(self, X: Any, y: Any = None, **params: Any) -> SharedGridSearchCV:
        """Score every combination over the folds, and refit the best on all rows.

        Parameters
        ----------
        X : array-like of shape (n, d)
        y : array-like of shape (n,)
        **params : dict
            `groups` go to the splitter; with any other parameter the search is GridSearchCV's.
        """
        _fit_all([_Search(self, X, y, params)])
        return self

    def fit_many(self, X: Any, ys: Any, *, groups: Any = None) -> Any:
        """Return a fitted copy of this search for each label set: `search_many` of this one alone."""
        found = search_many([self], X, ys, groups=groups)
        return (
            {name: each[0] for name, each in found.items()}
            if isinstance(found, dict)
            else [fitted[0] for fitted in found]
        )


def search_many(searches: Sequence[SharedGridSearchCV], X: Any, ys: Any, *, groups: Any = None) -> Any:
    """Return each search fitted to each label set, as if one by one; work on the same rows is done once for all.

    Parameters
    ----------
    searches : sequence of SharedGridSearchCV
        Not fitted themselves: copies are. The first one's `n_jobs` and `device` hold for all.
    X : array-like of shape (n, d)
    ys : mapping of name to array-like of shape (n,), DataFrame, or sequence of such arrays
        None and NaN are missing labels: those rows are left out of that label set alone. -1 is a label like others.
    groups : array-like of shape (n,), default=None
        For splitters that need them.

    Returns
    -------
    dict of name to list of SharedGridSearchCV, or list of such lists
        One list a label set, in the order of `searches`.

    Notes
    -----
    Label sets share a decomposition where their folds hold the very same rows: pass `cv=KFold(5, shuffle=True,
    random_state=0)` or another splitter that does not look at labels, or a list of splits (positions into X; rows
    without a label are left out of them). A number stratifies each label set for itself, as in GridSearchCV.
    """
    named = hasattr(ys, "items")
    pairs = list(ys.items()) if named else list(enumerate(ys))
    fitted: dict[Any, list[SharedGridSearchCV]] = {}
    todo = []
    for name, y in pairs:
        labels = np.asarray(y)
        labeled = _has_label(labels)
        rows = np.flatnonzero(labeled)
        fitted[name] = [clone(search) for search in searches]
        every = len(rows) == len(labels)
        own = labels if every else _without_gaps(labels[rows])
        options = {} if groups is None else {"groups": np.asarray(groups)[rows]}
        todo += [_Search(copy, X, own, options, None if every else rows) for copy in fitted[name]]
    _fit_all(todo)
    return fitted if named else list(fitted.values())


def _has_label(y: np.ndarray) -> np.ndarray:
    """Say which rows have a label."""
    if y.dtype.kind == "O":
        return np.array([value is not None and bool(np.all(value == value)) for value in y], dtype=bool)
    return ~np.isnan(y) if y.dtype.kind == "f" and y.ndim == 1 else np.ones(len(y), bool)


def _without_gaps(y: np.ndarray) -> np.ndarray:
    """Return labels in the type that they have without missing ones among them."""
    if y.dtype.kind == "O":
        return np.array(y.tolist())
    whole = y.dtype.kind == "f" and bool((y == np.rint(y)).all())
    return y.astype(np.int64) if whole else y


@dataclass(eq=False)
class _Search:
    """One search for one label set: the estimator to fit, and the rows of X that have a label (None: all)."""

    estimator: SharedGridSearchCV
    X: Any
    y: Any
    params: dict[str, Any]
    rows: np.ndarray | None = None

    def own_rows(self) -> Any:
        """Return the rows of X that have a label."""
        if self.rows is None:
            return self.X
        return _safe_indexing(self.X, self.rows)

    def as_grid_search(self) -> None:
        """Fit as GridSearchCV does."""
        self.estimator.shared_ = False
        if self.rows is not None and not hasattr(self.estimator.cv, "split") and np.iterable(self.estimator.cv):
            cv, self.estimator.cv = self.estimator.cv, _within(self.estimator.cv, self.rows)
            try:
                GridSearchCV.fit(self.estimator, self.own_rows(), self.y, **self.params)
            finally:
                self.estimator.cv = cv
        else:
            GridSearchCV.fit(self.estimator, self.own_rows(), self.y, **self.params)


def _within(splits: Any, rows: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return splits of all rows as positions into some of them; the others are left out."""
    splits = [(_positions(train), _positions(test)) for train, test in splits]
    place = np.full(
        1 + max(int(part.max(initial=0)) for part in [rows, *(part for split in splits for part in split)]), -1
    )
    place[rows] = np.arange(len(rows))
    return [tuple(found[found >= 0] for found in (place[train], place[test])) for train, test in splits]


@dataclass(eq=False)
class _Plan:
    """A search that can share its work."""

    search: _Search
    head: SharedGrid
    splits: list[tuple[np.ndarray, np.ndarray]]  # positions into the label set's own rows
    codes: np.ndarray
    labels: int
    score: Score
    labels_only: bool
    scores: np.ndarray
    fitting: np.ndarray
    scored: np.ndarray
    refused: bool = False


def _fit_all(searches: Sequence[_Search]) -> None:
    plans, numbers = [], None
    for search in searches:
        numbers = _numbers(search.X) if numbers is None else numbers
        plan = None if numbers is None else _planned(search, len(numbers))
        if plan is None:
            search.as_grid_search()
        else:
            plans.append(plan)
    if not plans or numbers is None:
        return
    _score(numbers, plans)
    for plan in plans:
        if plan.refused or (np.isnan(plan.scores).any() and not callable(plan.search.estimator.refit)):
            plan.search.as_grid_search()  # with its own words
        else:
            _finish(plan)


def _numbers(X: Any) -> np.ndarray | None:
    """Return X as an array; None for what is no matrix of numbers, or not of a type that heads are trained on."""
    with contextlib.suppress(ValueError, TypeError):
        rows = np.asarray(X)
        if rows.ndim == 2 and rows.size and (rows.dtype in (np.float32, np.float64) or rows.dtype.kind in "iu"):
            return rows
    return None


def _planned(search: _Search, n: int) -> _Plan | None:
    """Return how a search shares its work; None where it is GridSearchCV's."""
    own, y = search.estimator, search.y
    kind = "class" if is_classifier(own.estimator) else "number" if is_regressor(own.estimator) else ""
    plain = own.refit in (True, False) if isinstance(own.refit, bool) else callable(own.refit)
    if not kind or not plain or set(search.params) - {"groups"} or own.return_train_score or own.verbose:
        return None
    if not isinstance(own.param_grid, Mapping) or not _is_error_score(own.error_score):
        return None
    with contextlib.suppress(ValueError, TypeError):
        head = shared_grid(own.estimator, dict(own.param_grid), kind)
        y = np.asarray(y)
        rows = np.arange(n) if search.rows is None else search.rows
        if head is None or y.ndim != 1 or len(y) != len(rows) or y.dtype.kind not in "biufUSO":
            return None
        classes, codes = None, y
        if kind == "class":
            if y.dtype.kind == "O" and not all(isinstance(value, str) for value in y):
                return None
            if isinstance(own.scoring, OverAllClasses):
                codes, labels = y, own.scoring.n_classes
            else:
                from sklearn.utils.multiclass import check_classification_targets

                check_classification_targets(y)
                classes, codes = np.unique(y, return_inverse=True)
                labels = len(classes)
        elif y.dtype.kind not in "iuf":
            return None
        else:
            labels = 0
        scored = score_of(own.scoring, kind, classes)
        if scored is None:
            return None
        cv = own.cv
        if search.rows is not None and not hasattr(cv, "split") and np.iterable(cv):
            cv = _within(cv, search.rows)
        # GridSearchCV raises the errors of a splitter itself.
        with contextlib.suppress(Exception):
            checked = check_cv(cv, y, classifier=kind == "class")
            splits = [(_positions(a), _positions(b)) for a, b in checked.split(rows, y, **search.params)]
            if not splits or any(not len(a) or not len(b) for a, b in splits):
                return None
            shape = len(head.candidates), len(splits)
            scores, fitting, scoring = np.full(shape, np.nan), np.zeros(shape), np.zeros(shape)
            return _Plan(search, head, splits, codes, labels, *scored, scores, fitting, scoring)
    return None


def _is_error_score(value: Any) -> bool:
    return (isinstance(value, str) and value == "raise") or (
        isinstance(value, int | float) and not isinstance(value, bool)
    )


def _positions(rows: Any) -> np.ndarray:
    found = np.asarray(rows)
    return np.flatnonzero(found) if found.dtype == bool else found.astype(np.int64)


def _score(X: np.ndarray, plans: Sequence[_Plan]) -> None:
    """Fill in the plans' scores, or that a training part wants scikit-learn itself."""
    tasks = []
    for plan in plans:
        rows = plan.search.rows
        y, splits = plan.codes, plan.splits
        if rows is not None:
            y = np.zeros(len(X), plan.codes.dtype)
            y[rows] = plan.codes
            splits = [(rows[train], rows[test]) for train, test in splits]
        tasks.append(SharedTask([plan.head], y, splits, plan.labels, plan.labels_only))
    first = plans[0].search.estimator
    guard: Callable[[], Any] = one_thread if (jobs := _threads(first.n_jobs)) == 1 else contextlib.nullcontext
    with guard():
        before = time.perf_counter()
        for answer in shared_predictions(X, tasks, n_jobs=jobs, device=first.device):
            plan, fold = plans[answer.task], answer.split
            train, test = plan.splits[fold]
            if answer.predictions is None:
                plan.refused = True
            if plan.refused:
                continue
            fitted = time.perf_counter()
            try:
                for candidate, predictions in enumerate(answer.predictions or []):
                    plan.scores[candidate, fold] = plan.score(plan.codes[train], plan.codes[test], predictions)
            except Exception:  # GridSearchCV says what is wrong with it, as `error_score` wants
                if isinstance(plan.search.estimator.scoring, OverAllClasses):
                    raise
                plan.refused = True
            plan.fitting[:, fold] = (fitted - before) / len(plan.scores)
            before = time.perf_counter()
            plan.scored[:, fold] = (before - fitted) / len(plan.scores)


def _threads(n_jobs: int | None) -> int:
    cores = os.cpu_count() or 1
    return 1 if n_jobs is None or n_jobs == 0 else n_jobs if n_jobs > 0 else max(1, cores + 1 + n_jobs)


def _finish(plan: _Plan) -> None:
    """Give the search what GridSearchCV has when it is fitted: the results, the choice, the choice refitted."""
    own, search = plan.search.estimator, plan.search
    own.cv_results_ = layout(plan.head.candidates, plan.scores, plan.fitting, plan.scored)
    own.shared_, own.multimetric_, own.n_splits_ = True, False, len(plan.splits)
    own.scorer_ = check_scoring(own.estimator, scoring=own.scoring)
    if callable(own.refit):
        own.best_index_ = own.refit(own.cv_results_)
    else:
        own.best_index_ = int(own.cv_results_["rank_test_score"].argmin())
        own.best_score_ = own.cv_results_["mean_test_score"][own.best_index_]
    own.best_params_ = plan.head.candidates[own.best_index_]
    if own.refit:
        own.best_estimator_ = clone(own.estimator).set_params(**clone(own.best_params_, safe=False))
        start = time.perf_counter()
        own.best_estimator_.fit(search.own_rows(), search.y)
        own.refit_time_ = time.perf_counter() - start
        if hasattr(own.best_estimator_, "feature_names_in_"):
            own.feature_names_in_ = own.best_estimator_.feature_names_in_
