"""How images in a column of a Parquet table are read; a few row groups are held in memory at a time."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from pathlib import Path
from threading import Lock
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
from pyarrow import compute, parquet

from pipeline.errors import SkipReason, SourceError, UnreadableImage
from pipeline.images.class_labels import class_names, column_kinds, holds_tags
from pipeline.images.decode import HEAD, sniff
from pipeline.images.listing import Columns, Listing, Requested, id_trouble, printable, short_name
from pipeline.images.photo import Photo, Stat
from pipeline.images.table import ID_COLUMNS, Column, column_text, find_id_column, holds_bytes, tidy_names

#: The names that say of a column of bytes that it holds the images, first match first, in any case.
IMAGE_COLUMNS = ("image", "img", "images", "photo", "picture", "image_bytes", "jpg", "jpeg", "png")

KEPT_BYTES = 128 << 20  # of row groups, per process
KEPT_GROUPS = 2  # whatever their size: where one ends, some threads are in it still and others in the next
LARGE_GROUP = 1 << 30

_LOOKED_AT = 8  # rows, to tell images from other bytes


@dataclass(frozen=True, eq=False)
class ParquetReader:
    """Reads cells of one column, a row group at a time; row i of the listing is row `order[i]` of the table."""

    path: str
    column: str
    starts: np.ndarray  # (g,) int64: the first row of each row group
    order: np.ndarray  # (n,) int64
    stat: Stat

    encoded: ClassVar = True

    def read(self, row: int, image_id: str) -> Photo:
        place = int(self.order[row])
        group = int(np.searchsorted(self.starts, place, side="right")) - 1
        try:
            cells = _kept.get((self.path, self.column, self.stat, group), lambda: self._load(group))
            data = cells[place - int(self.starts[group])].as_py()
        except FileNotFoundError as error:
            raise UnreadableImage(SkipReason.MISSING, "the table is gone") from error
        except PermissionError as error:
            raise UnreadableImage(SkipReason.FORBIDDEN) from error
        except (OSError, pa.ArrowException, UnicodeDecodeError, IndexError, KeyError) as error:
            raise UnreadableImage(SkipReason.UNREADABLE, " ".join(str(error).split())[:120]) from error
        if data is None:
            raise UnreadableImage(SkipReason.NO_BYTES)
        if not data:
            raise UnreadableImage(SkipReason.EMPTY, "no bytes in its cell")
        return Photo(blake2b(data, digest_size=16).digest(), self.stat, data)

    def take(self, rows: Sequence[int]) -> ParquetReader:
        return ParquetReader(self.path, self.column, self.starts, self.order[list(rows)], self.stat)

    def _load(self, group: int) -> pa.ChunkedArray:
        """Return one row group's cells, and be sure that they are of the file that was listed."""
        metadata = _metadata(self.path, self.stat)
        with parquet.ParquetFile(self.path, metadata=metadata, pre_buffer=False) as file:
            cells = file.read_row_group(group, columns=[_leaf(file.schema_arrow, self.column)])[self.column]
        if _stat(self.path) != self.stat:
            raise OSError("the table was changed after it was listed")
        return compute.struct_field(cells, "bytes") if pa.types.is_struct(cells.type) else cells


def image_column(path: str) -> str | None:
    """Return the name of the Parquet column that holds images as bytes, None where there is none.

    Raises
    ------
    SourceError
        It is no Parquet file, or several columns hold images and none has a name that says which is meant.
    """
    shown = printable(path)
    with _opened(path, shown) as file:
        schema = file.schema_arrow
        names = [name for name, kind in zip(schema.names, schema.types, strict=True) if holds_bytes(kind)]
        by_lower = {name.lower(): name for name in reversed(names)}
        named = next((by_lower[name] for name in IMAGE_COLUMNS if name in by_lower), None)
        if named is not None:
            return named
        names = [name for name in names if _holds_images(file, name)]
    if len(names) > 1:
        raise SourceError(
            f"{shown}: expected one column of images, got {len(names)}: {', '.join(names)}",
            "call the one that is meant `image`, or leave the others out",
        )
    return names[0] if names else None


def open_parquet(path: str, column: str, *, id_column: str | None = None) -> Listing:
    """Return the images in a column of a Parquet table, with its other columns; no image is read yet.

    The ids are those of the id column; or else the paths beside the bytes, where each row has one of its own; or else
    the table's name and the number of the row, so that the tables of one set do not share ids.
    """
    shown = printable(path)
    place = Path(path).resolve()
    with _opened(path, shown) as file:
        stat = _stat(str(place))
        schema, metadata = file.schema_arrow, file.metadata
        others = [(name, kind) for name, kind in zip(schema.names, schema.types, strict=True) if name != column]
        classes = class_names(schema)
        plain = [
            name
            for name, kind in others
            if holds_tags(kind, name in classes) or not (holds_bytes(kind) or pa.types.is_nested(kind))
        ]
        left_out = [name for name, _ in others if name not in plain]
        table = file.read(columns=plain)
        names = tidy_names(plain, shown)
        columns: Columns = {
            name: column_text(table[at], f"{shown}: column {name!r}", classes.get(plain[at], ()))
            for at, name in enumerate(names)
        }
        paths = _paths(file, column)
        largest = _largest_group(metadata)
        groups = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
    count = metadata.num_rows
    lengths = {len(values) for values in (*columns.values(), *([] if paths is None else [paths]))}
    if sum(groups) != count or min(groups, default=0) < 0 or lengths - {count} or count > stat[0]:
        raise SourceError(
            f"{shown}: expected as many rows as it says it has, {count:,}, got others in a file of {stat[0]:,} bytes",
            "write it again",
        )
    if count == 0:
        raise SourceError(f"{shown}: expected a table with rows, got none", "fill it")
    notes = [f"{shown}: its columns {', '.join(left_out)} hold no plain values and are left out"] if left_out else []
    if largest > LARGE_GROUP:
        notes.append(
            f"{shown}: row groups of up to {largest / 1e9:.1f} GB are held in memory whole; "
            "write it with row_group_size=1000 or so"
        )
    ids, key = _ids(columns, paths, id_column, shown, place.stem, count, notes)
    order = np.array(sorted(range(count), key=ids.__getitem__), np.int64)
    return Listing(
        name=short_name(place.stem),
        place=printable(place.as_posix()),
        ids=[ids[row] for row in order],
        stat=np.full((count, 2), stat, np.int64),
        reader=ParquetReader(str(place), column, np.cumsum([0, *groups[:-1]], dtype=np.int64), order, stat),
        columns={name: [cells[row] for row in order] for name, cells in columns.items() if name != key},
        kinds={name: kind for name, kind in column_kinds(schema).items() if name in columns and name != key},
        notes=notes,
        lies=order,
        requested=Requested.of(ids, ids, [ids[row] for row in order]),
    )


def _ids(
    columns: Columns, paths: Column | None, id_column: str | None, shown: str, stem: str, count: int, notes: list[str]
) -> tuple[list[str], str | None]:
    """Return the ids in the order of the table, and the column they are from, None for none."""
    if id_column is not None or any(name.lower() in ID_COLUMNS for name in columns):
        key = find_id_column(columns, id_column, shown)
        return _unique(columns[key], key, shown), key
    if paths and any(paths):
        if len(set(paths)) == count and all(path and not id_trouble(path, "table") for path in paths):
            return [path for path in paths if path], None
        notes.append(f"{shown}: the images' paths are not all there or not all different: rows are known by number")
    digits = max(6, len(str(count - 1)))
    return [f"{printable(stem)}/{row:0{digits}d}" for row in range(count)], None


def _unique(texts: Column, key: str, shown: str) -> list[str]:
    step = "give each image one id of its own, or name another column with --id"
    seen: dict[str, int] = {}
    for row, text in enumerate(texts):
        if text is None:
            raise SourceError(f"{shown}: row {row + 1} has no id: its column {key} is empty", step)
        if trouble := id_trouble(text, "table"):
            raise SourceError(f"{shown}: row {row + 1}: {printable(text)} cannot be an id: {trouble}", step)
        first = seen.setdefault(text, row)
        if first != row:
            raise SourceError(f"{shown}: {text} stands in rows {first + 1} and {row + 1} of column {key}", step)
    return list(seen)


def _leaf(schema: pa.Schema, column: str) -> str:
    """Return the path of the bytes within the column, as Parquet names it."""
    return f"{column}.bytes" if pa.types.is_struct(schema.field(column).type) else column


def _holds_images(file: parquet.ParquetFile, column: str) -> bool:
    """Return whether the first rows may be images: one looks like it, or they say nothing.

    It is called only where the names do not decide: Arrow writes the bytes as one page, so that to look at one cell is
    to read the row group.
    """
    cells: list[Any] = []
    for batch in file.iter_batches(_LOOKED_AT, columns=[_leaf(file.schema_arrow, column)]):
        cells += batch.column(column).to_pylist()
        if len(cells) >= _LOOKED_AT:
            break
    found = [cell["bytes"] if isinstance(cell, dict) else cell for cell in cells if cell is not None]
    heads = [cell[:HEAD] for cell in found if cell]
    return not heads or any(sniff(head) for head in heads)


def _paths(file: parquet.ParquetFile, column: str) -> Column | None:
    """Return the paths that stand beside the bytes, None where there is no place for them."""
    kind = file.schema_arrow.field(column).type
    if not pa.types.is_struct(kind) or kind.get_field_index("path") < 0 or not _is_text(kind.field("path").type):
        return None
    structs = file.read(columns=[f"{column}.path"])[column]
    return column_text(compute.struct_field(structs, "path"), column)


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def _largest_group(metadata: parquet.FileMetaData) -> int:
    """Return the bytes of the largest row group, which the images make up nearly all of."""
    # Not of the one column: in damaged metadata Arrow looks for it with an exception in C++ that ends the process.
    groups = (metadata.row_group(group) for group in range(metadata.num_row_groups))
    return max((group.total_byte_size for group in groups), default=0)


@contextmanager
def _opened(path: str, shown: str) -> Iterator[parquet.ParquetFile]:
    """Yield the open file; an exception of Arrow while it is opened or read becomes a `SourceError`."""
    try:
        with parquet.ParquetFile(path, pre_buffer=False) as file:
            yield file
    except (pa.ArrowException, UnicodeDecodeError) as error:  # Arrow decodes texts when they are accessed
        raise _cannot_read(shown, error) from error
    except OSError as error:
        if error.errno is None:  # Arrow's own, for a damaged page
            raise _cannot_read(shown, error) from error
        raise SourceError(
            f"{shown}: cannot read this table: {error.strerror or error}", "check the path and its permissions"
        ) from error


def _cannot_read(shown: str, error: Exception) -> SourceError:
    detail = " ".join(str(error).split())[:120]
    return SourceError(f"{shown}: not a Parquet file that can be read: {detail}", "write it again")


def _stat(path: str) -> Stat:
    found = os.stat(path)  # noqa: PTH116 - beside the other two that call it so
    return found.st_size, found.st_mtime_ns


@lru_cache(maxsize=64)
def _metadata(path: str, stat: Stat) -> parquet.FileMetaData:
    return parquet.read_metadata(path)


class _RowGroups:
    """The row groups read last, each read once by all the threads of a process."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._groups: OrderedDict[tuple, Future[pa.ChunkedArray]] = OrderedDict()

    def get(self, key: tuple, load: Callable[[], pa.ChunkedArray]) -> pa.ChunkedArray:
        """Return the row group, read by this thread or by the first thread that requested it."""
        with self._lock:
            future = self._groups.get(key)
            is_first = future is None
            if future is None:
                future = self._groups[key] = Future()
            self._groups.move_to_end(key)
        if is_first:
            self._fill(key, future, load)
        return future.result()

    def _fill(self, key: tuple, future: Future[pa.ChunkedArray], load: Callable[[], pa.ChunkedArray]) -> None:
        try:
            future.set_result(load())
        except BaseException as error:
            with self._lock:
                self._groups.pop(key, None)  # the next request tries again
            future.set_exception(error)
            return
        with self._lock:
            read = {other: group.result().nbytes for other, group in self._groups.items() if group.done()}
            for other in list(read):  # the oldest first
                if len(read) <= KEPT_GROUPS or sum(read.values()) <= KEPT_BYTES:
                    break
                del read[other], self._groups[other]


_kept = _RowGroups()
