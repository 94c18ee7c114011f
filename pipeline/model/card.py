"""The README of a model folder: what it is, how good it is, how to use it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pipeline.runs import CHOSEN

if TYPE_CHECKING:
    from pipeline.model.model import Model


def card(model: Model, name: str) -> str:
    """Return the text of the model folder's README."""
    listed = f"{len(model.classes)} {'tags' if model.kind == 'multi' else 'classes'}: {', '.join(model.classes)}"
    answers = {"class": f"one of {listed}", "multi": f"any of {listed}", "number": "a number"}[model.kind]
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
        _how(model),
        "",
        "| features | head | scoring | score | 95% interval | on the test set |",
        "|---|---|---|---|---|---|",
        *(_row(score) for score in model.scores if _told(score, model)),
        "",
        *(["## Notes", "", *(f"- {note}" for note in model.notes), ""] if model.notes else []),
        "## Made with",
        "",
        ", ".join(f"{library} {number}" for library, number in model.versions.items()),
        "",
    ]
    return "\n".join(lines)


def _how(model: Model) -> str:
    if any(score["optimistic"] for score in model.scores):
        return "Cross-validation; the parameters were chosen on the very photos that are scored, which is optimistic."
    return "Nested cross-validation: no photo was scored by a head that had seen it, or whose parameters had."


def _told(score: Mapping[str, Any], model: Model) -> bool:
    """Whether a score is the model's own, the whole choice's or a null's; the heads it beat are in the record."""
    own = (score["head"], score["layer"], score["backbone"]) == (model.head, model.layer, model.backbone.name)
    return own or score["null"] or score["head"] == CHOSEN


def _row(score: Mapping[str, Any]) -> str:
    head = "best of several, chosen in every fold" if score["head"] == CHOSEN else score["head"]
    mark = " (optimistic)" if score["optimistic"] and score["head"] != CHOSEN else ""
    interval, of_test = _interval(score["low"], score["high"]), _interval(score["test_low"], score["test_high"])
    test = f"{_number(score['test'])} ({of_test})" if of_test else _number(score["test"])
    return f"| {score['layer']} | {head} | {score['scoring']} | {_number(score['mean'])}{mark} | {interval} | {test} |"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _interval(low: float | None, high: float | None) -> str:
    return "" if low is None or high is None else f"{low:.3f} to {high:.3f}"
