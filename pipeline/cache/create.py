"""How is a cache file created, and how are bytes written to it?

`create_cache` writes the complete file under a temporary name, reserves its disk space and then renames it, so a file
with the final name is always whole. HDF5's metadata is built in memory (`SparseFile`); all bytes reach the disk through
`RawFile`, never through libhdf5, because a killed libhdf5 writer can leave a file that does not open.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from pipeline.cache.format import FORMAT, KIND, SUFFIX, as_fixed_text, labels_name, shapes_of
from pipeline.cache.lock import CacheLock, lock_path
from pipeline.cache.reader import Field, Header, read_header
from pipeline.cache.references import forget_missing
from pipeline.errors import CacheError
from pipeline.provenance import canonical_json

ALIGNMENT = 4096


class SparseFile:
    """A file object in memory that keeps only the pages HDF5 wrote to.

    h5py writes the metadata of a cache of any size into a few pages. `pages` and `size` are then copied to the disk.
    """

    def __init__(self) -> None:
        self.size = 0
        self.pages: dict[int, bytearray] = {}  # by their offset in the file; the rest of it is zeros
        self._at = 0

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self.size}[whence]
        return self._at

    def tell(self) -> int:
        return self._at

    def read(self, length: int = -1) -> bytes:
        end = self.size if length < 0 else min(self.size, self._at + length)
        found = bytearray()
        while self._at < end:
            page, inside, here = self._piece(end)
            found += self.pages.get(page, bytes(ALIGNMENT))[inside : inside + here]
            self._at += here
        return bytes(found)

    def write(self, content: memoryview) -> int:
        left, end = memoryview(content), self._at + len(content)
        while left:
            page, inside, here = self._piece(end)
            self.pages.setdefault(page, bytearray(ALIGNMENT))[inside : inside + here] = left[:here]
            left, self._at = left[here:], self._at + here
        self.size = max(self.size, end)
        return len(content)

    def truncate(self, size: int) -> int:
        self.size = size
        return size

    def flush(self) -> None:
        """Do nothing: h5py requires the method, and there is no buffer to flush."""

    def _piece(self, end: int) -> tuple[int, int, int]:
        """Return the current page's offset, the position within it, and how many of its bytes come before `end`."""
        inside = self._at % ALIGNMENT
        return self._at - inside, inside, min(ALIGNMENT - inside, end - self._at)


def file_metadata(shapes: Mapping[str, tuple[tuple[int, ...], np.dtype]], sha256: str) -> SparseFile:
    """Return the file's metadata: every dataset at its offset, none of them filled.

    Parameters
    ----------
    shapes : mapping of dataset name to ``(shape, type)``
    sha256 : str
        Of the provenance, in hexadecimal.
    """
    sparse = SparseFile()
    # v110 metadata carries checksums, so that a flipped byte in it is an error instead of another shape.
    with h5py.File(
        sparse, "w", libver=("v110", "v110"), alignment_threshold=1, alignment_interval=ALIGNMENT, locking=False
    ) as file:
        contiguous = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        contiguous.set_layout(h5py.h5d.CONTIGUOUS)
        contiguous.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
        # The reserved space reads as zeros, so nothing needs to be filled.
        contiguous.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
        contiguous.set_obj_track_times(False)  # without times, the same content always gives the same bytes
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
    return sparse


_ZEROS = bytes(1 << 20)
# Error numbers of file systems that cannot reserve space.
_CANNOT_RESERVE = frozenset((errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, getattr(errno, "ENOTSUP", errno.EOPNOTSUPP)))


class RawFile:
    """The file descriptor of a cache file, through which all its bytes are written.

    Parameters
    ----------
    path : Path
    new : bool
        Create the file, or truncate it if it exists.
    """

    def __init__(self, path: Path, *, new: bool = False) -> None:
        flags = os.O_CREAT | os.O_TRUNC if new else 0
        self._file = os.open(path, os.O_RDWR | flags | getattr(os, "O_BINARY", 0), 0o666)

    def write_metadata(self, metadata: SparseFile) -> None:
        """Set the file's size and write HDF5's metadata."""
        os.ftruncate(self._file, metadata.size)
        for position, page in sorted(metadata.pages.items()):
            self._write_at(position, bytes(page[: metadata.size - position]))

    def write(self, field: Field, row: int, values: np.ndarray) -> None:
        """Write `values` (k, ...) to rows ``row .. row + k`` of `field`; raise `OSError` if not all were written."""
        self._write_at(field.offset + row * field.row_bytes, np.ascontiguousarray(values, field.dtype).tobytes())

    def reserve(self, fields: Iterable[Field]) -> None:
        """Reserve disk space for the whole file, so that a full disk is an error now and not during extraction."""
        if hasattr(os, "posix_fallocate"):
            try:
                os.posix_fallocate(self._file, 0, os.fstat(self._file).st_size)
                return
            except OSError as error:
                if error.errno not in _CANNOT_RESERVE:
                    raise
        for field in fields:  # only the bytes of the datasets: HDF5's metadata lies between them
            for position in range(field.offset, field.end, len(_ZEROS)):
                self._write_at(position, _ZEROS[: field.end - position])

    def sync(self) -> None:
        """Return when everything written so far is on the disk."""
        getattr(os, "fdatasync", os.fsync)(self._file)

    def close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def __enter__(self) -> RawFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _write_at(self, position: int, content: bytes) -> None:
        left = memoryview(content)
        while left:
            if hasattr(os, "pwrite"):
                written = os.pwrite(self._file, left, position)
            else:
                os.lseek(self._file, position, os.SEEK_SET)
                written = os.write(self._file, left)
            left, position = left[written:], position + written


def create_cache(
    path: Path,
    *,
    ids: Sequence[str],
    stat: np.ndarray,
    columns: Mapping[str, Sequence[str | None]],
    layers: Mapping[str, int],
    store: str,
    provenance: Mapping[str, Any],
) -> Header:
    """Create a cache file with every row pending and its disk space reserved, and return its header.

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
        The disk is too full, or the folder cannot be written.
    """
    n = len(ids)
    text = canonical_json(provenance).encode()
    arrays: dict[str, np.ndarray] = {
        "ids": as_fixed_text(ids),
        "stat": np.ascontiguousarray(stat, "<i8").reshape(n, 2),
        **{labels_name(column): as_fixed_text(values) for column, values in columns.items()},
        "provenance": np.frombuffer(text, np.uint8),
    }
    shapes = shapes_of(n, layers, store, arrays)
    needed = sum(int(np.prod(shape)) * dtype.itemsize + ALIGNMENT for shape, dtype in shapes.values())
    temporary = temporary_path(path)
    try:
        make_folder(path.parent)
        _check_disk_space(path.parent, needed)
        with RawFile(temporary, new=True) as file:
            file.write_metadata(file_metadata(shapes, hashlib.sha256(text).hexdigest()))
            header = read_header(temporary, provenance=provenance)
            file.reserve(header.fields.values())
            for name, array in arrays.items():
                file.write(header.fields[name], 0, array)
            file.sync()
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
    """Create the folder and its missing parents; return when their names are on the disk."""
    if not folder.is_dir():
        make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        _sync_folder(folder.parent)


def temporary_path(path: Path) -> Path:
    """Return the temporary name that this process uses while it creates the file."""
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")


def remove_left_over(folder: Path) -> None:
    """Remove the files of killed processes from the folder: incomplete caches, and locks of caches that are gone."""
    for leftover in [*folder.glob(f".*{SUFFIX}.*.tmp"), *folder.glob(f"*{SUFFIX}.lock")]:
        cache = leftover.with_name(leftover.name.lstrip(".").rpartition(SUFFIX)[0] + SUFFIX)
        if leftover == lock_path(cache) and cache.exists():
            continue
        # A process that creates a file holds the lock on its name, and the lock ends with the process: a lock that is
        # free means that no living process needs the temporary file.
        with suppress(OSError, CacheError), CacheLock.exclusive(cache, wait=0) as lock:
            if leftover != lock_path(cache):
                leftover.unlink(missing_ok=True)
            lock.release_and_forget()
    forget_missing(folder)


def cannot_write(folder: Path, error: OSError) -> CacheError:
    """Return the error for a folder in which no cache can be created."""
    reason = os.strerror(error.errno) if error.errno else str(error)
    return CacheError(
        f"{folder}: expected to write a cache here, got {reason}",
        "give a folder that you may write with --cache DIR",
    )


def _sync_folder(folder: Path) -> None:
    """Return when a rename in `folder` is on the disk; Windows has no such call."""
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


def _no_space(folder: Path, needed: int, available: str) -> CacheError:
    return CacheError(
        f"{folder}: expected {needed / 1e6:,.0f} MB for the cache, got {available}",
        "free disk space, give another folder with --cache DIR, or halve the cache with --store fp16",
    )
