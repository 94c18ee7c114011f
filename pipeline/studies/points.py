"""`Point`: one method with so many labels, and the names of the methods; a study is a table of these."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

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
    """One method with so many labels: a mean over draws of the training labels, all scored on the same test images.

    Attributes
    ----------
    method : str
        One of `METHODS`: ``transfer`` (the frozen pretrained backbone and a head), ``random weights`` (the same network
        untrained, and a head), ``from scratch`` (a small CNN trained on the pixels), ``raw pixels`` and ``pixel
        statistics`` (each with a head), ``dummy``.
    layer : str
        Of the backbone; empty for the methods without one.
    per_class : float
        Labels a class, on average: ``labels`` over the number of classes. The x of a learning curve, to be drawn on a
        logarithmic axis.
    labels : int
        Labels that were learned from.
    everything : bool
        Whether these are all training labels.
    draws : int
        Sets of labels that were drawn, or, where all labels are taken, trainings with another seed.
    score, low, high : float
        Balanced accuracy on the test images, mean over the draws, and its 95% interval: both the draws and the test
        images might have been others (see ``Study.interval``).
    train : float
        Balanced accuracy on the labels that were learned from, mean over the draws.
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
        """How much lower the score is on new images than on those learned from."""
        return self.train - self.score

    @property
    def total_seconds(self) -> float:
        """Training and, where there is a backbone, bringing the images through it."""
        return self.seconds + self.extraction_seconds

    def as_dict(self) -> dict[str, Any]:
        """Return the point as plain JSON values, with ``gap`` and ``total_seconds``."""
        return {**asdict(self), "scores": list(self.scores), "gap": self.gap, "total_seconds": self.total_seconds}


def curve_of(points: Sequence[Point], method: str, layer: str) -> tuple[Point, ...]:
    """Return the points of a method, the fewest labels first; of a backbone's layers the one named."""
    mine = [point for point in points if point.method == method and point.layer in (layer, NO_LAYER)]
    return tuple(sorted(mine, key=lambda point: point.labels))


def depth_of(layer: str) -> tuple[int, str]:
    """Return what sorts layers from early to late; those with names of their own come last."""
    return (DEPTHS.index(layer) if layer in DEPTHS else len(DEPTHS), layer)
