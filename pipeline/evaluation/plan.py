"""What does an evaluation compute? Its tasks, candidates and folds. Pure data; nothing is fitted here."""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from pipeline.cache import FeatureCache, LazyRows
from pipeline.errors import EvaluationError, HeadError
from pipeline.evaluation.dataset import Dataset, Task, resolve_cache
from pipeline.evaluation.leakage import DuplicateGuard, find_leakage
from pipeline.evaluation.tasks import build_tasks
from pipeline.heads import DEFAULT, Head, fits, parse_grid, resolve_heads
from pipeline.labels import JoinReport
from pipeline.runs import DUMMY, NOTHING, PIXELS
from pipeline.search import SCORINGS, check_scoring
from pipeline.splits import Split, check_cv, outer_folds, tied

__all__ = ["Candidate", "TaskPlan", "features_of", "join_reports", "notes_for", "plan_tasks_of", "resolve_cache"]


# With fewer rows each label set has its own stratified folds: there is less work to share, and random folds vary more.
FEWEST_ROWS = 1000

# A fold that holds less or more of a class than this part of its share is not the label set's.
LEAST, MOST = 0.5, 1.5


class CommonFolds:
    """The outer and inner folds of all images of a collection.

    Parameters
    ----------
    together : ndarray of int64, shape (n,)
        Images with the same value stay on one side of every split.
    present : ndarray of int64, shape (m,)
        The images that have features.
    cv : int
    random_state : int
    """

    def __init__(self, together: np.ndarray, present: np.ndarray, *, cv: int, random_state: int) -> None:
        self._together, self._present, self._cv, self._random_state = together, present, cv, random_state
        self._inner: dict[int, np.ndarray] = {}
        self._made: dict[tuple[int, bytes], tuple[Split, ...]] = {}

    def outer(self, rows: np.ndarray, y: np.ndarray, kind: str) -> tuple[Split, ...] | None:
        """Return the folds of a label set's rows; None where a class is out of proportion in one of them.

        Parameters
        ----------
        rows : ndarray of int64, shape (k,)
            The images that have a label and may be trained on.
        y : ndarray, shape (k,)
        kind : {"class", "number", "multi"}
        """
        return self._splits(self._outer, rows, y, kind) if len(rows) >= FEWEST_ROWS else None

    def inner(self, fold: int | None, rows: np.ndarray, y: np.ndarray, kind: str) -> tuple[Split, ...] | None:
        """Return as `outer` the folds within an outer fold's training rows; within all rows for None."""
        if fold is None:
            return self.outer(rows, y, kind)
        if fold not in self._inner:
            self._inner[fold] = self._deal(self._present[self._outer[self._present] != fold], fold + 1)
        return self._splits(self._inner[fold], rows, y, kind)

    @cached_property
    def _outer(self) -> np.ndarray:
        return self._deal(self._present, 0)

    def _deal(self, rows: np.ndarray, draw: int) -> np.ndarray:
        """Return the fold of every image, shape (n,), -1 for those not among `rows`."""
        fold_of = np.full(len(self._together), -1, np.int64)
        rng = np.random.default_rng([self._random_state, draw])
        fold_of[rows] = deal_folds(self._together[rows], self._cv, rng)
        return fold_of

    def _splits(self, fold_of: np.ndarray, rows: np.ndarray, y: np.ndarray, kind: str) -> tuple[Split, ...] | None:
        own_folds = fold_of[rows]
        if not folds_in_proportion(own_folds, y, kind, self._cv):
            return None
        # Label sets of the same rows get the same objects: a worker is sent them once.
        key = id(fold_of), rows.tobytes()
        if key not in self._made:
            parts = [(np.flatnonzero(own_folds != fold), np.flatnonzero(own_folds == fold)) for fold in range(self._cv)]
            self._made[key] = tuple(Split(train, test) for train, test in parts)
        return self._made[key]


def deal_folds(together: np.ndarray, folds: int, rng: np.random.Generator) -> np.ndarray:
    """Return a fold for each row, at random: what belongs together in one fold, the folds about equally large.

    Parameters
    ----------
    together : ndarray, shape (m,)
    folds : int
    rng : numpy Generator
    """
    names, code = np.unique(together, return_inverse=True)
    sizes = np.bincount(code, minlength=len(names))
    order = rng.permutation(len(names))
    fold_of = np.empty(len(names), np.int64)
    if len(names) == len(code):
        fold_of[order] = np.arange(len(names)) % folds
        return fold_of[code]
    # The largest first, each into the fold that holds least.
    heap = [(0, fold) for fold in range(folds)]
    for name in order[np.argsort(-sizes[order], kind="stable")].tolist():
        held, fold = heap[0]
        fold_of[name] = fold
        heapq.heapreplace(heap, (held + int(sizes[name]), fold))
    return fold_of[code]


def folds_in_proportion(fold_of: np.ndarray, y: np.ndarray, kind: str, folds: int) -> bool:
    """Return whether every fold holds between half and one and a half times its share of the rows, and of every class.

    Parameters
    ----------
    fold_of : ndarray of int64, shape (m,)
    y : ndarray, shape (m,) or, for several labels per image, (m, c)
    kind : {"class", "number", "multi"}
    folds : int
    """
    counted: list[Any] = [np.ones(len(y), bool)]
    if kind == "class":
        counted += [y == code for code in np.unique(y)]
    elif kind == "multi":
        counted += [*(y.T > 0), *(y.T == 0)]
    for chosen in counted:
        counts = np.bincount(fold_of[chosen], minlength=folds)
        share = counts.sum() / folds
        if counts.min() < max(1, LEAST * share) or counts.max() > MOST * share:
            return False
    return True


MOST_NAMED = 3  # label sets that a note about several of them names


@dataclass(frozen=True, eq=False)
class Candidate:
    """One head on one layer of one cache.

    Attributes
    ----------
    cache : FeatureCache
    layer : str
        ``pixel_statistics`` for the baseline of color statistics, ``none`` for the dummy.
    head : Head
    null : bool
    """

    cache: FeatureCache
    layer: str
    head: Head
    null: bool = False

    @property
    def backbone(self) -> str:
        return str(self.cache.recipe.get("backbone"))

    @property
    def features(self) -> LazyRows:
        """``(n, d)`` memory map over all rows of the cache."""
        return features_of(self.cache, self.layer)


@dataclass(frozen=True, eq=False)
class TaskPlan:
    """One task with its folds and candidates.

    Attributes
    ----------
    question : Task
    candidates : tuple of Candidate
        The baselines last.
    folds : tuple of Split
        Positions into ``question.train``.
    scorings : tuple of str
        The first one chooses.
    notes : tuple of str
        About this task, without the name of its label set.
    common : CommonFolds or None
        Where the folds are those of all images of the collection: inner folds may be so too.
    """

    question: Task
    candidates: tuple[Candidate, ...]
    folds: tuple[Split, ...]
    scorings: tuple[str, ...]
    notes: tuple[str, ...]
    common: CommonFolds | None = None

    @property
    def choice(self) -> str:
        return self.scorings[0]

    @property
    def rated(self) -> list[int]:
        """Numbers of the candidates that are not baselines."""
        return [number for number, candidate in enumerate(self.candidates) if not candidate.null]


def features_of(cache: FeatureCache, layer: str) -> LazyRows:
    """Return a layer of a cache, or its pixel statistics, all its rows, read when they are indexed."""
    return cache.stored_pixel_statistics() if layer in (PIXELS, NOTHING) else cache.stored(layer)


def plan_tasks_of(
    collections: Sequence[Dataset],
    tests: Sequence[Dataset] | None,
    *,
    heads: Any = None,
    grid: Mapping[str, Any] | Sequence[str] = (),
    column: Sequence[str] = (),
    groups: str | None = None,
    split: str | None = None,
    id_column: str | None = None,
    min_class_size: int | None = None,
    scoring: Sequence[str] = (),
    cv: int = 5,
    random_state: int = 0,
) -> list[TaskPlan]:
    """Return one plan per label set and dataset; without candidates where a collection has no features yet.

    Parameters
    ----------
    collections : sequence of Dataset
    tests : sequence of Dataset, optional
        The test set as each collection needs it.
    heads, grid, column, groups, split, id_column, min_class_size, scoring, cv, random_state
        As for `evaluate`.

    Raises
    ------
    PipelineError
        Labels, heads, scorings or folds that cannot be had, with the next step.
    """
    check_cv(cv)
    tested: Sequence[Dataset | None] = tests or [None] * len(collections)
    guards = {id(data): find_leakage(data, test, cv) for data, test in zip(collections, tested, strict=True)}
    questions = [
        question
        for collection, test in zip(collections, tested, strict=True)
        for question in build_tasks(
            collection,
            column=column,
            groups=groups,
            split=split,
            test=test,
            id_column=id_column,
            min_class_size=min_class_size,
            guard=guards[id(collection)],
        )
    ]
    _check_heads_fit(heads, {question.kind for question in questions})
    common_folds = {id(data): _common_folds(data, groups, guards[id(data)], cv, random_state) for data in collections}
    tasks: list[TaskPlan] = []
    refused: dict[tuple[str, str], EvaluationError] = {}
    for question in questions:
        found, about_heads = _heads(heads, grid, question, random_state)
        scorings = _scorings(scoring, question)
        common = common_folds[id(question.train.collection)]
        train = question.train
        shared = common.outer(train.rows, train.y, question.kind)
        try:
            folds, cut = (
                (shared, ())
                if shared
                else outer_folds(
                    train.y,
                    question.kind,
                    groups=train.groups,
                    together=train.together,
                    cv=cv,
                    random_state=random_state,
                    classes=question.classes,
                )
            )
        except EvaluationError as error:
            if question.requested or len(questions) == 1:
                raise
            # One of many columns, not named by the user: no reason to stop the others.
            refused[question.train.collection.name, question.name] = error
            continue
        candidates = _candidates(question, found, random_state)
        notes = (*question.notes, *about_heads, *cut)
        tasks.append(TaskPlan(question, tuple(candidates), tuple(folds), scorings, notes, common if shared else None))
    if not tasks:
        raise next(iter(refused.values()))
    return [_without(task, refused) for task in tasks]


def join_reports(tasks: Sequence[TaskPlan]) -> tuple[JoinReport, ...]:
    """Return what was joined to each collection, once each."""
    return tuple(dict.fromkeys(task.question.joined for task in tasks if task.question.joined is not None))


def notes_for(tasks: Sequence[TaskPlan]) -> tuple[str, ...]:
    """Return the notes of all tasks beside what was joined, each text once, with the label sets that it is about."""
    about: dict[tuple[str, bool], dict[str, None]] = {}
    for task in tasks:
        name = task.question.name
        for note in task.notes:
            text = note.removeprefix(f"{name}: ")
            about.setdefault((text, text != note), {})[name] = None
    several = len({task.question.name for task in tasks}) > 1
    sharing = _about_sharing(tasks)
    own = [f"{_listed(list(names))}: {text}" if several or named else text for (text, named), names in about.items()]
    return tuple(dict.fromkeys([*(note for task in tasks for note in task.question.general), *own, *sharing]))


def _listed(names: Sequence[str]) -> str:
    more = len(names) - MOST_NAMED
    return ", ".join(names) if more <= 1 else f"{', '.join(names[:MOST_NAMED])} and {more} more label sets"


def _without(task: TaskPlan, refused: Mapping[tuple[str, str], EvaluationError]) -> TaskPlan:
    """Return the task with the label sets that cannot be split among the columns left out of its report."""
    question = task.question
    reasons = {
        name: error.message for (source, name), error in refused.items() if source == question.train.collection.name
    }
    if not reasons or question.joined is None:
        return task
    return replace(task, question=replace(question, joined=question.joined.without(reasons)))


def _about_sharing(tasks: Sequence[TaskPlan]) -> list[str]:
    """Return a note on which label sets have folds in common."""
    own = [task.question.name for task in tasks if task.common is None]
    shared = len(tasks) - len(own)
    if shared < 2:
        return []
    if not own:
        return [f"all {len(tasks)} label sets have their folds in common"]
    few = f"fewer than {FEWEST_ROWS:,} rows, or a class that common folds would tear out of proportion"
    return [f"{shared} of {len(tasks)} label sets have their folds in common; of its own for {_listed(own)}: {few}"]


def _common_folds(
    collection: Dataset, groups: str | None, guard: DuplicateGuard | None, cv: int, random_state: int
) -> CommonFolds:
    """Return the folds that label sets of a collection share; images of one group, and duplicates, are in one fold."""
    rows = collection.rows
    together = np.arange(len(collection.ids))
    if groups is not None:
        # An image without a group is a group of its own; where it has a label, it is refused elsewhere.
        names = [str(row) if name is None else f"={name}" for row, name in enumerate(collection.columns[groups])]
        together = np.unique(names, return_inverse=True)[1]
    if guard is not None:
        together[rows] = tied(together[rows], guard.copies.clusters)
    return CommonFolds(together, rows, cv=cv, random_state=random_state)


def _candidates(question: Task, heads: Sequence[Head], random_state: int) -> list[Candidate]:
    """Return every head on every layer of every cache, and the two baselines on the first cache."""
    collection, kind = question.train.collection, question.kind
    if not collection.caches:
        return []
    pixels = resolve_heads([DEFAULT[kind]], kind=kind, random_state=random_state)[0]
    dummy = resolve_heads([DUMMY], kind=kind, random_state=random_state)[0]
    return [
        *(
            Candidate(cache, layer, head)
            for cache, layers in zip(collection.caches, collection.layers, strict=True)
            for layer in layers
            for head in heads
        ),
        Candidate(collection.caches[0], PIXELS, pixels, null=True),
        Candidate(collection.caches[0], NOTHING, dummy, null=True),
    ]


def _requested_heads(heads: Any) -> list[Any]:
    """Return the requested heads as a list, without the dummy, which is always a baseline."""
    requested = [heads] if isinstance(heads, str) or not isinstance(heads, Sequence) else list(heads)
    return [head for head in requested if not (isinstance(head, str) and head == DUMMY)]


def _check_heads_fit(heads: Any, kinds: set[str]) -> None:
    """Raise `HeadError` for a head that can learn none of the label sets."""
    for head in [] if heads is None else _requested_heads(heads):
        if not any(fits(head, kind) for kind in kinds):
            resolve_heads([head], kind=sorted(kinds)[0])  # raises with the reason


def _heads(heads: Any, grid: Any, question: Task, random_state: int) -> tuple[list[Head], list[str]]:
    """Return the heads for one label set, and notes on requested heads that are left out."""
    kind = question.kind
    requested = [] if heads is None else _requested_heads(heads)
    fitting = [head for head in requested if fits(head, kind)]
    left_out = [head if isinstance(head, str) else _class_name(head) for head in requested if head not in fitting]
    notes = []
    if left_out and not fitting:
        notes = [f"{question.name}: {', '.join(left_out)} cannot learn {kind} labels; {DEFAULT[kind]} is used instead"]
    elif left_out:
        verb = "is" if len(left_out) == 1 else "are"
        notes = [f"{question.name}: {', '.join(left_out)} cannot learn {kind} labels and {verb} left out"]
    values = parse_grid(grid)
    if left_out:
        values = {key: value for key, value in values.items() if key.rpartition(".")[0] not in left_out}
    chosen = fitting or [DEFAULT[kind]]
    return resolve_heads(chosen, kind=kind, grid=values, random_state=random_state), notes


def _scorings(requested: Sequence[str], question: Task) -> tuple[str, ...]:
    """Return the scorings of a label set, the one that chooses first; then the usual ones.

    A scoring for the other kind of label is for the other label sets; an unknown one is an error.
    """
    from sklearn.metrics import get_scorer_names

    usual = SCORINGS[question.kind]
    fitting = []
    refused: HeadError | None = None
    for scoring in requested:
        try:
            check_scoring(scoring, question.kind, question.n_classes)
            fitting.append(scoring)
        except HeadError as error:
            if scoring not in get_scorer_names():
                raise
            refused = error
    if refused is not None and not fitting:
        raise EvaluationError(
            f"label set {question.name!r}: {refused.message}",
            f"add a scoring for it, e.g. --scoring {usual[0]}, or choose columns with --column",
        ) from refused
    return tuple(dict.fromkeys([*fitting, *usual]))


def _class_name(head: Any) -> str:
    if isinstance(head, Head):
        return head.name
    return head.__name__ if isinstance(head, type) else type(head).__name__
