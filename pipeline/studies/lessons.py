"""One lesson: one method learns one draw of labels, and is asked about the test images."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from joblib import delayed

from pipeline.engines import by_processes
from pipeline.errors import EvaluationError, HeadError
from pipeline.heads import Head
from pipeline.search import Predictions, predict_all, score_predictions, search
from pipeline.splits import inner_folds

CHOOSE_FROM = 5  # labels a class from which on parameters are chosen by cross-validation, and epochs by holding out
CV = 5
SCORING = "balanced_accuracy"
CHOSEN, FIXED, NOTHING = "cross-validated", "fixed", "none"


@dataclass(frozen=True)
class TrialKey:
    """Whose lesson it is.

    Attributes
    ----------
    method, layer : str
    rung, draw : int
    """

    method: str
    layer: str
    rung: int
    draw: int


@dataclass(frozen=True, eq=False)
class TrialData:
    """What a method sees of all images.

    Attributes
    ----------
    X : ndarray, (n, ...)
        Features, or squares of pixels, of the images to learn from.
    asked : ndarray, (m, ...)
        Of the test images.
    y : ndarray of int64, (n,)
    groups, together : ndarray, (n,), or None
        What stays on one side when parameters are chosen.
    classes : int
    """

    X: np.ndarray
    asked: np.ndarray
    y: np.ndarray
    groups: np.ndarray | None
    together: np.ndarray | None
    classes: int

    def take(self, rows: np.ndarray) -> TrialData:
        """Return the material of some of the images to learn from."""
        groups = None if self.groups is None else self.groups[rows]
        together = None if self.together is None else self.together[rows]
        return replace(self, X=self.X[rows], y=self.y[rows], groups=groups, together=together)

    def folds(self, random_state: int) -> list[tuple[np.ndarray, np.ndarray]]:
        """Return folds to choose parameters by; none where there are too few labels for it."""
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
    """What came of a lesson.

    Attributes
    ----------
    predicted : ndarray of int64, (m,)
        Of the test images.
    train : float
        Balanced accuracy on the images learned from.
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
    """A lesson that was not learned, such as LDA with one label a class, or five neighbours among four labels.

    Attributes
    ----------
    why : str
    """

    why: str


@dataclass(frozen=True)
class TrialOutOfTime:
    """A lesson that was not started, or not finished, because the study's time limit was reached."""


@dataclass(frozen=True)
class Deadline:
    """When lessons have to end.

    Attributes
    ----------
    at : float
        Seconds since the epoch: processes on this machine share that clock.
    expected : mapping of Key to float
        Seconds that a lesson is expected to take; it is not started where it would end too late.
    always : frozenset of Key
        Lessons that are done whatever the time is.
    shortest_first : bool
        Whether short lessons come first, because not all of them fit: the longest would leave time for nothing else.
    """

    at: float = math.inf
    expected: Mapping[TrialKey, float] = field(default_factory=dict)
    always: frozenset[TrialKey] = frozenset()
    shortest_first: bool = False

    def stop_at(self, key: TrialKey) -> float:
        """Return when a lesson has to end."""
        return math.inf if key in self.always else self.at

    def leaves_out(self, key: TrialKey) -> bool:
        """Return whether a lesson that is to start now would end too late."""
        return time.time() + self.expected.get(key, 0.0) > self.stop_at(key)


NO_DEADLINE = Deadline()


@dataclass(frozen=True, eq=False)
class Trial:
    """A head that learns from features.

    Attributes
    ----------
    key : Key
    rows : ndarray of int64
        The draw.
    material : Material
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
        """A rough measure of how long it takes, to begin with the longest."""
        return float(len(self.rows))

    def learn(self) -> TrialResult | TrialSkipped:
        """Learn, and answer; a head that cannot learn from so few labels says why.

        Raises
        ------
        HeadError
            It cannot learn from more labels either.
        """
        mine = self.material.take(self.rows)
        started = time.process_time()
        folds = mine.folds(self.seed)
        head = self.head if folds else replace(self.head, grid={})
        X = np.asarray(mine.X, np.float32)
        try:
            fitted = search(head, X, mine.y, splits=folds, scoring=SCORING, labels=mine.classes, kind="class")
            seconds = time.process_time() - started
            said, learned = (
                predict_all(fitted.estimator, np.asarray(some, np.float32), mine.classes, "class", labels_only=True)
                for some in (mine.asked, X)
            )
        except HeadError as error:
            if folds:
                raise
            return TrialSkipped(error.message)
        params = NOTHING if not self.head.grid else CHOSEN if folds else FIXED
        return TrialResult(said.labels, balanced_accuracy(mine.y, learned.labels), seconds, params)


@dataclass(frozen=True, eq=False)
class ScratchTrial:
    """A small network that is trained on the pixels from scratch.

    Attributes
    ----------
    key, rows, material, seed
        As of `Lesson`.
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
        """Train, and answer.

        Raises
        ------
        OutOfTime
            If that is not done at `stop_at`, in seconds since the epoch.
        """
        from pipeline.studies.training import TRIES, TRIES_OF_SMALL, train_from_scratch

        mine = self.material.take(self.rows)
        folds = mine.folds(self.seed)
        done = train_from_scratch(
            np.ascontiguousarray(mine.X),
            mine.y,
            np.array(mine.asked),  # torch wants to be allowed to write
            classes=mine.classes,
            held_out=folds[0] if folds else None,
            tries=TRIES_OF_SMALL if self.small else TRIES,
            seconds=self.budget,
            device=self.device,
            seed=self.seed,
            stop_at=stop_at,
        )
        params = CHOSEN if done.chosen else FIXED
        return TrialResult(
            done.predicted, balanced_accuracy(mine.y, done.learned), done.seconds, params, done.cut_short
        )


AnyLesson = Trial | ScratchTrial


def run_trials(
    lessons: Sequence[AnyLesson], *, n_jobs: int, deadline: Deadline = NO_DEADLINE
) -> Iterator[tuple[TrialKey, TrialResult | TrialSkipped | TrialOutOfTime]]:
    """Give what comes of each lesson as it is done, in any order.

    The first draw of every method and number of labels comes first, so that a study that is stopped has a value for
    each; within a draw the longest lesson comes first, so that processes end together, or the
    shortest where the deadline wants that.
    """
    sign = 1 if deadline.shortest_first else -1
    ordered = sorted(lessons, key=lambda lesson: (lesson.key.draw, sign * lesson.effort))
    tasks = (delayed(_result)(lesson, deadline) for lesson in ordered)
    yield from by_processes(tasks, n_jobs=min(n_jobs, max(1, len(ordered))))


def balanced_accuracy(y: np.ndarray, predicted: np.ndarray) -> float:
    """Return the mean recall over the classes of `y`."""
    return score_predictions(SCORING, y, Predictions(predicted), kind="class", n_classes=int(y.max()) + 1)


def _result(lesson: AnyLesson, deadline: Deadline) -> tuple[TrialKey, TrialResult | TrialSkipped | TrialOutOfTime]:
    key = lesson.key
    # Asked where the lesson starts: joblib hands tasks out before there is a worker for them.
    if deadline.leaves_out(key):
        return key, TrialOutOfTime()
    if isinstance(lesson, Trial):
        return key, lesson.learn()
    from pipeline.studies.training import OutOfTime

    try:
        return key, lesson.learn(deadline.stop_at(key))
    except OutOfTime:
        return key, TrialOutOfTime()
