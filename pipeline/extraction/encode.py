"""From images to features, a block at a time: what `extract` stores and `predict` asks the head."""

from __future__ import annotations

import mmap
import os
import threading
import time
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, replace
from multiprocessing import parent_process
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from joblib import Parallel, delayed
from joblib.executor import get_memmapping_executor
from joblib.externals.loky.process_executor import BrokenProcessPool, ShutdownExecutorError

from pipeline.errors import PipelineError, SkipReason, UnreadableImage
from pipeline.extraction.batch import EncodedBatch, Timing
from pipeline.extraction.encoder import BatchEncoder, DecodedBatch, LazyNetwork, NetworkHandle
from pipeline.extraction.job import check_numbers
from pipeline.extraction.reuse import DigestIndex
from pipeline.images import PHOTO_RULES, ImageSource, decoder_of
from pipeline.parallel import by_processes, ignore_signals, on_cluster, workers
from pipeline.provenance import Preprocessing
from pipeline.runtime import Runtime

DEATHS = 3  # of processes without anything done between them: the machine cannot do this work

#: What the work of a process raises that has died, or that was ended for somebody else's sake.
DEAD = (BrokenProcessPool, ShutdownExecutorError)


class CrashCounter:
    """Count the processes that die, and find out when there is no hope.

    Parameters
    ----------
    ways : str
        What a person can do about it.
    """

    def __init__(self, ways: str) -> None:
        self._ways, self._in_a_row = ways, 0

    def progress(self) -> None:
        """Say that something was done."""
        self._in_a_row = 0

    def add(self, error: BaseException) -> None:
        """Say that a process died; raise `PipelineError` where they do nothing else."""
        self._in_a_row += 1
        if self._in_a_row == DEATHS:
            raise PipelineError(
                f"expected worker processes that live, but they die: {str(error).partition(chr(10))[0]}",
                self._ways,
            ) from error


def check_same_decoder(mode: str, wanted: str) -> None:
    """Raise `PipelineError` where this process does not decode as features are keyed by."""
    found = decoder_of(mode)
    if found != wanted:
        raise PipelineError(
            f"expected workers that decode photos as this machine does ({wanted}), got one that does not ({found})",
            "install the same Pillow on every worker",
        )


@dataclass(frozen=True)
class Buffer:
    """One slot, as another process finds it.

    Attributes
    ----------
    path : str
        The memory as a file; empty where there is none.
    start, size : int
        In bytes.
    """

    path: str
    start: int
    size: int

    def array(self, shape: tuple[int, ...]) -> np.ndarray | None:
        """Return the slot's beginning as an array of uint8, None where this process cannot have it."""
        if not self.path:
            return None
        try:
            file = os.open(self.path, os.O_RDWR)
        except OSError:
            return None
        try:
            memory = mmap.mmap(file, self.size, offset=self.start)
        except OSError:
            return None
        finally:
            os.close(file)
        return np.frombuffer(memory, np.uint8, int(np.prod(shape))).reshape(shape)


class SharedPixelBuffers:
    """So many slots of so many bytes. Where the system has no such memory they are empty, and pixels have to travel.

    Parameters
    ----------
    count : int
    size : int
    """

    def __init__(self, count: int, size: int) -> None:
        size = -(-size // mmap.ALLOCATIONGRANULARITY) * mmap.ALLOCATIONGRANULARITY
        self._memory: mmap.mmap | None = None
        self._file = -1
        path = ""
        with suppress(AttributeError, OSError):  # not Linux, or one that keeps it from us
            self._file = os.memfd_create("pixels")
            os.ftruncate(self._file, count * size)  # takes no memory before something is written
            self._memory = mmap.mmap(self._file, count * size)
            path = f"/proc/{os.getpid()}/fd/{self._file}"
        self.free = [Buffer(path, number * size, size) for number in reversed(range(count))]

    def array(self, slot: Buffer, shape: tuple[int, ...]) -> np.ndarray:
        """Return what another process put at a slot's beginning, as an array of uint8."""
        assert self._memory is not None
        return np.frombuffer(self._memory, np.uint8, int(np.prod(shape)), slot.start).reshape(shape)

    def close(self) -> None:
        """Let nobody else find the memory any more; it goes when the last array of it does."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


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


BATCHES_IN_FLIGHT = 4  # a worker: under work, or done and waiting to be taken


@contextmanager
def iter_batches_threaded(
    how: BatchEncoder, rows: np.ndarray, *, size: int, count: int
) -> Iterator[Iterator[EncodedBatch]]:
    """Give the blocks of `rows`, `size` images each, as `count` threads get them done.

    Leaving the context, for whatever reason, hands out no more blocks and returns when those under work are done.
    """
    count = min(count, max(1, -(-len(rows) // size)))
    gate = _Backpressure(BATCHES_IN_FLIGHT * count)

    def work(block_rows: np.ndarray) -> EncodedBatch | None:
        if not gate.enter():
            return None
        try:
            return how.block(block_rows)
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

    def results(done: Iterator[EncodedBatch | None]) -> Iterator[EncodedBatch]:
        for block in done:
            gate.leave()
            if block is not None:
                yield block

    with how.runtime.workers(count):
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


class _Backpressure:
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
            f"{source.ids[row]}: expected workers that see the images under the same path, got one that does not: "
            f"{source.place}",
            "put the images on a file system that every worker mounts at the same place",
        )


# What a block of a GPU's size would otherwise do to decoding, which there is nearly all of the work: with fewer blocks
# than workers some have none, and with one each the network waits for all of them and then they for the network.
BLOCKS_A_WORKER, SMALLEST_SHARE = 8, 32

# For a GPU. So many threads one Python keeps busy decoding: on 16 cores four make 3.3 times what one does, sixteen 6.5
# times, and sixteen processes ten times. To start these takes up to a second, about what a thousand images gain by
# them; later runs find them there, and the first one loads the network meanwhile.
THREADS_ENOUGH, WORTH_DECODERS = 4, 1_000


@contextmanager
def iter_batches(
    source: ImageSource,
    rows: Sequence[int] | np.ndarray,
    runtime: Runtime,
    preprocessing: Preprocessing,
    *,
    batch_size: int | None = None,
    n_jobs: int | None = None,
    known: DigestIndex | None = None,
    store_type: np.dtype | None = None,
    decode: str = "exact",
    rules: str = PHOTO_RULES,
) -> Iterator[Iterator[EncodedBatch]]:
    """Give the blocks of `rows` as they are done, in any order.

    They are made by threads of this process, by one process a GPU where there are several, or by the cluster that
    joblib has been told to use. Each worker reads, decodes and infers its own block, one thread inside the network.
    For one GPU and many photos, processes read and decode, and this one infers.

    Parameters
    ----------
    source : ImageSource
    rows : sequence of int
        Which of the source's images.
    runtime : Runtime
        Runs the network; gives the batch size when `batch_size` is None. Other processes need a `Network`.
    preprocessing : Preprocessing
    batch_size : int, optional
        Images a block; it moves the last bits of a feature and no more.
    n_jobs : int, optional
        Workers; the number of cores, or of the cluster's threads, when not given, -1 too, -2 all but one.
    known : DigestIndex, optional
        Content that needs no network because its features are stored somewhere.
    store_type : dtype, optional
        The type the features will be stored in; what does not fit into it is not finite.
    decode : {"exact", "fast"}
        How photos become pixels.
    rules : str
        The photo rules that `Block.otherwise` is about.

    Raises
    ------
    PipelineError
        `batch_size` or `n_jobs` is no number to work with.
    """
    check_numbers(batch_size, n_jobs)
    how = BatchEncoder(source, runtime, preprocessing, known, store_type, decode, rules)
    rows = source.reading_order(rows)
    size = batch_size_for(batch_size, runtime, len(rows), n_jobs)
    if isinstance(runtime, LazyNetwork) and (on_cluster() or len(runtime.devices) > 1):
        with iter_batches_processes(how, runtime, rows, size=size, n_jobs=n_jobs) as blocks:
            yield blocks
    elif isinstance(runtime, LazyNetwork) and _worth_decoders(source, runtime, len(rows), n_jobs):
        with iter_batches_decoders(how, runtime, rows, size=size, count=workers(n_jobs)) as blocks:
            yield blocks
    else:
        with iter_batches_threaded(how, rows, size=size, count=workers(n_jobs)) as blocks:
            yield blocks


def batch_size_for(batch_size: int | None, runtime: Runtime, images: int, n_jobs: int | None) -> int:
    """Return how many images a block has: as many as were asked for; else the runtime's number, or an even share."""
    share = -(-images // (BLOCKS_A_WORKER * workers(n_jobs)))
    return batch_size or min(runtime.batch_size, max(SMALLEST_SHARE, share))


def _worth_decoders(source: ImageSource, network: LazyNetwork, images: int, n_jobs: int | None) -> bool:
    """Return whether processes of their own are to decode for this network."""
    return (
        network.devices != ["cpu"]
        and source.reader.encoded  # what is pixels already has nothing to gain elsewhere
        and images >= WORTH_DECODERS
        and workers(n_jobs) > THREADS_ENOUGH
        and parent_process() is None  # a worker's siblings have the other cores
    )
