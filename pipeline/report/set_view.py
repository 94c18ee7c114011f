"""One label set as a page shows it: its leaderboard, its mistakes, how sure it is, its map, its doubtful labels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from pipeline.report.canvas import Chart
from pipeline.report.charts import calibration_chart, confusion_chart, map_chart, numbers_chart
from pipeline.report.confusion import ClassRow, Confusion
from pipeline.report.frame import sentence
from pipeline.report.ground import colouring
from pipeline.report.leaderboard import Board, board
from pipeline.report.mistakes import Mistake
from pipeline.report.stories import COPIES, SUSPECTS, Part, Story
from pipeline.report.tables import Column, Table, headline, number, span
from pipeline.report.thumbnails import Album

FEW_CLASSES = 15  # whose confusion is a table; of more it is a chart
SHADES = 10
MOST_NUMBERS = 3000  # points of a chart
MOST_ROWS = 200  # of a table of doubtful labels or copies
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


@dataclass(frozen=True, eq=False)
class SetView:
    """All that a page shows of one label set."""

    number: int
    name: str
    source: str
    first: str
    rest: str
    board: Board
    parts: tuple[PartView, ...]
    calibration: Chart | None
    calibration_about: str
    map: Chart | None
    map_about: str
    suspects: tuple[Card, ...]
    suspects_about: str
    suspects_table: Table | None
    copies: tuple[tuple[Shot, Shot, str], ...]
    copies_about: str
    copies_table: Table | None
    notes: tuple[str, ...] = field(default=())


def set_view(story: Story, album: Album, charts: list[Chart], *, several_sources: bool) -> SetView:
    """Return how a label set is shown; its charts are added to those of the page."""
    first, rest = headline(story.verdict)
    calibration, calibration_about = _calibration(story, charts)
    drawn, map_about = _map(story, charts)
    suspected, suspects_about, suspects_table = _suspects(story, album)
    copies, copies_about, copies_table = _copies(story, album)
    return SetView(
        number=story.number,
        name=story.info.name,
        source=story.info.source if several_sources else "",
        first=first,
        rest=rest,
        board=board(story.run, story.info),
        parts=tuple(_part(story, part, album, charts) for part in story.parts),
        calibration=calibration,
        calibration_about=calibration_about,
        map=drawn,
        map_about=map_about,
        suspects=suspected,
        suspects_about=suspects_about,
        suspects_table=suspects_table,
        copies=copies,
        copies_about=copies_about,
        copies_table=copies_table,
        notes=tuple(sentence(text) for text in story.evidence.notes),
    )


def _part(story: Story, part: Part, album: Album, charts: list[Chart]) -> PartView:
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
    where = (
        " of the test set, which nothing was learned or chosen from"
        if part.on_test
        else ", each left out when it learned"
    )
    return PartView(
        title="On the test set" if part.on_test else "Out of fold",
        about=f"What {story.evidence.best.head} said of {n}{where}.",
        matrix=matrix,
        chart=chart,
        chart_caption=caption,
        commonest=sentence(f"most often: {commonest}") if commonest else "",
        classes=table,
        folded=table is not None and len(table.rows) > LONG,
        cards=tuple(_card(story, part, one, album) for one in part.mistakes),
        cards_title=_cards_title(part),
        cards_about=_cards_about(story, part),
    )


def _cards_title(part: Part) -> str:
    if part.answers is not None and part.answers.has_probabilities:
        return "What it was surest of, and wrong"
    return "Mistakes" if part.answers is not None else "What it missed by most"


def _cards_about(story: Story, part: Part) -> str:
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
        how = f"{some}; {story.evidence.best.head} gives no probabilities."
    return how + near


def _card(story: Story, part: Part, mistake: Mistake, album: Album) -> Card:
    near = tuple(
        Shot(album.place(story.shelf, one.id), one.id, one.label, f"cosine {one.cosine:.2f}")
        for one in mistake.neighbours
    )
    sure = "" if math.isnan(mistake.probability) else f"{mistake.probability:.0%} sure"
    shot = Shot(album.place(part.shelf, mistake.id), mistake.id, mistake.true)
    return Card(shot, mistake.predicted, sure, near)


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


def _calibration(story: Story, charts: list[Chart]) -> tuple[Chart | None, str]:
    found = story.evidence.calibration
    if found is None:
        return None, ""
    chart = calibration_chart(len(charts), found, story.evidence.best.head)
    charts.append(chart)
    lead = f"{abs(found.lead):.0%}"
    how = (
        "about as sure as it is right"
        if lead == "0%"
        else f"{lead} {'surer' if found.lead > 0 else 'less sure'} than it is right"
    )
    about = (
        f"On average {story.evidence.best.head} is {how}; the two are {found.error:.1%} apart, bin by bin "
        "(expected calibration error). Out of fold; on the dashed line, 80% sure is right 80 times in 100."
    )
    return chart, about


def _map(story: Story, charts: list[Chart]) -> tuple[Chart | None, str]:
    drawn = story.ground.map
    if drawn is None:
        return None, ""
    told, keys = colouring(story.ground, story.info)
    shares = [f"{share:.0%}" for share in drawn.explained]
    names = (f"first principal component, {shares[0]} of the variance", f"second, {shares[1]}")
    what = "by their number" if story.info.kind == "number" else "by their label"
    alt = f"A map of {len(drawn):,} images by their embeddings, coloured {what}: what lies close looks alike to it."
    charts.append(map_chart(len(charts), {"ground": story.ground.number, **told}, keys, names, alt))
    about = "Every point is an image, and images that lie close look alike to the network."
    if len(drawn) < drawn.of:
        about += f" {len(drawn):,} of {drawn.of:,} images, drawn of each class in proportion."
    return charts[-1], about


def _suspects(story: Story, album: Album) -> tuple[tuple[Card, ...], str, Table | None]:
    found = story.evidence.suspects
    if found is None:
        return (), "", None
    by = story.evidence.suspected_by
    if not found:
        return (), f"None: where {by} disagrees with a label, it is not sure enough of another.", None
    cards = tuple(
        Card(
            Shot(album.place(story.shelf, one.id), one.id, one.label, f"{one.probability_of_label:.0%} sure"),
            one.suggested, f"{one.probability_of_suggested:.0%} sure", verb="rather",
        )
        for one in found[:SUSPECTS]
    )  # fmt: skip
    is_ = "1 image is" if len(found) == 1 else f"{len(found):,} images are"
    about = (
        f"{is_} taken for another class by {by}, out of fold, as surely as images of that class are on average "
        "(confident learning). The label may be wrong, or the photo hard."
    )
    columns = (
        Column("photo"), Column("label"), Column("sure of it", True), Column("rather"), Column("sure of that", True)
    )  # fmt: skip
    rows = [
        (one.id, one.label, f"{one.probability_of_label:.2f}", one.suggested, f"{one.probability_of_suggested:.2f}")
        for one in found[:MOST_ROWS]
    ]
    return cards, about, Table(_first("suspected labels", len(found)), columns, rows)


def _copies(story: Story, album: Album) -> tuple[tuple[tuple[Shot, Shot, str], ...], str, Table | None]:
    whole, found = story.ground.copies, story.copies
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
            Shot(album.place(story.shelf, pair.one), pair.one, pair.label_of_one),
            Shot(album.place(story.shelf, pair.other), pair.other, pair.label_of_other),
            "the same file" if pair.exact else f"cosine {pair.cosine:.3f}",
        )
        for pair in found[:COPIES]
    )
    columns = (Column("photo"), Column("label"), Column("is a copy of"), Column("label"), Column("cosine", True))
    rows = [
        (pair.one, pair.label_of_one, pair.other, pair.label_of_other, "exact" if pair.exact else f"{pair.cosine:.4f}")
        for pair in found[:MOST_ROWS]
    ]
    return shown, about, Table(_first("pairs", len(found)), columns, rows)


TOO_ALIKE = "So many images look alike here that only exact copies count."


def _first(what: str, count: int) -> str:
    return f"The first {MOST_ROWS} of {count:,} {what}" if count > MOST_ROWS else f"All {count:,} {what}"


def _times(times: int) -> str:
    return f"{times:,} time{'s' if times != 1 else ''}"
