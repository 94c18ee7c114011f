"""How are the pending rows of a cache filled, and which stored rows are computed again?

`fill` takes rows from other caches where it can and from the network otherwise. `stale_rows` finds rows whose image has
changed; `verify_rows` computes a sample of reused rows again and compares.
"""

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
    job: ExtractionJob,
    writer: CacheWriter,
    compatible: Sequence[FeatureCache],
    versions: Sequence[FeatureCache],
    earlier_pixels: Sequence[FeatureCache],
    stats: ExtractionStats,
) -> None:
    """Fill every pending row of the writer's cache.

    Parameters
    ----------
    job : ExtractionJob
    writer : CacheWriter
    compatible : sequence of FeatureCache
        Caches of the same recipe; their rows are reused for images of the same content.
    versions : sequence of FeatureCache
        Those of them with the same place; their rows are reused by id, size and time, without reading the image.
    earlier_pixels : sequence of FeatureCache
        Caches of the same recipe but for how some photos were read; their rows are reused for photos of the same
        content that have the same pixels now. Such a photo is read but not decoded.
    stats : ExtractionStats
        Updated.

    Raises
    ------
    SourceError
        An image cannot be read, and the job stops there; rows that are already stored are kept.
    """
    cache = writer.cache
    left = np.flatnonzero(cache.status == PENDING)
    run = _Fill(job, writer, stats, len(left))
    if not job.rehash:
        for other in sorted(versions, key=lambda other: -len(other.layers.keys() & cache.layers.keys())):
            unchanged = find_unchanged(job.source.ids, job.source.stat, left, other)
            left = np.setdiff1d(left, run.reuse(unchanged), assume_unique=True)
    complete, earlier = (
        [other for other in caches if cache.layers.keys() <= other.layers.keys()]
        for caches in (compatible, earlier_pixels)
    )
    left = run.infer(left, DigestIndex(complete, earlier))
    run.infer(left, None)  # images whose row in another cache turned out to be damaged


class _Fill:
    """The filling of one cache: writes rows, counts them and reports progress."""

    def __init__(self, job: ExtractionJob, writer: CacheWriter, stats: ExtractionStats, total: int) -> None:
        self.job, self.writer, self.stats = job, writer, stats
        self.layers = list(writer.cache.layers)
        self._done, self._total = 0, total
        self._advance(0)

    def reuse(self, unchanged: UnchangedRows) -> np.ndarray:
        """Copy the rows of unchanged images, and infer the layers that their cache lacks; return the rows done."""
        missing = [layer for layer in self.layers if layer not in unchanged.cache.layers]
        done = [_NO_ROWS]
        at_once = self.writer.cache.header.rows_at_once
        for start in range(0, len(unchanged.rows), at_once):
            rows = unchanged.rows[start : start + at_once]
            cache_rows = unchanged.cache_rows[start : start + at_once]
            held = read_rows(unchanged.cache, cache_rows, rows, self.job.source.stat[rows])
            if missing:
                done.append(self._write(self._without_features(held.select(held.status != STORED))))
                stored = held.select(held.status == STORED)
                done.append(self._add_layers(stored, missing, images=len(unchanged.rows)))
            else:
                done.append(self._write(held))
        return np.concatenate(done)

    def infer(self, rows: np.ndarray, known: DigestIndex | None) -> np.ndarray:
        """Write the rows from the network, or from the caches in the index; return those still pending."""
        left = [_NO_ROWS]
        if not len(rows):
            return _NO_ROWS
        with self._batches(rows, self.job.network(self.layers, len(rows)), known) as batches:
            for batch in batches:
                is_known = batch.known >= 0
                if known is not None and is_known.any():
                    left.append(self._copy_known(batch.select(is_known), known))
                self._store(batch.select(~is_known))
        return np.concatenate(left)

    def _add_layers(self, stored: EncodedBatch, missing: Sequence[str], *, images: int) -> np.ndarray:
        """Infer only the missing layers and copy the others bit for bit; return the rows done.

        `images` is the number of images that need these layers in the whole run.
        """
        done = [_NO_ROWS]
        if not len(stored):
            return _NO_ROWS
        with self._batches(stored.rows, self.job.network(missing, images), None) as batches:
            for batch in batches:
                held = stored.select(np.searchsorted(stored.rows, batch.rows))
                # An image that was edited after it was listed has another content than the stored layers.
                same = (batch.digest == held.digest).all(axis=1) & (batch.status == STORED)
                whole = EncodedBatch(
                    batch.rows,
                    batch.status,
                    batch.digest,
                    batch.stat,
                    held.statistics,
                    {**held.features, **batch.features},
                    batch.known,
                ).select(same)
                self._store(whole)
                done.append(whole.rows)
        return np.concatenate(done)

    def _copy_known(self, batch: EncodedBatch, known: DigestIndex) -> np.ndarray:
        """Copy the rows of a batch from the caches that hold its content; return those that are damaged there."""
        done = [_NO_ROWS]
        for other, positions, other_rows in known.by_cache(batch.known):
            done.append(self._write(read_rows(other, other_rows, batch.rows[positions], batch.stat[positions])))
        return np.setdiff1d(batch.rows, np.concatenate(done), assume_unique=True)

    def _without_features(self, batch: EncodedBatch) -> EncodedBatch:
        """Return a batch of failed images with empty features of this cache's layers."""
        empty = {layer: np.zeros((len(batch), width), np.float32) for layer, width in self.writer.cache.layers.items()}
        return EncodedBatch(batch.rows, batch.status, batch.digest, batch.stat, batch.statistics, empty, batch.known)

    @contextmanager
    def _batches(
        self, rows: np.ndarray, network: LazyNetwork, known: DigestIndex | None
    ) -> Iterator[Iterator[EncodedBatch]]:
        """Yield the batches of `iter_batches`, and count them and their time."""
        started, opening, loading = time.perf_counter(), network.seconds_to_open, self.stats.timing.loading
        with iter_batches(
            self.job.source,
            rows,
            network,
            self.job.backbone.preprocessing,
            batch_size=self.job.batch_size,
            n_jobs=self.job.n_jobs,
            known=known,
            store_type=self.job.store_type,
            decode=self.job.decode,
        ) as batches:
            yield self._counted(batches)
        seconds = time.perf_counter() - started
        self.stats.seconds += seconds - (network.seconds_to_open - opening)
        batch_count = -(-len(rows) // batch_size_for(self.job.batch_size, network, len(rows), self.job.n_jobs))
        at_work = seconds * min(workers(self.job.n_jobs), batch_count)
        self.stats.working += at_work - (self.stats.timing.loading - loading)

    def _counted(self, batches: Iterator[EncodedBatch]) -> Iterator[EncodedBatch]:
        for batch in batches:
            self.stats.inferred += batch.inferred
            self.stats.timing += batch.timing
            yield batch

    def _store(self, batch: EncodedBatch) -> None:
        """Write a batch that this run computed."""
        self.stats.stored += int((batch.status == STORED).sum())
        self.stats.fresh.setdefault(self.writer.cache.path, []).append(batch.rows)
        self._write(batch)

    def _write(self, batch: EncodedBatch) -> np.ndarray:
        """Write a batch and return its rows; raise `SourceError` for a failed image if the job stops there."""
        if not len(batch):
            return _NO_ROWS
        batch = batch.select(np.argsort(batch.rows))
        started = time.perf_counter()
        self.writer.write(
            batch.rows,
            status=batch.status,
            digest=batch.digest,
            stat=batch.stat,
            statistics=batch.statistics,
            features=batch.features,
        )
        self.stats.writing += time.perf_counter() - started
        self._advance(len(batch))
        failed = np.flatnonzero(batch.status != STORED)
        if self.job.stop and failed.size:
            row = int(batch.rows[failed[0]])
            reason = SkipReason(int(batch.status[failed[0]]))
            raise stopped_at(self.job.source.ids[row], batch.details.get(row, reason.text))
        return batch.rows

    def _advance(self, done: int) -> None:
        self._done += done
        self.job.progress.advance(STAGE, self._done, self._total)


# The largest allowed difference of a recomputed row from the stored one, relative to the row's largest value. Batch
# size and runtime change the last bits of fp32 (2e-6); half precision and half storage change much more.
RECHECK_TOLERANCE = {"fp32": 1e-4, "bf16": 5e-2, "fp16": 1e-2}

RECHECKED = 3  # rows by default, if the network is loaded for other images anyway

_NO_CONTENT = bytes(DIGEST_BYTES)


def stale_rows(source: ImageSource, cache: FeatureCache, *, rehash: bool, n_jobs: int | None) -> np.ndarray:
    """Return the rows that must be computed again although they are not pending, ascending.

    These are the rows of images that changed between listing and reading, of images that failed for a reason that no
    longer applies, and with `rehash` of all images whose content has changed. For damaged rows see
    `FeatureCache.damaged`.
    """
    written = np.flatnonzero(cache.status != PENDING)
    touched = written if rehash else written[(cache.stat[written] != source.stat[written]).any(axis=1)]
    return np.union1d(_changed_content(source, cache, touched, n_jobs), _readable_again(source, cache.status))


def _changed_content(source: ImageSource, cache: FeatureCache, rows: np.ndarray, n_jobs: int | None) -> np.ndarray:
    """Read the images of `rows`, and return the rows whose image has another content than the cache."""

    def is_changed(row: int) -> bool:
        try:
            content = source.read(row).digest
        except UnreadableImage:
            content = _NO_CONTENT  # the stored digest of an image that could not be read
        return content != cache.digest[row].tobytes()

    read = Parallel(n_jobs=workers(n_jobs), backend="threading")
    marks = read(delayed(is_changed)(row) for row in rows.tolist())
    return rows[np.array(marks, bool)]


def _readable_again(source: ImageSource, status: np.ndarray) -> np.ndarray:
    """Return the rows that failed for a reason outside the file which no longer applies."""
    gone: list[int] = []
    decoders: dict[str, bool] = {}  # by file ending, whether a decoder is available now; one file of each is tried
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
    job: ExtractionJob, cache: FeatureCache, stats: ExtractionStats, count: int | None, random_state: int
) -> None:
    """Compute randomly drawn reused rows again and compare them with the cache.

    Parameters
    ----------
    job : ExtractionJob
    cache : FeatureCache
        Complete, in one file.
    stats : ExtractionStats
        Holds the rows that this run computed, which are not drawn; updated.
    count : int or None
        How many rows. None for `RECHECKED` rows if a network is loaded already, and only in its layers.
    random_state : int

    Raises
    ------
    SourceError
        An image can no longer be read, or has another content than its row.
    CacheError
        A stored row differs from what the network computes for its image now.
    """
    network = job.open_network if count is None else job.network(list(cache.layers), count)
    if network is None or count == 0:
        return
    reused = np.setdiff1d(cache.rows, np.concatenate([*stats.fresh.get(cache.path, []), np.zeros(0, np.int64)]))
    rows = np.random.default_rng(random_state).permutation(reused)[: RECHECKED if count is None else count]
    encoder = BatchEncoder(job.source, network, job.backbone.preprocessing, decode=job.decode)
    for start in range(0, len(rows), network.batch_size):
        batch = encoder.encode(np.sort(rows[start : start + network.batch_size]))
        stats.rechecked += batch.inferred
        _compare(job, cache, batch)


def _compare(job: ExtractionJob, cache: FeatureCache, batch: EncodedBatch) -> None:
    """Raise `SourceError` or `CacheError` if a batch differs from the same rows of the cache."""
    tolerance = max(RECHECK_TOLERANCE[job.recipe.precision], RECHECK_TOLERANCE[job.recipe.store])
    other = np.flatnonzero((batch.digest != cache.digest[batch.rows]).any(axis=1))
    if other.size:
        row = int(batch.rows[other[0]])
        raise SourceError(
            f"{cache.ids[row]}: expected the image that the cache was made from, got "
            + batch.details.get(row, "another content with the same size and time"),
            "extract again with --rehash, which reads every image",
        )
    failed = np.flatnonzero(batch.status != STORED)
    if failed.size:
        row = int(batch.rows[failed[0]])
        raise SourceError(
            f"{cache.ids[row]}: expected the stored features of this image, got {batch.details[row]}",
            "install the image decoder that was available when the cache was made",
        )
    for layer in batch.features.keys() & cache.layers.keys():
        stored, values = cache.header.features(layer)[batch.rows].astype(np.float32), batch.features[layer]
        scale = np.abs(stored).max(axis=1).clip(1e-12)
        wrong = np.flatnonzero(~(np.abs(stored - values).max(axis=1) <= tolerance * scale))
        if wrong.size:
            raise CacheError(
                f"{cache.path}: the stored {layer} features of {cache.ids[batch.rows[wrong[0]]]} are not what the "
                f"network gives for that image now ({wrong.size} of {len(batch)} rows compared differ)",
                f"pipeline cache remove {cache.path}, and other caches here that hold the image, then extract again",
            )
