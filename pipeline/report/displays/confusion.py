"""The confusion matrix of one label set: correct predictions in blue, mistakes in vermillion."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.arguments import check_arguments
from pipeline.report.diagnostics.confusion import Confusion, confusion
from pipeline.report.diagnostics.predictions import FOLDS, ClassPredictions
from pipeline.report.displays._style import (
    BLUE,
    INK,
    VERMILLION,
    axis_for,
    figure_of,
    hide_spines,
    select_label_set,
    select_predictions,
    set_title,
)
from pipeline.report.displays._style import shorten as short
from pipeline.runs import ON_TEST, Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MOST_COUNTED = 40  # classes; of more the counts would not be read, and the shades alone are shown


@dataclass(eq=False)
class ConfusionDisplay:
    """The count of each label (row) and prediction (column).

    The shade is the share of the row. It is darker for mistakes, so that rare mistakes are visible.

    Parameters
    ----------
    predictions : ClassPredictions
    confusion : Confusion

    Attributes
    ----------
    ax_ : matplotlib Axes
    figure_ : matplotlib Figure
    """

    predictions: ClassPredictions
    confusion: Confusion
    ax_: Any = field(init=False, repr=False)
    figure_: Any = field(init=False, repr=False)

    @classmethod
    @check_arguments
    def from_run(
        cls, run: Run, label_set: str | None = None, *, source: str | None = None, part: str = FOLDS
    ) -> ConfusionDisplay:
        """Return the confusion matrix of the best head of a label set.

        Parameters
        ----------
        run : Run
        label_set : str, optional
            By default the only one.
        source : str, optional
            The name of the images, where several DATA have a label set of this name.
        part : {"folds", "test"}
            The predictions out of fold, or of the fixed test set.

        Raises
        ------
        EvaluationError
            No such label set, or several and none named.
        ReportError
            No classes, or no such part.
        """
        predictions = select_predictions(run, select_label_set(run, label_set, source, part), part)
        return cls(predictions, confusion(predictions))

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw the matrix and return the axis.

        Parameters
        ----------
        ax : matplotlib Axes, optional
            By default that of a new figure, larger for more classes.
        """
        k = len(self.confusion.classes)
        names = [short(name, 22) for name in self.confusion.classes]
        longest = max(len(name) for name in names)
        side = min(max(0.36 * k, 2.2), 14)
        ax = axis_for(ax, side + 0.085 * longest + 0.9, side + 0.06 * longest + 1.1)
        shades, dark = _shades(self.confusion.shares)
        ax.imshow(shades, aspect="equal")
        for (row, column), count in np.ndenumerate(self.confusion.counts):
            if count and k <= _MOST_COUNTED:
                ax.text(
                    column, row, f"{count:,}", ha="center", va="center", fontsize=_size(k, int(count)),
                    color="white" if dark[row, column] else INK,
                )  # fmt: skip
        size = 9.0 if k <= _MOST_COUNTED else max(4.0, 9 * _MOST_COUNTED / k)
        turned = 0.095 * longest > side / k  # they would touch
        ax.set_xticks(
            range(k), names, rotation=45 if turned else 0, ha="right" if turned else "center",
            rotation_mode="anchor" if turned else "default", fontsize=size,
        )  # fmt: skip
        ax.set_yticks(range(k), names, fontsize=size)
        ax.set_xticks(np.arange(k - 1) + 0.5, minor=True)
        ax.set_yticks(np.arange(k - 1) + 0.5, minor=True)
        ax.grid(which="minor", color="white", linewidth=1.0)
        ax.tick_params(which="minor", length=0)
        where = "on the test set" if self.predictions.part[0] == ON_TEST else "out of fold"
        ax.set(xlabel=f"predicted by {self.predictions.head}, {where}", ylabel="label")
        right = int(np.trace(self.confusion.counts))
        set_title(ax, f"{short(self.predictions.label_set, 26)}\n{right:,} of {len(self.predictions):,} correct")
        hide_spines(ax)
        self.ax_, self.figure_ = ax, figure_of(ax)
        return ax


def _shades(shares: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return a colour for each cell, ``(k, k, 3)``, and which of them are dark."""
    from_hex = [np.array([int(hue[at : at + 2], 16) for at in (1, 3, 5)]) / 255 for hue in (BLUE, VERMILLION)]
    wrong = ~np.eye(len(shares), dtype=bool)
    # A root for the mistakes: one in a hundred is to be seen.
    strength = np.where(wrong, np.sqrt(shares), 0.85 * shares)
    hue = np.where(wrong[..., None], from_hex[1], from_hex[0])
    map_layer = np.where(shares > 0, 1.0, 0.965)[..., None]  # a breath of grey where there is nothing
    return map_layer * (1 - strength[..., None]) + hue * strength[..., None], strength > 0.55


def _size(k: int, count: int) -> float:
    """Return the size of the text in a cell."""
    fits = 9.0 if k <= 20 else 7.0
    return min(fits, 26 / max(len(f"{count:,}"), 1))
