"""Bokeh charts of a page: figures in light and dark colors, curves, calibration, numbers, confusion and the map."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pipeline.report import load_library
from pipeline.report.diagnostics.confusion import Calibration, Confusion

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
class LegendKey:
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
    keys : tuple of LegendKey
    map : mapping or None
        Of a map: which points, and how they are coloured.
    shape : {"usual", "low", "tall", "square"}
        A class of the style sheet, which has its height.
    """

    number: int
    item: Mapping[str, Any] = field(repr=False)
    alt: str
    keys: tuple[LegendKey, ...] = ()
    shape: str = "usual"
    map: Mapping[str, Any] | None = field(default=None, repr=False)


HEIGHT = {"usual": 400, "low": 340, "tall": 560, "square": 340}  # as in ``style.css``


def set_colors(model: Any, **inks: Ink) -> None:
    """Give a model its colours: those in light at once, and both in its tags, for the page to choose from."""
    from bokeh.core.properties import DataSpec

    for name, (light, dark) in inks.items():
        setattr(model, name, light)
        model.tags = [*model.tags, ["paint", name, isinstance(model.lookup(name).property, DataSpec), light, dark]]


def figure(shape: str, x_axis: str = "linear", **options: Any) -> Any:
    """Return an empty figure that looks like the page, its tools out of sight."""
    made = load_library("bokeh.plotting").figure(
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
        set_colors(axis, axis_label_text_color=SOFT, major_label_text_color=SOFT)
    set_colors(made.ygrid[0], grid_line_color=LINE)
    made.xgrid.grid_line_color = None
    return made


def add_hover(plot: Any, *renderers: Any) -> None:
    """Let the page tell of the point that is pointed at: of one, the nearest."""
    hover = load_library("bokeh.models").HoverTool
    plot.add_tools(hover(renderers=list(renderers), limit=1, show_arrow=False, attachment="horizontal"))


def range_of(low: float, high: float, logarithmic: bool = False) -> Any:
    """Return a range with a small margin on both sides."""
    models = load_library("bokeh.models")
    if logarithmic:
        margin = (high / low) ** 0.03 if high > low else 1.5
        return models.Range1d(low / margin, high * margin)
    margin = 0.04 * (high - low) or 0.5
    return models.Range1d(low - margin, high + margin)


def name_ticks(axis: Any, ticks: Mapping[float, str]) -> None:
    """Let an axis have these ticks alone, by these names."""
    axis.ticker = load_library("bokeh.models").FixedTicker(ticks=list(ticks), minor_ticks=[])
    axis.major_label_overrides = dict(ticks)


def item(plot: Any) -> Mapping[str, Any]:
    """Return a figure as the page embeds it."""
    return dict(load_library("bokeh.embed").json_item(plot))


@dataclass(frozen=True)
class Curve:
    """Points that belong together, with their intervals.

    Attributes
    ----------
    name : str
    hue : int
    x, y, low, high : sequence of float
    tips : sequence of str
        Text of each point; the first line is its title.
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
    drawn: Sequence[Curve],
    *,
    ticks: Mapping[float, str],
    x_name: str,
    y_name: str,
    logarithmic: bool = False,
    bands: bool = True,
    shape: str = "usual",
) -> Chart:
    """Return lines with their intervals, as bands or as bars; the first line is drawn last, over the others."""
    plot = figure(shape, "log" if logarithmic else "linear")
    models = load_library("bokeh.models")
    xs = [x for line in drawn for x in line.x]
    plot.x_range = range_of(min(xs), max(xs), logarithmic)
    for place, line in reversed(list(enumerate(drawn))):
        source = models.ColumnDataSource(
            {name: list(getattr(line, name)) for name in ("x", "y", "low", "high")} | {"tip": list(line.tips)}
        )
        ink, part = HUES[line.hue], str(place)
        if bands:
            band = plot.varea("x", "low", "high", source=source, name=part, fill_alpha=0.2 if place == 0 else 0.08)
            set_colors(band.glyph, fill_color=ink)
        else:
            bars = plot.segment("x", "low", "x", "high", source=source, name=part, line_width=1.6, line_alpha=0.55)
            set_colors(bars.glyph, line_color=ink)
        path = plot.line(
            "x", "y", source=source, name=part, line_width=3 if place == 0 else 2,
            line_dash="dashed" if line.dashed else "solid", line_join="round",
        )  # fmt: skip
        dots = plot.scatter("x", "y", source=source, name=part, size=9 if place == 0 else 7, hit_dilation=2.2)
        set_colors(path.glyph, line_color=ink)
        set_colors(dots.glyph, fill_color=ink, line_color=CARD)
        add_hover(plot, dots)
    name_ticks(plot.xaxis[0], ticks)
    plot.xaxis.axis_label, plot.yaxis.axis_label = x_name, y_name
    keys = tuple(LegendKey(str(place), line.name, line.hue) for place, line in enumerate(drawn))
    return Chart(number, item(plot), alt, keys, shape)


def calibration_chart(number: int, found: Calibration, head: str) -> Chart:
    """Return how often a head was correct against its probabilities; on the dashed line they are equal."""
    plot = figure("square")
    models = load_library("bokeh.models")
    low = min(min(bin_.probability, bin_.accuracy_low) for bin_ in found.bins)
    plot.x_range, plot.y_range = range_of(low, 1.0), range_of(low, 1.0)
    ideal = plot.line([low, 1.0], [low, 1.0], line_dash="dashed", line_width=1.5)
    set_colors(ideal.glyph, line_color=SOFT)
    source = models.ColumnDataSource(
        {
            "x": [bin_.probability for bin_ in found.bins],
            "y": [bin_.accuracy for bin_ in found.bins],
            "low": [bin_.accuracy_low for bin_ in found.bins],
            "high": [bin_.accuracy_high for bin_ in found.bins],
            "tip": [
                f"{bin_.accuracy:.0%} correct ({bin_.accuracy_low:.0%} to {bin_.accuracy_high:.0%})\n"
                f"mean probability {bin_.probability:.0%}\n{bin_.n:,} photos, from {bin_.low:.0%} to {bin_.high:.0%}"
                for bin_ in found.bins
            ],
        }
    )
    bars = plot.segment("x", "low", "x", "high", source=source, line_width=1.6, line_alpha=0.55)
    path = plot.line("x", "y", source=source, line_width=2)
    dots = plot.scatter("x", "y", source=source, size=9, hit_dilation=2.2)
    for glyph in (bars.glyph, path.glyph):
        set_colors(glyph, line_color=HUES[0])
    set_colors(dots.glyph, fill_color=HUES[0], line_color=CARD)
    add_hover(plot, dots)
    for axis in plot.axis:
        axis.formatter = models.NumeralTickFormatter(format="0%")
    plot.xaxis.ticker = models.BasicTicker(desired_num_ticks=4)  # as many as fit on a phone
    plot.xaxis.axis_label, plot.yaxis.axis_label = "probability", "share correct"
    points = "; ".join(f"probability {bin_.probability:.0%}, correct {bin_.accuracy:.0%}" for bin_ in found.bins)
    return Chart(number, item(plot), f"Calibration of {head}: {points}.", shape="square")


def numbers_chart(
    number: int,
    true: Sequence[float],
    predicted: Sequence[float],
    tips: Sequence[str],
    pictures: Sequence[int],
    alt: str,
) -> Chart:
    """Return predicted against true numbers; on the dashed line they are equal."""
    plot = figure("usual")
    models = load_library("bokeh.models")
    low, high = min(*true, *predicted), max(*true, *predicted)
    plot.x_range, plot.y_range = range_of(low, high), range_of(low, high)
    ideal = plot.line([low, high], [low, high], line_dash="dashed", line_width=1.5)
    set_colors(ideal.glyph, line_color=SOFT)
    source = models.ColumnDataSource({"x": true, "y": predicted, "tip": tips, "picture": pictures})
    alpha = 0.75 if len(true) < 2000 else 0.4
    dots = plot.scatter("x", "y", source=source, size=7, fill_alpha=alpha, line_color=None)
    set_colors(dots.glyph, fill_color=HUES[0])
    add_hover(plot, dots)
    plot.xaxis.axis_label, plot.yaxis.axis_label = "label", "prediction"
    return Chart(number, item(plot), alt)


def confusion_chart(number: int, found: Confusion, photos: int | None = None) -> Chart:
    """Return the confusion of many classes: a cell for each pair that occurred, the deeper the larger its share."""
    plot = figure("tall")
    models = load_library("bokeh.models")
    k = len(found.classes)
    rows, columns = found.counts.nonzero()
    shares = found.shares[rows, columns]
    tips = []
    for row, column, share in zip(rows.tolist(), columns.tolist(), shares.tolist(), strict=True):
        what = "correct" if row == column else f"predicted as {found.classes[column]}"
        n = int(found.counts[row].sum())
        tips.append(f"{found.classes[row]}\n{what}: {int(found.counts[row, column]):,} of {n:,} ({share:.0%})")
    source = models.ColumnDataSource({"x": columns, "y": rows, "alpha": 0.08 + 0.92 * shares, "tip": tips})
    on = models.CDSView(filter=models.BooleanFilter((rows == columns).tolist()))
    off = models.CDSView(filter=models.BooleanFilter((rows != columns).tolist()))
    cells = []
    for view, hue in ((on, 0), (off, 1)):
        cells.append(plot.rect("x", "y", 0.96, 0.96, source=source, view=view, fill_alpha="alpha", line_color=None))
        set_colors(cells[-1].glyph, fill_color=HUES[hue])
        cells[-1].nonselection_glyph = None  # a selected cell shows its photos, and the others stay as they are
    add_hover(plot, *cells)
    if photos is not None:
        plot.add_tools(models.TapTool(renderers=cells))
    plot.x_range, plot.y_range = models.Range1d(-0.6, k - 0.4), models.Range1d(k - 0.4, -0.6)
    for axis, name in ((plot.xaxis[0], "prediction"), (plot.yaxis[0], "label")):
        axis.axis_label, axis.major_label_text_font_size = name, "11px"
        name_ticks(axis, dict(enumerate(_short(name) for name in found.classes)) if k <= 40 else {})
    plot.xaxis.major_label_orientation = 1.0
    for grid in plot.grid:
        grid.grid_line_color, grid.tags = None, []
    worst = "; ".join(
        f"{label} predicted as {other} {times:,} times" for label, other, times in found.commonest_mistakes[:5]
    )
    alt = f"Confusion of {k:,} classes. " + (f"Most often: {worst}." if worst else "No mistakes.")
    return Chart(number, item(plot), alt, shape="tall")


def map_chart(
    number: int, colors: Mapping[str, Any], keys: Sequence[LegendKey], names: tuple[str, str], alt: str
) -> Chart:
    """Return the frame of a map; the page fills in its points, which several maps may have in common."""
    plot = figure("tall")
    models = load_library("bokeh.models")
    columns = ("x", "y", "colour", "mark", "size", "row", "picture")
    source = models.ColumnDataSource({name: [] for name in columns})
    plot.x_range, plot.y_range = models.Range1d(0, 1), models.Range1d(0, 1)
    dots = plot.scatter(
        "x", "y", source=source, marker="mark", size="size", fill_color="colour", line_color=None, fill_alpha=0.8
    )
    add_hover(plot, dots)
    plot.add_tools(models.PanTool(), models.WheelZoomTool(modifiers={"ctrl": True}))
    plot.lod_threshold = 5000
    plot.xaxis.axis_label, plot.yaxis.axis_label = names
    for axis in plot.axis:
        axis.major_label_text_font_size = "0px"  # the scale of a principal component has no meaning
        axis.tags = [tag for tag in axis.tags if tag[1] != "major_label_text_color"]
        axis.major_label_text_color = None
        axis.major_label_standoff = 0
    return Chart(number, item(plot), alt, tuple(keys), "tall", colors)


def _short(name: str, most: int = 14) -> str:
    return name if len(name) <= most else f"{name[: most - 1]}…"
