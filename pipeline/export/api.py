"""The two forms that a model can be taken away in, and the one road to both: write, check, put in place."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import ExportError
from pipeline.export.record import KIND, ExportSpec, check_exportable
from pipeline.export.standalone import RECORD
from pipeline.export.torch_model import ENTRIES
from pipeline.export.verify import CheckImages, DecodeCheckImages, ParityCheck, check_decoding, check_parity
from pipeline.files import atomic_path
from pipeline.progress import SILENT, Progress


def check_output_place(path: Path, *, folder: bool) -> None:
    """Raise `ExportError` where something stands that an export must not replace.

    An ONNX file takes an ONNX file's place, a folder that of an earlier export with nothing added to it.
    """
    if not path.exists():
        return
    if not folder and path.is_dir():
        raise ExportError(f"{path}: expected to write a file here, got a folder", "--out bees.onnx")
    if folder and not path.is_dir():
        raise ExportError(f"{path}: expected to write a folder here, got a file", "--out bees.torch")
    if not folder and path.suffix != ".onnx":
        raise ExportError(f"{path}: expected an ONNX file to replace, got another file", "--out bees.onnx")
    if folder and any(path.iterdir()) and not _is_ours(path):
        raise ExportError(
            f"{path}: expected an empty folder or an earlier export to replace, got a folder with other things in it",
            "choose another place with --out",
        )


def _is_ours(path: Path) -> bool:
    if not {item.name for item in path.iterdir()} <= ENTRIES:
        return False
    try:
        return f'"{KIND}"' in (path / RECORD).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return False


def cannot_write(path: Path, error: OSError) -> ExportError:
    """Return the error for a place that nothing could be written to."""
    return ExportError(
        f"{path}: expected to write the exported model here, got {os.strerror(error.errno) if error.errno else error}",
        "give a place that you may write with --out",
    )


FORMATS = ("onnx", "torch")


@dataclass(frozen=True)
class Exported:
    """An exported model and the proof that it is the same.

    Attributes
    ----------
    path : Path
    format : {"onnx", "torch"}
    proofs : tuple of Proof
        One a file that can be run.
    """

    path: Path
    format: str
    proofs: tuple[ParityCheck, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return it as plain JSON values."""
        return {"export": str(self.path), "format": self.format, "checks": [proof.as_dict() for proof in self.proofs]}


def check_export(model: ExportSpec, path: Path, format: str) -> None:
    """Raise `ExportError` for what can be known before the work begins: the format, the place, the model."""
    if format not in FORMATS:
        raise ExportError(f"--format: expected {' or '.join(FORMATS)}, got {format!r}", "--format onnx")
    check_output_place(path, folder=format == "torch")
    check_exportable(model)
    if format == "torch":
        from pipeline.export.torch_model import layer_of

        layer_of(model)


def export_model(
    model: ExportSpec,
    path: Path,
    format: str,
    witnesses: Callable[[], CheckImages],
    *,
    kinds: Callable[[], DecodeCheckImages] | None = None,
    progress: Progress = SILENT,
) -> Exported:
    """Write backbone and head as one model, check it on photos, and only then put it in place.

    Parameters
    ----------
    model : Exportable
    path : Path
        A file for ``onnx``, a folder for ``torch``; an earlier export there is replaced.
    format : {"onnx", "torch"}
    witnesses : callable
        Gives the photos that it is checked on; asked once something is written.
    kinds : callable, optional
        Gives images of the kinds that readers read differently; the export is to read them as `predict` does.
    progress : Progress

    Raises
    ------
    ExportError
        It cannot be exported, or answers otherwise than the model; nothing is left behind.
    """
    check_export(model, path, format)
    write = _write_onnx if format == "onnx" else _write_torch
    try:
        with atomic_path(path, folder=format == "torch") as made:
            proofs = write(model, made, witnesses, kinds, progress)
    except OSError as error:
        raise cannot_write(path, error) from error
    return Exported(path, format, proofs)


def _write_onnx(
    model: ExportSpec,
    made: Path,
    witnesses: Callable[[], CheckImages],
    kinds: Callable[[], DecodeCheckImages] | None,
    progress: Progress,
) -> tuple[ParityCheck, ...]:
    from pipeline.export.onnx_model import describe, onnx_model, reader, runner

    whole = onnx_model(model, progress)
    describe(whole, model)
    made.write_bytes(whole.SerializeToString())
    proof = _proof(made, runner, witnesses(), model)
    if kinds is not None:
        check_decoding(made.name, reader(whole), kinds())
    return (proof,)


def _write_torch(
    model: ExportSpec,
    made: Path,
    witnesses: Callable[[], CheckImages],
    kinds: Callable[[], DecodeCheckImages] | None,
    progress: Progress,
) -> tuple[ParityCheck, ...]:
    from pipeline.export import torch_model as torch_format
    from pipeline.export.torch_model import torch_readme

    progress.note(f"exporting {model.backbone.name}: some seconds")
    torch_format.write_network(model, made)
    seen = witnesses()
    proofs = (
        check_parity(torch_format.CODE, torch_format.runner(torch_format.whole(made)), seen, model.kind),
        _proof(made / torch_format.PROGRAM, torch_format.program_runner, seen, model),
    )
    if kinds is not None:
        check_decoding(torch_format.CODE, torch_format.reader(made), kinds())
    answer = torch_format.layer_of(model).answer
    (made / torch_format.README).write_text(torch_readme(model, made.name, answer, proofs), encoding="utf-8")
    return proofs


def _proof(path: Path, runner: Callable[[Path], Any], witnesses: CheckImages, model: ExportSpec) -> ParityCheck:
    """Open what was written with the library that others will open it with, and prove it."""
    try:
        run = runner(path)
    except Exception as error:  # of whichever runtime
        reason = str(error).strip().partition("\n")[0]
        raise ExportError(
            f"{path.name}: expected a file that opens, got {type(error).__name__}: {reason}",
            "update the libraries: pipeline doctor",
        ) from error
    return check_parity(path.name, run, witnesses, model.kind)
