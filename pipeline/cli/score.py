"""`pipeline score`."""

from __future__ import annotations

from pipeline.cli import options as o
from pipeline.cli.place import refuse_unwritable
from pipeline.cli.terminal import Number, Terminal


def command(
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
    from pipeline.cli.leaderboard import LOW_SCORES, SHORT
    from pipeline.model import Model

    if out:
        refuse_unwritable(out, "the score")
    with Terminal(as_json=as_json, quiet=quiet) as terminal:
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
    columns = [found.label_set, Number("score"), Number("95%"), Number("guessing"), Number("n"), "interval"]
    terminal.table(columns, rows)
    first = found.scores[0] if found.scores else None
    if first is not None and first.low <= found.guessing[first.scoring]:
        terminal.say(LOW_SCORES)
    if out:
        terminal.say(f"kept in {found.folder}/: every answer in predictions.parquet, the scores in scores.csv")
        terminal.next("pipeline", "report", str(found.folder))
