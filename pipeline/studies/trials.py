"""How does each method of a study train on one draw of labels and predict the test images?"""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from joblib import delayed

from pipeline.backbone import Backbone
from pipeline.cache import FeatureCache
from pipeline.errors import EvaluationError, HeadError
from pipeline.extraction import extract
from pipeline.heads import Head, estimator_text, resolve_heads
from pipeline.images import ImageSource
from pipeline.parallel import by_processes
from pipeline.progress import Progress
from pipeline.search import Predictions, predict_all, score_predictions, search
from pipeline.splits import inner_folds
from pipeline.studies import data
from pipeline.studies.data import LabelBudget, Pixels, PixelSizes, SplitSide, StudyData, raw_features
from pipeline.studies.results import DUMMY, NO_LAYER, RANDOM, RAW, SCRATCH, STATISTICS

CHOOSE_FROM = 5  # labels per class from which on parameters are chosen by cross-validation, and epochs by holding out
CV = 5
SCORING = "balanced_accuracy"
CHOSEN, FIXED, NOTHING = "cross-validated", "fixed", "none"


@dataclass(frozen=True)
class TrialKey:
    """The key of a trial: method, layer, label budget and draw.

    Attributes
    ----------
    method, layer : str
    level, draw : int
    """

    method: str
    layer: str
    level: int
    draw: int


@dataclass(frozen=True, eq=False)
class TrialData:
    """The features of all images for one method.

    Attributes
    ----------
    X : ndarray, (n, ...)
        Features, or squares of pixels, of the training images.
    test_X : ndarray, (m, ...)
        Of the test images.
    y : ndarray of int64, (n,)
    groups, together : ndarray, (n,), or None
        What stays on one side when parameters are chosen.
    classes : int
    """

    X: np.ndarray
    test_X: np.ndarray
    y: np.ndarray
    groups: np.ndarray | None
    together: np.ndarray | None
    classes: int

    def take(self, rows: np.ndarray) -> TrialData:
        """Return the data of a subset of the training images."""
        groups = None if self.groups is None else self.groups[rows]
        together = None if self.together is None else self.together[rows]
        return replace(self, X=self.X[rows], y=self.y[rows], groups=groups, together=together)

    def folds(self, random_state: int) -> list[tuple[np.ndarray, np.ndarray]]:
        """Return folds to select parameters with; none if there are too few labels."""
        if len(self.y) < CHOOSE_FROM * self.classes:
            return []
        try:
            return inner_folds(
                self.y, "class", groups=self.groups, together=self.together, cv=CV, random_state=random_state
            )
        except EvaluationError:  # the labels drawn lie in one group, say
            return []


@dataclass(frozen=True, eq=False)
class TrialResult:
    """The result of a trial.

    Attributes
    ----------
    predicted : ndarray of int64, (m,)
        Of the test images.
    train : float
        Balanced accuracy on the training images.
    seconds : float
        Of one core; by the clock on a GPU.
    params : str
        How parameters were chosen.
    cut_short : bool
    """

    predicted: np.ndarray
    train: float
    seconds: float
    params: str
    cut_short: bool = False


@dataclass(frozen=True)
class TrialSkipped:
    """A trial that cannot be trained, such as LDA with one label per class, or five neighbours among four labels.

    Attributes
    ----------
    why : str
    """

    why: str


@dataclass(frozen=True)
class TrialOutOfTime:
    """A trial that was not started, or not finished, because the study's time limit was reached."""


@dataclass(frozen=True)
class Deadline:
    """When trials have to end.

    Attributes
    ----------
    at : float
        Seconds since the epoch: processes on this machine share that clock.
    expected : mapping of Key to float
        Seconds that a trial is expected to take; it is not started where it would end too late.
    always : frozenset of Key
        Trials that are done whatever the time is.
    shortest_first : bool
        Whether short trials come first, because not all of them fit: the longest would leave time for nothing else.
    """

    at: float = math.inf
    expected: Mapping[TrialKey, float] = field(default_factory=dict)
    always: frozenset[TrialKey] = frozenset()
    shortest_first: bool = False

    def stop_at(self, key: TrialKey) -> float:
        """Return the time at which a trial must end."""
        return math.inf if key in self.always else self.at

    def leaves_out(self, key: TrialKey) -> bool:
        """Return whether a trial that starts now would end too late."""
        return time.time() + self.expected.get(key, 0.0) > self.stop_at(key)


NO_DEADLINE = Deadline()


@dataclass(frozen=True, eq=False)
class Trial:
    """Train a head on features.

    Attributes
    ----------
    key : Key
    rows : ndarray of int64
        The draw.
    material : TrialData
        Of all images.
    head : Head
    seed : int
    """

    key: TrialKey
    rows: np.ndarray
    material: TrialData
    head: Head
    seed: int

    @property
    def effort(self) -> float:
        """A rough measure of the trial's duration; the longest trials start first."""
        return float(len(self.rows))

    def learn(self) -> TrialResult | TrialSkipped:
        """Train and predict; a head that cannot be trained on so few labels returns the reason.

        Raises
        ------
        HeadError
            It cannot be trained on more labels either.
        """
        drawn = self.material.take(self.rows)
        started = time.process_time()
        folds = drawn.folds(self.seed)
        head = self.head if folds else replace(self.head, grid={})
        X = np.asarray(drawn.X, np.float32)
        try:
            fitted = search(head, X, drawn.y, splits=folds, scoring=SCORING, labels=drawn.classes, kind="class")
            seconds = time.process_time() - started
            predicted, trained = (
                predict_all(fitted.estimator, np.asarray(rows, np.float32), drawn.classes, "class", labels_only=True)
                for rows in (drawn.test_X, X)
            )
        except HeadError as error:
            if folds:
                raise
            return TrialSkipped(error.message)
        params = NOTHING if not self.head.grid else CHOSEN if folds else FIXED
        return TrialResult(predicted.labels, balanced_accuracy(drawn.y, trained.labels), seconds, params)


@dataclass(frozen=True, eq=False)
class ScratchTrial:
    """A small network that is trained on the pixels from scratch.

    Attributes
    ----------
    key, rows, material, seed
        As of `Trial`.
    small : bool
        Whether these are small images.
    budget : float
        Seconds that the training may take, of one core or by the clock on a GPU.
    device : str
    """

    key: TrialKey
    rows: np.ndarray
    material: TrialData
    seed: int
    small: bool
    budget: float
    device: str

    @property
    def effort(self) -> float:
        return 1e6 + len(self.rows)

    def learn(self, stop_at: float = math.inf) -> TrialResult:
        """Train and predict.

        Raises
        ------
        OutOfTime
            If that is not done at `stop_at`, in seconds since the epoch.
        """
        from pipeline.studies.scratch import TRIES, TRIES_OF_SMALL, train_from_scratch

        drawn = self.material.take(self.rows)
        folds = drawn.folds(self.seed)
        done = train_from_scratch(
            np.ascontiguousarray(drawn.X),
            drawn.y,
            np.array(drawn.test_X),  # torch wants to be allowed to write
            classes=drawn.classes,
            held_out=folds[0] if folds else None,
            tries=TRIES_OF_SMALL if self.small else TRIES,
            seconds=self.budget,
            device=self.device,
            seed=self.seed,
            stop_at=stop_at,
        )
        params = CHOSEN if done.chosen else FIXED
        return TrialResult(
            done.predicted, balanced_accuracy(drawn.y, done.learned), done.seconds, params, done.cut_short
        )


AnyTrial = Trial | ScratchTrial


def run_trials(
    trials: Sequence[AnyTrial], *, n_jobs: int, deadline: Deadline = NO_DEADLINE
) -> Iterator[tuple[TrialKey, TrialResult | TrialSkipped | TrialOutOfTime]]:
    """Yield the result of each trial as it is done, in any order.

    The first draw of every method and number of labels comes first, so that a study that is stopped has a value for
    each; within a draw the longest trial comes first, so that processes end together, or the
    shortest where the deadline wants that.
    """
    sign = 1 if deadline.shortest_first else -1
    ordered = sorted(trials, key=lambda trial: (trial.key.draw, sign * trial.effort))
    tasks = (delayed(_result)(trial, deadline) for trial in ordered)
    yield from by_processes(tasks, n_jobs=min(n_jobs, max(1, len(ordered))))


def balanced_accuracy(y: np.ndarray, predicted: np.ndarray) -> float:
    """Return the mean recall over the classes of `y`."""
    return score_predictions(SCORING, y, Predictions(predicted), kind="class", n_classes=int(y.max()) + 1)


def _result(trial: AnyTrial, deadline: Deadline) -> tuple[TrialKey, TrialResult | TrialSkipped | TrialOutOfTime]:
    key = trial.key
    # Checked where the trial starts: joblib hands out tasks before a worker is free.
    if deadline.leaves_out(key):
        return key, TrialOutOfTime()
    if isinstance(trial, Trial):
        return key, trial.learn()
    from pipeline.studies.scratch import OutOfTime

    try:
        return key, trial.learn(deadline.stop_at(key))
    except OutOfTime:
        return key, TrialOutOfTime()


DEPTH_AT = (5, 50)  # labels per class at which layers are compared, beside all of them
SCRATCH_DRAWS = {1: 5, 2: 5, 5: 5, 10: 5}  # as many as there is time for
FEWEST_SCRATCH_DRAWS = 3

Place = tuple[str, str]


@dataclass(frozen=True, eq=False)
class Method:
    """One method to predict the labels.

    Attributes
    ----------
    name, layer : str
    material : TrialData
    text : str
        What names the material in the store: all that changes it.
    head : Head or None
        None for training from scratch.
    budgets : tuple of int
        Which budgets it learns.
    """

    name: str
    layer: str
    material: TrialData
    text: str
    head: Head | None
    budgets: tuple[int, ...]

    @property
    def place(self) -> Place:
        """Method and layer, which identify it."""
        return self.name, self.layer


@dataclass(frozen=True, eq=False)
class TrialFactory:
    """Makes the methods and trials of one study.

    Attributes
    ----------
    subject : StudyData
    head : Head
    budgets : sequence of LabelBudget
    random_state : int
    """

    subject: StudyData
    head: Head
    budgets: Sequence[LabelBudget]
    random_state: int

    @property
    def levels(self) -> tuple[int, ...]:
        """All budgets."""
        return tuple(range(len(self.budgets)))

    @property
    def depth_levels(self) -> tuple[int, ...]:
        """The few budgets at which layers are compared."""
        sizes = np.log([level.per_class for level in self.budgets])
        near = {int(np.argmin(np.abs(sizes - np.log(size)))) for size in DEPTH_AT}
        return tuple(sorted(near | {len(self.budgets) - 1}))

    def of_layer(
        self, name: str, layer: str, caches: tuple[FeatureCache, FeatureCache], rows: tuple[np.ndarray, np.ndarray],
        text: str, budgets: tuple[int, ...],
    ) -> Method:  # fmt: skip
        """Return a head on a layer of a backbone; `rows` are those of each cache."""
        X, test_X = (np.asarray(cache.stored(layer)[at], np.float32) for cache, at in zip(caches, rows, strict=True))
        return Method(name, layer, self._material(X, test_X), text, self.head, budgets)

    def of_statistics(self, caches: tuple[FeatureCache, FeatureCache], text: str) -> Method:
        """Return the head on the statistics of the pixels."""
        X, test_X = (
            np.asarray(cache.stored_pixel_statistics()[side.part.rows], np.float32)
            for cache, side in zip(caches, (self.subject.train, self.subject.test), strict=True)
        )
        return Method(STATISTICS, NO_LAYER, self._material(X, test_X), text, self.head, self.levels)

    def of_pixels(self, train: Pixels, test: Pixels, text: str) -> list[Method]:
        """Return training from scratch, and the head on the raw pixels."""
        raw = raw_features(train.raw, test.raw)
        return [
            Method(SCRATCH, NO_LAYER, self._material(train.network, test.network), text, None, self.levels),
            Method(RAW, NO_LAYER, self._material(*raw), f"raw {text}", self.head, self.levels),
        ]

    def dummy(self) -> Method:
        """Return the dummy, which always predicts the most frequent class."""
        head = resolve_heads([DUMMY], kind="class", random_state=self.random_state)[0]
        nothing = (np.zeros((len(side.part), 1), np.float32) for side in (self.subject.train, self.subject.test))
        return Method(DUMMY, NO_LAYER, self._material(*nothing), "nothing", head, self.levels)

    def trials(self, methods: Sequence[Method], sizes: PixelSizes, *, budget: float, device: str) -> list[AnyTrial]:
        """Return every trial of every method."""
        found: list[AnyTrial] = []
        for method in methods:
            for key, rows in self._draws(method):
                if method.head is not None:
                    found.append(Trial(key, rows, method.material, method.head, self.random_state))
                    continue
                seed = self.random_state * 1000 + key.draw
                found.append(ScratchTrial(key, rows, method.material, seed, sizes.small, budget, device))
        return found

    def _draws(self, method: Method) -> Iterator[tuple[TrialKey, np.ndarray]]:
        for number in method.budgets:
            level = self.budgets[number]
            draws = len(level.draws)
            if method.head is None:
                draws = min(draws, SCRATCH_DRAWS.get(round(level.per_class), FEWEST_SCRATCH_DRAWS))
            elif level.everything:
                draws = 1  # training a head on the same rows again gives the same result
            for draw in range(draws):
                yield TrialKey(method.name, method.layer, number, draw), level.draws[draw]

    def _material(self, X: np.ndarray, test_X: np.ndarray) -> TrialData:
        part = self.subject.train.part
        return TrialData(X, test_X, part.y, part.groups, part.together, self.subject.question.n_classes)


def caches_of(subject: StudyData) -> tuple[FeatureCache, FeatureCache]:
    """Return the caches of the backbone of both sides; the same one twice if the test set is part of the images."""
    train, test = (side.part.collection.caches[0] for side in (subject.train, subject.test))
    return train, test


def describe_budget(head: Head, sizes: PixelSizes, *, seconds: float, device: str) -> dict[str, str]:
    """Return one sentence each on the draws, the head, the small network and the clocks."""
    from pipeline.studies import scratch

    few = ", ".join(f"{count} with {size}" for size, count in data.DRAWS.items())
    tries = scratch.TRIES_OF_SMALL if sizes.small else scratch.TRIES
    listed = "; ".join(f"rate {item.rate:g} {'with' if item.flips else 'without'} mirroring" for item in tries)
    fewer = ", ".join(f"{count} with {size}" for size, count in SCRATCH_DRAWS.items())
    widths = ", ".join(map(str, scratch.WIDTHS))
    return {
        "draws": f"{few} labels per class, {data.FEWEST_DRAWS} with more, 1 with all; each within the next larger one",
        "draws from scratch": f"the first of these: {fewer}, {FEWEST_SCRATCH_DRAWS} with more and with all",
        "head": f"{estimator_text(head.estimator)}; its grid is searched by {CV}-fold cross-validation within "
        f"the labels drawn from {CHOOSE_FROM} a class on, with fewer it has its defaults",
        "network": f"4 convolutions of {widths} channels with batch normalisation, on {sizes.network} x "
        f"{sizes.network} pixels; AdamW, one cycle of its rate; images scaled, turned, moved and lit at random",
        "length": f"{scratch.VIEWS} looks at each image, {scratch.FEWEST_VIEWS:,} looks in all at least and "
        f"{scratch.MOST_VIEWS:,} at most (or {scratch.VIEWS_OF_MANY} at each)",
        "choice": f"tries of a third of that, {listed}; the best on a held-out fifth of the labels is trained, "
        "to see when that part gets no better, and again on all labels for as long; with fewer than "
        f"{CHOOSE_FROM} labels per class the first try, in full",
        "limit": f"{seconds:g} seconds a training, the choice included; a longer schedule is shortened to it, and "
        "nothing is chosen where that would more than halve it",
        "raw pixels": f"{sizes.raw} x {sizes.raw} pixels",
        "clock": "seconds of one core" if device == "cpu" else f"seconds by the clock on {device}; heads: of one core",
    }


FEW, MORE = 8, 72  # images; what both runs need beside them, such as loading the weights, falls out of the difference


def untrained_features(
    backbone: Backbone, layer: str, subject: StudyData, extraction: Mapping[str, Any], progress: Progress
) -> tuple[tuple[FeatureCache, FeatureCache], tuple[np.ndarray, np.ndarray]]:
    """Return the features of the same network before any training: a cache and its rows for either side."""
    train, test = subject.train, subject.test
    random = Backbone.open(f"{backbone.name}:random", random_state=extraction["random_state"])

    def made(photos: ImageSource) -> FeatureCache:
        cache = extract(photos, backbone=random, layer=layer, progress=_BarsOnly(progress), **extraction)
        progress.note(f"{RANDOM}: {cache.summary.text}")
        return cache

    if train.photos is test.photos:
        rows = np.union1d(train.part.rows, test.part.rows)
        cache = made(train.photos.take(rows.tolist()))
        places = np.searchsorted(rows, train.part.rows), np.searchsorted(rows, test.part.rows)
        return (cache, cache), places
    caches = tuple(made(side.photos.take(side.part.rows.tolist())) for side in (train, test))
    return (caches[0], caches[1]), (np.arange(len(train.part)), np.arange(len(test.part)))


def seconds_per_image_of(
    backbone: Backbone, layer: str, side: SplitSide, extraction: Mapping[str, Any], device: str
) -> float:
    """Return the seconds from an image file to its features: of one core, or wall-clock seconds on a GPU.

    Measured by the difference between a few images and some more, all computed again.
    """
    from pipeline.studies.scratch import clock_of

    clock = clock_of(device)
    rows = side.part.rows
    counts = [min(FEW, len(rows) // 2), min(MORE, len(rows))]

    def spent(count: int) -> float:
        with tempfile.TemporaryDirectory() as folder:
            sample = side.photos.take(rows[np.linspace(0, len(rows) - 1, count).astype(int)].tolist())
            # One worker per core, each with one thread: waiting threads would count as work.
            options = {**extraction, "cache": folder, "n_jobs": None, "device": device}
            started = clock()
            extract(sample, backbone=backbone, layer=layer, **options)
            return clock() - started

    spent(counts[0])  # for what is loaded once in a process
    return max(0.0, spent(counts[1]) - spent(counts[0])) / (counts[1] - counts[0])


class _BarsOnly(Progress):
    """Passes progress on, but no notes: the pretrained network gave the same notes for these photos."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    def advance(self, stage: str, done: int, total: int) -> None:
        self._progress.advance(f"{stage}, {RANDOM}", done, total)
