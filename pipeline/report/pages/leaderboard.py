"""The leaderboard of one label set as a page shows it: a line a head, with the span of its interval."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.report.findings.models import SavedModel
from pipeline.report.pages.tables import number, span
from pipeline.runs import CHOSEN, DUMMY, MOST_FOLDS, NOTHING, PIXELS, LabelSetInfo, Result, Run

SCORINGS = {
    "balanced_accuracy": "balanced accuracy",
    "average_precision": "average precision",
    "f1_macro": "macro F1",
    "f1_micro": "micro F1",
    "neg_log_loss": "−log loss",
    "neg_mean_absolute_error": "−absolute error",
    "r2": "R²",
}
WIDTH, MARGIN = 176.0, 6.0  # of the picture of an interval, in its own units


@dataclass(frozen=True)
class Whisker:
    """Where a score and the ends of its interval stand in their picture; None where there is nothing to draw."""

    at: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Scale:
    """From the lowest end of all intervals to the highest."""

    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float | None]) -> Scale:
        there = [value for value in values if value is not None]
        low, high = (min(there), max(there)) if there else (0.0, 1.0)
        return cls(low, high if high > low else low + 1)

    def place(self, value: float | None) -> float | None:
        if value is None:
            return None
        share = (value - self.low) / (self.high - self.low)
        return round(MARGIN + min(max(share, 0.0), 1.0) * (WIDTH - 2 * MARGIN), 1)

    def whisker(self, value: float | None, low: float | None, high: float | None) -> Whisker:
        return Whisker(self.place(value), self.place(low), self.place(high))


@dataclass(frozen=True)
class Score:
    """A figure, its interval in words, and their picture."""

    value: str
    interval: str
    whisker: Whisker


@dataclass(frozen=True)
class Row:
    """One head of the leaderboard."""

    name: str
    features: str
    backbone: str
    null: bool
    best: bool
    tied: bool
    optimistic: bool
    score: Score
    test: Score
    apart: str
    others: tuple[str, ...]
    params: str
    seconds: str


@dataclass(frozen=True)
class Board:
    """The leaderboard of one label set.

    Attributes
    ----------
    scoring : str
        What chose, in words.
    others : tuple of str
        The further scorings.
    tested, apart, several : bool
        Whether there are scores on a test set; such without copies; several backbones.
    low, high : str
        The ends of the whiskers' scale.
    rows : tuple of Row
    about : str
        How many rows, how they were split, how the intervals were made.
    legend : tuple of str
        What the marks mean that occur.
    """

    scoring: str
    others: tuple[str, ...]
    tested: bool
    apart: bool
    several: bool
    low: str
    high: str
    rows: tuple[Row, ...]
    about: str
    legend: tuple[str, ...]


def board(run: Run, info: LabelSetInfo) -> Board:
    """Return the leaderboard of a label set, in the order of the run."""
    mine = [one for one in run.results if (one.label_set, one.source) == (info.name, info.source)]
    lines: dict[tuple[str, str, str], dict[str, Result]] = {}
    for one in mine:
        lines.setdefault((one.cache, one.layer, one.head), {})[one.scoring] = one
    others = [name for name in dict.fromkeys(one.scoring for one in mine) if name != info.scoring]
    ends = [end for one in mine if one.scoring == info.scoring for end in _ends(one)]
    scale = Scale.of(ends)
    tested = info.test is not None
    several = len({one.cache for one in mine}) > 1
    best = run.best(info.name, source=info.source)
    rows = [_row(line, info.scoring, others, scale, tested, best) for line in lines.values()]
    legend = []
    if any(row.tied and not row.best for row in rows):
        legend.append(
            "tied: the best is not shown to be better (corrected t-test over the folds, Holm's adjustment, 5%)"
        )
    if any(one.params_of == MOST_FOLDS and one.params for one in mine):
        legend.append(
            "parameters: those chosen most often over the folds; a saved model has its own, chosen on all its training "
            "photos"
        )
    if any(row.optimistic for row in rows):
        legend.append("optimistic: the parameters were chosen on the very rows that they are scored on")
    if tested and others:
        legend.append("the further scores are those on the test set")
    return Board(
        scoring=SCORINGS.get(info.scoring, info.scoring),
        others=tuple(SCORINGS.get(name, name) for name in others),
        tested=tested,
        apart=any(one.test_apart is not None for one in mine),
        several=several,
        low=number(scale.low, ".2f"),
        high=number(scale.high, ".2f"),
        rows=tuple(rows),
        about=_about(info, mine),
        legend=tuple(legend),
    )


def shown_score(run: Run, info: LabelSetInfo) -> tuple[Result, float | None, float | None, float | None]:
    """Return the result that stands for a label set, and its score with the interval: as its verdict has it."""
    best = run.best(info.name, source=info.source)
    if info.test is not None:
        return best, best.test, best.test_low, best.test_high
    rated = run.of(info.name, source=info.source)
    # Of one head that was the best of several, the score would flatter.
    shown = next((one for one in rated if one.head == CHOSEN), best)
    return shown, shown.mean, shown.low, shown.high


def null_of(run: Run, info: LabelSetInfo, layer: str) -> Result | None:
    """Return the null of a label set that has these features: ``none`` or ``pixel_statistics``."""
    rated = run.of(info.name, source=info.source)
    return next((one for one in rated if one.null and one.layer == layer), None)


def named(one: Result, among: Sequence[Result]) -> str:
    """Return a head with as much of backbone and layer as tells it from the others."""
    parts = [one.head]
    if len({other.cache for other in among}) > 1:
        same = len({other.backbone for other in among}) < len({other.cache for other in among})
        parts.append(Path(one.cache).stem if same else one.backbone)
    if len({other.layer for other in among}) > 1:
        parts.append(one.layer)
    return " / ".join(parts)


def model_text(model: SavedModel) -> str:
    """Return the sentence on a saved model's own parameters."""
    params = ", ".join(f"{name}={_value(value)}" for name, value in model.params.items()) or "none to choose"
    return (
        f"The saved model {model.name}: {model.head} on {model.layer}, parameters {params}, "
        f"chosen and trained on {model.training_images:,} photos."
    )


def _ends(one: Result) -> tuple[float | None, ...]:
    return one.mean, one.low, one.high, one.test, one.test_low, one.test_high


def _row(line: dict[str, Result], scoring: str, others: Sequence[str], scale: Scale, tested: bool, best: Result) -> Row:
    first = line.get(scoring) or next(iter(line.values()))
    chosen = first.head == CHOSEN
    has = line.get(scoring)
    values = (None, None, None) if has is None else (has.mean, has.low, has.high)
    test = (None, None, None) if has is None else (has.test, has.test_low, has.test_high)
    apart = "" if has is None or has.test_apart is None else f"{has.test_apart:.3f}"
    if apart and has is not None and has.test_apart_low is not None:
        apart = f"{apart} ({span(has.test_apart_low, has.test_apart_high)})"
    further = [line.get(name) for name in others]
    return Row(
        name="best of these" if chosen else first.head,
        features="chosen by fold" if chosen else _FEATURES.get(first.layer, first.layer),
        backbone="" if chosen or first.head == DUMMY else first.backbone,
        null=first.null,
        best=first is best or (first.cache, first.layer, first.head) == (best.cache, best.layer, best.head),
        tied=bool(first.tied),
        optimistic=first.optimistic,
        score=Score(number(values[0]), span(*values[1:]), scale.whisker(*values)),
        test=Score(number(test[0]), span(*test[1:]), scale.whisker(*test)),
        apart=apart,
        others=tuple("" if one is None else number(one.test if tested else one.mean) for one in further),
        params="" if chosen else ", ".join(f"{name}={_value(value)}" for name, value in first.params.items()),
        seconds=f"{first.seconds:.1f}",
    )


_FEATURES = {PIXELS: "colours alone", NOTHING: "nothing"}


def _about(info: LabelSetInfo, mine: Sequence[Result]) -> str:
    parts = [f"{info.n:,} images", f"{info.folds} folds"]
    parts += [f"{info.groups:,} groups"] if info.groups is not None else []
    parts += [f"{info.test:,} more in the test set"] if info.test is not None else []
    parts += [f"{len(info.test_copies):,} of them copies of training images"] if info.test_copies else []
    parts += [f"{info.unlabelled:,} without a label are left out"] if info.unlabelled else []
    method = next((one.method for one in mine if one.scoring == info.scoring and not one.null), "")
    return f"{', '.join(parts)}. 95% intervals: {method}" if method else ", ".join(parts)


def _value(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
