"""One label set as a page shows it: its leaderboard, its mistakes, how sure it is, its map, its doubtful labels."""

from __future__ import annotations

from dataclasses import dataclass, field

from pipeline.report.findings.calibration import Calibration
from pipeline.report.findings.models import saved_models
from pipeline.report.pages.canvas import Chart
from pipeline.report.pages.charts import calibration_chart, map_chart
from pipeline.report.pages.frame import sentence
from pipeline.report.pages.ground import Ground, colouring
from pipeline.report.pages.leaderboard import Board, board, model_text
from pipeline.report.pages.part_view import Card, PartView, Shot, part_view
from pipeline.report.pages.stories import COPIES, Part, Story
from pipeline.report.pages.suspect_view import suspect_view
from pipeline.report.pages.tables import Column, Table, first_rows, headline
from pipeline.report.pages.thumbnails import Album
from pipeline.runs import LabelSetInfo

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
    calibration, calibration_about = calibration_of(story.evidence.calibration, story.evidence.best.head, charts)
    drawn, map_about = map_of(story.ground, story.info, charts)
    suspected = suspect_view(
        story.evidence.suspects, album, shelf=story.shelf, by=story.evidence.suspected_by, where="out of fold"
    )
    copies, copies_about, copies_table = _copies(story, album)
    return SetView(
        number=story.number,
        name=story.info.name,
        source=story.info.source if several_sources else "",
        first=first,
        rest=rest,
        board=board(story.run, story.info),
        models=tuple(map(model_text, saved_models(story.run, story.info))),
        parts=tuple(_part(story, part, album, charts) for part in story.parts),
        calibration=calibration,
        calibration_about=calibration_about,
        map=drawn,
        map_about=map_about,
        suspects=suspected.cards,
        suspects_about=suspected.about,
        suspects_table=suspected.table,
        copies=copies,
        copies_about=copies_about,
        copies_table=copies_table,
        notes=tuple(sentence(text) for text in story.evidence.notes),
    )


def _part(story: Story, part: Part, album: Album, charts: list[Chart]) -> PartView:
    out_of_fold, on_test = (
        ", each left out when it learned",
        " of the test set, which nothing was learned or chosen from",
    )
    return part_view(
        part,
        album,
        charts,
        title="On the test set" if part.on_test else "Out of fold",
        where=on_test if part.on_test else out_of_fold,
        head=story.evidence.best.head,
        training=story.shelf,
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


def map_of(ground: Ground, info: LabelSetInfo, charts: list[Chart]) -> tuple[Chart | None, str]:
    """Return the map coloured by a label set, added to the charts of the page, and what to read beside it."""
    drawn = ground.map
    if drawn is None:
        return None, ""
    told, keys = colouring(ground, info)
    shares = [f"{share:.0%}" for share in drawn.explained]
    # On a phone, too, the whole of it is to be read.
    names = (f"first component, {shares[0]} of the variance", f"second, {shares[1]}")
    what = "by their number" if info.kind == "number" else "by their label"
    alt = f"A map of {len(drawn):,} images by their embeddings, coloured {what}: what lies close looks alike to it."
    charts.append(map_chart(len(charts), {"ground": ground.number, **told}, keys, names, alt))
    about = (
        "Every point is an image, and images that lie close look alike to the network. "
        "Across and up are the first two principal components of the embeddings."
    )
    if len(drawn) < drawn.of:
        about += f" {len(drawn):,} of {drawn.of:,} images, drawn of each class in proportion."
    return charts[-1], about


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
    return shown, about, Table(first_rows("pairs", len(found), MOST_ROWS), columns, rows)


TOO_ALIKE = "So many images look alike here that only exact copies count."
