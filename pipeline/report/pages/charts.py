"""The charts of a page: curves, calibration, numbers, many classes, and the map."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.report.findings.calibration import Calibration
from pipeline.report.findings.confusion import Confusion
from pipeline.report.needs import needed
from pipeline.report.pages.canvas import CARD, HUES, SOFT, Chart, Key, figure, item, name_ticks, paint, range_of, told


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
    plot = figure(shape, "log" if logarithmic else "linear")
    models = needed("bokeh.models")
    xs = [x for line in drawn for x in line.x]
    plot.x_range = range_of(min(xs), max(xs), logarithmic)
    for place, line in reversed(list(enumerate(drawn))):
        source = models.ColumnDataSource(
            {name: list(getattr(line, name)) for name in ("x", "y", "low", "high")} | {"tip": list(line.tips)}
        )
        ink, part = HUES[line.hue], str(place)
        if bands:
            band = plot.varea("x", "low", "high", source=source, name=part, fill_alpha=0.2 if place == 0 else 0.08)
            paint(band.glyph, fill_color=ink)
        else:
            bars = plot.segment("x", "low", "x", "high", source=source, name=part, line_width=1.6, line_alpha=0.55)
            paint(bars.glyph, line_color=ink)
        path = plot.line(
            "x", "y", source=source, name=part, line_width=3 if place == 0 else 2,
            line_dash="dashed" if line.dashed else "solid", line_join="round",
        )  # fmt: skip
        dots = plot.scatter("x", "y", source=source, name=part, size=9 if place == 0 else 7, hit_dilation=2.2)
        paint(path.glyph, line_color=ink)
        paint(dots.glyph, fill_color=ink, line_color=CARD)
        told(plot, dots)
    name_ticks(plot.xaxis[0], ticks)
    plot.xaxis.axis_label, plot.yaxis.axis_label = x_name, y_name
    keys = tuple(Key(str(place), line.name, line.hue) for place, line in enumerate(drawn))
    return Chart(number, item(plot), alt, keys, shape)


def calibration_chart(number: int, found: Calibration, head: str) -> Chart:
    """Return how sure a head was against how often it was right; on the dashed line the two are one."""
    plot = figure("square")
    models = needed("bokeh.models")
    low = min(min(one.probability, one.accuracy_low) for one in found.bins)
    plot.x_range, plot.y_range = range_of(low, 1.0), range_of(low, 1.0)
    ideal = plot.line([low, 1.0], [low, 1.0], line_dash="dashed", line_width=1.5)
    paint(ideal.glyph, line_color=SOFT)
    source = models.ColumnDataSource(
        {
            "x": [one.probability for one in found.bins],
            "y": [one.accuracy for one in found.bins],
            "low": [one.accuracy_low for one in found.bins],
            "high": [one.accuracy_high for one in found.bins],
            "tip": [
                f"right {one.accuracy:.0%} ({one.accuracy_low:.0%} to {one.accuracy_high:.0%})\n"
                f"sure to {one.probability:.0%} on average\n{one.n:,} images, from {one.low:.0%} to {one.high:.0%}"
                for one in found.bins
            ],
        }
    )
    bars = plot.segment("x", "low", "x", "high", source=source, line_width=1.6, line_alpha=0.55)
    path = plot.line("x", "y", source=source, line_width=2)
    dots = plot.scatter("x", "y", source=source, size=9, hit_dilation=2.2)
    for glyph in (bars.glyph, path.glyph):
        paint(glyph, line_color=HUES[0])
    paint(dots.glyph, fill_color=HUES[0], line_color=CARD)
    told(plot, dots)
    for axis in plot.axis:
        axis.formatter = models.NumeralTickFormatter(format="0%")
    plot.xaxis.ticker = models.BasicTicker(desired_num_ticks=4)  # as many as have room on a phone
    plot.xaxis.axis_label, plot.yaxis.axis_label = "how sure it was", "how often it was right"
    points = "; ".join(f"sure to {one.probability:.0%}, right {one.accuracy:.0%}" for one in found.bins)
    return Chart(number, item(plot), f"Calibration of {head}: {points}.", shape="square")


def numbers_chart(
    number: int, true: Sequence[float], said: Sequence[float], tips: Sequence[str], pictures: Sequence[int], alt: str
) -> Chart:
    """Return true numbers against those that were said; on the dashed line the two are one."""
    plot = figure("usual")
    models = needed("bokeh.models")
    low, high = min(*true, *said), max(*true, *said)
    plot.x_range, plot.y_range = range_of(low, high), range_of(low, high)
    ideal = plot.line([low, high], [low, high], line_dash="dashed", line_width=1.5)
    paint(ideal.glyph, line_color=SOFT)
    source = models.ColumnDataSource({"x": true, "y": said, "tip": tips, "picture": pictures})
    alpha = 0.75 if len(true) < 2000 else 0.4
    dots = plot.scatter("x", "y", source=source, size=7, fill_alpha=alpha, line_color=None)
    paint(dots.glyph, fill_color=HUES[0])
    told(plot, dots)
    plot.xaxis.axis_label, plot.yaxis.axis_label = "what it is", "what was said"
    return Chart(number, item(plot), alt)


def confusion_chart(number: int, found: Confusion) -> Chart:
    """Return the confusion of many classes: a cell for each pair that occurred, the deeper the larger its share."""
    plot = figure("tall")
    models = needed("bokeh.models")
    k = len(found.classes)
    rows, columns = found.counts.nonzero()
    shares = found.shares[rows, columns]
    tips = []
    for row, column, share in zip(rows.tolist(), columns.tolist(), shares.tolist(), strict=True):
        what = "right" if row == column else f"taken for {found.classes[column]}"
        n = int(found.counts[row].sum())
        tips.append(f"{found.classes[row]}\n{what}: {int(found.counts[row, column]):,} of {n:,} ({share:.0%})")
    source = models.ColumnDataSource({"x": columns, "y": rows, "alpha": 0.08 + 0.92 * shares, "tip": tips})
    on = models.CDSView(filter=models.BooleanFilter((rows == columns).tolist()))
    off = models.CDSView(filter=models.BooleanFilter((rows != columns).tolist()))
    cells = []
    for view, hue in ((on, 0), (off, 1)):
        cells.append(plot.rect("x", "y", 0.96, 0.96, source=source, view=view, fill_alpha="alpha", line_color=None))
        paint(cells[-1].glyph, fill_color=HUES[hue])
    told(plot, *cells)
    plot.x_range, plot.y_range = models.Range1d(-0.6, k - 0.4), models.Range1d(k - 0.4, -0.6)
    for axis, name in ((plot.xaxis[0], "what was said"), (plot.yaxis[0], "what it is")):
        axis.axis_label, axis.major_label_text_font_size = name, "11px"
        name_ticks(axis, dict(enumerate(_short(one) for one in found.classes)) if k <= 40 else {})
    plot.xaxis.major_label_orientation = 1.0
    for grid in plot.grid:
        grid.grid_line_color, grid.tags = None, []
    worst = "; ".join(f"{was} taken for {said} {times:,} times" for was, said, times in found.commonest_mistakes[:5])
    alt = f"Confusion of {k:,} classes. " + (f"Most often: {worst}." if worst else "No mistakes.")
    return Chart(number, item(plot), alt, shape="tall")


def map_chart(number: int, told_of: Mapping[str, Any], keys: Sequence[Key], names: tuple[str, str], alt: str) -> Chart:
    """Return the frame of a map; the page fills in its points, which several maps may have in common."""
    plot = figure("tall")
    models = needed("bokeh.models")
    columns = ("x", "y", "colour", "mark", "size", "row", "picture")
    source = models.ColumnDataSource({name: [] for name in columns})
    plot.x_range, plot.y_range = models.Range1d(0, 1), models.Range1d(0, 1)
    dots = plot.scatter(
        "x", "y", source=source, marker="mark", size="size", fill_color="colour", line_color=None, fill_alpha=0.8
    )
    told(plot, dots)
    plot.add_tools(models.PanTool(), models.WheelZoomTool(modifiers={"ctrl": True}))
    plot.lod_threshold = 5000
    plot.xaxis.axis_label, plot.yaxis.axis_label = names
    for axis in plot.axis:
        axis.major_label_text_font_size = "0px"  # the scale of a principal component says nothing to anybody
        axis.tags = [tag for tag in axis.tags if tag[1] != "major_label_text_color"]
        axis.major_label_text_color = None
        axis.major_label_standoff = 0
    return Chart(number, item(plot), alt, tuple(keys), "tall", told_of)


def _short(name: str, most: int = 14) -> str:
    return name if len(name) <= most else f"{name[: most - 1]}…"
