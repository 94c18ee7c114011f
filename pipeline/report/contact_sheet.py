"""A contact sheet of right and wrong answers: one PNG to look at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

from pipeline.errors import UnreadablePhoto
from pipeline.images import ImageSource

SIDE = 168
BORDER = 6
CAPTION = 44
COLUMNS = 8
HEADING = 48

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


def contact_sheet(
    source: ImageSource, tiles: Sequence[Tile], path: str | Path, *, most: int = 32, random_state: int = 0
) -> Path:
    """Draw up to `most` photos, the most confident mistakes first, and return the picture's path.

    Parameters
    ----------
    source : ImageSource
        Where the photos are, by id.
    tiles : sequence of Tile
    path : path
        Of the PNG.
    most : int
        Half of them at the most are mistakes; right answers are drawn at random.
    random_state : int
    """
    wrong = sorted((tile for tile in tiles if not tile.is_right), key=lambda tile: -tile.probability)
    right = [tile for tile in tiles if tile.is_right]
    shown_wrong = wrong[: max(most // 2, most - len(right))]
    order = np.random.default_rng(random_state).permutation(len(right))[: most - len(shown_wrong)]
    shown_right = [right[number] for number in sorted(order)]
    sections = [
        (f"Wrong: {len(wrong)} of {len(tiles)}, the most confident first", WRONG, shown_wrong),
        (f"Right: {len(right)} of {len(tiles)}, drawn at random", RIGHT, shown_right),
    ]
    sections = [section for section in sections if section[2]]
    rows = [-(-len(section[2]) // COLUMNS) for section in sections]
    cell = SIDE + 2 * BORDER + 10
    height = sum(HEADING + count * (cell + CAPTION) for count in rows) + 16
    sheet = Image.new("RGB", (COLUMNS * cell + 16, height), PAPER)
    draw = ImageDraw.Draw(sheet)
    row_of = {name: row for row, name in enumerate(source.ids)}
    top = 8
    for (heading, colour, shown), count in zip(sections, rows, strict=True):
        draw.text((13, top + 10), heading, fill=INK, font=_font(22))
        top += HEADING
        for number, tile in enumerate(shown):
            left = 13 + (number % COLUMNS) * cell
            _draw_tile(
                sheet, draw, source, row_of[tile.id], tile, colour, left, top + number // COLUMNS * (cell + CAPTION)
            )
        top += count * (cell + CAPTION)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path)
    return path


def _draw_tile(
    sheet: Image.Image,
    draw: ImageDraw.ImageDraw,
    source: ImageSource,
    row: int,
    tile: Tile,
    colour: str,
    left: int,
    top: int,
) -> None:
    side = SIDE + 2 * BORDER
    draw.rectangle((left, top, left + side - 1, top + side - 1), fill=colour)
    try:
        photo = ImageOps.fit(source.read(row).pixels(), (SIDE, SIDE))
        sheet.paste(photo, (left + BORDER, top + BORDER))
    except UnreadablePhoto as error:
        draw.text((left + BORDER, top + BORDER), str(error), fill=PAPER, font=_font(13))
    sure = f" {100 * tile.probability:.0f}%" if np.isfinite(tile.probability) else ""
    draw.text((left, top + side + 3), _cut(draw, f"{tile.answer}{sure}", side), fill=INK, font=_font(15))
    if not tile.is_right:
        draw.text((left, top + side + 22), _cut(draw, f"is {tile.truth}", side), fill=colour, font=_font(15))


def _cut(draw: ImageDraw.ImageDraw, text: str, width: int) -> str:
    """Return the text, shortened with an ellipsis until it fits."""
    if draw.textlength(text, font=_font(15)) <= width:
        return text
    while text and draw.textlength(f"{text}…", font=_font(15)) > width:
        text = text[:-1]
    return f"{text}…"


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)
