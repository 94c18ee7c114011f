"""How are the features of a cache read, whether it is one file or a folder of parts?

`FeatureCache` is the public class. A cache that was extracted in parts (shards, or shares of a list) is a folder of
files; `PartsHeader` presents their rows in the order of their ids, as a `Header` presents those of one file.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.arguments import check_arguments
from pipeline.cache.format import PENDING, STORED, SUFFIX, as_texts, features_name, is_labels, labels_name
from pipeline.cache.reader import Header, LazyRows, damaged_rows, read_header
from pipeline.errors import CacheError, SkipReason
from pipeline.provenance import sha256_json

PREFIX = "part_"


class PartsHeader:
    """The headers of all parts as one: the interface of `Header`, with the rows in the order of their ids.

    Parameters
    ----------
    folder : Path
    headers : sequence of Header
        At least one.

    Raises
    ------
    CacheError
        The files are not parts of one cache.
    """

    def __init__(self, folder: Path, headers: Sequence[Header]) -> None:
        first = headers[0]
        for header in headers[1:]:
            _check_same_collection(first, header)
        self.path = folder
        self.headers = list(headers)
        self.starts = np.concatenate([[0], np.cumsum([header.rows for header in headers])])
        self.rows = int(self.starts[-1])
        self.layers = first.layers
        self.columns = list(dict.fromkeys(column for header in headers for column in header.columns))
        whole = first.provenance["part"]
        self.provenance: Mapping[str, Any] = {
            **{name: value for name, value in first.provenance.items() if name not in ("part", "generation")},
            "place": whole["place"],
            "source": whole["source"],
            "parts": len(headers),
        }
        stated = [header.provenance["kinds"] for header in headers if isinstance(header.provenance.get("kinds"), dict)]
        if stated:
            kinds = {name: kind for of_part in stated for name, kind in of_part.items()}
            self.provenance = {**self.provenance, "kinds": kinds}
        self._maps: dict[str, Any] = {}

    @cached_property
    def missing(self) -> list[str]:
        """Names of the parts that are not extracted yet; empty if the number of parts is not recorded."""
        of = self.headers[0].provenance["part"].get("of")
        if of is None:
            return []
        present = {header.provenance["part"]["number"] for header in self.headers}
        return [f"{number}/{of}" for number in range(1, of + 1) if number not in present]

    @cached_property
    def order(self) -> np.ndarray:
        """``(n,)`` int64: entry i is the row, counted through the concatenated parts, of the i-th id in sorted order.

        Raises
        ------
        CacheError
            Two parts hold the same id; ids must be unique because labels are joined by them.
        """
        ids = self._concatenated("ids")
        order = np.argsort(ids, kind="stable")
        ids = ids[order]
        repeated = np.flatnonzero(ids[1:] == ids[:-1])
        if repeated.size:
            at = int(repeated[0])
            first, second = (self._part_of(int(order[row])).path.name for row in (at, at + 1))
            raise CacheError(
                f"{self.path}: expected ids that are unique, got {as_texts(ids[at : at + 1])[0]!r} in {first} and in "
                f"{second}",
                "give the images of one shard other names",
            )
        return order

    def map(self, name: str) -> np.ndarray:
        """Return all rows of a dataset in memory; not for features, which may not fit."""
        if name not in self._maps:
            self._maps[name] = self._concatenated(name)[self.order]
        return self._maps[name]

    def features(self, layer: str) -> LazyRows:
        """Return a layer's rows, ``(n, d)``, read when they are indexed."""
        return self.stored(features_name(layer))

    def stored(self, name: str, rows: np.ndarray | None = None) -> LazyRows:
        """Return all rows of a dataset, or the given ones, read when they are indexed."""
        return LazyRows(self.headers, name, self.order if rows is None else self.order[rows])

    def hold(self) -> None:
        """Open every dataset of every part, so that they stay readable after the files are removed."""
        for header in self.headers:
            header.hold()

    def map_files(self, *, most: int) -> None:
        """Map the whole file of each part, if there are at most `most` parts."""
        for header in self.headers:
            header.map_files(most=most - len(self.headers) + 1)

    def _concatenated(self, name: str) -> np.ndarray:
        # A part whose images have no value in a label column lacks the column; its values are empty texts.
        optional = is_labels(name)
        return np.concatenate(
            [
                np.zeros(header.rows, "S1") if optional and name not in header.fields else header.map(name)
                for header in self.headers
            ]
        )

    def _part_of(self, row: int) -> Header:
        return self.headers[int(np.searchsorted(self.starts, row, side="right")) - 1]


def read_parts(folder: Path) -> PartsHeader:
    """Return the header of a folder of parts.

    Raises
    ------
    CacheError
        The folder holds no part, a part is damaged, or the files are not parts of one cache.
    """
    headers = [_newest(paths) for _, paths in sorted(_by_stem(folder).items())]
    if not headers:
        raise CacheError(f"{folder}: expected a cache or a folder of its parts, got neither", "pipeline cache list")
    return PartsHeader(folder, headers)


def is_parts_folder(folder: Path) -> bool:
    """Return whether a folder holds parts of a cache."""
    return folder.is_dir() and bool(part_files(folder))


def part_files(folder: Path) -> list[Path]:
    """Return the files of all parts in a folder, sorted."""
    return sorted(folder.glob(f"{PREFIX}*{SUFFIX}"))


def _by_stem(folder: Path) -> dict[str, list[Path]]:
    """Return the files of each part; a part has several files while an older version of it is still being read."""
    found: dict[str, list[Path]] = {}
    for path in part_files(folder):
        found.setdefault(path.stem.rpartition("-")[0], []).append(path)
    return found


def _newest(paths: Sequence[Path]) -> Header:
    return read_header(max(paths, key=lambda path: (path.stat().st_mtime_ns, path.name)))


def _check_same_collection(first: Header, other: Header) -> None:
    if "part" not in first.provenance or "part" not in other.provenance:
        whole = first if "part" not in first.provenance else other
        raise CacheError(f"{whole.path}: expected a part of a cache, got a whole cache", "move it out of the folder")
    for name, expected, found in (
        ("recipe", first.provenance["recipe"], other.provenance["recipe"]),
        ("place", first.provenance["part"]["place"], other.provenance["part"]["place"]),
        ("layers", dict(first.layers), dict(other.layers)),
        ("number of parts", first.provenance["part"].get("of"), other.provenance["part"].get("of")),
    ):
        if expected != found:
            raise CacheError(
                f"{other.path}: expected the {name} of {first.path.name}, got another: they are parts of two caches",
                f"extract this part again, or move it out of {other.path.parent}",
            )


MOST_NAMED = 5  # missing parts that an error lists
MOST_MAPPED = 100  # parts of one cache that are mapped when it is opened: each takes an open file

#: Kinds that a source states of its columns; numbers are never stated.
STATED_KINDS = ("class", "multi")


class FeatureCache:
    """The features of n images, stored in one HDF5 file or in a folder of parts.

    Every row has a checksum, which is verified before the first features, labels or statistics are returned.

    Parameters
    ----------
    header : Header or PartsHeader
        `FeatureCache.open` reads it.

    Attributes
    ----------
    path : Path
        The file, or the folder of parts.
    ids : list of str, length n
        Relative to the source, in its order. `extract` of a list or a table returns a view: the ids as given, in input
        order, with repeats; everything per row is in that order. See `base`.
    layers : dict of layer name to width
    provenance : mapping
        Recipe, versions, and the place of the source, as plain JSON values.
    summary : ExtractionSummary or None
        Set by `extract` on the cache that it returns.

    Examples
    --------
    >>> import pipeline as pl
    >>> cache = pl.FeatureCache.open("features_cache/bees-efficientnet_lite0-1f0c2d3e-0123abcd.h5")  # doctest: +SKIP
    >>> cache.features().shape  # doctest: +SKIP
    (348, 1280)
    """

    def __init__(self, header: Header | PartsHeader) -> None:
        self._header = header
        self._base: FeatureCache | None = None
        self._order: np.ndarray | None = None  # of a view: the stored row of each of its rows
        self._checked = False
        self.path = header.path
        self.layers = header.layers
        self.provenance = header.provenance
        self.summary: Any = None

    @classmethod
    @check_arguments
    def open(cls, path: str | Path) -> FeatureCache:
        """Open a cache file or a folder of parts; takes milliseconds per file, whatever its size.

        The file is mapped at once, so that it stays readable after it was removed for a newer version.

        Raises
        ------
        CacheError
            Not a cache, another format, truncated or damaged; or parts of different caches.
        """
        cache = cls.glance(path)
        cache._header.map_files(most=MOST_MAPPED)
        return cache

    @classmethod
    def glance(cls, path: str | Path) -> FeatureCache:
        """Open a cache as `open` does, but map each dataset on its first use: for listings of many caches."""
        path = Path(path)
        return cls(read_parts(path) if path.is_dir() else read_header(path))

    def __repr__(self) -> str:
        layers = ", ".join(f"{name} ({width})" for name, width in self.layers.items())
        return f"FeatureCache({str(self.path)!r}, {len(self)} images, {layers})"

    def __len__(self) -> int:
        return self._header.rows if self._order is None else len(self._order)

    @property
    def base(self) -> FeatureCache:
        """The stored cache, each image once and sorted by id: this object, unless it is a view."""
        return self if self._base is None else self._base

    @property
    def base_rows(self) -> np.ndarray:
        """``(n,)`` int64: the row of `base` behind each row."""
        return np.arange(len(self)) if self._order is None else self._order

    def view(self, ids: Sequence[str], rows: np.ndarray) -> FeatureCache:
        """Return the cache with these rows under these ids, in this order; rows may repeat and none is copied.

        Parameters
        ----------
        ids : sequence of str, length m
        rows : ndarray of int64, shape (m,)
            Rows of `base`.

        Returns
        -------
        FeatureCache
            Ids, features, labels, digests and every other entry per row are in the order of `ids`; the path, the
            files, the recipe and `describe` are those of `base`.
        """
        if len(ids) != len(rows):
            raise ValueError(f"expected one row per id, got {len(ids)} ids and {len(rows)} rows")
        view = FeatureCache(self.base._header)
        view._base, view._order = self.base, np.asarray(rows, np.int64)
        view.ids = list(ids)
        view.summary = self.summary
        return view

    def _map(self, name: str) -> np.ndarray:
        """Return a dataset's rows; for a view, a copy in its order."""
        rows = self._header.map(name)
        return rows if self._order is None else rows[self._order]

    @property
    def header(self) -> Header:
        """The header of the file; raises `ValueError` for a folder of parts, whose `parts` have one header each."""
        if isinstance(self._header, PartsHeader):
            raise ValueError(f"{self.path} is a folder of parts")
        return self._header

    @property
    def parts(self) -> list[FeatureCache]:
        """One cache per file; a cache of one file is its only part."""
        if isinstance(self._header, PartsHeader):
            return [FeatureCache(header) for header in self._header.headers]
        return [self]

    @property
    def files(self) -> list[Path]:
        """The HDF5 files that hold the rows."""
        return [part.path for part in self.parts]

    @property
    def missing_parts(self) -> list[str]:
        """Names of the parts that are not extracted yet, such as ``3/16``."""
        return self._header.missing if isinstance(self._header, PartsHeader) else []

    def hold(self) -> None:
        """Open every dataset, so that they stay readable after the files are removed."""
        self._header.hold()

    @property
    def recipe(self) -> Mapping[str, Any]:
        """Every setting that changes a feature, in the form of `Recipe.as_dict`."""
        return self.provenance["recipe"]

    @property
    def place(self) -> str:
        """Where the images were, in the form of `ImageSource.place`."""
        return self.provenance["place"]

    @cached_property
    def ids(self) -> list[str]:
        return as_texts(self._map("ids"))

    @property
    def status(self) -> np.ndarray:
        """``(n,)`` uint8, as on disk now: 0 pending, 1 stored, above that a `SkipReason`."""
        return np.array(self._map("status"))

    @property
    def complete(self) -> bool:
        """Whether no row is pending and no part is missing."""
        return not self.missing_parts and not bool((self._map("status") == PENDING).any())

    @property
    def rows(self) -> np.ndarray:
        """Numbers of the rows that have features, ascending."""
        return np.flatnonzero(self._map("status") == STORED)

    @property
    def digest(self) -> np.ndarray:
        """``(n, 16)`` uint8: content hash of each image's bytes."""
        return self._map("digest")

    @property
    def stat(self) -> np.ndarray:
        """``(n, 2)`` int64: size in bytes and modification time in ns when the image was read."""
        return self._map("stat")

    @property
    def columns(self) -> dict[str, list[str | None]]:
        """Label columns of the source as they were when it was read: ``{column: n texts}``, None for no label."""
        return {name: self._column(name) for name in self._header.columns}

    @property
    def kinds(self) -> dict[str, str]:
        """The kinds of columns that the source stated: ``{column: "class" or "multi"}``.

        For a cache that was written before kinds were recorded, a column `label` that repeats the names of the class
        folders is of kind "class".
        """
        stated = self.provenance.get("kinds")
        if isinstance(stated, dict):
            return {str(name): str(kind) for name, kind in stated.items() if kind in STATED_KINDS}
        return {"label": "class"} if "label" in self._header.columns and self._labels_are_folders() else {}

    def _labels_are_folders(self) -> bool:
        """Return whether every label is the name of a folder in the image's id."""
        pairs = [(name, text) for name, text in zip(self.ids, self._column("label"), strict=True) if text is not None]
        return bool(pairs) and all(
            text in (unicodedata.normalize("NFC", part).strip() for part in name.split("/")[:-1])
            for name, text in pairs
        )

    @property
    def skipped(self) -> dict[str, SkipReason]:
        """``{id: reason}`` for the images without features.

        Raises
        ------
        CacheError
            The reason is not in format 1: the row is damaged, or a later version wrote it.
        """
        status = self.status
        return {self.ids[row]: self._reason(int(row), int(status[row])) for row in np.flatnonzero(status > STORED)}

    def describe(self) -> dict[str, Any]:
        """Return the counts and sizes that a listing shows, as plain JSON values."""
        if self._base is not None:
            return self._base.describe()
        status = self.status
        parts = {"parts": len(self.files)} if isinstance(self._header, PartsHeader) else {}
        return {
            **parts,
            "images": len(self),
            "stored": int((status == STORED).sum()),
            "failed": int((status > STORED).sum()),
            "pending": int((status == PENDING).sum()),
            "layers": dict(self.layers),
            "columns": list(self._header.columns),
            "bytes": sum(part.header.bytes for part in self.parts),
        }

    def features(self, layer: str | None = None) -> np.ndarray:
        """Return the features of the images that have them, ``(len(self.rows), d)``.

        A read-only memory map when every image has features and all are in one file, in the file's order; otherwise a
        copy in memory.

        Parameters
        ----------
        layer : str, optional
            ``penultimate`` by default, or the cache's first layer if it has no ``penultimate``.

        Raises
        ------
        CacheError
            No such layer, rows still pending, or a damaged row.
        """
        name = self.layer_name(layer)
        self.check()
        found, rows = self._header.features(name), self.rows
        if self._order is not None:
            return found[self._order[rows]]
        return np.asanyarray(found) if len(rows) == len(self) else found[rows]

    def stored(self, layer: str | None = None) -> LazyRows:
        """Return all n rows of a layer, read when they are indexed.

        Its pickle is small: a worker gets the place of the rows, not the rows. Index it with `rows` for the images
        that have features. Errors as `features`.
        """
        name = features_name(self.layer_name(layer))
        self.check()
        return self._header.stored(name, self._order)

    def stored_pixel_statistics(self) -> LazyRows:
        """Return the pixel statistics as `stored` returns a layer."""
        self.check()
        return self._header.stored("pixel_statistics", self._order)

    def pixel_statistics(self) -> np.ndarray:
        """Return the 12 statistics of the decoded pixels for `rows`, ``(len(self.rows), 12)``. Errors as `features`."""
        self.check()
        # The row of an image that failed may hold arbitrary bytes; its checksum does not cover them.
        return self._map("pixel_statistics")[self.rows]

    def labels(self, column: str = "label") -> np.ndarray:
        """Return a label column of the source for `rows`, as texts, with None for an image without a label.

        Raises
        ------
        CacheError
            The source had no such column; or as `features`.
        """
        if column not in self._header.columns:
            raise CacheError(
                f"{self.path}: expected the label column {column!r}, got {self._header.columns or 'none'}",
                "give the labels with --labels TABLE",
            )
        self.check()
        texts = np.array(self._column(column), dtype=object)[self.rows]
        return texts if any(text is None for text in texts) else texts.astype(str)

    def layer_name(self, layer: str | None = None) -> str:
        """Return `layer`, or for None ``penultimate`` or else the first layer; raise `CacheError` for a missing one."""
        if layer is None:
            return "penultimate" if "penultimate" in self.layers else next(iter(self.layers))
        if layer not in self.layers:
            raise CacheError(
                f"{self.path}: expected layer {layer!r}, got {', '.join(self.layers)}",
                f"extract it from the images with --layer {layer}; the existing layers are kept",
            )
        return layer

    def damaged(self) -> np.ndarray:
        """Return the numbers of the rows that do not match their checksum; reads the whole file, skips pending rows."""
        if self._base is not None:
            return np.flatnonzero(np.isin(self.base_rows, self._base.damaged()))
        if not isinstance(self._header, PartsHeader):
            return damaged_rows(self._header)
        starts, headers = self._header.starts, self._header.headers
        damaged = np.concatenate([start + damaged_rows(header) for start, header in zip(starts, headers, strict=False)])
        return np.flatnonzero(np.isin(self._header.order, damaged))

    def is_sound(self) -> bool:
        """Return whether every row is present and matches its checksum."""
        try:
            self.check()
        except CacheError:
            return False
        return True

    def check(self) -> None:
        """Raise `CacheError` unless every row is present and matches its checksum; the file is read only once.

        Raises
        ------
        CacheError
            Rows are pending or damaged.
        """
        if self._checked:
            return
        if self._base is not None:
            self._base.check()
            self._checked = True
            return
        if self.missing_parts:
            more = ", ..." if len(self.missing_parts) > MOST_NAMED else ""
            raise CacheError(
                f"{self.path}: expected every part, got {len(self.files)}; missing: "
                f"{', '.join(self.missing_parts[:MOST_NAMED])}{more}",
                f"run the same `pipeline extract` with --part {self.missing_parts[0]}",
            )
        pending = int((self.status == PENDING).sum())
        if pending:
            raise CacheError(
                f"{self.path}: expected a complete cache, got {pending} of {len(self)} images still pending",
                "run the same `pipeline extract` again; it continues where it stopped",
            )
        damaged = self.damaged()
        if damaged.size:
            raise CacheError(
                f"{self.path}: {damaged.size} of {len(self)} rows are damaged, the first is row {damaged[0]}",
                "run the same `pipeline extract` again; it computes the damaged rows again",
            )
        self._checked = True

    def differences(self, recipe: Mapping[str, Any]) -> list[str]:
        """Return the names of the recipe's fields in which this cache differs from `recipe`."""
        stored = self.recipe
        return [name for name in sorted(stored.keys() | recipe.keys()) if stored.get(name) != recipe.get(name)]

    @property
    def features_key(self) -> str:
        """SHA-256 of the recipe and the images' digests, the same wherever the images are."""
        return sha256_json({"recipe": dict(self.recipe), "digests": np.asarray(self.digest).tobytes().hex()})

    def _reason(self, row: int, status: int) -> SkipReason:
        try:
            return SkipReason(status)
        except ValueError:
            raise CacheError(
                f"{self.path}: expected a status of format 1 in row {row}, got {status}",
                f"pipeline cache verify {self.path}",
            ) from None

    def _column(self, name: str) -> list[str | None]:
        return [text or None for text in as_texts(self._map(labels_name(name)))]
