"""Charts by Bokeh, in colours for light and for dark: what a page draws is told here, and drawn by ``markup/page.js``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
    """

    part: str
    name: str
    hue: int


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
    shape : {"usual", "low", "tall", "square"}
        A class of the style sheet, which has its height.
    """

    number: int
    item: Mapping[str, Any] = field(repr=False)
    alt: str
    keys: tuple[Key, ...] = ()
    shape: str = "usual"


HEIGHT = {"usual": 400, "low": 340, "tall": 560, "square": 340}  # as in ``style.css``


@dataclass(frozen=True)
class Line:
    """Points that belong together, with their intervals.

    Attributes
    ----------
    name : str
    hue : int
    x, y, low, high : sequence of float
    tips : sequence of str
        What is told of each point; the first line is its title.
    dashed : bool
    """

    name: str
    hue: int
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]
    tips: Sequence[str]
    dashed: bool = False


def lines(
    number: int,
    alt: str,
    drawn: Sequence[Line],
    *,
    ticks: Mapping[float, str],
    x_name: str,
    y_name: str,
    logarithmic: bool = False,
    bands: bool = True,
    shape: str = "usual",
) -> Chart:
    """Return lines with their intervals, as bands or as bars; the first line is drawn last, over the others."""
    figure = _figure(shape, "log" if logarithmic else "linear")
    models = needed("bokeh.models")
    xs = [x for line in drawn for x in line.x]
    figure.x_range = _range(min(xs), max(xs), logarithmic)
    for place, line in reversed(list(enumerate(drawn))):
        source = models.ColumnDataSource(
            {name: list(getattr(line, name)) for name in ("x", "y", "low", "high")} | {"tip": list(line.tips)}
        )
        ink, part = HUES[line.hue], str(place)
        if bands:
            band = figure.varea("x", "low", "high", source=source, name=part, fill_alpha=0.2 if place == 0 else 0.08)
            paint(band.glyph, fill_color=ink)
        else:
            bars = figure.segment("x", "low", "x", "high", source=source, name=part, line_width=1.6, line_alpha=0.55)
            paint(bars.glyph, line_color=ink)
        path = figure.line(
            "x", "y", source=source, name=part, line_width=3 if place == 0 else 2,
            line_dash="dashed" if line.dashed else "solid", line_join="round",
        )  # fmt: skip
        dots = figure.scatter("x", "y", source=source, name=part, size=9 if place == 0 else 7, hit_dilation=2.2)
        paint(path.glyph, line_color=ink)
        paint(dots.glyph, fill_color=ink, line_color=CARD)
        _told(figure, dots)
    _name_ticks(figure.xaxis[0], ticks)
    figure.xaxis.axis_label, figure.yaxis.axis_label = x_name, y_name
    keys = tuple(Key(str(place), line.name, line.hue) for place, line in enumerate(drawn))
    return Chart(number, _item(figure), alt, keys, shape)


def paint(model: Any, **inks: Ink) -> None:
    """Give a model its colours: those in light at once, and both in its tags, for the page to choose from."""
    from bokeh.core.properties import DataSpec

    for name, (light, dark) in inks.items():
        setattr(model, name, light)
        model.tags = [*model.tags, ["paint", name, isinstance(model.lookup(name).property, DataSpec), light, dark]]


def _figure(shape: str, x_axis: str = "linear", **options: Any) -> Any:
    """Return an empty figure that looks like the page, its tools out of sight."""
    figure = needed("bokeh.plotting").figure(
        height=HEIGHT[shape],
        sizing_mode="stretch_width",
        x_axis_type=x_axis,
        tools="",
        toolbar_location=None,
        min_border=4,
        output_backend="canvas",
        **options,
    )
    figure.background_fill_color = figure.border_fill_color = None
    figure.outline_line_color = None
    for axis in figure.axis:
        axis.axis_label_text_font = axis.major_label_text_font = FONT
        axis.axis_label_text_font_style = "normal"
        axis.axis_label_text_font_size = axis.major_label_text_font_size = "13px"
        axis.axis_label_standoff, axis.major_label_standoff = 10, 8
        axis.axis_line_color = axis.major_tick_line_color = axis.minor_tick_line_color = None
        paint(axis, axis_label_text_color=SOFT, major_label_text_color=SOFT)
    for grid in figure.grid:
        paint(grid, grid_line_color=LINE)
    figure.xgrid.grid_line_color = None
    for grid in figure.xgrid:
        grid.tags = []
    return figure


def _told(figure: Any, *renderers: Any) -> None:
    """Let the page tell of the point that is pointed at: of one, the nearest."""
    tool = needed("bokeh.models").HoverTool(renderers=list(renderers), limit=1, show_arrow=False, attachment="horizontal")
    figure.add_tools(tool)


def _range(low: float, high: float, logarithmic: bool) -> Any:
    models = needed("bokeh.models")
    if logarithmic:
        margin = (high / low) ** 0.03 if high > low else 1.5
        return models.Range1d(low / margin, high * margin)
    margin = 0.04 * (high - low) or 0.5
    return models.Range1d(low - margin, high + margin)


def _name_ticks(axis: Any, ticks: Mapping[float, str]) -> None:
    axis.ticker = needed("bokeh.models").FixedTicker(ticks=list(ticks), minor_ticks=[])
    axis.major_label_overrides = dict(ticks)


def _item(figure: Any) -> Mapping[str, Any]:
    return dict(needed("bokeh.embed").json_item(figure))
