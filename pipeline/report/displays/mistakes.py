"""The most confident mistakes as photos, each beside the most similar training photos."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.arguments import check_arguments
from pipeline.errors import ReportError
from pipeline.report import load_library
from pipeline.report.diagnostics.mistakes import Mistake, most_confident_mistakes
from pipeline.report.diagnostics.predictions import FOLDS, ClassPredictions
from pipeline.report.diagnostics.summary import load_features, open_run_images
from pipeline.report.displays._style import (
    BLUE,
    GREY,
    PALE,
    VERMILLION,
    figure_of,
    read_square,
    render_page,
    select_label_set,
    select_predictions,
)
from pipeline.report.displays._style import shorten as short
from pipeline.runs import Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_LINE = 2  # mistakes, where there is more than one


@dataclass(eq=False)
class MistakesDisplay:
    """One row per mistake: the photo, then the most similar training photos.

    A neighbour's frame is vermillion if it has the class that was predicted by mistake, and blue if it has the true
    class: neighbours show why the head predicted it.

    Parameters
    ----------
    predictions : ClassPredictions
    mistakes : tuple of Mistake
    pixels : mapping of str to ndarray
        The photos that could be read, by id: uint8 ``(side, side, 3)``.
    neighbours : int
        Photos beside each.

    Attributes
    ----------
    ax_ : ndarray of matplotlib Axes, shape (mistakes, 1 + neighbours)
    figure_ : matplotlib Figure
    """

    predictions: ClassPredictions
    mistakes: tuple[Mistake, ...]
    pixels: Mapping[str, np.ndarray] = field(repr=False)
    neighbours: int = 3
    ax_: Any = field(init=False, repr=False)
    figure_: Any = field(init=False, repr=False)

    @classmethod
    @check_arguments
    def from_run(
        cls,
        run: Run,
        label_set: str | None = None,
        *,
        source: str | None = None,
        photos: Any = None,
        most: int = 6,
        neighbours: int = 3,
    ) -> MistakesDisplay:
        """Return the most confident mistakes of the best head of a label set, out of fold.

        Parameters
        ----------
        run : Run
        label_set : str, optional
            By default the only one.
        source : str, optional
            The name of the images, where several DATA have a label set of this name.
        photos : path or ImageSource, optional
            Where they are now; by default where they were when their features were extracted.
        most : int
            Of a head without probabilities as many are drawn at random.
        neighbours : int

        Raises
        ------
        EvaluationError
            No such label set, or several and none named.
        ReportError
            No classes, or the photos are gone.
        """
        info = select_label_set(run, label_set, source, FOLDS)
        predictions = select_predictions(run, info)
        features, _ = load_features(run, run.best(info.name, source=info.source))
        found = most_confident_mistakes(predictions, features, most=most, neighbours=neighbours)
        if features is None or not any(mistake.neighbours for mistake in found):
            neighbours = 0
        if not found:
            return cls(predictions, (), {}, neighbours)
        opened, note = open_run_images(run, info, photos)
        if opened is None:
            text, _, step = note.partition("; ")
            raise ReportError(text, step)
        row_of = {name: row for row, name in enumerate(opened.ids)}
        shown = {name for mistake in found for name in (mistake.id, *(near.id for near in mistake.neighbours))}
        read = {name: read_square(opened, row_of[name]) for name in shown if name in row_of}
        return cls(predictions, found, {name: photo for name, photo in read.items() if photo is not None}, neighbours)

    def plot(self, ax: np.ndarray | None = None) -> np.ndarray:
        """Draw the photos and return their axes.

        Parameters
        ----------
        ax : ndarray of matplotlib Axes, shape (mistakes, 1 + neighbours), optional
            By default those of a new figure, two mistakes a line.

        Returns
        -------
        ndarray of matplotlib Axes, shape (mistakes, 1 + neighbours)
            Empty where there is no mistake; the figure says so.

        Raises
        ------
        ReportError
            Axes of another shape.
        """
        shape = (len(self.mistakes), 1 + self.neighbours)
        if ax is None:
            axes = self._axes(shape)
        else:
            axes = np.asarray(ax, dtype=object)
            if axes.shape != shape:
                raise ReportError(
                    f"expected axes of shape {shape}, one row per mistake, got {axes.shape}", "plot() makes them itself"
                )
            self.figure_ = figure_of(axes.flat[0]) if axes.size else None
        for line, mistake in zip(axes, self.mistakes, strict=True):
            self._draw(line, mistake)
        self.ax_ = axes
        return axes

    def _axes(self, shape: tuple[int, int]) -> np.ndarray:
        """Make a figure with a place for each photo: two mistakes a line, a gap between."""
        pyplot = load_library("matplotlib.pyplot")
        mistakes, wide = shape
        if not mistakes:
            self.figure_ = pyplot.figure(figsize=(5, 0.8), layout="constrained")
            self.figure_.text(0.5, 0.5, f"no mistake among {len(self.predictions):,} images", ha="center", va="center")
            return np.empty(shape, dtype=object)
        beside = _LINE if mistakes > 1 and wide <= 5 else 1
        lines = -(-mistakes // beside)
        side = 1.25
        self.figure_ = pyplot.figure(
            figsize=(beside * (side * wide + 0.25), lines * (side + 0.55)), layout="constrained"
        )
        self.figure_.get_layout_engine().set(w_pad=0.06, h_pad=0.09)
        ratios = [ratio for block in range(beside) for ratio in ([0.16] if block else []) + [1.0] * wide]
        grid = self.figure_.add_gridspec(lines, len(ratios), width_ratios=ratios)
        axes = np.empty(shape, dtype=object)
        for number in range(mistakes):
            line, block = divmod(number, beside)
            for column in range(wide):
                axes[number, column] = self.figure_.add_subplot(grid[line, block * (wide + 1) + column])
        return axes

    def _draw(self, axes: np.ndarray, mistake: Mistake) -> None:
        sure = f" {100 * mistake.probability:.0f}%" if np.isfinite(mistake.probability) else ""
        self._photo(axes[0], mistake.id, VERMILLION, 3.0)
        axes[0].set_title(
            f"{short(mistake.predicted, 15 - len(sure))}{sure}?\nis {short(mistake.true, 13)}",
            loc="left", fontsize="small", fontweight="bold", color=VERMILLION, pad=4,
        )  # fmt: skip
        for ax, near in zip(axes[1:], mistake.neighbours, strict=False):
            hue = {mistake.predicted: VERMILLION, mistake.true: BLUE}.get(near.label, GREY)
            self._photo(ax, near.id, hue, 1.6)
            ax.set_title(
                f"{short(near.label, 15)}\ncosine {near.cosine:.2f}", loc="left", fontsize="small", color=hue, pad=4
            )
        for ax in axes[1 + len(mistake.neighbours) :]:
            ax.set_axis_off()

    def _photo(self, ax: Axes, name: str, hue: str, width: float) -> None:
        if name in self.pixels:
            ax.imshow(self.pixels[name])
        else:
            ax.set(xlim=(0, 1), ylim=(0, 1), aspect="equal", facecolor=PALE)
            ax.text(0.5, 0.5, "no photo", ha="center", va="center", fontsize="small", color=GREY)
        render_page(ax, hue, width)
