"""How images that are rows of an array are read: in memory, in a `.npz` or in a `.npy` file."""

from __future__ import annotations

import math
import os
import re
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from pathlib import Path
from threading import Lock
from tokenize import TokenError
from typing import Any, ClassVar

import numpy as np

from pipeline.errors import SkipReason, SourceError, UnreadableImage
from pipeline.images.listing import Columns, Listing, id_trouble, printable, short_name
from pipeline.images.photo import Photo, array_digest, array_stat
from pipeline.images.values import cell_text, value_text

_IMAGES = ("images", "x", "X", "arr_0", "data")  # the names that the images may have in a .npz, first match first
# The names that are read as column "label", first match first; CIFAR-100 has fine and coarse ones.
_LABELS = ("labels", "label", "y", "fine_labels")
# Arrays of one part of a fixed split: x_train and y_train (Keras), train_images and train_labels (MedMNIST).
_PARTS = re.compile(
    r"(?P<a>x|images)_(?P<b>train|val|valid|test)|(?P<c>train|val|valid|test)_(?:x|images)", re.IGNORECASE
)
_PART_LABELS = {"x": "y", "images": "labels"}
# Images as rows of numbers: shapes before the channels go last. CIFAR's and ImageNet's of 8 to 64 pixels, MNIST's.
_FLAT = {3 * side * side: (3, side, side) for side in (8, 16, 32, 64)} | {28 * 28: (1, 28, 28)}
_SHAPES = "(n, h, w), (n, h, w, 1), (n, h, w, 3) or (n, h, w, 4)"


@dataclass(frozen=True, eq=False)
class ArrayReader:
    """Reads images out of an array in memory; row i is `images[i]`."""

    images: np.ndarray

    encoded: ClassVar = False

    def read(self, row: int, image_id: str) -> Photo:
        pixels = self.images[row]
        digest = array_digest(pixels)
        return Photo(digest, array_stat(digest, pixels), pixels)

    def take(self, rows: Sequence[int]) -> ArrayReader:
        return ArrayReader(self.images[list(rows)])


@dataclass(frozen=True, eq=False)
class ArrayFileReader:
    """Reads images out of a file's array, which each process maps or loads once; row i is its row `order[i]`."""

    path: str
    member: str
    order: np.ndarray  # (n,) int64
    stat: tuple[int, int]
    flat: tuple[int, int, int] | None = None  # channels, height and width of images that are rows of numbers

    encoded: ClassVar = False

    def read(self, row: int, image_id: str) -> Photo:
        try:
            images = _load_once(self.path, self.member, self.stat)
            pixels = images[self.order[row]]
            if self.flat is not None:
                pixels = np.ascontiguousarray(pixels.reshape(self.flat).transpose(1, 2, 0))
        except FileNotFoundError as error:
            raise UnreadableImage(SkipReason.MISSING) from error
        except (OSError, ValueError, KeyError, IndexError, zipfile.BadZipFile) as error:
            raise UnreadableImage(SkipReason.UNREADABLE, str(error)[:120]) from error
        return Photo(array_digest(pixels), self.stat, pixels)

    def take(self, rows: Sequence[int]) -> ArrayFileReader:
        return ArrayFileReader(self.path, self.member, self.order[list(rows)], self.stat, self.flat)


def open_array(
    images: np.ndarray, *, name: str = "array", place: str | None = None, columns: Columns | None = None
) -> Listing:
    """Return the images of an array in memory, each under the number of its row.

    Parameters
    ----------
    images : ndarray of uint8, (n, h, w), (n, h, w, 1), (n, h, w, 3) or (n, h, w, 4)
    """
    _check_images(images.dtype, images.shape, "this array")
    digests = [array_digest(image) for image in images]
    return Listing(
        name=name,
        place=place or f"array:{blake2b(b''.join(digests), digest_size=16).hexdigest()}",
        ids=_row_ids(len(images)),
        stat=np.array([array_stat(*pair) for pair in zip(digests, images, strict=True)], dtype=np.int64),
        reader=ArrayReader(images),
        columns=columns or {},
    )


def open_array_file(path: str) -> Listing:
    """Return the images of a `.npz` or `.npy` file; nothing in it is ever unpickled, no image is read yet.

    In a `.npz`, the images are the array called images, x, X, arr_0 or data, or else its only array of uint8 images; a
    text array `ids` of the same length names them; every other 1-D array of that length is a column, and `labels`, `y`
    or `fine_labels` is column "label". Arrays ``x_train, y_train, x_test, y_test`` (Keras) or ``train_images,
    train_labels, ...`` (MedMNIST) are one source with a column "split". Labels are classes; of labels in several
    columns (n, k) of 0 and 1, the numbers of the columns with a 1 are tags. Images may be rows of numbers, channels
    first, as those of CIFAR are.
    """
    shown = printable(path)
    place = Path(path).resolve()
    try:
        found = place.stat()
        if place.suffix.lower() == ".npy":
            with place.open("rb") as file:
                shape, _, dtype = _read_header(file, found.st_size)
            headers, member = {"": (shape, dtype)}, ""
        else:
            headers = _headers(place)
            if parts := _find_parts(headers):
                return _open_parts(place, headers, parts, (found.st_size, found.st_mtime_ns), shown)
            member = _find_images(headers, shown)
        shape, dtype = headers[member]
        flat = _flat_shape(shape, dtype)
        if flat is None:
            _check_images(dtype, shape, f"{shown}: {member}" if member else shown)
        label = next((name for name in _LABELS if name in headers and _are_labels(headers[name][0], shape)), None)
        texts = {
            name: _texts(_load(place, name), f"{shown}: array {name!r}")
            for name, (other, _) in headers.items()
            if name not in (member, label) and other == shape[:1]
        }
        kinds, notes = {}, []
        if label is not None:
            try:
                texts[label], kind = _label_texts(_load(place, label), f"{shown}: array {label!r}")
                kinds = {"label": kind} if kind else {}
            except _NoLabels as error:
                notes.append(f"left out: {error.message}")
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise SourceError(
            f"{shown}: expected a NumPy file of arrays, cannot read it: {str(error)[:120]}",
            "write it with numpy.savez(path, images=..., labels=...)",
        ) from error
    ids = _named(texts.pop("ids"), shown) if "ids" in texts else _row_ids(shape[0])
    order = sorted(range(len(ids)), key=ids.__getitem__)
    stat = (found.st_size, found.st_mtime_ns)
    return Listing(
        name=short_name(place.stem),
        place=printable(place.as_posix()),
        ids=[ids[row] for row in order],
        stat=np.full((len(ids), 2), stat, dtype=np.int64),
        reader=ArrayFileReader(str(place), member, np.array(order, dtype=np.int64), stat, flat),
        columns={"label" if name == label else name: [text[row] for row in order] for name, text in texts.items()},
        kinds=kinds,
        notes=[*notes, *([_about_flat(f"{shown}: {member}" if member else shown, flat)] if flat is not None else [])],
    )


def _find_parts(headers: dict[str, tuple[tuple[int, ...], np.dtype]]) -> dict[str, tuple[str, str]]:
    """Return the parts of a split as part -> names of its images and labels; empty without a part "train"."""
    found = {}
    for name in headers:
        if match := _PARTS.fullmatch(name):
            part = (match["b"] or match["c"]).lower()
            images = (match["a"] or name.partition("_")[2]).lower()
            other = _PART_LABELS[images]
            found[part] = (name, f"{other}_{match['b']}" if match["b"] else f"{match['c']}_{other}")
    return found if "train" in found and len(found) > 1 else {}


def _open_parts(
    place: Path,
    headers: dict[str, tuple[tuple[int, ...], np.dtype]],
    parts: dict[str, tuple[str, str]],
    stat: tuple[int, int],
    shown: str,
) -> Listing:
    """Return the images of all parts of a split, each under part and row, such as ``train/000007``."""
    from pipeline.images.shards import ShardReader

    ids: list[str] = []
    labels: list[str | None] = []
    kinds: set[str] = set()
    labelled = False
    readers, splits = [], []
    shard: list[int] = []
    inside: list[int] = []
    notes = []
    for number, part in enumerate(sorted(parts)):
        images, label = parts[part]
        shape, dtype = headers[images]
        flat = _flat_shape(shape, dtype)
        if flat is None:
            _check_images(dtype, shape, f"{shown}: {images}")
        else:
            notes.append(_about_flat(f"{shown}: {images}", flat))
        count = shape[0]
        if label in headers:
            if not _are_labels(headers[label][0], shape):
                raise SourceError(
                    f"{shown}: {label}: expected {count:,} labels, one per image, got the shape {headers[label][0]}",
                    "write as many labels as images",
                )
            texts, kind = _label_texts(_load(place, label), f"{shown}: array {label!r}")
            kinds.update([kind] if kind else [])
            labelled = True
        else:
            texts = [None] * count
        ids += [f"{part}/{row}" for row in _row_ids(count)]
        labels += texts
        splits += ["val" if part == "valid" else part] * count
        readers.append(ArrayFileReader(str(place), images, np.arange(count), stat, flat))
        shard += [number] * count
        inside += range(count)
    if len(kinds) > 1:
        raise SourceError(
            f"{shown}: expected labels of one kind in all parts, got classes in some and tags in others",
            "write labels of one shape, (n,) or (n, k)",
        )
    columns: Columns = {"split": list(splits)}
    if labelled:
        columns["label"] = labels
    return Listing(
        name=short_name(place.stem),
        place=printable(place.as_posix()),
        ids=ids,
        stat=np.full((len(ids), 2), stat, dtype=np.int64),
        reader=ShardReader(tuple(readers), np.array(shard, dtype=np.int64), np.array(inside, dtype=np.int64)),
        columns=columns,
        kinds={"label": kinds.pop()} if kinds else {},
        notes=[f"{shown}: {', '.join(sorted(parts))} are read as a fixed split", *notes],
    )


def _are_labels(shape: tuple[int, ...], images: tuple[int, ...]) -> bool:
    """Return whether an array of this shape may hold the labels of these images: (n,), (n, 1) or (n, k)."""
    return len(shape) in (1, 2) and shape[:1] == images[:1] and 0 not in shape


def _label_texts(values: np.ndarray, where: str) -> tuple[list[str | None], str]:
    """Return the labels as text, and their kind: "class", "multi" for columns of 0 and 1, "" for decimals."""
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    if values.ndim == 1:
        return _texts(values, where), "" if values.dtype.kind == "f" else "class"
    if values.dtype.kind not in "biuf" or not np.isin(values, (0, 1)).all():
        raise _NoLabels(
            f"{where}: expected one label per image, or columns of 0 and 1, got {values.dtype} {values.shape}",
            "write the labels as one column",
        )
    ones = values == 1
    if (ones.sum(axis=1) == 1).all():  # one-hot: as Keras' to_categorical writes classes
        return [str(code) for code in ones.argmax(axis=1)], "class"
    return ["; ".join(map(str, np.flatnonzero(row))) or ";" for row in ones], "multi"  # ";" is a cell without tags


class _NoLabels(SourceError):
    """An array that is named like labels but holds other values."""


def _flat_shape(shape: tuple[int, ...], dtype: np.dtype) -> tuple[int, int, int] | None:
    """Return channels, height and width of images that are rows of numbers, None of all others."""
    return _FLAT.get(shape[1]) if dtype == np.uint8 and len(shape) == 2 and shape[0] else None


def _about_flat(where: str, flat: tuple[int, int, int]) -> str:
    channels, height, width = flat
    return f"{where}: rows of numbers are read as images of {height} x {width}, {channels} channels, channels first"


def _row_ids(count: int) -> list[str]:
    """Return the row numbers as text of one length, so that sorted ids are rows in order."""
    digits = max(6, len(str(count - 1)))
    return [f"{row:0{digits}d}" for row in range(count)]


def _check_images(dtype: np.dtype, shape: tuple[int, ...], shown: str) -> None:
    found = f"got {dtype} {shape}"
    if dtype != np.uint8:
        raise SourceError(
            f"{shown}: expected images of uint8 (0 to 255), {found}",
            "scale the values to 0..255, then .astype('uint8')",
        )
    if len(shape) == 3 and shape[2] in (1, 3, 4):
        raise SourceError(
            f"{shown}: expected images of shape {_SHAPES}, {found}, which looks like one photo", "pass images[None]"
        )
    if len(shape) == 4 and shape[1] in (1, 3, 4) and shape[3] not in (1, 3, 4):
        raise SourceError(
            f"{shown}: expected images of shape {_SHAPES}, {found}, with the channels first",
            "put them last: images.transpose(0, 2, 3, 1)",
        )
    if len(shape) not in (3, 4) or (len(shape) == 4 and shape[3] not in (1, 3, 4)):
        raise SourceError(f"{shown}: expected images of shape {_SHAPES}, {found}", "reshape it")
    if 0 in shape:
        raise SourceError(f"{shown}: expected images of shape {_SHAPES}, {found}, which holds none", "check the array")


def _find_images(headers: dict[str, tuple[tuple[int, ...], np.dtype]], shown: str) -> str:
    """Return the name of the array that holds the images."""
    images = [
        name
        for name, (shape, dtype) in headers.items()
        if (dtype == np.uint8 and len(shape) in (3, 4)) or _flat_shape(shape, dtype) is not None
    ]
    named = next((name for name in _IMAGES if name in headers), None)
    if named is not None:
        return named
    if len(images) != 1:
        held = ", ".join(f"{name} {dtype} {shape}" for name, (shape, dtype) in headers.items()) or "nothing"
        raise SourceError(
            f"{shown}: expected one array of uint8 images, called {', '.join(_IMAGES)} or the only one; got {held}",
            "write it with numpy.savez(path, images=..., labels=...)",
        )
    return images[0]


def _headers(path: Path) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
    """Return shape and type of each array in a `.npz`, reading only the headers."""
    headers = {}
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            if info.filename.endswith(".npy"):
                with archive.open(info) as file:
                    shape, _, dtype = _read_header(file, info.file_size)
                headers[info.filename.removesuffix(".npy")] = (shape, dtype)
    return headers


def _read_header(file: Any, size: int) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Return shape, Fortran order and type; the file then stands at the first value.

    Parameters
    ----------
    file : binary file
        At the start of an array of `size` bytes, its header included.
    size : int

    Raises
    ------
    ValueError
        It is no header, or one of an array that cannot be in so many bytes.
    """
    start = file.tell()
    version = np.lib.format.read_magic(file)
    if version not in ((1, 0), (2, 0)):  # 3.0 is written for fields with names beyond ASCII, which no image has
        raise ValueError(f"expected an array of format 1.0 or 2.0, got {version[0]}.{version[1]}")
    try:
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read(file)
    except (SyntaxError, TokenError, TypeError, KeyError, OverflowError, RecursionError, MemoryError) as error:
        # numpy evaluates the header as a Python literal, and lets most of what goes wrong there pass.
        raise ValueError(f"its header is damaged: {' '.join(str(error).split()) or type(error).__name__}") from error
    if not all(type(length) is int and length >= 0 for length in shape):
        raise ValueError(f"expected a shape of whole numbers from 0 on, got {shape}")
    needed = math.prod(shape) * dtype.itemsize
    held = size - (file.tell() - start)
    if not dtype.hasobject and needed > held:
        raise ValueError(f"expected {needed:,} bytes for {dtype} {shape}, got {held:,}")
    return shape, fortran, dtype


def _load(path: Path, member: str) -> np.ndarray:
    """Return an array of the file: mapped from disk where it is not compressed, loaded otherwise."""
    if not member:
        with path.open("rb") as file:
            shape, fortran, dtype = _read_header(file, path.stat().st_size)
            return np.memmap(path, dtype, "r", file.tell(), shape, "F" if fortran else "C")
    name = f"{member}.npy"
    with zipfile.ZipFile(path) as archive, open(path, "rb") as file:
        info = archive.getinfo(name)
        if info.compress_type == zipfile.ZIP_STORED:
            file.seek(info.header_offset + 26)  # the local header ends with two lengths, then name and extra field
            lengths = file.read(4)
            file.seek(int.from_bytes(lengths[:2], "little") + int.from_bytes(lengths[2:], "little"), os.SEEK_CUR)
            shape, fortran, dtype = _read_header(file, info.file_size)
            if not dtype.hasobject and 0 not in shape:
                return np.memmap(path, dtype, "r", file.tell(), shape, "F" if fortran else "C")
    with np.load(path, allow_pickle=False) as arrays:
        return arrays[member]


_loading = Lock()


def _load_once(path: str, member: str, stat: tuple[int, int]) -> np.ndarray:
    """Return the array, loaded once by all the threads of a process; `stat` makes an edited file another one."""
    with _loading:
        return _loaded(path, member, stat)


@lru_cache(maxsize=2)
def _loaded(path: str, member: str, stat: tuple[int, int]) -> np.ndarray:
    found = Path(path).stat()
    if (found.st_size, found.st_mtime_ns) != stat:
        raise ValueError("the file was changed after it was listed")
    return _load(Path(path), member)


def _texts(values: np.ndarray, where: str) -> list[str | None]:
    """Return a 1-D array as a column of text, under the same rules as a table's."""
    if values.dtype.hasobject:
        raise SourceError(f"{where} holds Python objects, which are never unpickled", "save it with .astype(str)")
    if values.dtype.kind == "S":
        return [cell_text(value.decode()) for value in values.tolist()]
    return [value_text(value) for value in values]  # typed: NaN and NaT are missing


def _named(ids: list[str | None], shown: str) -> list[str]:
    seen: set[str] = set()
    for row, image_id in enumerate(ids):
        trouble = "it is empty" if image_id is None else id_trouble(image_id, "file")
        if image_id is None or trouble or image_id in seen:
            what = f"cannot be an id: {trouble}" if trouble else f"{image_id!r} occurs twice"
            raise SourceError(f"{shown}: ids[{row}] {what}", "give each image a unique id")
        seen.add(image_id)
    return [image_id for image_id in ids if image_id is not None]
