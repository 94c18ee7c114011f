"""Blocks by other processes that have the network: one a GPU on this machine, or those of a cluster.

A process gets a span of many blocks, so that handing it out costs next to nothing. joblib's generator has no
backpressure, and a semaphore does not reach other processes: spans are handed out in waves, and a wave's results are
taken before the next one starts.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from joblib import delayed

from pipeline.engines import by_processes, on_cluster, workers
from pipeline.errors import PipelineError, SkipReason, UnreadableImage
from pipeline.extraction.apart import DEAD, CrashCounter, check_same_decoder
from pipeline.extraction.block import EncodedBatch
from pipeline.extraction.embedding import BatchEncoder
from pipeline.extraction.network import LazyNetwork, NetworkHandle
from pipeline.extraction.threads import iter_batches_threaded
from pipeline.images import ImageSource, decoder_of

BLOCKS_A_SPAN, SPANS_A_PROCESS = 32, 2  # at most, and at least: a process that has none is idle
SPANS_A_WAVE = 16  # a worker; the last of a wave wait for each other, so a wave is long


@dataclass(frozen=True, eq=False)
class _EncodeTask:
    """Some images for one process, with all that it needs to work on them alone."""

    how: BatchEncoder  # its source holds these images alone, its runtime is that of the process
    network: NetworkHandle
    rows: np.ndarray  # their numbers in the whole source
    size: int
    threads: int
    decoder: str  # the fingerprint that the features are keyed by

    def work(self) -> EncodedBatch:
        check_same_decoder(self.how.decode, self.decoder)
        how = replace(self.how, runtime=self.network.network())
        rows = how.source.reading_order(np.arange(len(self.rows)))
        with iter_batches_threaded(how, rows, size=self.size, count=self.threads) as blocks:
            return EncodedBatch.joined(list(blocks), self.rows)


@contextmanager
def iter_batches_processes(
    how: BatchEncoder, network: LazyNetwork, rows: np.ndarray, *, size: int, n_jobs: int | None
) -> Iterator[Iterator[EncodedBatch]]:
    """Give the blocks of `rows`, many images each, as other processes get them done.

    There is one a device here, and they share `n_jobs` threads; a cluster has its own.
    A process that dies loses nothing: what it worked on is given to another one.

    Raises
    ------
    PipelineError
        Processes keep dying, or do not see the images.
    """
    with ExitStack() as left:
        if network.devices == ["cpu"]:
            network.open()  # exports the graph where that pays: the workers find it in the store
        if on_cluster():
            # A cluster's worker has one thread a task, and is told by its environment which GPU is its own.
            count, threads, claims = workers(n_jobs), 1, None
        else:
            count = len(network.devices)
            threads = max(1, workers(n_jobs) // count)
            claims = Path(left.enter_context(TemporaryDirectory(prefix="pipeline-")))
        travelling = replace(how, runtime=None)  # type: ignore[arg-type]
        blocks = max(1, min(BLOCKS_A_SPAN, -(-len(rows) // (size * count * SPANS_A_PROCESS))))
        many, decoder = size * blocks, decoder_of(how.decode)
        spans = [
            (travelling, network.in_processes(claims), np.sort(rows[start : start + many]), size, threads, decoder)
            for start in range(0, len(rows), many)
        ]
        # Closed at once where it is left early: processes must not work on for nobody.
        yield left.enter_context(closing(_waves(how.source, spans, count)))


def _waves(source: ImageSource, spans: list[tuple], count: int) -> Generator[EncodedBatch, None, None]:
    at_once = SPANS_A_WAVE * count
    deaths = CrashCounter("--batch-size with fewer images, or --device with one GPU; what was stored stays")
    for start in range(0, len(spans), at_once):
        left = dict(enumerate(spans[start : start + at_once]))
        while left:
            try:
                with closing(_wave(source, list(left.items()), count)) as wave:
                    for number, block in wave:
                        del left[number]
                        deaths.progress()
                        _refuse_blind_workers(source, block)
                        yield block
            except DEAD as error:
                deaths.add(error)


def _wave(
    source: ImageSource, spans: list[tuple[int, tuple]], count: int
) -> Generator[tuple[int, EncodedBatch], None, None]:
    tasks = (
        # Cut to its own images only as it is sent: a span of a large array is large.
        delayed(_encode)(number, _EncodeTask(replace(how, source=source.take(rows.tolist())), network, rows, *rest))
        for number, (how, network, rows, *rest) in spans
    )
    return by_processes(tasks, n_jobs=count)


def _encode(number: int, span: _EncodeTask) -> tuple[int, Any]:
    return number, span.work()


def _refuse_blind_workers(source: ImageSource, block: EncodedBatch) -> None:
    """Raise `PipelineError` where an image is missing for a worker and here it is not: no fault of the image."""
    for row in block.rows[block.status == SkipReason.MISSING][:1].tolist():
        try:
            source.read(row)
        except UnreadableImage:
            continue
        raise PipelineError(
            f"{source.ids[row]}: wanted workers that see the images under the same path, found one that does not: "
            f"{source.place}",
            "put the images on a file system that every worker mounts at the same place",
        )
