"""Which rows of a cache are not to be believed, or are worth another try."""

from __future__ import annotations

from pathlib import PurePosixPath

import numpy as np
from joblib import Parallel, delayed

from pipeline.cache import PENDING, STORED, FeatureCache
from pipeline.cache.layout import DIGEST_BYTES
from pipeline.engines import workers
from pipeline.errors import CacheError, SkipReason, SourceError, UnreadableImage
from pipeline.extraction.block import EncodedBatch
from pipeline.extraction.embedding import BatchEncoder
from pipeline.extraction.known import TRIED_AGAIN
from pipeline.extraction.work import ExtractionJob, ExtractionStats
from pipeline.images import ImageSource

# How far a recomputed row may lie from the stored one, relative to the row's largest value: batch size and runtime
# move the last bits of fp32 (2e-6), and half precision or half storage a good deal more.
RECHECK_TOLERANCE = {"fp32": 1e-4, "bf16": 5e-2, "fp16": 1e-2}

RECHECKED = 3  # rows, where the network is loaded for others anyway

_NO_CONTENT = bytes(DIGEST_BYTES)


def stale_rows(source: ImageSource, cache: FeatureCache, *, rehash: bool, n_jobs: int | None) -> np.ndarray:
    """Return the rows that must be made again although they are there, ascending.

    Those whose image was already another one when it was read than when it was listed; those that failed for a
    reason that has gone; with `rehash`, all whose image has other content by now.

    Damage is not looked for; that is `FeatureCache.damaged`.
    """
    final = np.flatnonzero(cache.status != PENDING)
    moved = final if rehash else final[(cache.stat[final] != source.stat[final]).any(axis=1)]
    return np.union1d(_other_content(source, cache, moved, n_jobs), _reason_has_gone(source, cache.status))


def _other_content(source: ImageSource, cache: FeatureCache, rows: np.ndarray, n_jobs: int | None) -> np.ndarray:
    """Return those of `rows` whose image does not have the content they were made from; each of them is read."""

    def is_other(row: int) -> bool:
        try:
            content = source.read(row).digest
        except UnreadableImage:
            content = _NO_CONTENT  # what the row of an image that could not be read has
        return content != cache.digest[row].tobytes()

    read = Parallel(n_jobs=workers(n_jobs), backend="threading")
    marks = read(delayed(is_other)(row) for row in rows.tolist())
    return rows[np.array(marks, bool)]


def _reason_has_gone(source: ImageSource, status: np.ndarray) -> np.ndarray:
    """Return the rows that failed for a reason outside the file, where that reason is no longer there."""
    gone: list[int] = []
    decoders: dict[str, bool] = {}  # the endings whose decoder is still missing: one file each is tried
    for row in np.flatnonzero(np.isin(status, TRIED_AGAIN)).tolist():
        ending = PurePosixPath(source.ids[row]).suffix.lower()
        if status[row] == SkipReason.NO_DECODER:
            if ending not in decoders:
                decoders[ending] = _reason(source, row) != SkipReason.NO_DECODER
            if decoders[ending]:
                gone.append(row)
        elif _reason(source, row) != status[row]:
            gone.append(row)
    return np.array(gone, np.int64)


def _reason(source: ImageSource, row: int) -> int:
    try:
        source.read(row).pixels()
    except UnreadableImage as error:
        return error.reason
    return int(STORED)


def verify_rows(
    work: ExtractionJob, cache: FeatureCache, counts: ExtractionStats, count: int | None, random_state: int
) -> None:
    """Recompute rows that this run has not, drawn at random, and compare.

    Parameters
    ----------
    work : Work
    cache : FeatureCache
        Complete, in one file.
    counts : Counts
        Says which rows are fresh; added to.
    count : int or None
        How many rows; None for `RECHECKED` where a network is loaded already, in the layers that it has.
    random_state : int

    Raises
    ------
    SourceError
        An image can no longer be read, or has other content than the row was made from.
    CacheError
        A stored row is not what the network gives for that image now.
    """
    network = work.open_network if count is None else work.network(list(cache.layers), count)
    if network is None or count == 0:
        return
    reused = np.setdiff1d(cache.rows, np.concatenate([*counts.fresh.get(cache.path, []), np.zeros(0, np.int64)]))
    rows = np.random.default_rng(random_state).permutation(reused)[: RECHECKED if count is None else count]
    how = BatchEncoder(work.source, network, work.backbone.preprocessing, decode=work.decode)
    for start in range(0, len(rows), network.batch_size):
        some = np.sort(rows[start : start + network.batch_size])
        block = how.block(some)
        counts.rechecked += block.inferred
        _compare(work, cache, block)


def _compare(work: ExtractionJob, cache: FeatureCache, block: EncodedBatch) -> None:
    """Raise where a block is not what the cache holds of the same rows."""
    tolerance = max(RECHECK_TOLERANCE[work.recipe.precision], RECHECK_TOLERANCE[work.recipe.store])
    other = np.flatnonzero((block.digest != cache.digest[block.rows]).any(axis=1))
    if other.size:
        row = int(block.rows[other[0]])
        raise SourceError(
            f"{cache.ids[row]}: wanted the image that the cache was made from, found "
            + block.details.get(row, "other content behind the same size and time"),
            "extract again with --rehash, which reads every image",
        )
    failed = np.flatnonzero(block.status != STORED)
    if failed.size:
        row = int(block.rows[failed[0]])
        raise SourceError(
            f"{cache.ids[row]}: wanted the features that are stored of this image, found {block.details[row]}",
            "see whether a decoder is missing that was there when the cache was made",
        )
    for layer in block.features.keys() & cache.layers.keys():
        stored, values = cache.header.features(layer)[block.rows].astype(np.float32), block.features[layer]
        scale = np.abs(stored).max(axis=1).clip(1e-12)
        wrong = np.flatnonzero(~(np.abs(stored - values).max(axis=1) <= tolerance * scale))
        if wrong.size:
            raise CacheError(
                f"{cache.path}: the stored {layer} features of {cache.ids[block.rows[wrong[0]]]} are not what the "
                f"network gives for that image now ({wrong.size} of {len(block)} rows compared differ)",
                f"pipeline cache remove {cache.path}, and other caches here that hold the image, then extract again",
            )
