"""`pipeline predict`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.cli import options as o
from pipeline.cli.place import refuse_unwritable
from pipeline.cli.terminal import Terminal
from pipeline.errors import ModelError
from pipeline.files import atomic_path

if TYPE_CHECKING:
    import pandas as pd

MOST_NAMED = 5  # of the images without an answer
FORMATS = ("csv", "parquet", "jsonl")
FLOATS = "%.6g"


def command(
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
        refuse_unwritable(out, "the answers")
    with Terminal(as_json=as_json, quiet=quiet) as terminal:
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
        _write(table, Path(out), kind, csv)
    if as_json:
        said = {"images": len(table), "failed": failed, "out": out}
        answers = {} if out is not None else {"predictions": json.loads(table.to_json(orient="records"))}
        terminal.object({**said, **answers})
    elif out is None:
        terminal.result(_text(table, kind, csv).rstrip("\n"))
    else:
        terminal.result(out)
    for name, error in zip(without["id"][:MOST_NAMED], without["error"][:MOST_NAMED], strict=True):
        terminal.say(f"no answer: {name}: {error}")
    if failed > MOST_NAMED:
        terminal.say(f"no answer: {failed - MOST_NAMED:,} more; the column `error` says why")
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


def _text(table: pd.DataFrame, kind: str, csv: str) -> str:
    from pipeline.images.table import csv_text

    if kind == "jsonl":
        return table.to_json(orient="records", lines=True)
    return csv_text(table, float_format=FLOATS, csv=csv)


def _write(table: pd.DataFrame, path: Path, kind: str, csv: str = "safe") -> None:
    """Write the answers whole or not at all."""
    try:
        with atomic_path(path) as made:
            if kind == "parquet":
                table.to_parquet(made, index=False)
            else:
                made.write_text(_text(table, kind, csv), encoding="utf-8", newline="")
    except OSError as error:
        raise ModelError(
            f"{path}: expected to write the answers here, got {error.strerror or error}",
            "give a file that you may write with --out",
        ) from error
