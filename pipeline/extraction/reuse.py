"""Which images need no network: rows that some cache of the same recipe already holds."""

from __future__ import annotations

import os
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.cache import PENDING, FeatureCache, caches_in, features_name, valid_rows
from pipeline.errors import SkipReason
from pipeline.extraction.batch import EncodedBatch
from pipeline.images import reads_alike

# What failed for a reason that lies outside the file is tried again although the file has not changed.
TRIED_AGAIN = (SkipReason.MISSING, SkipReason.FORBIDDEN, SkipReason.NO_DECODER)


class DigestIndex:
    """Find the stored row of an image by its content, over any number of caches.

    Parameters
    ----------
    caches : sequence of FeatureCache
        All of one recipe, each with every layer that is wanted.
    earlier : sequence of FeatureCache
        Of the same recipe but for its photo rules, which are all the same earlier ones: their rows are found for the
        photos alone that both rules read alike.
    """

    def __init__(self, caches: Sequence[FeatureCache], earlier: Sequence[FeatureCache] = ()) -> None:
        self.caches = [*caches, *earlier]
        self._count = len(caches)
        self._rules = [str(cache.recipe.get("photo_rules")) for cache in earlier]
        stored = [cache.rows for cache in self.caches]
        digests = [np.ascontiguousarray(cache.digest[rows]) for cache, rows in zip(self.caches, stored, strict=True)]
        halves = np.concatenate([np.zeros((0, 2), ">u8"), *(digest.view(">u8") for digest in digests)])
        order = np.argsort(halves[:, 0], kind="stable")
        self._first = halves[order, 0].astype(np.uint64)  # sorted by the first half, which nearly always decides
        self._second = halves[order, 1].astype(np.uint64)
        self._rows = np.concatenate([np.zeros(0, np.int64), *stored])[order]
        self._cache = np.repeat(np.arange(len(stored)), [len(rows) for rows in stored])[order]
        # Number of the earlier cache that an entry is of, 0 for those of the recipe itself.
        self._earlier = np.maximum(self._cache - (self._count - 1), 0).astype(np.uint64)

    def __reduce__(self) -> tuple[Any, ...]:
        # Where the rows are, never the rows: the process that gets it reads them for itself, once.
        paths = tuple(str(cache.path.resolve()) for cache in self.caches)
        return _known_at, (paths[: self._count], paths[self._count :])

    def __len__(self) -> int:
        return len(self._rows)

    def find(self, digest: bytes, content: bytes | np.ndarray | None = None) -> int:
        """Return the number of an entry with this content, -1 if there is none.

        Without the `content` itself, no entry of earlier photo rules is found.
        """
        return _find(digest, content, self._first, self._second, self._earlier, self._rules)

    def filed(self, path: Path) -> DigestIndexFile:
        """Return what finds the same entries, in other processes too, and write the file that it reads."""
        np.save(path, np.stack([self._first, self._second, self._earlier]))
        return DigestIndexFile(str(path), tuple(self._rules))

    def places(self, entries: np.ndarray) -> Iterable[tuple[FeatureCache, np.ndarray, np.ndarray]]:
        """Give, for each cache that holds some of these entries, the cache, which of them, and its rows."""
        caches = self._cache[entries]
        for number in np.unique(caches):
            which = np.flatnonzero(caches == number)
            yield self.caches[number], which, self._rows[entries[which]]


@dataclass(frozen=True)
class DigestIndexFile:
    """Find the entries of `DigestIndex` as they were when the file was written, whatever its caches become.

    Attributes
    ----------
    path : str
    rules : tuple of str
        Of the caches of earlier photo rules.
    """

    path: str
    rules: tuple[str, ...] = ()

    def find(self, digest: bytes, content: bytes | np.ndarray | None = None) -> int:
        """Return the number of an entry with this content, -1 if there is none; see `DigestIndex.find`."""
        first, second, earlier = _entries_in(self.path)
        return _find(digest, content, first, second, earlier, self.rules)


@lru_cache(maxsize=1)
def _entries_in(path: str) -> np.ndarray:
    return np.load(path, mmap_mode="r", allow_pickle=False)


def _find(
    digest: bytes,
    content: bytes | np.ndarray | None,
    first_halves: np.ndarray,
    second_halves: np.ndarray,
    earlier: np.ndarray,
    rules: Sequence[str],
) -> int:
    first, second = (np.uint64(int.from_bytes(half, "big")) for half in (digest[:8], digest[8:]))
    entry = int(np.searchsorted(first_halves, first))
    while entry < len(first_halves) and first_halves[entry] == first:
        number = int(earlier[entry])
        # An earlier rule's row stands for the content only where the photo's pixels are the same under both rules.
        if second_halves[entry] == second and (
            not number or (content is not None and reads_alike(content, rules[number - 1]))
        ):
            return entry
        entry += 1
    return -1


@lru_cache(maxsize=1)
def _known_at(paths: tuple[str, ...], earlier: tuple[str, ...]) -> DigestIndex:
    return DigestIndex([FeatureCache.open(path) for path in paths], [FeatureCache.open(path) for path in earlier])


@dataclass(frozen=True, eq=False)
class UnchangedRows:
    """Images that an earlier cache of the same place knows by id, size and time: they are not read again.

    Attributes
    ----------
    cache : FeatureCache
    rows : ndarray of int64, shape (k,)
        In the source, ascending.
    cache_rows : ndarray of int64, shape (k,)
        In the cache.
    """

    cache: FeatureCache
    rows: np.ndarray
    cache_rows: np.ndarray


def find_unchanged(ids: Sequence[str], stat: np.ndarray, wanted: np.ndarray, cache: FeatureCache) -> UnchangedRows:
    """Return which of the wanted rows an earlier cache knows by id, size and time.

    Parameters
    ----------
    ids : sequence of str, length n
    stat : ndarray of int64, shape (n, 2)
    wanted : ndarray of int64
        Rows of the source to look for, ascending.
    cache : FeatureCache
        Of the same place and recipe.
    """
    row_of: Mapping[bytes, int] = {name: row for row, name in enumerate(cache.header.map("ids").tolist())}
    found = np.fromiter((row_of.get(ids[row].encode(), -1) for row in wanted.tolist()), np.int64, len(wanted))
    same = found >= 0
    status = cache.status[found[same]]
    same[same] = (status != PENDING) & ~np.isin(status, TRIED_AGAIN)
    same[same] = (cache.stat[found[same]] == stat[wanted[same]]).all(axis=1)
    return UnchangedRows(cache, wanted[same], found[same])


def read_rows(cache: FeatureCache, cache_rows: np.ndarray, rows: np.ndarray, stat: np.ndarray) -> EncodedBatch:
    """Return what a cache holds of these images, bit for bit; rows that are damaged or pending are left out.

    Parameters
    ----------
    cache : FeatureCache
    cache_rows : ndarray of int64, shape (k,)
    rows : ndarray of int64, shape (k,)
        The same images' rows in the source.
    stat : ndarray of int64, shape (k, 2)
        Their size and time as they lie now.
    """
    held = cache.header.take(cache_rows)
    block = EncodedBatch(
        rows,
        held["status"],
        held["digest"],
        stat,
        held["pixel_statistics"],
        {layer: held[features_name(layer)] for layer in cache.layers},
        np.full(len(rows), -1),
    )
    return block.where(valid_rows(held))


def known_ids(data: Any, folder: Path) -> Callable[[], Container[str]] | None:
    """Return what gives the ids that caches of this place know, so that they are listed without being opened.

    Parameters
    ----------
    data : Any
        As for `ImageSource.open`; only a path has a place of its own.
    folder : Path
        The folder of caches.
    """
    if not isinstance(data, str | os.PathLike):
        return None

    def known() -> Container[str]:
        place = Path(data).expanduser().resolve().as_posix()
        return {name for cache in caches_in(folder)[0] if cache.place == place for name in cache.ids}

    return known
