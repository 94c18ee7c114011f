"""`pipeline evaluate`."""

from __future__ import annotations

from fnmatch import fnmatchcase

import typer

from pipeline.cli import options as o
from pipeline.cli.again import carried
from pipeline.cli.place import refuse_unwritable
from pipeline.cli.terminal import Terminal

MOST_WARNINGS = 5  # that are shown of a run over many label sets


def command(
    ctx: typer.Context,
    data: o.DataArguments,
    backbone: o.Backbone = None,
    layer: o.Layer = None,
    cache: o.Cache = "features_cache",
    precision: o.Precision = "fp32",
    store: o.Store = "fp32",
    decode: o.Decode = "exact",
    batch_size: o.BatchSize = None,
    on_error: o.OnError = "skip",
    labels: o.Labels = None,
    id_column: o.Id = None,
    root: o.Root = None,
    label_level: o.LabelLevel = None,
    min_class_size: o.MinClassSize = None,
    column: o.Column = None,
    missing: o.Missing = None,
    groups: o.Groups = None,
    split: o.Split = None,
    test: o.Test = None,
    heads: o.Head = None,
    grid: o.Grid = None,
    cv: o.Cv = 5,
    nested: o.Nested = True,
    scoring: o.Scoring = None,
    out: o.RunFolder = None,
    device: o.Device = "auto",
    n_jobs: o.Jobs = None,
    dask: o.Dask = None,
    random_state: o.Seed = 0,
    as_json: o.Json = False,
    quiet: o.Quiet = False,
) -> None:
    """Score every head on every label set, honestly: nested, with intervals, beside the dummy and the pixels alone."""
    from pipeline.cli.leaderboard import MANY, print_overview, print_run, print_where_to_read
    from pipeline.evaluation import evaluate
    from pipeline.labels import split_kind
    from pipeline.runs import DEFAULT_FOLDER, RunsDir, check_is_run_directory

    refuse_unwritable(out or DEFAULT_FOLDER, "the results")
    if out:
        check_is_run_directory(out)
    with Terminal(as_json=as_json, quiet=quiet) as terminal:
        run = evaluate(
            data[0] if len(data) == 1 else data,
            backbone=backbone or "efficientnet_lite0",
            layer=layer or None,
            cache=cache,
            precision=precision,
            store=store,
            decode=decode,
            batch_size=batch_size,
            on_error=on_error,
            labels=labels,
            id_column=id_column,
            root=root,
            label_level=label_level,
            min_class_size=min_class_size,
            column=column or (),
            missing=missing or (),
            groups=groups,
            split=split,
            test=test,
            heads=heads or None,
            grid=grid or (),
            cv=cv,
            nested=nested,
            scoring=scoring or (),
            out=out or RunsDir(DEFAULT_FOLDER),
            device=device,
            n_jobs=n_jobs,
            dask=dask,
            random_state=random_state,
            progress=terminal,
        )
    if as_json:
        terminal.object({"run": str(run.folder), **run.as_dict()})
        return
    many = len(run.label_sets) > MANY
    (print_overview if many else print_run)(terminal, run)
    warnings = list(dict.fromkeys(text for result in run.results for text in result.warnings))
    shown = warnings[:MOST_WARNINGS] if many else warnings
    for warning in shown:
        terminal.say(f"warning: {warning}")
    if len(shown) < len(warnings):
        terminal.say(f"warning: {len(warnings) - len(shown)} more in {run.folder}/run.json")
    for verdict in () if many else run.verdicts:
        terminal.say(verdict)
    terminal.say(
        f"kept in {run.folder}/" + (": every head in leaderboard.csv, the verdicts in run.json" if many else "")
    )
    # `fit` makes one model of one DATA; it takes the same evaluation from this run.
    options = carried(ctx, without={"column"} if len(run.label_sets) > 1 else ())
    first = run.label_sets[0]
    # The last entry that states the kind of this column, with the separator that it may have.
    readings = [
        reading
        for glob, reading in (split_kind(entry, [one.name for one in run.label_sets]) for entry in column or ())
        if reading.kind and fnmatchcase(first.name, glob)
    ]
    ending = (
        f":{readings[-1].kind}" + (f"({readings[-1].separator})" if readings[-1].separator else "") if readings else ""
    )
    columns = ["--column", f"{first.name}{ending}"] if len(run.label_sets) > 1 else []
    one = data[0] if len(data) == 1 else run.best(first.name).cache
    earlier = ["--run", out] if out else []
    print_where_to_read(terminal, run.results)
    terminal.next("pipeline", "report", str(run.folder))
    terminal.then("pipeline", "fit", one, *columns, *options, *earlier, "--out", f"{run.name}.model")
