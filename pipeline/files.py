"""`placed`: files and folders that appear whole or not at all."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


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
