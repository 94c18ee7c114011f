"""The tables of a study: one row per number of labels, one column per method; then the verdicts."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.cli.console import Console, RightAligned
from pipeline.studies import Point, Study, StudyStopped, labels_text
from pipeline.studies.results import DUMMY, SCRATCH, TRANSFER

LAST_TO_GO = (TRANSFER, SCRATCH)  # on a narrow terminal


def print_study(console: Console, study: Study) -> None:
    """Print the learning curves, the scores by depth, the crossover, and the verdicts."""
    curves = {method: study.curve(method) for method in study.methods}
    # A method that was skipped for all label budgets keeps its column, in which each cell says so.
    curves |= {skipped.method: () for skipped in study.skipped if skipped.method not in curves}
    lines = [[_labels(point), *_scores(study, curves, point.labels)] for point in curves[TRANSFER]]
    columns: list[str | RightAligned] = [
        RightAligned("labels per class"),
        *(RightAligned(f"{method} (95%)") for method in curves),
    ]
    spare = [number for number, method in enumerate(curves, start=1) if method not in LAST_TO_GO]
    left_out = console.table(columns, lines, spare=[*reversed(spare)])
    console.say(
        f"  balanced accuracy on {study.test:,} test images; {study.train:,} training images, "
        f"{len(study.classes)} classes; the mean of the draws"
    )
    if left_out:
        console.say(f"  columns that this terminal is too narrow for: {', '.join(reversed(left_out))}")
    console.stdout.print()
    last = [curve[-1] for method, curve in curves.items() if curve and method != DUMMY]
    rows = [
        [point.method, f"{point.train:.3f}", f"{point.score:.3f}", f"{point.gap:.3f}", *_seconds(point)]
        for point in last
    ]
    columns = [
        "with all labels",
        *map(RightAligned, ("training images", "test images", "difference", "training", "network")),
    ]
    console.table(columns, rows)
    console.say(f"  training and network: {study.budget['clock']}")
    console.stdout.print()
    depths = study.depth()
    layers = list(dict.fromkeys(point.layer for points in depths.values() for point in points))
    if depths:
        columns = [RightAligned("labels per class"), *(RightAligned(f"{layer} (95%)") for layer in layers)]
        console.table(columns, [[_labels(points[0]), *_by_layer(points, layers)] for points in depths.values()])
        console.stdout.print()
    console.paragraph(study.crossovers[0].text if study.crossovers else "no method to compare with")
    for verdict in study.verdicts:
        console.paragraph(f"{verdict.promise}: {verdict.answer}. {verdict.text}")
    if study.about_depth:
        console.paragraph(study.about_depth)
    console.paragraph(study.summary)


def print_partial(console: Console, stopped: StudyStopped) -> None:
    """Print the mean scores of a study that was stopped, on stderr: they are not the result."""
    console.say(f"stopped: {stopped.done:,} of {stopped.of:,} trainings are done; their mean balanced accuracy so far")
    columns = [
        "method",
        "layer",
        RightAligned("labels per class"),
        RightAligned("labels"),
        RightAligned("score"),
        RightAligned("draws"),
    ]
    rows = [
        [
            point.method,
            point.layer,
            labels_text(point.per_class),
            f"{point.labels:,}",
            f"{point.score:.3f}",
            f"{point.draws} of {point.of}",
        ]
        for point in stopped.points
    ]
    console.table(columns, rows, to_stderr=True)


def _labels(point: Point) -> str:
    return f"all ({point.labels:,})" if point.everything else labels_text(point.per_class)


def _scores(study: Study, curves: dict[str, tuple[Point, ...]], labels: int) -> list[str]:
    skipped = {method.method for method in study.skipped if method.labels == labels}
    found = []
    for method, curve in curves.items():
        point = next((point for point in curve if point.labels == labels), None)
        found.append("skipped" if point is None and method in skipped else _score(point))
    return found


def _by_layer(points: Sequence[Point], layers: Sequence[str]) -> list[str]:
    by_layer = {point.layer: point for point in points}
    return [_score(by_layer.get(layer)) for layer in layers]


def _score(point: Point | None) -> str:
    return "" if point is None else f"{point.score:.3f} ({point.low:.3f} to {point.high:.3f})"


def _seconds(point: Point) -> list[str]:
    return [f"{point.seconds:.1f} s", f"{point.extraction_seconds:.1f} s" if point.extraction_seconds else ""]
