"""`pipeline extract`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from pipeline.cli import options as o
from pipeline.cli.again import carried
from pipeline.cli.terminal import Terminal

if TYPE_CHECKING:
    from pipeline.cache import FeatureCache

MOST_SKIPPED = 5  # that are named one by one


def command(
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

    with Terminal(as_json=as_json, quiet=quiet) as terminal:
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
        objects = [{"cache": str(made.path), **made.summary.as_dict(), "skipped": _reasons(made)} for made in done]
        terminal.object(objects[0] if len(objects) == 1 else {"caches": objects})
        return
    reasons = list(_reasons(done[0]).items())  # the same photos for every backbone
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
        terminal.next("pipeline", "extract", data, *carried(ctx, without={"part"}), "--part", missing[0])
        return
    if done[0].summary.failed == done[0].summary.images:
        terminal.say("no image can be read: there is nothing to evaluate")
        return
    if done[0].columns:
        terminal.next("pipeline", "evaluate", *paths, *carried(ctx, only={"layer", "n_jobs", "dask", "random_state"}))
    else:
        terminal.say("no labels are known: give a table of them with `pipeline evaluate ... --labels TABLE`")


def _reasons(cache: FeatureCache) -> dict[str, str]:
    return {name: reason.text for name, reason in cache.skipped.items()}
