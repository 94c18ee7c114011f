"""The sections of one label set: leaderboard, confusion matrix, mistakes, label errors, calibration, map, duplicates."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from pipeline.report.diagnostics.confusion import Calibration, ClassRow, Confusion
from pipeline.report.diagnostics.mistakes import LabelIssue, Mistake
from pipeline.report.diagnostics.predictions import describe_fold
from pipeline.report.diagnostics.summary import SavedModel, saved_models
from pipeline.report.html.charts import Chart, calibration_chart, confusion_chart, map_chart, numbers_chart
from pipeline.report.html.content import PICTURED_DUPLICATES, PICTURED_ISSUES, LabelSetSection, PartPredictions
from pipeline.report.html.frame import Column, Table, first_rows, headline, number, sentence, span
from pipeline.report.html.images import ImageBudget
from pipeline.report.html.map_layer import MapLayer, color_by_labels
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


def baseline_of(run: Run, info: LabelSetInfo, layer: str) -> Result | None:
    """Return the null of a label set that has these features: ``none`` or ``pixel_statistics``."""
    rated = run.of(info.name, source=info.source)
    return next((one for one in rated if one.null and one.layer == layer), None)


def result_name(one: Result, among: Sequence[Result]) -> str:
    """Return a head with as much of backbone and layer as tells it from the others."""
    parts = [one.head]
    if len({other.cache for other in among}) > 1:
        same = len({other.backbone for other in among}) < len({other.cache for other in among})
        parts.append(Path(one.cache).stem if same else one.backbone)
    if len({other.layer for other in among}) > 1:
        parts.append(one.layer)
    return " / ".join(parts)


def describe_model(model: SavedModel) -> str:
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


FEW_CLASSES = 15  # whose confusion is a table; of more it is a chart
SHADES = 10
MOST_NUMBERS = 3000  # points of a chart
LONG = 30  # rows of a table that is folded


@dataclass(frozen=True)
class Thumbnail:
    """A photo: which of the page's pictures it is (-1: none), its id, and what is said of it."""

    picture: int
    id: str
    label: str
    more: str = ""


@dataclass(frozen=True)
class MistakeCard:
    """A photo with what it is and what was said of it, beside others."""

    shot: Thumbnail
    said: str
    sure: str
    near: tuple[Thumbnail, ...] = ()
    verb: str = "said"


@dataclass(frozen=True)
class MatrixCell:
    """One cell of a confusion: how often, and a class of the style sheet: how deep its colour is."""

    text: str
    shade: str


@dataclass(frozen=True)
class Matrix:
    """The confusion of a few classes."""

    classes: tuple[str, ...]
    rows: tuple[tuple[str, int, tuple[MatrixCell, ...]], ...]


BY_FOLD = (
    " Each probability is by the model of one fold, trained without that photo; a saved model, trained on all photos, "
    "gives another one."
)


@dataclass(frozen=True, eq=False)
class PartView:
    """What was said out of fold, or of the test set; see `PartPredictions`."""

    title: str
    about: str
    matrix: Matrix | None
    chart: Chart | None
    chart_caption: str
    commonest: str
    classes: Table | None
    folded: bool
    cards: tuple[MistakeCard, ...]
    cards_title: str
    cards_about: str


def part_view(
    part: PartPredictions, images: ImageBudget, charts: list[Chart], *, title: str, where: str, head: str, training: str
) -> PartView:
    """Return how it is shown; its charts are added to those of the page.

    Parameters
    ----------
    part : PartPredictions
    album : ImageBudget
    charts : list of Chart
    title : str
    where : str
        Which images the head was asked about, after their number: " of the test set, ...".
    head : str
    training : str
        The shelf of the photos that it learned from.
    """
    matrix = chart = None
    caption = commonest = ""
    if part.confusion is not None:
        found = part.confusion
        worst = found.commonest_mistakes[:3]
        commonest = "; ".join(f"{was} taken for {said}, {_times(times)}" for was, said, times in worst)
        if len(found.classes) <= FEW_CLASSES:
            matrix = _matrix(found)
        else:
            chart = confusion_chart(len(charts), found)
            caption = "A row a class, a column what was said; the deeper, the larger the share of the row."
    elif part.numbers is not None:
        chart, caption = _numbers(part, images, len(charts))
    if chart is not None:
        charts.append(chart)
    table = _classes(part.per_class) if part.per_class is not None else _tags(part) if part.tags is not None else None
    n = f"{part.count:,} images" if part.count else "the images"
    return PartView(
        title=title,
        about=f"What {head} said of {n}{where}.",
        matrix=matrix,
        chart=chart,
        chart_caption=caption,
        commonest=sentence(f"most often: {commonest}") if commonest else "",
        classes=table,
        folded=table is not None and len(table.rows) > LONG,
        cards=tuple(_card(part, one, images, training) for one in part.mistakes),
        cards_title=_cards_title(part),
        cards_about=_cards_about(part, head),
    )


def _cards_title(part: PartPredictions) -> str:
    if part.predictions is not None and part.predictions.has_probabilities:
        return "What it was surest of, and wrong"
    return "Mistakes" if part.predictions is not None else "What it missed by most"


def _cards_about(part: PartPredictions, head: str) -> str:
    near = " Below each, the training photos that are most like it." if any(m.similar for m in part.mistakes) else ""
    if part.numbers is not None:
        return f"The {len(part.mistakes)} photos that were missed by most.{near}"
    assert part.predictions is not None or not part.mistakes
    if part.predictions is None:
        return ""
    wrong = len(part.predictions.wrong)
    shown = len(part.mistakes)
    if part.predictions.has_probabilities:
        how = f"The surest {shown} of {wrong:,}." if shown < wrong else "The surest first."
    else:
        some = (
            f"{shown} of {wrong:,}, drawn at random"
            if shown < wrong
            else "All of them"
            if wrong > 1
            else "The only one"
        )
        how = f"{some}; {head} gives no probabilities."
    by = BY_FOLD if part.predictions.has_probabilities and not part.on_test else ""
    return how + by + near


def _card(part: PartPredictions, mistake: Mistake, images: ImageBudget, training: str) -> MistakeCard:
    near = tuple(
        Thumbnail(images.place(training, one.id), one.id, one.label, f"cosine {one.cosine:.2f}")
        for one in mistake.similar
    )
    sure = "" if math.isnan(mistake.probability) else format_confidence(mistake.probability, mistake.part)
    shot = Thumbnail(images.place(part.provider, mistake.id), mistake.id, mistake.true)
    return MistakeCard(shot, mistake.predicted, sure, near)


def format_confidence(probability: float, part: str) -> str:
    """Return a probability with the model that it is by: a saved model gives another one."""
    by = describe_fold(part)
    return f"{probability:.0%} by {by}" if by else f"{probability:.0%} sure"


def _matrix(found: Confusion) -> Matrix:
    rows = []
    for place, name in enumerate(found.classes):
        cells = []
        for column, times in enumerate(found.counts[place].tolist()):
            depth = math.ceil(float(found.shares[place, column]) * SHADES)
            shade = f"{'on' if column == place else 'off'}{depth}" if times else ""
            cells.append(MatrixCell(f"{times:,}" if times else "·", shade))
        rows.append((name, int(found.counts[place].sum()), tuple(cells)))
    return Matrix(found.classes, tuple(rows))


def _classes(rows: Sequence[ClassRow]) -> Table:
    columns = (
        Column("class"), Column("images", True), Column("found", True), Column("95%", True), Column("precision", True),
        Column("F1", True), Column("most often taken for"),
    )  # fmt: skip
    told = [
        (
            row.name, f"{row.n:,}", number(row.recall, ".2f"), span(row.recall_low, row.recall_high, ".2f"),
            number(row.precision, ".2f"), number(row.f1, ".2f"),
            f"{row.taken_for}, {_times(row.times)}" if row.times else "",
        )
        for row in rows
    ]  # fmt: skip
    return Table("How well each class was found", columns, told)


def _tags(part: PartPredictions) -> Table:
    assert part.tags is not None
    columns = (
        Column("tag"), Column("images", True), Column("found", True), Column("missed", True),
        Column("said where it is not", True), Column("precision", True), Column("recall", True), Column("F1", True),
    )  # fmt: skip
    told = [
        (
            row.name, f"{row.n:,}", f"{row.found:,}", f"{row.missed:,}", f"{row.wrong:,}",
            number(row.precision, ".2f"), number(row.recall, ".2f"), number(row.f1, ".2f"),
        )
        for row in part.tags
    ]  # fmt: skip
    return Table("How well each tag was found", columns, told)


def _numbers(part: PartPredictions, images: ImageBudget, place: int) -> tuple[Chart, str]:
    assert part.numbers is not None
    found, n = part.numbers, len(part.numbers)
    rows = np.arange(n)
    if n > MOST_NUMBERS:
        rows = np.sort(np.random.default_rng(0).permutation(n)[:MOST_NUMBERS])
    true, said = found.true[rows].tolist(), found.predicted[rows].tolist()
    ids = [found.ids[row] for row in rows]
    tips = [f"{name}\nis {was:.4g}, said {told:.4g}" for name, was, told in zip(ids, true, said, strict=True)]
    off = float(np.abs(found.predicted - found.true).mean())
    low, high = float(found.true.min()), float(found.true.max())
    alt = f"What {n:,} numbers are, from {low:.4g} to {high:.4g}, against what was said: off by {off:.3g} on average."
    caption = "On the dashed line, what was said is true."
    if len(rows) < n:
        caption += f" {len(rows):,} of {n:,} images, drawn at random."
    return numbers_chart(place, true, said, tips, [images.place(part.provider, name) for name in ids], alt), caption


def _times(times: int) -> str:
    return f"{times:,} time{'s' if times != 1 else ''}"


@dataclass(frozen=True, eq=False)
class LabelIssuesView:
    """What a page shows of suspected labels; `about` is empty where none could be suspected."""

    about: str = ""
    cards: tuple[MistakeCard, ...] = ()
    table: Table | None = None


def label_issues_view(
    found: Sequence[LabelIssue] | None, images: ImageBudget, *, provider: str, by: str, where: str
) -> LabelIssuesView:
    """Return how suspected labels are shown.

    Parameters
    ----------
    found : sequence of LabelIssue or None
        None where the head gives no probabilities.
    album : ImageBudget
    shelf : str
        Of their photos.
    by : str
        The head that suspects them.
    where : str
        Which answers it suspects them by: "out of fold", ...
    """
    if found is None:
        return LabelIssuesView()
    if not found:
        return LabelIssuesView(f"None: where {by} disagrees with a label, it is not sure enough of another.")
    cards = tuple(
        MistakeCard(
            Thumbnail(images.place(provider, one.id), one.id, one.label, format_confidence(one.probability_of_label, one.part)),
            one.suggested, format_confidence(one.probability_of_suggested, one.part), verb="rather",
        )
        for one in found[:PICTURED_ISSUES]
    )  # fmt: skip
    is_ = "1 image is" if len(found) == 1 else f"{len(found):,} images are"
    about = (
        f"{is_} taken for another class by {by}, {where}, as surely as images of that class are on average "
        "(confident learning). The label may be wrong, or the photo hard."
        + (BY_FOLD if any(describe_fold(one.part) for one in found) else "")
    )
    columns = (
        Column("photo"), Column("label"), Column("sure of it", True), Column("rather"), Column("sure of that", True)
    )  # fmt: skip
    rows = [
        (one.id, one.label, f"{one.probability_of_label:.2f}", one.suggested, f"{one.probability_of_suggested:.2f}")
        for one in found[:MOST_ROWS]
    ]
    return LabelIssuesView(about, cards, Table(first_rows("suspected labels", len(found), MOST_ROWS), columns, rows))


MOST_ROWS = 200  # of a table of copies


@dataclass(frozen=True, eq=False)
class SetView:
    """All that a page shows of one label set."""

    number: int
    name: str
    source: str
    first: str
    rest: str
    board: Board
    models: tuple[str, ...]
    parts: tuple[PartView, ...]
    calibration: Chart | None
    calibration_about: str
    map: Chart | None
    map_about: str
    label_issues: tuple[MistakeCard, ...]
    suspects_about: str
    suspects_table: Table | None
    duplicates: tuple[tuple[Thumbnail, Thumbnail, str], ...]
    copies_about: str
    copies_table: Table | None
    notes: tuple[str, ...] = field(default=())


def set_view(section: LabelSetSection, images: ImageBudget, charts: list[Chart], *, several_sources: bool) -> SetView:
    """Return how a label set is shown; its charts are added to those of the page."""
    first, rest = headline(section.verdict)
    calibration, calibration_about = calibration_of(
        section.diagnostics.calibration, section.diagnostics.best.head, charts
    )
    drawn, map_about = map_of(section.map_layer, section.info, charts)
    suspected = label_issues_view(
        section.diagnostics.label_issues,
        images,
        provider=section.provider,
        by=section.diagnostics.label_issues_by,
        where="out of fold",
    )
    duplicates, copies_about, copies_table = _copies(section, images)
    return SetView(
        number=section.number,
        name=section.info.name,
        source=section.info.source if several_sources else "",
        first=first,
        rest=rest,
        board=board(section.run, section.info),
        models=tuple(map(describe_model, saved_models(section.run, section.info))),
        parts=tuple(_part(section, part, images, charts) for part in section.parts),
        calibration=calibration,
        calibration_about=calibration_about,
        map=drawn,
        map_about=map_about,
        label_issues=suspected.cards,
        suspects_about=suspected.about,
        suspects_table=suspected.table,
        duplicates=duplicates,
        copies_about=copies_about,
        copies_table=copies_table,
        notes=tuple(sentence(text) for text in section.diagnostics.notes),
    )


def _part(section: LabelSetSection, part: PartPredictions, images: ImageBudget, charts: list[Chart]) -> PartView:
    out_of_fold, on_test = (
        ", each left out when it learned",
        " of the test set, which nothing was learned or chosen from",
    )
    return part_view(
        part,
        images,
        charts,
        title="On the test set" if part.on_test else "Out of fold",
        where=on_test if part.on_test else out_of_fold,
        head=section.diagnostics.best.head,
        training=section.provider,
    )


def calibration_of(
    found: Calibration | None, head: str, charts: list[Chart], *, where: str = "Out of fold, by the models of the folds"
) -> tuple[Chart | None, str]:
    """Return the chart of a head's calibration, added to those of the page, and what to read beside it."""
    if found is None:
        return None, ""
    chart = calibration_chart(len(charts), found, head)
    charts.append(chart)
    lead = f"{abs(found.lead):.0%}"
    how = (
        "about as sure as it is right"
        if lead == "0%"
        else f"{lead} {'surer' if found.lead > 0 else 'less sure'} than it is right"
    )
    about = (
        f"On average {head} is {how}; the two are {found.error:.1%} apart, bin by bin "
        f"(expected calibration error). {where}; on the dashed line, 80% sure is right 80 times in 100."
    )
    return chart, about


def map_of(map_layer: MapLayer, info: LabelSetInfo, charts: list[Chart]) -> tuple[Chart | None, str]:
    """Return the map coloured by a label set, added to the charts of the page, and what to read beside it."""
    drawn = map_layer.map
    if drawn is None:
        return None, ""
    told, keys = color_by_labels(map_layer, info)
    shares = [f"{share:.0%}" for share in drawn.explained]
    # On a phone, too, the whole of it is to be read.
    names = (f"first component, {shares[0]} of the variance", f"second, {shares[1]}")
    what = "by their number" if info.kind == "number" else "by their label"
    alt = f"A map of {len(drawn):,} images by their embeddings, coloured {what}: what lies close looks alike to it."
    charts.append(map_chart(len(charts), {"ground": map_layer.number, **told}, keys, names, alt))
    about = (
        "Every point is an image, and images that lie close look alike to the network. "
        "Across and up are the first two principal components of the embeddings."
    )
    if len(drawn) < drawn.of:
        about += f" {len(drawn):,} of {drawn.of:,} images, drawn of each class in proportion."
    return charts[-1], about


def _copies(
    section: LabelSetSection, images: ImageBudget
) -> tuple[tuple[tuple[Thumbnail, Thumbnail, str], ...], str, Table | None]:
    whole, found = section.map_layer.duplicates, section.duplicates
    if whole is None:
        return (), "", None
    if not found:
        return (), "No image is a copy of another." + (" " + TOO_ALIKE if whole.too_alike else ""), None
    differ = sum(pair.differs for pair in found)
    about = f"{len(found):,} pair{'s' if len(found) > 1 else ''} of copies; they stay on one side of every split."
    if differ:
        about = f"{about} {differ:,} of them {'have' if differ > 1 else 'has'} different labels: one may be wrong."
    if whole.too_alike:
        about = f"{about} {TOO_ALIKE}"
    shown = tuple(
        (
            Thumbnail(images.place(section.provider, pair.one), pair.one, pair.label_of_one),
            Thumbnail(images.place(section.provider, pair.other), pair.other, pair.label_of_other),
            "the same file" if pair.exact else f"cosine {pair.cosine:.3f}",
        )
        for pair in found[:PICTURED_DUPLICATES]
    )
    columns = (Column("photo"), Column("label"), Column("is a copy of"), Column("label"), Column("cosine", True))
    rows = [
        (pair.one, pair.label_of_one, pair.other, pair.label_of_other, "exact" if pair.exact else f"{pair.cosine:.4f}")
        for pair in found[:MOST_ROWS]
    ]
    return shown, about, Table(first_rows("pairs", len(found), MOST_ROWS), columns, rows)


TOO_ALIKE = "So many images look alike here that only exact copies count."
