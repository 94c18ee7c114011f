"""Shared search: every combination of every grid, for many label sets at once, from work done once a fold."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.search.closed_form import (
    NotCoveredError,
    Target,
    class_target,
    discriminants,
    number_target,
    products,
    ridge_classes,
    ridge_numbers,
)
from pipeline.search.covered import SharedHead
from pipeline.search.logistic import Chain, Coefficients, gains, logistic_coefficients, logistic_predictions
from pipeline.search.neighbours import Neighbours, neighbour_classes, neighbour_numbers, neighbours
from pipeline.search.predictions import Predictions
from pipeline.search.scoring import score_predictions
from pipeline.search.spectrum import Spectrum, spectrum, standardised

Folds = Sequence[tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True, eq=False)
class SharedTask:
    """One label set's part of a shared search.

    Parameters
    ----------
    heads : sequence of SharedHead
        Of the label set's kind.
    y : ndarray, shape (n,)
        Of every row of X: codes 0..labels-1, or numbers. Rows that are in no split may hold anything.
    splits : sequence of (train, test)
        Positions into X. Label sets with equal splits share each one's standardisation, spectrum and neighbours.
    labels : int
        How many classes there are; 0 for numbers.
    """

    heads: Sequence[SharedHead]
    y: np.ndarray
    splits: Folds
    labels: int


@dataclass(frozen=True, eq=False)
class Said:
    """What the candidates of one head say of one split's test rows.

    Parameters
    ----------
    task, head, split : int
        Positions: of the task, of the head in it, of the split in it.
    predictions : list of Predictions or None
        A candidate each; None where this training part wants scikit-learn itself: it holds one class, or (lda) a
        class of a single row, or values that are not finite, or so few rows that nothing is gained (logistic).
    """

    task: int
    head: int
    split: int
    predictions: list[Predictions] | None


@dataclass(frozen=True, eq=False)
class _Member:
    """One split of one task, among those with the very same rows."""

    task: int
    split: int
    heads: Sequence[SharedHead]
    y: np.ndarray
    labels: int

    @property
    def closed(self) -> list[tuple[int, SharedHead]]:
        """The heads that a split's own work answers, with their places: all but logistic regression."""
        return [(which, head) for which, head in enumerate(self.heads) if head.solver != "logistic"]


def shared_predictions(
    X: np.ndarray, tasks: Sequence[SharedTask], *, device: str = "cpu", n_threads: int = 1
) -> Iterator[Said]:
    """Give what every candidate of every task says of every split's test rows, in any order.

    Parameters
    ----------
    X : ndarray, shape (n, d)
    tasks : sequence of SharedTask
    device : str
        Where logistic regressions are solved: "cpu", or a GPU as torch names it.
    n_threads : int
        Stacks of logistic regressions to solve side by side.
    """
    yield from _by_chains(X, tasks, device, n_threads)
    alike: dict[tuple[bytes, bytes], list[_Member]] = {}
    rows: dict[tuple[bytes, bytes], tuple[np.ndarray, np.ndarray]] = {}
    for number, task in enumerate(tasks):
        for split, (train, test) in enumerate(task.splits):
            if all(head.solver == "logistic" for head in task.heads):
                continue
            key = np.asarray(train, np.int64).tobytes(), np.asarray(test, np.int64).tobytes()
            rows[key] = train, test
            alike.setdefault(key, []).append(_Member(number, split, task.heads, task.y, task.labels))
    for key, members in alike.items():
        yield from _of_split(X, *rows[key], members)


def _by_chains(X: np.ndarray, tasks: Sequence[SharedTask], device: str, n_threads: int) -> Iterator[Said]:
    """Give what logistic regressions say: all label sets and splits are solved in one stack."""
    asked, chains = [], []
    for number, task in enumerate(tasks):
        for which, head in enumerate(task.heads):
            for split, (train, test) in enumerate(task.splits if head.solver == "logistic" else ()):
                asked.append((number, which, split, np.asarray(test)))
                Cs = [value[0] for value in head.values]
                chains.append(Chain(task.y[train], np.asarray(train, np.int64), Cs, task.labels))
    fits: list[Coefficients | None] = [None] * len(chains)
    if chains and gains(chains, X.shape[1], device=device):
        fits = logistic_coefficients(X, chains, device=device, n_threads=n_threads)
    alike: dict[bytes, list[int]] = {}
    for place, (number, which, split, test) in enumerate(asked):
        if fits[place] is None or not np.isfinite(X[test]).all():
            yield Said(number, which, split, None)
        else:
            alike.setdefault(test.tobytes(), []).append(place)
    for places in alike.values():
        said = logistic_predictions(X[asked[places[0]][3]], [fit for place in places if (fit := fits[place])])
        for place, predictions in zip(places, said, strict=True):
            yield Said(*asked[place][:3], predictions)


def _of_split(X: np.ndarray, train: np.ndarray, test: np.ndarray, members: Sequence[_Member]) -> Iterator[Said]:
    """Give what all members say of the test rows: one standardisation, spectrum and search for neighbours for all."""
    heads = [head for member in members for _, head in member.closed]
    if not (np.isfinite(X[train]).all() and np.isfinite(X[test]).all()):  # scikit-learn has its own words for these
        yield from (Said(one.task, which, one.split, None) for one in members for which, _ in one.closed)
        return
    Z, asked = standardised(X, train, test)
    ks = [k for head in heads if head.solver == "knn" for k, _ in head.values]
    near = neighbours(Z, asked, ks) if ks else None
    whole, targets, sums = None, {}, {}
    if any(head.solver != "knn" for head in heads):
        whole = spectrum(Z, asked)
        targets = _targets(members, train, Z.dtype)
        sums = dict(zip(targets, products(whole, list(targets.values())), strict=True)) if targets else {}
    for place, member in enumerate(members):
        for which, head in member.closed:
            said: Iterator[Predictions] | None = None
            if head.solver == "knn":
                said = _by_neighbours(near, head, member, train)
            elif whole is not None and place in targets:
                said = _by_spectrum(whole, head, member, targets[place], sums[place])
            try:
                answers = None if said is None else list(said)
            except NotCoveredError:
                answers = None
            yield Said(member.task, which, member.split, answers)


def _targets(members: Sequence[_Member], train: np.ndarray, dtype: np.dtype) -> dict[int, Target]:
    """Return the targets of the members that have one."""
    found = {}
    for place, member in enumerate(members):
        y = member.y[train]
        try:
            if any(head.solver != "knn" for _, head in member.closed) and np.isfinite(y).all():
                found[place] = class_target(y) if member.labels else number_target(y, dtype)
        except NotCoveredError:
            continue
    return found


def _by_neighbours(
    near: Neighbours | None, head: SharedHead, member: _Member, train: np.ndarray
) -> Iterator[Predictions] | None:
    y = member.y[train]
    if near is None or not np.isfinite(y).all():
        return None
    if member.labels:
        return neighbour_classes(near, y, head.values, member.labels)
    return neighbour_numbers(near, y, head.values)


def _by_spectrum(
    whole: Spectrum, head: SharedHead, member: _Member, target: Target, sums: np.ndarray
) -> Iterator[Predictions]:
    values = [value[0] for value in head.values]
    if not member.labels:
        return ridge_numbers(whole, target, sums, values)
    solve = ridge_classes if head.solver == "ridge" else discriminants
    return solve(whole, target, sums, values, member.labels)


def shared_scores(X: np.ndarray, tasks: Sequence[SharedTask], scorings: Sequence[str]) -> list[list[np.ndarray | None]]:
    """Return the scores of every candidate over every split, [task][head].

    Parameters
    ----------
    X : ndarray, shape (n, d)
    tasks : sequence of SharedTask
    scorings : sequence of str
        One a task.

    Returns
    -------
    list of list of ndarray, shape (candidates, splits), or None
        None where a training part wants scikit-learn itself.
    """
    found: list[list[np.ndarray | None]] = [
        [np.full((len(head.candidates), len(task.splits)), np.nan) for head in task.heads] for task in tasks
    ]
    for said in shared_predictions(X, tasks):
        task, scores = tasks[said.task], found[said.task][said.head]
        if said.predictions is None or scores is None:
            found[said.task][said.head] = None
            continue
        y, kind = task.y[task.splits[said.split][1]], task.heads[said.head].kind
        for candidate, predictions in enumerate(said.predictions):
            scores[candidate, said.split] = score_predictions(
                scorings[said.task], y, predictions, kind=kind, n_classes=task.labels
            )
    return found
