"""`pipeline demo`."""

from __future__ import annotations

from typing import Annotated

import typer

from pipeline.cli import options as o
from pipeline.cli.place import refuse_unwritable
from pipeline.cli.terminal import Terminal


def command(
    out: Annotated[
        str, typer.Option("--out", metavar="DIR", help="Folder for the run, its report page and the model.")
    ] = "demo",
    cache: o.Cache = "features_cache",
    n_jobs: o.Jobs = None,
    random_state: o.Seed = 0,
    as_json: o.Json = False,
    quiet: o.Quiet = False,
) -> None:
    """Run the whole workflow on photos that need no download: extract, evaluate, report, fit and predict."""
    from pipeline.cli.leaderboard import print_run
    from pipeline.demo import run_demo

    refuse_unwritable(out, "model, results and report")
    with Terminal(as_json=as_json, quiet=quiet) as terminal:
        done = run_demo(out, cache=cache, n_jobs=n_jobs, random_state=random_state, progress=terminal)
    if as_json:
        terminal.object(done.as_dict())
        return
    summary = done.cache.summary
    if summary.inferred:
        terminal.say(
            f"{summary.images:,} crops: {summary.inferred:,} went through the network, {summary.seconds:.1f} s"
        )
    else:
        terminal.say(f"{summary.images:,} crops: every feature is in the cache, no inference; {summary.seconds:.1f} s")
    print_run(terminal, done.run)
    for verdict in done.run.verdicts:
        terminal.say(verdict)
    terminal.say(f"the model on the held-out quadrants: correct on {done.right:,} of {done.asked:,} crops")
    terminal.result(str(done.model_path))
    terminal.result(str(done.report))
    terminal.next("pipeline", "predict", str(done.model_path), "photo-crops")
