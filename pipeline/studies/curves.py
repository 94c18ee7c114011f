"""From what was learned in every lesson to the table of points."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from pipeline.studies.draws import LabelBudget
from pipeline.studies.lessons import TrialKey, TrialResult, balanced_accuracy
from pipeline.studies.points import METHODS, TRANSFER, Point, depth_of
from pipeline.studies.spread import TestSet, mean_lead, mean_score


def points_of(
    learned: Mapping[TrialKey, TrialResult],
    rungs: Sequence[LabelBudget],
    exam: TestSet,
    *,
    layer: str,
    image_seconds: Mapping[str, float],
    random_state: int,
) -> tuple[Point, ...]:
    """Return one point for each method, layer and rung that something was learned of.

    Parameters
    ----------
    learned : mapping of Key to Learned
    rungs : sequence of Rung
    exam : Exam
    layer : str
        Of the curves: every method is held against transfer there.
    image_seconds : mapping of str to float
        Seconds that an image takes through the backbone, by method.
    random_state : int
    """
    places = {(key.method, key.layer, key.rung) for key in learned}
    order = sorted(places, key=lambda place: (METHODS.index(place[0]), place[1] != layer, depth_of(place[1]), place[2]))
    found = []
    for method, at, number in order:
        mine = _draws(learned, method, at, number)
        point = _point(
            method, at, rungs[number], list(mine.values()), exam, image_seconds.get(method, 0.0), random_state
        )
        leader = _draws(learned, TRANSFER, layer, number)
        if method != TRANSFER and leader:
            point = _with_lead(point, leader, mine, rungs[number], exam)
        found.append(point)
    return tuple(found)


def _draws(learned: Mapping[TrialKey, TrialResult], method: str, layer: str, rung: int) -> dict[int, TrialResult]:
    mine = {key.draw: one for key, one in learned.items() if (key.method, key.layer, key.rung) == (method, layer, rung)}
    return {draw: mine[draw] for draw in sorted(mine)}


def _point(
    method: str,
    layer: str,
    rung: LabelBudget,
    mine: Sequence[TrialResult],
    exam: TestSet,
    image_seconds: float,
    random_state: int,
) -> Point:
    spread = mean_score(exam, [one.predicted for one in mine], random_state=random_state)
    return Point(
        method=method,
        layer=layer,
        per_class=rung.per_class,
        labels=rung.labels,
        everything=rung.everything,
        draws=len(mine),
        score=spread.value,
        low=spread.low,
        high=spread.high,
        train=float(np.mean([one.train for one in mine])),
        seconds=float(np.mean([one.seconds for one in mine])),
        extraction_seconds=image_seconds * rung.labels,
        cut_short=sum(one.cut_short for one in mine),
        params=mine[0].params,
        scores=tuple(balanced_accuracy(exam.y, one.predicted) for one in mine),
    )


def _with_lead(
    point: Point, leader: Mapping[int, TrialResult], mine: Mapping[int, TrialResult], rung: LabelBudget, exam: TestSet
) -> Point:
    """Return the point with the lead of transfer over it; as it is where no draw was learned by both."""
    if rung.everything:
        # With all labels every draw is the same one, and heads learned it once: it stands beside every other seed.
        pairs = max(len(leader), len(mine))
        first, second = ([list(each.values())[min(k, len(each) - 1)] for k in range(pairs)] for each in (leader, mine))
    else:
        # By number: where a study ran out of time, a draw may be there for one method alone.
        common = sorted(leader.keys() & mine.keys())
        first, second = ([each[draw] for draw in common] for each in (leader, mine))
    if not first:
        return point
    pairs = len(first)
    said = [one.predicted for one in first], [one.predicted for one in second]
    lead = mean_lead(exam, *said, np.zeros(pairs))
    # The rival's gap less that of transfer: the lead, and by how much the rival is better on what it learned from.
    known = np.array([other.train - one.train for one, other in zip(first, second, strict=True)])
    gap = mean_lead(exam, *said, known)
    return replace(
        point,
        lead=lead.value,
        lead_low=max(-1.0, lead.low),
        lead_high=min(1.0, lead.high),
        gap_lead=gap.value,
        gap_lead_low=gap.low,
        gap_lead_high=gap.high,
    )
