"""The probabilities of a head against its accuracy."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pipeline.arguments import check_arguments
from pipeline.errors import ReportError
from pipeline.report.diagnostics.confusion import Calibration, calibration
from pipeline.report.diagnostics.predictions import FOLDS, ClassPredictions, best_probabilistic_result
from pipeline.report.displays._style import (
    BLUE,
    GREY,
    PALE,
    about,
    axis_for,
    figure_of,
    hide_spines,
    select_label_set,
    select_predictions,
    set_title,
)
from pipeline.report.displays._style import shorten as short
from pipeline.runs import Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(eq=False)
class CalibrationDisplay:
    """The share of correct predictions in bins of about equally many images, by probability.

    On the diagonal the two are equal; below it the probabilities are too high.

    Parameters
    ----------
    predictions : ClassPredictions
    calibration : Calibration

    Attributes
    ----------
    ax_ : matplotlib Axes
    figure_ : matplotlib Figure
    """

    predictions: ClassPredictions
    calibration: Calibration
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
        part: str = FOLDS,
        bins: int = 10,
    ) -> CalibrationDisplay:
        """Return the calibration of the best head that gives probabilities.

        Parameters
        ----------
        run : Run
        label_set : str, optional
            By default the only one.
        source : str, optional
            The name of the data set, where several DATA have a label set of this name.
        part : {"folds", "test"}
        bins : int
            At the most.

        Raises
        ------
        EvaluationError
            No such label set, or several and none named.
        ReportError
            No classes, no such part, or no head that gives probabilities.
        """
        info = select_label_set(run, label_set, source, part)
        predictions = select_predictions(run, info, part, best_probabilistic_result(run, info))
        found = calibration(predictions, bins=bins)
        if found is None:
            raise ReportError(
                f"{info.name}: expected a head that gives probabilities, got only others, e.g. {predictions.head}",
                'evaluate one that does, e.g. heads=["logistic"]',
            )
        return cls(predictions, found)

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw the curve and return the axis.

        Parameters
        ----------
        ax : matplotlib Axes, optional
            By default that of a new figure.
        """
        ax = axis_for(ax, 4.6, 4.6)
        bins = self.calibration.bins
        x, y = [bin_.probability for bin_ in bins], [bin_.accuracy for bin_ in bins]
        ax.plot([0, 1], [0, 1], color=GREY, linewidth=1, linestyle=(0, (4, 3)))
        ax.vlines(
            x, [bin_.accuracy_low for bin_ in bins], [bin_.accuracy_high for bin_ in bins], BLUE, alpha=0.3, linewidth=4
        )
        ax.plot(x, y, "o-", color=BLUE, linewidth=1.4, markersize=6)
        ax.set(xlim=(0, 1.02), ylim=(0, 1.02), aspect="equal")
        lead = self.calibration.lead
        lead_text = (
            f"{abs(lead):.3f} too {'high' if lead > 0 else 'low'} on average; "
            f"calibration error {self.calibration.error:.3f}"
        )
        ax.set(
            xlabel=f"probability of the prediction\n{lead_text}",
            ylabel="share of correct predictions, with 95% interval",
        )
        ax.grid(color=PALE, linewidth=0.6)
        ax.set_axisbelow(True)
        set_title(ax, f"{short(self.predictions.label_set, 24)}: {about(self.predictions)}")
        hide_spines(ax, "left", "bottom")
        self.ax_, self.figure_ = ax, figure_of(ax)
        return ax
