"""Read, decode and infer a handful of images: what every worker does, wherever it works."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from pipeline.cache import STORED
from pipeline.cache.layout import DIGEST_BYTES, STATISTICS
from pipeline.errors import SkipReason, UnreadableImage
from pipeline.extraction.block import EncodedBatch, Timing
from pipeline.extraction.known import DigestIndex, DigestIndexFile
from pipeline.extraction.network import LazyNetwork
from pipeline.images import PHOTO_RULES, ImageSource, prepare, reads_alike
from pipeline.provenance import Preprocessing
from pipeline.runtime import Runtime


@dataclass(frozen=True, eq=False)
class DecodedBatch:
    """What became of k images before the network saw those of them that it is to see, b in number.

    Attributes
    ----------
    rows, status, digest, stat, statistics, known
        As a `Block` has them.
    pixels : ndarray of uint8, shape (b, crop, crop, 3)
    positions : ndarray of int64, shape (b,)
        Which of the k images these pixels are of.
    details : mapping of position to str
        More about the images that failed.
    decoding : float
        Seconds from the files' bytes to the pixels.
    otherwise : tuple of int
        Positions of the images that the photo rules in `Embedding.rules` read differently.
    """

    rows: np.ndarray
    status: np.ndarray
    digest: np.ndarray
    stat: np.ndarray
    statistics: np.ndarray
    known: np.ndarray
    pixels: np.ndarray
    positions: np.ndarray
    details: Mapping[int, str]
    decoding: float
    otherwise: tuple[int, ...] = ()


@dataclass(frozen=True, eq=False)
class BatchEncoder:
    """How images become features.

    Attributes
    ----------
    source : ImageSource
    runtime : Runtime
    preprocessing : Preprocessing
    known : KnownDigests or FiledDigests, optional
        Content that needs no network because its features are stored somewhere.
    store_type : dtype, optional
        The type the features will be stored in; what does not fit into it is not finite.
    decode : {"exact", "fast"}
        How photos become pixels.
    rules : str
        The photo rules that the features are compared with; `PHOTO_RULES`, or those of an earlier version.
    """

    source: ImageSource
    runtime: Runtime
    preprocessing: Preprocessing
    known: DigestIndex | DigestIndexFile | None = None
    store_type: np.dtype | None = None
    decode: str = "exact"
    rules: str = PHOTO_RULES

    def block(self, rows: np.ndarray) -> EncodedBatch:
        """Return what becomes of the images in `rows`; one that fails is a row with its reason."""
        return self.infer(self.prepare(rows))

    def prepare(self, rows: np.ndarray, into: np.ndarray | None = None) -> DecodedBatch:
        """Return these images as the network takes them; one that fails has its reason.

        Parameters
        ----------
        rows : ndarray of int64, shape (k,)
        into : ndarray of uint8, shape (k, crop, crop, 3), optional
            Where the pixels are to be put.
        """
        source, k, crop = self.source, len(rows), self.preprocessing.crop
        status = np.full(k, STORED, np.uint8)
        digest = np.zeros((k, DIGEST_BYTES), np.uint8)
        stat = np.array(source.stat[rows], np.int64)
        statistics = np.zeros((k, STATISTICS), np.float32)
        found = np.full(k, -1, np.int64)
        details: dict[int, str] = {}
        pixels = np.empty((k, crop, crop, 3), np.uint8) if into is None else into
        positions: list[int] = []
        otherwise: list[int] = []
        decoding = 0.0
        for position, row in enumerate(rows):
            try:
                photo = source.read(int(row))
                digest[position] = np.frombuffer(photo.digest, np.uint8)
                stat[position] = photo.stat
                if self.known is not None:
                    found[position] = self.known.find(photo.digest, photo.content)
                    if found[position] >= 0:
                        continue
                started = time.perf_counter()
                pixels[len(positions)], statistics[position] = prepare(photo, self.preprocessing, self.decode)
                decoding += time.perf_counter() - started
                positions.append(position)
                if self.rules != PHOTO_RULES and not reads_alike(photo.content, self.rules):
                    otherwise.append(position)
            except UnreadableImage as error:
                status[position] = error.reason
                details[position] = str(error)
        ready = np.array(positions, np.int64)
        made = pixels[: len(ready)]
        return DecodedBatch(
            rows, status, digest, stat, statistics, found, made, ready, details, decoding, tuple(otherwise)
        )

    def infer(self, prepared: DecodedBatch) -> EncodedBatch:
        """Return what becomes of prepared images: the network's features, of those that it can be asked about."""
        rows, at = prepared.rows, prepared.positions
        status, details = prepared.status.copy(), dict(prepared.details)
        features = {layer: np.zeros((len(rows), width), np.float32) for layer, width in self.runtime.layers.items()}
        started = opened = time.perf_counter()
        if len(at):
            if isinstance(self.runtime, LazyNetwork):
                self.runtime.open()  # here, so that loading is not taken for computing
                opened = time.perf_counter()
            inferred = self.runtime(prepared.pixels)  # (b, h, w, 3) uint8 -> {layer: (b, d)}
            finite = np.ones(len(at), bool)
            with np.errstate(over="ignore"):
                for values in inferred.values():
                    finite &= np.isfinite(values.astype(self.store_type or np.float32)).all(axis=1)
            for layer, values in inferred.items():
                features[layer][at[finite]] = values[finite]
            status[at[~finite]] = SkipReason.NOT_FINITE
            details.update(dict.fromkeys(at[~finite].tolist(), SkipReason.NOT_FINITE.text))
        return EncodedBatch(
            rows,
            status,
            prepared.digest,
            prepared.stat,
            prepared.statistics,
            features,
            prepared.known,
            len(at),
            {int(rows[position]): text for position, text in details.items()},
            Timing(prepared.decoding, time.perf_counter() - opened, opened - started),
            frozenset(rows[list(prepared.otherwise)].tolist()),
        )
