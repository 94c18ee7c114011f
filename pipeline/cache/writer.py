"""`CacheWriter`: the one process that may fill a cache's rows."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from pipeline.cache.checksum import covered_fields, row_checksums, sound_rows
from pipeline.cache.feature_cache import FeatureCache
from pipeline.cache.layout import PENDING, Rows, as_fixed_text, features_name, labels_name
from pipeline.cache.lock import CacheLock
from pipeline.errors import CacheError

SECONDS_BETWEEN_SYNCS = 2.0


class CacheWriter:
    """Fill the rows of one cache under its lock, which stays the caller's to release.

    A row's data and checksum are written first, synced to the disk, and only then is its status set: a row that
    counts is a row that is there, whatever happened in between.

    Parameters
    ----------
    cache : FeatureCache
    lock : CacheLock
        Held exclusively, over this cache.

    Raises
    ------
    CacheError
        The file cannot be written.
    """

    def __init__(self, cache: FeatureCache, lock: CacheLock) -> None:
        if lock.cache != cache.path:
            raise ValueError(f"the lock is on {lock.cache}, the cache is {cache.path}")
        self.cache = cache
        self._header = cache.header
        try:
            self._rows = Rows(cache.path)
        except OSError as error:
            raise CacheError(
                f"{cache.path}: wanted to write the cache, found {error.strerror}",
                "give another folder with --cache DIR",
            ) from error
        self._names = covered_fields(self._header)
        self._fixed = {name: self._header.map(name) for name in self._names if _is_given(name)}
        self._unacknowledged: list[tuple[np.ndarray, np.ndarray]] = []
        self._last_sync = time.monotonic()

    def reset(
        self,
        rows: np.ndarray,
        ids: Sequence[str],
        stat: np.ndarray,
        columns: Mapping[str, Sequence[str | None]],
    ) -> None:
        """Make damaged rows pending again, with what the source says of them written anew.

        Parameters
        ----------
        rows : ndarray of int64, shape (k,)
        ids, stat, columns
            The source's, of all n rows.
        """
        fields = self._header.fields
        for start, stop in _runs(rows):
            self._rows.write(fields["status"], start, np.full(stop - start, PENDING, np.uint8))
            self._write_text("ids", start, ids[start:stop])
            self._rows.write(fields["stat"], start, stat[start:stop])
            for column, values in columns.items():
                self._write_text(labels_name(column), start, values[start:stop])
        block = {name: np.asarray(self._header.map(name)[rows]) for name in self._names}
        checksums = row_checksums(block, self._names)
        for position, (start, stop) in _runs_with_position(rows):
            self._rows.write(fields["crc32"], start, checksums[position : position + stop - start])
        self._rows.sync()

    def write(
        self,
        rows: np.ndarray,
        *,
        status: np.ndarray,
        digest: np.ndarray,
        stat: np.ndarray,
        statistics: np.ndarray,
        features: Mapping[str, np.ndarray],
    ) -> None:
        """Write k rows; they count once `acknowledge` has run, which `write` calls every two seconds.

        Parameters
        ----------
        rows : ndarray of int64, shape (k,)
        status : ndarray of uint8, shape (k,)
        digest : ndarray of uint8, shape (k, 16)
        stat : ndarray of int64, shape (k, 2)
        statistics : ndarray of float32, shape (k, 12)
        features : mapping of layer name to ndarray, shape (k, d)
            Every layer of the cache; rows that are not stored are ignored.
        """
        fields = self._header.fields
        values = {
            "status": status.astype(np.uint8),
            "digest": digest,
            "stat": np.ascontiguousarray(stat, "<i8"),
            "pixel_statistics": np.ascontiguousarray(statistics, "<f4"),
        }
        for layer in self.cache.layers:
            name = features_name(layer)
            values[name] = np.ascontiguousarray(features[layer], fields[name].dtype)
        for name, fixed in self._fixed.items():
            values[name] = np.asarray(fixed[rows])
        checksums = row_checksums(values, self._names)

        data = [name for name in values if name != "status" and name not in self._fixed]
        for position, (start, stop) in _runs_with_position(rows):
            taken = slice(position, position + stop - start)
            for name in data:
                self._rows.write(fields[name], start, values[name][taken])
            self._rows.write(fields["crc32"], start, checksums[taken])
        self._unacknowledged.append((np.asarray(rows), values["status"]))
        if time.monotonic() - self._last_sync > SECONDS_BETWEEN_SYNCS:
            self.acknowledge()

    def copy(self, rows: np.ndarray, other: FeatureCache, other_rows: np.ndarray, stat: np.ndarray) -> np.ndarray:
        """Write `rows` with what `other` holds in `other_rows`, bit for bit, and return which could be copied.

        Parameters
        ----------
        rows, other_rows : ndarray of int64, shape (k,)
        other : FeatureCache
            Holds every layer of this cache.
        stat : ndarray of int64, shape (k, 2)
            The images' own, as they lie now.

        Returns
        -------
        ndarray of bool, shape (k,)
            False where the other cache's row is damaged.
        """
        sound = sound_rows(other.header, other_rows)
        rows, other_rows, stat = rows[sound], other_rows[sound], stat[sound]
        self.write(
            rows,
            status=other.header.map("status")[other_rows],
            digest=other.digest[other_rows],
            stat=stat,
            statistics=other.header.map("pixel_statistics")[other_rows],
            features={layer: other.header.features(layer)[other_rows] for layer in self.cache.layers},
        )
        return sound

    def acknowledge(self) -> None:
        """Return when every row written so far is on the disk and counts."""
        if self._unacknowledged:
            self._rows.sync()
            for rows, status in self._unacknowledged:
                for position, (start, stop) in _runs_with_position(rows):
                    self._rows.write(self._header.fields["status"], start, status[position : position + stop - start])
            self._unacknowledged.clear()
            self._rows.sync()
        self._last_sync = time.monotonic()

    def close(self) -> None:
        """Acknowledge what was written and let go of the file."""
        try:
            self.acknowledge()
        finally:
            self._rows.close()

    def __enter__(self) -> CacheWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _write_text(self, name: str, row: int, values: Sequence[str | None]) -> None:
        field = self._header.fields[name]
        self._rows.write(field, row, as_fixed_text(values).astype(field.dtype))


def _is_given(name: str) -> bool:
    """Whether the dataset is written when the file is made and not again."""
    return name == "ids" or name.startswith("labels/")


def _runs(rows: np.ndarray) -> Iterator[tuple[int, int]]:
    """Yield the stretches of consecutive numbers in `rows`, as (start, stop)."""
    for _, run in _runs_with_position(rows):
        yield run


def _runs_with_position(rows: np.ndarray) -> Iterator[tuple[int, tuple[int, int]]]:
    """Yield ``(position in rows, (start, stop))`` for every stretch of consecutive numbers."""
    rows = np.asarray(rows)
    if not rows.size:
        return
    cuts = np.flatnonzero(np.diff(rows) != 1) + 1
    begins = np.concatenate([[0], cuts])
    ends = np.concatenate([cuts, [len(rows)]])
    for begin, end in zip(begins, ends, strict=True):
        yield int(begin), (int(rows[begin]), int(rows[end - 1]) + 1)
