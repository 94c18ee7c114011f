"""What is cache format 1, and which files are rejected before HDF5 reads them?

The datasets of a file with their names, types and shapes; the checks of its provenance and of its superblock.
"""

from __future__ import annotations

import hashlib
import json
import re
import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import unquote

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

# name: (type, shape of one row). `provenance` is the only dataset without one row per image: its rows are bytes.
FIXED: dict[str, tuple[np.dtype, tuple[int, ...]]] = {
    "pixel_statistics": (np.dtype("<f4"), (STATISTICS,)),
    "digest": (np.dtype("u1"), (DIGEST_BYTES,)),
    "stat": (np.dtype("<i8"), (2,)),
    "status": (np.dtype("u1"), ()),
    "crc32": (np.dtype("<u4"), ()),
    "provenance": (np.dtype("u1"), ()),
}
REQUIRED = (*FIXED, "ids")

_FEATURES, _LABELS = "features/", "labels/"
_NOT_IN_LINKS = re.compile(r"[%/\x00-\x1f\x7f]")
_EMPTY = "%"  # stands for an empty name; no other name is written so, because "%" itself becomes "%25"


def features_name(layer: str) -> str:
    """Return the dataset name of a layer; a slash in a node name is quoted, because HDF5 reads it as a path."""
    return _FEATURES + _link(layer)


def labels_name(column: str) -> str:
    """Return the dataset name of a label column."""
    return _LABELS + _link(column)


def is_features(name: str) -> bool:
    return name.startswith(_FEATURES)


def is_labels(name: str) -> bool:
    return name.startswith(_LABELS)


def plain_name(name: str) -> str:
    """Return the name of the layer or column of a dataset."""
    link = name.partition("/")[2]
    return "" if link == _EMPTY else unquote(link)


def _link(name: str) -> str:
    quoted = _NOT_IN_LINKS.sub(lambda found: f"%{ord(found[0]):02X}", name)
    # HDF5 reads "." and ".." as paths too.
    return quoted.replace(".", "%2E") if quoted in (".", "..") else quoted or _EMPTY


def fits(name: str, dtype: np.dtype, shape: tuple[int, ...]) -> bool:
    """Return whether format 1 has a dataset of this name, type and shape."""
    if name in FIXED:
        return (dtype, shape[1:]) == FIXED[name]
    _, slash, link = name.partition("/")
    if slash and _link(plain_name(name)) != link:  # two spellings of one layer would be two datasets
        return False
    if is_features(name):
        return len(shape) == 2 and shape[1] > 0 and dtype in STORE_TYPES.values()
    return len(shape) == 1 and dtype.kind == "S" and (name == "ids" or is_labels(name))


def shapes_of(
    rows: int, layers: Mapping[str, int], store: str, given: Mapping[str, np.ndarray]
) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
    """Return ``{dataset: (shape, type)}`` of a whole file, in its order.

    Parameters
    ----------
    rows : int
    layers : mapping of layer name to width
    store : {"fp32", "fp16"}
    given : mapping of dataset name to ndarray
        Datasets whose values exist when the file is created: ids, labels, provenance.
    """
    filled = {name: ((rows, *tail), dtype) for name, (dtype, tail) in FIXED.items() if name not in given}
    features = {features_name(layer): ((rows, width), STORE_TYPES[store]) for layer, width in layers.items()}
    return {**features, **filled, **{name: (array.shape, array.dtype) for name, array in given.items()}}


def as_fixed_text(values: Sequence[str | None], width: int | None = None) -> np.ndarray:
    """Return texts as fixed-length UTF-8, null-padded, ``(n,)``; a cache holds nothing of variable length.

    None becomes the empty text. `width` is in bytes, by default that of the longest text.
    """
    encoded = [(value or "").encode() for value in values]
    longest = max(map(len, encoded), default=0)
    if width is not None and longest > width:
        raise ValueError(f"a text of {longest} bytes does not fit into {width}")
    return np.array(encoded, dtype=f"S{width or max(longest, 1)}")


def as_texts(values: np.ndarray) -> list[str]:
    """Return fixed-length texts as str; bytes that are not UTF-8 become ``\\xff`` escapes instead of an error."""
    return [value.decode("utf-8", "backslashreplace") for value in values.tolist()]


MOST_PARTS = 1_000_000  # bounds the list of names that `PartsHeader.missing` builds from a number in a file


def read_origin(path: Path, text: bytes, sha256: Any) -> dict[str, Any]:
    """Parse and check a file's provenance.

    Parameters
    ----------
    path : Path
        The file, for the errors.
    text : bytes
        JSON, as it is stored.
    sha256 : bytes or anything
        The hash of the text that the file records.

    Raises
    ------
    CacheError
        The provenance does not match its hash, or lacks what a cache must state.
    """
    if hashlib.sha256(text).hexdigest().encode() != sha256:
        raise CacheError(
            f"{path}: the provenance does not match its SHA-256: the file is damaged", reextract_hint(path)
        )
    try:
        provenance = json.loads(text)
        valid = isinstance(provenance["recipe"], dict) and all(
            isinstance(provenance[name], str) for name in ("place", "source")
        )
    except (ValueError, KeyError, TypeError, RecursionError):
        valid = False
    if not valid:
        raise CacheError(
            f"{path}: expected a recipe, a place and a source in the provenance, got others", reextract_hint(path)
        )
    if "part" in provenance and not _is_part(provenance["part"]):
        found = f"{provenance['part']!r:.80}"
        raise CacheError(f"{path}: expected the number and the whole of this part, got {found}", reextract_hint(path))
    return provenance


def reextract_hint(path: Path) -> str:
    """Return the next step for a cache that cannot be trusted."""
    return f"pipeline cache remove {path}, then extract again"


def _is_part(part: Any) -> bool:
    """Return whether this describes a part: shards have names, shares have a number and a total."""
    if not isinstance(part, dict) or not all(isinstance(part.get(name), str) for name in ("place", "source")):
        return False
    number, of = part.get("number"), part.get("of")
    return number is of is None or (type(number) is int and type(of) is int and 1 <= number <= of <= MOST_PARTS)


_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_UNDEFINED = 0xFFFF_FFFF_FFFF_FFFF  # HDF5's address of something that a file does not have
_SUPERBLOCK = struct.Struct("<8s4B4Q")  # signature, version, two sizes, flags, base, extension, end of file, root group
_VERSION = 3  # written with `libver=("v110", "v110")`: from this version on all metadata has checksums


def check_superblock(path: Path) -> None:
    """Raise `CacheError` unless a file begins with the superblock that `create_cache` writes.

    HDF5 also searches for its signature at later offsets, and an extension of the superblock may name a file driver, a
    cache image or another place for the metadata. A cache has none of these, so such a file is rejected before the
    library reads it.

    Raises
    ------
    OSError
        The file cannot be read.
    """
    if path.exists() and not path.is_file():  # reading a pipe would block
        raise CacheError(f"{path}: expected a cache, got no regular file", "pipeline cache list")
    with open(path, "rb") as file:
        head = file.read(_SUPERBLOCK.size)
    if not head.startswith(_SIGNATURE):
        raise CacheError(f"{path}: expected a cache, got a file that is not HDF5", "pipeline cache list")
    if len(head) < _SUPERBLOCK.size:
        raise CacheError(
            f"{path}: expected a cache, got the file truncated at {len(head)} bytes",
            reextract_hint(path),
        )
    _, version, offsets, lengths, _, base, extension, _, _ = _SUPERBLOCK.unpack(head)
    if (version, offsets, lengths, base, extension) != (_VERSION, 8, 8, 0, _UNDEFINED):
        raise CacheError(f"{path}: expected a feature cache, got another kind of HDF5 file", "pipeline cache list")


@contextmanager
def disable_plugins() -> Iterator[None]:
    """Empty HDF5's search path for filter plugins, so that no file can make the library load one.

    The search path belongs to the process and other code may need it, so it is emptied under h5py's own lock and
    restored afterwards.
    """
    with h5py._objects.phil:
        search_path = [h5py.h5pl.get(number) for number in range(h5py.h5pl.size())]
        for _ in search_path:
            h5py.h5pl.remove(0)
        try:
            yield
        finally:
            for folder in search_path:
                h5py.h5pl.append(folder)
