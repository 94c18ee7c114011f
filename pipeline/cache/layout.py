"""Cache format 1 as a table: which datasets a file has, under which names, of which types and shapes."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from urllib.parse import unquote

import numpy as np

FORMAT = 1
KIND = b"transfer-pipeline feature cache"
SUFFIX = ".h5"
DIGEST_BYTES = 16
STATISTICS = 12

PENDING = np.uint8(0)
STORED = np.uint8(1)

STORE_TYPES: dict[str, np.dtype] = {"fp32": np.dtype("<f4"), "fp16": np.dtype("<f2")}

# name: (type, shape of one row). `provenance` has bytes for rows and is the one dataset that is not a row an image.
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
_EMPTY = "%"  # what an empty name is written as; nothing else is, because "%" itself becomes "%25"


def features_name(layer: str) -> str:
    """Return the dataset name of a layer; node names may hold a slash, which means a place in HDF5."""
    return _FEATURES + _link(layer)


def labels_name(column: str) -> str:
    """Return the dataset name of a label column."""
    return _LABELS + _link(column)


def is_features(name: str) -> bool:
    return name.startswith(_FEATURES)


def is_labels(name: str) -> bool:
    return name.startswith(_LABELS)


def plain_name(name: str) -> str:
    """Return the layer or column that a dataset is named for."""
    link = name.partition("/")[2]
    return "" if link == _EMPTY else unquote(link)


def _link(name: str) -> str:
    quoted = _NOT_IN_LINKS.sub(lambda found: f"%{ord(found[0]):02X}", name)
    # "." and ".." mean a place in HDF5 too.
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
        Those datasets that are known from the start: ids, labels, provenance.
    """
    filled = {name: ((rows, *tail), dtype) for name, (dtype, tail) in FIXED.items() if name not in given}
    features = {features_name(layer): ((rows, width), STORE_TYPES[store]) for layer, width in layers.items()}
    return {**features, **filled, **{name: (array.shape, array.dtype) for name, array in given.items()}}


def as_fixed_text(values: Sequence[str | None], width: int | None = None) -> np.ndarray:
    """Return texts as fixed-length UTF-8, null-padded, ``(n,)``; nothing in a cache is of variable length.

    None becomes the empty text. `width` is that of the longest when not given.
    """
    encoded = [(value or "").encode() for value in values]
    longest = max(map(len, encoded), default=0)
    if width is not None and longest > width:
        raise ValueError(f"a text of {longest} bytes does not fit into {width}")
    return np.array(encoded, dtype=f"S{width or max(longest, 1)}")


def as_texts(values: np.ndarray) -> list[str]:
    """Return fixed-length texts as they were; a damaged one shows its bytes as ``\\xff`` instead of failing."""
    return [value.decode("utf-8", "backslashreplace") for value in values.tolist()]
