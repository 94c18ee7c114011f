"""Cache format 1: where each dataset lies in the HDF5 file, and bytes read and written at that place.

Every dataset is contiguous and allocated in full when the file is made, so from then on a row is bytes at a known
offset and no HDF5 metadata ever changes: a process killed at any instant leaves a file that opens.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import h5py
import numpy as np

from pipeline.errors import CacheError

FORMAT = 1
KIND = b"transfer-pipeline feature cache"
SUFFIX = ".h5"
DIGEST_BYTES = 16
STATISTICS = 12

PENDING = np.uint8(0)
STORED = np.uint8(1)

STORE_TYPES: dict[str, np.dtype] = {"fp32": np.dtype("<f4"), "fp16": np.dtype("<f2")}


@dataclass(frozen=True)
class Field:
    """One dataset: `shape[0]` rows of `row_bytes` bytes each, the first of them at byte `offset` of the file."""

    name: str
    dtype: np.dtype
    shape: tuple[int, ...]
    offset: int

    @property
    def row_bytes(self) -> int:
        return self.dtype.itemsize * int(np.prod(self.shape[1:], dtype=np.int64))


@dataclass(frozen=True)
class Header:
    """What a cache file says of itself: its fields and its provenance, read without touching a row."""

    path: Path
    rows: int
    fields: Mapping[str, Field]
    provenance: Mapping[str, Any]

    @cached_property
    def layers(self) -> dict[str, int]:
        """``{layer: width}``, in the file's order."""
        return {
            unquote(name.partition("/")[2]): field.shape[1]
            for name, field in self.fields.items()
            if name.startswith("features/")
        }

    @cached_property
    def columns(self) -> list[str]:
        """Names of the label columns that the source knew."""
        return [unquote(name.partition("/")[2]) for name in self.fields if name.startswith("labels/")]

    def map(self, name: str) -> np.ndarray:
        """Return the dataset as a read-only memory map: no copy, pages are read when they are touched."""
        field = self.fields[name]
        if self.rows == 0:
            return np.zeros(field.shape, field.dtype)
        return np.memmap(self.path, dtype=field.dtype, mode="r", offset=field.offset, shape=field.shape)

    def features(self, layer: str) -> np.ndarray:
        """Return a layer's rows as a read-only memory map, ``(n, d)``."""
        return self.map(features_name(layer))


def features_name(layer: str) -> str:
    """Return the dataset name of a layer; node names may hold a slash, HDF5 names may not."""
    return f"features/{_link(layer)}"


def labels_name(column: str) -> str:
    """Return the dataset name of a label column."""
    return f"labels/{_link(column)}"


def _link(name: str) -> str:
    quoted = quote(name, safe=" ")
    # "." and ".." mean a place in HDF5, not a name.
    return quoted.replace(".", "%2E") if not quoted.strip(".") else quoted


def as_fixed_text(values: Sequence[str | None]) -> np.ndarray:
    """Return texts as fixed-length UTF-8, null-padded, ``(n,)``; nothing in a cache is of variable length.

    None becomes the empty text.
    """
    encoded = [(value or "").encode() for value in values]
    width = max((len(value) for value in encoded), default=0)
    return np.array(encoded, dtype=f"S{max(width, 1)}")


def read_header(path: Path, *, provenance: Mapping[str, Any] | None = None) -> Header:
    """Return what the file says of itself, or refuse it with the reason.

    Parameters
    ----------
    path : Path
    provenance : mapping, optional
        Used instead of the stored one, while the file is being made.

    Raises
    ------
    CacheError
        Not a cache, of another format, truncated, or with a damaged provenance.
    """
    try:
        with h5py.File(path, "r", locking=False) as file:
            _refuse_strange_format(path, file)
            fields = {name: _field(path, dataset) for name, dataset in _datasets(path, file)}
            expected = file["provenance"].attrs.get("sha256", b"") if "provenance" in fields else b""
    except FileNotFoundError:
        raise CacheError(f"{path}: wanted a cache, found no such file", "pipeline cache list") from None
    except PermissionError as error:
        raise CacheError(f"{path}: wanted to read the cache, found {error.strerror}", f"chmod u+r {path}") from error
    except (OSError, RuntimeError, KeyError, ValueError) as error:
        raise CacheError(f"{path}: wanted a cache, found a damaged file ({_short(error)})", _again(path)) from error

    missing = {"ids", "stat", "digest", "status", "crc32", "pixel_statistics", "provenance"} - fields.keys()
    if missing:
        raise CacheError(f"{path}: wanted a cache, found no dataset {', '.join(sorted(missing))}", _again(path))
    rows = fields["ids"].shape[0]
    _refuse_wrong_sizes(path, fields, rows)
    if provenance is None:
        provenance = _read_provenance(path, fields["provenance"], bytes(expected))
    return Header(path, rows, fields, provenance)


class Rows:
    """Owns the file descriptor that rows are written through: plain bytes at known offsets, never HDF5."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_RDWR | getattr(os, "O_BINARY", 0))

    def write(self, field: Field, row: int, values: np.ndarray) -> None:
        """Write `values` (k, ...) to rows ``row .. row + k`` of `field`, whole or with an OSError."""
        data = memoryview(np.ascontiguousarray(values, field.dtype).tobytes())
        position = field.offset + row * field.row_bytes
        while data:
            written = self._write_at(data, position)
            data, position = data[written:], position + written

    @property
    def descriptor(self) -> int:
        return self._file

    def _write_at(self, data: memoryview, position: int) -> int:
        if hasattr(os, "pwrite"):
            return os.pwrite(self._file, data, position)
        os.lseek(self._file, position, os.SEEK_SET)
        return os.write(self._file, data)

    def sync(self) -> None:
        """Return when all that was written is on the disk."""
        getattr(os, "fdatasync", os.fsync)(self._file)

    def close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def __enter__(self) -> Rows:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _refuse_strange_format(path: Path, file: h5py.File) -> None:
    kind, number = file.attrs.get("kind"), file.attrs.get("format")
    if kind is None or bytes(kind) != KIND:
        raise CacheError(f"{path}: wanted a feature cache, found another kind of HDF5 file", "pipeline cache list")
    if int(number) != FORMAT:
        raise CacheError(
            f"{path}: wanted cache format {FORMAT}, found format {int(number)}",
            "install the version of transfer-pipeline that wrote it, or extract again",
        )


def _datasets(path: Path, file: h5py.File) -> list[tuple[str, h5py.Dataset]]:
    """Return the datasets by name; links that leave the file are refused before they are followed."""
    found: list[tuple[str, h5py.Dataset]] = []

    def walk(group: h5py.Group, prefix: str) -> None:
        for name in group:
            if not isinstance(group.get(name, getlink=True), h5py.HardLink):
                raise CacheError(f"{path}: wanted plain datasets, found {prefix}{name} to be a link", _again(path))
            item = group[name]
            if isinstance(item, h5py.Dataset):
                found.append((prefix + name, item))
            elif not prefix:
                walk(item, f"{name}/")

    walk(file, "")
    return found


def _field(path: Path, dataset: h5py.Dataset) -> Field:
    name = dataset.name.lstrip("/")
    plist = dataset.id.get_create_plist()
    plain = (
        plist.get_layout() == h5py.h5d.CONTIGUOUS
        and plist.get_external_count() == 0
        and plist.get_nfilters() == 0
        and dataset.dtype.kind in "Sfiu"  # text of variable length has kind "O"
        and dataset.ndim >= 1
    )
    if not plain:
        raise CacheError(f"{path}: wanted a plain contiguous dataset, found {name} is not one", _again(path))
    offset = dataset.id.get_offset()
    return Field(name, np.dtype(dataset.dtype.str), dataset.shape, 0 if offset is None else int(offset))


def _refuse_wrong_sizes(path: Path, fields: Mapping[str, Field], rows: int) -> None:
    size = path.stat().st_size
    for field in fields.values():
        if field.name != "provenance" and field.shape[0] != rows:
            raise CacheError(
                f"{path}: wanted {rows} rows in every dataset, found {field.shape[0]} in {field.name}", _again(path)
            )
        end = field.offset + field.row_bytes * field.shape[0]
        if end > size:
            raise CacheError(
                f"{path}: wanted {end} bytes for {field.name}, found the file truncated at {size}", _again(path)
            )


def _read_provenance(path: Path, field: Field, expected: bytes) -> dict[str, Any]:
    text = np.fromfile(path, np.uint8, count=field.shape[0], offset=field.offset).tobytes()
    if hashlib.sha256(text).hexdigest().encode() != expected:
        raise CacheError(f"{path}: the provenance does not match its own SHA-256: the file is damaged", _again(path))
    return json.loads(text)


def _short(error: BaseException) -> str:
    return str(error).partition("\n")[0][:120]


def _again(path: Path) -> str:
    return f"pipeline cache remove {path}, then extract again"
