"""What each method was given, in words: a comparison is as fair as what stands here."""

from __future__ import annotations

from pipeline.heads import Head, estimator_text
from pipeline.studies import draws, lessons, methods
from pipeline.studies.pixels import PixelSizes


def budget_text(head: Head, sizes: PixelSizes, *, seconds: float, device: str) -> dict[str, str]:
    """Return what the draws, the head, the small network and the clocks are, one sentence each."""
    from pipeline.studies import network, training

    few = ", ".join(f"{count} with {size}" for size, count in draws.DRAWS.items())
    tries = training.TRIES_OF_SMALL if sizes.small else training.TRIES
    listed = "; ".join(f"rate {one.rate:g} {'with' if one.flips else 'without'} mirroring" for one in tries)
    fewer = ", ".join(f"{count} with {size}" for size, count in methods.SCRATCH_DRAWS.items())
    widths = ", ".join(map(str, network.WIDTHS))
    return {
        "draws": f"{few} labels a class, {draws.FEWEST_DRAWS} with more, 1 with all; each within the next larger one",
        "draws from scratch": f"the first of these: {fewer}, {methods.FEWEST_SCRATCH_DRAWS} with more and with all",
        "head": f"{estimator_text(head.estimator)}; its grid is searched by {lessons.CV}-fold cross-validation within "
        f"the labels drawn from {lessons.CHOOSE_FROM} a class on, with fewer it has its defaults",
        "network": f"4 convolutions of {widths} channels with batch normalisation, on {sizes.network} x "
        f"{sizes.network} pixels; AdamW, one cycle of its rate; images scaled, turned, moved and lit at random",
        "length": f"{training.VIEWS} looks at each image, {training.FEWEST_VIEWS:,} looks in all at least and "
        f"{training.MOST_VIEWS:,} at most (or {training.VIEWS_OF_MANY} at each)",
        "choice": f"tries of a third of that, {listed}; the best on a held-out fifth of the labels is trained, "
        "to see when that part gets no better, and again on all labels for as long; with fewer than "
        f"{lessons.CHOOSE_FROM} labels a class the first try, in full",
        "limit": f"{seconds:g} seconds a training, the choice included; a longer schedule is shortened to it, and "
        "nothing is chosen where that would more than halve it",
        "raw pixels": f"{sizes.raw} x {sizes.raw} pixels",
        "clock": "seconds of one core" if device == "cpu" else f"seconds by the clock on {device}; heads: of one core",
    }
