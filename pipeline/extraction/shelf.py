"""`Shelf`: the caches that lie where a new one is to be made, and may lend it rows."""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.cache import FeatureCache, caches_in
from pipeline.errors import CacheError


@dataclass(frozen=True, eq=False)
class CacheCandidates:
    """What `complete` finds.

    Attributes
    ----------
    found : list of FeatureCache
        Of one file each, newest first.
    refused : mapping of Path to CacheError
        Files that are no caches.
    """

    found: list[FeatureCache]
    refused: Mapping[Path, CacheError] = field(default_factory=dict)

    @classmethod
    def of(cls, folder: Path) -> CacheCandidates:
        """Return what lies in a folder of caches."""
        found, refused = caches_in(folder)
        return cls([part for cache in found for part in cache.parts], refused)


class PartCacheCandidates:
    """What each part finds: its own earlier files, and all that is not another part of the same cache.

    Looked through once for all parts. The other parts are left out, because to compare each with all of them would cost
    the square of their number; but one whose shard is gone may be where a renamed shard was, and is kept.

    Parameters
    ----------
    folder : Path
        Of the parts.
    beside : Path
        The folder of caches that it lies in.
    places : container of str
        Of all parts there are to be.
    """

    def __init__(self, folder: Path, beside: Path, places: Container[str]) -> None:
        mine, refused = caches_in(folder)
        self._refused = refused
        self._own: dict[str, list[FeatureCache]] = {}
        self._others = [part for cache in caches_in(beside)[0] if cache.path != folder for part in cache.parts]
        self.orphans: list[FeatureCache] = []
        for cache in mine:
            if cache.place in places:
                self._own.setdefault(cache.place, []).append(cache)
            else:
                self.orphans.append(cache)

    def of(self, place: str) -> CacheCandidates:
        """Return what the part of the images at this place finds."""
        return CacheCandidates([*self._own.get(place, []), *self.orphans, *self._others], self._refused)
