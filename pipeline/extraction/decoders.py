"""Blocks by processes that decode, for a network on a GPU, which this process has.

Threads that decode wait for each other: on 16 cores sixteen of one Python do what ten processes do, and with the fast
resize, which keeps Python's lock, what five do. So other processes read and decode, never importing torch, and this one
infers what they made.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from joblib.executor import get_memmapping_executor

from pipeline.engines import ignore_signals
from pipeline.extraction.apart import DEAD, CrashCounter, check_same_decoder
from pipeline.extraction.block import EncodedBatch, Timing
from pipeline.extraction.embedding import BatchEncoder, DecodedBatch
from pipeline.extraction.known import DigestIndex
from pipeline.extraction.network import LazyNetwork
from pipeline.extraction.slots import Buffer, SharedPixelBuffers
from pipeline.images import decoder_of

BLOCKS_UNDER_WAY = 2  # a process: one in its hands, and one that it takes next, or that the network has
INFERRING = 3  # blocks that the network is given at once: one on its way there, one computed, one on its way back
SECONDS_TO_TAKE_UP = 5.0  # at the most: what is given goes into a queue that has room for it
SECONDS_KEPT = 300.0  # processes that have nothing to do stay for the next run, as joblib's do

_ALONE = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS"), "1")


@dataclass(frozen=True, eq=False)
class _DecodeTask:
    """Some images for a process, with all that it needs to prepare them."""

    how: BatchEncoder  # its source holds these images alone, and it has no runtime
    rows: np.ndarray  # their numbers in the whole source, ascending
    decoder: str  # the fingerprint that the features are keyed by
    slot: Buffer  # for the pixels

    def work(self) -> DecodedBatch:
        """Return the images prepared, without the pixels where these are in the slot."""
        check_same_decoder(self.how.decode, self.decoder)
        rows = self.how.source.reading_order(np.arange(len(self.rows)))
        into = self.slot.array(_shape(len(rows), self.how))
        prepared = self.how.prepare(rows, into)
        return replace(prepared, rows=self.rows[rows], pixels=prepared.pixels[: None if into is None else 0])


@contextmanager
def iter_batches_decoders(
    how: BatchEncoder, network: LazyNetwork, rows: np.ndarray, *, size: int, count: int
) -> Iterator[Iterator[EncodedBatch]]:
    """Give the blocks of `rows`, `size` images each, as `count` processes get them decoded and the network infers them.

    A process that dies loses nothing: what they all had is given out again. Leaving the context early ends them.

    Raises
    ------
    PipelineError
        Processes keep dying.
    """
    spans = [rows[start : start + size] for start in range(0, len(rows), size)]
    count = max(1, min(count, len(spans)))
    with ExitStack() as left:
        known = None
        if isinstance(how.known, DigestIndex) and len(how.known):
            home = left.enter_context(TemporaryDirectory(prefix="pipeline-", ignore_cleanup_errors=True))
            known = how.known.filed(Path(home) / "known.npy")
        travelling = replace(how, runtime=None, known=known)  # type: ignore[arg-type]
        slots = left.enter_context(
            closing(SharedPixelBuffers(BLOCKS_UNDER_WAY * count, int(np.prod(_shape(size, how)))))
        )
        left.enter_context(network.workers(INFERRING))
        yield left.enter_context(closing(_DecoderPool(how, travelling, network, slots, count).blocks(spans)))


class _DecoderPool:
    """The processes and the threads of one run, and what each of them has."""

    def __init__(
        self, how: BatchEncoder, travelling: BatchEncoder, network: LazyNetwork, slots: SharedPixelBuffers, count: int
    ) -> None:
        self._how, self._travelling, self._network, self._slots = how, travelling, network, slots
        self._count, self._decoder = count, decoder_of(how.decode)
        self._executor: Any = None
        self._decoding: dict[Future[DecodedBatch], tuple[np.ndarray, Buffer]] = {}
        self._inferring: dict[Future[EncodedBatch], Buffer] = {}
        self._idle = Timing()  # what processes have waited and no block has been charged with

    def blocks(self, spans: Sequence[np.ndarray]) -> Generator[EncodedBatch, None, None]:
        left = deque(spans)
        deaths = CrashCounter("--jobs with fewer workers, or --batch-size with fewer images; what was stored stays")
        threads = ThreadPoolExecutor(INFERRING, thread_name_prefix="infer")
        opening: list[Future] = []
        try:
            while left or self._decoding or self._inferring:
                try:
                    while left and self._slots.free:
                        self._decode(left[0])
                        left.popleft()
                    if self._travelling.known is None and not self._network.name and not opening:
                        opening = [threads.submit(self._network.open)]  # the processes have been started before it
                    done = self._wait(opening)
                    for future in done & self._decoding.keys():
                        prepared = future.result()
                        slot = self._decoding.pop(future)[1]
                        deaths.progress()
                        self._inferring[threads.submit(self._how.infer, self._with_pixels(prepared, slot))] = slot
                except DEAD as error:
                    deaths.add(error)
                    left.extendleft(rows for rows, _ in self._decoding.values())
                    self._slots.free += [slot for _, slot in self._decoding.values()]
                    self._decoding, self._executor, done = {}, None, set()
                if done.intersection(opening):
                    opening.pop().result()
                for future in done & self._inferring.keys():
                    block = future.result()
                    self._slots.free.append(self._inferring.pop(future))
                    spent, self._idle = replace(block.spent, loading=0.0) + self._idle, Timing()
                    yield replace(block, spent=spent)
        finally:
            if self._decoding:  # left early: what they are at is of use to nobody
                _wait_until_taken_up(self._decoding)
                self._executor.terminate(kill_workers=True)
            threads.shutdown(cancel_futures=True)

    def _decode(self, rows: np.ndarray) -> None:
        rows = np.sort(rows)
        how = replace(self._travelling, source=self._how.source.take(rows.tolist()))
        task = _DecodeTask(how, rows, self._decoder, self._slots.free[-1])
        with ignore_signals():  # here they are started
            if self._executor is None:
                # joblib's own, which knows of it: its `Parallel` takes any other for one of its own, and fails.
                self._executor = get_memmapping_executor(self._count, timeout=SECONDS_KEPT, env=_ALONE, max_nbytes=None)
            future = self._executor.submit(_decode, task)
        self._decoding[future] = rows, self._slots.free.pop()

    def _with_pixels(self, prepared: DecodedBatch, slot: Buffer) -> DecodedBatch:
        ready = len(prepared.positions)
        if len(prepared.pixels) == ready:  # they came with it, or there are none
            return prepared
        return replace(prepared, pixels=self._slots.array(slot, _shape(ready, self._how)))

    def _wait(self, opening: Sequence[Future]) -> set[Future]:
        """Return what is done, as soon as anything is; processes that have no block meanwhile wait for the network."""
        started, loaded = time.perf_counter(), bool(self._network.name)
        under_way: list[Future[Any]] = [*self._decoding, *self._inferring, *opening]
        done = wait(under_way, return_when=FIRST_COMPLETED).done
        if self._inferring:
            idle = (time.perf_counter() - started) * max(0, self._count - len(self._decoding))
            self._idle += Timing(network=idle) if loaded else Timing(loading=idle)
        return done


def _wait_until_taken_up(futures: Iterable[Future]) -> None:
    """Wait until loky has handed all of them out: ended before, its thread fails over one that it has forgotten."""
    until = time.perf_counter() + SECONDS_TO_TAKE_UP
    while time.perf_counter() < until and not all(future.running() or future.done() for future in futures):
        time.sleep(0.001)


def _decode(task: _DecodeTask) -> DecodedBatch:
    return task.work()


def _shape(images: int, how: BatchEncoder) -> tuple[int, int, int, int]:
    return images, how.preprocessing.crop, how.preprocessing.crop, 3
