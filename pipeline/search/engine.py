"""How do candidates and label sets share the work of a grid search? Sums and decompositions are made once per fold."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from pipeline.heads import RECIPES, own_name
from pipeline.search.predictions import Predictions
from pipeline.search.scoring import LABELS_ONLY, score_predictions
from pipeline.search.solvers.backend import arrays_on, interleaved, map_threads
from pipeline.search.solvers.closed_form import (
    KeptColumns,
    discriminant_tags,
    discriminants,
    kept_columns,
    nearest_centroids,
    ridge_classes,
    ridge_numbers,
    ridge_tags,
)
from pipeline.search.solvers.fold_sums import (
    NotCoveredError,
    Products,
    Spectrum,
    SplitParts,
    Sums,
    TargetColumns,
    group_splits,
    spectrum,
)
from pipeline.search.solvers.knn import (
    NearestRows,
    neighbour_classes,
    neighbour_numbers,
    neighbour_tags,
    neighbours,
    standardised,
)
from pipeline.search.solvers.logistic import Chain, Coefficients, logistic_coefficients, logistic_predictions, pays_off


def _is_alpha(value: Any) -> bool:
    return _is_number(value) and bool(1e-3 <= value < np.inf)


def _is_shrinkage(value: Any) -> bool:
    return _is_number(value) and bool(1e-3 <= value <= 1)


def _is_threshold(value: Any) -> bool:
    return value is None or (_is_number(value) and bool(0 < value < np.inf))


def _is_c(value: Any) -> bool:
    return _is_number(value) and bool(1e-6 <= value <= 1e4)


def _is_count(value: Any) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool) and bool(value >= 1)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)


# Of each head, the parameters that share their work, and the values for which they do.
_COVERED: dict[str, dict[str, Callable[[Any], bool]]] = {
    "logistic": {"C": _is_c},
    "ridge": {"alpha": _is_alpha},
    "lda": {"shrinkage": _is_shrinkage},
    "knn": {
        "n_neighbors": _is_count,
        "weights": lambda value: isinstance(value, str) and value in ("uniform", "distance"),
    },
    "centroid": {"shrink_threshold": _is_threshold},
}

_OF_TAGS = ("ridge", "lda", "knn")


@dataclass(frozen=True)
class SharedGrid:
    """A head whose grid shares its work.

    Parameters
    ----------
    solver : {"logistic", "ridge", "lda", "knn", "centroid"}
    kind : {"class", "number", "multi"}
    candidates : list of dict
        The grid's combinations, in GridSearchCV's order.
    values : list of tuple
        Each candidate's values of the solver's parameters.
    """

    solver: str
    kind: str
    candidates: list[dict[str, Any]]
    values: list[tuple[Any, ...]]

    def take(self, places: Sequence[int]) -> SharedGrid:
        """Return the head with some of its candidates."""
        return replace(
            self,
            candidates=[self.candidates[place] for place in places],
            values=[self.values[place] for place in places],
        )


def shared_grid(estimator: Any, grid: dict[str, list[Any]], kind: str) -> SharedGrid | None:
    """Return how the head shares its work; None where it does not: another estimator, parameter or value."""
    from sklearn.model_selection import ParameterGrid

    return shared_candidates(estimator, list(ParameterGrid(grid)), kind)


def shared_candidates(estimator: Any, candidates: Sequence[dict[str, Any]], kind: str) -> SharedGrid | None:
    """Return as `shared_grid`, of a grid's combinations or some of them."""
    from sklearn.pipeline import Pipeline

    if type(estimator) is not Pipeline:
        return None
    for solver, covered in _COVERED.items():
        if solver not in RECIPES[kind] or (kind == "multi" and solver not in _OF_TAGS):
            continue
        known = RECIPES[kind][solver].make(None)
        names = [own_name(known, solver, param) for param in covered]
        # None of these solvers draws anything.
        drawn = [name for name in known.get_params() if name.rpartition("__")[2] == "random_state"]
        if not {key for candidate in candidates for key in candidate} <= set(names) or not _same(
            estimator, known, [*names, *drawn]
        ):
            continue
        own = estimator.get_params()
        values = [tuple(candidate.get(name, own[name]) for name in names) for candidate in candidates]
        checks = list(covered.values())
        if all(check(value) for row in values for check, value in zip(checks, row, strict=True)):
            return SharedGrid(solver, kind, list(candidates), values)
    return None


def _same(estimator: Any, known: Any, free: Sequence[str]) -> bool:
    """Say whether both are the same steps with the same parameters, apart from those that are free."""
    if [(name, type(step)) for name, step in estimator.steps] != [(name, type(step)) for name, step in known.steps]:
        return False
    steps = {"steps", *(name for name, _ in known.steps)}
    expected = {key: value for key, value in known.get_params().items() if key not in steps and key not in free}
    found = {key: value for key, value in estimator.get_params().items() if key not in steps and key not in free}
    return repr(sorted(expected.items())) == repr(sorted(found.items()))


Folds = Sequence[tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True, eq=False)
class SharedTask:
    """One label set's part of a shared search.

    Parameters
    ----------
    heads : sequence of SharedGrid
        Of the label set's kind.
    y : ndarray, shape (n,) or (n, labels)
        Of every row of X: codes 0..labels-1, numbers, or an indicator of two tags or more. Rows to test must hold a
        value of that kind too; rows that are in no split may hold anything.
    splits : sequence of (train, test)
        Positions into X. Label sets with equal splits share each one's standardisation, spectrum and neighbours.
        Splits of the same rows, of which none is tested twice, share the sums over their test parts.
    labels : int
        How many classes there are; 0 for numbers.
    labels_only : bool
        Whether labels will do: neither probabilities nor scores are then made.
    """

    heads: Sequence[SharedGrid]
    y: np.ndarray
    splits: Folds
    labels: int
    labels_only: bool = False


@dataclass(frozen=True, eq=False)
class SplitPredictions:
    """The predictions of one head's candidates for the test rows of one split.

    Parameters
    ----------
    task, head, split : int
        Positions: of the task, of the head in it, of the split in it.
    predictions : list of Predictions or None
        One per candidate; None where this training part needs scikit-learn itself: it holds one class, or (lda) a
        class of a single row, or values that are not finite, or so few rows that nothing is gained (logistic).
    """

    task: int
    head: int
    split: int
    predictions: list[Predictions] | None


@dataclass(frozen=True, eq=False)
class _TaskSplit:
    """The rows of a split, and the tasks that have it, each with the split's position in it."""

    train: np.ndarray
    test: np.ndarray
    members: list[tuple[int, int]]


def shared_predictions(
    X: np.ndarray, tasks: Sequence[SharedTask], *, n_jobs: int = 1, device: str = "cpu"
) -> Iterator[SplitPredictions]:
    """Give the predictions of every candidate of every task for every split's test rows, in any order.

    Parameters
    ----------
    X : ndarray, shape (n, d)
        Numbers; any but float32 are taken as float64.
    tasks : sequence of SharedTask
    n_jobs : int
        Threads, each with one BLAS thread, for splits (and stacks of logistic regressions) side by side. 1: the
        caller's thread, and BLAS as it stands.
    device : str
        "cpu" (numpy); or torch's name of a device, as "cuda", for decompositions, products and distances, and logistic
        regressions.
    """
    yield from _by_chains(X, tasks, device, n_jobs)
    X = X if X.dtype in (np.float32, np.float64) else X.astype(np.float64)
    alike: dict[tuple[bytes, bytes], _TaskSplit] = {}
    for number, task in enumerate(tasks):
        if not _closed(task):
            continue
        for place, (train, test) in enumerate(task.splits):
            train, test = np.asarray(train, np.int64), np.asarray(test, np.int64)
            key = train.tobytes(), test.tobytes()
            alike.setdefault(key, _TaskSplit(train, test, [])).members.append((number, place))
    splits = list(alike.values())
    for places in group_splits([(split.train, split.test) for split in splits]):
        group = _SplitGroup(X, tasks, [splits[place] for place in places], n_jobs, device)
        yield from interleaved(group.predictions, group.splits, n_jobs)


def shared_scores(
    X: np.ndarray, tasks: Sequence[SharedTask], scorings: Sequence[str], *, n_jobs: int = 1, device: str = "cpu"
) -> list[list[np.ndarray | None]]:
    """Return the scores of every candidate over every split, [task][head].

    Parameters
    ----------
    X : ndarray, shape (n, d)
    tasks : sequence of SharedTask
    scorings : sequence of str
        One per task.
    n_jobs, device
        As in `shared_predictions`.

    Returns
    -------
    list of list of ndarray, shape (candidates, splits), or None
        None where a training part needs scikit-learn itself.
    """
    found: list[list[np.ndarray | None]] = [
        [np.full((len(head.candidates), len(task.splits)), np.nan) for head in task.heads] for task in tasks
    ]
    requested = [
        replace(task, labels_only=scoring in LABELS_ONLY) for task, scoring in zip(tasks, scorings, strict=True)
    ]
    for answer in shared_predictions(X, requested, n_jobs=n_jobs, device=device):
        task, scores = tasks[answer.task], found[answer.task][answer.head]
        if answer.predictions is None or scores is None:
            found[answer.task][answer.head] = None
            continue
        y, kind = task.y[task.splits[answer.split][1]], task.heads[answer.head].kind
        for candidate, predictions in enumerate(answer.predictions):
            scores[candidate, answer.split] = score_predictions(
                scorings[answer.task], y, predictions, kind=kind, n_classes=task.labels
            )
    return found


def _by_chains(X: np.ndarray, tasks: Sequence[SharedTask], device: str, n_jobs: int) -> Iterator[SplitPredictions]:
    """Give the predictions of logistic regressions: all label sets and splits are solved in one stack."""
    origins, chains = [], []
    for number, task in enumerate(tasks):
        for which, head in enumerate(task.heads):
            for split, (train, test) in enumerate(task.splits if head.solver == "logistic" else ()):
                origins.append((number, which, split, np.asarray(test)))
                Cs = [value[0] for value in head.values]
                chains.append(Chain(task.y[train], np.asarray(train, np.int64), Cs, task.labels))
    fits: list[Coefficients | None] = [None] * len(chains)
    if chains and pays_off(chains, X.shape[1], device=device):
        fits = logistic_coefficients(X, chains, device=device, n_jobs=n_jobs)
    alike: dict[bytes, list[int]] = {}
    for place, (number, which, split, test) in enumerate(origins):
        if fits[place] is None or not np.isfinite(X[test]).all():
            yield SplitPredictions(number, which, split, None)
        else:
            alike.setdefault(test.tobytes(), []).append(place)
    for places in alike.values():
        predicted = logistic_predictions(X[origins[places[0]][3]], [fit for place in places if (fit := fits[place])])
        for place, predictions in zip(places, predicted, strict=True):
            yield SplitPredictions(*origins[place][:3], predictions)


class _SplitGroup:
    """Splits of the same rows, none of which is tested twice: what they share is done when this is made."""

    def __init__(
        self, X: np.ndarray, tasks: Sequence[SharedTask], splits: Sequence[_TaskSplit], n_jobs: int, device: str
    ) -> None:
        self.X, self.tasks, self.splits = X, tasks, splits
        self.arrays = arrays_on(device)
        rows = np.union1d(splits[0].train, splits[0].test)
        self.finite = all(np.isfinite(X[rows[at : at + 4096]]).all() for at in range(0, len(rows), 4096))
        members = sorted({number for split in splits for number, _ in split.members})
        linear = [
            number
            for number in members
            if any(head.solver != "knn" for _, head in _closed(tasks[number]))
            and np.isfinite(tasks[number].y[rows]).all()
        ]
        self.places = {number: place for place, number in enumerate(linear)}
        self.parts: SplitParts | None = None
        if not self.finite or not linear:
            return
        ys, labels = [tasks[number].y for number in linear], [tasks[number].labels for number in linear]
        self.columns = TargetColumns(ys, labels, X.dtype, rows)
        self.parts = parts = SplitParts(X, [(split.train, split.test) for split in splits], self.arrays)
        self.sums: list[Sums] = map_threads(parts.sums, parts.pieces, n_jobs)
        self.all_sums = Sums.of_all(self.sums)
        self.products = map_threads(lambda piece: parts.products(piece, self.columns), parts.pieces, n_jobs)
        self.all_products = Products.of_all(self.products)

    def predictions(self, split: _TaskSplit) -> Iterator[SplitPredictions]:
        """Give all members' predictions for the test rows, from one standardisation, spectrum and neighbour search."""
        tasks = self.tasks
        if not self.finite:  # scikit-learn raises its own error for these
            for number, place in split.members:
                yield from (SplitPredictions(number, which, place, None) for which, _ in _closed(tasks[number]))
            return
        near = self._neighbours(split)
        known = self._known(split)
        for number, place in split.members:
            task = tasks[number]
            for which, head in _closed(task):
                answers: list[Predictions] | None = None
                with contextlib.suppress(NotCoveredError):
                    if head.solver == "knn":
                        answers = list(_by_neighbours(near, head, task, task.y[split.train]))
                    elif known is not None:
                        answers = list(_by_sums(known, head, task, self.places.get(number)))
                yield SplitPredictions(number, which, place, answers)

    def _neighbours(self, split: _TaskSplit) -> NearestRows | None:
        heads = [head for number, _ in split.members for head in self.tasks[number].heads if head.solver == "knn"]
        ks = [value[0] for head in heads for value in head.values if value[0] <= len(split.train)]
        return neighbours(*standardised(self.X, split.train, split.test), ks, self.arrays) if ks else None

    def _known(self, split: _TaskSplit) -> _SharedSums | None:
        """Return the sums that the heads of a split share."""
        parts = self.parts
        numbers = [number for number, _ in split.members if number in self.places]
        if parts is None or not numbers:
            return None
        left, products = self.all_sums, self.all_products
        if len(self.splits) > 1:
            at = self.splits.index(split)
            left, products = left.less(self.sums[at]), products.less(self.products[at])
        solvers = {head.solver for number in numbers for head in self.tasks[number].heads}
        standard = parts.standard(self.all_sums, left, split.train)
        H = parts.standard_products(standard, products, self.columns, split.train)
        whole, turned, kept = None, None, None
        if "centroid" in solvers:
            kept = kept_columns(self.X, split.train, split.test, standard)
        if solvers & {"ridge", "lda"}:
            whole = spectrum(self.X, split.train, split.test, standard, self.arrays)
            turned = whole.vectors.T @ H
        return _SharedSums(self.columns, standard.n, products.first, H, kept, whole, turned)


@dataclass(frozen=True, eq=False)
class _SharedSums:
    """The sums and decompositions that the heads of one split share.

    Parameters
    ----------
    columns : Columns
    n : int
    first : ndarray, shape (count,)
        The columns' sums over the training rows.
    H : ndarray, shape (d, count)
        Their products with the standardised rows.
    kept : Kept or None
        For centroids; None where no head needs it, or its columns need scikit-learn itself.
    whole : Spectrum or None
    turned : ndarray, shape (r, count), or None
        The products in the spectrum's directions.
    """

    columns: TargetColumns
    n: int
    first: np.ndarray
    H: np.ndarray
    kept: KeptColumns | None
    whole: Spectrum | None
    turned: np.ndarray | None


def _closed(task: SharedTask) -> list[tuple[int, SharedGrid]]:
    """Return the heads that a split's own work answers, with their places: all but logistic regression."""
    return [(which, head) for which, head in enumerate(task.heads) if head.solver != "logistic"]


def _by_neighbours(
    near: NearestRows | None, head: SharedGrid, task: SharedTask, y: np.ndarray
) -> Iterator[Predictions]:
    if near is None or any(k not in near.of for k, _ in head.values) or not np.isfinite(y).all():
        raise NotCoveredError  # more neighbours than rows, or labels that are missing
    if not task.labels:
        return neighbour_numbers(near, y, head.values)
    if y.ndim == 2:
        return neighbour_tags(near, y, head.values)
    return neighbour_classes(near, y, head.values, task.labels, labels_only=task.labels_only)


def _by_sums(known: _SharedSums, head: SharedGrid, task: SharedTask, place: int | None) -> Iterator[Predictions]:
    H = known.H if head.solver == "centroid" else known.turned
    if place is None or H is None:
        raise NotCoveredError
    values, whole = [value[0] for value in head.values], known.whole
    target = known.columns.target(place, known.n, H, known.first)
    if head.solver == "centroid":
        if known.kept is None:
            raise NotCoveredError
        return nearest_centroids(known.kept, target, values, task.labels, labels_only=task.labels_only)
    if whole is None:
        raise NotCoveredError
    if not task.labels:
        return ridge_numbers(whole, target, values)
    if task.y.ndim == 2:
        return (ridge_tags if head.solver == "ridge" else discriminant_tags)(whole, target, values)
    solve = ridge_classes if head.solver == "ridge" else discriminants
    return solve(whole, target, values, task.labels, labels_only=task.labels_only)
