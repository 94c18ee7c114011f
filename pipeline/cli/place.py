"""Whether a result can be put where it is to go: better known before the work than after it."""

from __future__ import annotations

import os
from pathlib import Path

from pipeline.errors import PipelineError


def refuse_unwritable(path: str | Path, what: str) -> None:
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
