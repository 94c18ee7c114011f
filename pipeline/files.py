"""How output is written: files and folders that appear complete or not at all."""

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
    """Yield a temporary path beside `path`, and rename it to `path` when the block ends without an error.

    An existing file or folder is replaced; it is restored if the replacement fails. With `folder`, the temporary path
    is an empty folder; otherwise the block creates the file.

    Raises
    ------
    OSError
        The folder of `path` cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    made, before = temporary / path.name, temporary / f"{path.name}.before"
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
        shutil.rmtree(temporary, ignore_errors=True)


def replace_file(path: Path, content: bytes) -> None:
    """Write a file atomically in an existing folder: a reader sees the old content or the new.

    Raises
    ------
    OSError
        The folder does not exist or cannot be written.
    """
    path.parent.stat()  # a folder that was removed meanwhile is not created again
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def check_output_path(path: str | Path, what: str) -> None:
    """Raise `PipelineError` if `path` cannot be created: a file is in the way, or writing is not allowed."""
    target = Path(path).absolute()
    for folder in (target, *target.parents):
        if folder.is_dir():
            if os.access(folder, os.W_OK | os.X_OK):
                return
            found = f"no permission to write in {folder}"
            break
        if folder.exists() and folder != target:
            found = f"{folder} is a file, not a folder"
            break
        if folder.exists() and not os.access(folder, os.W_OK):
            found = "no permission to write it"
            break
    else:  # a drive that does not exist
        found = "no such drive"
    raise PipelineError(f"--out {path}: expected to write {what} here, got {found}", "choose another path with --out")
