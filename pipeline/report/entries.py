"""`Entry`: what a tracking server keeps of a run, a score or a study, one a head or a learning curve. Pure data."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

from pipeline.model import ModelScore
from pipeline.runs import Run
from pipeline.runs.run import CHOSEN, Result
from pipeline.studies import Study
from pipeline.studies.results import NO_LAYER, Point

_KEY = re.compile(
    r"[^\w\-. /]", re.ASCII
)  # the characters that MLflow takes in a name, less the colon of Windows' disks


@dataclass(frozen=True)
class Entry:
    """One run in the sense of a tracking server.

    Attributes
    ----------
    name : str
    params : mapping of str to str
    metrics : tuple of (str, float, int)
        Name, value and step: of a learning curve the labels learned from, of a fold's score its number, else 0.
    tags : mapping of str to str
    """

    name: str
    params: Mapping[str, str]
    metrics: tuple[tuple[str, float, int], ...] = ()
    tags: Mapping[str, str] = field(default_factory=dict)


def entries(about: Run | ModelScore | Study) -> tuple[Entry, tuple[Entry, ...]]:
    """Return the entry of the whole, and those of its parts: a head on a label set each, or a learning curve each.

    A score of a model has no parts.
    """
    if isinstance(about, ModelScore):
        return _of_score(about), ()
    return _of_study(about) if isinstance(about, Study) else _of_run(about)


def _of_run(run: Run) -> tuple[Entry, tuple[Entry, ...]]:
    whole = Entry(
        name=run.name,
        params=_params(
            {
                "images": run.name,
                "label_sets": ", ".join(dict.fromkeys(info.name for info in run.label_sets)),
                "heads": ", ".join(dict.fromkeys(one.head for one in run.results if not one.null)),
            }
        ),
        metrics=tuple(_best(run)),
        tags={"pipeline": "evaluate", "mlflow.note.content": _paragraphs((*run.verdicts, *run.notes))},
    )
    by_head = groupby(sorted(run.results, key=_head), key=_head)
    return whole, tuple(_of_head(list(results)) for _, results in by_head)


def _head(result: Result) -> tuple[str, str, str, str, str]:
    return result.label_set, result.source, result.cache, result.layer, result.head


def _of_head(results: list[Result]) -> Entry:
    """Return one head on one label set, with its scores under every scoring."""
    first = results[0]
    facts = {
        "label_set": first.label_set,
        "images": first.source,
        "backbone": first.backbone,
        "layer": first.layer,
        "head": first.head,
        "n": first.n,
        "nested": first.nested,
        "interval": "; ".join(dict.fromkeys(result.method for result in results if result.method)),
        "params_of": first.params_of,
    }
    # A head's own parameter keeps its name unless a fact has it.
    chosen = {f"{first.head}.{name}" if name in facts else name: value for name, value in first.params.items()}
    metrics = [*(metric for result in results for metric in _scores(result)), ("seconds", first.seconds, 0)]
    return Entry(
        name=" · ".join((first.label_set, first.head, first.layer)),
        params=_params({**facts, **chosen}),
        metrics=tuple(_finite(metrics)),
        tags=_tags({"null": first.null, "tied": first.tied, "warnings": _paragraphs(first.warnings) or None}),
    )


def _scores(result: Result, name: str | None = None) -> Iterator[tuple[str, float | None, int]]:
    """Give a score with its intervals, and of each fold."""
    name = name or result.scoring
    yield name, result.mean, 0
    yield f"{name}.low", result.low, 0
    yield f"{name}.high", result.high, 0
    for part in ("test", "test_low", "test_high", "test_apart", "test_apart_low", "test_apart_high"):
        yield f"{name}.{part}", getattr(result, part), 0
    for fold, score in enumerate(result.fold_scores):
        yield f"{name}.fold", score, fold


def _best(run: Run) -> Iterator[tuple[str, float, int]]:
    """Give the score of the best head of each label set, or of the procedure that chose it where it was scored."""
    for info in run.label_sets:
        rated = [one for one in run.of(info.name, source=info.source) if not one.null]
        best = next((one for one in rated if one.head == CHOSEN), rated[0] if rated else None)
        if best is None:
            continue
        alone = len(run.label_sets) == 1
        name = info.scoring if alone else f"{info.source}/{info.name}/{info.scoring}"
        yield from _finite(_scores(best, name))


def _of_score(score: ModelScore) -> Entry:
    model = score.about["model"]
    facts = {
        "images": score.name,
        "label_set": score.label_set,
        "model": model["path"],
        "model_sha256": score.about["question"]["model"],
        **{name: model[name] for name in ("backbone", "layer", "head")},
        "n": score.n,
        "interval": "; ".join(dict.fromkeys(one.method for one in score.scores)),
    }
    chosen = {f"{model['head']}.{name}": value for name, value in model.get("params", {}).items()}
    counts = (
        ("unfamiliar", score.unfamiliar, 0),
        ("learned_from", len(score.seen_in_training), 0),
        ("of_unknown_classes", sum(score.unknown_classes.values()), 0),
    )
    parts = (("", score.scores), (".apart", score.scores_apart))
    guesses = ((f"{scoring}.guessing", value, 0) for scoring, value in score.guessing.items())
    figures = (
        (f"{one.scoring}{of}{end}", value, 0)
        for of, scores in parts
        for one in scores
        for end, value in (("", one.value), (".low", one.low), (".high", one.high))
    )
    return Entry(
        name=score.name,
        params=_params({**facts, **chosen}),
        metrics=tuple(_finite((*figures, *guesses, *counts))),
        tags={"pipeline": "score", "mlflow.note.content": _paragraphs(score.notes)},
    )


def _of_study(study: Study) -> tuple[Entry, tuple[Entry, ...]]:
    facts = ("label_set", "train", "test", "groups", "backbone", "layer", "head", "scoring", "interval")
    answers = {verdict.promise: verdict.answer for verdict in study.verdicts}
    figures = (
        (f"{verdict.promise}/{name}", value, 0) for verdict in study.verdicts for name, value in verdict.figures.items()
    )
    words = (study.summary, *(f"{one.promise}: {one.answer}. {one.text}" for one in study.verdicts), *study.notes)
    whole = Entry(
        name=study.name,
        params=_params(
            {
                "images": study.name,
                **{name: getattr(study, name) for name in facts},
                "classes": len(study.classes),
                **{f"budget {name}": text for name, text in study.budget.items()},
            }
        ),
        metrics=tuple(_finite((*figures, ("seconds", study.seconds, 0)))),
        tags={"pipeline": "study", **answers, "mlflow.note.content": _paragraphs(words)},
    )
    by_curve = groupby(sorted(study.points, key=_curve), key=_curve)
    return whole, tuple(_of_curve(study, list(points)) for _, points in by_curve)


def _curve(point: Point) -> tuple[str, str]:
    return point.method, point.layer


def _of_curve(study: Study, points: list[Point]) -> Entry:
    """Return one learning curve: every figure at the number of labels that it was learned from."""
    method, layer = _curve(points[0])
    figures = ("low", "high", "train", "gap", "seconds", "total_seconds", "lead", "lead_low", "lead_high", "per_class")
    metrics = [
        *((study.scoring, point.score, point.labels) for point in points),
        *((f"{study.scoring}.{name}", getattr(point, name), point.labels) for point in points for name in figures),
    ]
    return Entry(
        name=method if layer == NO_LAYER else f"{method} · {layer}",
        params=_params({"method": method, "layer": layer or "none", "draws": points[-1].draws}),
        metrics=tuple(_finite(metrics)),
        tags={},
    )


def _finite(metrics: Iterable[tuple[str, float | None, int]]) -> Iterator[tuple[str, float, int]]:
    """Give the metrics that there are: a score that cannot be had is left out, not logged as a number."""
    for name, value, step in metrics:
        if value is not None and math.isfinite(value):
            yield _KEY.sub("_", name), float(value), step


def _params(values: Mapping[str, Any]) -> dict[str, str]:
    return {_KEY.sub("_", name): str(value) for name, value in values.items() if value is not None}


def _tags(values: Mapping[str, Any]) -> dict[str, str]:
    return {name: str(value) for name, value in values.items() if value is not None}


def _paragraphs(sentences: Iterable[str]) -> str:
    return "\n\n".join(sentences)
