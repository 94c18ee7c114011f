"""The README of a model folder: what it is, how good it is, how to use it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pipeline.runs import CHOSEN

if TYPE_CHECKING:
    from pipeline.model.model import Model


def card(model: Model, name: str) -> str:
    """Return the text of the model folder's README."""
    answers = f"one of {len(model.classes)} classes: {', '.join(model.classes)}" if model.classes else "a number"
    params = ", ".join(f"{key} = {value}" for key, value in model.params.items()) or "none chosen"
    lines = [
        f"# {name}",
        "",
        f"Looks at a photo and answers `{model.label_set}`: {answers}.",
        "",
        f"> {model.verdict}",
        "",
        "## Use",
        "",
        "```",
        f"pipeline predict {name} new.jpg",
        "```",
        "",
        "## What it is",
        "",
        f"- backbone `{model.backbone.name}`, weights `{model.backbone.weights}`, frozen; features of layer"
        f" `{model.layer}`",
        f"- head `{model.head}` ({params}), trained on {len(model.training_digests):,} photos",
        "",
        "## Scores",
        "",
        "Nested cross-validation: no photo was scored by a head that had seen it, or whose parameters had.",
        "",
        "| features | head | scoring | score | 95% interval | on the test set |",
        "|---|---|---|---|---|---|",
        *(_row(score) for score in model.scores),
        "",
        *(["## Notes", "", *(f"- {note}" for note in model.notes), ""] if model.notes else []),
        "## Made with",
        "",
        ", ".join(f"{library} {number}" for library, number in model.versions.items()),
        "",
    ]
    return "\n".join(lines)


def _row(score: Mapping[str, Any]) -> str:
    head = "best of several, chosen in every fold" if score["head"] == CHOSEN else score["head"]
    mark = " (optimistic)" if score["optimistic"] else ""
    interval = _interval(score["low"], score["high"])
    test = "" if score["test"] is None else f"{score['test']:.3f} {_interval(score['test_low'], score['test_high'])}"
    return f"| {score['layer']} | {head} | {score['scoring']} | {score['mean']:.3f}{mark} | {interval} | {test} |"


def _interval(low: float | None, high: float | None) -> str:
    return "" if low is None or high is None else f"{low:.3f} to {high:.3f}"
