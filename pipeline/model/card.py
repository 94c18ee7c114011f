"""The README of a model folder: a model card, in the layout that Hugging Face's hub reads.

Between two lines of dashes stands YAML for machines, below it Markdown for people. JSON is YAML too, so every value is
written as JSON: no text of a person's (a class called "no", a colon in a name) can be taken for something else.
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
FEW = 20  # photos of a class: fewer are worth a warning
WIDEST = 20  # classes in a confusion matrix; of more than that the commonest mistakes are listed
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
        f"Looks at a photo and answers `{model.label_set}`: {_answers(model)}.",
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
    """Return a section with an empty line after it; nothing where there is nothing to say."""
    return [f"## {title}", "", *lines, ""] if lines else []


def _answers(model: ModelSpec) -> str:
    listed = f"{len(model.classes)} {'tags' if model.kind == 'multi' else 'classes'}: {', '.join(model.classes)}"
    return {"class": f"one of {listed}", "multi": f"any of {listed}", "number": "a number"}[model.kind]


def _front_matter(model: ModelSpec, name: str) -> Iterator[str]:
    """Give the lines of the YAML, one entry a line."""
    own = [score for score in model.scores if _is_own(score, model)]
    task = _TASKS[model.kind]
    entries: dict[str, Any] = {"library_name": LIBRARY}
    if model.kind != "number":  # the hub knows no task of numbers
        entries["pipeline_tag"] = task
    entries["tags"] = ["transfer-learning", "frozen-backbone", model.backbone.name, model.head]
    entries["metrics"] = list(dict.fromkeys(str(score["scoring"]) for score in own))
    dataset: dict[str, Any] = {"name": model.evidence.get("source") or "photos", "type": "images"}
    results: list[dict[str, Any]] = []
    for split, value, low, high in (("out of fold", "mean", "low", "high"), ("test", "test", "test_low", "test_high")):
        metrics = [_metric(score, value, low, high) for score in own if score[value] is not None]
        if metrics:
            task_of = {"type": task, "name": model.label_set}
            results.append({"task": task_of, "dataset": {**dataset, "split": split}, "metrics": metrics})
    entries["model-index"] = [{"name": name, "results": results}]
    for key, said in entries.items():
        yield f"{key}: {json.dumps(said, ensure_ascii=False, allow_nan=False)}"


def _metric(score: Mapping[str, Any], value: str, low: str, high: str) -> dict[str, Any]:
    interval = _interval(score[low], score[high])
    optimistic = value == "mean" and score["optimistic"]
    said = f"{score['scoring']}{', optimistic' if optimistic else ''}{f', 95% interval {interval}' if interval else ''}"
    return {"type": score["scoring"], "value": score[value], "name": said}


def _data(model: ModelSpec) -> list[str]:
    known = model.evidence
    if not known:
        return [f"- {len(model.training_digests):,} photos"]
    groups = "" if known["groups"] is None else f", in {known['groups']:,} groups that stay on one side of every split"
    lines = [f"- `{known['source']}`: {known['photos']:,} labelled photos{groups}"]
    if known["unlabelled"]:
        count = known["unlabelled"]
        lines.append(f"- without a label, and left out: {count:,} {'photo' if count == 1 else 'photos'}")
    if known["test"] is not None:
        lines.append(f"- {known['test']:,} photos of a fixed test set, not learned from")
    labels = known["labels"]
    if model.kind == "number":
        lines.append(f"- values from {labels['min']:g} to {labels['max']:g}, half of them below {labels['median']:g}")
        return lines
    head = ["", f"| {'tag' if model.kind == 'multi' else 'class'} | photos |", "|---|---|"]
    return [*lines, *head, *(f"| {_cell(name)} | {count:,} |" for name, count in labels.items())]


def _details(model: ModelSpec) -> list[str]:
    params = ", ".join(f"{key} = {value}" for key, value in model.params.items()) or "none chosen"
    how = model.backbone.preprocessing
    return [
        f"- backbone `{model.backbone.name}`, weights `{model.backbone.weights}`, frozen; features of layer"
        f" `{model.layer}`",
        f"- head `{model.head}` ({params}), trained on {len(model.training_digests):,} photos",
        f"- a photo is resized to {how.resize} pixels on its short side; its centre {how.crop} x {how.crop} is seen",
    ]


def _scores(model: ModelSpec) -> list[str]:
    return [
        _how(model),
        "",
        "| features | head | scoring | score | 95% interval | on the test set |",
        "|---|---|---|---|---|---|",
        *(_row(score) for score in model.scores if _told(score, model)),
    ]


def _how(model: ModelSpec) -> str:
    if any(score["optimistic"] for score in model.scores):
        return "Cross-validation; the parameters were chosen on the very photos that are scored, which is optimistic."
    return "Nested cross-validation: no photo was scored by a head that had seen it, or whose parameters had."


def _is_own(score: Mapping[str, Any], model: ModelSpec) -> bool:
    return (score["head"], score["layer"], score["backbone"]) == (model.head, model.layer, model.backbone.name)


def _told(score: Mapping[str, Any], model: ModelSpec) -> bool:
    """Whether a score is the model's own, the whole choice's or a null's; the heads it beat are in the record."""
    return _is_own(score, model) or score["null"] or score["head"] == CHOSEN


def _row(score: Mapping[str, Any]) -> str:
    head = "best of several, chosen in every fold" if score["head"] == CHOSEN else score["head"]
    mark = " (optimistic)" if score["optimistic"] and score["head"] != CHOSEN else ""
    interval, of_test = _interval(score["low"], score["high"]), _interval(score["test_low"], score["test_high"])
    test = f"{_number(score['test'])} ({of_test})" if of_test else _number(score["test"])
    return f"| {score['layer']} | {head} | {score['scoring']} | {_number(score['mean'])}{mark} | {interval} | {test} |"


def _mistakes_title(model: ModelSpec) -> str:
    return "Tags found and missed" if model.kind == "multi" else "Confusion"


def _mistakes(model: ModelSpec) -> list[str]:
    mistakes = model.evidence.get("mistakes")
    if not mistakes:
        return []
    of = "the test set" if mistakes["part"] == "test" else "the folds that each photo was left out of"
    counts: Mapping[str, Mapping[str, int]] = mistakes["counts"]
    lines = [f"Of {mistakes['photos']:,} photos of {of}:", ""]
    if model.kind == "multi":
        lines += ["| tag | found | missed | said where it is not |", "|---|---|---|---|"]
        return lines + [
            f"| {_cell(t)} | {n['found']:,} | {n['missed']:,} | {n['wrong']:,} |" for t, n in counts.items()
        ]
    if len(model.classes) <= WIDEST:
        said = model.classes
        lines += [f"| is \\ said | {' | '.join(map(_cell, said))} |", "|---|" + "---|" * len(said)]
        rows = ([f"{row.get(name, 0):,}" for name in said] for row in counts.values())
        return lines + [f"| {_cell(was)} | {' | '.join(row)} |" for was, row in zip(counts, rows, strict=True)]
    wrong = [(n, was, name) for was, row in counts.items() for name, n in row.items() if name != was]
    if not wrong:
        return [*lines, "No mistake."]
    lines += ["| is | said | times |", "|---|---|---|"]
    listed = sorted(wrong, key=lambda one: (-one[0], one[1:]))[:MOST_LISTED]
    return lines + [f"| {_cell(was)} | {_cell(name)} | {n:,} |" for n, was, name in listed]


def _limits(model: ModelSpec) -> list[str]:
    """Return what a reader should know before trusting it; each line follows from what is known of this model."""
    lines = []
    if model.kind == "class":
        lines.append("- It names one of its classes for any photo, whatever is on it.")
    if model.kind == "number":
        low, high = (model.evidence.get("labels", {}).get(name) for name in ("min", "max"))
        lines.append(
            "- It gives a number for any photo, whatever is on it"
            + (f"; it learned from {low:g} to {high:g}, and beyond that nothing is known." if low is not None else ".")
        )
    lines.append("- The scores are about photos like those it learned from: same places, cameras, seasons and framing.")
    lines.append("- What lies outside the centre square, or is a few pixels large in it, is not seen.")
    labels = model.evidence.get("labels", {}) if model.kind != "number" else {}
    few = [f"{name} ({count})" for name, count in labels.items() if count < FEW]
    if few:
        what = "tags" if model.kind == "multi" else "classes"
        more = f" and {len(few) - MOST_LISTED} more" if len(few) > MOST_LISTED else ""
        lines.append(
            f"- Few photos to learn from, fewer than {FEW}, for the {what} {', '.join(few[:MOST_LISTED])}{more}."
        )
    if any(score["optimistic"] for score in model.scores):
        lines.append("- Its scores are optimistic: the parameters were chosen on the photos that are scored.")
    if model.evidence and model.evidence["groups"] is None:
        lines.append(
            "- Photos were taken as independent: several of one animal, person or place would flatter the scores."
        )
    probable = any(_is_own(score, model) and score["scoring"] in _OF_PROBABILITIES for score in model.scores)
    if model.kind == "class" and not probable:
        lines.append("- It gives scores, not probabilities.")
    lines.append("- The weights of the backbone keep their own licence, and bring along what they learned from.")
    return lines


def _cell(text: str) -> str:
    """Return a text that stays within a cell of a table."""
    return text.replace("|", "\\|")


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _interval(low: float | None, high: float | None) -> str:
    return "" if low is None or high is None else f"{low:.3f} to {high:.3f}"


def count_evidence(question: Task, run: Run, info: LabelSetInfo, best: Result) -> dict[str, Any]:
    """Return what is known of the data and the mistakes of a model.

    Returns
    -------
    dict
        ``source, photos, unlabelled, groups, folds, test``: of the evaluation. ``labels``: photos by class or tag, or
        ``min, median, max`` of numbers. ``mistakes``: of the best head, ``part`` (out of fold, or the test set where
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
    true, said = (*question.classes, *question.unknown_classes), question.classes
    counts = confusion_counts(table["true"], table["predicted"], true, said)
    return {
        was: {name: int(count) for name, count in zip(said, row, strict=True) if count}
        for was, row in zip(true, counts, strict=True)
        if row.any()
    }
