"""`Block`: what became of a handful of images, on its way to the cache or to a head."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class Timing:
    """Seconds of a worker's time.

    Attributes
    ----------
    decode : float
        From a file's bytes to the network's input, the digest and the pixel statistics too.
    network : float
        In the network, or waiting for it; of processes that decode for it what they waited.
    loading : float
        Waiting until the network was loaded.
    """

    decode: float = 0.0
    network: float = 0.0
    loading: float = 0.0

    def __add__(self, other: Timing) -> Timing:
        return Timing(self.decode + other.decode, self.network + other.network, self.loading + other.loading)


@dataclass(frozen=True, eq=False)
class EncodedBatch:
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
        Entry of `DigestIndex` that holds the same content, -1 for none; such an image was not decoded.
    inferred : int
        How many images went through the network for it.
    details : mapping of row to str
        More about the images that failed.
    spent : Spent
        What it cost the worker that made it.
    otherwise : frozenset of int
        Rows of images that were read, and that the photo rules in `Embedding.rules` read differently.
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
    spent: Timing = Timing()
    otherwise: frozenset[int] = frozenset()

    def __len__(self) -> int:
        return len(self.rows)

    def where(self, which: np.ndarray) -> EncodedBatch:
        """Return the block of some of its images, by a mask or by positions."""
        return EncodedBatch(
            self.rows[which],
            self.status[which],
            self.digest[which],
            self.stat[which],
            self.statistics[which],
            {layer: values[which] for layer, values in self.features.items()},
            self.known[which],
            self.inferred,
            self.details,
            self.spent,
            self.otherwise,
        )

    @staticmethod
    def joined(blocks: Sequence[EncodedBatch], rows: np.ndarray) -> EncodedBatch:
        """Return several blocks as one, and number its images by `rows`: what was n becomes ``rows[n]``."""
        return EncodedBatch(
            rows[np.concatenate([block.rows for block in blocks])],
            np.concatenate([block.status for block in blocks]),
            np.concatenate([block.digest for block in blocks]),
            np.concatenate([block.stat for block in blocks]),
            np.concatenate([block.statistics for block in blocks]),
            {layer: np.concatenate([block.features[layer] for block in blocks]) for layer in blocks[0].features},
            np.concatenate([block.known for block in blocks]),
            sum(block.inferred for block in blocks),
            {int(rows[row]): text for block in blocks for row, text in block.details.items()},
            sum((block.spent for block in blocks), Timing()),
            frozenset(int(rows[row]) for block in blocks for row in block.otherwise),
        )
