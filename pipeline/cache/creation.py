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

import h5py
import numpy as np

from pipeline.cache.header import Header, read_header
from pipeline.cache.layout import FORMAT, KIND, SUFFIX, as_fixed_text, labels_name, shapes_of
from pipeline.cache.lock import CacheLock, lock_path
from pipeline.cache.rows import Rows
from pipeline.errors import CacheError
from pipeline.provenance import canonical_json

ALIGNMENT = 4096


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
        path.parent.mkdir(parents=True, exist_ok=True)
        _refuse_full_disk(path.parent, needed)
        _write_skeleton(temporary, shapes, hashlib.sha256(text).hexdigest())
        header = read_header(temporary, provenance=provenance)
        with Rows(temporary) as rows:
            rows.reserve(header.fields.values())
            for name, array in given.items():
                rows.write(header.fields[name], 0, array)
            rows.sync()
        temporary.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise _no_space(path.parent, needed) from error
        raise cannot_write(path.parent, error) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
    return Header(path, header.rows, header.fields, header.provenance)


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


def cannot_write(folder: Path, error: OSError) -> CacheError:
    """Return the error for a folder in which no cache can be made."""
    why = os.strerror(error.errno) if error.errno else str(error)  # h5py puts a paragraph into `strerror`
    return CacheError(
        f"{folder}: wanted to write a cache here, found {why}",
        "give a folder that you may write with --cache DIR",
    )


def _write_skeleton(path: Path, shapes: Mapping[str, tuple[tuple[int, ...], np.dtype]], sha256: str) -> None:
    """Write the file's metadata, with every dataset at its place and nothing in it."""
    # v110 metadata carries checksums, so that a flipped byte in it is an error instead of another shape.
    with h5py.File(
        path, "w", libver=("v110", "v110"), alignment_threshold=1, alignment_interval=ALIGNMENT, locking=False
    ) as file:
        contiguous = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        contiguous.set_layout(h5py.h5d.CONTIGUOUS)
        contiguous.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
        # The reserved space reads as zeros, so nothing needs to be filled.
        contiguous.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
        contiguous.set_obj_track_times(False)  # the same cache is the same bytes, whenever it was made
        names = h5py.h5p.create(h5py.h5p.LINK_CREATE)
        names.set_create_intermediate_group(True)
        names.set_char_encoding(h5py.h5t.CSET_UTF8)
        for name, (shape, dtype) in shapes.items():
            kind = h5py.string_dtype("utf-8", dtype.itemsize) if dtype.kind == "S" else dtype
            h5py.h5d.create(
                file.id,
                name.encode(),
                h5py.h5t.py_create(kind, logical=True),
                h5py.h5s.create_simple(shape),
                contiguous,
                names,
            )
        file.attrs["format"] = np.int64(FORMAT)
        file.attrs["kind"] = np.bytes_(KIND)
        file["provenance"].attrs["sha256"] = np.bytes_(sha256.encode())


def _sync_folder(folder: Path) -> None:
    """Return when a rename in `folder` is on the disk, where the system can tell."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _refuse_full_disk(folder: Path, needed: int) -> None:
    if shutil.disk_usage(folder).free < needed:
        raise _no_space(folder, needed)


def _no_space(folder: Path, needed: int) -> CacheError:
    free = shutil.disk_usage(folder).free
    return CacheError(
        f"{folder}: the cache needs {needed / 1e6:,.0f} MB, found {free / 1e6:,.0f} MB free",
        "make room, give another folder with --cache DIR, or halve it with --store fp16",
    )
