"""In what form do encoded images travel from a worker to the cache or to a head?"""

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
        From a file's bytes to the network's input, with the digest and the pixel statistics.
    network : float
        In the network or waiting for it; for a process that only decodes, its waiting time.
    loading : float
        Waiting for the network to load.
    """

    decode: float = 0.0
    network: float = 0.0
    loading: float = 0.0

    def __add__(self, other: Timing) -> Timing:
        return Timing(self.decode + other.decode, self.network + other.network, self.loading + other.loading)


@dataclass(frozen=True, eq=False)
class EncodedBatch:
    """Features or failure reasons of k images, with their digests, file sizes and times, and pixel statistics.

    Attributes
    ----------
    rows : ndarray of int64, shape (k,)
        Their numbers in the source.
    status : ndarray of uint8, shape (k,)
        `STORED`, or a `SkipReason`.
    digest : ndarray of uint8, shape (k, 16)
    stat : ndarray of int64, shape (k, 2)
    statistics : ndarray of float32, shape (k, 12)
    features : mapping of layer name to ndarray, shape (k, d)
        float32 from the network; from a cache, its storage type.
    known : ndarray of int64, shape (k,)
        Entry of `DigestIndex` with the same content, -1 for none; an image with an entry was not decoded.
    inferred : int
        How many images went through the network.
    details : mapping of row to str
        Reasons of the images that failed, with more detail than `SkipReason.text`.
    timing : Timing
        Time of the worker that made the batch.
    read_differently : frozenset of int
        Rows of images that were read, and that the photo rules in `BatchEncoder.rules` would read differently.
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
    timing: Timing = Timing()
    read_differently: frozenset[int] = frozenset()

    def __len__(self) -> int:
        return len(self.rows)

    def select(self, which: np.ndarray) -> EncodedBatch:
        """Return the batch of some of its images, by a mask or by positions."""
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
            self.timing,
            self.read_differently,
        )

    @staticmethod
    def joined(batches: Sequence[EncodedBatch], rows: np.ndarray) -> EncodedBatch:
        """Return several batches as one, and number its images by `rows`: what was n becomes ``rows[n]``."""
        return EncodedBatch(
            rows[np.concatenate([batch.rows for batch in batches])],
            np.concatenate([batch.status for batch in batches]),
            np.concatenate([batch.digest for batch in batches]),
            np.concatenate([batch.stat for batch in batches]),
            np.concatenate([batch.statistics for batch in batches]),
            {layer: np.concatenate([batch.features[layer] for batch in batches]) for layer in batches[0].features},
            np.concatenate([batch.known for batch in batches]),
            sum(batch.inferred for batch in batches),
            {int(rows[row]): text for batch in batches for row, text in batch.details.items()},
            sum((batch.timing for batch in batches), Timing()),
            frozenset(int(rows[row]) for batch in batches for row in batch.read_differently),
        )
