"""`pipeline evaluate`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.cli import options as o
from pipeline.cli.leaderboard import print_run
from pipeline.cli.terminal import Terminal

if TYPE_CHECKING:
    from pipeline.runs import Run


def command(
    data: o.DataArguments,
    backbone: o.Backbone = None,
    layer: o.Layer = None,
    cache: o.Cache = "features_cache",
    precision: o.Precision = "fp32",
    store: o.Store = "fp32",
    batch_size: o.BatchSize = None,
    on_error: o.OnError = "skip",
    labels: o.Labels = None,
    id_column: o.Id = None,
    root: o.Root = None,
    column: o.Column = None,
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
    random_state: o.Seed = 0,
    as_json: o.Json = False,
    quiet: o.Quiet = False,
) -> None:
    """Score every head on every label set, honestly: nested, with intervals, beside the dummy and the pixels alone."""
    from pipeline.evaluation import evaluate
    from pipeline.runs import DEFAULT_FOLDER

    with Terminal(as_json=as_json, quiet=quiet) as terminal:
        run = evaluate(
            data[0] if len(data) == 1 else data,
            backbone=backbone or "efficientnet_lite0",
            layer=layer,
            cache=cache,
            precision=precision,
            store=store,
            batch_size=batch_size,
            on_error=on_error,
            labels=labels,
            id_column=id_column,
            root=root,
            column=column or (),
            groups=groups,
            split=split,
            test=test,
            heads=heads,
            grid=grid or (),
            cv=cv,
            nested=nested,
            scoring=scoring or (),
            device=device,
            n_jobs=n_jobs,
            random_state=random_state,
            progress=terminal,
        )
    folder = run.save(Path(out) if out else Path(DEFAULT_FOLDER) / run.name)
    if as_json:
        terminal.object({"run": str(folder), **run.as_dict()})
        return
    print_run(terminal, run)
    for warning in dict.fromkeys(text for result in run.results for text in result.warnings):
        terminal.say(f"warning: {warning}")
    for verdict in run.verdicts:
        terminal.say(verdict)
    terminal.say(f"kept in {folder}/")
    terminal.next(*_fit_command(run, data, labels, id_column, column, groups, split))


def _fit_command(
    run: Run,
    data: Sequence[str],
    labels: str | None,
    id_column: str | None,
    column: Sequence[str] | None,
    groups: str | None,
    split: str | None,
) -> list[str]:
    """Return the command that makes a model of the best head."""
    best = run.best(run.label_sets[0].name)
    words = ["pipeline", "fit", data[0]]
    for flag, value in (("--labels", labels), ("--id", id_column), ("--groups", groups), ("--split", split)):
        words += [flag, value] if value else []
    if len(run.label_sets) > 1 or column:
        words += ["--column", best.label_set]
    if best.head not in ("logistic", "ridge"):
        words += ["--head", best.head]
    return [*words, "--out", f"{run.name}.model"]
