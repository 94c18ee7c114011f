"""From images to features, a block at a time: what `extract` stores and `predict` asks the head."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing import parent_process

import numpy as np

from pipeline.engines import on_cluster, workers
from pipeline.extraction.block import EncodedBatch
from pipeline.extraction.decoders import iter_batches_decoders
from pipeline.extraction.embedding import BatchEncoder
from pipeline.extraction.known import DigestIndex
from pipeline.extraction.network import LazyNetwork
from pipeline.extraction.processes import iter_batches_processes
from pipeline.extraction.threads import iter_batches_threaded
from pipeline.extraction.work import check_numbers
from pipeline.images import PHOTO_RULES, ImageSource
from pipeline.provenance import Preprocessing
from pipeline.runtime import Runtime

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
    known : KnownDigests, optional
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
