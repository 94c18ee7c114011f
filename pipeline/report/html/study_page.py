"""The page of a study: learning curves and the verdicts on transfer."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.report.html.charts import GREY, Chart, Curve, lines
from pipeline.report.html.content import ProvenanceGroup
from pipeline.report.html.frame import Column, Table, flatten, headline, number, render_page, sentence, span
from pipeline.runs.leaderboard import scoring_name
from pipeline.studies import Point, Study, labels_text
from pipeline.studies.results import DUMMY, METHODS, RANDOM, RAW, SCRATCH, STATISTICS, TRANSFER

HUE = {TRANSFER: 0, SCRATCH: 1, RANDOM: 3, RAW: 4, STATISTICS: 2, DUMMY: GREY}
CLOSE = 1.5  # times as many labels: names of ticks that lie nearer would run into one another


def study_page(study: Study) -> str:
    """Return the page, one self-contained HTML text."""
    curves = {method: study.curve(method) for method in study.methods}
    depths = study.depth()
    first, rest = headline(study.summary)
    charts = [_curves(study, curves)]
    if depths:
        charts.append(_depth(len(charts), depths))
    images = f"{study.train:,} + {study.test:,}"
    facts = [("images for training + for testing", images), ("classes", f"{len(study.classes):,}")]
    facts += [("groups", f"{study.groups:,}")] if study.groups is not None else []
    facts += [("", study.backbone), ("by the clock", _clock(study.seconds))]
    return render_page(
        "study.jinja",
        charts,
        title=f"{study.name}: was transfer worth it?",
        study=study,
        first=first,
        rest=rest,
        facts=facts,
        places=_places(study, bool(depths)),
        verdicts=[
            {"promise": verdict.promise.capitalize(), "answer": verdict.answer, "text": sentence(verdict.text)}
            for verdict in study.verdicts
        ],
        curves=charts[0],
        interval=sentence(study.interval),
        crossovers=[sentence(crossover.text) for crossover in study.crossovers],
        points=_points(study),
        everything=_everything(curves),
        clock=sentence(study.budget.get("clock", "")),
        depth=charts[1] if depths else None,
        about_depth=sentence(study.about_depth),
        depth_table=_depth_table(depths),
        given=[(name, sentence(text)) for name, text in study.budget.items() if text],
        notes=[sentence(text) for text in study.notes],
        provenance=_provenance(study),
    )


def _places(study: Study, deep: bool) -> list[tuple[str, str]]:
    places = [("promises", "Four promises"), ("curves", "Learning curves"), ("everything", "With all labels")]
    places += [("depth", "Layer by layer")] if deep else []
    places += [("given", "What each was given")]
    return [*places, *([("notes", "Notes")] if study.notes else []), ("provenance", "Provenance")]


def _curves(study: Study, curves: dict[str, tuple[Point, ...]]) -> Chart:
    drawn = [
        Curve(
            method,
            HUE[method],
            [point.per_class for point in points],
            [point.score for point in points],
            [point.low for point in points],
            [point.high for point in points],
            [_tip(point) for point in points],
            dashed=method == DUMMY,
        )
        for method, points in sorted(curves.items(), key=lambda pair: _order(pair[0]))
    ]
    ends = "; ".join(
        f"{method} from {points[0].score:.3f} to {points[-1].score:.3f}" for method, points in curves.items() if points
    )
    transfer = curves[TRANSFER]
    span_of = f"from {labels_text(transfer[0].per_class)} to {labels_text(transfer[-1].per_class)} labels per class"
    alt = f"Learning curves: balanced accuracy {span_of}. {ends}. Every point stands in the table below."
    return lines(
        0,
        alt,
        drawn,
        ticks=_ticks(transfer),
        x_name="labels per class",
        y_name="balanced accuracy",
        logarithmic=True,
    )


def _order(method: str) -> tuple[bool, int]:
    """Transfer first, what it is held against in earnest next, the dummy last."""
    return method != TRANSFER, (SCRATCH, *(other for other in METHODS if other != SCRATCH)).index(method)


def _ticks(points: Sequence[Point]) -> dict[float, str]:
    """Return the names of the numbers of labels; all of them has its own, and what is too near to it has none."""
    last = points[-1]
    ticks = {point.per_class: labels_text(point.per_class) for point in points[:-1]}
    ticks = {x: name for x, name in ticks.items() if x * CLOSE < last.per_class}
    return {**ticks, last.per_class: "all" if last.everything else labels_text(last.per_class)}


def _tip(point: Point) -> str:
    many = "1 label" if point.per_class == 1 else f"{labels_text(point.per_class)} labels"
    texts = [
        point.method if point.method != TRANSFER else f"{point.method}, {point.layer}",
        f"{point.score:.3f} ({point.low:.3f} to {point.high:.3f})",
        f"{many} a class{', all there are' if point.everything else ''}",
        f"on its training images {point.train:.3f}",
    ]
    if point.lead is not None and point.lead_low is not None and point.lead_high is not None:
        texts.append(f"transfer leads by {point.lead:+.3f} ({point.lead_low:+.3f} to {point.lead_high:+.3f})")
    return "\n".join(texts)


def _depth(number_: int, depths: dict[float, tuple[Point, ...]]) -> Chart:
    layers = list(dict.fromkeys(point.layer for points in depths.values() for point in points))
    # Lines of several numbers of labels stand a little apart, so that their bars do not hide one another.
    step = 0.05
    drawn = []
    for place, (per_class, points) in enumerate(sorted(depths.items(), reverse=True)):
        shift = step * (place - (len(depths) - 1) / 2)
        name = f"{labels_text(per_class)} labels per class"
        drawn.append(
            Curve(
                f"all, {name}" if points[0].everything else name,
                place % GREY,
                [layers.index(point.layer) + shift for point in points],
                [point.score for point in points],
                [point.low for point in points],
                [point.high for point in points],
                [_tip(point) for point in points],
            )
        )
    best = {per_class: max(points, key=lambda point: point.score) for per_class, points in depths.items()}
    alt = "Balanced accuracy by layer. " + "; ".join(
        f"with {labels_text(per_class)} labels per class {point.layer} is best, {point.score:.3f}"
        for per_class, point in best.items()
    )
    ticks = {float(place): name for place, name in enumerate(layers)}
    return lines(
        number_, f"{alt}.", drawn, ticks=ticks, x_name="", y_name="balanced accuracy", bands=False, shape="low"
    )


def _points(study: Study) -> Table:
    columns = (
        Column("method"), Column("layer"), Column("labels per class", True), Column("labels", True),
        Column("draws", True), Column("score", True), Column("95%", True), Column("on training images", True),
        Column("lead of transfer", True), Column("95%", True), Column("training", True), Column("network", True),
        Column("parameters"),
    )  # fmt: skip
    rows = [
        (
            point.method, point.layer, labels_text(point.per_class), f"{point.labels:,}", f"{point.draws:,}",
            number(point.score), span(point.low, point.high), number(point.train),
            number(point.lead, "+.3f"), span(point.lead_low, point.lead_high, "+.3f"),
            _seconds(point.seconds), _seconds(point.extraction_seconds) if point.extraction_seconds else "",
            point.params,
        )
        for point in study.points
    ]  # fmt: skip
    return Table("Every point of the study", columns, rows)


def _everything(curves: dict[str, tuple[Point, ...]]) -> Table:
    last = [points[-1] for method, points in curves.items() if method != DUMMY]
    columns = (
        Column("method"), Column("training images", True), Column("new images", True), Column("lost", True),
        Column("training", True), Column("network", True), Column("together", True),
    )  # fmt: skip
    rows = [
        (
            point.method, number(point.train), f"{number(point.score)} ({span(point.low, point.high)})",
            number(round(point.gap, 3) + 0.0), _seconds(point.seconds),
            _seconds(point.extraction_seconds) if point.extraction_seconds else "",
            _seconds(point.total_seconds) + (" *" if point.cut_short else ""),
        )
        for point in last
    ]  # fmt: skip
    return Table("With all labels: scores, gaps and times", columns, rows)


def _depth_table(depths: dict[float, tuple[Point, ...]]) -> Table:
    layers = list(dict.fromkeys(point.layer for points in depths.values() for point in points))
    rows = []
    for per_class, points in depths.items():
        by_layer = {point.layer: point for point in points}
        cells = [
            f"{by_layer[layer].score:.3f} ({by_layer[layer].low:.3f} to {by_layer[layer].high:.3f})"
            if layer in by_layer
            else ""
            for layer in layers
        ]
        rows.append((labels_text(per_class), *cells))
    columns = (Column("labels per class"), *(Column(layer, True) for layer in layers))
    return Table("Balanced accuracy by layer", columns, rows)


def _provenance(study: Study) -> list[ProvenanceGroup]:
    recorded = dict(study.provenance)
    versions = recorded.pop("versions", {})
    facts = [("label set", study.label_set), ("classes", ", ".join(study.classes)), ("head", study.head)]
    facts += [("network", study.backbone), ("layer", study.layer), ("score", scoring_name(study.scoring))]
    software = ", ".join(f"{name} {version}" for name, version in versions.items() if version)
    facts += [("software", software)] if software else []
    return [ProvenanceGroup("", facts, [*flatten(recorded), *flatten(versions)])]


def _seconds(seconds: float) -> str:
    return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:,.0f} s"


def _clock(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:,.0f} min"
