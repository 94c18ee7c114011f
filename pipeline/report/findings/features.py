"""The stored features of images, found by their ids."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from pipeline.cache import FeatureCache
from pipeline.near_duplicates import RowSource


@dataclass(frozen=True, eq=False)
class Features:
    """One layer of a cache.

    Attributes
    ----------
    ids : sequence of str, length n
    X : array or LazyRows, shape (n, d)
    has : ndarray of bool, shape (n,)
        Whether the row holds features: an image that could not be read has none.
    digests : ndarray of uint8, shape (n, 16)
        Of the images' content.
    """

    ids: Sequence[str]
    X: RowSource = field(repr=False)
    has: np.ndarray = field(repr=False)
    digests: np.ndarray = field(repr=False)

    @classmethod
    def of(cls, cache: FeatureCache, layer: str | None = None) -> Features:
        """Return a layer of a cache, by default the penultimate one.

        Raises
        ------
        CacheError
            No such layer, or the cache is incomplete or damaged.
        """
        has = np.zeros(len(cache), bool)
        has[cache.rows] = True
        return cls(cache.ids, cache.stored(layer), has, np.asarray(cache.digest))

    @cached_property
    def _row_of(self) -> dict[str, int]:
        return {name: row for row, name in enumerate(self.ids) if self.has[row]}

    def rows(self, ids: Sequence[str]) -> np.ndarray:
        """``(len(ids),)`` int64: the row of each image, -1 where it has no features here."""
        return np.array([self._row_of.get(name, -1) for name in ids], np.int64)
