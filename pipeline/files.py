"""`placed`: files and folders that appear whole or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.errors import PipelineError


@contextmanager
def atomic_path(path: Path, *, folder: bool = False) -> Iterator[Path]:
    """Give a temporary path beside `path`, and give that its own name once the block has ended without an error.

    What stood there is replaced, or back in its place if that fails. A folder is there when the block begins, a file
    is to be made in it.

    Raises
    ------
    OSError
        Nothing can be written there.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    room = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    made, before = room / path.name, room / f"{path.name}.before"
    try:
        if folder:
            made.mkdir()
        yield made
        if folder and path.exists():
            path.rename(before)
        try:
            made.replace(path)
        except OSError:
            if before.exists():
                before.rename(path)
            raise
    finally:
        shutil.rmtree(room, ignore_errors=True)


def check_output_path(path: str | Path, what: str) -> None:
    """Raise `PipelineError` if nothing can be made at `path`: a file is in the way, or writing is not allowed."""
    place = Path(path).absolute()
    for folder in (place, *place.parents):
        if folder.is_dir():
            if os.access(folder, os.W_OK | os.X_OK):
                return
            found = f"no permission to write in {folder}"
            break
        if folder.exists() and folder != place:
            found = f"{folder} is a file, not a folder"
            break
        if folder.exists() and not os.access(folder, os.W_OK):
            found = "no permission to write it"
            break
    else:  # a drive that does not exist
        found = "no such place"
    raise PipelineError(f"--out {path}: expected to write {what} here, got {found}", "choose another place with --out")
