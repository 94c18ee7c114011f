"""A checksum a row, over everything the row says of itself."""

from __future__ import annotations

from collections.abc import Mapping
from zlib import crc32

import numpy as np

from pipeline.cache.header import Header
from pipeline.cache.layout import PENDING, STORED, is_features


def checksums(rows: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return the CRC-32 of each of k rows that are no longer pending.

    It runs over the row's bytes in each dataset but `crc32` and `provenance`: first those that every row has, in the
    order of their names; then, in a row that is stored, `features/...` and `pixel_statistics`, in the order of theirs.
    A row without features may hold whatever the disk held in those two.

    Parameters
    ----------
    rows : mapping of dataset name to ndarray, shape (k, ...)
        Every dataset of the file; `crc32` and `provenance` are passed over.

    Returns
    -------
    ndarray of uint32, shape (k,)
    """
    names = sorted(rows.keys() - {"crc32", "provenance"})
    when_stored = [name for name in names if is_features(name) or name == "pixel_statistics"]
    found = np.fromiter(map(crc32, _side_by_side(rows, [name for name in names if name not in when_stored])), np.uint32)
    stored = rows["status"] == STORED
    if stored.any():
        mine = {name: rows[name] if stored.all() else rows[name][stored] for name in when_stored}
        values = _side_by_side(mine, when_stored)
        found[stored] = np.fromiter(map(crc32, values, found[stored].tolist()), np.uint32, len(values))
    return found


def valid_rows(rows: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return which of k rows count: no longer pending, and as their checksum says. A mask, ``(k,)``."""
    return (rows["status"] != PENDING) & (checksums(rows) == rows["crc32"])


def damaged_rows(header: Header) -> np.ndarray:
    """Return the rows that are neither pending nor as their checksum says, ascending; reads the whole file."""
    damaged = [np.zeros(0, np.int64)]
    for start in range(0, header.rows, header.rows_at_once):
        some = slice(start, start + header.rows_at_once)
        final = header.map("status")[some] != PENDING
        if final.any():
            rows = header.take(some)
            damaged.append(start + np.flatnonzero(final & ~valid_rows(rows)))
    return np.concatenate(damaged)


def _side_by_side(columns: Mapping[str, np.ndarray], names: list[str]) -> np.ndarray:
    """Return the bytes of each row in these datasets, one after another, ``(k, bytes a row)``."""
    parts = []
    for name in names:
        values = np.ascontiguousarray(columns[name])
        parts.append(values.view(np.uint8).reshape(len(values), -1))
    return np.concatenate(parts, axis=1)
