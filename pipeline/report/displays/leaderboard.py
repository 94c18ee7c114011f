"""The leaderboard of one label set: the score of each head with its interval, and the baselines apart."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pipeline.arguments import check_arguments
from pipeline.errors import ReportError
from pipeline.report.diagnostics.predictions import FOLDS
from pipeline.report.displays._style import (
    BLUE,
    GREY,
    INK,
    PALE,
    axis_for,
    figure_of,
    hide_spines,
    select_label_set,
    set_title,
)
from pipeline.report.displays._style import shorten as short
from pipeline.runs import CHOSEN, ON_TEST, PIXELS, LabelSetInfo, Result, Run
from pipeline.runs.leaderboard import features_text, head_name, is_error, result_name, scoring_name, shown_score

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_APART = 0.6  # between heads and baselines, in lines


@dataclass(eq=False)
class LeaderboardDisplay:
    """Heads by their scores, best first, each with its 95% interval; the baselines below, in grey.

    A hollow mark and the word "tied" mean that the folds do not show the best head to be better. Errors and losses are
    positive: lower is better.

    Parameters
    ----------
    info : LabelSetInfo
    results : tuple of Result
        Of one scoring, in the order in which they are drawn; baselines are drawn last.
    part : {"folds", "test"}
        The scores out of fold, or those on the fixed test set.

    Attributes
    ----------
    ax_ : matplotlib Axes
    figure_ : matplotlib Figure

    Examples
    --------
    >>> LeaderboardDisplay.from_run(run).plot()  # doctest: +SKIP
    """

    info: LabelSetInfo
    results: tuple[Result, ...]
    part: str = FOLDS
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
        scoring: str | None = None,
        part: str = FOLDS,
    ) -> LeaderboardDisplay:
        """Return the leaderboard of a label set, by default of the only one.

        Parameters
        ----------
        run : Run
        label_set : str, optional
        source : str, optional
            The name of the images, where several DATA have a label set of this name.
        scoring : str, optional
            By default the one that ranks the heads.
        part : {"folds", "test"}

        Raises
        ------
        EvaluationError
            No such label set, or several and none named.
        ReportError
            No such part or scoring.
        """
        info = select_label_set(run, label_set, source, part)
        found = tuple(run.of(info.name, source=info.source, scoring=scoring))
        if not found:
            all_results = [
                other for other in run.results if (other.label_set, other.source) == (info.name, info.source)
            ]
            names = sorted({other.scoring for other in all_results})
            raise ReportError(
                f"{info.name}: expected scores by {scoring!r}, got {', '.join(names)}", f"scoring={info.scoring!r}"
            )
        return cls(info, found, part)

    @property
    def rows(self) -> tuple[Result, ...]:
        """Return the results from top to bottom: heads, then baselines."""
        return tuple(sorted(self.results, key=lambda other: other.null))  # stable: as they came, within each

    def score(self, result: Result) -> tuple[float | None, float | None, float | None]:
        """Return the score and its interval as they are shown, of the part that is shown."""
        ends = (result.mean, result.low, result.high)
        if self.part == ON_TEST:
            ends = (result.test, result.test_low, result.test_high)
        shown = shown_score(result.scoring, *ends)
        return shown.value, shown.low, shown.high

    def name(self, result: Result) -> str:
        """Return a head with as much of layer and backbone as tells it from the others."""
        heads = [other for other in self.results if not other.null and other.head != CHOSEN]
        if result.null:
            return f"{result.head}, {features_text(result)}" if result.layer == PIXELS else result.head
        return head_name(result, len(heads)) if result.head == CHOSEN else result_name(result, heads)

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw the leaderboard and return the axis.

        Parameters
        ----------
        ax : matplotlib Axes, optional
            By default that of a new figure.
        """
        rows = self.rows
        places = [line + _APART * result.null for line, result in enumerate(rows)]
        ax = axis_for(ax, 7, 0.36 * len(rows) + 1.2)
        best = next((other for other in rows if not other.null and other.head != CHOSEN), None)
        for place, result in zip(places, rows, strict=True):
            self._draw(ax, place, result, result is best)
        if rows and rows[-1].null and not rows[0].null:
            line = max(place for place, other in zip(places, rows, strict=True) if not other.null) + (1 + _APART) / 2
            ax.axhline(line, color=PALE, linewidth=0.8, zorder=0)
        ax.set_yticks(places, [short(self.name(result), 36) for result in rows])
        ax.set_ylim((places[-1] if places else 0) + 0.6, -0.6)
        better = "; lower is better" if is_error(self.results[0].scoring) else ""
        where = "on the test set" if self.part == ON_TEST else "out of fold"
        ax.set_xlabel(f"{scoring_name(self.results[0].scoring)} {where}, with 95% interval{better}")
        ax.grid(axis="x", color=PALE, linewidth=0.6)
        ax.set_axisbelow(True)
        n = self.info.test if self.part == ON_TEST else self.info.n
        set_title(ax, f"{short(self.info.name, 48)}: {n:,} images")
        hide_spines(ax, "bottom")
        self.ax_, self.figure_ = ax, figure_of(ax)
        return ax

    def _draw(self, ax: Axes, place: float, result: Result, is_best: bool) -> None:
        value, low, high = self.score(result)
        colour = GREY if result.null else INK if result.head == CHOSEN else BLUE
        beside: dict[str, Any] = {"transform": ax.get_yaxis_transform(), "va": "center", "fontsize": "small"}
        if value is None:
            ax.text(1.02, place, "no score", color=GREY, **beside)
            return
        if low is not None and high is not None:
            ax.plot([low, high], [place, place], color=colour, linewidth=5, alpha=0.3, solid_capstyle="butt")
        # Ties are tested over the folds, so there are none on the test set.
        tied = bool(result.tied) and not is_best and self.part == FOLDS
        ax.plot(
            value, place, "s" if result.head == CHOSEN else "o", color=colour, markersize=6.5,
            markerfacecolor="white" if tied else colour, markeredgewidth=1.6,
        )  # fmt: skip
        ax.text(
            1.02, place, f"{value:.3f}{'  tied' if tied else ''}", color=colour,
            fontweight="bold" if is_best else "normal", **beside,
        )  # fmt: skip
