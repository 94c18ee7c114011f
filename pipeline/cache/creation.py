"""How a cache file comes to be: whole, reserved on the disk, and only then under its name."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.cache.header import Header, read_header
from pipeline.cache.layout import SUFFIX, as_fixed_text, labels_name, shapes_of
from pipeline.cache.lock import CacheLock, lock_path
from pipeline.cache.references import forget_missing
from pipeline.cache.rows import RawFile
from pipeline.cache.skeleton import ALIGNMENT, file_metadata
from pipeline.errors import CacheError
from pipeline.provenance import canonical_json


def create(
    path: Path,
    *,
    ids: Sequence[str],
    stat: np.ndarray,
    columns: Mapping[str, Sequence[str | None]],
    layers: Mapping[str, int],
    store: str,
    provenance: Mapping[str, Any],
) -> Header:
    """Make the file whole, every row pending and its disk space reserved, then give it its name.

    Parameters
    ----------
    path : Path
        The final name; a temporary name beside it is used until the file is complete and on disk.
    ids : sequence of str, length n
    stat : ndarray of int64, shape (n, 2)
        Size in bytes and modification time in ns of each image, as listed.
    columns : mapping of column name to n texts
    layers : mapping of layer name to width
    store : {"fp32", "fp16"}
    provenance : mapping
        Plain JSON values, among them `recipe` and `place`.

    Raises
    ------
    CacheError
        There is no room on the disk, or the folder cannot be written.
    """
    n = len(ids)
    text = canonical_json(provenance).encode()
    given: dict[str, np.ndarray] = {
        "ids": as_fixed_text(ids),
        "stat": np.ascontiguousarray(stat, "<i8").reshape(n, 2),
        **{labels_name(column): as_fixed_text(values) for column, values in columns.items()},
        "provenance": np.frombuffer(text, np.uint8),
    }
    shapes = shapes_of(n, layers, store, given)
    needed = sum(int(np.prod(shape)) * dtype.itemsize + ALIGNMENT for shape, dtype in shapes.values())
    temporary = temporary_path(path)
    try:
        make_folder(path.parent)
        _check_disk_space(path.parent, needed)
        with RawFile(temporary, new=True) as rows:
            rows.lay(file_metadata(shapes, hashlib.sha256(text).hexdigest()))
            header = read_header(temporary, provenance=provenance)
            rows.reserve(header.fields.values())
            for name, array in given.items():
                rows.write(header.fields[name], 0, array)
            rows.sync()
        temporary.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise _no_space(path.parent, needed, os.strerror(error.errno)) from error
        raise cannot_write(path.parent, error) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
    return Header(path, header.rows, header.fields, header.provenance)


def make_folder(folder: Path) -> None:
    """Make the folder, and return when its name is on the disk as well."""
    if not folder.is_dir():
        make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        _sync_folder(folder.parent)


def temporary_path(path: Path) -> Path:
    """Return the name under which this process makes the file."""
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")


def remove_left_over(folder: Path) -> None:
    """Remove what killed processes left in the folder: files half made, and locks of caches that are gone."""
    for left in [*folder.glob(f".*{SUFFIX}.*.tmp"), *folder.glob(f"*{SUFFIX}.lock")]:
        cache = left.with_name(left.name.lstrip(".").rpartition(SUFFIX)[0] + SUFFIX)
        if left == lock_path(cache) and cache.exists():
            continue
        # Whoever makes a file holds the lock on its name, and a lock dies with its holder.
        with suppress(OSError, CacheError), CacheLock.exclusive(cache, wait=0) as lock:
            if left != lock_path(cache):
                left.unlink(missing_ok=True)
            lock.release_and_forget()
    forget_missing(folder)


def cannot_write(folder: Path, error: OSError) -> CacheError:
    """Return the error for a folder in which no cache can be made."""
    why = os.strerror(error.errno) if error.errno else str(error)
    return CacheError(
        f"{folder}: wanted to write a cache here, found {why}",
        "give a folder that you may write with --cache DIR",
    )


def _sync_folder(folder: Path) -> None:
    """Return when a rename in `folder` is on the disk, where the system can tell."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _check_disk_space(folder: Path, needed: int) -> None:
    if shutil.disk_usage(folder).free < needed:
        raise _no_space(folder, needed, f"{shutil.disk_usage(folder).free / 1e6:,.0f} MB free")


def _no_space(folder: Path, needed: int, found: str) -> CacheError:
    return CacheError(
        f"{folder}: the cache needs {needed / 1e6:,.0f} MB, found {found}",
        "make room, give another folder with --cache DIR, or halve it with --store fp16",
    )
