"""Which cache versions does a saved run, score or model still need?

`extract` writes a new version of a cache beside the older one when images, labels or layers change, and removes an
older version that nothing needs. A run, a score or a model that is saved leaves a reference beside the cache,
``.references/NAME.HASH.json``: its record file and the hash of that file. The reference ends when the folder is removed
or its record changes, so that versions do not accumulate. A reader needs no reference: an open `FeatureCache` has its
file mapped, and a run over a cache locks it.

A folder of caches that cannot be written gets no references; no version can be removed from it either.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from pipeline.cache.lock import lock_path
from pipeline.files import replace_file

FOLDER = ".references"
#: The folder of runs beside a folder of caches. Runs of earlier versions left no reference; they are searched here.
RUNS = "runs"
RECORDS = ("run.json", "score.json")
MOST_BYTES = 64 << 20  # a larger record is not read


def add_reference(cache: str | Path, record: Path) -> None:
    """Keep a cache version for a run, score or model, for as long as its record file does not change.

    Parameters
    ----------
    cache : str or Path
        The cache file; anything else (a folder of parts, a file that is gone) is ignored.
    record : Path
        Such as ``runs/bees/run.json``; it exists already.
    """
    cache, record = Path(cache).absolute(), record.absolute()
    if not lock_path(cache).exists() or not cache.is_file():
        return
    folder = cache.parent / FOLDER
    digest = hashlib.blake2b(str(record).encode("utf-8", "surrogateescape"), digest_size=8).hexdigest()
    with suppress(OSError, ValueError):
        reference = {
            "record": str(record),
            "relative": os.path.relpath(record, cache.parent),  # the project may be moved as a whole
            "sha256": _sha256(record),
        }
        folder.mkdir(exist_ok=True)
        replace_file(folder / f"{cache.name}.{digest}.json", json.dumps(reference).encode())


def is_referenced(cache: Path) -> bool:
    """Return whether a saved run, score or model was made from this version."""
    return bool(records_of(cache)) or _is_named_in_runs(cache)


def records_of(cache: Path) -> list[Path]:
    """Return the record files of the runs, scores and models that left a reference to this version."""
    found = (_unchanged_record(cache, path) for path in sorted(_reference_files(cache)))
    return [path for path in found if path is not None]


def forget_references(cache: Path) -> None:
    """Remove the references to one version, after the version was removed."""
    folder = cache.parent / FOLDER
    for path in _reference_files(cache):
        with suppress(OSError):
            path.unlink()
    with suppress(OSError):
        folder.rmdir()


def forget_missing(folder: Path) -> None:
    """Remove the references to versions that no longer exist, such as those deleted by hand."""
    with suppress(OSError):
        for path in list((folder / FOLDER).iterdir()):
            stem, found, _ = path.name.removeprefix(".").rpartition(".h5.")
            if not found or not (folder / f"{stem}.h5").exists():
                path.unlink()
    with suppress(OSError):
        (folder / FOLDER).rmdir()  # succeeds only if it is empty


def _reference_files(cache: Path) -> list[Path]:
    folder = cache.parent / FOLDER
    try:
        return [path for path in folder.iterdir() if path.name.startswith(f"{cache.name}.") and path.suffix == ".json"]
    except OSError:
        return []


def _unchanged_record(cache: Path, reference: Path) -> Path | None:
    """Return the record that left this reference, None if it is gone or has changed."""
    try:
        stored: Any = json.loads(reference.read_text(encoding="utf-8"))
        paths = [Path(stored["record"]), cache.parent / stored["relative"]]
        return next((path for path in paths if path.is_file() and _sha256(path) == stored["sha256"]), None)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _is_named_in_runs(cache: Path) -> bool:
    """Return whether the record of a run or score in the folder of runs beside this one names the version."""
    name = json.dumps(cache.name)[1:-1].encode()
    for record in _records_beside(cache.parent):
        with suppress(OSError):
            if record.stat().st_size <= MOST_BYTES and name in record.read_bytes():
                return True
    return False


def _records_beside(folder: Path) -> Iterator[Path]:
    with suppress(OSError):
        for run in (folder.absolute().parent / RUNS).iterdir():
            yield from (run / name for name in RECORDS if (run / name).is_file())


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
