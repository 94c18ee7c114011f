"""`log_report`: log a report with its parameters and scores to MLflow."""

from __future__ import annotations

import math
import os
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import urlsplit

from pipeline.arguments import check_arguments
from pipeline.errors import ReportError
from pipeline.model import ModelScore
from pipeline.progress import SILENT, Progress
from pipeline.report import load_library
from pipeline.report.html.write import Report
from pipeline.runs import Result, Run
from pipeline.runs.leaderboard import headline_result
from pipeline.studies import Study
from pipeline.studies.results import NO_LAYER, Point

_KEY = re.compile(
    r"[^\w\-. /]", re.ASCII
)  # the characters that MLflow takes in a name, less the colon of Windows' disks


@dataclass(frozen=True)
class TrackedRun:
    """One run in the sense of a tracking server.

    Attributes
    ----------
    name : str
    params : mapping of str to str
    metrics : tuple of (str, float, int)
        Name, value and step: the number of labels for a learning curve, the fold for the score of a fold, else 0.
    tags : mapping of str to str
    """

    name: str
    params: Mapping[str, str]
    metrics: tuple[tuple[str, float, int], ...] = ()
    tags: Mapping[str, str] = field(default_factory=dict)


def tracked_runs(about: Run | ModelScore | Study) -> tuple[TrackedRun, tuple[TrackedRun, ...]]:
    """Return the entry of the whole, and those of its parts: a head on a label set each, or a learning curve each.

    A score of a model has no parts.
    """
    if isinstance(about, ModelScore):
        return _of_score(about), ()
    return _of_study(about) if isinstance(about, Study) else _of_run(about)


def _of_run(run: Run) -> tuple[TrackedRun, tuple[TrackedRun, ...]]:
    whole = TrackedRun(
        name=run.name,
        params=_params(
            {
                "images": run.name,
                "label_sets": ", ".join(dict.fromkeys(info.name for info in run.label_sets)),
                "heads": ", ".join(dict.fromkeys(result.head for result in run.results if not result.null)),
            }
        ),
        metrics=tuple(_best(run)),
        tags={"pipeline": "evaluate", "mlflow.note.content": _paragraphs((*run.verdicts, *run.notes))},
    )
    by_head = groupby(sorted(run.results, key=_head), key=_head)
    return whole, tuple(_of_head(list(results)) for _, results in by_head)


def _head(result: Result) -> tuple[str, str, str, str, str]:
    return result.label_set, result.source, result.cache, result.layer, result.head


def _of_head(results: list[Result]) -> TrackedRun:
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
    return TrackedRun(
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
    """Yield the score of the nested selection or of the best head of each label set."""
    for info in run.label_sets:
        best = headline_result(run.of(info.name, source=info.source))
        if best is None:
            continue
        alone = len(run.label_sets) == 1
        name = info.scoring if alone else f"{info.source}/{info.name}/{info.scoring}"
        yield from _finite(_scores(best, name))


def _of_score(score: ModelScore) -> TrackedRun:
    model = score.about["model"]
    facts = {
        "images": score.name,
        "label_set": score.label_set,
        "model": model["path"],
        "model_sha256": score.about["question"]["model"],
        **{name: model[name] for name in ("backbone", "layer", "head")},
        "n": score.n,
        "interval": "; ".join(dict.fromkeys(interval.method for interval in score.scores)),
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
        (f"{interval.scoring}{of}{end}", value, 0)
        for of, scores in parts
        for interval in scores
        for end, value in (("", interval.value), (".low", interval.low), (".high", interval.high))
    )
    return TrackedRun(
        name=score.name,
        params=_params({**facts, **chosen}),
        metrics=tuple(_finite((*figures, *guesses, *counts))),
        tags={"pipeline": "score", "mlflow.note.content": _paragraphs(score.notes)},
    )


def _of_study(study: Study) -> tuple[TrackedRun, tuple[TrackedRun, ...]]:
    facts = ("label_set", "train", "test", "groups", "backbone", "layer", "head", "scoring", "interval")
    predictions = {verdict.promise: verdict.answer for verdict in study.verdicts}
    figures = (
        (f"{verdict.promise}/{name}", value, 0) for verdict in study.verdicts for name, value in verdict.figures.items()
    )
    words = (
        study.summary,
        *(f"{verdict.promise}: {verdict.answer}. {verdict.text}" for verdict in study.verdicts),
        *study.notes,
    )
    whole = TrackedRun(
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
        tags={"pipeline": "study", **predictions, "mlflow.note.content": _paragraphs(words)},
    )
    by_curve = groupby(sorted(study.points, key=_curve), key=_curve)
    return whole, tuple(_of_curve(study, list(points)) for _, points in by_curve)


def _curve(point: Point) -> tuple[str, str]:
    return point.method, point.layer


def _of_curve(study: Study, points: list[Point]) -> TrackedRun:
    """Return one learning curve: every figure at the number of labels of its training."""
    method, layer = _curve(points[0])
    figures = ("low", "high", "train", "gap", "seconds", "total_seconds", "lead", "lead_low", "lead_high", "per_class")
    metrics = [
        *((study.scoring, point.score, point.labels) for point in points),
        *((f"{study.scoring}.{name}", getattr(point, name), point.labels) for point in points for name in figures),
    ]
    return TrackedRun(
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


EXPERIMENT = "transfer-pipeline"
# The number of values per call and the lengths that MLflow accepts.
_METRICS, _PARAMS = 1000, 100
_PARAM_LENGTH, _TAG_LENGTH = 6000, 5000
_DONE, _FAILED = "FINISHED", "FAILED"


@dataclass(frozen=True)
class LoggedReport:
    """Where a report was logged.

    Attributes
    ----------
    uri : str
        Of the tracking server, without a password.
    experiment : str
    run_id : str
        Of the run that holds the page; its children hold the scores of a head, or a learning curve, each.
    children : int
    """

    uri: str
    experiment: str
    run_id: str
    children: int


def load_mlflow() -> ModuleType:
    """Return MLflow, without its prints and its telemetry.

    Raises
    ------
    ReportError
        It is not installed.
    """
    with _mlflow_settings():
        return load_library("mlflow")


@check_arguments
def log_report(report: Report, uri: str, *, experiment: str = EXPERIMENT, progress: Progress = SILENT) -> LoggedReport:
    """Log a run, a score or a study to MLflow: parameters, scores with their intervals, and the page.

    The whole becomes one run of MLflow with the page, and each head on each label set, or each learning curve, a child
    of it, so that MLflow's own tables and charts compare them; a score has no children. Logging again makes another
    run, as MLflow does.

    Parameters
    ----------
    report : Report
        What `write_report` returned.
    uri : str
        Of the tracking server or store, e.g. ``http://127.0.0.1:5000`` or ``sqlite:///mlflow.db``.
    experiment : str
        Made where there is none of this name.
    progress : Progress

    Returns
    -------
    LoggedReport

    Raises
    ------
    ReportError
        MLflow is not installed, or cannot be reached, or refuses; a run that was begun is marked as failed.
    """
    whole, parts = tracked_runs(report.about)
    with _mlflow_settings(), _raise_report_errors(uri):
        client = load_mlflow().MlflowClient(tracking_uri=uri)
        place = _experiment(client, experiment)
        run_id = _log(client, place, whole, report.path)
        try:
            for number, part in enumerate(parts, 1):
                _log(client, place, part, parent=run_id)
                progress.advance("logging", number, len(parts))
        except BaseException:
            _end(client, run_id, _FAILED)
            raise
        client.set_terminated(run_id, _DONE)
    return LoggedReport(without_password(uri), experiment, run_id, len(parts))


def without_password(uri: str) -> str:
    """Return a URI without the name and password that it may hold."""
    host = urlsplit(uri).netloc
    return uri.replace(host, host.rpartition("@")[2], 1) if "@" in host else uri


def _experiment(client: Any, name: str) -> str:
    found = client.get_experiment_by_name(name)
    return found.experiment_id if found is not None else client.create_experiment(name)


def _log(client: Any, experiment: str, entry: TrackedRun, page: Path | None = None, parent: str | None = None) -> str:
    """Log one entry and return its run's id; the run of a page stays open for its children."""
    from mlflow.entities import Metric, Param, RunTag

    tags = entry.tags if parent is None else {**entry.tags, "mlflow.parentRunId": parent}
    run = client.create_run(experiment, run_name=entry.name, tags={})
    run_id, now = run.info.run_id, run.info.start_time
    metrics = [Metric(name, value, now, step) for name, value, step in entry.metrics]
    params = [Param(name, _cut(value, _PARAM_LENGTH)) for name, value in entry.params.items()]
    try:
        client.log_batch(run_id, tags=[RunTag(name, _cut(value, _TAG_LENGTH)) for name, value in tags.items()])
        for start in range(0, len(params), _PARAMS):
            client.log_batch(run_id, params=params[start : start + _PARAMS])
        for start in range(0, len(metrics), _METRICS):
            client.log_batch(run_id, metrics=metrics[start : start + _METRICS])
        if page is not None:
            client.log_artifact(run_id, str(page))
        else:
            client.set_terminated(run_id, _DONE)
    except BaseException:
        _end(client, run_id, _FAILED)
        raise
    return run_id


def _end(client: Any, run_id: str, status: str) -> None:
    with suppress(Exception):  # the first error is the one that is raised
        client.set_terminated(run_id, status)


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"


@contextmanager
def _mlflow_settings() -> Iterator[None]:
    """Keep MLflow's words off the terminal, what is done here from its maker, and a mistyped URI from a long wait."""
    settings = {
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
        "MLFLOW_CONFIGURE_LOGGING": "false",
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3",  # 14 seconds of trying; seven, its own, take minutes
    }
    added = {name: value for name, value in settings.items() if name not in os.environ}
    os.environ.update(added)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # between MLflow and its database's library
            yield
    finally:
        for name in added:
            os.environ.pop(name, None)


@contextmanager
def _raise_report_errors(uri: str) -> Iterator[None]:
    """Raise one error for any error of MLflow, its database or the network."""
    try:
        yield
    except ReportError:
        raise
    except Exception as error:  # each kind of store has its own
        text = " ".join(str(error).split()).replace(uri, without_password(uri))
        raise ReportError(
            f"{without_password(uri)}: expected to log to MLflow here, got {type(error).__name__}: {_cut(text, 300)}",
            "--mlflow sqlite:///mlflow.db, or the address of a server: mlflow server --port 5000",
        ) from error
