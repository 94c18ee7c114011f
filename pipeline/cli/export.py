"""`pipeline export`."""

from __future__ import annotations

import shlex

from pipeline.cli import options as o
from pipeline.cli.place import refuse_unwritable
from pipeline.cli.terminal import Terminal


def command(
    model: o.ModelArgument,
    out: o.ExportPlace,
    format: o.ExportFormat = "onnx",
    check: o.Check = None,
    as_json: o.Json = False,
    quiet: o.Quiet = False,
) -> None:
    """Write backbone and head as one model that runs elsewhere, checked against `pipeline predict` on real photos."""
    from pipeline.model import Model

    refuse_unwritable(out, "the exported model")
    with Terminal(as_json=as_json, quiet=quiet) as terminal:
        exported = Model.open(model).export(out, format=format, check=check, progress=terminal)
    for proof in exported.proofs:
        terminal.say(proof.text)
    if as_json:
        terminal.object(exported.as_dict())
        return
    terminal.result(out)
    if format == "torch":
        terminal.say(f"to try it: python {shlex.quote(f'{out}/model.py')} new.jpg")
