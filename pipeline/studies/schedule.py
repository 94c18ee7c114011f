"""How long does a study take, when must its trials end, and which are skipped to keep the time limit?"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.studies.data import LabelBudget
from pipeline.studies.results import METHODS, SkippedTrials
from pipeline.studies.trials import (
    CHOOSE_FROM,
    AnyTrial,
    Deadline,
    ScratchTrial,
    Trial,
    TrialKey,
    TrialResult,
    balanced_accuracy,
)

# Seconds. With the embeddings and the clocks at the end, 350 photos on two slow cores stay below ten minutes.
TIME_LIMIT = 540.0
SHARE_OF_TRAINING = 0.5  # of the limit, at least: many photos may take longer than that to embed
SHARE_OF_HEADS = 0.5  # of the time for training, at most: a slow head must not use up that of the small networks
FIXED_SHARE = 0.05  # of the time of a head whose parameters are chosen: what one with fixed parameters takes
SECONDS_PER_TRIAL = 0.01  # to hand one to a process
MARGIN = 1.2  # processes side by side are slower than one alone


@dataclass(frozen=True)
class PartialPoint:
    """The results of a stopped study for one method and label budget.

    Attributes
    ----------
    method, layer : str
    labels : int
    per_class : float
    draws, of : int
        How many are done, and how many there will be.
    score : float
        Mean balanced accuracy of those that are done.
    """

    method: str
    layer: str
    labels: int
    per_class: float
    draws: int
    of: int
    score: float


class StudyStopped(KeyboardInterrupt):
    """A study was interrupted; stored results remain in its run directory, and the same call continues.

    Attributes
    ----------
    points : tuple of PartialPoint
        By method, the fewest labels first.
    done, of : int
        Trials.
    """

    def __init__(self, points: tuple[PartialPoint, ...], done: int, of: int) -> None:
        super().__init__()
        self.points, self.done, self.of = points, done, of


@dataclass(frozen=True)
class TimeEstimate:
    """How long trials are expected to take, from a short trial run on this machine.

    Attributes
    ----------
    heads : mapping of Key to float
        Seconds of one process.
    networks : mapping of Key to float
    """

    heads: Mapping[TrialKey, float]
    networks: Mapping[TrialKey, float]

    def seconds(self, head_jobs: int, network_jobs: int) -> float:
        """Return the expected seconds of all trials on this number of processes."""
        return sum(self.heads.values()) / max(1, head_jobs) + _in_parallel(self.networks.values(), network_jobs)

    def text(self, head_jobs: int, network_jobs: int, left: float) -> str:
        """Return one sentence on the number of trials and their expected time."""
        counts = [(len(self.heads), "head"), (len(self.networks), "network from scratch")]
        listed_scores = " and ".join(_counted(count, name) for count, name in counts if count)
        expected = self.seconds(head_jobs, network_jobs)
        text = f"{listed_scores} to train: about {_duration(expected)} (estimated from a short trial run)"
        if expected > left:
            text += f"; the time limit leaves {_duration(left)}, so some of them will be skipped and named"
        return text


def estimate_time(
    heads: Sequence[Trial], networks: Sequence[ScratchTrial], measured: tuple[Trial, float] | None
) -> TimeEstimate:
    """Return how long trials take, by one head that was timed and a few steps of the small network.

    Parameters
    ----------
    heads, networks : sequence of trials
    measured : (Trial, float) or None
        A head and the seconds that it took.
    """
    of_heads: dict[TrialKey, float] = {trial.key: SECONDS_PER_TRIAL for trial in heads}
    if measured is not None:
        unit = measured[1] / _work(measured[0])
        of_heads = {trial.key: SECONDS_PER_TRIAL + unit * _work(trial) for trial in heads}
    return TimeEstimate(of_heads, _of_networks(networks))


def time_for_training(time_limit: float, spent: float) -> float:
    """Return the seconds left for training after the seconds already spent."""
    return max(time_limit - spent, SHARE_OF_TRAINING * time_limit)


def deadline_of_heads(heads: Iterable[AnyTrial], left: float) -> Deadline:
    """Return when heads have to end; the first draw of each level has no deadline, so that every curve is complete."""
    always = frozenset(trial.key for trial in heads if trial.key.draw == 0)
    return Deadline(time.time() + SHARE_OF_HEADS * left, {}, always)


def deadline_of_networks(expected: TimeEstimate, end: float, jobs: int) -> Deadline:
    """Return when small networks have to end: `end`, in seconds since the epoch."""
    fits = _in_parallel(expected.networks.values(), jobs) <= end - time.time()
    return Deadline(end, expected.networks, shortest_first=not fits)


def skipped_of(
    left_out: Iterable[TrialKey], trials: Sequence[AnyTrial], budgets: Sequence[LabelBudget]
) -> tuple[SkippedTrials, ...]:
    """Return the skipped trials by method, the fewest labels first."""
    gone, planned = _places(left_out), _places(trial.key for trial in trials)
    return tuple(
        SkippedTrials(method, layer, budgets[number].labels, count, planned[method, layer, number])
        for (method, layer, number), count in sorted(gone.items(), key=lambda item: _order(item[0]))
    )


def skipped_text(skipped: Sequence[SkippedTrials], time_limit: float) -> str:
    """Return one sentence on the skipped trials; empty if there are none."""
    if not skipped:
        return ""
    parts = []
    for method in dict.fromkeys(item.method for item in skipped):
        rows = [item for item in skipped if item.method == method]
        labels = sorted({item.labels for item in rows})
        between = f"{labels[0]:,}" if len(labels) == 1 else f"{labels[0]:,} to {labels[-1]:,}"
        parts.append(
            f"{sum(item.draws for item in rows)} of {sum(item.of for item in rows)} of {method} ({between} labels)"
        )
    count = sum(item.draws for item in skipped)
    return (
        f"{_counted(count, 'training')} skipped for the time limit of {time_limit:g} seconds: {', '.join(parts)}; "
        "the same command again adds them, --time-limit inf skips none"
    )


def partial_points(
    learned: Mapping[TrialKey, TrialResult], trials: Sequence[AnyTrial], budgets: Sequence[LabelBudget], y: np.ndarray
) -> tuple[PartialPoint, ...]:
    """Return the mean scores of the completed trials by method, the fewest labels first.

    Parameters
    ----------
    learned : mapping of Key to Learned
    trials : sequence of trials
        All, done or not.
    budgets : sequence of LabelBudget
    y : ndarray of int64, (m,)
        Labels of the test images.
    """
    planned = _places(trial.key for trial in trials)
    scores: dict[tuple[str, str, int], list[float]] = {}
    for key, item in learned.items():
        scores.setdefault((key.method, key.layer, key.level), []).append(balanced_accuracy(y, item.predicted))
    return tuple(
        PartialPoint(
            place[0], place[1], budgets[place[2]].labels, budgets[place[2]].per_class, len(values), planned[place],
            float(np.mean(values)),
        )
        for place, values in sorted(scores.items(), key=lambda item: _order(item[0]))
    )  # fmt: skip


def _of_networks(networks: Sequence[ScratchTrial]) -> dict[TrialKey, float]:
    if not networks:
        return {}
    from pipeline.studies import scratch

    longest = max(networks, key=lambda trial: len(trial.rows))
    per_image = scratch.seconds_per_image(
        longest.material.X[longest.rows], longest.material.y[longest.rows], longest.material.classes, longest.device
    )
    tries = len(scratch.TRIES)
    found = {}
    for trial in networks:
        n = len(trial.rows)
        steps = scratch.expected_steps(n, chosen=n >= CHOOSE_FROM * trial.material.classes, tries=tries)
        found[trial.key] = MARGIN * min(trial.budget, steps * scratch.batch_for(n) * per_image)
    return found


def _work(trial: Trial) -> float:
    """Return a measure of a head's work: the number of values it is trained on, fewer without a parameter search."""
    n = len(trial.rows)
    width = float(np.prod(trial.material.X.shape[1:]))
    return n * width * (1.0 if n >= CHOOSE_FROM * trial.material.classes else FIXED_SHARE)


def _in_parallel(seconds: Iterable[float], jobs: int) -> float:
    """Return the seconds that tasks take on this number of processes: the mean share, at least the longest task."""
    values = list(seconds)
    return max(sum(values) / max(1, jobs), max(values, default=0.0))


def _places(keys: Iterable[TrialKey]) -> dict[tuple[str, str, int], int]:
    found: dict[tuple[str, str, int], int] = {}
    for key in keys:
        place = (key.method, key.layer, key.level)
        found[place] = found.get(place, 0) + 1
    return found


def _order(place: tuple[str, str, int]) -> tuple[int, str, int]:
    return METHODS.index(place[0]), place[1], place[2]


def _counted(count: int, name: str) -> str:
    if count == 1:
        return f"1 {name}"
    first, space, rest = name.partition(" ")
    return f"{count:,} {first}s{space}{rest}"


def _duration(seconds: float) -> str:
    if not math.isfinite(seconds):
        return "no limit"
    return f"{max(1, round(seconds))} s" if seconds < 90 else f"{seconds / 60:.0f} min"
