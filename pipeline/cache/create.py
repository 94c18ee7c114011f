"""How a cache file comes to be: whole, reserved on the disk, and only then under its name."""

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
    """A file in memory that holds the pages HDF5 has written to, so a cache of any size takes a few of them.

    It is what h5py takes for an open file; `pages` and `size` are what is to lie on the disk.
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
        """There is nothing behind it."""

    def _piece(self, end: int) -> tuple[int, int, int]:
        """Return where we are: the page's offset, the place in it, and how many bytes of it come before `end`."""
        inside = self._at % ALIGNMENT
        return self._at - inside, inside, min(ALIGNMENT - inside, end - self._at)


def file_metadata(shapes: Mapping[str, tuple[tuple[int, ...], np.dtype]], sha256: str) -> SparseFile:
    """Return the file's metadata, with every dataset at its place and nothing in it.

    Parameters
    ----------
    shapes : mapping of dataset name to ``(shape, type)``
    sha256 : str
        Of the provenance, in hexadecimal.
    """
    made = SparseFile()
    # v110 metadata carries checksums, so that a flipped byte in it is an error instead of another shape.
    with h5py.File(
        made, "w", libver=("v110", "v110"), alignment_threshold=1, alignment_interval=ALIGNMENT, locking=False
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
    return made


_ZEROS = bytes(1 << 20)
# What a file system says that cannot reserve space.
_CANNOT_RESERVE = frozenset((errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, getattr(errno, "ENOTSUP", errno.EOPNOTSUPP)))


class RawFile:
    """Owns the file descriptor that rows are written through.

    Parameters
    ----------
    path : Path
    new : bool
        Make the file, or empty it.
    """

    def __init__(self, path: Path, *, new: bool = False) -> None:
        made = os.O_CREAT | os.O_TRUNC if new else 0
        self._file = os.open(path, os.O_RDWR | made | getattr(os, "O_BINARY", 0), 0o666)

    def lay(self, skeleton: SparseFile) -> None:
        """Give the file its size and HDF5's metadata."""
        os.ftruncate(self._file, skeleton.size)
        for position, page in sorted(skeleton.pages.items()):
            self._write_at(position, bytes(page[: skeleton.size - position]))

    def write(self, field: Field, row: int, values: np.ndarray) -> None:
        """Write `values` (k, ...) to rows ``row .. row + k`` of `field`: all of them, or raise `OSError`."""
        self._write_at(field.offset + row * field.row_bytes, np.ascontiguousarray(values, field.dtype).tobytes())

    def reserve(self, fields: Iterable[Field]) -> None:
        """Make the disk promise every byte of the file, so that a full disk is an error now and not half way."""
        if hasattr(os, "posix_fallocate"):
            try:
                os.posix_fallocate(self._file, 0, os.fstat(self._file).st_size)
                return
            except OSError as error:
                if error.errno not in _CANNOT_RESERVE:
                    raise
        for field in fields:  # the datasets' own bytes alone: HDF5's metadata lies between them
            for position in range(field.offset, field.end, len(_ZEROS)):
                self._write_at(position, _ZEROS[: field.end - position])

    def sync(self) -> None:
        """Return when all that was written is on the disk."""
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
        f"{folder}: expected to write a cache here, got {why}",
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
        f"{folder}: the cache needs {needed / 1e6:,.0f} MB, got {found}",
        "make room, give another folder with --cache DIR, or halve it with --store fp16",
    )
