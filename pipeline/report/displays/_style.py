"""Colors, axes and text of the displays, and the choice of the label set to show."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageOps

from pipeline.errors import ReportError, UnreadableImage
from pipeline.images import ImageSource
from pipeline.report import load_library
from pipeline.report.diagnostics.predictions import FOLDS, ClassPredictions, load_class_predictions
from pipeline.runs import ON_TEST, LabelSetInfo, Result, Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes


# Okabe and Ito's colours.
BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY, BLACK = HUES = (
    "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#1a1a1a",
)  # fmt: skip
GREY, PALE = "#8c8c8c", "#d9d9d9"
INK = BLACK
MARKS = ("o", "s", "^", "D", "v", "P", "X")
_SIDE = 128  # pixels of a photo
_PAD = 0.09  # inches around a picture


def axis_for(ax: Axes | None, width: float, height: float) -> Axes:
    """Return the axis to draw on: the one given, or that of a new figure of so many inches."""
    if ax is not None:
        return ax
    figure, made = load_library("matplotlib.pyplot").subplots(figsize=(width, height), layout="constrained")
    figure.get_layout_engine().set(w_pad=_PAD, h_pad=_PAD)
    return made


def hide_spines(ax: Axes, *spines: str) -> None:
    """Leave an axis these spines alone, and no tick where there is none."""
    for name, spine in ax.spines.items():
        spine.set_visible(name in spines)
        spine.set_color(GREY)
    ax.tick_params(left="left" in spines, bottom="bottom" in spines, color=GREY)


def set_title(ax: Axes, title: str) -> None:
    """Give an axis its title, above its left end."""
    ax.set_title(title, loc="left", fontweight="bold", fontsize="medium", pad=10)


def shorten(name: str, most: int = 24) -> str:
    """Return a name of at most so many characters, beginning and end kept: long names often differ at the end."""
    if len(name) <= most:
        return name
    head = (most - 1) * 2 // 3
    return f"{name[:head]}…{name[len(name) - (most - 1 - head) :]}"


def spread(given: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Return places near the given ones, in the same order, at least `gap` apart and within the limits if they fit."""
    order = np.argsort(given, kind="stable")
    places = np.asarray(given, float)[order]
    for number in range(len(places)):
        floor = low if number == 0 else places[number - 1] + gap
        places[number] = max(places[number], floor)
    for number in reversed(range(len(places))):
        ceiling = high if number == len(places) - 1 else places[number + 1] - gap
        places[number] = min(places[number], ceiling)
    found = np.empty(len(places))
    found[order] = places
    return found.tolist()


def line_height(ax: Axes, points: float) -> float:
    """Return how high a line of text of so many points is, as a share of the axis."""
    height = ax.get_window_extent().height / figure_of(ax).dpi
    return 1.25 * points / 72 / max(height, 0.1)


def read_square(photos: ImageSource, row: int, side: int = _SIDE) -> np.ndarray | None:
    """Return a photo as a square, uint8 ``(side, side, 3)``; None where it cannot be read."""
    try:
        image = photos.read(row).pixels()
    except UnreadableImage:
        return None
    # Tiny images are shown with their pixels, large ones smoothed.
    resample = Image.Resampling.NEAREST if max(image.size) < side // 2 else Image.Resampling.LANCZOS
    return np.asarray(ImageOps.fit(image, (side, side), method=resample))


def render_page(ax: Axes, colour: str, width: float = 2.0) -> None:
    """Leave of an axis nothing but a frame of one colour."""
    ax.set(xticks=[], yticks=[])
    for spine in ax.spines.values():
        spine.set(visible=True, color=colour, linewidth=width)


def figure_of(ax: Axes) -> Any:
    """Return the figure that an axis lies in, be it in a subfigure."""
    return ax.get_figure(root=True)


_KINDS = {"class": "classes", "number": "numbers", "multi": "several tags per image"}


def select_label_set(run: Run, label_set: str | None, source: str | None, part: str = FOLDS) -> LabelSetInfo:
    """Return a label set of a run, by default the only one; check that it has the part.

    Raises
    ------
    EvaluationError
        No such label set, or several and none named.
    ReportError
        No such part.
    """
    info = run.info(label_set, source=source)
    if part not in (FOLDS, ON_TEST):
        raise ReportError(f"expected part {FOLDS!r} or {ON_TEST!r}, got {part!r}", f"part={FOLDS!r}")
    if part == ON_TEST and info.test is None:
        raise ReportError(f"{info.name}: expected predictions of a test set, got a run without one", f"part={FOLDS!r}")
    return info


def select_predictions(
    run: Run, info: LabelSetInfo, part: str = FOLDS, result: Result | None = None
) -> ClassPredictions:
    """Return the predictions of the best head for a label set of classes.

    Raises
    ------
    ReportError
        It has no classes, or the run has no predictions.
    """
    if info.kind != "class":
        others = [info.name for info in run.label_sets if info.kind == "class"]
        raise ReportError(
            f"{info.name}: expected a label set of classes, got {_KINDS[info.kind]}",
            f"label_set={others[0]!r}" if others else "LeaderboardDisplay shows its scores",
        )
    found = load_class_predictions(run, info, part=part, result=result)
    if found is None:
        raise ReportError(
            f"{info.name}: expected the predictions of each image, got a run without them",
            "make it again: pipeline evaluate DATA --out RUN",
        )
    return found


def about(predictions: ClassPredictions) -> str:
    """Return the head and the part of predictions as text."""
    return f"{predictions.head}, {'on the test set' if predictions.part[0] == ON_TEST else 'out of fold'}"
