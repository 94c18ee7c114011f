"""`log_report`: a report, its parameters and its scores kept by MLflow, through MLflow's own client."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import urlsplit

from pipeline.arguments import check_arguments
from pipeline.errors import ReportError
from pipeline.progress import SILENT, Progress
from pipeline.report.entries import Entry, entries
from pipeline.report.needs import needed
from pipeline.report.writing import Report

EXPERIMENT = "transfer-pipeline"
# What MLflow takes at once, and the lengths that it takes.
_METRICS, _PARAMS = 1000, 100
_PARAM_LENGTH, _TAG_LENGTH = 6000, 5000
_DONE, _FAILED = "FINISHED", "FAILED"


@dataclass(frozen=True)
class Logged:
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
    """Return MLflow, which neither prints nor reports on whoever runs it.

    Raises
    ------
    ReportError
        It is not installed.
    """
    with _quiet():
        return needed("mlflow")


@check_arguments
def log_report(report: Report, uri: str, *, experiment: str = EXPERIMENT, progress: Progress = SILENT) -> Logged:
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
    Logged

    Raises
    ------
    ReportError
        MLflow is not installed, or cannot be reached, or refuses; a run that was begun is marked as failed.
    """
    whole, parts = entries(report.about)
    with _quiet(), _refusals(uri):
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
    return Logged(without_password(uri), experiment, run_id, len(parts))


def without_password(uri: str) -> str:
    """Return a URI without the name and password that it may hold."""
    host = urlsplit(uri).netloc
    return uri.replace(host, host.rpartition("@")[2], 1) if "@" in host else uri


def _experiment(client: Any, name: str) -> str:
    found = client.get_experiment_by_name(name)
    return found.experiment_id if found is not None else client.create_experiment(name)


def _log(client: Any, experiment: str, entry: Entry, page: Path | None = None, parent: str | None = None) -> str:
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
    with suppress(Exception):  # what went wrong first is what is told
        client.set_terminated(run_id, status)


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep MLflow's words off the terminal, what is done here from its maker, and a mistyped URI from a long wait."""
    settings = {
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
        "MLFLOW_CONFIGURE_LOGGING": "false",
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3",  # 14 seconds of trying; seven, its own, take minutes
    }
    ours = {name: value for name, value in settings.items() if name not in os.environ}
    os.environ.update(ours)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # between MLflow and its database's library
            yield
    finally:
        for name in ours:
            os.environ.pop(name, None)


@contextmanager
def _refusals(uri: str) -> Iterator[None]:
    """Tell as one error whatever MLflow, its database or the network raise."""
    try:
        yield
    except ReportError:
        raise
    except Exception as error:  # each kind of store has its own
        said = " ".join(str(error).split()).replace(uri, without_password(uri))
        raise ReportError(
            f"{without_password(uri)}: expected to log to MLflow here, got {type(error).__name__}: {_cut(said, 300)}",
            "--mlflow sqlite:///mlflow.db, or the address of a server: mlflow server --port 5000",
        ) from error
