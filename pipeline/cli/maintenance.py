"""`pipeline cache list | info | verify | remove`."""

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


MOST_DAMAGED = 10  # rows that are named one by one

Reference = Annotated[str, typer.Argument(metavar="CACHE", help="A cache, or the beginning of its name up to a dash.")]


def list_caches(cache: o.Cache = "features_cache", as_json: o.Json = False, quiet: o.Quiet = False) -> None:
    """List the caches of a folder, newest first, and the exported graphs that make them."""
    from pipeline.cache import caches_in
    from pipeline.runtime import GRAPHS_FOLDER, stored_graphs

    terminal = Console(as_json=as_json, quiet=quiet)
    found, refused = caches_in(Path(cache))
    graphs = stored_graphs(Path(cache) / GRAPHS_FOLDER)
    if as_json:
        terminal.object(
            {
                "caches": [{"cache": str(item.path), **item.describe()} for item in found],
                "refused": {str(path): error.message for path, error in refused.items()},
                "graphs": [graph.as_dict() for graph in graphs],
            }
        )
        return
    if not found and not refused and not graphs:
        terminal.say(f"no caches in {cache}/")
        terminal.next("pipeline", "extract", "digits", *([] if cache == "features_cache" else ["--cache", cache]))
        return
    rows = []
    for item in found:
        said = item.describe()
        state = "complete" if item.complete else f"{said['pending']:,} pending"
        if item.missing_parts:
            state = f"{said['parts']:,} parts, {len(item.missing_parts):,} missing"
        layers = _layers(item.layers)
        rows.append(
            [item.path.name, f"{said['images']:,}", f"{said['failed']:,}", layers, f"{said['bytes'] / 1e6:,.1f}", state]
        )
    if rows:
        columns = ["cache", RightAligned("images"), RightAligned("failed"), "layers", RightAligned("MB"), "state"]
        terminal.table(columns, rows, spare=[3, 4])
    for error in refused.values():
        terminal.say(error.message)
    if graphs:
        terminal.stdout.print()
        columns = ["graph", "layers", RightAligned("MB"), "state"]
        rows = [
            [g.path.name, _layers(g.layers), f"{g.bytes / 1e6:,.1f}", "usable" if g.usable else "of other versions"]
            for g in graphs
        ]
        terminal.table(columns, rows, spare=[1, 2])


def info(
    reference: Reference, cache: o.Cache = "features_cache", as_json: o.Json = False, quiet: o.Quiet = False
) -> None:
    """Say what a cache holds and everything that went into its features."""
    from pipeline.cache import resolve

    terminal = Console(as_json=as_json, quiet=quiet)
    found = resolve(reference, cache)
    said = {"cache": str(found.path), **found.describe(), "provenance": dict(found.provenance)}
    if as_json:
        terminal.object(said)
        return
    rows = [[name, _plain(value)] for name, value in said.items() if name != "provenance"]
    for name, value in found.provenance.items():
        if isinstance(value, dict):
            rows += [[f"{name}.{inner}", _plain(item)] for inner, item in value.items()]
        else:
            rows.append([name, _plain(value)])
    terminal.table(["what", "value"], rows)


def verify(
    reference: Reference, cache: o.Cache = "features_cache", as_json: o.Json = False, quiet: o.Quiet = False
) -> None:
    """Read a whole cache and compare every row with its checksum; exit code 1 if anything is wrong."""
    from pipeline.cache import resolve

    terminal = Console(as_json=as_json, quiet=quiet)
    found = resolve(reference, cache)
    damaged = found.damaged()
    said = found.describe()
    sound = not damaged.size and not said["pending"]
    if as_json:
        terminal.object(
            {"cache": str(found.path), "sound": sound, "damaged": damaged.tolist(), "pending": said["pending"]}
        )
    else:
        for row in damaged[:MOST_DAMAGED]:
            terminal.say(f"row {row} is damaged: {found.ids[row]}")
        if damaged.size > MOST_DAMAGED:
            terminal.say(f"{damaged.size - MOST_DAMAGED:,} more rows are damaged")
        word = "sound" if sound else f"{damaged.size:,} damaged, {said['pending']:,} pending"
        terminal.result(f"{found.path}: {said['images']:,} rows, {word}")
        if not sound:
            terminal.say("try: run the same `pipeline extract` again; it makes those rows anew")
    if not sound:
        raise typer.Exit(1)


def remove(
    reference: Reference, cache: o.Cache = "features_cache", as_json: o.Json = False, quiet: o.Quiet = False
) -> None:
    """Remove a cache, unless somebody is using it."""
    from pipeline.cache import CacheLock, part_files, resolve, retire

    # A file that cannot be opened as a cache is the one that most needs removing.
    path = Path(reference)
    if not (path.is_file() and path.suffix == ".h5"):
        path = resolve(reference, cache).path
    for file in part_files(path) if path.is_dir() else [path]:
        CacheLock.exclusive(file).release()  # says who holds it, where `retire` would only say no
    if not retire(path):
        raise CacheLocked(f"{path}: another process is using this cache", "wait for it to end")
    if path.exists():
        raise CacheError(f"{path}: expected to remove the cache, got it still there", f"rm -r {path}")
    terminal = Console(as_json=as_json, quiet=quiet)
    if as_json:
        terminal.object({"removed": str(path)})
    else:
        terminal.result(f"removed {path}")


def _layers(layers: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {width}" for name, width in layers.items())


def _plain(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name}={_plain(item)}" for name, item in value.items())
    if isinstance(value, list):
        return ", ".join(_plain(item) for item in value)
    return str(value)


def backbones_command(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="Show this one's layers and weights; also of FILE.onnx.")
    ] = None,
    as_json: o.Json = False,
    quiet: o.Quiet = False,
) -> None:
    """List the pretrained networks; with a NAME, its layers with their sizes and the weights at hand."""
    from pipeline.backbone import describe, summaries

    terminal = Console(as_json=as_json, quiet=quiet)
    if name is None:
        found = summaries()
        if as_json:
            terminal.object({"backbones": [asdict(item) for item in found]})
            return
        rows = [
            [item.name, ", ".join(w.name + (" (at hand)" if w.at_hand else "") for w in item.weights)] for item in found
        ]
        terminal.table(["backbone", "weights"], rows)
        terminal.next("pipeline", "backbones", "resnet50")
        return
    said = describe(name)
    if as_json:
        terminal.object(asdict(said))
        return
    final = f"final layer {said.final_layer}" if said.final_layer else "an ONNX file"
    terminal.say(f"{said.name}: {said.parameters / 1e6:.1f} million parameters, {final}")
    rows = [
        [
            w.name + (" (recommended)" if w.recommended else ""),
            f"{w.megabytes:,.0f}",
            f"{w.classes:,}",
            str(w.file) if w.at_hand else f"to download from {w.url}",
        ]
        for w in said.weights
    ]
    terminal.table(["weights", RightAligned("MB"), RightAligned("classes"), "where"], rows)
    terminal.stdout.print()
    layers = [
        [layer.name, ", ".join(layer.called), " x ".join(str(n) for n in layer.shape), f"{layer.width:,}"]
        for layer in said.layers
    ]
    terminal.table(["layer", "also called", RightAligned("size"), RightAligned("features")], layers)


HEADINGS = {"class": "for classes", "number": "for numbers", "multi": "for several tags an image"}


def heads_command(
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="Show this one alone.")] = None,
    as_json: o.Json = False,
    quiet: o.Quiet = False,
) -> None:
    """List the heads: scikit-learn estimator, default grid, whether it gives probabilities."""
    from pipeline.heads import catalogue

    terminal = Console(as_json=as_json, quiet=quiet)
    found = [entry for entry in catalogue() if name in (None, entry.name)]
    if not found:
        raise HeadError(
            f"expected a head, got {name!r}; there are {', '.join(dict.fromkeys(e.name for e in catalogue()))}",
            "pipeline heads",
        )
    if as_json:
        terminal.object({"heads": [asdict(entry) for entry in found]})
        return
    for kind, heading in HEADINGS.items():
        entries = [entry for entry in found if entry.kind == kind]
        if entries:
            terminal.paragraph(heading)
        for entry in entries:
            marks = ["fast"] if entry.fast else []
            marks.append("probabilities" if entry.probabilities else "no probabilities")
            note = f": {entry.note}" if entry.note else ""
            terminal.paragraph(f"{entry.name} ({', '.join(marks)}){note}", indent=2)
            terminal.paragraph(entry.estimator, indent=6)
            for param, values in entry.grid.items():
                terminal.paragraph(f"{param}: {', '.join(_value(value) for value in values)}", indent=6)


def _value(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def doctor_command(cache: o.Cache = "features_cache", as_json: o.Json = False, quiet: o.Quiet = False) -> None:
    """Say what is installed, which weights are at hand and what is missing, with the command that mends each."""
    from pipeline.doctor import examine

    terminal = Console(as_json=as_json, quiet=quiet)
    report = examine(cache=cache)
    if as_json:
        terminal.object(report.as_dict())
    else:
        _print_checks(terminal, report)
    wrong = report.wrong
    if wrong:
        first = wrong[0]
        names = ", ".join(finding.name for finding in wrong)
        raise PipelineError(
            f"expected all that is needed to be there and to work, got {len(wrong)} that must be mended: {names}"
            f" ({first.found})",
            first.mend,
        )


def _print_checks(terminal: Console, report: DoctorReport) -> None:
    terminal.result(", ".join(f"{name} {said}" for name, said in report.system.items()))
    for heading, findings in (
        ("needed", report.needed),
        ("extras", report.extras),
        ("computing", report.computing),
        ("caches", report.places),
    ):
        if findings:
            terminal.stdout.print()
            terminal.table([heading, "", "found", "to mend it"], _check_rows(findings))
    if not report.weights:
        return
    terminal.stdout.print()
    here = [weights for weights in report.weights if weights.state != "missing"]
    if here:
        rows = [[f"{w.backbone}:{w.name}", w.state, w.file, w.mend] for w in here]
        terminal.table(["weights", "", "file", "to mend it"], rows)
    missing = [weights for weights in report.weights if weights.state == "missing"]
    if missing:
        example = next((weights for weights in missing if weights.backbone == "resnet50"), missing[0])
        terminal.paragraph(
            f"{len(missing)} files of torchvision's weights are not here. Each is downloaded when it is first asked "
            f"for: {example.mend}. Without a network put {example.url} at {example.file}; `pipeline backbones NAME` "
            "names the file of any other."
        )


def _check_rows(findings: Sequence[Check]) -> list[list[str]]:
    return [[finding.name, finding.status, finding.found, finding.mend] for finding in findings]


def demo_command(
    out: Annotated[str, typer.Option("--out", metavar="DIR", help="Where model, results and picture go.")] = "demo",
    cache: o.Cache = "features_cache",
    n_jobs: o.Jobs = None,
    random_state: o.Seed = 0,
    as_json: o.Json = False,
    quiet: o.Quiet = False,
) -> None:
    """Run the whole road on real photos that need no download: extract, evaluate six label sets, fit, predict, look."""
    from pipeline.cli.tables import print_run
    from pipeline.demo import run_demo

    check_output_path(out, "model, results and picture")
    with Console(as_json=as_json, quiet=quiet) as terminal:
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
    terminal.say(f"on the quadrants held out of everything: right on {done.right:,} of {done.asked:,} crops")
    terminal.result(str(done.model_path))
    terminal.result(str(done.picture))
    terminal.next("pipeline", "predict", str(done.model_path), "photo-crops")
