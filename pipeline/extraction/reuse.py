"""Which images need no network because a cache of the same recipe already holds their features?"""

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
from pipeline.images import FAST_FULL_SIZE, decode_mode, is_reduced, reads_alike
from pipeline.provenance import Preprocessing

# Reasons outside the file: an image that failed for one of them is tried again even if its file has not changed.
TRIED_AGAIN = (SkipReason.MISSING, SkipReason.FORBIDDEN, SkipReason.NO_DECODER)


@dataclass(frozen=True)
class EarlierPixels:
    """How the photos of an earlier cache became pixels, to tell which of its rows can be reused.

    Attributes
    ----------
    rules : str
        The photo rules.
    full_size : Preprocessing or None
        Given if `--decode fast` decoded large JPEGs at full size, as it did before it reduced them.
    """

    rules: str
    full_size: Preprocessing | None = None

    @classmethod
    def of(cls, recipe: Mapping[str, Any]) -> EarlierPixels:
        """Return what a cache's recipe says."""
        rules = str(recipe.get("photo_rules"))
        if decode_mode(str(recipe.get("decoder"))) != FAST_FULL_SIZE:
            return cls(rules)
        return cls(rules, Preprocessing(**recipe["preprocessing"]))

    def are_the_same_for(self, content: bytes | np.ndarray) -> bool:
        """Return whether a photo has the same pixels now."""
        return reads_alike(content, self.rules) and (self.full_size is None or not is_reduced(content, self.full_size))


class DigestIndex:
    """Find the stored row of an image by its content, over any number of caches.

    Parameters
    ----------
    caches : sequence of FeatureCache
        All of one recipe, each with every layer that is needed.
    earlier : sequence of FeatureCache
        Caches of the same recipe but for how earlier versions read some photos: see `EarlierPixels`. Their rows are
        found only for photos that have the same pixels now.
    """

    def __init__(self, caches: Sequence[FeatureCache], earlier: Sequence[FeatureCache] = ()) -> None:
        self.caches = [*caches, *earlier]
        self._count = len(caches)
        self._earlier_pixels = [EarlierPixels.of(cache.recipe) for cache in earlier]
        stored = [cache.rows for cache in self.caches]
        digests = [np.ascontiguousarray(cache.digest[rows]) for cache, rows in zip(self.caches, stored, strict=True)]
        halves = np.concatenate([np.zeros((0, 2), ">u8"), *(digest.view(">u8") for digest in digests)])
        order = np.argsort(halves[:, 0], kind="stable")
        self._first = halves[order, 0].astype(np.uint64)  # sorted by the first half, which nearly always decides
        self._second = halves[order, 1].astype(np.uint64)
        self._rows = np.concatenate([np.zeros(0, np.int64), *stored])[order]
        self._cache = np.repeat(np.arange(len(stored)), [len(rows) for rows in stored])[order]
        # For an entry of an earlier cache its number, from 1; 0 for an entry of the recipe itself.
        self._earlier = np.maximum(self._cache - (self._count - 1), 0).astype(np.uint64)

    def __reduce__(self) -> tuple[Any, ...]:
        # Only the paths are sent: a receiving process builds its own index from the files, once.
        paths = tuple(str(cache.path.resolve()) for cache in self.caches)
        return _index_of, (paths[: self._count], paths[self._count :])

    def __len__(self) -> int:
        return len(self._rows)

    def find(self, digest: bytes, content: bytes | np.ndarray | None = None) -> int:
        """Return the number of an entry with this content, -1 if there is none.

        Entries of earlier caches are found only if the `content` is given too.
        """
        return _find(digest, content, self._first, self._second, self._earlier, self._earlier_pixels)

    def write_file(self, path: Path) -> DigestIndexFile:
        """Write the index to a file, and return an index that other processes can read from it."""
        np.save(path, np.stack([self._first, self._second, self._earlier]))
        return DigestIndexFile(str(path), tuple(self._earlier_pixels))

    def by_cache(self, entries: np.ndarray) -> Iterable[tuple[FeatureCache, np.ndarray, np.ndarray]]:
        """Yield each cache that holds any of these entries, with the positions of its entries and their rows in it."""
        caches = self._cache[entries]
        for number in np.unique(caches):
            positions = np.flatnonzero(caches == number)
            yield self.caches[number], positions, self._rows[entries[positions]]


@dataclass(frozen=True)
class DigestIndexFile:
    """A `DigestIndex` in a file, which finds the same entries even after its caches were removed.

    Attributes
    ----------
    path : str
    pixels : tuple of EarlierPixels
        Of each earlier cache.
    """

    path: str
    pixels: tuple[EarlierPixels, ...] = ()

    def find(self, digest: bytes, content: bytes | np.ndarray | None = None) -> int:
        """Return the number of an entry with this content, -1 if there is none; see `DigestIndex.find`."""
        first, second, earlier = _entries_in(self.path)
        return _find(digest, content, first, second, earlier, self.pixels)


@lru_cache(maxsize=1)
def _entries_in(path: str) -> np.ndarray:
    return np.load(path, mmap_mode="r", allow_pickle=False)


def _find(
    digest: bytes,
    content: bytes | np.ndarray | None,
    first_halves: np.ndarray,
    second_halves: np.ndarray,
    earlier: np.ndarray,
    pixels: Sequence[EarlierPixels],
) -> int:
    first, second = (np.uint64(int.from_bytes(half, "big")) for half in (digest[:8], digest[8:]))
    entry = int(np.searchsorted(first_halves, first))
    while entry < len(first_halves) and first_halves[entry] == first:
        number = int(earlier[entry])
        if second_halves[entry] == second and (
            not number or (content is not None and pixels[number - 1].are_the_same_for(content))
        ):
            return entry
        entry += 1
    return -1


@lru_cache(maxsize=1)
def _index_of(paths: tuple[str, ...], earlier: tuple[str, ...]) -> DigestIndex:
    return DigestIndex([FeatureCache.open(path) for path in paths], [FeatureCache.open(path) for path in earlier])


@dataclass(frozen=True, eq=False)
class UnchangedRows:
    """Images whose id, size and time are those of a row in an earlier cache: they are not read again.

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


def find_unchanged(ids: Sequence[str], stat: np.ndarray, rows: np.ndarray, cache: FeatureCache) -> UnchangedRows:
    """Find rows of the source whose id, size and time an earlier cache holds.

    Parameters
    ----------
    ids : sequence of str, length n
    stat : ndarray of int64, shape (n, 2)
    rows : ndarray of int64
        Rows of the source to look for, ascending.
    cache : FeatureCache
        Of the same place and recipe.
    """
    row_of: Mapping[bytes, int] = {name: row for row, name in enumerate(cache.header.map("ids").tolist())}
    found = np.fromiter((row_of.get(ids[row].encode(), -1) for row in rows.tolist()), np.int64, len(rows))
    same = found >= 0
    status = cache.status[found[same]]
    same[same] = (status != PENDING) & ~np.isin(status, TRIED_AGAIN)
    same[same] = (cache.stat[found[same]] == stat[rows[same]]).all(axis=1)
    return UnchangedRows(cache, rows[same], found[same])


def read_rows(cache: FeatureCache, cache_rows: np.ndarray, rows: np.ndarray, stat: np.ndarray) -> EncodedBatch:
    """Read stored rows from a cache, bit for bit; rows that are damaged or pending are left out.

    Parameters
    ----------
    cache : FeatureCache
    cache_rows : ndarray of int64, shape (k,)
    rows : ndarray of int64, shape (k,)
        The same images' rows in the source.
    stat : ndarray of int64, shape (k, 2)
        Their size and time now.
    """
    held = cache.header.take(cache_rows)
    batch = EncodedBatch(
        rows,
        held["status"],
        held["digest"],
        stat,
        held["pixel_statistics"],
        {layer: held[features_name(layer)] for layer in cache.layers},
        np.full(len(rows), -1),
    )
    return batch.select(valid_rows(held))


def known_ids(data: Any, folder: Path) -> Callable[[], Container[str]] | None:
    """Return a function that returns the ids in the caches of this place, for `ImageSource.open`.

    A file with such an id is an image, and is listed without being opened. None if `data` is not a path.

    Parameters
    ----------
    data : Any
        As for `ImageSource.open`.
    folder : Path
        The folder of caches.
    """
    if not isinstance(data, str | os.PathLike):
        return None

    def known() -> Container[str]:
        place = Path(data).expanduser().resolve().as_posix()
        return {name for cache in caches_in(folder)[0] if cache.place == place for name in cache.ids}

    return known
