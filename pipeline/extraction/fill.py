"""Fill a cache's pending rows from whatever knows them: an earlier cache first, the network last."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import PurePosixPath

import numpy as np
from joblib import Parallel, delayed

from pipeline.cache import DIGEST_BYTES, PENDING, STORED, CacheWriter, FeatureCache
from pipeline.errors import CacheError, SkipReason, SourceError, UnreadableImage
from pipeline.extraction.batch import EncodedBatch
from pipeline.extraction.encode import batch_size_for, iter_batches
from pipeline.extraction.encoder import BatchEncoder, LazyNetwork
from pipeline.extraction.job import ExtractionJob, ExtractionStats, stopped_at
from pipeline.extraction.reuse import TRIED_AGAIN, DigestIndex, UnchangedRows, find_unchanged, read_rows
from pipeline.images import ImageSource
from pipeline.parallel import workers

STAGE = "extract"

_NO_ROWS = np.zeros(0, np.int64)


def fill(
    work: ExtractionJob,
    writer: CacheWriter,
    relatives: Sequence[FeatureCache],
    generations: Sequence[FeatureCache],
    earlier_rules: Sequence[FeatureCache],
    counts: ExtractionStats,
) -> None:
    """Leave no row of the writer's cache pending.

    Parameters
    ----------
    work : Work
    writer : CacheWriter
    relatives : sequence of FeatureCache
        Caches of the same recipe: they lend rows by content.
    generations : sequence of FeatureCache
        Those of them that are of the same place: they lend rows by id, size and time, and the image is not read.
    earlier_rules : sequence of FeatureCache
        Caches of the same recipe under earlier photo rules: they lend rows by content, of photos that both rules read
        alike. Such an image is read but not decoded.
    counts : Counts
        Added to.

    Raises
    ------
    SourceError
        An image cannot be read, and `work` is to stop there; what was stored before it stays.
    """
    cache = writer.cache
    left = np.flatnonzero(cache.status == PENDING)
    run = _Fill(work, writer, counts, len(left))
    if not work.rehash:
        for other in sorted(generations, key=lambda other: -len(other.layers.keys() & cache.layers.keys())):
            known = find_unchanged(work.source.ids, work.source.stat, left, other)
            left = np.setdiff1d(left, run.reuse(known), assume_unique=True)
    whole, earlier = (
        [other for other in caches if cache.layers.keys() <= other.layers.keys()]
        for caches in (relatives, earlier_rules)
    )
    left = run.infer(left, DigestIndex(whole, earlier))
    run.infer(left, None)  # known by content, but the row that held it turned out to be damaged


class _Fill:
    """One filling of one cache: owns the count of what is done, and writes through the writer."""

    def __init__(self, work: ExtractionJob, writer: CacheWriter, counts: ExtractionStats, total: int) -> None:
        self.work, self.writer, self.counts = work, writer, counts
        self.layers = list(writer.cache.layers)
        self._done, self._total = 0, total
        self._tell(0)

    def reuse(self, known: UnchangedRows) -> np.ndarray:
        """Write what an earlier cache knows of unchanged images, infer the layers it lacks; return the rows done."""
        missing = [layer for layer in self.layers if layer not in known.cache.layers]
        done = [_NO_ROWS]
        at_once = self.writer.cache.header.rows_at_once
        for start in range(0, len(known.rows), at_once):
            rows = known.rows[start : start + at_once]
            lent = read_rows(known.cache, known.cache_rows[start : start + at_once], rows, self.work.source.stat[rows])
            if missing:
                done.append(self._copy(self._without_features(lent.where(lent.status != STORED))))
                stored = lent.where(lent.status == STORED)
                done.append(self._add_layers(stored, missing, images=len(known.rows)))
            else:
                done.append(self._copy(lent))
        return np.concatenate(done)

    def infer(self, rows: np.ndarray, known: DigestIndex | None) -> np.ndarray:
        """Write the rows from the network, or by content from where it is known; return those still pending."""
        left = [_NO_ROWS]
        if not len(rows):
            return _NO_ROWS
        with self._blocks(rows, self.work.network(self.layers, len(rows)), known) as blocks:
            for block in blocks:
                is_known = block.known >= 0
                if known is not None and is_known.any():
                    left.append(self._copy_known(block.where(is_known), known))
                self._store(block.where(~is_known))
        return np.concatenate(left)

    def _add_layers(self, lent: EncodedBatch, missing: Sequence[str], *, images: int) -> np.ndarray:
        """Infer the missing layers alone, the others keep every bit they had; return the rows done.

        `images` is how many will need these layers in all.
        """
        done = [_NO_ROWS]
        if not len(lent):
            return _NO_ROWS
        with self._blocks(lent.rows, self.work.network(missing, images), None) as blocks:
            for block in blocks:
                held = lent.where(np.searchsorted(lent.rows, block.rows))
                # An image edited since it was listed is not the one that the other layers were made from.
                same = (block.digest == held.digest).all(axis=1) & (block.status == STORED)
                whole = EncodedBatch(
                    block.rows,
                    block.status,
                    block.digest,
                    block.stat,
                    held.statistics,
                    {**held.features, **block.features},
                    block.known,
                ).where(same)
                self._store(whole)
                done.append(whole.rows)
        return np.concatenate(done)

    def _copy_known(self, block: EncodedBatch, known: DigestIndex) -> np.ndarray:
        """Write a block whose content is known; return the rows whose known row is damaged."""
        done = [_NO_ROWS]
        for other, which, other_rows in known.places(block.known):
            done.append(self._copy(read_rows(other, other_rows, block.rows[which], block.stat[which])))
        return np.setdiff1d(block.rows, np.concatenate(done), assume_unique=True)

    def _without_features(self, block: EncodedBatch) -> EncodedBatch:
        """Return a block of failed images with room for this cache's layers."""
        empty = {layer: np.zeros((len(block), width), np.float32) for layer, width in self.writer.cache.layers.items()}
        return EncodedBatch(block.rows, block.status, block.digest, block.stat, block.statistics, empty, block.known)

    @contextmanager
    def _blocks(
        self, rows: np.ndarray, network: LazyNetwork, known: DigestIndex | None
    ) -> Iterator[Iterator[EncodedBatch]]:
        """Give the blocks as `iter_batches` does, and count what they cost."""
        started, opening, loading = time.perf_counter(), network.seconds_to_open, self.counts.spent.loading
        with iter_batches(
            self.work.source,
            rows,
            network,
            self.work.backbone.preprocessing,
            batch_size=self.work.batch_size,
            n_jobs=self.work.n_jobs,
            known=known,
            store_type=self.work.store_type,
            decode=self.work.decode,
        ) as blocks:
            yield self._counted(blocks)
        seconds = time.perf_counter() - started
        self.counts.seconds += seconds - (network.seconds_to_open - opening)
        blocks_in_all = -(-len(rows) // batch_size_for(self.work.batch_size, network, len(rows), self.work.n_jobs))
        at_work = seconds * min(workers(self.work.n_jobs), blocks_in_all)
        self.counts.working += at_work - (self.counts.spent.loading - loading)

    def _counted(self, blocks: Iterator[EncodedBatch]) -> Iterator[EncodedBatch]:
        for block in blocks:
            self.counts.inferred += block.inferred
            self.counts.spent += block.spent
            yield block

    def _store(self, block: EncodedBatch) -> None:
        """Write what this run computed."""
        self.counts.stored += int((block.status == STORED).sum())
        self.counts.fresh.setdefault(self.writer.cache.path, []).append(block.rows)
        self._copy(block)

    def _copy(self, block: EncodedBatch) -> np.ndarray:
        """Write a block, and return its rows."""
        if not len(block):
            return _NO_ROWS
        block = block.where(np.argsort(block.rows))
        started = time.perf_counter()
        self.writer.write(
            block.rows,
            status=block.status,
            digest=block.digest,
            stat=block.stat,
            statistics=block.statistics,
            features=block.features,
        )
        self.counts.writing += time.perf_counter() - started
        self._tell(len(block))
        failed = np.flatnonzero(block.status != STORED)
        if self.work.stop and failed.size:
            row = int(block.rows[failed[0]])
            reason = SkipReason(int(block.status[failed[0]]))
            raise stopped_at(self.work.source.ids[row], block.details.get(row, reason.text))
        return block.rows

    def _tell(self, done: int) -> None:
        self._done += done
        self.work.progress.advance(STAGE, self._done, self._total)


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
            f"{cache.ids[row]}: expected the image that the cache was made from, got "
            + block.details.get(row, "other content behind the same size and time"),
            "extract again with --rehash, which reads every image",
        )
    failed = np.flatnonzero(block.status != STORED)
    if failed.size:
        row = int(block.rows[failed[0]])
        raise SourceError(
            f"{cache.ids[row]}: expected the features that are stored of this image, got {block.details[row]}",
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
