"""The pictures of a study: learning curves of all methods, and what each layer of the backbone is worth."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.arguments import check_arguments
from pipeline.errors import ReportError
from pipeline.report import load_library
from pipeline.report.displays._style import (
    BLUE,
    GREEN,
    GREY,
    MARKS,
    ORANGE,
    PALE,
    PURPLE,
    VERMILLION,
    axis_for,
    figure_of,
    hide_spines,
    line_height,
    set_title,
    shorten,
    spread,
)
from pipeline.runs.leaderboard import scoring_name
from pipeline.studies import Study, labels_text
from pipeline.studies.results import DUMMY, METHODS, RANDOM, RAW, SCRATCH, STATISTICS, TRANSFER, Point

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = {TRANSFER: BLUE, SCRATCH: VERMILLION, RAW: GREEN, RANDOM: PURPLE, STATISTICS: ORANGE, DUMMY: GREY}
_MARKS = dict(zip(METHODS, MARKS, strict=False))


@dataclass(eq=False)
class LearningCurveDisplay:
    """The score of each method on the same new images, over the number of labels that it was trained on.

    Parameters
    ----------
    study : Study

    Attributes
    ----------
    ax_ : matplotlib Axes
    figure_ : matplotlib Figure
    """

    study: Study
    ax_: Any = field(init=False, repr=False)
    figure_: Any = field(init=False, repr=False)

    @classmethod
    @check_arguments
    def from_study(cls, study: Study) -> LearningCurveDisplay:
        """Return the learning curves of a study."""
        return cls(study)

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw one line per method with the band of its 95% intervals, and return the axis.

        Parameters
        ----------
        ax : matplotlib Axes, optional
            By default that of a new figure.
        """
        study = self.study
        ax = axis_for(ax, 7.2, 4.2)
        # Transfer last, over the others.
        for method in reversed(study.methods):
            curve, colour, is_transfer = study.curve(method), COLOURS[method], method == TRANSFER
            x = [point.per_class for point in curve]
            ax.fill_between(
                x, [point.low for point in curve], [point.high for point in curve], color=colour, alpha=0.1, linewidth=0
            )
            ax.plot(
                x, [point.score for point in curve], f"{_MARKS[method]}-", color=colour, label=method,
                linewidth=2.4 if is_transfer else 1.3, markersize=5.5 if is_transfer else 4.5,
            )  # fmt: skip
        _labels_axis(ax, study)
        ends = [study.curve(method)[-1] for method in study.methods]
        ax.set_ylim(0, 1.03)
        _name_ends(ax, ends)
        ax.set(xlabel="labels per class", ylabel=f"{scoring_name(study.scoring)} on {study.test:,} new images")
        ax.grid(axis="y", color=PALE, linewidth=0.6)
        ax.set_axisbelow(True)
        set_title(ax, f"{shorten(study.name, 36)}: {shorten(study.label_set, 24)}")
        hide_spines(ax, "left", "bottom")
        self.ax_, self.figure_ = ax, figure_of(ax)
        return ax


@dataclass(eq=False)
class DepthDisplay:
    """The score of a head on each layer of the backbone, the early ones first, for a few numbers of labels per class.

    Parameters
    ----------
    study : Study
    points : mapping of float to tuple of Point
        As of `Study.depth`.

    Attributes
    ----------
    ax_ : matplotlib Axes
    figure_ : matplotlib Figure
    """

    study: Study
    points: dict[float, tuple[Point, ...]]
    ax_: Any = field(init=False, repr=False)
    figure_: Any = field(init=False, repr=False)

    @classmethod
    @check_arguments
    def from_study(cls, study: Study) -> DepthDisplay:
        """Return what each layer is worth.

        Raises
        ------
        ReportError
            One layer alone was studied.
        """
        found = study.depth()
        if not found:
            raise ReportError(
                f"{study.name}: expected a study of several layers, got {study.layer} alone",
                "leave out layer=, or --layer: all layers are studied then",
            )
        return cls(study, found)

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw one line per number of labels and return the axis.

        Parameters
        ----------
        ax : matplotlib Axes, optional
            By default that of a new figure.
        """
        ax = axis_for(ax, 5.6, 3.4)
        layers = list(dict.fromkeys(point.layer for points in self.points.values() for point in points))
        count = len(self.points)
        for number, (per_class, points) in enumerate(self.points.items()):
            # Side by side, so that no interval hides another.
            x = [layers.index(point.layer) + 0.07 * (number - (count - 1) / 2) for point in points]
            scores = np.array([(point.score, point.score - point.low, point.high - point.score) for point in points]).T
            shade = 1 - 0.65 * (count - 1 - number) / max(count - 1, 1)
            ax.errorbar(
                x, scores[0], scores[1:].clip(0), fmt=f"{MARKS[number % len(MARKS)]}-", color=BLUE, alpha=shade,
                label=labels_text(per_class), linewidth=1.6, elinewidth=1, markersize=5,
            )  # fmt: skip
        ax.set_xticks(range(len(layers)), [shorten(layer, 16) for layer in layers])
        ax.set(ylim=(0, 1.03), xlim=(-0.3, len(layers) - 0.7), xlabel="layer", ylabel=scoring_name(self.study.scoring))
        ax.grid(axis="y", color=PALE, linewidth=0.6)
        ax.set_axisbelow(True)
        ax.legend(title="labels per class", frameon=False, loc="upper left", bbox_to_anchor=(1.01, 1), fontsize="small")
        set_title(ax, f"{shorten(self.study.name, 30)}: {shorten(self.study.label_set, 20)}, by depth")
        hide_spines(ax, "left", "bottom")
        self.ax_, self.figure_ = ax, figure_of(ax)
        return ax


def _labels_axis(ax: Axes, study: Study) -> None:
    """Make x logarithmic, with a tick at each number of labels: of two that would touch the greater one."""
    ticks = [point.per_class for point in study.curve(TRANSFER if TRANSFER in study.methods else study.methods[0])]
    ax.set_xscale("log")
    span = max(float(np.log(ticks[-1] / ticks[0])), 1e-9)
    shown: list[float] = []
    for tick in reversed(ticks):
        if not shown or np.log(shown[-1] / tick) > 0.07 * span:
            shown.append(tick)
    ax.set_xticks(shown, [labels_text(tick) for tick in shown])
    ax.xaxis.set_minor_locator(load_library("matplotlib.ticker").NullLocator())


def _name_ends(ax: Axes, ends: list[Point]) -> None:
    """Write each method's name beside the end of its curve, pushed apart where they would meet."""
    size = 0.9 * load_library("matplotlib").rcParams["font.size"]
    low, high = ax.get_ylim()
    heights = spread([point.score for point in ends], line_height(ax, size) * (high - low), low, high)
    right = max(point.per_class for point in ends)
    for point, height in zip(ends, heights, strict=True):
        ax.annotate(
            point.method, (right, height), (9, 0), textcoords="offset points", va="center", color=COLOURS[point.method],
            fontsize=size, fontweight="bold" if point.method == TRANSFER else "normal", annotation_clip=False,
        )  # fmt: skip
