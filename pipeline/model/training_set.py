"""`TrainingSet`: the embeddings of the photos that a model learned from, searched by cosine, exactly."""

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
SAMPLE = 4096  # photos whose nearest other one is looked for, among all of them

_TALL, _WIDE = 512, 4096
_ROUNDING = 1e-5  # more than float32 loses on 1,000s of terms between -1 and 1


def novelty_threshold(
    X: RowSource, rows: np.ndarray, digests: np.ndarray, *, quantile: float = QUANTILE
) -> float | None:
    """Return the cosine distance that this share of the photos do not exceed, each to the nearest other photo.

    A copy is no other photo, or a collection in which each photo lies twice would have a distance of zero: photos of
    one content, of one embedding, or nearly alike as `pipeline.near_duplicates` has it do not count for one another.
    Where
    there are so many near-copies that they mean nothing, only the others are passed by.

    Parameters
    ----------
    X : array or LazyRows, shape (n, d)
    rows : ndarray of int64, shape (m,)
        Of the photos. Beyond `SAMPLE` of them, as many are asked, evenly spread, about all.
    digests : ndarray of uint8, shape (m, 16)
        Of their content.
    quantile : float

    Returns
    -------
    float or None
        None where no photo has another one that is no copy of it.
    """
    if len(rows) < 2:
        return None
    asked = np.unique(np.linspace(0, len(rows) - 1, min(len(rows), SAMPLE)).astype(np.int64))
    content = np.unique(digests, axis=0, return_inverse=True)[1].reshape(-1)
    likeness = Similarity.of(X, rows) if X.shape[1] >= FEWEST_DIMENSIONS else None
    nearest, near_copies = _nearest_others(X, rows, asked, content, likeness)
    if near_copies > MOST_PAIRS * len(asked):
        nearest, _ = _nearest_others(X, rows, asked, content, None)
    distances = 1 - nearest[np.isfinite(nearest)].astype(np.float64)
    return float(np.quantile(distances, quantile)) if len(distances) else None


def unit_rows(values: np.ndarray) -> np.ndarray:
    """Return rows at length 1, float32; a row of zeros stays as it is, and is like no other."""
    values = np.asarray(values, np.float32)
    lengths = np.sqrt(np.einsum("ij,ij->i", values, values, dtype=np.float64)).astype(np.float32)
    return values / np.where(lengths > 0, lengths, 1)[:, None]


def _nearest_others(
    X: RowSource, rows: np.ndarray, asked: np.ndarray, content: np.ndarray, likeness: Similarity | None
) -> tuple[np.ndarray, int]:
    """Return the cosine of each photo asked about and its nearest other one, -inf for none, and the near-copies met."""
    best = np.full(len(asked), -np.inf, np.float32)
    near_copies = 0
    for tall in row_blocks(len(asked), _TALL):
        mine = asked[tall]
        one, centred = unit_rows(X[rows[mine]]), None if likeness is None else likeness.unit(X, rows[mine])
        for wide in row_blocks(len(rows), _WIDE):
            cosine = one @ unit_rows(X[rows[wide]]).T  # (tall, wide)
            copies = (content[mine][:, None] == content[wide][None, :]) | (cosine >= 1 - _ROUNDING)
            if likeness is not None:
                near = centred @ likeness.unit(X, rows[wide]).T >= likeness.threshold
                near_copies += int((near & ~copies).sum())
                copies |= near
            cosine[copies] = -np.inf
            np.maximum(best[tall], cosine.max(axis=1), out=best[tall])
    return best, near_copies


IN_MEMORY = 1 << 30  # bytes of embeddings that are read once; of more a block at a time, for every question
_BLOCK = 4096


@dataclass(frozen=True)
class TrainingRef:
    """What a model's record says of the photos it learned from.

    Attributes
    ----------
    cache : str
        The name of the cache that holds their embeddings, without its generation.
    key : str
        Of the cache: recipe and place.
    beyond : float or None
        The cosine distance from the nearest training photo beyond which a photo is unfamiliar; None where no training
        photo has another one that is no copy of it.
    path : str
        Of the cache, where the model was fitted in this process; never stored, because a model travels.
    """

    cache: str = ""
    key: str = ""
    beyond: float | None = None
    path: str = field(default="", compare=False)

    @classmethod
    def of(cls, cache: FeatureCache, beyond: float | None) -> TrainingRef:
        """Return what there is to say of photos whose embeddings lie in this cache."""
        return cls(stem_of(cache.path) or cache.path.stem, key_of(cache), beyond, str(cache.path.absolute()))

    @staticmethod
    def reads(said: Any) -> bool:
        """Return whether `from_record` can read this entry of a record."""
        if not isinstance(said, dict) or not all(isinstance(said.get(name, ""), str) for name in ("cache", "key")):
            return False
        rule = said.get("unfamiliar") or {}
        return isinstance(rule, dict) and isinstance(rule.get("beyond"), float | int | None)

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> TrainingRef:
        """Return what a record says; nothing of one that was written before this was recorded."""
        said = record.get("training") or {}
        return cls(said.get("cache", ""), said.get("key", ""), (said.get("unfamiliar") or {}).get("beyond"))

    def as_dict(self) -> dict[str, Any]:
        """Return it as plain JSON values."""
        rule = {"distance": "cosine, to the nearest training photo", "beyond": self.beyond, "quantile": QUANTILE}
        return {"cache": self.cache, "key": self.key, "unfamiliar": None if self.beyond is None else rule}


@dataclass(frozen=True, eq=False)
class Neighbors:
    """The training photos nearest to each of n images.

    Attributes
    ----------
    rows : ndarray of int64, shape (n, k)
        Of `TrainingSet`, the nearest first.
    cosine : ndarray of float32, shape (n, k)
    """

    rows: np.ndarray
    cosine: np.ndarray


class TrainingSet:
    """The photos that a model learned from.

    Parameters
    ----------
    X : array or LazyRows, shape (n, d)
    rows : ndarray of int64, shape (m,)
        Which of X are theirs.
    ids, labels : sequence of str, length m
        A label is empty where it is not known.
    thumbnail : callable
        From a row to its JPEG; empty where there is none.
    place : str
        Where the embeddings were found, for a person.
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
        """Return the k training photos, or all where there are fewer, of the largest cosine with each row, (n, d)."""
        k = min(k, len(self))
        asked = unit_rows(features)
        rows, best = np.zeros((len(asked), 0), np.int64), np.zeros((len(asked), 0), np.float32)
        start = 0
        with one_thread():  # those who decode and infer have the cores
            for block in self._blocks():
                cosine = asked @ block.T  # (n, block)
                some = np.argpartition(cosine, -k, axis=1)[:, -k:] if k < len(block) else np.arange(len(block))[None]
                some = np.broadcast_to(some, (len(asked), some.shape[1]))
                rows = np.hstack([rows, some + start])
                best = np.hstack([best, np.take_along_axis(cosine, some, axis=1)])
                order = np.lexsort((rows, -best), axis=1)[:, :k]
                rows, best = np.take_along_axis(rows, order, axis=1), np.take_along_axis(best, order, axis=1)
                start += len(block)
        return Neighbors(rows, best)

    def _blocks(self) -> Iterator[np.ndarray]:
        """Give the embeddings at length 1, some rows at a time."""
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
    """Return the photos that a model was trained on: those it keeps, or those of a cache in this folder; or why not.

    A cache qualifies by content: it holds all of the photos under the model's recipe. The cache of the recorded key is
    examined first.

    Parameters
    ----------
    folder : Path
        Of caches.
    training, kept, digests, recipe, layer, label_set
        As in `ModelSpec`.
    """
    if kept is not None:
        rows, place = np.arange(len(kept)), "the model folder"
        found = TrainingSet(kept.embeddings, rows, kept.ids, kept.labels, thumbnail=kept.thumbnail, place=place)
        return found, ""
    if not training.key:
        return None, "the model was fitted by a version that did not record them: fit it again"
    caches, _ = caches_in(folder)
    for cache in sorted(caches, key=lambda cache: key_of(cache) != training.key):
        if cache.differences(recipe) or layer not in cache.layers:
            continue
        rows_of_training = _rows_of(cache, digests)
        if rows_of_training is not None and cache.is_sound():
            ids, known = cache.ids, cache.columns.get(label_set) or [""] * len(cache)
            names, labels = [ids[row] for row in rows_of_training], [known[row] or "" for row in rows_of_training]
            return TrainingSet(cache.stored(layer), rows_of_training, names, labels, place=str(cache.path)), ""
    return None, (
        f"their embeddings are not available: no cache in {folder} holds them (they were in {training.cache}), and "
        "the model keeps none; fit with --keep-photos, or name the folder with --cache"
    )


def key_of(cache: FeatureCache) -> str:
    """Return the key of a cache: of its recipe and of where its images are."""
    return sha256_json({"recipe": dict(cache.recipe), "place": cache.place})[:12]


def _rows_of(cache: FeatureCache, digests: np.ndarray) -> np.ndarray | None:
    """Return a row of the cache for each content, (m,), or None where one of them is missing."""
    rows, stored = cache.rows, np.asarray(cache.digest)
    left: dict[bytes, list[int]] = {}
    for row in reversed(rows.tolist()):
        left.setdefault(stored[row].tobytes(), []).append(row)
    found = []
    for digest in digests:
        there = left.get(digest.tobytes())
        if there is None:
            return None
        # Of exact copies each is named, as long as there is another one.
        found.append(there.pop() if len(there) > 1 else there[0])
    return np.array(found, np.int64) if found else None


ROWS_A_GROUP = 512  # of the file: what is read for one picture
STAGE = "thumbnails"
COLUMNS = ("id", "label", "digest", "embedding", "thumbnail")


@dataclass(frozen=True, eq=False)
class EmbeddedTrainingSet:
    """What is kept of m photos, in the order of the model's digests.

    Attributes
    ----------
    ids : sequence of str
    labels : sequence of str
        As the model learned them.
    embeddings : ndarray of float16, shape (m, d)
        At length 1: what cosines need, and no value too large for the type.
    thumbnail : callable
        From a row to its JPEG; empty where there is none.
    """

    ids: Sequence[str]
    labels: Sequence[str]
    embeddings: np.ndarray = field(repr=False)
    thumbnail: Callable[[int], bytes] = field(repr=False)

    def __len__(self) -> int:
        return len(self.ids)

    def write(self, path: Path, digests: np.ndarray) -> None:
        """Write one Parquet table: a row a photo."""
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
            for start in range(0, len(self), ROWS_A_GROUP):
                rows = range(start, min(start + ROWS_A_GROUP, len(self)))
                some = np.ascontiguousarray(self.embeddings[rows.start : rows.stop], np.float16)
                columns = [
                    pa.array([self.ids[row] for row in rows], pa.string()),
                    pa.array([self.labels[row] for row in rows], pa.string()),
                    pa.array([digests[row].tobytes() for row in rows], schema.field("digest").type),
                    pa.FixedSizeListArray.from_arrays(pa.array(some.reshape(-1)), width),
                    pa.array([self.thumbnail(row) for row in rows], pa.binary()),
                ]
                writer.write_table(pa.table(columns, schema=schema), row_group_size=ROWS_A_GROUP)

    @classmethod
    def read(cls, file: BinaryIO, digests: np.ndarray, next_step: str) -> EmbeddedTrainingSet:
        """Return what an open file keeps of the photos of these digests.

        Pictures are read when they are asked for, and are empty once another file has that name.

        Raises
        ------
        ModelError
            It is no such file, or about other photos.
        """
        from pyarrow import parquet

        path, stat = Path(file.name), _same(os.fstat(file.fileno()))
        try:
            file.seek(0)
            with parquet.ParquetFile(file, pre_buffer=False) as opened:
                table = opened.read(columns=list(COLUMNS[:-1]))
            ids, labels = table["id"].to_pylist(), table["label"].to_pylist()
            stored = np.frombuffer(b"".join(table["digest"].to_pylist()), np.uint8).reshape(-1, digests.shape[1])
            embeddings = table["embedding"].combine_chunks().flatten().to_numpy().reshape(len(ids), -1)
        except Exception as error:  # Arrow has a dozen kinds
            raise ModelError(f"{path}: expected the kept photos, got {type(error).__name__}", next_step) from error
        if not np.array_equal(stored, digests) or len(labels) != len(ids) or len(embeddings) != len(ids):
            raise ModelError(f"{path}: expected the photos that the model learned from, got others", next_step)

        def picture(row: int) -> bytes:
            group, place = divmod(row, ROWS_A_GROUP)
            with open(path, "rb") as again:
                if _same(os.fstat(again.fileno())) != stat:
                    return b""
                with parquet.ParquetFile(again, pre_buffer=False) as opened:
                    return opened.read_row_group(group, columns=["thumbnail"])["thumbnail"][place].as_py()

        return cls(ids, labels, embeddings, picture)


def _same(stat: os.stat_result) -> tuple[int, ...]:
    """Return what a file that nobody has written to since has in common with itself."""
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
    """Return what is to be kept of some photos, their pictures made from the photos themselves.

    A photo that cannot be read any more, or is another one than was learned from, has no picture; that is said.

    Parameters
    ----------
    source : ImageSource
    ids, labels : sequence of str, length m
    digests : ndarray of uint8, shape (m, 16)
    X : LazyRows, shape (n, d)
    rows : ndarray of int64, shape (m,)
        Of X.
    n_jobs, progress
        As for `extract`.
    """
    row_of = {name: row for row, name in enumerate(source.ids)}

    def picture(number: int) -> bytes:
        try:
            photo = source.read(row_of[ids[number]])
            return thumbnail(photo) if photo.digest == digests[number].tobytes() else b""
        except (KeyError, UnreadableImage):
            return b""

    pictures: list[bytes] = []
    with ThreadPoolExecutor(workers(n_jobs)) as pool:
        for one in pool.map(picture, range(len(ids))):
            pictures.append(one)
            progress.advance(STAGE, len(pictures), len(ids))
    without = [ids[number] for number, one in enumerate(pictures) if not one]
    if without:
        progress.note(
            f"{len(without)} of {len(ids)} photos have no thumbnail: gone or changed since, e.g. {without[0]}"
        )
    embeddings = np.empty((len(rows), X.shape[1]), np.float16)
    for start in range(0, len(rows), ROWS_A_GROUP):
        some = rows[start : start + ROWS_A_GROUP]
        embeddings[start : start + len(some)] = unit_rows(X[some])
    return EmbeddedTrainingSet(ids, labels, embeddings, pictures.__getitem__)
