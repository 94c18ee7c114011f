"""Which training photos are most similar to a new one, and is it unlike all of them? Cosine search is exact."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from pipeline.cache import FeatureCache, LazyRows, caches_in, stem_of
from pipeline.errors import ModelError, UnreadableImage
from pipeline.images import ImageSource, thumbnail
from pipeline.near_duplicates import FEWEST_DIMENSIONS, MOST_PAIRS, RowSource, Similarity, row_blocks
from pipeline.parallel import workers
from pipeline.progress import SILENT, Progress
from pipeline.provenance import sha256_json
from pipeline.search import one_thread

QUANTILE = 0.99
SAMPLE = 4096  # photos whose nearest neighbour is searched; the search covers all photos

_TALL, _WIDE = 512, 4096
_ROUNDING = 1e-5  # above the float32 rounding error of a sum of thousands of terms between -1 and 1


def novelty_threshold(
    X: RowSource, rows: np.ndarray, digests: np.ndarray, *, quantile: float = QUANTILE
) -> float | None:
    """Return the quantile of the cosine distances from each photo to its nearest other photo.

    Duplicates do not count as other photos, because a collection that holds each photo twice would have a distance of
    zero: photos with the same content or the same embedding, and near-duplicates as `pipeline.near_duplicates` defines
    them. If there are so many near-duplicates that the criterion is meaningless, only exact duplicates are excluded.

    Parameters
    ----------
    X : array or LazyRows, shape (n, d)
    rows : ndarray of int64, shape (m,)
        The photos' rows of X. The distances of at most `SAMPLE` evenly spaced photos are computed, each to all
        photos.
    digests : ndarray of uint8, shape (m, 16)
        Their content.
    quantile : float
        Between 0 and 1.

    Returns
    -------
    float or None
        None if every photo is a duplicate of every other one.
    """
    if len(rows) < 2:
        return None
    sample = np.unique(np.linspace(0, len(rows) - 1, min(len(rows), SAMPLE)).astype(np.int64))
    content = np.unique(digests, axis=0, return_inverse=True)[1].reshape(-1)
    similarity = Similarity.of(X, rows) if X.shape[1] >= FEWEST_DIMENSIONS else None
    nearest, near_duplicates = _nearest_others(X, rows, sample, content, similarity)
    if near_duplicates > MOST_PAIRS * len(sample):
        nearest, _ = _nearest_others(X, rows, sample, content, None)
    distances = 1 - nearest[np.isfinite(nearest)].astype(np.float64)
    return float(np.quantile(distances, quantile)) if len(distances) else None


def unit_rows(values: np.ndarray) -> np.ndarray:
    """Return rows scaled to length 1, float32; a row of zeros is unchanged, so its cosine with any row is 0."""
    values = np.asarray(values, np.float32)
    lengths = np.sqrt(np.einsum("ij,ij->i", values, values, dtype=np.float64)).astype(np.float32)
    return values / np.where(lengths > 0, lengths, 1)[:, None]


def _nearest_others(
    X: RowSource, rows: np.ndarray, sample: np.ndarray, content: np.ndarray, similarity: Similarity | None
) -> tuple[np.ndarray, int]:
    """Return the cosine of each sampled photo to its nearest other one (-inf for none), and the near-duplicates."""
    best = np.full(len(sample), -np.inf, np.float32)
    near_duplicates = 0
    for tall in row_blocks(len(sample), _TALL):
        sampled = sample[tall]
        unit = unit_rows(X[rows[sampled]])
        centered = None if similarity is None else similarity.unit(X, rows[sampled])
        for wide in row_blocks(len(rows), _WIDE):
            cosine = unit @ unit_rows(X[rows[wide]]).T  # (tall, wide)
            duplicates = (content[sampled][:, None] == content[wide][None, :]) | (cosine >= 1 - _ROUNDING)
            if similarity is not None:
                near = centered @ similarity.unit(X, rows[wide]).T >= similarity.threshold
                near_duplicates += int((near & ~duplicates).sum())
                duplicates |= near
            cosine[duplicates] = -np.inf
            np.maximum(best[tall], cosine.max(axis=1), out=best[tall])
    return best, near_duplicates


IN_MEMORY = 1 << 30  # bytes; larger embeddings are read again in blocks for every search
_BLOCK = 4096


@dataclass(frozen=True)
class TrainingRef:
    """The reference to the training photos in a model's record.

    Attributes
    ----------
    cache : str
        The name of the cache that holds their embeddings, without the cache version.
    key : str
        Hash of the recipe and the image location of that cache.
    beyond : float or None
        The cosine distance from the nearest training photo beyond which a photo is unfamiliar; None if every training
        photo is a duplicate of every other one.
    path : str
        Of the cache, if the model was fitted in this process; not stored, because models are moved between machines.
    """

    cache: str = ""
    key: str = ""
    beyond: float | None = None
    path: str = field(default="", compare=False)

    @classmethod
    def of(cls, cache: FeatureCache, beyond: float | None) -> TrainingRef:
        """Return the reference to photos whose embeddings are in this cache."""
        return cls(stem_of(cache.path) or cache.path.stem, key_of(cache), beyond, str(cache.path.absolute()))

    @staticmethod
    def is_valid_record(entry: Any) -> bool:
        """Return whether `from_record` can read this ``training`` entry of a record."""
        if not isinstance(entry, dict) or not all(isinstance(entry.get(name, ""), str) for name in ("cache", "key")):
            return False
        rule = entry.get("unfamiliar") or {}
        return isinstance(rule, dict) and isinstance(rule.get("beyond"), float | int | None)

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> TrainingRef:
        """Return the reference in a record; an empty one for records of versions that did not write it."""
        entry = record.get("training") or {}
        return cls(entry.get("cache", ""), entry.get("key", ""), (entry.get("unfamiliar") or {}).get("beyond"))

    def as_dict(self) -> dict[str, Any]:
        """Return the reference as plain JSON values."""
        rule = {"distance": "cosine, to the nearest training photo", "beyond": self.beyond, "quantile": QUANTILE}
        return {"cache": self.cache, "key": self.key, "unfamiliar": None if self.beyond is None else rule}


@dataclass(frozen=True, eq=False)
class Neighbors:
    """The training photos nearest to each of n images.

    Attributes
    ----------
    rows : ndarray of int64, shape (n, k)
        Positions in the `TrainingSet`, the nearest first.
    cosine : ndarray of float32, shape (n, k)
    """

    rows: np.ndarray
    cosine: np.ndarray


class TrainingSet:
    """The training photos of a model, searchable by the cosine of their embeddings.

    Parameters
    ----------
    X : array or LazyRows, shape (n, d)
    rows : ndarray of int64, shape (m,)
        The photos' rows of X.
    ids, labels : sequence of str, length m
        A label is empty if it is not recorded.
    thumbnail : callable
        From a photo's position to its JPEG; empty bytes if there is none.
    place : str
        Where the embeddings are, as text for reports.
    """

    def __init__(
        self,
        X: RowSource,
        rows: np.ndarray,
        ids: Sequence[str],
        labels: Sequence[str],
        *,
        thumbnail: Callable[[int], bytes] | None = None,
        place: str,
    ) -> None:
        self._X, self._rows = X, rows
        self.ids, self.labels, self.place = ids, labels, place
        self.thumbnail = thumbnail or (lambda row: b"")
        self.pictured = thumbnail is not None
        small = len(rows) * X.shape[1] * 4 <= IN_MEMORY
        self._whole = [unit_rows(X[rows])] if small else None

    def __len__(self) -> int:
        return len(self._rows)

    def nearest(self, features: np.ndarray, k: int = 1) -> Neighbors:
        """Return the k training photos (all if there are fewer) with the largest cosine to each row of (n, d)."""
        k = min(k, len(self))
        queries = unit_rows(features)
        rows, best = np.zeros((len(queries), 0), np.int64), np.zeros((len(queries), 0), np.float32)
        start = 0
        with one_thread():  # decoding and inference use the other cores
            for block in self._blocks():
                cosine = queries @ block.T  # (n, block)
                found = np.argpartition(cosine, -k, axis=1)[:, -k:] if k < len(block) else np.arange(len(block))[None]
                found = np.broadcast_to(found, (len(queries), found.shape[1]))
                rows = np.hstack([rows, found + start])
                best = np.hstack([best, np.take_along_axis(cosine, found, axis=1)])
                # Equal cosines: the lower row first, so that the result does not depend on the block size.
                order = np.lexsort((rows, -best), axis=1)[:, :k]
                rows, best = np.take_along_axis(rows, order, axis=1), np.take_along_axis(best, order, axis=1)
                start += len(block)
        return Neighbors(rows, best)

    def _blocks(self) -> Iterator[np.ndarray]:
        """Yield blocks of the embeddings, scaled to length 1."""
        if self._whole is not None:
            whole = self._whole[0]
            yield from (whole[start : start + _BLOCK] for start in range(0, len(whole), _BLOCK))
            return
        for start in range(0, len(self._rows), _BLOCK):
            yield unit_rows(self._X[self._rows[start : start + _BLOCK]])


def find_training_set(
    folder: Path,
    *,
    training: TrainingRef,
    kept: EmbeddedTrainingSet | None,
    digests: np.ndarray,
    recipe: Mapping[str, Any],
    layer: str,
    label_set: str,
) -> tuple[TrainingSet | None, str]:
    """Return the training photos that a model keeps, or those in a cache of this folder; or the reason why not.

    A cache qualifies by content: it must hold all of the photos under the model's recipe. The cache with the recorded
    key is examined first.

    Parameters
    ----------
    folder : Path
        Folder of caches.
    training, kept, digests, recipe, layer, label_set
        As in `ModelSpec`.
    """
    if kept is not None:
        rows, place = np.arange(len(kept)), "the model folder"
        found = TrainingSet(kept.embeddings, rows, kept.ids, kept.labels, thumbnail=kept.thumbnail, place=place)
        return found, ""
    if not training.key:
        return None, "the model was fitted by a version without this record: fit it again"
    caches, _ = caches_in(folder)
    for cache in sorted(caches, key=lambda cache: key_of(cache) != training.key):
        if cache.differences(recipe) or layer not in cache.layers:
            continue
        rows_of_training = _rows_of(cache, digests)
        if rows_of_training is not None and cache.is_sound():
            ids, column = cache.ids, cache.columns.get(label_set) or [""] * len(cache)
            names, labels = [ids[row] for row in rows_of_training], [column[row] or "" for row in rows_of_training]
            return TrainingSet(cache.stored(layer), rows_of_training, names, labels, place=str(cache.path)), ""
    return None, (
        f"their embeddings are not available: no cache in {folder} holds them (they were in {training.cache}), and "
        "the model keeps none; fit with --keep-photos, or name the folder with --cache"
    )


def key_of(cache: FeatureCache) -> str:
    """Return the key of a cache: a hash of its recipe and of the location of its images."""
    return sha256_json({"recipe": dict(cache.recipe), "place": cache.place})[:12]


def _rows_of(cache: FeatureCache, digests: np.ndarray) -> np.ndarray | None:
    """Return a row of the cache for each content digest, (m,); None if a digest is missing."""
    rows, stored = cache.rows, np.asarray(cache.digest)
    unused: dict[bytes, list[int]] = {}
    for row in reversed(rows.tolist()):
        unused.setdefault(stored[row].tobytes(), []).append(row)
    found = []
    for digest in digests:
        matches = unused.get(digest.tobytes())
        if matches is None:
            return None
        # Duplicates get different rows for as long as the cache has as many of them.
        found.append(matches.pop() if len(matches) > 1 else matches[0])
    return np.array(found, np.int64) if found else None


ROWS_PER_GROUP = 512  # of the Parquet file: the rows that are read to get one thumbnail
STAGE = "thumbnails"
COLUMNS = ("id", "label", "digest", "embedding", "thumbnail")


@dataclass(frozen=True, eq=False)
class EmbeddedTrainingSet:
    """The embeddings, labels and thumbnails of m training photos, in the order of the model's digests.

    Attributes
    ----------
    ids : sequence of str
    labels : sequence of str
        The training labels.
    embeddings : ndarray of float16, shape (m, d)
        Scaled to length 1, as cosines need; no value then overflows float16.
    thumbnail : callable
        From a photo's position to its JPEG; empty bytes if there is none.
    """

    ids: Sequence[str]
    labels: Sequence[str]
    embeddings: np.ndarray = field(repr=False)
    thumbnail: Callable[[int], bytes] = field(repr=False)

    def __len__(self) -> int:
        return len(self.ids)

    def write(self, path: Path, digests: np.ndarray) -> None:
        """Write one Parquet table, one row per photo."""
        import pyarrow as pa
        from pyarrow import parquet

        width = self.embeddings.shape[1]
        schema = pa.schema(
            [
                ("id", pa.string()),
                ("label", pa.string()),
                ("digest", pa.binary(digests.shape[1])),
                ("embedding", pa.list_(pa.float16(), width)),
                ("thumbnail", pa.binary()),
            ]
        )
        with parquet.ParquetWriter(path, schema) as writer:
            for start in range(0, len(self), ROWS_PER_GROUP):
                rows = range(start, min(start + ROWS_PER_GROUP, len(self)))
                block = np.ascontiguousarray(self.embeddings[rows.start : rows.stop], np.float16)
                columns = [
                    pa.array([self.ids[row] for row in rows], pa.string()),
                    pa.array([self.labels[row] for row in rows], pa.string()),
                    pa.array([digests[row].tobytes() for row in rows], schema.field("digest").type),
                    pa.FixedSizeListArray.from_arrays(pa.array(block.reshape(-1)), width),
                    pa.array([self.thumbnail(row) for row in rows], pa.binary()),
                ]
                writer.write_table(pa.table(columns, schema=schema), row_group_size=ROWS_PER_GROUP)

    @classmethod
    def read(cls, file: BinaryIO, digests: np.ndarray, next_step: str) -> EmbeddedTrainingSet:
        """Return the photos in an open file; their digests must be these.

        Thumbnails are read on demand; they are empty if the file was replaced meanwhile.

        Raises
        ------
        ModelError
            The file is not such a table, or holds other photos.
        """
        from pyarrow import parquet

        path, stat = Path(file.name), _file_identity(os.fstat(file.fileno()))
        try:
            file.seek(0)
            with parquet.ParquetFile(file, pre_buffer=False) as opened:
                table = opened.read(columns=list(COLUMNS[:-1]))
            ids, labels = table["id"].to_pylist(), table["label"].to_pylist()
            stored = np.frombuffer(b"".join(table["digest"].to_pylist()), np.uint8).reshape(-1, digests.shape[1])
            embeddings = table["embedding"].combine_chunks().flatten().to_numpy().reshape(len(ids), -1)
        except Exception as error:  # Arrow raises many types without a common base class
            raise ModelError(
                f"{path}: expected the kept training photos, got {type(error).__name__}", next_step
            ) from error
        if not np.array_equal(stored, digests) or len(labels) != len(ids) or len(embeddings) != len(ids):
            raise ModelError(f"{path}: expected the training photos of the model, got others", next_step)

        def read_thumbnail(row: int) -> bytes:
            group, position = divmod(row, ROWS_PER_GROUP)
            with open(path, "rb") as reopened:
                if _file_identity(os.fstat(reopened.fileno())) != stat:
                    return b""
                with parquet.ParquetFile(reopened, pre_buffer=False) as opened:
                    return opened.read_row_group(group, columns=["thumbnail"])["thumbnail"][position].as_py()

        return cls(ids, labels, embeddings, read_thumbnail)


def _file_identity(stat: os.stat_result) -> tuple[int, ...]:
    """Return values that change if the file is replaced or written to."""
    return stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns


def embed_training_set(
    source: ImageSource,
    ids: Sequence[str],
    labels: Sequence[str],
    digests: np.ndarray,
    X: LazyRows,
    rows: np.ndarray,
    *,
    n_jobs: int | None = None,
    progress: Progress = SILENT,
) -> EmbeddedTrainingSet:
    """Return the embeddings and thumbnails of training photos, for a model to keep.

    A photo that cannot be read any more, or has changed since training, has no thumbnail; a note counts such photos.

    Parameters
    ----------
    source : ImageSource
    ids, labels : sequence of str, length m
    digests : ndarray of uint8, shape (m, 16)
    X : LazyRows, shape (n, d)
    rows : ndarray of int64, shape (m,)
        The photos' rows of X.
    n_jobs, progress
        As for `extract`.
    """
    row_of = {name: row for row, name in enumerate(source.ids)}

    def make_thumbnail(number: int) -> bytes:
        try:
            photo = source.read(row_of[ids[number]])
            return thumbnail(photo) if photo.digest == digests[number].tobytes() else b""
        except (KeyError, UnreadableImage):
            return b""

    thumbnails: list[bytes] = []
    with ThreadPoolExecutor(workers(n_jobs)) as pool:
        for jpeg in pool.map(make_thumbnail, range(len(ids))):
            thumbnails.append(jpeg)
            progress.advance(STAGE, len(thumbnails), len(ids))
    without = [ids[number] for number, jpeg in enumerate(thumbnails) if not jpeg]
    if without:
        progress.note(f"{len(without)} of {len(ids)} photos have no thumbnail (deleted or changed), e.g. {without[0]}")
    embeddings = np.empty((len(rows), X.shape[1]), np.float16)
    for start in range(0, len(rows), ROWS_PER_GROUP):
        block = rows[start : start + ROWS_PER_GROUP]
        embeddings[start : start + len(block)] = unit_rows(X[block])
    return EmbeddedTrainingSet(ids, labels, embeddings, thumbnails.__getitem__)
