"""What do the points of a study show? Crossovers, verdicts and caveats, computed from the points alone.

A promise is kept if transfer is better than every rival by more than chance explains; it is ``not here`` if a rival is
better by more than chance explains, and ``not shown`` if an interval allows both.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import stats

from pipeline.intervals import score_with_interval
from pipeline.search import Predictions
from pipeline.studies.data import LabelBudget, StudyData
from pipeline.studies.results import (
    DUMMY,
    GENERALISATION,
    LABELS,
    METHODS,
    NOT_HERE,
    NOT_SHOWN,
    PERFORMANCE,
    RANDOM,
    SCRATCH,
    TIME,
    TRANSFER,
    YES,
    Crossover,
    LabelMatch,
    Point,
    Verdict,
    curve_of,
    depth_of,
)
from pipeline.studies.trials import SCORING, TrialKey, TrialResult, balanced_accuracy

FEW = 5  # labels per class: about an evening of labelling


def crossovers_of(points: Sequence[Point], layer: str) -> tuple[Crossover, ...]:
    """Return the crossover of every rival but the dummy, training from scratch first."""
    transfer = curve_of(points, TRANSFER, layer)
    rivals = [method for method in METHODS if method not in (TRANSFER, DUMMY)]
    rivals.sort(key=lambda method: method != SCRATCH)
    found = []
    for rival in rivals:
        rival_curve = curve_of(points, rival, layer)
        if transfer and rival_curve:
            matches = tuple(
                LabelMatch(item.per_class, item.score, *labels_needed(rival_curve, item.score)) for item in transfer
            )
            meets = match_of(transfer, rival_curve)
            found.append(
                Crossover(rival, meets, matches, _describe_crossover(rival, rival_curve, transfer, matches, meets))
            )
    return tuple(found)


def labels_needed(curve: Sequence[Point], score: float) -> tuple[float | None, bool]:
    """Return the labels per class at which a curve first reaches a score, and whether its first point already does.

    Between two points the curve is interpolated linearly over the logarithm of the labels.
    """
    if curve[0].score >= score:
        return curve[0].per_class, True
    for before, after in itertools.pairwise(curve):
        if after.score >= score:
            share = (score - before.score) / (after.score - before.score)
            return _between(before.per_class, after.per_class, share), False
    return None, False


def match_of(transfer: Sequence[Point], rival_curve: Sequence[Point]) -> float | None:
    """Return the labels per class from which a rival scores as high as transfer; None if it never does."""
    scores = {point.labels: point.score for point in transfer}
    steps = [(point.per_class, point.score - scores[point.labels]) for point in rival_curve if point.labels in scores]
    if not steps or steps[-1][1] < 0:
        return None
    for (x, lead), (x_after, lead_after) in zip(reversed(steps[:-1]), reversed(steps[1:]), strict=True):
        if lead < 0:
            return _between(x, x_after, -lead / (lead_after - lead))
    return steps[0][0]


def low_label_point(curve: Sequence[Point]) -> Point:
    """Return the point of a curve that represents few labels: the nearest to `FEW` per class."""
    return min(curve, key=lambda point: abs(math.log(point.per_class / FEW)))


def labels_text(per_class: float) -> str:
    """Return a number of labels per class as text, rounded to two digits."""
    if per_class < 10:
        return f"{per_class:.2g}"
    digits = 10 ** (int(math.log10(per_class)) - 1)
    return f"{round(per_class / digits) * digits:,}"


def _between(before: float, after: float, share: float) -> float:
    return math.exp(math.log(before) + share * (math.log(after) - math.log(before)))


def _describe_crossover(
    rival: str,
    rival_curve: Sequence[Point],
    transfer: Sequence[Point],
    matches: Sequence[LabelMatch],
    meets: float | None,
) -> str:
    at = low_label_point(transfer)
    match = matches[list(transfer).index(at)]
    given = f"{labels_text(at.per_class)} with transfer ({at.score:.3f})"
    if match.needed is None:
        most = labels_text(rival_curve[-1].per_class)
        text = f"{rival} matches {given} at no number of labels here, up to {most} per class"
    elif match.at_least:
        text = f"{rival} matches {given} with {labels_text(match.needed)} per class already"
    else:
        text = f"{rival} needs about {labels_text(match.needed)} labels per class to match {given}"
    if meets is None:
        return f"{text}; with as many labels as transfer it never catches up here"
    if meets <= rival_curve[0].per_class:
        return f"{text}; with as many labels as transfer it is never behind here"
    return f"{text}; with as many labels as transfer it has caught up from about {labels_text(meets)} per class on"


RIVALS = tuple(method for method in METHODS if method not in (TRANSFER, DUMMY))
CLEARLY = 1.5  # times as long: clocks of two runs differ by less


def verdicts_of(points: Sequence[Point], layer: str) -> tuple[Verdict, ...]:
    """Return the verdict on each promise, in the order of `PROMISES`."""
    transfer = curve_of(points, TRANSFER, layer)
    everything = transfer[-1]
    at = low_label_point(transfer)
    rivals = _rivals(points, everything)
    return (
        _on_time(everything, rivals),
        _on_labels(points, layer, at, _rivals(points, at)),
        _on_performance(everything, rivals),
        _on_generalisation(everything, rivals),
    )


def summary_of(points: Sequence[Point], layer: str) -> str:
    """Return one sentence on whether transfer was worth it, by labels or by score; time alone does not decide."""
    verdicts = {item.promise: item for item in verdicts_of(points, layer)}
    answers = {promise: verdicts[promise].answer for promise in (LABELS, PERFORMANCE)}
    kept = [promise for promise, answer in answers.items() if answer == YES]
    if kept:
        return f"transfer was worth it here, for {' and '.join(kept)}: {verdicts[kept[-1]].text}"
    if NOT_HERE in answers.values():
        promise = PERFORMANCE if answers[PERFORMANCE] == NOT_HERE else LABELS
        return f"transfer was not worth it here: {verdicts[promise].text}"
    return f"transfer was not shown to be worth it here: {verdicts[PERFORMANCE].text}"


def depth_text(points: Sequence[Point]) -> str:
    """Return one sentence on the scores of the layers, at the largest label budget that all layers have."""
    transfer = [point for point in points if point.method == TRANSFER]
    layers = sorted({point.layer for point in transfer}, key=depth_of)
    common = [
        labels for labels in {p.labels for p in transfer} if len({p.layer for p in transfer if p.labels == labels}) > 1
    ]
    if len(layers) < 2 or not common:
        return ""
    by_layer = {point.layer: point for point in transfer if point.labels == max(common)}
    listed_scores = ", ".join(f"{layer} {by_layer[layer].score:.3f}" for layer in layers if layer in by_layer)
    best = max(by_layer.values(), key=lambda point: point.score)
    return (
        f"by depth, with {labels_text(best.per_class)} labels per class: {listed_scores}; the best is "
        f"{best.layer} (picked by these very test images, which flatters it a little)"
    )


def _rivals(points: Sequence[Point], at: Point) -> dict[str, Point]:
    """Return the rivals' points with as many labels."""
    return {
        point.method: point
        for point in points
        if point.labels == at.labels and point.method in RIVALS and point.lead is not None
    }


def _on_time(transfer: Point, rivals: dict[str, Point]) -> Verdict:
    """Compare with training from scratch, and with every rival that is not shown to score less."""
    slow = {method: point for method, point in rivals.items() if method == SCRATCH or _lead(point)[1] <= 0}
    figures: dict[str, float | None] = {
        "transfer": transfer.total_seconds,
        "of which extraction": transfer.extraction_seconds,
    }
    figures |= {method: point.total_seconds for method, point in slow.items()}
    parts = f"{_seconds(transfer.seconds)} to train"
    if transfer.extraction_seconds:
        parts += f" and {_seconds(transfer.extraction_seconds)} once through the network"
    text = f"with all {transfer.labels:,} labels transfer takes {parts}"
    if not slow:
        return Verdict(TIME, NOT_SHOWN, f"{text}; no rival to compare with", figures)
    text += f"; {', '.join(_time_of(point) for point in slow.values())}"
    quicker = [item for item in slow.values() if item.total_seconds <= transfer.total_seconds and not item.cut_short]
    better = [item for item in quicker if item.method == SCRATCH or _is_ahead(item)]
    if better:
        rival = min(better, key=lambda point: point.total_seconds)
        text += "" if rival.method == SCRATCH else f"; {rival.method} is quicker, and scores more"
        return Verdict(TIME, NOT_HERE, text, figures)
    quickest = min(slow.values(), key=lambda point: point.total_seconds)
    if quickest in quicker:
        text += f"; {quickest.method}, the quickest, is not shown to score less"
    # A training that the budget cut short has no known full duration.
    answer = YES if quickest.total_seconds >= CLEARLY * transfer.total_seconds else NOT_SHOWN
    return Verdict(TIME, answer, text, figures)


def _on_labels(points: Sequence[Point], layer: str, at: Point, rivals: dict[str, Point]) -> Verdict:
    """Compare the rivals with few labels, and count how many more labels they need."""
    figures: dict[str, float | None] = {"labels a class": at.per_class, "transfer": at.score}
    figures |= {method: point.score for method, point in rivals.items()}
    needs = {method: labels_needed(curve_of(points, method, layer), at.score) for method in rivals}
    figures |= {f"labels a class that {method} needs": labels for method, (labels, _) in needs.items()}
    text = f"with {labels_text(at.per_class)} labels per class transfer scores {at.score:.3f}"
    if not rivals:
        return Verdict(LABELS, NOT_SHOWN, f"{text}; no rival to compare with", figures)
    answer, rival = _decide_against(rivals)
    text += f", {_against(rival)}"
    if answer != NOT_HERE:
        labels, at_least = needs[rival.method]
        most = labels_text(curve_of(points, rival.method, layer)[-1].per_class)
        if labels is None:
            text += f"; {rival.method} reaches as much at no number of labels here, up to {most} per class"
        else:
            text += f"; {rival.method} needs {'at most' if at_least else 'about'} {labels_text(labels)} for as much"
    return Verdict(LABELS, answer, text, figures)


def _on_performance(transfer: Point, rivals: dict[str, Point]) -> Verdict:
    figures: dict[str, float | None] = {"transfer": transfer.score}
    figures |= {method: point.score for method, point in rivals.items()}
    text = f"with all {transfer.labels:,} labels transfer scores {transfer.score:.3f}"
    if not rivals:
        return Verdict(PERFORMANCE, NOT_SHOWN, f"{text}; no rival to compare with", figures)
    answer, rival = _decide_against(rivals)
    return Verdict(PERFORMANCE, answer, f"{text}, {_against(rival)}", figures)


def _on_generalisation(transfer: Point, rivals: dict[str, Point]) -> Verdict:
    """Compare with training from scratch alone: heads on pixels fit little, so they have no gap to lose."""
    figures: dict[str, float | None] = {"transfer": transfer.gap}
    text = f"with all {transfer.labels:,} labels transfer loses {_gap(transfer)} from known to new images"
    rival = rivals.get(SCRATCH)
    if rival is None or rival.gap_lead is None or rival.gap_lead_low is None or rival.gap_lead_high is None:
        return Verdict(GENERALISATION, NOT_SHOWN, f"{text}; no rival to compare with", figures)
    figures[SCRATCH] = rival.gap
    text += (
        f" ({transfer.train:.3f} to {transfer.score:.3f}), "
        f"{SCRATCH} {_gap(rival)} ({rival.train:.3f} to {rival.score:.3f})"
        f"; difference {rival.gap_lead:+.3f} ({rival.gap_lead_low:+.3f} to {rival.gap_lead_high:+.3f})"
    )
    if rival.gap_lead_low > 0:
        return Verdict(GENERALISATION, YES, text, figures)
    if rival.train <= transfer.score:
        # A model that fits its training images badly has a small gap for that reason alone.
        text += (
            f"; but {SCRATCH} fits its training images no better than transfer predicts new ones: its gap says little"
        )
        return Verdict(GENERALISATION, NOT_SHOWN, text, figures)
    return Verdict(GENERALISATION, NOT_HERE if rival.gap_lead_high < 0 else NOT_SHOWN, text, figures)


def _decide_against(rivals: dict[str, Point]) -> tuple[str, Point]:
    """Return the verdict, and the rival that decides it: the one with the smallest lead of transfer."""
    # Behind one rival, or not shown to be ahead of it, no lead over the others helps.
    ahead = [point for point in rivals.values() if _is_ahead(point)]
    if ahead:
        return NOT_HERE, min(ahead, key=lambda point: _lead(point)[0])
    rival = min(rivals.values(), key=lambda point: (_lead(point)[1], _lead(point)[0]))
    return (YES if _lead(rival)[1] > 0 else NOT_SHOWN), rival


def _is_ahead(rival: Point) -> bool:
    """Return whether the rival scores higher than transfer, and the interval of the difference excludes zero."""
    return _lead(rival)[2] < 0


def _lead(point: Point) -> tuple[float, float, float]:
    assert point.lead is not None and point.lead_low is not None and point.lead_high is not None
    return point.lead, point.lead_low, point.lead_high


def _against(rival: Point) -> str:
    lead, low, high = _lead(rival)
    return f"{rival.method} {rival.score:.3f} (lead {lead:+.3f}, {low:+.3f} to {high:+.3f})"


def _gap(point: Point) -> str:
    return f"{round(point.gap, 3) + 0.0:.3f}"  # never -0.000


def _time_of(point: Point) -> str:
    text = f"{point.method} {_seconds(point.total_seconds)}"
    return f"{text} ({point.cut_short} of {point.draws} shortened for the budget)" if point.cut_short else text


def _seconds(seconds: float) -> str:
    return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:,.0f} s"


FEW_GROUPS = 8


def caveats(subject: StudyData, points: Sequence[Point], budget: float) -> Iterator[str]:
    """Yield one sentence per caveat: too few test images, an untrained backbone, short budgets."""
    test = subject.test.part
    if test.groups is not None and len(np.unique(test.groups)) < FEW_GROUPS:
        yield f"the test images are of {len(np.unique(test.groups))} groups alone: intervals are wide, verdicts careful"
    lacking = [name for code, name in enumerate(subject.question.classes) if code not in test.y]
    if lacking:
        yield f"no test image is of {', '.join(lacking)}: the scores are about the other classes"
    if RANDOM not in {point.method for point in points}:
        yield "the backbone's own weights are random: there is no transfer to study, and no baseline of random weights"
    transfer = [point for point in points if point.method == SCRATCH]
    cut, trained = sum(point.cut_short for point in transfer), sum(point.draws for point in transfer)
    if cut:
        yield (
            f"{cut} of {trained} trainings from scratch were shortened for their budget of {budget:g} seconds: with "
            "more (--budget) they might do better than they do here"
        )


HOW = (
    "95%, for the draws of labels and the test images together: Student's t over the draws, and over the test images "
    "the mean over the draws of MOVER of Wilson's, one per class (whole groups resampled where there are groups); the "
    "two combined in squares. With all labels there is one draw, and the seeds of training from scratch in its place; "
    "the choice of labelled images is not in the interval there. Differences: of the same draws and images, by the "
    "jackknife over images or groups."
)
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Estimate:
    """A value and its 95% limits."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, eq=False)
class TestSet:
    """The test images.

    Attributes
    ----------
    y : ndarray of int64, (m,)
    classes : int
    groups : ndarray, (m,), or None
    """

    __test__ = False  # pytest would take the class for one of tests, by its name

    y: np.ndarray
    classes: int
    groups: np.ndarray | None

    @property
    def weights(self) -> np.ndarray:
        """The weight of each image in balanced accuracy, (m,)."""
        counts = np.bincount(self.y, minlength=self.classes)
        return 1 / (np.count_nonzero(counts) * counts[self.y])


def mean_score(test_set: TestSet, predicted: Sequence[np.ndarray], *, random_state: int) -> Estimate:
    """Return the mean score of some draws with its interval.

    Parameters
    ----------
    test_set : TestSet
    predicted : sequence of ndarray of int64, (m,)
        One per draw.
    random_state : int
    """
    found = [
        score_with_interval(
            SCORING,
            test_set.y,
            Predictions(labels),
            kind="class",
            n_classes=test_set.classes,
            groups=test_set.groups,
            random_state=random_state,
        )
        for labels in predicted
    ]
    values = np.array([item.value for item in found])
    below = float(np.mean([item.value - item.low for item in found]))
    above = float(np.mean([item.high - item.value for item in found]))
    mean, half = float(values.mean()), half_of_draws(values)
    return Estimate(mean, max(0.0, mean - math.hypot(below, half)), min(1.0, mean + math.hypot(above, half)))


def mean_lead(
    test_set: TestSet, leader: Sequence[np.ndarray], rival: Sequence[np.ndarray], more: np.ndarray
) -> Estimate:
    """Return how much higher the leader's mean score is on the same draws and images, with its interval.

    Parameters
    ----------
    test_set : TestSet
    leader, rival : sequence of ndarray of int64, (m,)
        What each predicted, a pair per draw.
    more : ndarray, (draws,)
        What is added to the lead of each draw and does not depend on the test images.
    """
    right = np.stack([first == test_set.y for first in leader]).astype(float)
    right -= np.stack([second == test_set.y for second in rival])
    leads = right @ test_set.weights + more  # (draws,)
    half = math.hypot(half_of_draws(leads), _half_of_images(test_set, right.mean(axis=0)))
    mean = float(leads.mean())
    return Estimate(mean, mean - half, mean + half)


def half_of_draws(values: np.ndarray) -> float:
    """Return half the width of Student's t interval of the mean; 0 for a single draw, whose spread is unknown."""
    if len(values) < 2:
        return 0.0
    t = float(stats.t.ppf((1 + CONFIDENCE) / 2, len(values) - 1))
    return t * float(np.std(values, ddof=1)) / math.sqrt(len(values))


def _half_of_images(test_set: TestSet, differences: np.ndarray) -> float:
    """Return half the width of the interval of a weighted mean of differences, (m,), the images or groups varying.

    The jackknife leaves out one image or group at a time. At least the value that one of them per class would give:
    few without a difference do not prove that there is none, and a class of one group does not show how groups differ.
    """
    members = (
        np.arange(len(test_set.y))
        if test_set.groups is None
        else np.unique(test_set.groups, return_inverse=True)[1].ravel()
    )
    units, classes = int(members.max()) + 1, test_set.classes
    if units < 2:
        return 1.0  # one group says nothing about others: any difference is possible
    place = members * classes + test_set.y  # (m,), unit by class
    counts = np.bincount(place, minlength=units * classes).reshape(units, classes)
    sums = np.bincount(place, differences, minlength=units * classes).reshape(units, classes)
    present = counts.sum(axis=0) > 0
    counts, sums = counts[:, present], sums[:, present]
    left, rest = counts.sum(axis=0) - counts, sums.sum(axis=0) - sums  # (units, classes), without each unit
    means = np.where(left > 0, rest / np.maximum(left, 1), 0).sum(axis=1) / np.count_nonzero(left, axis=1).clip(1)
    variance = (units - 1) / units * float(np.sum((means - means.mean()) ** 2))
    fewest = float(np.sum((1 / (len(counts[0]) * np.count_nonzero(counts, axis=0))) ** 2))
    return float(stats.t.ppf((1 + CONFIDENCE) / 2, units - 1)) * math.sqrt(max(variance, fewest))


def points_of(
    learned: Mapping[TrialKey, TrialResult],
    budgets: Sequence[LabelBudget],
    test_set: TestSet,
    *,
    layer: str,
    image_seconds: Mapping[str, float],
    random_state: int,
) -> tuple[Point, ...]:
    """Return one point for each method, layer and level that has results.

    Parameters
    ----------
    learned : mapping of TrialKey to TrialResult
    budgets : sequence of LabelBudget
    test_set : TestSet
    layer : str
        Of the curves: every method is compared with transfer there.
    image_seconds : mapping of str to float
        Seconds that an image takes through the backbone, by method.
    random_state : int
    """
    places = {(key.method, key.layer, key.level) for key in learned}
    order = sorted(places, key=lambda place: (METHODS.index(place[0]), place[1] != layer, depth_of(place[1]), place[2]))
    found = []
    for method, at, number in order:
        transfer = _draws(learned, method, at, number)
        point = _point(
            method, at, budgets[number], list(transfer.values()), test_set, image_seconds.get(method, 0.0), random_state
        )
        leader = _draws(learned, TRANSFER, layer, number)
        if method != TRANSFER and leader:
            point = _with_lead(point, leader, transfer, budgets[number], test_set)
        found.append(point)
    return tuple(found)


def _draws(learned: Mapping[TrialKey, TrialResult], method: str, layer: str, level: int) -> dict[int, TrialResult]:
    place = (method, layer, level)
    draws = {key.draw: result for key, result in learned.items() if (key.method, key.layer, key.level) == place}
    return {draw: draws[draw] for draw in sorted(draws)}


def _point(
    method: str,
    layer: str,
    level: LabelBudget,
    results: Sequence[TrialResult],
    test_set: TestSet,
    image_seconds: float,
    random_state: int,
) -> Point:
    spread = mean_score(test_set, [item.predicted for item in results], random_state=random_state)
    return Point(
        method=method,
        layer=layer,
        per_class=level.per_class,
        labels=level.labels,
        everything=level.everything,
        draws=len(results),
        score=spread.value,
        low=spread.low,
        high=spread.high,
        train=float(np.mean([item.train for item in results])),
        seconds=float(np.mean([item.seconds for item in results])),
        extraction_seconds=image_seconds * level.labels,
        cut_short=sum(item.cut_short for item in results),
        params=results[0].params,
        scores=tuple(balanced_accuracy(test_set.y, item.predicted) for item in results),
    )


def _with_lead(
    point: Point,
    leader: Mapping[int, TrialResult],
    results: Mapping[int, TrialResult],
    level: LabelBudget,
    test_set: TestSet,
) -> Point:
    """Return the point with the lead of transfer over it; unchanged if no draw was trained by both."""
    if level.everything:
        # With all labels there is one draw, on which heads are trained once: that result is paired with every seed.
        pairs = max(len(leader), len(results))
        first, second = (
            [list(each.values())[min(k, len(each) - 1)] for k in range(pairs)] for each in (leader, results)
        )
    else:
        # By number: if a study ran out of time, only one of the methods may have a draw.
        common = sorted(leader.keys() & results.keys())
        first, second = ([each[draw] for draw in common] for each in (leader, results))
    if not first:
        return point
    pairs = len(first)
    predictions = [item.predicted for item in first], [item.predicted for item in second]
    lead = mean_lead(test_set, *predictions, np.zeros(pairs))
    # The rival's gap less that of transfer: the lead, and by how much the rival is better on its training images.
    known = np.array([other.train - first_result.train for first_result, other in zip(first, second, strict=True)])
    gap = mean_lead(test_set, *predictions, known)
    return replace(
        point,
        lead=lead.value,
        lead_low=max(-1.0, lead.low),
        lead_high=min(1.0, lead.high),
        gap_lead=gap.value,
        gap_lead_low=gap.low,
        gap_lead_high=gap.high,
    )
