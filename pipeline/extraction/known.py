"""Which images need no network: rows that some cache of the same recipe already holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.cache import PENDING, STORED, FeatureCache
from pipeline.errors import SkipReason

# What failed for a reason that lies outside the file is tried again although the file has not changed.
TRIED_AGAIN = (SkipReason.MISSING, SkipReason.FORBIDDEN, SkipReason.NO_DECODER)


class KnownDigests:
    """Find the stored row of an image by its content, over any number of caches.

    Parameters
    ----------
    caches : sequence of FeatureCache
        All of one recipe, each with every layer that is wanted.
    """

    def __init__(self, caches: Sequence[FeatureCache]) -> None:
        self.caches = list(caches)
        stored = [cache.rows for cache in self.caches]
        digests = [np.ascontiguousarray(cache.digest[rows]) for cache, rows in zip(self.caches, stored, strict=True)]
        halves = np.concatenate([np.zeros((0, 2), ">u8"), *(digest.view(">u8") for digest in digests)])
        order = np.argsort(halves[:, 0], kind="stable")
        self._first = halves[order, 0].astype(np.uint64)  # sorted by the first half, which nearly always decides
        self._second = halves[order, 1].astype(np.uint64)
        self._rows = np.concatenate([np.zeros(0, np.int64), *stored])[order]
        self._cache = np.concatenate(
            [np.zeros(0, np.int64), *(np.full(len(rows), number) for number, rows in enumerate(stored))]
        )[order]

    def __len__(self) -> int:
        return len(self._rows)

    def find(self, digest: bytes) -> int:
        """Return the number of an entry with this content, -1 if there is none."""
        first, second = (np.uint64(int.from_bytes(half, "big")) for half in (digest[:8], digest[8:]))
        entry = int(np.searchsorted(self._first, first))
        while entry < len(self._first) and self._first[entry] == first:
            if self._second[entry] == second:
                return entry
            entry += 1
        return -1

    def place(self, entry: int) -> tuple[FeatureCache, int]:
        """Return the cache and the row of an entry."""
        return self.caches[int(self._cache[entry])], int(self._rows[entry])


@dataclass(frozen=True)
class Unchanged:
    """Images that an earlier cache of the same place knows by id, size and time: they are not read again.

    Attributes
    ----------
    cache : FeatureCache
    rows : ndarray of int64, shape (k,)
        In the source.
    cache_rows : ndarray of int64, shape (k,)
        In the cache.
    """

    cache: FeatureCache
    rows: np.ndarray
    cache_rows: np.ndarray


def unchanged(
    ids: Sequence[str], stat: np.ndarray, wanted: np.ndarray, earlier: Sequence[FeatureCache]
) -> list[Unchanged]:
    """Return, for each earlier cache in turn, the wanted rows that it knows unchanged and no one before it did.

    Parameters
    ----------
    ids : sequence of str, length n
    stat : ndarray of int64, shape (n, 2)
    wanted : ndarray of int64
        Rows of the source to look for.
    earlier : sequence of FeatureCache
        Of the same place and recipe, best first.
    """
    found = []
    left = np.asarray(wanted)
    for cache in earlier:
        row_of: Mapping[str, int] = {name: row for row, name in enumerate(cache.ids)}
        candidates = np.array([row_of.get(ids[row], -1) for row in left], np.int64)
        there = candidates >= 0
        status = cache.status
        final = np.zeros(len(left), bool)
        final[there] = _is_final(status[candidates[there]])
        same = there & final
        same[same] = (cache.stat[candidates[same]] == stat[left[same]]).all(axis=1)
        if same.any():
            found.append(Unchanged(cache, left[same], candidates[same]))
            left = left[~same]
    return found


def to_try_again(status: np.ndarray) -> np.ndarray:
    """Return the rows that failed for a reason outside the file."""
    return np.flatnonzero(np.isin(status, TRIED_AGAIN))


def _is_final(status: np.ndarray) -> np.ndarray:
    return (status == STORED) | ((status != PENDING) & ~np.isin(status, TRIED_AGAIN))
