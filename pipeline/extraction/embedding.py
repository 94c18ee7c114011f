"""Read, decode and infer a handful of images: what every worker does, wherever it works."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

from pipeline.cache import STORED
from pipeline.cache.layout import DIGEST_BYTES, STATISTICS
from pipeline.errors import SkipReason, UnreadablePhoto
from pipeline.extraction.block import Block, Spent
from pipeline.extraction.known import KnownDigests
from pipeline.images import ImageSource, prepare
from pipeline.provenance import Preprocessing
from pipeline.runtime import Runtime


@dataclass(frozen=True, eq=False)
class Embedding:
    """How images become features.

    Attributes
    ----------
    source : ImageSource
    runtime : Runtime
    preprocessing : Preprocessing
    known : KnownDigests, optional
        Content that needs no network because its features are stored somewhere.
    store_type : dtype, optional
        The type the features will be stored in; what does not fit into it is not finite.
    decode : {"exact", "fast"}
        How photos become pixels.
    """

    source: ImageSource
    runtime: Runtime
    preprocessing: Preprocessing
    known: KnownDigests | None = None
    store_type: np.dtype | None = None
    decode: str = "exact"

    def block(self, rows: np.ndarray) -> Block:
        """Return what becomes of the images in `rows`; one that fails is a row with its reason."""
        source, k = self.source, len(rows)
        status = np.full(k, STORED, np.uint8)
        digest = np.zeros((k, DIGEST_BYTES), np.uint8)
        stat = np.array(source.stat[rows], np.int64)
        statistics = np.zeros((k, STATISTICS), np.float32)
        found = np.full(k, -1, np.int64)
        details: dict[int, str] = {}
        pixels: list[np.ndarray] = []
        positions: list[int] = []
        decoding = 0.0
        for position, row in enumerate(rows):
            try:
                photo = source.read(int(row))
                digest[position] = np.frombuffer(photo.digest, np.uint8)
                stat[position] = photo.stat
                if self.known is not None:
                    found[position] = self.known.find(photo.digest)
                    if found[position] >= 0:
                        continue
                started = time.perf_counter()
                square, statistics[position] = prepare(photo, self.preprocessing, self.decode)
                pixels.append(square)
                decoding += time.perf_counter() - started
                positions.append(position)
            except UnreadablePhoto as error:
                status[position] = error.reason
                details[int(row)] = str(error)

        features = {layer: np.zeros((k, width), np.float32) for layer, width in self.runtime.layers.items()}
        started = time.perf_counter()
        if pixels:
            at = np.array(positions)
            inferred = self.runtime(np.stack(pixels))  # (b, h, w, 3) uint8 -> {layer: (b, d)}
            finite = np.ones(len(at), bool)
            with np.errstate(over="ignore"):
                for values in inferred.values():
                    finite &= np.isfinite(values.astype(self.store_type or np.float32)).all(axis=1)
            for layer, values in inferred.items():
                features[layer][at[finite]] = values[finite]
            status[at[~finite]] = SkipReason.NOT_FINITE
            details.update({int(rows[position]): SkipReason.NOT_FINITE.text for position in at[~finite]})
        spent = Spent(decoding, time.perf_counter() - started)
        return Block(rows, status, digest, stat, statistics, features, found, len(pixels), details, spent)
