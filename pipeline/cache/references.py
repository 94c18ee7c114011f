"""Which cache versions are still needed: those that a run, a score or a model on disk was made from.

`extract` writes a new version of a cache beside the older one when images, labels or layers change, and removes an
older version that nothing needs. A run, a score or a model that is saved leaves a reference beside the cache,
``.references/NAME.HASH.json``: its record file and the hash of that file. The reference ends when the folder is removed
or its record is no longer the one that was saved, so that versions do not pile up. A reader needs no reference: an open
`FeatureCache` has its file mapped, and a run over a cache locks it.

All this is best effort where the folder of caches cannot be written: no version can be removed there either.
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

FOLDER = ".references"
#: The folder of runs beside a folder of caches; runs of earlier versions left no reference, and are looked for there.
RUNS = "runs"
RECORDS = ("run.json", "score.json")
MOST_BYTES = 64 << 20  # of a record that is read


def add_reference(cache: str | Path, record: Path) -> None:
    """Keep a version for the run, score or model whose record file this is, as long as the record stays as it is.

    Parameters
    ----------
    cache : str or Path
        The cache file; anything else (a folder of parts, a file that is gone) is passed by.
    record : Path
        Such as ``runs/bees/run.json``; written already.
    """
    cache, record = Path(cache).absolute(), record.absolute()
    if not lock_path(cache).exists() or not cache.is_file():
        return
    folder = cache.parent / FOLDER
    named = hashlib.blake2b(str(record).encode("utf-8", "surrogateescape"), digest_size=8).hexdigest()
    with suppress(OSError, ValueError):
        said = {
            "record": str(record),
            "relative": os.path.relpath(record, cache.parent),  # the project may be moved as a whole
            "sha256": _sha256(record),
        }
        folder.mkdir(exist_ok=True)
        temporary = folder / f".{cache.name}.{named}.tmp"
        temporary.write_text(json.dumps(said), encoding="utf-8")
        temporary.replace(folder / f"{cache.name}.{named}.json")


def is_referenced(cache: Path) -> bool:
    """Return whether a saved run, score or model was made from this version."""
    return bool(records_of(cache)) or _is_named(cache)


def records_of(cache: Path) -> list[Path]:
    """Return the record files of the runs, scores and models that were made from this version and left a reference."""
    found = (_living_record(cache, path) for path in sorted(_reference_files(cache)))
    return [path for path in found if path is not None]


def forget_references(cache: Path) -> None:
    """Remove what was kept about a version that is gone."""
    folder = cache.parent / FOLDER
    for path in _reference_files(cache):
        with suppress(OSError):
            path.unlink()
    with suppress(OSError):
        folder.rmdir()


def forget_missing(folder: Path) -> None:
    """Remove what was kept about versions of this folder that are gone, such as those removed by hand."""
    with suppress(OSError):
        for path in list((folder / FOLDER).iterdir()):
            stem, found, _ = path.name.removeprefix(".").rpartition(".h5.")
            if not found or not (folder / f"{stem}.h5").exists():
                path.unlink()
    with suppress(OSError):
        (folder / FOLDER).rmdir()  # empty


def _reference_files(cache: Path) -> list[Path]:
    folder = cache.parent / FOLDER
    try:
        return [path for path in folder.iterdir() if path.name.startswith(f"{cache.name}.") and path.suffix == ".json"]
    except OSError:
        return []


def _living_record(cache: Path, reference: Path) -> Path | None:
    """Return the record that left this reference, None where it is gone or no longer as it was saved."""
    try:
        said: Any = json.loads(reference.read_text(encoding="utf-8"))
        places = [Path(said["record"]), cache.parent / said["relative"]]
        return next((place for place in places if place.is_file() and _sha256(place) == said["sha256"]), None)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _is_named(cache: Path) -> bool:
    """Return whether a run or a score in the usual folder beside this one names the version."""
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
