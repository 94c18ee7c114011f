"""`Block`: what became of a handful of images, on its way to the cache or to a head."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True, eq=False)
class Block:
    """What became of k images.

    Attributes
    ----------
    rows : ndarray of int64, shape (k,)
        Their numbers in the source.
    status : ndarray of uint8, shape (k,)
        Stored, or the reason why not.
    digest : ndarray of uint8, shape (k, 16)
    stat : ndarray of int64, shape (k, 2)
    statistics : ndarray of float32, shape (k, 12)
    features : mapping of layer name to ndarray, shape (k, d)
        float32 from the network; from a cache in the type it stores.
    known : ndarray of int64, shape (k,)
        Entry of `KnownDigests` that holds the same content, -1 for none; such an image was not decoded.
    inferred : int
        How many images went through the network for it.
    details : mapping of row to str
        More about the images that failed.
    """

    rows: np.ndarray
    status: np.ndarray
    digest: np.ndarray
    stat: np.ndarray
    statistics: np.ndarray
    features: Mapping[str, np.ndarray]
    known: np.ndarray
    inferred: int = 0
    details: Mapping[int, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.rows)

    def where(self, which: np.ndarray) -> Block:
        """Return the block of some of its images, by a mask or by positions."""
        return Block(
            self.rows[which],
            self.status[which],
            self.digest[which],
            self.stat[which],
            self.statistics[which],
            {layer: values[which] for layer, values in self.features.items()},
            self.known[which],
            self.inferred,
            self.details,
        )
