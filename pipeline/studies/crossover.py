"""Where a rival's learning curve reaches that of transfer: functions of the points alone."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

from pipeline.studies.points import DUMMY, METHODS, SCRATCH, TRANSFER, Point, curve_of
from pipeline.studies.results import Crossover, LabelMatch

FEW = 5  # labels a class: what a person has labelled on the first evening


def crossovers_of(points: Sequence[Point], layer: str) -> tuple[Crossover, ...]:
    """Return the crossover of every rival but the dummy, training from scratch first."""
    mine = curve_of(points, TRANSFER, layer)
    rivals = [method for method in METHODS if method not in (TRANSFER, DUMMY)]
    rivals.sort(key=lambda method: method != SCRATCH)
    found = []
    for rival in rivals:
        theirs = curve_of(points, rival, layer)
        if mine and theirs:
            matches = tuple(LabelMatch(one.per_class, one.score, *labels_needed(theirs, one.score)) for one in mine)
            meets = match_of(mine, theirs)
            found.append(Crossover(rival, meets, matches, _in_words(rival, theirs, mine, matches, meets)))
    return tuple(found)


def labels_needed(curve: Sequence[Point], score: float) -> tuple[float | None, bool]:
    """Return with how many labels a class a curve first reaches a score, and whether it does with the fewest already.

    Between two points it is taken as straight in the logarithm of the labels.
    """
    if curve[0].score >= score:
        return curve[0].per_class, True
    for before, after in itertools.pairwise(curve):
        if after.score >= score:
            share = (score - before.score) / (after.score - before.score)
            return _between(before.per_class, after.per_class, share), False
    return None, False


def match_of(mine: Sequence[Point], theirs: Sequence[Point]) -> float | None:
    """Return from how many labels a class on a rival scores as high as transfer with as many; None: not with all."""
    scores = {point.labels: point.score for point in mine}
    steps = [(point.per_class, point.score - scores[point.labels]) for point in theirs if point.labels in scores]
    if not steps or steps[-1][1] < 0:
        return None
    for (x, lead), (x_after, lead_after) in zip(reversed(steps[:-1]), reversed(steps[1:]), strict=True):
        if lead < 0:
            return _between(x, x_after, -lead / (lead_after - lead))
    return steps[0][0]


def low_label_point(curve: Sequence[Point]) -> Point:
    """Return the point of a curve that stands for few labels: the nearest to `FEW` a class."""
    return min(curve, key=lambda point: abs(math.log(point.per_class / FEW)))


def labels_text(per_class: float) -> str:
    """Return a number of labels a class as a person says it: two digits of it."""
    if per_class < 10:
        return f"{per_class:.2g}"
    digits = 10 ** (int(math.log10(per_class)) - 1)
    return f"{round(per_class / digits) * digits:,}"


def _between(before: float, after: float, share: float) -> float:
    return math.exp(math.log(before) + share * (math.log(after) - math.log(before)))


def _in_words(
    rival: str, theirs: Sequence[Point], mine: Sequence[Point], matches: Sequence[LabelMatch], meets: float | None
) -> str:
    at = low_label_point(mine)
    match = matches[list(mine).index(at)]
    given = f"{labels_text(at.per_class)} with transfer ({at.score:.3f})"
    if match.needed is None:
        text = f"{rival} matches {given} at no number of labels here, up to {labels_text(theirs[-1].per_class)} a class"
    elif match.at_least:
        text = f"{rival} matches {given} with {labels_text(match.needed)} a class already"
    else:
        text = f"{rival} needs about {labels_text(match.needed)} labels a class to match {given}"
    if meets is None:
        return f"{text}; with as many labels as transfer it never catches up here"
    if meets <= theirs[0].per_class:
        return f"{text}; with as many labels as transfer it is never behind here"
    return f"{text}; with as many labels as transfer it has caught up from about {labels_text(meets)} a class on"
