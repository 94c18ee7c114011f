"""The sections of one label set: leaderboard, confusion matrix, mistakes, label errors, calibration, map."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pipeline.report.diagnostics.confusion import Calibration, ClassRow, Confusion
from pipeline.report.diagnostics.mistakes import LabelIssue, Mistake
from pipeline.report.diagnostics.predictions import describe_fold
from pipeline.report.diagnostics.summary import SavedModel, saved_models
from pipeline.report.html.charts import Chart, calibration_chart, confusion_chart, map_chart, numbers_chart
from pipeline.report.html.content import PICTURED_DUPLICATES, PICTURED_ISSUES, LabelSetSection, PartPredictions
from pipeline.report.html.frame import Column, Table, first_rows, number, sentence, span
from pipeline.report.html.images import ImageBudget
from pipeline.report.html.map_layer import MapLayer, color_by_labels
from pipeline.runs import NOTHING, PIXELS, LabelSetInfo, Run
from pipeline.runs.leaderboard import (
    FEATURE_NAMES,
    Leaderboard,
    LeaderboardScore,
    baseline_of,
    format_params,
    head_name,
    leaderboard_of,
    reported_result,
    shown_score,
)

WIDTH, MARGIN = 176.0, 6.0  # of the drawing of an interval, in its own units


@dataclass(frozen=True)
class Scale:
    """The horizontal scale on which a leaderboard draws its intervals.

    Attributes
    ----------
    low, high : float
        The lowest and the highest end of all intervals.
    """

    low: float
    high: float

    @classmethod
    def of(cls, board: Leaderboard) -> Scale:
        """Return the scale that holds every score and interval of the ranking scoring."""
        shown = [scores.get(board.scoring) for row in board.rows for scores in (row.scores, row.test)]
        ends = [
            end
            for score in shown
            if score is not None
            for end in (score.value, score.low, score.high)
            if end is not None
        ]
        low, high = (min(ends), max(ends)) if ends else (0.0, 1.0)
        return cls(low, high if high > low else low + 1)

    def place(self, value: float) -> float:
        """Return where a value is drawn."""
        share = (value - self.low) / (self.high - self.low)
        return round(MARGIN + min(max(share, 0.0), 1.0) * (WIDTH - 2 * MARGIN), 1)


@dataclass(eq=False)
class PageData:
    """The data of a page that its script reads: charts, and the photos of each cell of a confusion matrix.

    Attributes
    ----------
    charts : list of Chart
    cells : list of mapping
        Per confusion matrix: ``"row,column"`` -> [number of photos, [[id, thumbnail, text], ...]].
    """

    charts: list[Chart] = field(default_factory=list)
    cells: list[dict[str, Any]] = field(default_factory=list)


def describe_model(model: SavedModel) -> str:
    """Return the sentence on a saved model's own parameters."""
    params = format_params(model.params) or "none to select"
    return (
        f"The saved model {model.name}: {model.head} on {model.layer}, parameters {params}, "
        f"selected and trained on {model.training_images:,} photos."
    )


FEW_CLASSES = 15  # up to so many classes the confusion matrix is a table; of more it is a chart
MOST_NUMBERS = 3000  # points of a chart
LONG = 30  # rows of a table that is folded
MOST_ROWS = 200  # of a table of label issues or duplicates
LISTED = 30_000  # photos that the cells of one confusion matrix list in all

BY_FOLD = (
    " Each probability is by the model of one fold, trained without that photo; a saved model, trained on all photos, "
    "gives another one."
)
TOO_ALIKE = "So many images look alike here that only exact duplicates count."
ACCURACY, BALANCED = "accuracy", "balanced_accuracy"

# One line per column, for the leaderboard and the index of label sets.
COLUMN_HELP = {
    "head": "The classifier that is trained on the features of the photos; the second line names the features.",
    "interval": "With 95% confidence the score on further photos of this kind lies in this range.",
    "fold": "The score on the training photos, each predicted by a model that was trained without it.",
    "apart": "The score on the test photos that training has no duplicate of.",
    "parameters": "The settings of the head that were selected from its grid.",
    "seconds": "Seconds of training and prediction, all folds together.",
    "source": "The data set of the photos.",
    "score": "The score of the best head, or of the nested selection among several heads.",
    "dummy": "The score of always predicting the most common class, the mean, or how common each tag is.",
    "pixels": "The score of a head on color and brightness alone, without the network.",
    "best": "The head with the best score.",
    "by": "The scoring; higher is better, except for errors and losses.",
}


@dataclass(frozen=True)
class Thumbnail:
    """A photo on the page.

    Attributes
    ----------
    picture : int
        Its place among the thumbnails of the page; -1 for none.
    id, label, more : str
    """

    picture: int
    id: str
    label: str
    more: str = ""


@dataclass(frozen=True)
class MistakeCard:
    """A photo with its label and its prediction, beside similar training photos."""

    shot: Thumbnail
    predicted: str
    confidence: str
    near: tuple[Thumbnail, ...] = ()


@dataclass(frozen=True, eq=False)
class PartView:
    """The predictions of one part on the page: out of fold, or of the test set.

    Attributes
    ----------
    title, about : str
    kind_title : str
        The name of the section: "Confusion matrix", or that of numbers and tags.
    confusion : Confusion or None
        Of few classes, as a table.
    cells : int or None
        The number of the photos of its cells, see `PageData.cells`.
    chart : Chart or None
    chart_caption, commonest : str
    classes : Table or None
    folded : bool
        Whether that table is long.
    cards : tuple of MistakeCard
    cards_title, cards_about : str
    """

    title: str
    about: str
    kind_title: str
    confusion: Confusion | None
    cells: int | None
    chart: Chart | None
    chart_caption: str
    commonest: str
    classes: Table | None
    folded: bool
    cards: tuple[MistakeCard, ...]
    cards_title: str
    cards_about: str


def part_view(
    part: PartPredictions,
    images: ImageBudget,
    page: PageData,
    *,
    title: str,
    where: str,
    head: str,
    training: str,
    flagged: int = 0,
) -> PartView:
    """Return how the predictions of one part are shown; its charts and cells are added to those of the page.

    Parameters
    ----------
    part : PartPredictions
    images : ImageBudget
    page : PageData
    title : str
    where : str
        Which images were predicted, after their number: " of the test set, ...".
    head : str
    training : str
        The provider of the training photos.
    flagged : int
        Mistakes that are shown under the possible label errors instead.
    """
    chart = cells = table = None
    caption = commonest = ""
    kind_title = "Confusion matrix"
    if part.confusion is not None:
        worst = part.confusion.commonest_mistakes[:3]
        commonest = "; ".join(f"{label} predicted as {other}, {_times(times)}" for label, other, times in worst)
        cells = len(page.cells)
        page.cells.append(_cell_photos(part, images))
        if len(part.confusion.classes) > FEW_CLASSES:
            chart = confusion_chart(len(page.charts), part.confusion, cells)
            caption = (
                "One row per label, one column per prediction; the deeper the color, the larger the share of the row."
            )
    elif part.numbers is not None:
        kind_title = "Predicted and true values"
        chart, caption = _numbers(part, images, len(page.charts))
    elif part.tags is not None:
        kind_title = "Tags"
    if chart is not None:
        page.charts.append(chart)
    if part.per_class is not None:
        table = _classes(part.per_class)
    elif part.tags is not None:
        table = _tags(part)
    n = f"{part.count:,} photos" if part.count else "the photos"
    about = f"Predictions of {head} for {n}{where}."
    if part.confusion is not None:
        about += " Each row is a label, each column a prediction. Select a cell to see its photos."
    return PartView(
        title=title,
        about=about,
        kind_title=kind_title,
        confusion=part.confusion if chart is None else None,
        cells=cells,
        chart=chart,
        chart_caption=caption,
        commonest=sentence(f"most often: {commonest}") if commonest else "",
        classes=table,
        folded=table is not None and len(table.rows) > LONG,
        cards=tuple(_card(part, mistake, images, training) for mistake in part.mistakes),
        cards_title=_cards_title(part),
        cards_about=_cards_about(part, head, flagged),
    )


def _cell_photos(part: PartPredictions, images: ImageBudget) -> dict[str, Any]:
    """Return the photos of each cell: how many there are, and the first of them with id, thumbnail and text."""
    assert part.predictions is not None
    cells = part.cells()
    most = max(6, min(60, LISTED // max(len(cells), 1)))
    found: dict[str, Any] = {"names": list(part.predictions.classes), "of": {}}
    for (row, column), places in cells.items():
        photos = []
        for place in places[:most].tolist():
            probability = float(part.predictions.probability[place])
            text = "" if math.isnan(probability) else f"{probability:.0%}"
            name = part.predictions.ids[place]
            photos.append([name, images.place(part.provider, name), text])
        found["of"][f"{row},{column}"] = [len(places), photos]
    return found


def _cards_title(part: PartPredictions) -> str:
    if part.predictions is not None and part.predictions.has_probabilities:
        return "Most confident mistakes"
    return "Mistakes" if part.predictions is not None else "Largest errors"


def _cards_about(part: PartPredictions, head: str, flagged: int) -> str:
    shown = len(part.mistakes)
    near = " Below each photo are the most similar training photos." if any(m.neighbours for m in part.mistakes) else ""
    if part.numbers is not None:
        return f"The {shown} photos with the largest errors.{near}"
    if part.predictions is None:
        return ""
    wrong = len(part.predictions.wrong)
    if not wrong:
        return "No mistakes."
    moved = ""
    if flagged:
        are = "1 mistake is" if flagged == 1 else f"{flagged:,} mistakes are"
        moved = f" {are} shown under Possible label errors instead, because the label itself may be wrong."
    if not shown:
        return moved.strip()
    rest = wrong - flagged
    if part.predictions.has_probabilities:
        how = (
            f"{shown} of {rest:,} mistakes, the most confident first." if shown < rest else "The most confident first."
        )
        by = "" if part.on_test else BY_FOLD
        return how + moved + by + near
    listed = f"{shown} of {rest:,}, drawn at random" if shown < rest else "All of them" if rest > 1 else "The only one"
    return f"{listed}; {head} gives no probabilities.{moved}{near}"


def _card(part: PartPredictions, mistake: Mistake, images: ImageBudget, training: str) -> MistakeCard:
    near = tuple(
        Thumbnail(images.place(training, photo.id), photo.id, photo.label, f"cosine {photo.cosine:.2f}")
        for photo in mistake.neighbours
    )
    confidence = "" if math.isnan(mistake.probability) else format_confidence(mistake.probability, mistake.part)
    shot = Thumbnail(images.place(part.provider, mistake.id), mistake.id, mistake.true)
    return MistakeCard(shot, mistake.predicted, confidence, near)


def format_confidence(probability: float, part: str) -> str:
    """Return a probability with the model that it is by: a saved model gives another one."""
    by = describe_fold(part)
    return f"{probability:.0%} by {by}" if by else f"{probability:.0%}"


def _classes(rows: Sequence[ClassRow]) -> Table:
    columns = (
        Column("class"),
        Column("photos", True, "Photos with this label."),
        Column("recall", True, "The share of the photos with this label that are predicted as this class."),
        Column("95%", True, "The 95% confidence interval of the recall."),
        Column("precision", True, "The share of the photos predicted as this class that have this label."),
        Column("F1", True, "The harmonic mean of precision and recall."),
        Column("most often predicted as", False, "The class of most of its mistakes."),
    )
    cells = [
        (
            row.name, f"{row.n:,}", number(row.recall, ".2f"), span(row.recall_low, row.recall_high, ".2f"),
            number(row.precision, ".2f"), number(row.f1, ".2f"),
            f"{row.taken_for}, {_times(row.times)}" if row.times else "",
        )
        for row in rows
    ]  # fmt: skip
    return Table("Results per class", columns, cells)


def _tags(part: PartPredictions) -> Table:
    assert part.tags is not None
    columns = (
        Column("tag"),
        Column("photos", True, "Photos that have this tag."),
        Column("correct", True, "Photos that have this tag and are predicted to have it."),
        Column("missed", True, "Photos that have this tag and are not predicted to have it."),
        Column("false", True, "Photos that are predicted to have this tag and do not have it."),
        Column("precision", True, "The share of the predicted tags that are correct."),
        Column("recall", True, "The share of the photos with this tag that are predicted to have it."),
        Column("F1", True, "The harmonic mean of precision and recall."),
    )
    cells = [
        (
            row.name, f"{row.n:,}", f"{row.found:,}", f"{row.missed:,}", f"{row.wrong:,}",
            number(row.precision, ".2f"), number(row.recall, ".2f"), number(row.f1, ".2f"),
        )
        for row in part.tags
    ]  # fmt: skip
    return Table("Results per tag", columns, cells)


def _numbers(part: PartPredictions, images: ImageBudget, place: int) -> tuple[Chart, str]:
    assert part.numbers is not None
    found, n = part.numbers, len(part.numbers)
    rows = np.arange(n)
    if n > MOST_NUMBERS:
        rows = np.sort(np.random.default_rng(0).permutation(n)[:MOST_NUMBERS])
    true, predicted = found.true[rows].tolist(), found.predicted[rows].tolist()
    ids = [found.ids[row] for row in rows]
    tips = [
        f"{name}\nlabel {label:.4g}, predicted {value:.4g}"
        for name, label, value in zip(ids, true, predicted, strict=True)
    ]
    off = float(np.abs(found.predicted - found.true).mean())
    low, high = float(found.true.min()), float(found.true.max())
    alt = (
        f"Predicted against true values of {n:,} photos, true ones from {low:.4g} to {high:.4g}; mean error {off:.3g}."
    )
    caption = "On the dashed line the prediction equals the label."
    if len(rows) < n:
        caption += f" {len(rows):,} of {n:,} photos, drawn at random."
    thumbnails = [images.place(part.provider, name) for name in ids]
    return numbers_chart(place, true, predicted, tips, thumbnails, alt), caption


def _times(times: int) -> str:
    return f"{times:,} time{'s' if times != 1 else ''}"


@dataclass(frozen=True, eq=False)
class LabelIssuesView:
    """Possible label errors on the page; `about` is empty where the head gives no probabilities."""

    about: str = ""
    cards: tuple[MistakeCard, ...] = ()
    table: Table | None = None


def label_issues_view(
    found: Sequence[LabelIssue] | None, images: ImageBudget, *, provider: str, training: str, by: str, where: str
) -> LabelIssuesView:
    """Return how possible label errors are shown.

    Parameters
    ----------
    found : sequence of LabelIssue or None
        None where the head gives no probabilities.
    images : ImageBudget
    provider, training : str
        Of their photos, and of the training photos.
    by : str
        The head that disagrees with the labels.
    where : str
        By which predictions: "out of fold", ...
    """
    if found is None:
        return LabelIssuesView()
    if not found:
        return LabelIssuesView(f"None: where {by} disagrees with a label, it is not confident enough of another class.")
    cards = tuple(
        MistakeCard(
            Thumbnail(
                images.place(provider, issue.id),
                issue.id,
                issue.label,
                format_confidence(issue.probability_of_label, issue.part),
            ),
            issue.suggested,
            format_confidence(issue.probability_of_suggested, issue.part),
            tuple(
                Thumbnail(images.place(training, near.id), near.id, near.label, f"cosine {near.cosine:.2f}")
                for near in issue.neighbours
            ),
        )
        for issue in found[:PICTURED_ISSUES]
    )
    photos = "1 photo" if len(found) == 1 else f"{len(found):,} photos"
    about = (
        f"{photos}: {by}, {where}, predicts another class, at least as confidently as it predicts the photos of that "
        "class on average (confident learning). Either the label is wrong, or the photo is difficult. Open the photos, "
        "and correct the table or the folder where the label is wrong."
        + (BY_FOLD if any(describe_fold(issue.part) for issue in found) else "")
    )
    columns = (
        Column("photo"),
        Column("label"),
        Column("its probability", True, "The probability that the head gives to the label."),
        Column("predicted"),
        Column("its probability", True, "The probability that the head gives to its prediction."),
    )
    rows = [
        (
            issue.id,
            issue.label,
            f"{issue.probability_of_label:.2f}",
            issue.suggested,
            f"{issue.probability_of_suggested:.2f}",
        )
        for issue in found[:MOST_ROWS]
    ]
    return LabelIssuesView(
        about, cards, Table(first_rows("possible label errors", len(found), MOST_ROWS), columns, rows)
    )


@dataclass(frozen=True, eq=False)
class SetView:
    """All that a page shows of one label set."""

    number: int
    name: str
    source: str
    first: str
    rest: tuple[str, ...]
    figures: tuple[tuple[str, tuple[LeaderboardScore, ...]], ...]
    figures_about: str
    board: Leaderboard
    scale: Scale
    models: tuple[str, ...]
    parts: tuple[PartView, ...]
    calibration: Chart | None
    calibration_about: str
    map: Chart | None
    map_about: str
    map_warning: str
    issues: LabelIssuesView
    duplicates: tuple[tuple[Thumbnail, Thumbnail, str], ...]
    duplicates_about: str
    duplicates_table: Table | None
    notes: tuple[str, ...] = ()


def set_view(section: LabelSetSection, images: ImageBudget, page: PageData, *, several_sources: bool) -> SetView:
    """Return how a label set is shown; its charts are added to those of the page."""
    first, rest = summary(section.run, section.info, section.verdict)
    diagnostics = section.diagnostics
    board = leaderboard_of(section.run, section.info)
    parts = tuple(_part(section, part, images, page) for part in section.parts)
    calibration, calibration_about = calibration_of(diagnostics.calibration, diagnostics.best.head, page)
    drawn, map_about, map_warning = map_of(section.map_layer, section.info, page)
    issues = label_issues_view(
        diagnostics.label_issues, images, provider=section.provider, training=section.provider,
        by=diagnostics.label_issues_by, where="out of fold",
    )  # fmt: skip
    duplicates, duplicates_about, duplicates_table = _duplicates(section, images)
    figures, figures_about = headline_figures(section)
    return SetView(
        number=section.number,
        name=section.info.name,
        source=section.info.source if several_sources else "",
        first=first,
        rest=rest,
        figures=figures,
        figures_about=figures_about,
        board=board,
        scale=Scale.of(board),
        models=tuple(map(describe_model, saved_models(section.run, section.info))),
        parts=parts,
        calibration=calibration,
        calibration_about=calibration_about,
        map=drawn,
        map_about=map_about,
        map_warning=map_warning,
        issues=issues,
        duplicates=duplicates,
        duplicates_about=duplicates_about,
        duplicates_table=duplicates_table,
        notes=tuple(sentence(text) for text in diagnostics.notes),
    )


def summary(run: Run, info: LabelSetInfo, verdict: str) -> tuple[str, tuple[str, ...]]:
    """Return the sentence to read first, and the further ones of the verdict.

    For classes the first is the share of correct photos, so that it needs no explanation.
    """
    parts = [sentence(text) for text in verdict.removeprefix(f"{info.name}: ").split("; ") if text.strip()]
    shown = reported_result(run, info, ACCURACY)[1] if info.kind == "class" else LeaderboardScore()
    if shown.value is None:
        return (parts or [sentence(info.name)])[0], tuple(parts[1:])
    interval = f" ({span(_hundred(shown.low), _hundred(shown.high), '.0f')})" if shown.low is not None else ""
    which = "test photos" if info.test is not None else "photos of new groups" if info.groups is not None else "photos"
    first = f"Correct on {100 * shown.value:.0f} of 100 {which} it was not trained on{interval}."
    return first, tuple(parts[1:])


def headline_figures(
    section: LabelSetSection,
) -> tuple[tuple[tuple[str, tuple[LeaderboardScore, ...]], ...], str]:
    """Return accuracy and balanced accuracy of the head and of the baselines, and what the two figures mean."""
    run, info = section.run, section.info
    if info.kind != "class" or not run.of(info.name, source=info.source, scoring=BALANCED):
        return (), ""
    heads = {
        (result.cache, result.layer, result.head) for result in run.of(info.name, source=info.source) if not result.null
    }
    result, accuracy = reported_result(run, info, ACCURACY)
    _, balanced = reported_result(run, info, BALANCED)
    candidates = sum(head != "chosen" for *_, head in heads)
    rows: list[tuple[str, tuple[LeaderboardScore, ...]]] = [(head_name(result, candidates), (accuracy, balanced))]
    for layer, name in ((PIXELS, f"baseline: {FEATURE_NAMES[PIXELS]}"), (NOTHING, "baseline: most common class")):
        scores = []
        for scoring in (ACCURACY, BALANCED):
            baseline = baseline_of(run, info, layer, scoring)
            if baseline is None:
                scores.append(LeaderboardScore())
            elif info.test is not None:
                scores.append(shown_score(scoring, baseline.test, baseline.test_low, baseline.test_high))
            else:
                scores.append(shown_score(scoring, baseline.mean, baseline.low, baseline.high))
        if any(score.value is not None for score in scores):
            rows.append((name, tuple(scores)))
    about = (
        "Accuracy is the share of all photos that are correct. Balanced accuracy is the mean of that share per class, "
        "so that each class counts the same however many photos it has."
    )
    if accuracy.value is not None and balanced.value is not None:
        about += _why_different(section, accuracy.value, balanced.value)
    return tuple(rows), about


def _why_different(section: LabelSetSection, accuracy: float, balanced: float) -> str:
    if f"{accuracy:.1%}" == f"{balanced:.1%}":
        return " Here the two are the same."
    rows = [row for row in (section.parts[0].per_class or () if section.parts else ()) if row.recall is not None]
    if len(rows) < 2:
        return ""
    best = max(rows, key=lambda row: (row.recall or 0, row.n))
    worst = min(rows, key=lambda row: (row.recall or 0, -row.n))
    return (
        f" Here they differ by {abs(accuracy - balanced) * 100:.1f} points: {worst.name} ({worst.n:,} photos) is "
        f"correct on {worst.recall:.0%}, {best.name} ({best.n:,} photos) on {best.recall:.0%}."
    )


def _hundred(value: float | None) -> float | None:
    return None if value is None else 100 * value


def _part(section: LabelSetSection, part: PartPredictions, images: ImageBudget, page: PageData) -> PartView:
    out_of_fold, on_test = (
        ", each made without training on it",
        " of the test set, which was used neither for training nor for selection",
    )
    flagged = 0 if part.on_test or part.predictions is None else section.flagged(part.predictions)
    return part_view(
        part,
        images,
        page,
        title="Test set" if part.on_test else "Out of fold",
        where=on_test if part.on_test else out_of_fold,
        head=section.diagnostics.best.head,
        training=section.provider,
        flagged=flagged,
    )


def calibration_of(
    found: Calibration | None, head: str, page: PageData, *, where: str = "Out of fold, by the models of the folds"
) -> tuple[Chart | None, str]:
    """Return the chart of a head's calibration, added to those of the page, and what to read beside it."""
    if found is None:
        return None, ""
    chart = calibration_chart(len(page.charts), found, head)
    page.charts.append(chart)
    lead = f"{abs(found.lead):.0%}"
    how = (
        f"the probabilities of {head} match its accuracy"
        if lead == "0%"
        else f"the probabilities of {head} are {lead} too {'high' if found.lead > 0 else 'low'}"
    )
    about = (
        f"On average {how}; the expected calibration error is {found.error:.1%}. {where}. On the dashed line, of the "
        "photos predicted with 80%, 80 of 100 are correct."
    )
    return chart, about


def map_of(map_layer: MapLayer, info: LabelSetInfo, page: PageData) -> tuple[Chart | None, str, str]:
    """Return the map colored by a label set, added to the charts of the page, its text, and a warning.

    The warning is empty unless the classes overlap on the map.
    """
    drawn = map_layer.map
    if drawn is None:
        return None, "", ""
    colors, keys = color_by_labels(map_layer, info)
    shares = [f"{share:.0%}" for share in drawn.explained]
    # On a phone, too, the whole of it is to be read.
    names = (f"first component, {shares[0]} of the variance", f"second, {shares[1]}")
    what = "by their number" if info.kind == "number" else "by their label"
    alt = f"A map of {len(drawn):,} photos by their features, colored {what}: photos that lie close look alike."
    page.charts.append(map_chart(len(page.charts), {"map_layer": map_layer.number, **colors}, keys, names, alt))
    about = (
        "Each point is a photo; photos that lie close look alike to the network. The axes are the first two principal "
        f"components of the features. They show {sum(drawn.explained):.0%} of the variance; the head uses all of it."
    )
    if len(drawn) < drawn.of:
        about += f" {len(drawn):,} of {drawn.of:,} photos, drawn from each class in proportion."
    overlap = map_layer.overlap(info) if info.kind == "class" else None
    warning = ""
    if overlap is not None and overlap.overlaps:
        warning = (
            f"The classes overlap on this map: of the photos nearest to a photo, {overlap.same:.0%} have its label "
            f"({overlap.chance:.0%} by chance). The map cannot show whether the head separates them; the confusion "
            "matrix does."
        )
    return page.charts[-1], about, warning


def _duplicates(
    section: LabelSetSection, images: ImageBudget
) -> tuple[tuple[tuple[Thumbnail, Thumbnail, str], ...], str, Table | None]:
    whole, found = section.map_layer.duplicates, section.duplicates
    if whole is None:
        return (), "", None
    if not found:
        return (), "No photo is a duplicate of another." + (" " + TOO_ALIKE if whole.too_alike else ""), None
    differ = sum(pair.differs for pair in found)
    about = f"{len(found):,} pair{'s' if len(found) > 1 else ''} of duplicates; no split separates a pair."
    if differ:
        about = f"{about} {differ:,} of them {'have' if differ > 1 else 'has'} different labels: one may be wrong."
    if whole.too_alike:
        about = f"{about} {TOO_ALIKE}"
    shown = tuple(
        (
            Thumbnail(images.place(section.provider, pair.first), pair.first, pair.label_of_first),
            Thumbnail(images.place(section.provider, pair.other), pair.other, pair.label_of_other),
            "the same file" if pair.exact else f"cosine {pair.cosine:.3f}",
        )
        for pair in found[:PICTURED_DUPLICATES]
    )
    columns = (
        Column("photo"),
        Column("label"),
        Column("duplicate of"),
        Column("label"),
        Column("cosine", True, "How alike the features are: 1 is identical; 'exact' is the same file content."),
    )
    rows = [
        (
            pair.first,
            pair.label_of_first,
            pair.other,
            pair.label_of_other,
            "exact" if pair.exact else f"{pair.cosine:.4f}",
        )
        for pair in found[:MOST_ROWS]
    ]
    return shown, about, Table(first_rows("pairs", len(found), MOST_ROWS), columns, rows)
