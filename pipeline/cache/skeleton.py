"""A cache file's metadata as HDF5 writes it, made in memory: the disk is never written through HDF5.

Where a disk is full or fails, HDF5 raises from within a destructor, or crashes the interpreter when Python ends and it
tries again. A write of our own fails with the system's own word, and leaves nothing open.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

import h5py
import numpy as np

from pipeline.cache.layout import FORMAT, KIND

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
