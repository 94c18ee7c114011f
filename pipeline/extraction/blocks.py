"""From images to features, a block at a time, on all cores: what `extract` stores and `predict` asks the head."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

import numpy as np
from joblib import Parallel, delayed

from pipeline.cache import STORED
from pipeline.cache.layout import DIGEST_BYTES, STATISTICS
from pipeline.errors import SkipReason, UnreadablePhoto
from pipeline.extraction.block import Block
from pipeline.extraction.known import KnownDigests
from pipeline.extraction.work import check_numbers, workers
from pipeline.images import ImageSource, prepare
from pipeline.provenance import Preprocessing
from pipeline.runtime import Runtime

BLOCKS_UNDER_WAY = 4  # a worker: under work, or done and waiting to be taken


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
    decode: str = "exact",
) -> Iterator[Iterator[Block]]:
    """Give the blocks of `rows` as they are done, in any order, with as many workers as cores.

    Each worker reads, decodes and infers its own block, with one thread inside the network: there is no queue
    between decoding and network and no barrier. Leaving the context, for whatever reason, hands out no more blocks
    and returns when those under work are done.

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
        Workers; the number of cores when not given, -1 too, -2 all but one.
    known : KnownDigests, optional
        Content that needs no network because its features are stored somewhere.
    store_type : dtype, optional
        The type the features will be stored in; what does not fit into it is not finite.
    decode : {"exact", "fast"}
        How photos become pixels.

    Raises
    ------
    PipelineError
        `batch_size` or `n_jobs` is no number to work with.
    """
    rows = np.asarray(rows, np.int64)
    check_numbers(batch_size, n_jobs)
    size = batch_size or runtime.batch_size
    count = min(workers(n_jobs), max(1, -(-len(rows) // size)))
    gate = _Gate(BLOCKS_UNDER_WAY * count)

    def work(block_rows: np.ndarray) -> Block | None:
        if not gate.enter():
            return None
        try:
            return embed_block(source, block_rows, runtime, preprocessing, known, store_type, decode)
        except BaseException:
            gate.shut()  # nobody takes blocks any more, so nobody may wait for a place
            raise
        finally:
            gate.finish()

    def tasks() -> Iterator[tuple]:
        for start in range(0, len(rows), size):
            if not gate.is_open:
                return
            yield delayed(work)(rows[start : start + size])

    def results(done: Iterator[Block | None]) -> Iterator[Block]:
        for block in done:
            gate.leave()
            if block is not None:
                yield block

    with runtime.workers(count):
        done = Parallel(n_jobs=count, backend="threading", return_as="generator_unordered")(tasks())
        try:
            yield results(done)
        finally:
            gate.shut()
            # Run empty rather than closed: joblib would warn of the blocks that nobody took. What goes wrong in
            # them now is no longer of interest.
            with suppress(Exception):
                for _ in done:
                    pass
            # A thread that is still inside the network when Python ends would bring the process down.
            gate.wait()


def embed_block(
    source: ImageSource,
    rows: np.ndarray,
    runtime: Runtime,
    preprocessing: Preprocessing,
    known: KnownDigests | None = None,
    store_type: np.dtype | None = None,
    decode: str = "exact",
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
            square, statistics[position] = prepare(photo, preprocessing, decode)
            pixels.append(square)
            positions.append(position)
        except UnreadablePhoto as error:
            status[position] = error.reason
            details[int(row)] = str(error)

    features = {layer: np.zeros((k, width), np.float32) for layer, width in runtime.layers.items()}
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
    """Let so many blocks be under way, no more: joblib's generator has no backpressure of its own.

    A place is taken inside the task (taken while tasks are handed out it would deadlock joblib's dispatch) and given
    back by whoever takes the result.
    """

    def __init__(self, places: int) -> None:
        self._changed = threading.Condition()
        self._free = places
        self._at_work = 0
        self.is_open = True

    def enter(self) -> bool:
        """Wait for a place and take it; False if the gate is shut, and then nothing was taken."""
        with self._changed:
            self._changed.wait_for(lambda: self._free > 0 or not self.is_open)
            if self.is_open:
                self._free -= 1
                self._at_work += 1
            return self.is_open

    def finish(self) -> None:
        """Say that the work of one that entered is done; its result still has the place."""
        with self._changed:
            self._at_work -= 1
            self._changed.notify_all()

    def leave(self) -> None:
        """Give a place back."""
        with self._changed:
            self._free += 1
            self._changed.notify()

    def shut(self) -> None:
        """Turn away every task from now on, those that wait for a place too."""
        with self._changed:
            self.is_open = False
            self._changed.notify_all()

    def wait(self) -> None:
        """Return when nobody is at work."""
        with self._changed:
            self._changed.wait_for(lambda: self._at_work == 0)
