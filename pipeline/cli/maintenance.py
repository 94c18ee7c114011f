"""Commands that inspect the installation: `cache`, `backbones`, `heads`, `doctor`, and `demo`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.cli import options as o
from pipeline.cli.console import Console, RightAligned
from pipeline.errors import CacheError, CacheLocked, HeadError, PipelineError
from pipeline.files import check_output_path

if TYPE_CHECKING:
    from pipeline.doctor import Check, DoctorReport


MOST_DAMAGED = 10  # damaged rows that are named; more are counted

Reference = Annotated[str, typer.Argument(metavar="CACHE", help="A cache, or the beginning of its name up to a dash.")]


@o.in_one_panel
def list_caches(cache: o.Cache = "features_cache", as_json: o.Json = False, quiet: o.Quiet = False) -> None:
    """List the caches of a folder, newest first, and the exported networks.

    Example: pipeline cache list
    """
    from pipeline.cache import caches_in
    from pipeline.runtime import GRAPHS_FOLDER, stored_graphs

    console = Console(as_json=as_json, quiet=quiet)
    found, refused = caches_in(Path(cache))
    graphs = stored_graphs(Path(cache) / GRAPHS_FOLDER)
    if as_json:
        console.object(
            {
                "caches": [{"cache": str(item.path), **item.describe()} for item in found],
                "refused": {str(path): error.message for path, error in refused.items()},
                "graphs": [graph.as_dict() for graph in graphs],
            }
        )
        return
    if not found and not refused and not graphs:
        console.say(f"no caches in {cache}/")
        console.next("pipeline", "extract", "digits", *([] if cache == "features_cache" else ["--cache", cache]))
        return
    rows = []
    for item in found:
        about = item.describe()
        state = "complete" if item.complete else f"{about['pending']:,} pending"
        if item.missing_parts:
            state = f"{about['parts']:,} parts, {len(item.missing_parts):,} missing"
        layers = _layers(item.layers)
        rows.append(
            [
                item.path.name,
                f"{about['images']:,}",
                f"{about['failed']:,}",
                layers,
                f"{about['bytes'] / 1e6:,.1f}",
                state,
            ]
        )
    if rows:
        columns = ["cache", RightAligned("images"), RightAligned("failed"), "layers", RightAligned("MB"), "state"]
        console.table(columns, rows, spare=[3, 4])
    for error in refused.values():
        console.say(error.message)
    if graphs:
        console.stdout.print()
        columns = ["graph", "layers", RightAligned("MB"), "state"]
        rows = [
            [g.path.name, _layers(g.layers), f"{g.bytes / 1e6:,.1f}", "usable" if g.usable else "of other versions"]
            for g in graphs
        ]
        console.table(columns, rows, spare=[1, 2])


@o.in_one_panel
def info(
    reference: Reference, cache: o.Cache = "features_cache", as_json: o.Json = False, quiet: o.Quiet = False
) -> None:
    """Print what a cache holds and how its features were made.

    Example: pipeline cache info photos
    """
    from pipeline.cache import resolve

    console = Console(as_json=as_json, quiet=quiet)
    found = resolve(reference, cache)
    about = {"cache": str(found.path), **found.describe(), "provenance": dict(found.provenance)}
    if as_json:
        console.object(about)
        return
    rows = [[name, _plain(value)] for name, value in about.items() if name != "provenance"]
    for name, value in found.provenance.items():
        if isinstance(value, dict):
            rows += [[f"{name}.{inner}", _plain(item)] for inner, item in value.items()]
        else:
            rows.append([name, _plain(value)])
    console.table(["what", "value"], rows)


@o.in_one_panel
def verify(
    reference: Reference, cache: o.Cache = "features_cache", as_json: o.Json = False, quiet: o.Quiet = False
) -> None:
    """Compare every row of a cache with its checksum; exit code 1 if a row is damaged.

    Example: pipeline cache verify photos
    """
    from pipeline.cache import resolve

    console = Console(as_json=as_json, quiet=quiet)
    found = resolve(reference, cache)
    damaged = found.damaged()
    about = found.describe()
    sound = not damaged.size and not about["pending"]
    if as_json:
        console.object(
            {"cache": str(found.path), "sound": sound, "damaged": damaged.tolist(), "pending": about["pending"]}
        )
    else:
        for row in damaged[:MOST_DAMAGED]:
            console.say(f"row {row} is damaged: {found.ids[row]}")
        if damaged.size > MOST_DAMAGED:
            console.say(f"{damaged.size - MOST_DAMAGED:,} more rows are damaged")
        word = "sound" if sound else f"{damaged.size:,} damaged, {about['pending']:,} pending"
        console.result(f"{found.path}: {about['images']:,} rows, {word}")
        if not sound:
            console.say("try: run the same `pipeline extract` again; it computes those rows again")
    if not sound:
        raise typer.Exit(1)


@o.in_one_panel
def remove(
    reference: Reference, cache: o.Cache = "features_cache", as_json: o.Json = False, quiet: o.Quiet = False
) -> None:
    """Remove a cache, unless a process is using it.

    Example: pipeline cache remove photos
    """
    from pipeline.cache import CacheLock, part_files, resolve, retire

    # A file that cannot be opened as a cache is the one that most needs removing.
    path = Path(reference)
    if not (path.is_file() and path.suffix == ".h5"):
        path = resolve(reference, cache).path
    for file in part_files(path) if path.is_dir() else [path]:
        CacheLock.exclusive(file).release()  # names the process that holds it; `retire` would only fail
    if not retire(path):
        raise CacheLocked(f"{path}: another process is using this cache", "wait for it to end")
    if path.exists():
        raise CacheError(f"{path}: expected to remove the cache, got it still there", f"rm -r {path}")
    console = Console(as_json=as_json, quiet=quiet)
    if as_json:
        console.object({"removed": str(path)})
    else:
        console.result(f"removed {path}")


def _layers(layers: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {width}" for name, width in layers.items())


def _plain(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name}={_plain(item)}" for name, item in value.items())
    if isinstance(value, list):
        return ", ".join(_plain(item) for item in value)
    return str(value)


@o.in_one_panel
def backbones_command(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="Show the layers and weights of this network; FILE.onnx too.")
    ] = None,
    as_json: o.Json = False,
    quiet: o.Quiet = False,
) -> None:
    """List the pretrained networks; with a NAME, its layers with their sizes and its weights.

    Example: pipeline backbones resnet50
    """
    from pipeline.backbone import describe, summaries

    console = Console(as_json=as_json, quiet=quiet)
    if name is None:
        found = summaries()
        if as_json:
            console.object({"backbones": [asdict(item) for item in found]})
            return
        rows = [
            [item.name, ", ".join(w.name + (" (available)" if w.at_hand else "") for w in item.weights)]
            for item in found
        ]
        console.table(["backbone", "weights"], rows)
        console.next("pipeline", "backbones", "resnet50")
        return
    about = describe(name)
    if as_json:
        console.object(asdict(about))
        return
    final = f"final layer {about.final_layer}" if about.final_layer else "an ONNX file"
    console.say(f"{about.name}: {about.parameters / 1e6:.1f} million parameters, {final}")
    rows = [
        [
            w.name + (" (recommended)" if w.recommended else ""),
            f"{w.megabytes:,.0f}",
            f"{w.classes:,}",
            str(w.file) if w.at_hand else f"to download from {w.url}",
        ]
        for w in about.weights
    ]
    console.table(["weights", RightAligned("MB"), RightAligned("classes"), "where"], rows)
    console.stdout.print()
    layers = [
        [layer.name, ", ".join(layer.called), " x ".join(str(n) for n in layer.shape), f"{layer.width:,}"]
        for layer in about.layers
    ]
    console.table(["layer", "also called", RightAligned("size"), RightAligned("features")], layers)


HEADINGS = {"class": "for classes", "number": "for numbers", "multi": "for several tags per image"}


@o.in_one_panel
def heads_command(
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="Show only this head.")] = None,
    as_json: o.Json = False,
    quiet: o.Quiet = False,
) -> None:
    """List the heads (classifiers): the scikit-learn estimator, its default grid, whether it gives probabilities.

    Example: pipeline heads ridge
    """
    from pipeline.heads import catalogue

    console = Console(as_json=as_json, quiet=quiet)
    found = [entry for entry in catalogue() if name in (None, entry.name)]
    if not found:
        raise HeadError(
            f"expected a head, got {name!r}; there are {', '.join(dict.fromkeys(e.name for e in catalogue()))}",
            "pipeline heads",
        )
    if as_json:
        console.object({"heads": [asdict(entry) for entry in found]})
        return
    for kind, heading in HEADINGS.items():
        entries = [entry for entry in found if entry.kind == kind]
        if entries:
            console.paragraph(heading)
        for entry in entries:
            marks = ["fast"] if entry.fast else []
            marks.append("probabilities" if entry.probabilities else "no probabilities")
            note = f": {entry.note}" if entry.note else ""
            console.paragraph(f"{entry.name} ({', '.join(marks)}){note}", indent=2)
            console.paragraph(entry.estimator, indent=6)
            for param, values in entry.grid.items():
                console.paragraph(f"{param}: {', '.join(_value(value) for value in values)}", indent=6)


def _value(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


@o.in_one_panel
def doctor_command(cache: o.Cache = "features_cache", as_json: o.Json = False, quiet: o.Quiet = False) -> None:
    """Check the installation: packages, weights and caches, with a command to fix what is missing.

    Example: pipeline doctor
    """
    from pipeline.doctor import examine

    console = Console(as_json=as_json, quiet=quiet)
    report = examine(cache=cache)
    if as_json:
        console.object(report.as_dict())
    else:
        _print_checks(console, report)
    wrong = report.wrong
    if wrong:
        first = wrong[0]
        problems = f"{len(wrong)} {'problem' if len(wrong) == 1 else 'problems'}"
        names = ", ".join(finding.name for finding in wrong)
        raise PipelineError(
            f"expected a complete installation, got {problems}: {names} ({first.found})",
            first.mend,
        )


def _print_checks(console: Console, report: DoctorReport) -> None:
    console.result(", ".join(f"{name} {value}" for name, value in report.system.items()))
    for heading, findings in (
        ("needed", report.needed),
        ("extras", report.extras),
        ("computing", report.computing),
        ("caches", report.places),
    ):
        if findings:
            console.stdout.print()
            console.table([heading, "", "found", "to fix it"], _check_rows(findings))
    if not report.weights:
        return
    console.stdout.print()
    here = [weights for weights in report.weights if weights.state != "missing"]
    if here:
        rows = [[f"{w.backbone}:{w.name}", w.state, w.file, w.mend] for w in here]
        console.table(["weights", "", "file", "to fix it"], rows)
    missing = [weights for weights in report.weights if weights.state == "missing"]
    if missing:
        example = next((weights for weights in missing if weights.backbone == "resnet50"), missing[0])
        console.paragraph(
            f"{len(missing)} files of torchvision's weights are not here. Each is downloaded when it is first "
            f"used: {example.mend}. Without a network put {example.url} at {example.file}; `pipeline backbones NAME` "
            "names the file of any other."
        )


def _check_rows(findings: Sequence[Check]) -> list[list[str]]:
    return [[finding.name, finding.status, finding.found, finding.mend] for finding in findings]


@o.in_one_panel
def demo_command(
    out: Annotated[
        str, typer.Option("--out", metavar="DIR", help="Folder for the run, its report page and the model.")
    ] = "demo",
    cache: o.Cache = "features_cache",
    n_jobs: o.Jobs = None,
    random_state: o.Seed = 0,
    as_json: o.Json = False,
    quiet: o.Quiet = False,
) -> None:
    """Show the main steps on example photos: extract, evaluate, fit, predict, report.

    Example: pipeline demo
    """
    from pipeline.cli.tables import print_run
    from pipeline.demo import run_demo

    check_output_path(out, "model, results and report")
    with Console(as_json=as_json, quiet=quiet) as console:
        done = run_demo(out, cache=cache, n_jobs=n_jobs, random_state=random_state, progress=console)
    if as_json:
        console.object(done.as_dict())
        return
    summary = done.cache.summary
    if summary.inferred:
        console.say(f"{summary.images:,} crops: {summary.inferred:,} went through the network, {summary.seconds:.1f} s")
    else:
        console.say(f"{summary.images:,} crops: every feature is in the cache, no inference; {summary.seconds:.1f} s")
    print_run(console, done.run)
    for verdict in done.run.verdicts:
        console.say(verdict)
    console.say(f"the model on the held-out quadrants: correct on {done.correct:,} of {done.predicted:,} crops")
    console.result(str(done.model_path))
    console.result(str(done.report))
    console.next("pipeline", "predict", str(done.model_path), "photo-crops")
