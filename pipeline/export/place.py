"""Where an export may go."""

from __future__ import annotations

import os
from pathlib import Path

from pipeline.errors import ExportError
from pipeline.export.record import KIND
from pipeline.export.standalone import RECORD
from pipeline.export.torch_folder import ENTRIES


def check_output_place(path: Path, *, folder: bool) -> None:
    """Raise `ExportError` where something stands that an export must not replace.

    An ONNX file takes an ONNX file's place, a folder that of an earlier export with nothing added to it.
    """
    if not path.exists():
        return
    if not folder and path.is_dir():
        raise ExportError(f"{path}: wanted to write a file here, found a folder", "--out bees.onnx")
    if folder and not path.is_dir():
        raise ExportError(f"{path}: wanted to write a folder here, found a file", "--out bees.torch")
    if not folder and path.suffix != ".onnx":
        raise ExportError(f"{path}: wanted an ONNX file to replace, found another file", "--out bees.onnx")
    if folder and any(path.iterdir()) and not _is_ours(path):
        raise ExportError(
            f"{path}: wanted an empty folder or an earlier export to replace, found a folder with other things in it",
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
        f"{path}: wanted to write the exported model here, found {os.strerror(error.errno) if error.errno else error}",
        "give a place that you may write with --out",
    )
