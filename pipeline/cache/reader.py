"""How is one cache file read: its header, its rows on demand, and the checksum of each row?

Every dataset is contiguous and allocated in full when the file is created, so a row is a run of bytes at a fixed offset
and HDF5's metadata never changes afterwards: a process killed at any time leaves a file that opens.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any
from zlib import crc32

import h5py
import numpy as np

from pipeline.cache.format import (
    FORMAT,
    KIND,
    PENDING,
    REQUIRED,
    STORED,
    check_superblock,
    disable_plugins,
    features_name,
    fits,
    is_features,
    is_labels,
    plain_name,
    read_origin,
    reextract_hint,
)
from pipeline.errors import CacheError


class LazyRows:
    """All rows of one dataset; index it with row numbers, a mask or a slice to read those rows.

    Its pickle holds the place of the rows and not the rows, so it is cheap to send to a worker, also on a cluster.

    Parameters
    ----------
    headers : sequence of Header
        The files: one, or several with `order`.
    name : str
        The dataset; every file has it, with the same type and width.
    order : ndarray of int64, shape (n,), optional
        The row behind each index, counted through the concatenated files; rows may repeat. By default the rows of one
        file in its order.
    """

    def __init__(self, headers: Sequence[Header], name: str, order: np.ndarray | None = None) -> None:
        self._headers, self._name, self._order = list(headers), name, order
        field = headers[0].fields[name]
        self.dtype = field.dtype
        self._starts = np.concatenate([[0], np.cumsum([header.rows for header in headers])])
        self.shape = (int(self._starts[-1]) if order is None else len(order), *field.shape[1:])

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Any) -> np.ndarray:
        """Return these rows in memory, ``(k, ...)``, in the order of the index."""
        if isinstance(rows, slice):
            rows = np.arange(*rows.indices(len(self)))
        rows = np.asarray(rows)
        if rows.dtype == bool:
            rows = np.flatnonzero(rows)
        if self._order is None:
            return np.array(self._headers[0].map(self._name)[rows])
        rows = self._order[rows]
        found = np.empty((len(rows), *self.shape[1:]), self.dtype)
        part = np.searchsorted(self._starts, rows, side="right") - 1
        for number in np.unique(part).tolist():
            in_part = part == number
            found[in_part] = self._headers[number].map(self._name)[rows[in_part] - self._starts[number]]
        return found

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        whole = self[:]
        return whole if dtype is None else whole.astype(dtype)


class RowSubset:
    """A selection of a dataset's rows, numbered from 0.

    Parameters
    ----------
    X : LazyRows or array, shape (n, d)
    rows : ndarray of int64, shape (m,)
    """

    def __init__(self, X: Any, rows: np.ndarray) -> None:
        self._X, self._rows = X, rows
        self.shape = (len(rows), *X.shape[1:])

    def __getitem__(self, rows: Any) -> np.ndarray:
        return self._X[self._rows[rows]]


MEMORY = 16 << 20  # bytes of rows that are held at once when a whole file is checked
_WHOLE = "/"  # the key of the map of the whole file in `Header._maps`; no dataset has this name
LONGEST_ATTRIBUTE = 64  # bytes: a SHA-256 in hexadecimal


@dataclass(frozen=True)
class Field:
    """The place of one dataset: `shape[0]` rows of `row_bytes` bytes each, the first at byte `offset` of the file."""

    name: str
    dtype: np.dtype
    shape: tuple[int, ...]
    offset: int

    @property
    def row_bytes(self) -> int:
        return self.dtype.itemsize * int(np.prod(self.shape[1:], dtype=np.int64))

    @property
    def end(self) -> int:
        """The first byte of the file after the dataset."""
        return self.offset + self.row_bytes * self.shape[0]


@dataclass(frozen=True, eq=False)
class Header:
    """A cache file's fields and provenance, read without touching a row; see `read_header`."""

    path: Path
    rows: int
    fields: Mapping[str, Field]
    provenance: Mapping[str, Any]
    file: Path = field(init=False, repr=False)  # absolute, so that a later change of directory does not matter
    _maps: dict[str, np.ndarray] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "file", self.path.absolute())

    @property
    def bytes(self) -> int:
        """The size of the file in bytes; the end of its last dataset if the file was removed after it was opened."""
        try:
            return self.file.stat().st_size
        except FileNotFoundError:
            return max(found.end for found in self.fields.values())

    @cached_property
    def layers(self) -> dict[str, int]:
        """``{layer: width}``, in the file's order."""
        return {plain_name(name): field.shape[1] for name, field in self.fields.items() if is_features(name)}

    @cached_property
    def columns(self) -> list[str]:
        """Names of the source's label columns."""
        return [plain_name(name) for name in self.fields if is_labels(name)]

    @cached_property
    def row_fields(self) -> list[str]:
        """Names of the datasets with one row per image."""
        return [name for name in self.fields if name != "provenance"]

    @cached_property
    def rows_at_once(self) -> int:
        """How many rows to hold in memory at once: at most 16 MiB, and few enough to report progress in between."""
        row = sum(self.fields[name].row_bytes for name in self.row_fields)
        return min(8192, max(1, MEMORY // row))

    def map(self, name: str) -> np.ndarray:
        """Return a dataset as a read-only memory map, which reads pages on their first use.

        The map is kept, so that the dataset stays readable after another process has removed the file.

        Raises
        ------
        CacheError
            The file was removed before the dataset was first mapped.
        """
        if name not in self._maps:
            self._maps[name] = self._open(self.fields[name])
        return self._maps[name]

    def features(self, layer: str) -> np.ndarray:
        """Return a layer's rows as a read-only memory map, ``(n, d)``."""
        return self.map(features_name(layer))

    def stored(self, name: str, rows: np.ndarray | None = None) -> LazyRows:
        """Return all rows of a dataset, or the given ones, read when they are indexed."""
        return LazyRows([self], name, rows)

    def take(self, rows: np.ndarray | slice) -> dict[str, np.ndarray]:
        """Read these rows of every dataset into memory: ``{dataset: values}``."""
        return {name: np.array(self.map(name)[rows]) for name in self.row_fields}

    def hold(self) -> None:
        """Map every dataset, so that they stay readable after the file is removed."""
        for name in self.row_fields:
            self.map(name)

    def map_files(self, *, most: int) -> None:
        """Map the whole file as one (it takes one open file) if `most` is at least 1."""
        if most < 1 or _WHOLE in self._maps:
            return
        # An error, such as too many open files, is not fatal here: each dataset is then mapped when it is read.
        with suppress(OSError, ValueError):
            self._maps[_WHOLE] = np.memmap(self.file, dtype=np.uint8, mode="r")

    def _open(self, field: Field) -> np.ndarray:
        if not field.shape[0]:
            return np.zeros(field.shape, field.dtype)
        if _WHOLE in self._maps:
            whole = self._maps[_WHOLE][field.offset : field.end]
            return whole.view(field.dtype).reshape(field.shape)
        try:
            return np.memmap(self.file, dtype=field.dtype, mode="r", offset=field.offset, shape=field.shape)
        except FileNotFoundError:
            raise CacheError(
                f"{self.path}: expected a cache, got no file: it was removed, or replaced by a newer version",
                "run the same command again",
            ) from None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_maps": {}}  # the receiver maps the file itself; rows are never sent


def read_header(path: Path, *, provenance: Mapping[str, Any] | None = None) -> Header:
    """Read and check the header of a cache file.

    The file is untrusted: no dataset is read through HDF5, no link is followed, and nothing of variable length is read.

    Parameters
    ----------
    path : Path
    provenance : mapping, optional
        Used instead of the stored one, while the file is being created.

    Raises
    ------
    CacheError
        Not a cache, another format, truncated, or a damaged provenance.
    """
    try:
        check_superblock(path)
        with disable_plugins(), h5py.File(path, "r", locking=False) as file:
            _check_format(path, file)
            # HDF5 lists datasets by name; sorted by offset they are in the order in which they were created.
            found = sorted(_fields(path, file), key=lambda field: field.offset)
            fields = {field.name: field for field in found}
            _check_datasets(path, fields)
            sha256 = _attribute(file["provenance"], "sha256")
        rows = fields["ids"].shape[0]
        _check_sizes(path, fields, rows)
        if provenance is None:
            with open(path, "rb") as raw:
                raw.seek(fields["provenance"].offset)
                text = raw.read(fields["provenance"].shape[0])
            provenance = read_origin(path, text, sha256)
    except FileNotFoundError:
        raise CacheError(f"{path}: expected a cache, but there is no such file", "pipeline cache list") from None
    except PermissionError as error:
        raise CacheError(f"{path}: expected to read the cache, got no permission", f"chmod u+r {path}") from error
    except (OSError, RuntimeError, KeyError, ValueError, TypeError) as error:
        _check_disk(path, error)
        raise CacheError(f"{path}: expected a cache, got {_what_is_wrong(error)}", reextract_hint(path)) from error
    return Header(path, rows, fields, provenance)


def _check_format(path: Path, file: h5py.File) -> None:
    kind, number = _attribute(file, "kind"), _attribute(file, "format")
    if kind != KIND:
        raise CacheError(f"{path}: expected a feature cache, got another kind of HDF5 file", "pipeline cache list")
    if number != FORMAT:
        raise CacheError(
            f"{path}: expected cache format {FORMAT}, got format {number}",
            "install the version of transfer-pipeline that wrote it, or extract again",
        )


def _attribute(item: h5py.HLObject, name: str) -> Any:
    """Return an attribute that is a scalar number or a short fixed-length text, otherwise None."""
    if name not in item.attrs:
        return None
    stored = item.attrs.get_id(name)
    fits = stored.shape == () and stored.dtype.kind in "Siu" and stored.dtype.itemsize <= LONGEST_ATTRIBUTE
    return item.attrs[name] if fits else None


def _fields(path: Path, file: h5py.File) -> Iterator[Field]:
    """Yield the file's datasets; raise `CacheError` for links and for anything that format 1 does not have."""
    for name, item in _items(path, file, ""):
        if isinstance(item, h5py.Group):
            for inner, dataset in _items(path, item, f"{name}/"):
                yield _field(path, inner, dataset)
        else:
            yield _field(path, name, item)


def _items(path: Path, group: h5py.Group, prefix: str) -> Iterator[tuple[str, h5py.HLObject]]:
    for name in group:
        if isinstance(name, bytes):  # h5py returns a name that is not UTF-8 as bytes
            raise CacheError(f"{path}: expected plain names, got {prefix}{name!r:.40}", reextract_hint(path))
        if group.id.links.get_info(name.encode()).type != h5py.h5l.TYPE_HARD:
            raise CacheError(f"{path}: expected plain datasets, got {prefix}{name} to be a link", reextract_hint(path))
        yield prefix + name, group[name]


def _field(path: Path, name: str, item: h5py.HLObject) -> Field:
    if not isinstance(item, h5py.Dataset):
        raise CacheError(f"{path}: expected plain datasets, got {name} to be something else", reextract_hint(path))
    created = item.id.get_create_plist()
    contiguous = (
        created.get_layout() == h5py.h5d.CONTIGUOUS
        and created.get_external_count() == 0
        and created.get_nfilters() == 0
    )
    offset = item.id.get_offset() if contiguous else None
    if not contiguous or (offset is None and item.size):
        raise CacheError(
            f"{path}: expected contiguous datasets within the file, got another storage for {name}",
            reextract_hint(path),
        )
    dtype = np.dtype(item.dtype.str) if item.dtype.kind in "Sfiu" else item.dtype  # variable length has kind "O"
    if not fits(name, dtype, item.shape):
        raise CacheError(
            f"{path}: expected the datasets of cache format {FORMAT}, got {name} of {dtype} {item.shape}",
            reextract_hint(path),
        )
    return Field(name, dtype, item.shape, int(offset or 0))


def _check_datasets(path: Path, fields: Mapping[str, Field]) -> None:
    missing = [name for name in REQUIRED if name not in fields]
    if missing:
        raise CacheError(f"{path}: expected a cache, got no dataset {', '.join(missing)}", reextract_hint(path))
    if not any(map(is_features, fields)):
        raise CacheError(f"{path}: expected a cache, got no features in it", reextract_hint(path))


def _check_sizes(path: Path, fields: Mapping[str, Field], rows: int) -> None:
    size = path.stat().st_size
    end, before = 0, ""
    for found in fields.values():  # in the order of their offsets
        if found.offset < end:
            raise CacheError(
                f"{path}: expected datasets that do not overlap, got {found.name} within {before}",
                reextract_hint(path),
            )
        if found.end > found.offset:
            end, before = found.end, found.name
        if found.name != "provenance" and found.shape[0] != rows:
            raise CacheError(
                f"{path}: expected {rows} rows in every dataset, got {found.shape[0]} in {found.name}",
                reextract_hint(path),
            )
        if found.end > size:
            raise CacheError(
                f"{path}: expected {found.end} bytes for {found.name}, got the file truncated at {size}",
                reextract_hint(path),
            )


def _check_disk(path: Path, error: BaseException) -> None:
    """Raise `CacheError` if the disk failed: the file itself may be undamaged."""
    # HDF5 raises errors of any type, with the system's error number in their text.
    if getattr(error, "errno", None) == errno.EIO or f"errno = {errno.EIO}," in str(error):
        raise CacheError(
            f"{path}: expected to read the cache, got {os.strerror(errno.EIO)}",
            "check the disk, then run the same command again",
        ) from error


def _what_is_wrong(error: BaseException) -> str:
    text = str(error).partition("\n")[0]
    if "file signature not found" in text:
        return "a file that is not HDF5"
    if "truncated file" in text:
        return "a truncated file: it is shorter than its header states"
    return f"a damaged file ({text[:120]})"


def checksums(rows: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return the CRC-32 of each of k rows that are no longer pending.

    The checksum covers the row's bytes in each dataset but `crc32` and `provenance`: first the datasets that every row
    fills, in the order of their names; then, if the row is stored, `features/...` and `pixel_statistics`, in the order
    of theirs. A row without features may hold arbitrary bytes in these.

    Parameters
    ----------
    rows : mapping of dataset name to ndarray, shape (k, ...)
        Every dataset of the file; `crc32` and `provenance` are ignored.

    Returns
    -------
    ndarray of uint32, shape (k,)
    """
    names = sorted(rows.keys() - {"crc32", "provenance"})
    when_stored = [name for name in names if is_features(name) or name == "pixel_statistics"]
    found = np.fromiter(map(crc32, _side_by_side(rows, [name for name in names if name not in when_stored])), np.uint32)
    stored = rows["status"] == STORED
    if stored.any():
        of_stored = {name: rows[name] if stored.all() else rows[name][stored] for name in when_stored}
        values = _side_by_side(of_stored, when_stored)
        found[stored] = np.fromiter(map(crc32, values, found[stored].tolist()), np.uint32, len(values))
    return found


def valid_rows(rows: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return which of k rows are not pending and match their checksum, as a mask ``(k,)``."""
    return (rows["status"] != PENDING) & (checksums(rows) == rows["crc32"])


def damaged_rows(header: Header) -> np.ndarray:
    """Return the numbers of the rows that are not pending and do not match their checksum; reads the whole file."""
    damaged = [np.zeros(0, np.int64)]
    for start in range(0, header.rows, header.rows_at_once):
        chunk = slice(start, start + header.rows_at_once)
        written = header.map("status")[chunk] != PENDING
        if written.any():
            damaged.append(start + np.flatnonzero(written & ~valid_rows(header.take(chunk))))
    return np.concatenate(damaged)


def _side_by_side(columns: Mapping[str, np.ndarray], names: list[str]) -> np.ndarray:
    """Return the bytes of each row in these datasets, concatenated, ``(k, bytes per row)``."""
    parts = []
    for name in names:
        values = np.ascontiguousarray(columns[name])
        parts.append(values.view(np.uint8).reshape(len(values), -1))
    return np.concatenate(parts, axis=1)
