"""The commands that compute features and train on them: `extract`, `evaluate`, `fit`, `study`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

import typer

from pipeline.cli import options as o
from pipeline.cli.console import Console
from pipeline.cli.next_command import passed_options
from pipeline.files import check_output_path

if TYPE_CHECKING:
    from pipeline.cache import FeatureCache


# The common options, which `--help` shows first: of `evaluate` and `fit`, and the last ones of every command here.
COMMON = ("labels", "column", "groups", "min_class_size", "test", "heads")
LAST = ("device", *o.ALWAYS)
EXTRACT = (*o.EXTRACTION, "rehash", "recheck", "part", "id_column", "root", "label_level", *o.WORKERS, "random_state")
STUDY = (
    *(name for name in o.EVALUATION if name not in ("heads", "grid", "cv", "nested", "scoring")),
    "most_labels",
    "budget",
)

MOST_SKIPPED = 5  # more are counted


@o.with_options("backbone", "layer", "cache", "device", "n_jobs", "as_json", "quiet", more=EXTRACT)
def extract_command(ctx: typer.Context, data: o.DataArgument, **given: Any) -> None:
    """Compute the features of the photos that no cache has yet, and print the path of the cache.

    Features (embeddings) are the numbers that a pretrained network computes for a photo; a cache is the file that
    stores them.

    Example: pipeline extract photos/
    """
    from pipeline.extraction import extract

    options = {"layer": "penultimate", **o.passed(given)}
    backbones = options.pop("backbone", ["efficientnet_lite0"])
    as_json, quiet = given["as_json"], given["quiet"]
    with Console(as_json=as_json, quiet=quiet) as console:
        done = [extract(data, backbone=name, **options, progress=console) for name in backbones]
    if as_json:
        objects = [{"cache": str(made.path), **made.summary.as_dict(), "skipped": _skip_reasons(made)} for made in done]
        console.object(objects[0] if len(objects) == 1 else {"caches": objects})
        return
    reasons = list(_skip_reasons(done[0]).items())  # the same photos for every backbone
    for name, reason in reasons[:MOST_SKIPPED]:
        console.say(f"skipped: {name}: {reason}")
    if len(reasons) > MOST_SKIPPED:
        console.say(f"skipped: {len(reasons) - MOST_SKIPPED:,} more; `pipeline extract --json` lists them all")
    for made in done:
        console.say(made.summary.text)
        if made.summary.ignored_text:
            console.say(made.summary.ignored_text)
        if made.summary.time is not None:
            runtime = f"; {made.summary.runtime}" if made.summary.runtime else ""
            console.say(made.summary.time.text + runtime)
        if made.summary.advice:
            console.say(made.summary.advice)
        console.result(str(made.path))
    paths = [str(made.path) for made in done]
    if missing := done[0].missing_parts:
        console.say(f"parts still to be made: {len(missing):,} of {len(missing) + len(done[0].files):,}")
        console.next("pipeline", "extract", data, *passed_options(ctx, without={"part"}), "--part", missing[0])
        return
    if done[0].summary.failed == done[0].summary.images:
        console.say("no image can be read: there is nothing to evaluate")
        return
    if done[0].columns:
        console.next(
            "pipeline", "evaluate", *paths, *passed_options(ctx, only={"layer", "n_jobs", "dask", "random_state"})
        )
    else:
        console.say("no labels are known: give a table of them with `pipeline evaluate ... --labels TABLE`")


def _skip_reasons(cache: FeatureCache) -> dict[str, str]:
    return {name: reason.text for name, reason in cache.skipped.items()}


MOST_WARNINGS = 5  # that are shown of a run over many label sets


@o.with_options(*COMMON, "cv", "out", *LAST, more=o.EVALUATION, out=(o.RunFolder, None))
def evaluate_command(ctx: typer.Context, data: o.DataArguments, **given: Any) -> None:
    """Measure how well each head predicts the labels of photos that it was not trained on.

    A head is a classifier that is trained on the features of the photos. Each score has its interval (95%) and stands
    beside two baselines: always guessing the most frequent class, and color statistics.

    Example: pipeline evaluate photos/ --labels labels.xlsx --column species
    """
    from pipeline.cli.tables import MANY, print_overview, print_run, print_where_to_read
    from pipeline.evaluation import evaluate
    from pipeline.labels import split_kind
    from pipeline.runs import DEFAULT_FOLDER, RunsDir, check_is_run_directory

    out, column, as_json, quiet = given["out"], given["column"], given["as_json"], given["quiet"]
    check_output_path(out or DEFAULT_FOLDER, "the results")
    if out:
        check_is_run_directory(out)
    with Console(as_json=as_json, quiet=quiet) as console:
        run = evaluate(
            data[0] if len(data) == 1 else data,
            **{"out": RunsDir(DEFAULT_FOLDER), **o.passed(given)},
            progress=console,
        )
    if as_json:
        console.object({"run": str(run.folder), **run.as_dict()})
        return
    many = len(run.label_sets) > MANY
    (print_overview if many else print_run)(console, run)
    warnings = list(dict.fromkeys(text for result in run.results for text in result.warnings))
    shown = warnings[:MOST_WARNINGS] if many else warnings
    for warning in shown:
        console.say(f"warning: {warning}")
    if len(shown) < len(warnings):
        console.say(f"warning: {len(warnings) - len(shown)} more in {run.folder}/run.json")
    for verdict in () if many else run.verdicts:
        console.say(verdict)
    console.say(
        f"kept in {run.folder}/" + (": every head in leaderboard.csv, the verdicts in run.json" if many else "")
    )
    # `fit` makes one model of one DATA; it takes the same evaluation from this run.
    options = passed_options(ctx, without={"column"} if len(run.label_sets) > 1 else ())
    first = run.label_sets[0]
    # The last entry that states the kind of this column, with the separator that it may have.
    readings = [
        reading
        for glob, reading in (
            split_kind(entry, [label_set.name for label_set in run.label_sets]) for entry in column or ()
        )
        if reading.kind and fnmatchcase(first.name, glob)
    ]
    ending = (
        f":{readings[-1].kind}" + (f"({readings[-1].separator})" if readings[-1].separator else "") if readings else ""
    )
    columns = ["--column", f"{first.name}{ending}"] if len(run.label_sets) > 1 else []
    source = data[0] if len(data) == 1 else run.best(first.name).cache
    earlier = ["--run", out] if out else []
    print_where_to_read(console, run.results)
    console.next("pipeline", "report", str(run.folder))
    console.then("pipeline", "fit", source, *columns, *options, *earlier, "--out", f"{run.name}.model")


# The options of this command that `predict` knows too, and that are about any photos.
PREDICT = frozenset(("cache", "batch_size", "device", "n_jobs", "dask"))
NEW_PHOTOS = "NEW_PHOTOS"  # for the person to replace: of the training photos the model knows the answers


@o.with_options("out", *COMMON, "run", *LAST, more=("weights", "keep_photos", *o.EVALUATION), out=(o.ModelFolder, ...))
def fit_command(ctx: typer.Context, data: o.DataArgument, **given: Any) -> None:
    """Evaluate, select the best head, train it on all labelled photos, and save the model.

    Example: pipeline fit photos/ --out bees.model
    """
    from pipeline.cli.tables import print_scores, print_where_to_read, results_of
    from pipeline.model import fit
    from pipeline.runs import DEFAULT_FOLDER, RunsDir

    out, as_json, quiet = given["out"], given["as_json"], given["quiet"]
    check_output_path(out, "the model")
    with Console(as_json=as_json, quiet=quiet) as console:
        model = fit(data, **{"run": RunsDir(DEFAULT_FOLDER), **o.passed(given)}, progress=console)
    if as_json:
        console.object({"model": out, **model.as_dict()})
        return
    print_scores(console, model.scores)
    console.say(model.verdict)
    console.result(out)
    print_where_to_read(console, results_of(model.scores))
    console.next("pipeline", "predict", out, NEW_PHOTOS, *passed_options(ctx, only=PREDICT))


@contextmanager
def print_when_stopped(console: Console) -> Iterator[None]:
    """Print what a study knows when it is interrupted, and let the interrupt go on."""
    try:
        yield
    except KeyboardInterrupt as stopped:
        from pipeline.cli.study_tables import print_partial
        from pipeline.studies import StudyStopped

        if isinstance(stopped, StudyStopped):
            print_partial(console, stopped)
        raise


@o.with_options(
    *(name for name in COMMON if name != "heads"),
    "head",
    "time_limit",
    "out",
    *LAST,
    more=STUDY,
    backbone=(o.OneBackbone, "efficientnet_lite0"),
    layer=(o.OneLayer, "penultimate"),
    head=(o.OneHead, None),
    out=(o.StudyFolder, None),
)
def study_command(ctx: typer.Context, data: o.DataArgument, **given: Any) -> None:
    """Measure whether transfer learning is worth it: learning curves against training from scratch and on pixels.

    Example: pipeline study photos/
    """
    from pipeline.cli.study_tables import print_study
    from pipeline.runs import DEFAULT_FOLDER, RunsDir, check_is_run_directory
    from pipeline.studies import study

    out, head, as_json, quiet = given["out"], given["head"], given["as_json"], given["quiet"]
    check_output_path(out or DEFAULT_FOLDER, "the results")
    if out:
        check_is_run_directory(out)
    with Console(as_json=as_json, quiet=quiet, lines=True) as console, print_when_stopped(console):
        found = study(data, **{"out": RunsDir(DEFAULT_FOLDER), **o.passed(given)}, progress=console)
    if as_json:
        console.object({"run": str(found.folder), **found.as_dict()})
        return
    print_study(console, found)
    console.say(f"kept in {found.folder}/: every point in points.csv, all of it in study.json")
    without = {"most_labels", "budget", "time_limit", "head"}
    console.next(
        "pipeline", "evaluate", data, *passed_options(ctx, without=without), *(["--head", head] if head else [])
    )
