"""Bytes written at their place in the file, never through HDF5."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from pipeline.cache.header import Field
from pipeline.cache.skeleton import SparseFile

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
