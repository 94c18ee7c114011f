"""Fill a cache's pending rows from whatever knows them: an earlier cache first, the network last."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np

from pipeline.cache import PENDING, STORED, CacheWriter, FeatureCache
from pipeline.engines import workers
from pipeline.errors import SkipReason
from pipeline.extraction.block import EncodedBatch
from pipeline.extraction.blocks import batch_size_for, iter_batches
from pipeline.extraction.known import DigestIndex, UnchangedRows, find_unchanged, read_rows
from pipeline.extraction.network import LazyNetwork
from pipeline.extraction.work import ExtractionJob, ExtractionStats, stopped_at

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
        """Give the blocks as `embed_blocks` does, and count what they cost."""
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
