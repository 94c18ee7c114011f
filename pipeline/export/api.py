"""In which formats can a model be exported? Every export is written, checked, and only then put in place."""

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
    """Raise `ExportError` if the path holds something that an export must not replace.

    An ONNX file may replace an ONNX file; a folder may replace an earlier export that holds no other files.
    """
    if not path.exists():
        return
    if not folder and path.is_dir():
        raise ExportError(f"{path}: expected to write a file here, got a folder", "--out bees.onnx")
    if folder and not path.is_dir():
        raise ExportError(f"{path}: expected to write a folder here, got a file", "--out bees.torch")
    if not folder and path.suffix != ".onnx":
        raise ExportError(f"{path}: expected an ONNX file to replace, got another file", "--out bees.onnx")
    if folder and any(path.iterdir()) and not _is_earlier_export(path):
        raise ExportError(
            f"{path}: expected an empty folder or an earlier export to replace, got a folder with other files",
            "choose another path with --out",
        )


def _is_earlier_export(path: Path) -> bool:
    if not {item.name for item in path.iterdir()} <= ENTRIES:
        return False
    try:
        return f'"{KIND}"' in (path / RECORD).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return False


def cannot_write(path: Path, error: OSError) -> ExportError:
    """Return the error for a path that cannot be written."""
    return ExportError(
        f"{path}: expected to write the exported model here, got {os.strerror(error.errno) if error.errno else error}",
        "give a path that you may write with --out",
    )


FORMATS = ("onnx", "torch")


@dataclass(frozen=True)
class Exported:
    """An exported model and the results of its checks.

    Attributes
    ----------
    path : Path
    format : {"onnx", "torch"}
    proofs : tuple of ParityCheck
        One per file that can be run.
    """

    path: Path
    format: str
    proofs: tuple[ParityCheck, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return the export as plain JSON values."""
        return {"export": str(self.path), "format": self.format, "checks": [check.as_dict() for check in self.proofs]}


def check_export(model: ExportSpec, path: Path, format: str) -> None:
    """Raise `ExportError` for what can be checked before the work starts: the format, the path, the model."""
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
    check_images: Callable[[], CheckImages],
    *,
    kinds: Callable[[], DecodeCheckImages] | None = None,
    progress: Progress = SILENT,
) -> Exported:
    """Write backbone and head as one model; it is checked on photos before it is put in place.

    Parameters
    ----------
    model : ExportSpec
    path : Path
        A file for ``onnx``, a folder for ``torch``; an earlier export at this path is replaced.
    format : {"onnx", "torch"}
    check_images : callable
        Returns the photos to check the export on; called after the export is written.
    kinds : callable, optional
        Returns images that image libraries decode differently; the export must decode them as `predict` does.
    progress : Progress

    Raises
    ------
    ExportError
        The model cannot be exported, or the export predicts something else; nothing is left at the path.
    """
    check_export(model, path, format)
    write = _write_onnx if format == "onnx" else _write_torch
    try:
        with atomic_path(path, folder=format == "torch") as made:
            checks = write(model, made, check_images, kinds, progress)
    except OSError as error:
        raise cannot_write(path, error) from error
    return Exported(path, format, checks)


def _write_onnx(
    model: ExportSpec,
    made: Path,
    check_images: Callable[[], CheckImages],
    kinds: Callable[[], DecodeCheckImages] | None,
    progress: Progress,
) -> tuple[ParityCheck, ...]:
    from pipeline.export.onnx_model import describe, onnx_model, reader, runner

    whole = onnx_model(model, progress)
    describe(whole, model)
    made.write_bytes(whole.SerializeToString())
    parity = _open_and_check(made, runner, check_images(), model)
    if kinds is not None:
        check_decoding(made.name, reader(whole), kinds())
    return (parity,)


def _write_torch(
    model: ExportSpec,
    made: Path,
    check_images: Callable[[], CheckImages],
    kinds: Callable[[], DecodeCheckImages] | None,
    progress: Progress,
) -> tuple[ParityCheck, ...]:
    from pipeline.export import torch_model as torch_format
    from pipeline.export.torch_model import torch_readme

    progress.note(f"exporting {model.backbone.name}: takes some seconds")
    torch_format.write_network(model, made)
    images = check_images()
    checks = (
        check_parity(torch_format.CODE, torch_format.runner(torch_format.whole(made)), images, model.kind),
        _open_and_check(made / torch_format.PROGRAM, torch_format.program_runner, images, model),
    )
    if kinds is not None:
        check_decoding(torch_format.CODE, torch_format.reader(made), kinds())
    answer = torch_format.layer_of(model).answer
    (made / torch_format.README).write_text(torch_readme(model, made.name, answer, checks), encoding="utf-8")
    return checks


def _open_and_check(
    path: Path, runner: Callable[[Path], Any], check_images: CheckImages, model: ExportSpec
) -> ParityCheck:
    """Open a written file with the library that its users will use, and return its parity check."""
    try:
        run = runner(path)
    except Exception as error:  # each runtime has its own exception types
        reason = str(error).strip().partition("\n")[0]
        raise ExportError(
            f"{path.name}: expected a file that opens, got {type(error).__name__}: {reason}",
            "update the libraries: pipeline doctor",
        ) from error
    return check_parity(path.name, run, check_images, model.kind)
