"""What a head said of some images as a page shows it: its confusion, how well each class was found, its mistakes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.report.findings.answers import fold_text
from pipeline.report.findings.confusion import ClassRow, Confusion
from pipeline.report.findings.mistakes import Mistake
from pipeline.report.pages.canvas import Chart
from pipeline.report.pages.charts import confusion_chart, numbers_chart
from pipeline.report.pages.frame import sentence
from pipeline.report.pages.stories import Part
from pipeline.report.pages.tables import Column, Table, number, span
from pipeline.report.pages.thumbnails import Album

FEW_CLASSES = 15  # whose confusion is a table; of more it is a chart
SHADES = 10
MOST_NUMBERS = 3000  # points of a chart
LONG = 30  # rows of a table that is folded


@dataclass(frozen=True)
class Shot:
    """A photo: which of the page's pictures it is (-1: none), its id, and what is said of it."""

    picture: int
    id: str
    label: str
    more: str = ""


@dataclass(frozen=True)
class Card:
    """A photo with what it is and what was said of it, beside others."""

    shot: Shot
    said: str
    sure: str
    near: tuple[Shot, ...] = ()
    verb: str = "said"


@dataclass(frozen=True)
class Cell:
    """One cell of a confusion: how often, and a class of the style sheet: how deep its colour is."""

    text: str
    shade: str


@dataclass(frozen=True)
class Matrix:
    """The confusion of a few classes."""

    classes: tuple[str, ...]
    rows: tuple[tuple[str, int, tuple[Cell, ...]], ...]


BY_FOLD = (
    " Each probability is by the model of one fold, trained without that photo; a saved model, trained on all photos, "
    "gives another one."
)


@dataclass(frozen=True, eq=False)
class PartView:
    """What was said out of fold, or of the test set; see `Part`."""

    title: str
    about: str
    matrix: Matrix | None
    chart: Chart | None
    chart_caption: str
    commonest: str
    classes: Table | None
    folded: bool
    cards: tuple[Card, ...]
    cards_title: str
    cards_about: str


def part_view(
    part: Part, album: Album, charts: list[Chart], *, title: str, where: str, head: str, training: str
) -> PartView:
    """Return how it is shown; its charts are added to those of the page.

    Parameters
    ----------
    part : Part
    album : Album
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
        chart, caption = _numbers(part, album, len(charts))
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
        cards=tuple(_card(part, one, album, training) for one in part.mistakes),
        cards_title=_cards_title(part),
        cards_about=_cards_about(part, head),
    )


def _cards_title(part: Part) -> str:
    if part.answers is not None and part.answers.has_probabilities:
        return "What it was surest of, and wrong"
    return "Mistakes" if part.answers is not None else "What it missed by most"


def _cards_about(part: Part, head: str) -> str:
    near = " Below each, the training photos that are most like it." if any(m.neighbours for m in part.mistakes) else ""
    if part.numbers is not None:
        return f"The {len(part.mistakes)} photos that were missed by most.{near}"
    assert part.answers is not None or not part.mistakes
    if part.answers is None:
        return ""
    wrong = len(part.answers.wrong)
    shown = len(part.mistakes)
    if part.answers.has_probabilities:
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
    by = BY_FOLD if part.answers.has_probabilities and not part.on_test else ""
    return how + by + near


def _card(part: Part, mistake: Mistake, album: Album, training: str) -> Card:
    near = tuple(
        Shot(album.place(training, one.id), one.id, one.label, f"cosine {one.cosine:.2f}") for one in mistake.neighbours
    )
    sure = "" if math.isnan(mistake.probability) else sure_text(mistake.probability, mistake.part)
    shot = Shot(album.place(part.shelf, mistake.id), mistake.id, mistake.true)
    return Card(shot, mistake.predicted, sure, near)


def sure_text(probability: float, part: str) -> str:
    """Return a probability with the model that it is by: a saved model gives another one."""
    by = fold_text(part)
    return f"{probability:.0%} by {by}" if by else f"{probability:.0%} sure"


def _matrix(found: Confusion) -> Matrix:
    rows = []
    for place, name in enumerate(found.classes):
        cells = []
        for column, times in enumerate(found.counts[place].tolist()):
            depth = math.ceil(float(found.shares[place, column]) * SHADES)
            shade = f"{'on' if column == place else 'off'}{depth}" if times else ""
            cells.append(Cell(f"{times:,}" if times else "·", shade))
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


def _tags(part: Part) -> Table:
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


def _numbers(part: Part, album: Album, place: int) -> tuple[Chart, str]:
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
    return numbers_chart(place, true, said, tips, [album.place(part.shelf, name) for name in ids], alt), caption


def _times(times: int) -> str:
    return f"{times:,} time{'s' if times != 1 else ''}"
