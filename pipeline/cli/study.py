"""`pipeline study`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import typer

from pipeline.cli import options as o
from pipeline.cli.again import carried
from pipeline.cli.place import refuse_unwritable
from pipeline.cli.terminal import Terminal


@contextmanager
def print_when_stopped(terminal: Terminal) -> Iterator[None]:
    """Print what a study knows when it is interrupted, and let the interrupt go on."""
    try:
        yield
    except KeyboardInterrupt as stopped:
        from pipeline.cli.curves import print_partial
        from pipeline.studies import StudyStopped

        if isinstance(stopped, StudyStopped):
            print_partial(terminal, stopped)
        raise


def command(
    ctx: typer.Context,
    data: o.DataArgument,
    backbone: o.OneBackbone = "efficientnet_lite0",
    layer: o.OneLayer = "penultimate",
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
    head: o.OneHead = None,
    most_labels: o.MostLabels = 2000,
    budget: o.Budget = 120,
    time_limit: o.TimeLimit = 540,
    out: o.StudyFolder = None,
    device: o.Device = "auto",
    n_jobs: o.Jobs = None,
    dask: o.Dask = None,
    random_state: o.Seed = 0,
    as_json: o.Json = False,
    quiet: o.Quiet = False,
) -> None:
    """Was transfer worth it? Learning curves beside training from scratch and the pixels, and verdicts with figures."""
    from pipeline.cli.curves import print_study
    from pipeline.runs import DEFAULT_FOLDER, RunsDir, check_is_run_directory
    from pipeline.studies import study

    refuse_unwritable(out or DEFAULT_FOLDER, "the results")
    if out:
        check_is_run_directory(out)
    with Terminal(as_json=as_json, quiet=quiet, lines=True) as terminal, print_when_stopped(terminal):
        found = study(
            data,
            backbone=backbone,
            layer=layer,
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
            head=head,
            most_labels=most_labels,
            budget=budget,
            time_limit=time_limit,
            out=out or RunsDir(DEFAULT_FOLDER),
            device=device,
            n_jobs=n_jobs,
            dask=dask,
            random_state=random_state,
            progress=terminal,
        )
    if as_json:
        terminal.object({"run": str(found.folder), **found.as_dict()})
        return
    print_study(terminal, found)
    terminal.say(f"kept in {found.folder}/: every point in points.csv, all of it in study.json")
    without = {"most_labels", "budget", "time_limit", "head"}
    terminal.next("pipeline", "evaluate", data, *carried(ctx, without=without), *(["--head", head] if head else []))
