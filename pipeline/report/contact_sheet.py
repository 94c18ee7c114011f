"""A contact sheet of right and wrong answers: one PNG to look at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

from pipeline.errors import UnreadableImage
from pipeline.files import atomic_path
from pipeline.images import ImageSource

SIDE = 168
BORDER = 6
GAP = 10
MARGIN = 14
COLUMNS = 8
TITLE, HEADING, LINE = 46, 44, 20  # heights

# Safe for the colour-blind; the captions say it in words too.
RIGHT, WRONG = "#0072b2", "#d55e00"
INK, PAPER = "#1a1a1a", "#ffffff"


@dataclass(frozen=True)
class Tile:
    """One photo with its true class and the model's answer."""

    id: str
    truth: str
    answer: str
    probability: float

    @property
    def is_right(self) -> bool:
        return self.truth == self.answer


@dataclass(frozen=True)
class _Section:
    """A heading with the tiles under it."""

    heading: str
    colour: str
    tiles: Sequence[Tile]
    lines: int  # of caption under each

    @property
    def rows(self) -> int:
        return -(-len(self.tiles) // COLUMNS)

    @property
    def height(self) -> int:
        return HEADING + self.rows * self.row_height

    @property
    def row_height(self) -> int:
        return SIDE + 2 * BORDER + self.lines * LINE + 12


def contact_sheet(
    source: ImageSource,
    tiles: Sequence[Tile],
    path: str | Path,
    *,
    title: str = "",
    most: int = 32,
    random_state: int = 0,
) -> Path:
    """Draw up to `most` photos, the most confident mistakes first, and return the picture's path.

    Parameters
    ----------
    source : ImageSource
        Where the photos are, by id.
    tiles : sequence of Tile
    path : path
        Of the PNG; it appears whole or not at all.
    title : str
    most : int
        Half of them at the most are mistakes; right answers are drawn at random.
    random_state : int
    """
    sections = _sections(tiles, most, random_state)
    cell = SIDE + 2 * BORDER + GAP
    top = MARGIN + (TITLE if title else 0)
    height = top + sum(section.height for section in sections) + MARGIN
    sheet = Image.new("RGB", (COLUMNS * cell - GAP + 2 * MARGIN, height), PAPER)
    draw = ImageDraw.Draw(sheet)
    if title:
        draw.text((MARGIN, MARGIN), _cut(draw, title, sheet.width - 2 * MARGIN, 26), fill=INK, font=_font(26))
    row_of = {name: row for row, name in enumerate(source.ids)}
    for section in sections:
        draw.text((MARGIN, top + 10), section.heading, fill=section.colour, font=_font(20))
        for number, tile in enumerate(section.tiles):
            left = MARGIN + number % COLUMNS * cell
            _draw_tile(
                sheet,
                draw,
                source,
                row_of[tile.id],
                tile,
                section.colour,
                (left, top + HEADING + number // COLUMNS * section.row_height),
            )
        top += section.height
    path = Path(path)
    with atomic_path(path) as made:
        sheet.save(made, format="PNG")
    return path


def _sections(tiles: Sequence[Tile], most: int, random_state: int) -> list[_Section]:
    """Return the mistakes and the right answers that are shown; a section without any is left out."""
    wrong = sorted((tile for tile in tiles if not tile.is_right), key=_by_confidence)
    right = [tile for tile in tiles if tile.is_right]
    shown_wrong = wrong[: max(most // 2, most - len(right))]
    order = np.random.default_rng(random_state).permutation(len(right))[: most - len(shown_wrong)]
    shown_right = [right[number] for number in sorted(order)]
    sections = [
        _Section(f"Wrong: {len(wrong):,} of {len(tiles):,}, the surest first", WRONG, shown_wrong, 2),
        _Section(f"Right: {len(right):,} of {len(tiles):,}, drawn at random", RIGHT, shown_right, 1),
    ]
    return [section for section in sections if section.tiles]


def _by_confidence(tile: Tile) -> float:
    return -tile.probability if np.isfinite(tile.probability) else 0.0


def _draw_tile(
    sheet: Image.Image,
    draw: ImageDraw.ImageDraw,
    source: ImageSource,
    row: int,
    tile: Tile,
    colour: str,
    corner: tuple[int, int],
) -> None:
    left, top = corner
    side = SIDE + 2 * BORDER
    draw.rectangle((left, top, left + side - 1, top + side - 1), fill=colour)
    try:
        photo = ImageOps.fit(source.read(row).pixels(), (SIDE, SIDE))
        sheet.paste(photo, (left + BORDER, top + BORDER))
    except UnreadableImage as error:
        draw.text((left + BORDER, top + BORDER), _cut(draw, str(error), SIDE, 13), fill=PAPER, font=_font(13))
    sure = f", {100 * tile.probability:.0f}%" if np.isfinite(tile.probability) else ""
    below = top + side + 3
    if tile.is_right:
        draw.text((left, below), _caption(draw, tile.answer, sure, side), fill=INK, font=_font(15))
    else:
        draw.text((left, below), _caption(draw, f"said {tile.answer}", sure, side), fill=INK, font=_font(15))
        draw.text((left, below + LINE), _cut(draw, f"is {tile.truth}", side, 15), fill=colour, font=_font(15))


def _caption(draw: ImageDraw.ImageDraw, text: str, tail: str, width: int) -> str:
    """Return text and tail, the text shortened where they do not fit."""
    return _cut(draw, text, width - int(draw.textlength(tail, font=_font(15))), 15) + tail


def _cut(draw: ImageDraw.ImageDraw, text: str, width: int, size: int) -> str:
    """Return the text, shortened with an ellipsis until it fits."""
    if draw.textlength(text, font=_font(size)) <= width:
        return text
    while text and draw.textlength(f"{text}…", font=_font(size)) > width:
        text = text[:-1]
    return f"{text}…"


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)
