"""`pipeline fit`."""

from __future__ import annotations

import typer

from pipeline.cli import options as o
from pipeline.cli.again import carried
from pipeline.cli.place import refuse_unwritable
from pipeline.cli.terminal import Terminal

# The options of this command that `predict` knows too, and that are about any photos.
PREDICT = frozenset(("cache", "batch_size", "device", "n_jobs", "dask"))
NEW_PHOTOS = "NEW_PHOTOS"  # for the person to replace: of the training photos the model knows the answers


def command(
    ctx: typer.Context,
    data: o.DataArgument,
    out: o.ModelFolder,
    weights: o.Weights = True,
    keep_photos: o.KeepPhotos = False,
    run: o.EarlierRun = None,
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
    device: o.Device = "auto",
    n_jobs: o.Jobs = None,
    dask: o.Dask = None,
    random_state: o.Seed = 0,
    as_json: o.Json = False,
    quiet: o.Quiet = False,
) -> None:
    """Evaluate, choose the best head, refit it on every labelled photo, and save it with its backbone."""
    from pipeline.cli.leaderboard import print_scores, print_where_to_read, results_of
    from pipeline.model import fit
    from pipeline.runs import DEFAULT_FOLDER, RunsDir

    refuse_unwritable(out, "the model")
    with Terminal(as_json=as_json, quiet=quiet) as terminal:
        model = fit(
            data,
            out=out,
            weights=weights,
            keep_photos=keep_photos,
            run=run or RunsDir(DEFAULT_FOLDER),
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
            device=device,
            n_jobs=n_jobs,
            dask=dask,
            random_state=random_state,
            progress=terminal,
        )
    if as_json:
        terminal.object({"model": out, **model.as_dict()})
        return
    print_scores(terminal, model.scores)
    terminal.say(model.verdict)
    terminal.result(out)
    print_where_to_read(terminal, results_of(model.scores))
    terminal.next("pipeline", "predict", out, NEW_PHOTOS, *carried(ctx, only=PREDICT))
