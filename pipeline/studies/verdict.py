"""The verdicts on the four promises of transfer: functions of the points alone.

A promise is kept where transfer does better than every rival by more than chance might; it is ``not here`` where a
rival does better by more than chance might, and ``not shown`` where an interval leaves both open.
"""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.studies.crossover import labels_needed, labels_text, low_label_point
from pipeline.studies.points import DUMMY, METHODS, SCRATCH, TRANSFER, Point, curve_of, depth_of
from pipeline.studies.results import GENERALISATION, LABELS, NOT_HERE, NOT_SHOWN, PERFORMANCE, TIME, YES, Verdict

RIVALS = tuple(method for method in METHODS if method not in (TRANSFER, DUMMY))
CLEARLY = 1.5  # times as long: clocks of two runs differ by less


def verdicts_of(points: Sequence[Point], layer: str) -> tuple[Verdict, ...]:
    """Return the verdict on each promise, in the order of `PROMISES`."""
    mine = curve_of(points, TRANSFER, layer)
    everything = mine[-1]
    at = low_label_point(mine)
    rivals = _rivals(points, everything)
    return (
        _on_time(everything, rivals),
        _on_labels(points, layer, at, _rivals(points, at)),
        _on_performance(everything, rivals),
        _on_generalisation(everything, rivals),
    )


def summary_of(points: Sequence[Point], layer: str) -> str:
    """Return whether transfer was worth it, in a sentence: by labels or by score, because time alone is no reason."""
    verdicts = {one.promise: one for one in verdicts_of(points, layer)}
    answers = {promise: verdicts[promise].answer for promise in (LABELS, PERFORMANCE)}
    kept = [promise for promise, answer in answers.items() if answer == YES]
    if kept:
        return f"transfer was worth it here, for {' and '.join(kept)}: {verdicts[kept[-1]].text}"
    if NOT_HERE in answers.values():
        promise = PERFORMANCE if answers[PERFORMANCE] == NOT_HERE else LABELS
        return f"transfer was not worth it here: {verdicts[promise].text}"
    return f"transfer was not shown to be worth it here: {verdicts[PERFORMANCE].text}"


def depth_text(points: Sequence[Point]) -> str:
    """Return what each layer of the backbone is worth with the most labels that all were tried with, in a sentence."""
    mine = [point for point in points if point.method == TRANSFER]
    layers = sorted({point.layer for point in mine}, key=depth_of)
    common = [labels for labels in {p.labels for p in mine} if len({p.layer for p in mine if p.labels == labels}) > 1]
    if len(layers) < 2 or not common:
        return ""
    there = {point.layer: point for point in mine if point.labels == max(common)}
    told = ", ".join(f"{layer} {there[layer].score:.3f}" for layer in layers if layer in there)
    best = max(there.values(), key=lambda point: point.score)
    return (
        f"by depth, with {labels_text(best.per_class)} labels a class: {told}; the best is "
        f"{best.layer} (picked by these very test images, which flatters it a little)"
    )


def _rivals(points: Sequence[Point], at: Point) -> dict[str, Point]:
    """Return the rivals' points with as many labels."""
    return {
        point.method: point
        for point in points
        if point.labels == at.labels and point.method in RIVALS and point.lead is not None
    }


def _on_time(mine: Point, rivals: dict[str, Point]) -> Verdict:
    """Held against training from scratch, and against whatever else is not shown to score less."""
    slow = {method: point for method, point in rivals.items() if method == SCRATCH or _lead(point)[1] <= 0}
    figures: dict[str, float | None] = {"transfer": mine.total_seconds, "of which extraction": mine.extraction_seconds}
    figures |= {method: point.total_seconds for method, point in slow.items()}
    parts = f"{_seconds(mine.seconds)} to train"
    if mine.extraction_seconds:
        parts += f" and {_seconds(mine.extraction_seconds)} once through the network"
    text = f"with all {mine.labels:,} labels transfer takes {parts}"
    if not slow:
        return Verdict(TIME, NOT_SHOWN, f"{text}; nothing to hold it against", figures)
    text += f"; {', '.join(_time_of(point) for point in slow.values())}"
    quicker = [one for one in slow.values() if one.total_seconds <= mine.total_seconds and not one.cut_short]
    better = [one for one in quicker if one.method == SCRATCH or _is_ahead(one)]
    if better:
        rival = min(better, key=lambda point: point.total_seconds)
        text += "" if rival.method == SCRATCH else f"; {rival.method} is quicker, and scores more"
        return Verdict(TIME, NOT_HERE, text, figures)
    quickest = min(slow.values(), key=lambda point: point.total_seconds)
    if quickest in quicker:
        text += f"; {quickest.method}, the quickest, is not shown to score less"
    # Where the budget made it short, nobody knows how long it would have taken.
    answer = YES if quickest.total_seconds >= CLEARLY * mine.total_seconds else NOT_SHOWN
    return Verdict(TIME, answer, text, figures)


def _on_labels(points: Sequence[Point], layer: str, at: Point, rivals: dict[str, Point]) -> Verdict:
    """With few labels, how do the rivals do, and how many more do they need?"""
    figures: dict[str, float | None] = {"labels a class": at.per_class, "transfer": at.score}
    figures |= {method: point.score for method, point in rivals.items()}
    needs = {method: labels_needed(curve_of(points, method, layer), at.score) for method in rivals}
    figures |= {f"labels a class that {method} needs": labels for method, (labels, _) in needs.items()}
    text = f"with {labels_text(at.per_class)} labels a class transfer scores {at.score:.3f}"
    if not rivals:
        return Verdict(LABELS, NOT_SHOWN, f"{text}; nothing to hold it against", figures)
    answer, rival = _held_against(rivals)
    text += f", {_against(rival)}"
    if answer != NOT_HERE:
        labels, at_least = needs[rival.method]
        most = labels_text(curve_of(points, rival.method, layer)[-1].per_class)
        if labels is None:
            text += f"; {rival.method} reaches as much at no number of labels here, up to {most} a class"
        else:
            text += f"; {rival.method} needs {'at most' if at_least else 'about'} {labels_text(labels)} for as much"
    return Verdict(LABELS, answer, text, figures)


def _on_performance(mine: Point, rivals: dict[str, Point]) -> Verdict:
    figures: dict[str, float | None] = {"transfer": mine.score}
    figures |= {method: point.score for method, point in rivals.items()}
    text = f"with all {mine.labels:,} labels transfer scores {mine.score:.3f}"
    if not rivals:
        return Verdict(PERFORMANCE, NOT_SHOWN, f"{text}; nothing to hold it against", figures)
    answer, rival = _held_against(rivals)
    return Verdict(PERFORMANCE, answer, f"{text}, {_against(rival)}", figures)


def _on_generalisation(mine: Point, rivals: dict[str, Point]) -> Verdict:
    """Held against training from scratch alone: heads on pixels learn little, and what is not learned has no gap."""
    figures: dict[str, float | None] = {"transfer": mine.gap}
    text = f"with all {mine.labels:,} labels transfer loses {_gap(mine)} from known to new images"
    rival = rivals.get(SCRATCH)
    if rival is None or rival.gap_lead is None or rival.gap_lead_low is None or rival.gap_lead_high is None:
        return Verdict(GENERALISATION, NOT_SHOWN, f"{text}; nothing to hold it against", figures)
    figures[SCRATCH] = rival.gap
    text += (
        f" ({mine.train:.3f} to {mine.score:.3f}), {SCRATCH} {_gap(rival)} ({rival.train:.3f} to {rival.score:.3f})"
        f"; difference {rival.gap_lead:+.3f} ({rival.gap_lead_low:+.3f} to {rival.gap_lead_high:+.3f})"
    )
    if rival.gap_lead_low > 0:
        return Verdict(GENERALISATION, YES, text, figures)
    if rival.train <= mine.score:
        # What has learned little has little to lose.
        text += f"; but {SCRATCH} knows its own images no better than transfer knows new ones, so its gap tells little"
        return Verdict(GENERALISATION, NOT_SHOWN, text, figures)
    return Verdict(GENERALISATION, NOT_HERE if rival.gap_lead_high < 0 else NOT_SHOWN, text, figures)


def _held_against(rivals: dict[str, Point]) -> tuple[str, Point]:
    """Return the answer, and the rival that decides it: the one over which transfer's lead is least."""
    # Behind one rival, or not shown to be ahead of it, no lead over the others helps.
    ahead = [point for point in rivals.values() if _is_ahead(point)]
    if ahead:
        return NOT_HERE, min(ahead, key=lambda point: _lead(point)[0])
    rival = min(rivals.values(), key=lambda point: (_lead(point)[1], _lead(point)[0]))
    return (YES if _lead(rival)[1] > 0 else NOT_SHOWN), rival


def _is_ahead(rival: Point) -> bool:
    """Whether the rival scores more than transfer, by more than chance might."""
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
