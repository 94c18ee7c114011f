"""`pipeline extract`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

import typer

from pipeline.cli import options as o
from pipeline.cli.console import Console
from pipeline.cli.next_command import passed_options
from pipeline.files import check_output_path

if TYPE_CHECKING:
    from pipeline.cache import FeatureCache


MOST_SKIPPED = 5  # that are named one by one


def extract_command(
    ctx: typer.Context,
    data: o.DataArgument,
    backbone: o.Backbone = None,
    layer: o.Layer = None,
    cache: o.Cache = "features_cache",
    precision: o.Precision = "fp32",
    store: o.Store = "fp32",
    decode: o.Decode = "exact",
    batch_size: o.BatchSize = None,
    on_error: o.OnError = "skip",
    rehash: o.Rehash = False,
    recheck: o.Recheck = None,
    part: o.Part = None,
    id_column: o.Id = None,
    root: o.Root = None,
    label_level: o.LabelLevel = None,
    device: o.Device = "auto",
    n_jobs: o.Jobs = None,
    dask: o.Dask = None,
    random_state: o.Seed = 0,
    as_json: o.Json = False,
    quiet: o.Quiet = False,
) -> None:
    """Run the network over the images that no cache knows yet, and print the cache's path."""
    from pipeline.extraction import extract

    with Console(as_json=as_json, quiet=quiet) as terminal:
        done = [
            extract(
                data,
                backbone=name,
                layer=layer or "penultimate",
                cache=cache,
                precision=precision,
                store=store,
                decode=decode,
                batch_size=batch_size,
                on_error=on_error,
                rehash=rehash,
                recheck=recheck,
                part=part,
                id_column=id_column,
                root=root,
                label_level=label_level,
                device=device,
                n_jobs=n_jobs,
                dask=dask,
                random_state=random_state,
                progress=terminal,
            )
            for name in backbone or ["efficientnet_lite0"]
        ]
    if as_json:
        objects = [{"cache": str(made.path), **made.summary.as_dict(), "skipped": _skip_reasons(made)} for made in done]
        terminal.object(objects[0] if len(objects) == 1 else {"caches": objects})
        return
    reasons = list(_skip_reasons(done[0]).items())  # the same photos for every backbone
    for name, reason in reasons[:MOST_SKIPPED]:
        terminal.say(f"skipped: {name}: {reason}")
    if len(reasons) > MOST_SKIPPED:
        terminal.say(f"skipped: {len(reasons) - MOST_SKIPPED:,} more; `pipeline extract --json` lists them all")
    for made in done:
        terminal.say(made.summary.text)
        if made.summary.ignored_text:
            terminal.say(made.summary.ignored_text)
        if made.summary.time is not None:
            runtime = f"; {made.summary.runtime}" if made.summary.runtime else ""
            terminal.say(made.summary.time.text + runtime)
        if made.summary.advice:
            terminal.say(made.summary.advice)
        terminal.result(str(made.path))
    paths = [str(made.path) for made in done]
    if missing := done[0].missing_parts:
        terminal.say(f"parts still to be made: {len(missing):,} of {len(missing) + len(done[0].files):,}")
        terminal.next("pipeline", "extract", data, *passed_options(ctx, without={"part"}), "--part", missing[0])
        return
    if done[0].summary.failed == done[0].summary.images:
        terminal.say("no image can be read: there is nothing to evaluate")
        return
    if done[0].columns:
        terminal.next(
            "pipeline", "evaluate", *paths, *passed_options(ctx, only={"layer", "n_jobs", "dask", "random_state"})
        )
    else:
        terminal.say("no labels are known: give a table of them with `pipeline evaluate ... --labels TABLE`")


def _skip_reasons(cache: FeatureCache) -> dict[str, str]:
    return {name: reason.text for name, reason in cache.skipped.items()}


MOST_WARNINGS = 5  # that are shown of a run over many label sets


def evaluate_command(
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
    from pipeline.cli.tables import MANY, print_overview, print_run, print_where_to_read
    from pipeline.evaluation import evaluate
    from pipeline.labels import split_kind
    from pipeline.runs import DEFAULT_FOLDER, RunsDir, check_is_run_directory

    check_output_path(out or DEFAULT_FOLDER, "the results")
    if out:
        check_is_run_directory(out)
    with Console(as_json=as_json, quiet=quiet) as terminal:
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
    options = passed_options(ctx, without={"column"} if len(run.label_sets) > 1 else ())
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


# The options of this command that `predict` knows too, and that are about any photos.
PREDICT = frozenset(("cache", "batch_size", "device", "n_jobs", "dask"))
NEW_PHOTOS = "NEW_PHOTOS"  # for the person to replace: of the training photos the model knows the answers


def fit_command(
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
    from pipeline.cli.tables import print_scores, print_where_to_read, results_of
    from pipeline.model import fit
    from pipeline.runs import DEFAULT_FOLDER, RunsDir

    check_output_path(out, "the model")
    with Console(as_json=as_json, quiet=quiet) as terminal:
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
    terminal.next("pipeline", "predict", out, NEW_PHOTOS, *passed_options(ctx, only=PREDICT))


@contextmanager
def print_when_stopped(terminal: Console) -> Iterator[None]:
    """Print what a study knows when it is interrupted, and let the interrupt go on."""
    try:
        yield
    except KeyboardInterrupt as stopped:
        from pipeline.cli.study_tables import print_partial
        from pipeline.studies import StudyStopped

        if isinstance(stopped, StudyStopped):
            print_partial(terminal, stopped)
        raise


def study_command(
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
    from pipeline.cli.study_tables import print_study
    from pipeline.runs import DEFAULT_FOLDER, RunsDir, check_is_run_directory
    from pipeline.studies import study

    check_output_path(out or DEFAULT_FOLDER, "the results")
    if out:
        check_is_run_directory(out)
    with Console(as_json=as_json, quiet=quiet, lines=True) as terminal, print_when_stopped(terminal):
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
    terminal.next(
        "pipeline", "evaluate", data, *passed_options(ctx, without=without), *(["--head", head] if head else [])
    )
