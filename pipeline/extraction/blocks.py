"""From images to features, a block at a time, on all cores: what `extract` stores and `predict` asks the head."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
from joblib import Parallel, cpu_count, delayed

from pipeline.cache.layout import DIGEST_BYTES, STATISTICS, STORED
from pipeline.errors import SkipReason, UnreadablePhoto
from pipeline.extraction.known import KnownDigests
from pipeline.images import ImageSource, pixel_statistics, preprocess
from pipeline.provenance import Preprocessing
from pipeline.runtime import Runtime


@dataclass(frozen=True)
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
    features : mapping of layer name to ndarray of float32, shape (k, d)
    known : ndarray of int64, shape (k,)
        Entry of `KnownDigests` that holds the same content, -1 for none; such an image was not decoded.
    inferred : int
        How many of them went through the network.
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
    inferred: int
    details: Mapping[int, str] = field(default_factory=dict)

    def where(self, mask: np.ndarray) -> Block:
        """Return the block of the images under `mask`."""
        return Block(
            self.rows[mask],
            self.status[mask],
            self.digest[mask],
            self.stat[mask],
            self.statistics[mask],
            {layer: values[mask] for layer, values in self.features.items()},
            self.known[mask],
            self.inferred,
            self.details,
        )


@contextmanager
def embed_blocks(
    source: ImageSource,
    rows: Sequence[int] | np.ndarray,
    runtime: Runtime,
    preprocessing: Preprocessing,
    *,
    batch_size: int | None = None,
    n_jobs: int | None = None,
    known: KnownDigests | None = None,
    store_type: np.dtype | None = None,
) -> Iterator[Iterator[Block]]:
    """Give the blocks of `rows` as they are done, in any order, with as many workers as cores.

    Each worker reads, decodes and infers its own block, with one thread inside the network: there is no queue
    between decoding and network and no barrier. Leaving the context stops the workers.

    Parameters
    ----------
    source : ImageSource
    rows : sequence of int
        Which of the source's images.
    runtime : Runtime
        Runs the network; gives the batch size when `batch_size` is None.
    preprocessing : Preprocessing
    batch_size : int, optional
        Images a block; it moves the last bits of a feature and no more.
    n_jobs : int, optional
        Workers; the number of cores when not given.
    known : KnownDigests, optional
        Content that needs no network because its features are stored somewhere.
    store_type : dtype, optional
        The type the features will be stored in; what does not fit into it is not finite.
    """
    rows = np.asarray(rows, np.int64)
    size = batch_size or runtime.batch_size
    workers = min(n_jobs or cpu_count(), max(1, -(-len(rows) // size)))
    gate = _Gate(4 * workers)

    def work(block_rows: np.ndarray) -> Block | None:
        if not gate.enter():
            return None
        return embed_block(source, block_rows, runtime, preprocessing, known, store_type)

    def results(done: Iterator[Block | None]) -> Iterator[Block]:
        for block in done:
            gate.leave()
            if block is not None:
                yield block

    cuts = range(0, len(rows), size)
    with runtime.workers(workers):
        parallel = Parallel(n_jobs=workers, backend="threading", return_as="generator_unordered")
        done = parallel(delayed(work)(rows[start : start + size]) for start in cuts)
        try:
            yield results(done)
        finally:
            gate.shut()
            done.close()


def embed_block(
    source: ImageSource,
    rows: np.ndarray,
    runtime: Runtime,
    preprocessing: Preprocessing,
    known: KnownDigests | None = None,
    store_type: np.dtype | None = None,
) -> Block:
    """Read, decode and infer the images in `rows`; an image that fails is a row with its reason."""
    k = len(rows)
    status = np.full(k, STORED, np.uint8)
    digest = np.zeros((k, DIGEST_BYTES), np.uint8)
    stat = np.array(source.stat[rows], np.int64)
    statistics = np.zeros((k, STATISTICS), np.float32)
    found = np.full(k, -1, np.int64)
    details: dict[int, str] = {}
    pixels: list[np.ndarray] = []
    positions: list[int] = []
    for position, row in enumerate(rows):
        try:
            photo = source.read(int(row))
            digest[position] = np.frombuffer(photo.digest, np.uint8)
            stat[position] = photo.stat
            if known is not None:
                found[position] = known.find(photo.digest)
                if found[position] >= 0:
                    continue
            image = photo.pixels()
            statistics[position] = pixel_statistics(image)
            pixels.append(preprocess(image, preprocessing))
            positions.append(position)
        except UnreadablePhoto as error:
            status[position] = error.reason
            details[int(row)] = str(error)

    features: dict[str, np.ndarray] = {
        layer: np.zeros((k, width), np.float32) for layer, width in runtime.layers.items()
    }
    if pixels:
        at = np.array(positions)
        inferred = runtime(np.stack(pixels))  # (b, h, w, 3) uint8 -> {layer: (b, d)}
        finite = np.ones(len(at), bool)
        with np.errstate(over="ignore"):
            for values in inferred.values():
                finite &= np.isfinite(values.astype(store_type or np.float32)).all(axis=1)
        for layer, values in inferred.items():
            features[layer][at[finite]] = values[finite]
        status[at[~finite]] = SkipReason.NOT_FINITE
        details.update({int(rows[position]): SkipReason.NOT_FINITE.text for position in at[~finite]})
    return Block(rows, status, digest, stat, statistics, features, found, len(pixels), details)


class _Gate:
    """Let so many blocks be under way or waiting to be written, no more: joblib's generator has no backpressure.

    Taken inside the task; taken while tasks are handed out it would deadlock joblib's dispatch.
    """

    def __init__(self, places: int) -> None:
        self._places = threading.Semaphore(places)
        self._open = True

    def enter(self) -> bool:
        self._places.acquire()
        if not self._open:
            self._places.release()
        return self._open

    def leave(self) -> None:
        self._places.release()

    def shut(self) -> None:
        """Turn away every task from now on; those that wait are let through to be turned away."""
        self._open = False
        self._places.release()
