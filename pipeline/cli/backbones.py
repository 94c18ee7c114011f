"""`pipeline backbones`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from pipeline.cli import options as o
from pipeline.cli.terminal import Number, Terminal


def command(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="Show this one's layers and weights; also of FILE.onnx.")
    ] = None,
    as_json: o.Json = False,
    quiet: o.Quiet = False,
) -> None:
    """List the pretrained networks; with a NAME, its layers with their sizes and the weights at hand."""
    from pipeline.backbone import describe, summaries

    terminal = Terminal(as_json=as_json, quiet=quiet)
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
    terminal.table(["weights", Number("MB"), Number("classes"), "where"], rows)
    terminal.stdout.print()
    layers = [
        [layer.name, ", ".join(layer.called), " x ".join(str(n) for n in layer.shape), f"{layer.width:,}"]
        for layer in said.layers
    ]
    terminal.table(["layer", "also called", Number("size"), Number("features")], layers)
