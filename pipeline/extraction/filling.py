"""Fill a cache's pending rows from whatever knows them: an earlier cache first, the network last."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from joblib import Parallel, delayed

from pipeline.backbone import Backbone
from pipeline.cache import PENDING, STORED, CacheWriter, FeatureCache
from pipeline.cache.checksum import sound_rows
from pipeline.cache.layout import STORE_TYPES
from pipeline.errors import CacheError, PipelineError, SourceError, UnreadablePhoto
from pipeline.extraction.blocks import Block, embed_block, embed_blocks
from pipeline.extraction.known import KnownDigests, to_try_again, unchanged
from pipeline.images import ImageSource
from pipeline.progress import Progress
from pipeline.provenance import Recipe
from pipeline.runtime import Runtime, open_runtime

ROWS_A_COPY = 4096
STAGE = "extract"

# How far a recomputed row may lie from the stored one, relative to the row's largest value: batch size and runtime
# move the last bits of fp32 (2e-6), and half precision or half storage a good deal more.
RECHECK_TOLERANCE = {"fp32": 1e-4, "bf16": 5e-2, "fp16": 1e-2}


@dataclass(frozen=True)
class Work:
    """What is to be run over which images, and how."""

    source: ImageSource
    backbone: Backbone
    recipe: Recipe
    device: str
    batch_size: int | None
    n_jobs: int | None
    progress: Progress

    def runtime(self, layers: Sequence[str]) -> Runtime:
        return open_runtime(self.backbone, layers, device=self.device, precision=self.recipe.precision)

    @property
    def store_type(self) -> np.dtype:
        return STORE_TYPES[self.recipe.store]


@dataclass
class Counts:
    """What a run did so far."""

    stored: int = 0
    inferred: int = 0
    notes: list[str] = field(default_factory=list)


def fill(
    work: Work,
    writer: CacheWriter,
    relatives: Sequence[FeatureCache],
    generations: Sequence[FeatureCache],
    counts: Counts,
    *,
    stop: bool,
    rehash: bool,
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
    counts : Counts
        Added to.
    stop : bool
        Raise `SourceError` at the first image that cannot be read; what was stored before it stays.
    rehash : bool
        Trust content alone.
    """
    source, cache = work.source, writer.cache
    doubtful = [cache.damaged(), to_try_again(cache.status)]
    if rehash:
        doubtful.append(_changed_content(work, cache))
    writer.reset(np.unique(np.concatenate(doubtful)), source.ids, source.stat, source.columns)

    left = np.flatnonzero(cache.status == PENDING)
    run = _Run(work, writer, counts, stop, len(left))
    others = [other for other in relatives if other.path != cache.path]
    if not rehash:
        earlier = [other for other in generations if other.path != cache.path]
        earlier.sort(key=lambda other: -len(other.layers.keys() & cache.layers.keys()))
        for known in unchanged(source.ids, source.stat, left, earlier):
            left = np.setdiff1d(left, run.reuse(known.cache, known.rows, known.cache_rows), assume_unique=True)
    whole = [other for other in others if cache.layers.keys() <= other.layers.keys()]
    left = run.infer(left, KnownDigests(whole))
    run.infer(left, None)  # found by content, but the row that held it turned out to be damaged


class _Run:
    """One filling of one cache: owns the count of what is done, and writes through the writer."""

    def __init__(self, work: Work, writer: CacheWriter, counts: Counts, stop: bool, total: int) -> None:
        self.work, self.writer, self.counts, self.stop = work, writer, counts, stop
        self.layers = list(writer.cache.layers)
        self._done, self._total = 0, total
        self._tell(0)

    def reuse(self, other: FeatureCache, rows: np.ndarray, theirs: np.ndarray) -> np.ndarray:
        """Write what `other` knows of unchanged images, infer the layers that it lacks; return the rows done."""
        missing = [layer for layer in self.layers if layer not in other.layers]
        failed = other.status[theirs] > STORED
        done = []
        for some, some_theirs in _pieces(rows[failed], theirs[failed]):
            self._write(self._as_failed(other, some, some_theirs))
            done.append(some)
        for some, some_theirs in _pieces(rows[~failed], theirs[~failed]):
            if missing:
                sound = sound_rows(other.header, some_theirs)
                done.append(self._add_layers(other, some[sound], some_theirs[sound], missing))
            else:
                sound = self.writer.copy(some, other, some_theirs, self.work.source.stat[some])
                self._tell(int(sound.sum()))
                done.append(some[sound])
        return np.concatenate([np.zeros(0, np.int64), *done])

    def infer(self, rows: np.ndarray, known: KnownDigests | None) -> np.ndarray:
        """Write the rows from the network, or by content from where it is known; return those still pending."""
        left: list[np.ndarray] = []
        for block in self._blocks(rows, self.layers, known):
            hits = block.known >= 0
            if known is not None and hits.any():
                left.append(self._copy_known(block, hits, known))
            self.counts.inferred += block.inferred
            new = block.where(~hits)
            self.counts.stored += int((new.status == STORED).sum())
            self._write(new)
        return np.concatenate([np.zeros(0, np.int64), *left])

    def _add_layers(
        self, other: FeatureCache, rows: np.ndarray, theirs: np.ndarray, missing: Sequence[str]
    ) -> np.ndarray:
        """Infer the missing layers alone; the others keep every bit they had."""
        row_in_other = dict(zip(rows.tolist(), theirs.tolist(), strict=True))
        done = []
        for block in self._blocks(rows, missing, None):
            at = np.array([row_in_other[row] for row in block.rows.tolist()])
            # An image edited since it was listed is not the one that the other layers were made from.
            same = (block.digest == other.digest[at]).all(axis=1) & (block.status == STORED)
            kept = {layer: other.header.features(layer)[at] for layer in self.layers if layer in other.layers}
            whole = Block(
                block.rows,
                block.status,
                block.digest,
                block.stat,
                np.asarray(other.header.map("pixel_statistics")[at]),
                {**kept, **block.features},
                block.known,
                block.inferred,
                block.details,
            ).where(same)
            self.counts.inferred += block.inferred
            self.counts.stored += len(whole.rows)
            self._write(whole)
            done.append(whole.rows)
        return np.concatenate([np.zeros(0, np.int64), *done])

    def _blocks(self, rows: np.ndarray, layers: Sequence[str], known: KnownDigests | None) -> Iterator[Block]:
        if not len(rows):
            return
        work = self.work
        with embed_blocks(
            work.source,
            rows,
            work.runtime(layers),
            work.backbone.preprocessing,
            batch_size=work.batch_size,
            n_jobs=work.n_jobs,
            known=known,
            store_type=work.store_type,
        ) as blocks:
            yield from blocks

    def _copy_known(self, block: Block, hits: np.ndarray, known: KnownDigests) -> np.ndarray:
        """Copy the rows whose content is known; return those whose known row is damaged."""
        places = [known.place(int(entry)) for entry in block.known[hits]]
        rows, stat = block.rows[hits], block.stat[hits]
        left = []
        for other in {id(cache): cache for cache, _ in places}.values():
            mine = np.array([cache is other for cache, _ in places])
            theirs = np.array([row for cache, row in places if cache is other])
            sound = self.writer.copy(rows[mine], other, theirs, stat[mine])
            self._tell(int(sound.sum()))
            left.append(rows[mine][~sound])
        return np.concatenate(left)

    def _as_failed(self, other: FeatureCache, rows: np.ndarray, theirs: np.ndarray) -> Block:
        k = len(rows)
        return Block(
            rows,
            other.status[theirs],
            np.asarray(other.digest[theirs]),
            self.work.source.stat[rows],
            np.zeros((k, other.header.fields["pixel_statistics"].shape[1]), np.float32),
            {layer: np.zeros((k, width), np.float32) for layer, width in self.writer.cache.layers.items()},
            np.full(k, -1),
            0,
        )

    def _write(self, block: Block) -> None:
        order = np.argsort(block.rows)
        block = block.where(order)
        if not len(block.rows):
            return
        self.writer.write(
            block.rows,
            status=block.status,
            digest=block.digest,
            stat=block.stat,
            statistics=block.statistics,
            features=block.features,
        )
        self._tell(len(block.rows))
        failed = block.rows[block.status > STORED]
        if self.stop and len(failed):
            row = int(failed[0])
            raise stopped_at(self.work.source.ids[row], block.details.get(row, "unreadable"))

    def _tell(self, done: int) -> None:
        self._done += done
        self.work.progress.advance(STAGE, self._done, self._total)


def recompute_and_compare(work: Work, cache: FeatureCache, count: int, random_state: int) -> int:
    """Recompute `count` stored rows drawn at random, compare, and return how many images were inferred.

    Raises
    ------
    CacheError
        A stored row is not what the network gives for that image now.
    """
    rows = np.random.default_rng(random_state).permutation(cache.rows)[:count]
    runtime = work.runtime(list(cache.layers))
    tolerance = max(RECHECK_TOLERANCE[work.recipe.precision], RECHECK_TOLERANCE[work.recipe.store])
    inferred = 0
    for start in range(0, len(rows), runtime.batch_size):
        some = np.sort(rows[start : start + runtime.batch_size])
        block = embed_block(work.source, some, runtime, work.backbone.preprocessing)
        inferred += block.inferred
        for layer, values in block.features.items():
            stored = cache.header.features(layer)[some].astype(np.float32)
            scale = np.abs(stored).max(axis=1).clip(1e-12)
            wrong = np.flatnonzero(np.abs(stored - values).max(axis=1) > tolerance * scale)
            if wrong.size:
                raise CacheError(
                    f"{cache.path}: the stored {layer} features of {cache.ids[some[wrong[0]]]} are not what the "
                    f"network gives for that image now ({wrong.size} of {len(some)} rows compared differ)",
                    f"pipeline cache remove {cache.path}, then extract again",
                )
    return inferred


def stopped_at(name: str, why: str) -> PipelineError:
    """Return the error that ends a run with `on_error="stop"`."""
    return SourceError(f"{name}: {why}", "mend or remove the photo, or leave it out with --on-error skip")


def _changed_content(work: Work, cache: FeatureCache) -> np.ndarray:
    """Return the stored rows whose image no longer has the content they were made from; reads every image."""
    rows = cache.rows

    def changed(row: int) -> bool:
        try:
            return work.source.read(row).digest != cache.digest[row].tobytes()
        except UnreadablePhoto:
            return True

    marks = Parallel(n_jobs=work.n_jobs or -1, backend="threading")(delayed(changed)(int(row)) for row in rows)
    return rows[np.array(marks, bool)]


def _pieces(rows: np.ndarray, theirs: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for start in range(0, len(rows), ROWS_A_COPY):
        yield rows[start : start + ROWS_A_COPY], theirs[start : start + ROWS_A_COPY]
