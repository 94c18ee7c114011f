"""`pipeline cache list | info | verify | remove`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from pipeline.cli import options as o
from pipeline.cli.guard import guarded
from pipeline.cli.terminal import Number, Terminal
from pipeline.errors import CacheError, CacheLocked

app = typer.Typer(no_args_is_help=True, help="List, inspect, verify and remove caches.")

MOST_DAMAGED = 10  # rows that are named one by one

Reference = Annotated[str, typer.Argument(metavar="CACHE", help="A cache, or the beginning of its name up to a dash.")]


@app.command("list")
@guarded
def list_caches(cache: o.Cache = "features_cache", as_json: o.Json = False, quiet: o.Quiet = False) -> None:
    """List the caches of a folder, newest first, and the exported graphs that make them."""
    from pipeline.cache import caches_in
    from pipeline.runtime import GRAPHS_FOLDER, stored_graphs

    terminal = Terminal(as_json=as_json, quiet=quiet)
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
        columns = ["cache", Number("images"), Number("failed"), "layers", Number("MB"), "state"]
        terminal.table(columns, rows, spare=[3, 4])
    for error in refused.values():
        terminal.say(error.message)
    if graphs:
        terminal.stdout.print()
        columns = ["graph", "layers", Number("MB"), "state"]
        rows = [
            [g.path.name, _layers(g.layers), f"{g.bytes / 1e6:,.1f}", "usable" if g.usable else "of other versions"]
            for g in graphs
        ]
        terminal.table(columns, rows, spare=[1, 2])


@app.command("info")
@guarded
def info(
    reference: Reference, cache: o.Cache = "features_cache", as_json: o.Json = False, quiet: o.Quiet = False
) -> None:
    """Say what a cache holds and everything that went into its features."""
    from pipeline.cache import resolve

    terminal = Terminal(as_json=as_json, quiet=quiet)
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


@app.command("verify")
@guarded
def verify(
    reference: Reference, cache: o.Cache = "features_cache", as_json: o.Json = False, quiet: o.Quiet = False
) -> None:
    """Read a whole cache and compare every row with its checksum; exit code 1 if anything is wrong."""
    from pipeline.cache import resolve

    terminal = Terminal(as_json=as_json, quiet=quiet)
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


@app.command("remove")
@guarded
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
    terminal = Terminal(as_json=as_json, quiet=quiet)
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
