"""What charts by Bokeh are drawn on: figures that look like the page, in colours for light and for dark.

What a page draws is told here, and drawn by ``markup/page.js``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pipeline.report.needs import needed

FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif"
Ink = tuple[str, str]  # in light, in dark

INK: Ink = ("#1b2230", "#e8ebf1")
SOFT: Ink = ("#586273", "#9ea9bb")
LINE: Ink = ("#e4e8ee", "#2b323e")
CARD: Ink = ("#ffffff", "#1a1f28")
# Okabe and Ito's colours, which the colour-blind tell apart; brighter where the page is dark. The last is for what is
# no subject of its own. ``style.css`` has the same.
HUES: tuple[Ink, ...] = (
    ("#0072b2", "#4db0ea"),
    ("#d55e00", "#ff9350"),
    ("#009e73", "#30c99c"),
    ("#cc79a7", "#e39cc3"),
    ("#e69f00", "#f3bd4d"),
    ("#56b4e9", "#9bd4f7"),
    ("#1b2230", "#e8ebf1"),
    ("#8a94a5", "#8792a5"),
)
GREY = len(HUES) - 1


@dataclass(frozen=True)
class Key:
    """One entry of a chart's legend: a part of the chart that is shown or not.

    Attributes
    ----------
    part : str
        The name of what it stands for in the chart.
    name : str
    hue : int
        A place in `HUES`.
    mark : str
        Its shape, as Bokeh names it.
    """

    part: str
    name: str
    hue: int
    mark: str = "circle"


@dataclass(frozen=True, eq=False)
class Chart:
    """A chart for the page.

    Attributes
    ----------
    number : int
        Its own on the page.
    item : mapping
        As Bokeh's ``embed_item`` takes it.
    alt : str
        What it shows, in words.
    keys : tuple of Key
    map : mapping or None
        Of a map: which points, and how they are coloured.
    shape : {"usual", "low", "tall", "square"}
        A class of the style sheet, which has its height.
    """

    number: int
    item: Mapping[str, Any] = field(repr=False)
    alt: str
    keys: tuple[Key, ...] = ()
    shape: str = "usual"
    map: Mapping[str, Any] | None = field(default=None, repr=False)


HEIGHT = {"usual": 400, "low": 340, "tall": 560, "square": 340}  # as in ``style.css``


def paint(model: Any, **inks: Ink) -> None:
    """Give a model its colours: those in light at once, and both in its tags, for the page to choose from."""
    from bokeh.core.properties import DataSpec

    for name, (light, dark) in inks.items():
        setattr(model, name, light)
        model.tags = [*model.tags, ["paint", name, isinstance(model.lookup(name).property, DataSpec), light, dark]]


def figure(shape: str, x_axis: str = "linear", **options: Any) -> Any:
    """Return an empty figure that looks like the page, its tools out of sight."""
    made = needed("bokeh.plotting").figure(
        height=HEIGHT[shape],
        sizing_mode="stretch_width",
        x_axis_type=x_axis,
        tools="",
        toolbar_location=None,
        min_border=4,
        output_backend="canvas",
        **options,
    )
    made.background_fill_color = made.border_fill_color = None
    made.outline_line_color = None
    for axis in made.axis:
        axis.axis_label_text_font = axis.major_label_text_font = FONT
        axis.axis_label_text_font_style = "normal"
        axis.axis_label_text_font_size = axis.major_label_text_font_size = "13px"
        axis.axis_label_standoff, axis.major_label_standoff = 10, 8
        axis.axis_line_color = axis.major_tick_line_color = axis.minor_tick_line_color = None
        paint(axis, axis_label_text_color=SOFT, major_label_text_color=SOFT)
    paint(made.ygrid[0], grid_line_color=LINE)
    made.xgrid.grid_line_color = None
    return made


def told(plot: Any, *renderers: Any) -> None:
    """Let the page tell of the point that is pointed at: of one, the nearest."""
    hover = needed("bokeh.models").HoverTool
    plot.add_tools(hover(renderers=list(renderers), limit=1, show_arrow=False, attachment="horizontal"))


def range_of(low: float, high: float, logarithmic: bool = False) -> Any:
    """Return a range with a little room on both sides."""
    models = needed("bokeh.models")
    if logarithmic:
        margin = (high / low) ** 0.03 if high > low else 1.5
        return models.Range1d(low / margin, high * margin)
    margin = 0.04 * (high - low) or 0.5
    return models.Range1d(low - margin, high + margin)


def name_ticks(axis: Any, ticks: Mapping[float, str]) -> None:
    """Let an axis have these ticks alone, by these names."""
    axis.ticker = needed("bokeh.models").FixedTicker(ticks=list(ticks), minor_ticks=[])
    axis.major_label_overrides = dict(ticks)


def item(plot: Any) -> Mapping[str, Any]:
    """Return a figure as the page embeds it."""
    return dict(needed("bokeh.embed").json_item(plot))
