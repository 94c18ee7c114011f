"""How are many images encoded in parallel, and on which workers?

`iter_batches` is the interface; it chooses one of three ways:

- threads of this process, each of which reads, decodes and infers its own batches (a CPU, or few images on a GPU);
- processes that read and decode while this process runs the network (one GPU and many photos);
- processes that do all of it, one per GPU, or the workers of a Dask cluster.

The two ways with processes send tasks of one class (`_WorkerTask`), and both hand the tasks of a process that crashed
to another one until `CrashCounter` gives up.
"""

from __future__ import annotations

import mmap
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
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

MOST_CRASHES = 3  # in a row, without a result between them: then the machine cannot do this work

#: Raised by the future of a process that crashed, and by the other futures of the pool that ended with it.
CRASHED = (BrokenProcessPool, ShutdownExecutorError)


class CrashCounter:
    """Count crashes of worker processes, and raise an error when nothing else happens.

    Parameters
    ----------
    next_step : str
        What the user can try, for the error.
    """

    def __init__(self, next_step: str) -> None:
        self._next_step, self._in_a_row = next_step, 0

    def reset(self) -> None:
        """Start again from 0, because a task was done."""
        self._in_a_row = 0

    def add(self, error: BaseException) -> None:
        """Count one crash; raise `PipelineError` for the last of `MOST_CRASHES` in a row."""
        self._in_a_row += 1
        if self._in_a_row == MOST_CRASHES:
            reason = str(error).partition("\n")[0]
            raise PipelineError(
                f"worker processes keep crashing ({MOST_CRASHES} in a row): {reason}", self._next_step
            ) from error


def check_same_decoder(mode: str, expected: str) -> None:
    """Raise `PipelineError` if this process decodes photos differently from the process that computed the key."""
    found = decoder_of(mode)
    if found != expected:
        raise PipelineError(
            f"expected workers that decode photos as this machine does ({expected}), got one that does not ({found})",
            "install the same Pillow on every worker",
        )


@dataclass(frozen=True, eq=False)
class _WorkerTask:
    """Images for another process, with everything that it needs to work on them.

    Attributes
    ----------
    encoder : BatchEncoder
        Without a runtime; its source holds the images of this task only.
    rows : ndarray of int64, shape (k,)
        The images' rows in the whole source, ascending.
    decoder : str
        The fingerprint of the decoder that is part of the cache key.
    """

    encoder: BatchEncoder
    rows: np.ndarray
    decoder: str

    def run(self) -> Any:
        """Do the work in the other process; raise `PipelineError` if that process decodes photos differently."""
        check_same_decoder(self.encoder.decode, self.decoder)
        # Rows of the cut source, in the order in which its reader is fastest.
        return self._run(self.encoder.source.reading_order(np.arange(len(self.rows))))

    def _run(self, rows: np.ndarray) -> Any:
        raise NotImplementedError


def _run_task(task: _WorkerTask) -> Any:
    """Run a task; a function of this module, because that is what joblib and Dask can send."""
    return task.run()


def _with_images_of(encoder: BatchEncoder, source: ImageSource, rows: np.ndarray) -> BatchEncoder:
    """Return the encoder for these rows of the whole source only: a task that holds a large array whole is large."""
    return replace(encoder, source=source.take(rows.tolist()))


@dataclass(frozen=True)
class Buffer:
    """A part of the shared memory, in a form that another process can open.

    Attributes
    ----------
    path : str
        The shared memory as a file; empty if there is none.
    start, size : int
        In bytes.
    """

    path: str
    start: int
    size: int

    def array(self, shape: tuple[int, ...]) -> np.ndarray | None:
        """Return the buffer as an array of uint8, None if this process cannot open it."""
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
    """Shared memory in which decoding processes put pixels.

    On a system without it, the buffers cannot be opened, and pixels are sent through pipes instead.

    Parameters
    ----------
    count : int
        Number of buffers.
    size : int
        Of each, in bytes.
    """

    def __init__(self, count: int, size: int) -> None:
        size = -(-size // mmap.ALLOCATIONGRANULARITY) * mmap.ALLOCATIONGRANULARITY
        self._memory: mmap.mmap | None = None
        self._file = -1
        path = ""
        with suppress(AttributeError, OSError):  # not Linux, or not permitted
            self._file = os.memfd_create("pixels")
            os.ftruncate(self._file, count * size)  # takes no memory before it is written to
            self._memory = mmap.mmap(self._file, count * size)
            path = f"/proc/{os.getpid()}/fd/{self._file}"
        self.free = [Buffer(path, number * size, size) for number in reversed(range(count))]

    def array(self, buffer: Buffer, shape: tuple[int, ...]) -> np.ndarray:
        """Return the pixels that another process put into a buffer, as an array of uint8."""
        assert self._memory is not None
        return np.frombuffer(self._memory, np.uint8, int(np.prod(shape)), buffer.start).reshape(shape)

    def close(self) -> None:
        """Close the file, so that no other process can open the memory; it is freed with the last array of it."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


BATCHES_PER_DECODER = 2  # per process: the batch that it decodes, and one that it takes next or that the network has
INFERRING = 3  # batches that the network gets at once: one being sent to it, one computed, one on its way back
SECONDS_TO_START = 5.0  # at most: tasks go into a queue that has space for all of them
SECONDS_KEPT = 300.0  # idle processes stay for the next run, as joblib's do

_ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS"), "1")


@dataclass(frozen=True, eq=False)
class _DecodeTask(_WorkerTask):
    """Images for a process that decodes; its network is in the process that sends the task."""

    buffer: Buffer  # for the pixels

    def _run(self, rows: np.ndarray) -> DecodedBatch:
        """Return the decoded images; their pixels are left out if they are in the buffer."""
        into = self.buffer.array(_pixels_shape(len(rows), self.encoder))
        decoded = self.encoder.prepare(rows, into)
        return replace(decoded, rows=self.rows[rows], pixels=decoded.pixels[: None if into is None else 0])


@contextmanager
def iter_batches_decoders(
    encoder: BatchEncoder, network: LazyNetwork, rows: np.ndarray, *, size: int, count: int
) -> Iterator[Iterator[EncodedBatch]]:
    """Yield batches of `size` images each, decoded by `count` processes and encoded by the network of this one.

    A crash of a process loses nothing: the batches of all processes are sent again. Leaving the context early ends the
    processes.

    Raises
    ------
    PipelineError
        Processes keep crashing.
    """
    spans = [rows[start : start + size] for start in range(0, len(rows), size)]
    count = max(1, min(count, len(spans)))
    with ExitStack() as stack:
        known = None
        if isinstance(encoder.known, DigestIndex) and len(encoder.known):
            folder = stack.enter_context(TemporaryDirectory(prefix="pipeline-", ignore_cleanup_errors=True))
            known = encoder.known.write_file(Path(folder) / "known.npy")
        sendable = replace(encoder, runtime=None, known=known)  # type: ignore[arg-type]
        buffers = stack.enter_context(
            closing(SharedPixelBuffers(BATCHES_PER_DECODER * count, int(np.prod(_pixels_shape(size, encoder)))))
        )
        stack.enter_context(network.workers(INFERRING))
        yield stack.enter_context(closing(_DecoderPool(encoder, sendable, network, buffers, count).batches(spans)))


class _DecoderPool:
    """The decoding processes and inferring threads of one run, and the batches that each of them has.

    Parameters
    ----------
    encoder, sendable : BatchEncoder
        With the network of this process, and without it for the tasks.
    network : LazyNetwork
    buffers : SharedPixelBuffers
    count : int
        Number of processes.
    """

    def __init__(
        self,
        encoder: BatchEncoder,
        sendable: BatchEncoder,
        network: LazyNetwork,
        buffers: SharedPixelBuffers,
        count: int,
    ) -> None:
        self._encoder, self._sendable, self._network, self._buffers = encoder, sendable, network, buffers
        self._count, self._decoder = count, decoder_of(encoder.decode)
        self._executor: Any = None
        self._decoding: dict[Future[DecodedBatch], tuple[np.ndarray, Buffer]] = {}
        self._inferring: dict[Future[EncodedBatch], Buffer] = {}
        self._idle = Timing()  # waiting time of processes that is not yet counted in any batch

    def batches(self, spans: Sequence[np.ndarray]) -> Generator[EncodedBatch, None, None]:
        """Yield the encoded batches of these spans of rows, in the order in which they are done."""
        left = deque(spans)
        crashes = CrashCounter("--jobs with fewer workers, or --batch-size with fewer images; stored features are kept")
        threads = ThreadPoolExecutor(INFERRING, thread_name_prefix="infer")
        opening: list[Future] = []
        try:
            while left or self._decoding or self._inferring:
                try:
                    while left and self._buffers.free:
                        self._submit(left[0])
                        left.popleft()
                    if self._sendable.known is None and not self._network.name and not opening:
                        # Loaded while the processes, which were started first, decode. With an index of known images
                        # the network may not be needed at all.
                        opening = [threads.submit(self._network.open)]
                    done = self._wait(opening)
                    for future in done & self._decoding.keys():
                        decoded = future.result()
                        buffer = self._decoding.pop(future)[1]
                        crashes.reset()
                        decoded = self._with_pixels(decoded, buffer)
                        self._inferring[threads.submit(self._encoder.infer, decoded)] = buffer
                except CRASHED as error:
                    crashes.add(error)
                    left.extendleft(rows for rows, _ in self._decoding.values())
                    self._buffers.free += [buffer for _, buffer in self._decoding.values()]
                    self._decoding, self._executor, done = {}, None, set()
                if done.intersection(opening):
                    opening.pop().result()
                for future in done & self._inferring.keys():
                    batch = future.result()
                    self._buffers.free.append(self._inferring.pop(future))
                    timing, self._idle = replace(batch.timing, loading=0.0) + self._idle, Timing()
                    yield replace(batch, timing=timing)
        finally:
            if self._decoding:  # the context was left early: their results are not needed
                _wait_until_started(self._decoding)
                self._executor.terminate(kill_workers=True)
            threads.shutdown(cancel_futures=True)

    def _submit(self, rows: np.ndarray) -> None:
        rows = np.sort(rows)
        sendable = _with_images_of(self._sendable, self._encoder.source, rows)
        task = _DecodeTask(sendable, rows, self._decoder, self._buffers.free[-1])
        with ignore_signals():  # processes that are started here inherit it
            if self._executor is None:
                # joblib's own executor: its `Parallel` would take another loky executor for its own, and fail.
                self._executor = get_memmapping_executor(
                    self._count, timeout=SECONDS_KEPT, env=_ONE_THREAD, max_nbytes=None
                )
            future = self._executor.submit(_run_task, task)
        self._decoding[future] = rows, self._buffers.free.pop()

    def _with_pixels(self, decoded: DecodedBatch, buffer: Buffer) -> DecodedBatch:
        ready = len(decoded.positions)
        if len(decoded.pixels) == ready:  # the pixels were sent with the batch, or there are none
            return decoded
        return replace(decoded, pixels=self._buffers.array(buffer, _pixels_shape(ready, self._encoder)))

    def _wait(self, opening: Sequence[Future]) -> set[Future]:
        """Return the futures that are done, once there is one; count processes without a batch as waiting."""
        started, loaded = time.perf_counter(), bool(self._network.name)
        futures: list[Future[Any]] = [*self._decoding, *self._inferring, *opening]
        done = wait(futures, return_when=FIRST_COMPLETED).done
        if self._inferring:
            idle = (time.perf_counter() - started) * max(0, self._count - len(self._decoding))
            self._idle += Timing(network=idle) if loaded else Timing(loading=idle)
        return done


def _wait_until_started(futures: Iterable[Future]) -> None:
    """Wait until loky has sent all tasks: if it is terminated before, its thread fails on a task it no longer has."""
    until = time.perf_counter() + SECONDS_TO_START
    while time.perf_counter() < until and not all(future.running() or future.done() for future in futures):
        time.sleep(0.001)


def _pixels_shape(images: int, encoder: BatchEncoder) -> tuple[int, int, int, int]:
    return images, encoder.preprocessing.crop, encoder.preprocessing.crop, 3


BATCHES_IN_FLIGHT = 4  # per worker: being encoded, or done and not yet taken


@contextmanager
def iter_batches_threaded(
    encoder: BatchEncoder, rows: np.ndarray, *, size: int, count: int
) -> Iterator[Iterator[EncodedBatch]]:
    """Yield batches of `size` images each, encoded by `count` threads.

    Leaving the context, for whatever reason, starts no more batches and returns when those being encoded are done.
    """
    count = min(count, max(1, -(-len(rows) // size)))
    backpressure = _Backpressure(BATCHES_IN_FLIGHT * count)

    def encode(batch_rows: np.ndarray) -> EncodedBatch | None:
        if not backpressure.enter():
            return None
        try:
            return encoder.encode(batch_rows)
        except BaseException:
            backpressure.shut()  # no result is taken any more, so no task may wait for a place
            raise
        finally:
            backpressure.finish()

    def tasks() -> Iterator[tuple]:
        for start in range(0, len(rows), size):
            if not backpressure.is_open:
                return
            yield delayed(encode)(rows[start : start + size])

    def results(done: Iterator[EncodedBatch | None]) -> Iterator[EncodedBatch]:
        for batch in done:
            backpressure.leave()
            if batch is not None:
                yield batch

    with encoder.runtime.workers(count):
        done = Parallel(n_jobs=count, backend="threading", return_as="generator_unordered")(tasks())
        try:
            yield results(done)
        finally:
            backpressure.shut()
            # Exhausted, not closed: joblib would warn of results that were not taken. Their errors do not matter now.
            with suppress(Exception):
                for _ in done:
                    pass
            # A thread that is still inside the network when Python ends would crash the process.
            backpressure.wait()


class _Backpressure:
    """Bound the number of batches in flight: joblib's generator does not wait for its consumer.

    A task takes its place when it runs, because taking it while tasks are dispatched would deadlock joblib. The
    consumer gives the place back when it takes the result.
    """

    def __init__(self, places: int) -> None:
        self._changed = threading.Condition()
        self._free = places
        self._running = 0
        self.is_open = True

    def enter(self) -> bool:
        """Wait for a place and take it; return False without a place after `shut`."""
        with self._changed:
            self._changed.wait_for(lambda: self._free > 0 or not self.is_open)
            if self.is_open:
                self._free -= 1
                self._running += 1
            return self.is_open

    def finish(self) -> None:
        """Count a task as done; its result keeps the place."""
        with self._changed:
            self._running -= 1
            self._changed.notify_all()

    def leave(self) -> None:
        """Give a place back."""
        with self._changed:
            self._free += 1
            self._changed.notify()

    def shut(self) -> None:
        """Let no task enter from now on, also none that waits for a place."""
        with self._changed:
            self.is_open = False
            self._changed.notify_all()

    def wait(self) -> None:
        """Return when no task is running."""
        with self._changed:
            self._changed.wait_for(lambda: self._running == 0)


BATCHES_PER_SPAN = 32  # at most
SPANS_PER_PROCESS = 2  # at least: with fewer, a process may be idle
SPANS_PER_WAVE = 16  # per worker; the workers wait for the last span of a wave, so a wave is long


@dataclass(frozen=True, eq=False)
class _EncodeTask(_WorkerTask):
    """Images for a process that does everything, with its own copy of the network."""

    network: NetworkHandle
    size: int
    threads: int

    def _run(self, rows: np.ndarray) -> EncodedBatch:
        encoder = replace(self.encoder, runtime=self.network.network())
        with iter_batches_threaded(encoder, rows, size=self.size, count=self.threads) as batches:
            return EncodedBatch.joined(list(batches), self.rows)


@contextmanager
def iter_batches_processes(
    encoder: BatchEncoder, network: LazyNetwork, rows: np.ndarray, *, size: int, n_jobs: int | None
) -> Iterator[Iterator[EncodedBatch]]:
    """Yield batches of many images each, encoded by one process per device or by the workers of a cluster.

    Processes on this machine share `n_jobs` threads. A crash of a process loses nothing: its images are sent to another
    one.

    Raises
    ------
    PipelineError
        Processes keep crashing, or cannot read the images.
    """
    with ExitStack() as stack:
        if network.devices == ["cpu"]:
            network.open()  # exports the graph if that pays; the workers then open the exported file
        if on_cluster():
            # A worker of a cluster runs a task in one thread, and its environment sets which GPU it uses.
            count, threads, claims = workers(n_jobs), 1, None
        else:
            count = len(network.devices)
            threads = max(1, workers(n_jobs) // count)
            claims = Path(stack.enter_context(TemporaryDirectory(prefix="pipeline-")))
        sendable = replace(encoder, runtime=None)  # type: ignore[arg-type]
        batches = max(1, min(BATCHES_PER_SPAN, -(-len(rows) // (size * count * SPANS_PER_PROCESS))))
        length, decoder, handle = size * batches, decoder_of(encoder.decode), network.make_handle(claims)
        spans = [np.sort(rows[start : start + length]) for start in range(0, len(rows), length)]

        def task(span: np.ndarray) -> _EncodeTask:
            return _EncodeTask(
                _with_images_of(sendable, encoder.source, span), span, decoder, handle, size=size, threads=threads
            )

        # Closed when the context is left early, so that processes do not go on with results that are not needed.
        yield stack.enter_context(closing(_waves(encoder.source, spans, task, count)))


def _waves(
    source: ImageSource, spans: Sequence[np.ndarray], make_task: Callable[[np.ndarray], _EncodeTask], count: int
) -> Generator[EncodedBatch, None, None]:
    """Yield the result of each span; the spans of a process that crashed are sent again."""
    at_once = SPANS_PER_WAVE * count
    crashes = CrashCounter("--batch-size with fewer images, or --device with one GPU; stored features are kept")
    for start in range(0, len(spans), at_once):
        left = dict(enumerate(spans[start : start + at_once]))
        while left:
            # A task is made when it is sent, because it holds its images if the source is an array in memory.
            tasks = (delayed(_run_numbered)(number, make_task(span)) for number, span in list(left.items()))
            try:
                with closing(by_processes(tasks, n_jobs=count)) as wave:
                    for number, batch in wave:
                        del left[number]
                        crashes.reset()
                        _check_workers_see_images(source, batch)
                        yield batch
            except CRASHED as error:
                crashes.add(error)


def _run_numbered(number: int, task: _WorkerTask) -> tuple[int, Any]:
    return number, task.run()


def _check_workers_see_images(source: ImageSource, batch: EncodedBatch) -> None:
    """Raise `PipelineError` if an image is missing for a worker but not here: the worker does not see the folder."""
    for row in batch.rows[batch.status == SkipReason.MISSING][:1].tolist():
        try:
            source.read(row)
        except UnreadableImage:
            continue
        raise PipelineError(
            f"{source.ids[row]}: expected workers that see the images under the same path, got one that does not: "
            f"{source.place}",
            "put the images on a file system that every worker mounts at the same place",
        )


# A batch as large as a GPU likes would slow decoding, which is nearly all of the work: with fewer batches than workers
# some workers have none, and with one batch each the network waits for all workers and then they for the network.
# So a batch is at most an 8th of a worker's share, and at least 32 images.
BATCHES_PER_WORKER, SMALLEST_SHARE = 8, 32

# One Python process can keep about 4 decoding threads busy: on 16 cores, four threads decode 3.3 times as much as one,
# sixteen threads 6.5 times and sixteen processes ten times as much. Processes take up to a second to start, about what
# they save over a thousand images; a later run finds them started, and the first one loads the network meanwhile.
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
    """Encode images and yield batches as they are done, in any order.

    A context manager: leaving it early stops the workers.

    Parameters
    ----------
    source : ImageSource
    rows : sequence of int
        The source's images to encode.
    runtime : Runtime
        Runs the network; sets the batch size when `batch_size` is None. Only a `LazyNetwork` can be sent to processes.
    preprocessing : Preprocessing
    batch_size : int, optional
        Images per batch; it changes no more than the last bits of a feature.
    n_jobs : int, optional
        Number of workers; by default (and for -1) the number of cores or of the cluster's threads, -2 for one fewer.
    known : DigestIndex, optional
        Images that need no network because a cache holds their features.
    store_type : dtype, optional
        The type in which features will be stored; a value that overflows it counts as not finite.
    decode : {"exact", "fast"}
        How photos become pixels.
    rules : str
        The photo rules that `EncodedBatch.read_differently` refers to.

    Raises
    ------
    PipelineError
        Invalid `batch_size` or `n_jobs`; as `iter_batches_processes`.
    """
    check_numbers(batch_size, n_jobs)
    encoder = BatchEncoder(source, runtime, preprocessing, known, store_type, decode, rules)
    rows = source.reading_order(rows)
    size = batch_size_for(batch_size, runtime, len(rows), n_jobs)
    if isinstance(runtime, LazyNetwork) and (on_cluster() or len(runtime.devices) > 1):
        with iter_batches_processes(encoder, runtime, rows, size=size, n_jobs=n_jobs) as batches:
            yield batches
    elif isinstance(runtime, LazyNetwork) and _worth_decoders(source, runtime, len(rows), n_jobs):
        with iter_batches_decoders(encoder, runtime, rows, size=size, count=workers(n_jobs)) as batches:
            yield batches
    else:
        with iter_batches_threaded(encoder, rows, size=size, count=workers(n_jobs)) as batches:
            yield batches


def batch_size_for(batch_size: int | None, runtime: Runtime, images: int, n_jobs: int | None) -> int:
    """Return `batch_size`, or by default the smaller of the runtime's batch size and an even share of the images."""
    share = -(-images // (BATCHES_PER_WORKER * workers(n_jobs)))
    return batch_size or min(runtime.batch_size, max(SMALLEST_SHARE, share))


def _worth_decoders(source: ImageSource, network: LazyNetwork, images: int, n_jobs: int | None) -> bool:
    """Return whether decoding in separate processes pays for this network and source."""
    return (
        network.devices != ["cpu"]
        and source.reader.encoded  # arrays need no decoding
        and images >= WORTH_DECODERS
        and workers(n_jobs) > THREADS_ENOUGH
        and parent_process() is None  # in a worker, the other cores belong to other workers
    )
