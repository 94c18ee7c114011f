"""`pipeline predict`."""

from __future__ import annotations

import json
import shlex
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.cli import options as o
from pipeline.cli.console import Console, RightAligned
from pipeline.errors import ModelError
from pipeline.files import atomic_path, check_output_path

if TYPE_CHECKING:
    import pandas as pd


MOST_FAILED = 5  # of the images without an answer
FORMATS = ("csv", "parquet", "jsonl")
FLOATS = "%.6g"


def predict_command(
    model: o.ModelArgument,
    data: o.DataArguments,
    top: o.Top = 3,
    neighbours: o.Neighbours = 0,
    out: o.AnswerFile = None,
    format: o.AnswerFormat = None,
    csv: o.CsvCells = "safe",
    cache: o.TrainingCache = "features_cache",
    id_column: o.Id = None,
    root: o.Root = None,
    batch_size: o.BatchSize = None,
    device: o.Device = "auto",
    n_jobs: o.Jobs = None,
    dask: o.Dask = None,
    as_json: o.Json = False,
    quiet: o.Quiet = False,
) -> None:
    """Answer for every photo, one row an input, as CSV: id, label, probability, the next likeliest, unfamiliar, error.

    A photo is unfamiliar that lies further from the training photos than 99% of them lie from one another.
    """
    from pipeline.images.table import check_csv
    from pipeline.model import Model

    kind = _format_of(out, format)
    check_csv(csv)
    if out is not None:
        check_output_path(out, "the answers")
    with Console(as_json=as_json, quiet=quiet) as terminal:
        table = Model.open(model).predict(
            data[0] if len(data) == 1 else data,
            top=top,
            neighbours=neighbours,
            cache=cache,
            id_column=id_column,
            root=root,
            batch_size=batch_size,
            device=device,
            n_jobs=n_jobs,
            dask=dask,
            progress=terminal,
        )
    without = table[table["error"] != ""]
    failed = len(without)
    if out is not None:
        _write_predictions(table, Path(out), kind, csv)
    if as_json:
        said = {"images": len(table), "failed": failed, "out": out}
        answers = {} if out is not None else {"predictions": json.loads(table.to_json(orient="records"))}
        terminal.object({**said, **answers})
    elif out is None:
        terminal.result(_as_text(table, kind, csv).rstrip("\n"))
    else:
        terminal.result(out)
    for name, error in zip(without["id"][:MOST_FAILED], without["error"][:MOST_FAILED], strict=True):
        terminal.say(f"no answer: {name}: {error}")
    if failed > MOST_FAILED:
        terminal.say(f"no answer: {failed - MOST_FAILED:,} more; the column `error` says why")
    terminal.say(f"{len(table):,} {'image' if len(table) == 1 else 'images'}, {failed:,} without an answer")


def _format_of(out: str | None, asked: str | None) -> str:
    """Return the format of the answers: the one asked for, or that of the file's ending."""
    if asked is not None:
        if asked not in FORMATS:
            raise ModelError(f"--format: expected one of {', '.join(FORMATS)}, got {asked!r}", "--format csv")
        if asked == "parquet" and out is None:
            raise ModelError(
                "--format parquet: expected a file to write, got none: it is no text", "--out answers.parquet"
            )
        return asked
    if out is None:
        return "csv"
    ending = Path(out).suffix.removeprefix(".")
    if ending not in FORMATS:
        raise ModelError(
            f"--out {out}: expected a file ending in {', '.join(f'.{name}' for name in FORMATS)}, "
            f"got {Path(out).suffix or 'no ending'}",
            "--out predictions.csv, or name the format with --format",
        )
    return ending


def _as_text(table: pd.DataFrame, kind: str, csv: str) -> str:
    from pipeline.images.table import csv_text

    if kind == "jsonl":
        return table.to_json(orient="records", lines=True)
    return csv_text(table, float_format=FLOATS, csv=csv)


def _write_predictions(table: pd.DataFrame, path: Path, kind: str, csv: str = "safe") -> None:
    """Write the answers whole or not at all."""
    try:
        with atomic_path(path) as made:
            if kind == "parquet":
                table.to_parquet(made, index=False)
            else:
                made.write_text(_as_text(table, kind, csv), encoding="utf-8", newline="")
    except OSError as error:
        raise ModelError(
            f"{path}: expected to write the answers here, got {error.strerror or error}",
            "give a file that you may write with --out",
        ) from error


def score_command(
    model: o.ModelArgument,
    data: o.DataArgument,
    labels: o.Labels = None,
    id_column: o.Id = None,
    root: o.Root = None,
    label_level: o.LabelLevel = None,
    column: o.OneColumn = None,
    missing: o.Missing = None,
    groups: o.Groups = None,
    cache: o.Cache = "features_cache",
    out: o.ScoreFolder = None,
    batch_size: o.BatchSize = None,
    device: o.Device = "auto",
    n_jobs: o.Jobs = None,
    dask: o.Dask = None,
    random_state: o.Seed = 0,
    as_json: o.Json = False,
    quiet: o.Quiet = False,
) -> None:
    """Score a model on labelled photos it has not seen, with intervals; classes it never saw count as wrong."""
    from pipeline.cli.tables import LOW_SCORES, SHORT
    from pipeline.model import Model

    if out:
        check_output_path(out, "the score")
    with Console(as_json=as_json, quiet=quiet) as terminal:
        found = Model.open(model).score(
            data,
            labels,
            column=column,
            missing=missing or (),
            groups=groups,
            id_column=id_column,
            root=root,
            label_level=label_level,
            cache=cache,
            out=out,
            batch_size=batch_size,
            device=device,
            n_jobs=n_jobs,
            dask=dask,
            random_state=random_state,
            progress=terminal,
        )
    if as_json:
        terminal.object({**({"run": str(found.folder)} if out else {}), **found.as_dict()})
        return
    for note in found.notes:
        terminal.note(note)
    # Where the model learned from some of the photos, its scores without them stand below those with them.
    parts = [("", found.scores), (", not learned from", found.scores_apart)]
    rows = [
        [
            SHORT.get(s.scoring, s.scoring) + of,
            f"{s.value:.3f}",
            f"{s.low:.3f} to {s.high:.3f}",
            f"{found.guessing[s.scoring]:.3f}" if not of else "",
            f"{s.n:,}",
            s.method,
        ]
        for of, scores in parts
        for s in scores
    ]
    columns = [
        found.label_set,
        RightAligned("score"),
        RightAligned("95%"),
        RightAligned("guessing"),
        RightAligned("n"),
        "interval",
    ]
    terminal.table(columns, rows)
    first = found.scores[0] if found.scores else None
    if first is not None and first.low <= found.guessing[first.scoring]:
        terminal.say(LOW_SCORES)
    if out:
        terminal.say(f"kept in {found.folder}/: every answer in predictions.parquet, the scores in scores.csv")
        terminal.next("pipeline", "report", str(found.folder))


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
    str | None, typer.Option("--out", metavar="FILE", help="The page to write.", show_default="RUN/report.html")
]
Tracking = Annotated[
    str | None,
    typer.Option(
        "--mlflow", metavar="URI", help="Log parameters, scores and the page to MLflow, e.g. sqlite:///mlflow.db."
    ),
]
Experiment = Annotated[str, typer.Option("--experiment", metavar="NAME", help="Of MLflow, to log to.")]


def report_command(
    run: RunArgument,
    photos: Photos = None,
    out: ReportFile = None,
    mlflow: Tracking = None,
    experiment: Experiment = "transfer-pipeline",
    as_json: o.Json = False,
    quiet: o.Quiet = False,
) -> None:
    """Write one page about a run, a score or a study: scores, mistakes, a map of the photos, doubtful labels."""
    from pipeline.report.tracking import load_mlflow, log_report
    from pipeline.report.writing import open_run, write_report
    from pipeline.runs.directory import REPORT

    if mlflow:
        load_mlflow()  # if it is not there, better said now than after the page
    about = open_run(run)
    place = Path(out) if out else Path(run) / REPORT
    check_output_path(place, "the report")
    with Console(as_json=as_json, quiet=quiet) as terminal:
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


def export_command(
    model: o.ModelArgument,
    out: o.ExportPlace,
    format: o.ExportFormat = "onnx",
    check: o.Check = None,
    as_json: o.Json = False,
    quiet: o.Quiet = False,
) -> None:
    """Write backbone and head as one model that runs elsewhere, checked against `pipeline predict` on real photos."""
    from pipeline.model import Model

    check_output_path(out, "the exported model")
    with Console(as_json=as_json, quiet=quiet) as terminal:
        exported = Model.open(model).export(out, format=format, check=check, progress=terminal)
    for proof in exported.proofs:
        terminal.say(proof.text)
    if as_json:
        terminal.object(exported.as_dict())
        return
    terminal.result(out)
    if format == "torch":
        terminal.say(f"to try it: python {shlex.quote(f'{out}/model.py')} new.jpg")


def serve_command(
    model: o.ModelArgument,
    host: o.Host = "127.0.0.1",
    port: o.Port = 8000,
    token_file: o.TokenFile = None,
    cache: o.TrainingCache = "features_cache",
    device: o.Device = "auto",
    n_jobs: o.Jobs = None,
    as_json: o.Json = False,
    quiet: o.Quiet = False,
) -> None:
    """Answer over HTTP, with a page to drop photos on, until Ctrl-C; prints its address when it listens."""
    from pipeline.server import serve

    with Console(as_json=as_json, quiet=quiet) as terminal:

        def ready(url: str) -> None:
            if as_json:
                terminal.object({"url": url, "model": model})
            else:
                terminal.result(url)
            sys.stdout.flush()
            terminal.say("photos go on that page; programs find the interface at /docs; Ctrl-C ends it")

        serve(
            model,
            host=host,
            port=port,
            token_file=token_file,
            cache=cache,
            device=device,
            n_jobs=n_jobs,
            ready=ready,
            progress=terminal,
        )
