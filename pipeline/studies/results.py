"""`Study`: what are the results of a study, and how are they written to and read from ``study.json``?

A study is a table of points and what follows from it. Crossovers and verdicts are functions of the points alone
(`pipeline.studies.analysis`), so they can be computed again from the table.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.arguments import check_arguments
from pipeline.errors import EvaluationError
from pipeline.files import replace_file
from pipeline.runs import check_is_run_directory
from pipeline.runs.directory import POINTS, STUDY

if TYPE_CHECKING:
    import pandas as pd


TRANSFER = "transfer"
RANDOM = "random weights"
SCRATCH = "from scratch"
RAW = "raw pixels"
STATISTICS = "pixel statistics"
DUMMY = "dummy"
METHODS = (TRANSFER, RANDOM, SCRATCH, RAW, STATISTICS, DUMMY)
NO_LAYER = ""
DEPTHS = ("early", "middle", "late", "penultimate")  # in the order of the network


@dataclass(frozen=True)
class Point:
    """One method at one label budget: a mean over draws of the training labels, all scored on the same test images.

    Attributes
    ----------
    method : str
        One of `METHODS`: ``transfer`` (the frozen pretrained backbone and a head), ``random weights`` (the same network
        untrained, and a head), ``from scratch`` (a small CNN trained on the pixels), ``raw pixels`` and ``pixel
        statistics`` (each with a head), ``dummy``.
    layer : str
        Of the backbone; empty for the methods without one.
    per_class : float
        Labels per class, on average: ``labels`` over the number of classes. The x of a learning curve, to be drawn on a
        logarithmic axis.
    labels : int
        Training labels.
    everything : bool
        Whether these are all training labels.
    draws : int
        Sets of labels that were drawn, or, where all labels are taken, trainings with another seed.
    score, low, high : float
        Balanced accuracy on the test images, mean over the draws, and its 95% interval: both the draws and the test
        images might have been others (see ``Study.interval``).
    train : float
        Balanced accuracy on the training images, mean over the draws.
    seconds : float
        To train once, mean over the draws: of one core, or of the GPU where there is one. Choosing parameters counts.
    extraction_seconds : float
        To bring as many images through the backbone, once, likewise of one core or the GPU; 0 without a backbone.
    lead, lead_low, lead_high : float or None
        By how much transfer scores higher, on the same draws and test images, with its 95% interval; None for the
        points of transfer itself.
    gap_lead, gap_lead_low, gap_lead_high : float or None
        By how much the gap (``train`` - ``score``) of transfer is smaller, likewise.
    cut_short : int
        Trainings that were shortened for the budget of seconds.
    params : str
        How parameters were chosen: ``cross-validated``, ``fixed`` (too few labels to choose by), ``none``.
    scores : tuple of float
        Of each draw, in order: the same place is the same draw for every method with as many labels.
    """

    method: str
    layer: str
    per_class: float
    labels: int
    everything: bool
    draws: int
    score: float
    low: float
    high: float
    train: float
    seconds: float
    extraction_seconds: float
    lead: float | None = None
    lead_low: float | None = None
    lead_high: float | None = None
    gap_lead: float | None = None
    gap_lead_low: float | None = None
    gap_lead_high: float | None = None
    cut_short: int = 0
    params: str = "none"
    scores: tuple[float, ...] = ()

    @property
    def gap(self) -> float:
        """The score on the training images minus the score on the test images."""
        return self.train - self.score

    @property
    def total_seconds(self) -> float:
        """Seconds of training plus, with a backbone, of computing the features."""
        return self.seconds + self.extraction_seconds

    def as_dict(self) -> dict[str, Any]:
        """Return the point as plain JSON values, with ``gap`` and ``total_seconds``."""
        return {**asdict(self), "scores": list(self.scores), "gap": self.gap, "total_seconds": self.total_seconds}


def curve_of(points: Sequence[Point], method: str, layer: str) -> tuple[Point, ...]:
    """Return the points of a method, the fewest labels first; for a backbone only those of the given layer."""
    selected = [point for point in points if point.method == method and point.layer in (layer, NO_LAYER)]
    return tuple(sorted(selected, key=lambda point: point.labels))


def depth_of(layer: str) -> tuple[int, str]:
    """Return a sort key that orders layers from early to late; layers with other names come last."""
    return (DEPTHS.index(layer) if layer in DEPTHS else len(DEPTHS), layer)


FORMAT = 1

YES, NOT_HERE, NOT_SHOWN = "yes", "not here", "not shown"
TIME, LABELS, PERFORMANCE, GENERALISATION = (
    "less training time",
    "fewer labels",
    "better performance",
    "better generalisation",
)
PROMISES = (TIME, LABELS, PERFORMANCE, GENERALISATION)


@dataclass(frozen=True)
class SkippedTrials:
    """Trainings of one method at one label budget that the time limit left out.

    Attributes
    ----------
    method, layer : str
    labels : int
    draws : int
        How many were left out.
    of : int
        How many there would have been.
    """

    method: str
    layer: str
    labels: int
    draws: int
    of: int

    def as_dict(self) -> dict[str, Any]:
        """Return the record as plain JSON values."""
        return asdict(self)


@dataclass(frozen=True)
class LabelMatch:
    """The number of labels that a rival needs for the score of transfer with fewer labels.

    Attributes
    ----------
    per_class : float
        Labels per class that transfer had.
    score : float
        What it scored with them.
    needed : float or None
        Labels per class with which the rival first scores as high, interpolated between its points in the logarithm of
        the labels; None where it does so at no number of labels here.
    at_least : bool
        Whether the rival scores as high with the fewest labels already, so that it needs `needed` or fewer.
    """

    per_class: float
    score: float
    needed: float | None
    at_least: bool = False


@dataclass(frozen=True)
class Crossover:
    """A comparison of a rival's curve with that of transfer.

    Attributes
    ----------
    rival : str
        One of `METHODS`.
    meets : float or None
        Labels per class from which on the rival scores as high as transfer with as many labels, interpolated likewise;
        the fewest there are where it always does, None where it does not with all labels.
    matches : tuple of Match
        One a point of transfer, the fewest labels first.
    text : str
        In a sentence.
    """

    rival: str
    meets: float | None
    matches: tuple[LabelMatch, ...]
    text: str

    def as_dict(self) -> dict[str, Any]:
        """Return the crossover as plain JSON values."""
        return {**asdict(self), "matches": [asdict(item) for item in self.matches]}


@dataclass(frozen=True)
class Verdict:
    """Whether one of the four promises was kept.

    Attributes
    ----------
    promise : str
        One of `PROMISES`.
    answer : {"yes", "not here", "not shown"}
        ``yes``: ahead of every rival by more than chance might be; ``not here``: a rival is ahead by more than that;
        ``not shown``: neither.
    text : str
        In a sentence, with figures.
    figures : mapping of str to float or None
        The figures, by name.
    """

    promise: str
    answer: str
    text: str
    figures: Mapping[str, float | None]

    def as_dict(self) -> dict[str, Any]:
        """Return the verdict as plain JSON values."""
        return {**asdict(self), "figures": dict(self.figures)}


@dataclass(frozen=True)
class Study:
    """The result of a study.

    Attributes
    ----------
    name : str
        Of the images.
    label_set : str
    classes : tuple of str
    train, test : int
        Numbers of training and test images.
    groups : int or None
        How many groups they are of; None where images were taken as independent.
    backbone : str
        ``NAME:WEIGHTS``.
    layer : str
        Of the curves, and of what the verdicts are about.
    head : str
        The head.
    scoring : str
        ``balanced_accuracy``.
    points : tuple of Point
        By method in the order of `METHODS`, by layer, the fewest labels first. Transfer has points of other layers too,
        at a few numbers of labels: see `curve` and `depth`.
    crossovers : tuple of Crossover
        Training from scratch first, then the other rivals.
    verdicts : tuple of Verdict
        One a promise, in the order of `PROMISES`.
    summary : str
        Whether transfer was worth it, in a sentence.
    about_depth : str
        What each layer of the backbone is worth, in a sentence; empty where one layer alone was studied.
    interval : str
        How the intervals were made.
    budget : mapping of str to str
        What each method was given, in words: draws, the small network, its image size, its tries, its limits.
    notes : tuple of str
        What was left out, cut or assumed.
    provenance : mapping
        Plain JSON values: recipes of the caches, seed, device, cores, versions.
    seconds : float
        Of the whole study, by the clock.
    skipped : tuple of Skipped
        Trainings that the time limit left out; in JSON only where there are any.
    folder : Path or None
        Where it is kept.
    """

    name: str
    label_set: str
    classes: tuple[str, ...]
    train: int
    test: int
    groups: int | None
    backbone: str
    layer: str
    head: str
    scoring: str
    points: tuple[Point, ...]
    crossovers: tuple[Crossover, ...]
    verdicts: tuple[Verdict, ...]
    summary: str
    about_depth: str
    interval: str
    budget: Mapping[str, str]
    notes: tuple[str, ...] = ()
    provenance: Mapping[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    skipped: tuple[SkippedTrials, ...] = ()
    folder: Path | None = field(default=None, compare=False)

    @property
    def methods(self) -> tuple[str, ...]:
        """The methods that have points, in the order of `METHODS`."""
        by_layer = {point.method for point in self.points}
        return tuple(method for method in METHODS if method in by_layer)

    def curve(self, method: str) -> tuple[Point, ...]:
        """Return a method's learning curve, the fewest labels first; for a backbone at the layer of the curves.

        Raises
        ------
        EvaluationError
            There is no such method.
        """
        found = curve_of(self.points, method, self.layer)
        if not found:
            raise EvaluationError(
                f"expected one of the methods {', '.join(self.methods)}, got {method!r}", f"name one: {self.methods[0]}"
            )
        return found

    def depth(self) -> dict[float, tuple[Point, ...]]:
        """Return the points of transfer by depth: per number of labels per class, one per layer, early first."""
        selected = [point for point in self.points if point.method == TRANSFER]
        others = {point.labels for point in selected if point.layer != self.layer}
        found: dict[float, list[Point]] = {}
        for point in sorted(selected, key=lambda item: (item.labels, depth_of(item.layer))):
            if point.labels in others:
                found.setdefault(point.per_class, []).append(point)
        return {per_class: tuple(points) for per_class, points in found.items()}

    def table(self) -> pd.DataFrame:
        """Return the points as a table, one row per point."""
        import pandas as pd

        rows = [{name: value for name, value in point.as_dict().items() if name != "scores"} for point in self.points]
        return pd.DataFrame(rows)

    def as_dict(self) -> dict[str, Any]:
        """Return the study as plain JSON values."""
        values = {name: value for name, value in self.__dict__.items() if name not in ("folder", "skipped")}
        left_out = {"skipped": [item.as_dict() for item in self.skipped]} if self.skipped else {}
        return {
            **values,
            **left_out,
            "format": FORMAT,
            "classes": list(self.classes),
            "points": [point.as_dict() for point in self.points],
            "crossovers": [item.as_dict() for item in self.crossovers],
            "verdicts": [item.as_dict() for item in self.verdicts],
            "budget": dict(self.budget),
            "notes": list(self.notes),
            "provenance": dict(self.provenance),
        }

    @classmethod
    def from_dict(cls, written: Mapping[str, Any], *, folder: Path | None = None) -> Study:
        """Return the study that `as_dict` wrote."""
        values = {name: value for name, value in written.items() if name in cls.__dataclass_fields__}
        values |= {name: tuple(written[name]) for name in ("classes", "notes")}
        values["points"] = tuple(_point(item) for item in written["points"])
        values["crossovers"] = tuple(
            Crossover(**{**item, "matches": tuple(LabelMatch(**match) for match in item["matches"])})
            for item in written["crossovers"]
        )
        values["verdicts"] = tuple(Verdict(**item) for item in written["verdicts"])
        values["skipped"] = tuple(SkippedTrials(**item) for item in written.get("skipped", ()))
        return cls(**{**values, "folder": folder})

    def save(self, folder: str | Path) -> Path:
        """Write ``study.json`` and ``points.csv``; each file is written atomically.

        Raises
        ------
        EvaluationError
            The folder cannot be written, or holds other things than a run.
        """
        from pipeline.images import csv_text

        folder = Path(folder)
        check_is_run_directory(folder)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            replace_file(folder / POINTS, csv_text(self.table()).encode())
            replace_file(folder / STUDY, json.dumps(self.as_dict(), indent=1, allow_nan=False).encode())
        except OSError as error:
            raise EvaluationError(
                f"{folder}: expected to write the study here, got {error.strerror or error}",
                "give a folder that you may write with --out DIR",
            ) from error
        return folder

    @classmethod
    @check_arguments
    def open(cls, folder: str | Path) -> Study:
        """Return the study in a run directory.

        Raises
        ------
        EvaluationError
            There is none, or one of another format.
        """
        path = Path(folder) / STUDY
        step = "make one: pipeline study DATA --out RUN"
        try:
            written = json.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise EvaluationError(f"{path}: expected a study, got {error.strerror or error}", step) from error
        except ValueError as error:
            raise EvaluationError(f"{path}: expected a study, got no JSON ({error})", step) from error
        if not isinstance(written, dict) or written.get("format") != FORMAT:
            found = written.get("format") if isinstance(written, dict) else type(written).__name__
            raise EvaluationError(f"{path}: expected a study of format {FORMAT}, got {found}", step)
        return cls.from_dict(written, folder=Path(folder))


def _point(written: Mapping[str, Any]) -> Point:
    values = {name: value for name, value in written.items() if name in Point.__dataclass_fields__}
    return Point(**{**values, "scores": tuple(written["scores"])})
