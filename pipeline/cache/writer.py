"""How are the rows of a cache written so that a crash cannot damage them?"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np

from pipeline.cache.create import RawFile
from pipeline.cache.feature_cache import FeatureCache
from pipeline.cache.format import PENDING, as_fixed_text, features_name, is_labels, labels_name
from pipeline.cache.lock import CacheLock
from pipeline.cache.reader import checksums
from pipeline.errors import CacheError

SECONDS_BETWEEN_SYNCS = 2.0


class CacheWriter:
    """Write the rows of one cache under its lock, which the caller holds and releases.

    A row's data and checksum are written first and synced to the disk; only then its status is set. A row whose status
    is set is therefore complete, whatever ends the process in between.

    Parameters
    ----------
    cache : FeatureCache
    lock : CacheLock
        An exclusive lock on this cache.

    Raises
    ------
    CacheError
        The file cannot be written.
    """

    def __init__(self, cache: FeatureCache, lock: CacheLock) -> None:
        if lock.cache != cache.path:
            raise ValueError(f"the lock is on {lock.cache}, the cache is {cache.path}")
        self.cache = cache
        self._fields = cache.header.fields
        with self._cache_errors():
            self._file = RawFile(cache.path)
        # Written when the file was created, and part of each row's checksum.
        self._text = {name: cache.header.map(name) for name in self._fields if name == "ids" or is_labels(name)}
        self._unacknowledged: list[tuple[np.ndarray, np.ndarray]] = []
        self._last_sync = time.monotonic()

    def reset(
        self, rows: np.ndarray, ids: Sequence[str], stat: np.ndarray, columns: Mapping[str, Sequence[str | None]]
    ) -> None:
        """Set rows to pending and write their ids, file sizes, times and labels again.

        Parameters
        ----------
        rows : ndarray of int64, shape (k,)
        ids, stat, columns
            Of all n rows of the source.
        """
        texts: dict[str, Sequence[str | None]] = {"ids": ids, **{labels_name(name): columns[name] for name in columns}}
        with self._cache_errors():
            for _, start, stop in _runs(rows):
                self._put("status", start, np.full(stop - start, PENDING))
                self._put("stat", start, stat[start:stop])
                for name, values in texts.items():
                    self._put(name, start, as_fixed_text(values[start:stop], self._fields[name].dtype.itemsize))
            self._file.sync()

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
        """Write k rows; they count after `acknowledge`, which `write` calls every two seconds.

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
        rows = np.asarray(rows)
        data = {"digest": digest, "stat": stat, "pixel_statistics": statistics}
        data |= {features_name(layer): features[layer] for layer in self.cache.layers}
        data = {name: np.asarray(values, self._fields[name].dtype) for name, values in data.items()}
        status = np.asarray(status, self._fields["status"].dtype)
        text = {name: np.asarray(values[rows]) for name, values in self._text.items()}
        data["crc32"] = checksums({**text, **data, "status": status})

        with self._cache_errors():
            for at, start, stop in _runs(rows):
                for name, values in data.items():
                    self._put(name, start, values[at : at + stop - start])
        self._unacknowledged.append((rows, status))
        if time.monotonic() - self._last_sync > SECONDS_BETWEEN_SYNCS:
            self.acknowledge()

    def acknowledge(self) -> None:
        """Sync every row written so far and set its status; return when both are on the disk."""
        if self._unacknowledged:
            with self._cache_errors():
                self._sync_data()
                for rows, status in self._unacknowledged:
                    for at, start, stop in _runs(rows):
                        self._put("status", start, status[at : at + stop - start])
                self._unacknowledged.clear()
                self._file.sync()
        self._last_sync = time.monotonic()

    def close(self) -> None:
        """Acknowledge the rows written so far and close the file."""
        try:
            self.acknowledge()
        finally:
            self._file.close()

    def __enter__(self) -> CacheWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _sync_data(self) -> None:
        try:
            self._file.sync()
        except OSError:
            # After a failed sync the system drops the unwritten pages, and the next sync would report success.
            self._unacknowledged.clear()
            raise

    def _put(self, name: str, row: int, values: np.ndarray) -> None:
        self._file.write(self._fields[name], row, values)

    @contextmanager
    def _cache_errors(self) -> Iterator[None]:
        """Turn an `OSError` into a `CacheError` that names the file and the next step."""
        try:
            yield
        except OSError as error:
            raise CacheError(
                f"{self.cache.path}: expected to write the cache, got {error.strerror or error}",
                "fix that and run the same command again, or give another folder with --cache DIR",
            ) from error


def _runs(rows: np.ndarray) -> Iterator[tuple[int, int, int]]:
    """Yield ``(position in rows, first row, row after the last)`` for every stretch of consecutive numbers."""
    if not len(rows):
        return
    begins = [0, *(np.flatnonzero(np.diff(rows) != 1) + 1).tolist()]
    for begin, end in zip(begins, [*begins[1:], len(rows)], strict=True):
        yield begin, int(rows[begin]), int(rows[end - 1]) + 1
