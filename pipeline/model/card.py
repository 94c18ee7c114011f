"""What does the README of a model folder contain? It is a model card in the format of the Hugging Face Hub.

The card starts with YAML metadata between two lines of dashes; Markdown follows. JSON is valid YAML, so every value is
written as JSON: a class named "no" or a colon in a name then cannot be parsed as another type.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.evaluation.dataset import Task
from pipeline.runs import (
    CHOSEN,
    ON_TEST,
    OUT_OF_FOLD,
    LabelSetInfo,
    Result,
    Run,
    confusion_counts,
    predictions_of,
    tag_counts,
)

if TYPE_CHECKING:
    from pipeline.model.spec import ModelSpec


LIBRARY = "transfer-pipeline"
FEW = 20  # photos per class; the card warns about classes with fewer
WIDEST = 20  # classes in a confusion matrix; with more classes the most frequent mistakes are listed
MOST_LISTED = 12

_OF_PROBABILITIES = ("neg_log_loss", "roc_auc_ovr")
_TASKS = {"class": "image-classification", "multi": "image-classification", "number": "image-regression"}


def model_card(model: ModelSpec, name: str) -> str:
    """Return the text of the model folder's README."""
    lines = [
        "---",
        *_front_matter(model, name),
        "---",
        "",
        f"# {name}",
        "",
        f"Predicts `{model.label_set}` for a photo: {_describe_output(model)}.",
        "",
        f"> {model.verdict}",
        "",
        "## How to use it",
        "",
        "```",
        f"pipeline predict {name} new.jpg",
        f"pipeline export {name} --out {name.removesuffix('.model')}.onnx    # one file that runs without this package",
        "```",
        "",
        *_section("Training data", _data(model)),
        *_section("What it is", _details(model)),
        *_section("Evaluation", _scores(model)),
        *_section(_mistakes_title(model), _mistakes(model)),
        *_section("Limits", _limits(model)),
        *_section("Notes", [f"- {note}" for note in model.notes]),
        *_section("Made with", [", ".join(f"{library} {number}" for library, number in model.versions.items())]),
    ]
    return "\n".join(lines)


def _section(title: str, lines: Sequence[str]) -> list[str]:
    """Return the lines of a section and an empty line; an empty list if the section has no lines."""
    return [f"## {title}", "", *lines, ""] if lines else []


def _describe_output(model: ModelSpec) -> str:
    listed = f"{len(model.classes)} {'tags' if model.kind == 'multi' else 'classes'}: {', '.join(model.classes)}"
    return {"class": f"one of {listed}", "multi": f"any of {listed}", "number": "a number"}[model.kind]


def _front_matter(model: ModelSpec, name: str) -> Iterator[str]:
    """Yield the lines of the YAML metadata, one entry per line."""
    own_scores = [score for score in model.scores if _is_own(score, model)]
    task = _TASKS[model.kind]
    entries: dict[str, Any] = {"library_name": LIBRARY}
    if model.kind != "number":  # the Hub has no task for image regression
        entries["pipeline_tag"] = task
    entries["tags"] = ["transfer-learning", "frozen-backbone", model.backbone.name, model.head]
    entries["metrics"] = list(dict.fromkeys(str(score["scoring"]) for score in own_scores))
    dataset: dict[str, Any] = {"name": model.evidence.get("source") or "photos", "type": "images"}
    results: list[dict[str, Any]] = []
    for split, value, low, high in (("out of fold", "mean", "low", "high"), ("test", "test", "test_low", "test_high")):
        metrics = [_metric(score, value, low, high) for score in own_scores if score[value] is not None]
        if metrics:
            task_of = {"type": task, "name": model.label_set}
            results.append({"task": task_of, "dataset": {**dataset, "split": split}, "metrics": metrics})
    entries["model-index"] = [{"name": name, "results": results}]
    for key, entry in entries.items():
        yield f"{key}: {json.dumps(entry, ensure_ascii=False, allow_nan=False)}"


def _metric(score: Mapping[str, Any], value: str, low: str, high: str) -> dict[str, Any]:
    interval = _interval(score[low], score[high])
    optimistic = value == "mean" and score["optimistic"]
    metric_name = (
        f"{score['scoring']}{', optimistic' if optimistic else ''}{f', 95% interval {interval}' if interval else ''}"
    )
    return {"type": score["scoring"], "value": score[value], "name": metric_name}


def _data(model: ModelSpec) -> list[str]:
    evidence = model.evidence
    if not evidence:
        return [f"- {len(model.training_digests):,} photos"]
    groups = "" if evidence["groups"] is None else f", in {evidence['groups']:,} groups that no split divides"
    lines = [f"- `{evidence['source']}`: {evidence['photos']:,} labelled photos{groups}"]
    if evidence["unlabelled"]:
        count = evidence["unlabelled"]
        lines.append(f"- not used, because they have no label: {count:,} {'photo' if count == 1 else 'photos'}")
    if evidence["test"] is not None:
        lines.append(f"- {evidence['test']:,} photos of a fixed test set, not used for training")
    labels = evidence["labels"]
    if model.kind == "number":
        lines.append(f"- values from {labels['min']:g} to {labels['max']:g}, median {labels['median']:g}")
        return lines
    head = ["", f"| {'tag' if model.kind == 'multi' else 'class'} | photos |", "|---|---|"]
    return [*lines, *head, *(f"| {_cell(name)} | {count:,} |" for name, count in labels.items())]


def _details(model: ModelSpec) -> list[str]:
    params = ", ".join(f"{key} = {value}" for key, value in model.params.items()) or "none chosen"
    preprocessing = model.backbone.preprocessing
    return [
        f"- backbone `{model.backbone.name}`, weights `{model.backbone.weights}`, frozen; features of layer"
        f" `{model.layer}`",
        f"- head `{model.head}` ({params}), trained on {len(model.training_digests):,} photos",
        f"- preprocessing: the short side is resized to {preprocessing.resize} pixels, then the central"
        f" {preprocessing.crop} x {preprocessing.crop} pixels are cropped",
    ]


def _scores(model: ModelSpec) -> list[str]:
    return [
        _describe_validation(model),
        "",
        "| features | head | scoring | score | 95% interval | on the test set |",
        "|---|---|---|---|---|---|",
        *(_row(score) for score in model.scores if _is_listed(score, model)),
    ]


def _describe_validation(model: ModelSpec) -> str:
    if any(score["optimistic"] for score in model.scores):
        return "Cross-validation; optimistic, because the parameters were chosen on the photos that are scored."
    return "Nested cross-validation: neither a head nor the choice of its parameters used the photos it is scored on."


def _is_own(score: Mapping[str, Any], model: ModelSpec) -> bool:
    return (score["head"], score["layer"], score["backbone"]) == (model.head, model.layer, model.backbone.name)


def _is_listed(score: Mapping[str, Any], model: ModelSpec) -> bool:
    """Return whether the card shows a score: the model's own, that of the nested selection, or a baseline's.

    The scores of the other heads are in ``model.json``.
    """
    return _is_own(score, model) or score["null"] or score["head"] == CHOSEN


def _row(score: Mapping[str, Any]) -> str:
    head = "best head, selected within every fold" if score["head"] == CHOSEN else score["head"]
    mark = " (optimistic)" if score["optimistic"] and score["head"] != CHOSEN else ""
    interval, test_interval = _interval(score["low"], score["high"]), _interval(score["test_low"], score["test_high"])
    test = f"{_number(score['test'])} ({test_interval})" if test_interval else _number(score["test"])
    return f"| {score['layer']} | {head} | {score['scoring']} | {_number(score['mean'])}{mark} | {interval} | {test} |"


def _mistakes_title(model: ModelSpec) -> str:
    return "Tags found and missed" if model.kind == "multi" else "Confusion"


def _mistakes(model: ModelSpec) -> list[str]:
    mistakes = model.evidence.get("mistakes")
    if not mistakes:
        return []
    part = "the test set" if mistakes["part"] == "test" else "out-of-fold predictions"
    counts: Mapping[str, Mapping[str, int]] = mistakes["counts"]
    lines = [f"Counted over {mistakes['photos']:,} photos ({part}):", ""]
    if model.kind == "multi":
        lines += ["| tag | found | missed | predicted wrongly |", "|---|---|---|---|"]
        return lines + [
            f"| {_cell(t)} | {n['found']:,} | {n['missed']:,} | {n['wrong']:,} |" for t, n in counts.items()
        ]
    if len(model.classes) <= WIDEST:
        names = model.classes
        lines += [f"| true \\ predicted | {' | '.join(map(_cell, names))} |", "|---|" + "---|" * len(names)]
        rows = ([f"{row.get(name, 0):,}" for name in names] for row in counts.values())
        return lines + [f"| {_cell(was)} | {' | '.join(row)} |" for was, row in zip(counts, rows, strict=True)]
    wrong = [(n, was, name) for was, row in counts.items() for name, n in row.items() if name != was]
    if not wrong:
        return [*lines, "No mistakes."]
    lines += ["| true | predicted | photos |", "|---|---|---|"]
    listed = sorted(wrong, key=lambda mistake: (-mistake[0], mistake[1:]))[:MOST_LISTED]
    return lines + [f"| {_cell(was)} | {_cell(name)} | {n:,} |" for n, was, name in listed]


def _limits(model: ModelSpec) -> list[str]:
    """Return the limits of this model; each line follows from its data or its scores."""
    lines = []
    if model.kind == "class":
        lines.append("- The model predicts one of its classes for any photo, whatever the photo shows.")
    if model.kind == "number":
        low, high = (model.evidence.get("labels", {}).get(name) for name in ("min", "max"))
        lines.append(
            "- The model predicts a number for any photo, whatever the photo shows"
            + (
                f"; it was trained on values from {low:g} to {high:g}, and was not tested beyond them."
                if low is not None
                else "."
            )
        )
    lines.append(
        "- The scores hold for photos like the training photos: the same places, cameras, seasons and framing."
    )
    lines.append("- The network sees only the central square; details of a few pixels are lost in the resize.")
    labels = model.evidence.get("labels", {}) if model.kind != "number" else {}
    few = [f"{name} ({count})" for name, count in labels.items() if count < FEW]
    if few:
        noun = "tags" if model.kind == "multi" else "classes"
        more = f" and {len(few) - MOST_LISTED} more" if len(few) > MOST_LISTED else ""
        lines.append(f"- Fewer than {FEW} training photos for the {noun} {', '.join(few[:MOST_LISTED])}{more}.")
    if any(score["optimistic"] for score in model.scores):
        lines.append("- The scores are optimistic: the parameters were chosen on the photos that are scored.")
    if model.evidence and model.evidence["groups"] is None:
        lines.append(
            "- The photos were treated as independent: several of the same animal, person or place inflate the scores."
        )
    has_probabilities = any(_is_own(score, model) and score["scoring"] in _OF_PROBABILITIES for score in model.scores)
    if model.kind == "class" and not has_probabilities:
        lines.append("- The model returns scores, not probabilities.")
    lines.append(
        "- The weights of the backbone keep their own license and the biases of the data they were trained on."
    )
    return lines


def _cell(text: str) -> str:
    """Return text with escaped pipes, so that it stays within one table cell."""
    return text.replace("|", "\\|")


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _interval(low: float | None, high: float | None) -> str:
    return "" if low is None or high is None else f"{low:.3f} to {high:.3f}"


def count_evidence(question: Task, run: Run, info: LabelSetInfo, best: Result) -> dict[str, Any]:
    """Return counts of the training data and of the mistakes of a model.

    Returns
    -------
    dict
        ``source, photos, unlabelled, groups, folds, test``: of the evaluation. ``labels``: photos per class or tag, or
        ``min, median, max`` of numbers. ``mistakes``: of the best head, ``part`` (out of fold, or the test set if
        there is one), ``photos`` and ``counts``: for classes ``{true: {predicted: photos}}``, for tags
        ``{tag: {"found", "missed", "wrong"}}``; empty for numbers.
    """
    y = question.train.y
    labels: dict[str, Any]
    if question.kind == "number":
        labels = {"min": float(y.min()), "median": float(np.median(y)), "max": float(y.max())}
    elif question.kind == "multi":
        labels = {name: int(count) for name, count in zip(question.classes, y.sum(axis=0), strict=True)}
    else:
        counts = np.bincount(y, minlength=question.n_classes)
        labels = {name: int(count) for name, count in zip(question.classes, counts, strict=True)}
    return {
        "source": info.source,
        "photos": info.n,
        "unlabelled": info.unlabelled,
        "groups": info.groups,
        "folds": info.folds,
        "test": info.test,
        "labels": labels,
        "mistakes": _count_mistakes(question, run, info, best),
    }


def _count_mistakes(question: Task, run: Run, info: LabelSetInfo, best: Result) -> dict[str, Any]:
    if question.kind == "number":
        return {}
    part = OUT_OF_FOLD if info.test is None else ON_TEST
    table = predictions_of(run.predictions, best, part=part)
    counts = (
        tag_counts(table["true"], table["predicted"], question.classes, question.separator)
        if question.kind == "multi"
        else _class_counts(question, table)
    )
    return {"part": part, "photos": len(table), "counts": counts}


def _class_counts(question: Task, table: Any) -> dict[str, dict[str, int]]:
    true_classes, classes = (*question.classes, *question.unknown_classes), question.classes
    counts = confusion_counts(table["true"], table["predicted"], true_classes, classes)
    return {
        was: {name: int(count) for name, count in zip(classes, row, strict=True) if count}
        for was, row in zip(true_classes, counts, strict=True)
        if row.any()
    }
