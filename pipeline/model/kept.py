"""`KeptPhotos`: small pictures and embeddings of the photos that a model learned from, in the model folder itself."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import numpy as np

from pipeline.cache import LazyRows
from pipeline.engines import workers
from pipeline.errors import ModelError, UnreadableImage
from pipeline.images import ImageSource, thumbnail
from pipeline.model.familiarity import unit_rows
from pipeline.progress import SILENT, Progress

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
            raise ModelError(f"{path}: wanted the kept photos, found {type(error).__name__}", next_step) from error
        if not np.array_equal(stored, digests) or len(labels) != len(ids) or len(embeddings) != len(ids):
            raise ModelError(f"{path}: wanted the photos that the model learned from, found others", next_step)

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
    X : StoredRows, shape (n, d)
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
