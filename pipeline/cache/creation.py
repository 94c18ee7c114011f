"""How a cache file comes to be: whole, reserved on the disk, and only then under its name."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from pipeline.cache.checksum import ROWS_AT_ONCE, covered_fields, row_checksums
from pipeline.cache.layout import (
    DIGEST_BYTES,
    FORMAT,
    KIND,
    STATISTICS,
    STORE_TYPES,
    Header,
    Rows,
    as_fixed_text,
    features_name,
    labels_name,
    read_header,
)
from pipeline.errors import CacheError
from pipeline.provenance import canonical_json

ALIGNMENT = 4096
_ZEROS = bytes(1 << 20)


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
        Plain JSON values.

    Raises
    ------
    CacheError
        There is no room on the disk, or the folder cannot be written.
    """
    n = len(ids)
    store_type = STORE_TYPES[store]
    text = canonical_json(provenance).encode()
    fixed: dict[str, np.ndarray] = {
        "ids": as_fixed_text(ids),
        "stat": np.ascontiguousarray(stat, "<i8").reshape(n, 2),
        **{labels_name(column): as_fixed_text(values) for column, values in columns.items()},
        "provenance": np.frombuffer(text, np.uint8),
    }
    shapes: dict[str, tuple[tuple[int, ...], np.dtype]] = {
        **{features_name(layer): ((n, width), store_type) for layer, width in layers.items()},
        "pixel_statistics": ((n, STATISTICS), np.dtype("<f4")),
        "digest": ((n, DIGEST_BYTES), np.dtype("u1")),
        "status": ((n,), np.dtype("u1")),
        "crc32": ((n,), np.dtype("<u4")),
        **{name: (array.shape, array.dtype) for name, array in fixed.items()},
    }
    needed = sum(int(np.prod(shape)) * dtype.itemsize + ALIGNMENT for shape, dtype in shapes.values())
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _refuse_full_disk(path.parent, needed)
        _write_skeleton(temporary, shapes, hashlib.sha256(text).hexdigest())
        _reserve(temporary)
        header = read_header(temporary, provenance=provenance)
        with Rows(temporary) as rows:
            for name, array in fixed.items():
                rows.write(header.fields[name], 0, array)
            _write_pending_checksums(rows, header)
            rows.sync()
        temporary.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise _no_space(path.parent, needed) from error
        raise CacheError(
            f"{path.parent}: wanted to write a cache here, found {error.strerror or error}",
            "give a folder that you may write with --cache DIR",
        ) from error
    finally:
        temporary.unlink(missing_ok=True)
    return Header(path, header.rows, header.fields, header.provenance)


def sync_folder(folder: Path) -> None:
    """Return when a rename in `folder` is on the disk, where the system can tell."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write_pending_checksums(rows: Rows, header: Header) -> None:
    """Cover ids, labels and stat from the start, so that damage to a row that is still pending is found too."""
    names = covered_fields(header)
    maps = {name: header.map(name) for name in names if not name.startswith(("features/", "pixel_statistics"))}
    for start in range(0, header.rows, ROWS_AT_ONCE):
        block = {name: values[start : start + ROWS_AT_ONCE] for name, values in maps.items()}
        rows.write(header.fields["crc32"], start, row_checksums(block, names))


def _write_skeleton(path: Path, shapes: Mapping[str, tuple[tuple[int, ...], np.dtype]], sha256: str) -> None:
    # v110 metadata carries checksums, so that a flipped byte in it is an error instead of another shape.
    with h5py.File(
        path, "w", libver=("v110", "v110"), alignment_threshold=1, alignment_interval=ALIGNMENT, locking=False
    ) as file:
        contiguous = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        contiguous.set_layout(h5py.h5d.CONTIGUOUS)
        contiguous.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
        # The reserved space reads as zeros, so nothing needs to be filled.
        contiguous.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
        with_groups = h5py.h5p.create(h5py.h5p.LINK_CREATE)
        with_groups.set_create_intermediate_group(True)
        for name, (shape, dtype) in shapes.items():
            kind = h5py.string_dtype("utf-8", dtype.itemsize) if dtype.kind == "S" else dtype
            h5py.h5d.create(
                file.id,
                name.encode(),
                h5py.h5t.py_create(kind, logical=True),
                h5py.h5s.create_simple(shape),
                contiguous,
                with_groups,
            )
        file.attrs["format"] = np.int64(FORMAT)
        file.attrs["kind"] = np.bytes_(KIND)
        file["provenance"].attrs["sha256"] = np.bytes_(sha256.encode())


def _reserve(path: Path) -> None:
    """Make the disk promise every byte of the file, so that a full disk is an error now and not half way."""
    size = path.stat().st_size
    with Rows(path) as rows:
        descriptor = rows.descriptor
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(descriptor, 0, size)
        else:
            _write_zeros(path, descriptor, size)
        os.fsync(descriptor)


def _write_zeros(path: Path, descriptor: int, size: int) -> None:
    # Only the datasets' own bytes: HDF5's metadata lies between them.
    for field in read_header(path, provenance={}).fields.values():
        os.lseek(descriptor, field.offset, os.SEEK_SET)
        left = field.row_bytes * field.shape[0]
        while left > 0:
            left -= os.write(descriptor, _ZEROS[: min(left, len(_ZEROS))])


def _refuse_full_disk(folder: Path, needed: int) -> None:
    if shutil.disk_usage(folder).free < needed:
        raise _no_space(folder, needed)


def _no_space(folder: Path, needed: int) -> CacheError:
    free = shutil.disk_usage(folder).free
    return CacheError(
        f"{folder}: the cache needs {needed / 1e6:,.0f} MB, found {free / 1e6:,.0f} MB free",
        "make room, give another folder with --cache DIR, or halve it with --store fp16",
    )
