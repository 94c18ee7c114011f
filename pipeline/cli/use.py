"""The commands that use a model or a run: `predict`, `score`, `report`, `export`, `serve`."""

from __future__ import annotations

import json
import shlex
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipeline.cli import options as o
from pipeline.cli.console import Console, RightAligned
from pipeline.errors import ModelError
from pipeline.files import atomic_path, check_output_path

if TYPE_CHECKING:
    import pandas as pd


OWN = (*o.ALWAYS, "out", "format", "csv")  # options of `predict` that its Python function does not have
MOST_FAILED = 5  # of the images without a prediction
FORMATS = ("csv", "parquet", "jsonl")
FLOATS = "%.6g"


@o.with_options(
    *("out", "format", "top", "neighbours", "cache", "device", "n_jobs", "as_json", "quiet"),
    more=("csv", "id_column", "root", "batch_size", "dask"),
    out=(o.AnswerFile, None),
    format=(o.AnswerFormat, None),
    cache=(o.TrainingCache, "features_cache"),
)
def predict_command(model: o.ModelArgument, data: o.DataArguments, **given: Any) -> None:
    """Predict the label of each photo and print a CSV table: id, label, probability, unfamiliar, error.

    A photo is unfamiliar if it is further from the training photos than 99% of them are from one another.

    Example: pipeline predict bees.model new_photos/ --out predictions.csv
    """
    from pipeline.images import check_csv
    from pipeline.model import Model

    out, csv, as_json, quiet = given["out"], given["csv"], given["as_json"], given["quiet"]
    kind = _format_of(out, given["format"])
    check_csv(csv)
    if out is not None:
        check_output_path(out, "the predictions")
    with Console(as_json=as_json, quiet=quiet) as console:
        table = Model.open(model).predict(
            data[0] if len(data) == 1 else data, **o.passed(given, without=OWN), progress=console
        )
    without = table[table["error"] != ""]
    failed = len(without)
    if out is not None:
        _write_predictions(table, Path(out), kind, csv)
    if as_json:
        summary = {"images": len(table), "failed": failed, "out": out}
        answers = {} if out is not None else {"predictions": json.loads(table.to_json(orient="records"))}
        console.object({**summary, **answers})
    elif out is None:
        console.result(_as_text(table, kind, csv).rstrip("\n"))
    else:
        console.result(out)
    for name, error in zip(without["id"][:MOST_FAILED], without["error"][:MOST_FAILED], strict=True):
        console.say(f"not predicted: {name}: {error}")
    if failed > MOST_FAILED:
        console.say(f"not predicted: {failed - MOST_FAILED:,} more; the column `error` says why")
    console.say(f"{len(table):,} {'image' if len(table) == 1 else 'images'}, {failed:,} without a prediction")


def _format_of(out: str | None, requested: str | None) -> str:
    """Return the format of the predictions: the requested one, or that of the file ending."""
    if requested is not None:
        if requested not in FORMATS:
            raise ModelError(f"--format: expected one of {', '.join(FORMATS)}, got {requested!r}", "--format csv")
        if requested == "parquet" and out is None:
            raise ModelError(
                "--format parquet: expected a file to write, got none: Parquet is a binary format",
                "--out predictions.parquet",
            )
        return requested
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
    from pipeline.images import csv_text

    if kind == "jsonl":
        return table.to_json(orient="records", lines=True)
    return csv_text(table, float_format=FLOATS, csv=csv)


def _write_predictions(table: pd.DataFrame, path: Path, kind: str, csv: str = "safe") -> None:
    """Write the predictions whole or not at all."""
    try:
        with atomic_path(path) as made:
            if kind == "parquet":
                table.to_parquet(made, index=False)
            else:
                made.write_text(_as_text(table, kind, csv), encoding="utf-8", newline="")
    except OSError as error:
        raise ModelError(
            f"{path}: expected to write the predictions here, got {error.strerror or error}",
            "give a file that you may write with --out",
        ) from error


@o.with_options(
    *("labels", "column", "groups", "out", "cache", "device", "n_jobs", "as_json", "quiet"),
    more=("id_column", "root", "label_level", "missing", "batch_size", "dask", "random_state"),
    column=(o.OneColumn, None),
    out=(o.ScoreFolder, None),
)
def score_command(model: o.ModelArgument, data: o.DataArgument, **given: Any) -> None:
    """Score a model on other labelled photos; photos of a class that it does not know count as wrong.

    Example: pipeline score bees.model labelled/
    """
    from pipeline.cli.tables import LOW_SCORES
    from pipeline.model import Model
    from pipeline.runs.leaderboard import LOWER_IS_BETTER, is_error, scoring_name, shown_score

    out, as_json, quiet = given["out"], given["as_json"], given["quiet"]
    if out:
        check_output_path(out, "the score")
    with Console(as_json=as_json, quiet=quiet) as console:
        found = Model.open(model).score(data, **o.passed(given), progress=console)
    if as_json:
        console.object({**({"run": str(found.folder)} if out else {}), **found.as_dict()})
        return
    for note in found.notes:
        console.note(note)
    # Where the model was trained on some of the photos, the scores without them are printed too.
    parts = [("", found.scores), (" without training photos", found.scores_apart)]
    rows = []
    for suffix, scores in parts:
        for score in scores:
            shown = shown_score(score.scoring, score.value, score.low, score.high)
            guessing = shown_score(score.scoring, found.guessing[score.scoring], None, None).value
            rows.append(
                [
                    scoring_name(score.scoring, short=True) + suffix,
                    f"{shown.value:.3f}",
                    f"{shown.low:.3f} to {shown.high:.3f}",
                    "" if suffix else f"{guessing:.3f}",
                    f"{score.n:,}",
                    score.method,
                ]
            )
    columns = [
        found.label_set,
        RightAligned("score"),
        RightAligned("95%"),
        RightAligned("guessing"),
        RightAligned("n"),
        "interval",
    ]
    console.table(columns, rows)
    errors = dict.fromkeys(scoring_name(score.scoring) for score in found.scores if is_error(score.scoring))
    if errors:
        console.say(f"  {' and '.join(errors)}: {LOWER_IS_BETTER}")
    first = found.scores[0] if found.scores else None
    if first is not None and first.low <= found.guessing[first.scoring]:
        console.say(LOW_SCORES)
    if out:
        console.say(f"kept in {found.folder}/: every prediction in predictions.parquet, the scores in scores.csv")
        console.next("pipeline", "report", str(found.folder))


RunArgument = Annotated[
    str,
    typer.Argument(metavar="RUN", help="The folder with the results of `pipeline evaluate`, `score` or `study`."),
]
Photos = Annotated[
    str | None,
    typer.Option(
        "--photos", metavar="DIR", help="The folder of the photos.", show_default="where they were when extracted"
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
Experiment = Annotated[str, typer.Option("--experiment", metavar="NAME", help="The MLflow experiment.")]


@o.with_options(
    *("out", "photos", "mlflow", "experiment", "as_json", "quiet"),
    out=(ReportFile, None),
    photos=(Photos, None),
    mlflow=(Tracking, None),
    experiment=(Experiment, "transfer-pipeline"),
)
def report_command(run: RunArgument, **given: Any) -> None:
    """Write an HTML page about a run, a score or a study: scores, wrong predictions, possible label errors, a map.

    Example: pipeline report runs/photos
    """
    from pipeline.report.html.write import open_run, write_report
    from pipeline.report.mlflow import load_mlflow, log_report
    from pipeline.runs.directory import report_name

    out, photos, mlflow, experiment = given["out"], given["photos"], given["mlflow"], given["experiment"]
    as_json, quiet = given["as_json"], given["quiet"]
    if mlflow:
        load_mlflow()  # fails now if MLflow is not installed, not after the page is written
    about = open_run(run)
    place = Path(out) if out else Path(run) / report_name(about.name)
    check_output_path(place, "the report")
    with Console(as_json=as_json, quiet=quiet) as console:
        made = write_report(about, out=place, photos=photos, progress=console)
        logged = log_report(made, mlflow, experiment=experiment, progress=console) if mlflow else None
    what = {"Run": "run", "ModelScore": "score"}.get(about.__class__.__name__, "study")
    if as_json:
        console.object(
            {
                "report": str(made.path),
                "of": what,
                "name": about.name,
                "bytes": made.bytes,
                "mlflow": logged and asdict(logged),
            }
        )
        return
    console.result(str(made.path))
    console.say(f"{made.bytes / 1e6:.1f} MB, one file that needs no network")
    if logged is not None:
        parts = f" with {logged.children} runs in it" if logged.children else ""
        console.say(f"logged to {logged.uri}, experiment {logged.experiment}, as run {logged.run_id}{parts}")
    console.next("python", "-m", "webbrowser", str(made.path))


@o.with_options(
    *("out", "format", "check", "as_json", "quiet"), out=(o.ExportPlace, ...), format=(o.ExportFormat, "onnx")
)
def export_command(model: o.ModelArgument, **given: Any) -> None:
    """Write the model as one ONNX file or a torch folder that runs without this package, checked on real photos.

    Example: pipeline export bees.model --out bees.onnx
    """
    from pipeline.model import Model

    out, format, as_json, quiet = given["out"], given["format"], given["as_json"], given["quiet"]
    check_output_path(out, "the exported model")
    with Console(as_json=as_json, quiet=quiet) as console:
        exported = Model.open(model).export(out, format=format, check=given["check"], progress=console)
    for proof in exported.proofs:
        console.say(proof.text)
    if as_json:
        console.object(exported.as_dict())
        return
    console.result(out)
    if format == "torch":
        console.say(f"to try it: python {shlex.quote(f'{out}/model.py')} new.jpg")


@o.with_options(
    *("host", "port", "token_file", "cache", "device", "n_jobs", "as_json", "quiet"),
    cache=(o.TrainingCache, "features_cache"),
)
def serve_command(model: o.ModelArgument, **given: Any) -> None:
    """Serve the model over HTTP, with a web page on which people drop photos, until Ctrl-C.

    Example: pipeline serve bees.model
    """
    from pipeline.server import serve

    as_json, quiet = given["as_json"], given["quiet"]

    with Console(as_json=as_json, quiet=quiet) as console:

        def ready(url: str) -> None:
            if as_json:
                console.object({"url": url, "model": model})
            else:
                console.result(url)
            sys.stdout.flush()
            console.say("open this page and drop photos on it; programs: see /docs; Ctrl-C stops the server")

        serve(model, **o.passed(given), ready=ready, progress=console)
