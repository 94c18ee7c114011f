"""The pictures of one page and what is told of its maps: photos to be looked at first, then those of the maps."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pipeline.progress import SILENT, Progress
from pipeline.report.pages.canvas import HUES
from pipeline.report.pages.ground import Ground, points, sample
from pipeline.report.pages.thumbnails import LARGE, SMALL, Album, Shown

LOOKED_AT, MET = 5_000_000, 4_500_000  # bytes of pictures: to be looked at, and to be met on the maps
MAP_PICTURES = "thumbnails of the map"
# Colours of numbers from low to high, in light and in dark: told apart by how light they are, too.
RAMP = (
    ("#42127a", "#7f6cf5"),
    ("#8f2680", "#b565c9"),
    ("#cf4a6c", "#ea6f86"),
    ("#ee8047", "#f9a866"),
    ("#dfae2b", "#fbe08a"),
)


def filled_album(
    shelves: Mapping[str, Shown],
    wanted: Iterable[tuple[str, str]],
    mapped: Sequence[Ground],
    progress: Progress = SILENT,
) -> tuple[Album, list[str]]:
    """Return the pictures of a page, and notes about those that it lacks.

    Parameters
    ----------
    shelves : mapping of str to Shown
    wanted : iterable of (str, str)
        Shelf and id of what is to be looked at, the first wanted first.
    mapped : sequence of Ground
        With a map; its shelf is its cache.
    progress : Progress
    """
    album = Album()
    album.fill(shelves, wanted, side=LARGE, budget=LOOKED_AT, progress=progress)
    left_out = album.left_out
    for ground in mapped:
        assert ground.map is not None
        met = ((ground.cache, name) for name in sample(ground.map))
        album.fill(shelves, met, side=SMALL, budget=MET // len(mapped), progress=progress, stage=MAP_PICTURES)
    notes = []
    if album.gone:
        some = f"{len(album.gone):,} photo{'s are' if len(album.gone) > 1 else ' is'} not shown"
        notes.append(f"{some}, e.g. {album.gone[0]}: missing, unreadable, or not as when the features were extracted")
    if left_out:
        notes.append(
            f"{left_out:,} photos beside mistakes, copies or doubtful labels have no picture: the page has no more room"
        )
    return album, notes


def told(ground: Ground, album: Album) -> dict[str, Any]:
    """Return what the page is told of a map, whatever colours it."""
    assert ground.map is not None
    places = [album.place(ground.cache, name) for name in ground.map.ids]
    return {**points(ground.map, places), "inks": HUES, "ramp": RAMP}
