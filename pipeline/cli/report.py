"""`pipeline report`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from pipeline.cli import options as o
from pipeline.cli.place import refuse_unwritable
from pipeline.cli.terminal import Terminal

RunArgument = Annotated[
    str,
    typer.Argument(metavar="RUN", help="The folder that `pipeline evaluate`, `score` or `study` kept its results in."),
]
Photos = Annotated[
    str | None,
    typer.Option(
        "--photos", metavar="DIR", help="Where the photos are now.", show_default="where they were when extracted"
    ),
]
ReportFile = Annotated[
    str | None, typer.Option("--out", metavar="FILE", help="The page to write.", show_default="RUN/NAME-report.html")
]
Tracking = Annotated[
    str | None,
    typer.Option(
        "--mlflow", metavar="URI", help="Log parameters, scores and the page to MLflow, e.g. sqlite:///mlflow.db."
    ),
]
Experiment = Annotated[str, typer.Option("--experiment", metavar="NAME", help="Of MLflow, to log to.")]


def command(
    run: RunArgument,
    photos: Photos = None,
    out: ReportFile = None,
    mlflow: Tracking = None,
    experiment: Experiment = "transfer-pipeline",
    as_json: o.Json = False,
    quiet: o.Quiet = False,
) -> None:
    """Write one page about a run, a score or a study: scores, mistakes, a map of the photos, doubtful labels."""
    from pipeline.report.html.write import open_run, write_report
    from pipeline.report.mlflow import load_mlflow, log_report
    from pipeline.runs.directory import report_name

    if mlflow:
        load_mlflow()  # if it is not there, better said now than after the page
    about = open_run(run)
    place = Path(out) if out else Path(run) / report_name(about.name)
    refuse_unwritable(place, "the report")
    with Terminal(as_json=as_json, quiet=quiet) as terminal:
        made = write_report(about, out=place, photos=photos, progress=terminal)
        logged = log_report(made, mlflow, experiment=experiment, progress=terminal) if mlflow else None
    what = {"Run": "run", "ModelScore": "score"}.get(about.__class__.__name__, "study")
    if as_json:
        terminal.object(
            {
                "report": str(made.path),
                "of": what,
                "name": about.name,
                "bytes": made.bytes,
                "mlflow": logged and asdict(logged),
            }
        )
        return
    terminal.result(str(made.path))
    terminal.say(f"{made.bytes / 1e6:.1f} MB, one file that asks for nothing from anywhere")
    if logged is not None:
        parts = f" with {logged.children} runs in it" if logged.children else ""
        terminal.say(f"logged to {logged.uri}, experiment {logged.experiment}, as run {logged.run_id}{parts}")
    terminal.next("python", "-m", "webbrowser", str(made.path))
