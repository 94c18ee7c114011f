"""A checksum a row, over everything the row says of itself."""

from __future__ import annotations

from collections.abc import Mapping
from zlib import crc32

import numpy as np

from pipeline.cache.layout import PENDING, STORED, Header

ROWS_AT_ONCE = 4096

# A row without features may hold whatever the disk held, so those bytes are covered only once it is stored.
_ONLY_WHEN_STORED = ("features/", "pixel_statistics")


def covered_fields(header: Header) -> list[str]:
    """Return the names of the datasets that a row's checksum covers, in the order in which it does."""
    return sorted(name for name in header.fields if name not in ("crc32", "provenance"))


def row_checksums(columns: Mapping[str, np.ndarray], names: list[str]) -> np.ndarray:
    """Return the CRC-32 of each of k rows.

    Parameters
    ----------
    columns : mapping of dataset name to ndarray, shape (k, ...)
        Must hold `status` and every other name.
    names : list of str
        From `covered_fields`.

    Returns
    -------
    ndarray of uint32, shape (k,)
    """
    status = columns["status"]
    if not len(status):
        return np.zeros(0, np.uint32)
    always = _as_bytes(columns, [name for name in names if not name.startswith(_ONLY_WHEN_STORED)])
    checksums = np.array([crc32(row) for row in always], np.uint32)
    stored = np.flatnonzero(status == STORED)
    if stored.size:
        with_features = {name: columns[name][stored] for name in names if name.startswith(_ONLY_WHEN_STORED)}
        features = _as_bytes(with_features, list(with_features))
        checksums[stored] = [crc32(row, int(start)) for row, start in zip(features, checksums[stored], strict=True)]
    return checksums


def sound_rows(header: Header, rows: np.ndarray) -> np.ndarray:
    """Return which of `rows` match their checksum, as a mask."""
    names = covered_fields(header)
    block = {name: np.asarray(header.map(name)[rows]) for name in names}
    return row_checksums(block, names) == header.map("crc32")[rows]


def damaged_rows(header: Header) -> np.ndarray:
    """Return the rows whose checksum does not match what they hold, ascending.

    A row that was written but not yet acknowledged when its process died is pending, not damaged.
    """
    names = covered_fields(header)
    maps = {name: header.map(name) for name in names}
    checksums = header.map("crc32")
    damaged = []
    for start in range(0, header.rows, ROWS_AT_ONCE):
        block = {name: np.asarray(values[start : start + ROWS_AT_ONCE]) for name, values in maps.items()}
        wrong = np.flatnonzero(row_checksums(block, names) != checksums[start : start + ROWS_AT_ONCE])
        if wrong.size:
            wrong = wrong[~_unacknowledged(block, names, checksums[start : start + ROWS_AT_ONCE], wrong)]
            damaged.append(start + wrong)
    return np.concatenate(damaged) if damaged else np.zeros(0, np.int64)


def _unacknowledged(
    block: Mapping[str, np.ndarray], names: list[str], checksums: np.ndarray, wrong: np.ndarray
) -> np.ndarray:
    """Return which of the `wrong` rows are pending and match once their status is taken as any final one."""
    rows = {name: values[wrong] for name, values in block.items()}
    pending = rows["status"] == PENDING
    explained = np.zeros(len(wrong), bool)
    if not pending.any():
        return explained
    for status in range(1, 16):
        assumed = {**rows, "status": np.full(len(wrong), status, np.uint8)}
        explained |= row_checksums(assumed, names) == checksums[wrong]
    return explained & pending


def _as_bytes(columns: Mapping[str, np.ndarray], names: list[str]) -> np.ndarray:
    """Return the rows' bytes side by side, ``(k, bytes a row)``."""
    parts = []
    for name in names:
        values = np.ascontiguousarray(columns[name])
        parts.append(values.view(np.uint8).reshape(len(values), -1))
    return np.ascontiguousarray(np.concatenate(parts, axis=1))
