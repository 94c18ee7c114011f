"""Labels that may be wrong as a page shows them: their photos, what to read beside them, and all of them in a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.report.findings.answers import fold_text
from pipeline.report.findings.suspects import Suspect
from pipeline.report.pages.part_view import BY_FOLD, Card, Shot, sure_text
from pipeline.report.pages.stories import SUSPECTS
from pipeline.report.pages.tables import Column, Table, first_rows
from pipeline.report.pages.thumbnails import Album

MOST_ROWS = 200


@dataclass(frozen=True, eq=False)
class SuspectView:
    """What a page shows of suspected labels; `about` is empty where none could be suspected."""

    about: str = ""
    cards: tuple[Card, ...] = ()
    table: Table | None = None


def suspect_view(found: Sequence[Suspect] | None, album: Album, *, shelf: str, by: str, where: str) -> SuspectView:
    """Return how suspected labels are shown.

    Parameters
    ----------
    found : sequence of Suspect or None
        None where the head gives no probabilities.
    album : Album
    shelf : str
        Of their photos.
    by : str
        The head that suspects them.
    where : str
        Which answers it suspects them by: "out of fold", ...
    """
    if found is None:
        return SuspectView()
    if not found:
        return SuspectView(f"None: where {by} disagrees with a label, it is not sure enough of another.")
    cards = tuple(
        Card(
            Shot(album.place(shelf, one.id), one.id, one.label, sure_text(one.probability_of_label, one.part)),
            one.suggested, sure_text(one.probability_of_suggested, one.part), verb="rather",
        )
        for one in found[:SUSPECTS]
    )  # fmt: skip
    is_ = "1 image is" if len(found) == 1 else f"{len(found):,} images are"
    about = (
        f"{is_} taken for another class by {by}, {where}, as surely as images of that class are on average "
        "(confident learning). The label may be wrong, or the photo hard."
        + (BY_FOLD if any(fold_text(one.part) for one in found) else "")
    )
    columns = (
        Column("photo"), Column("label"), Column("sure of it", True), Column("rather"), Column("sure of that", True)
    )  # fmt: skip
    rows = [
        (one.id, one.label, f"{one.probability_of_label:.2f}", one.suggested, f"{one.probability_of_suggested:.2f}")
        for one in found[:MOST_ROWS]
    ]
    return SuspectView(about, cards, Table(first_rows("suspected labels", len(found), MOST_ROWS), columns, rows))
