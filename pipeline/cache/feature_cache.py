"""`FeatureCache`: the stored features of one collection of images, read without a copy."""

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
    """What the parts say together: a `Header` of their rows, in the order of their ids.

    Parameters
    ----------
    folder : Path
    headers : sequence of Header
        One or more.

    Raises
    ------
    CacheError
        They are not parts of one cache.
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
            self.provenance = {**self.provenance, "kinds": {name: kind for one in stated for name, kind in one.items()}}
        self._maps: dict[str, Any] = {}

    @cached_property
    def missing(self) -> list[str]:
        """Names of the parts that are still to be made, where it is known how many there are to be."""
        of = self.headers[0].provenance["part"].get("of")
        if of is None:
            return []
        there = {header.provenance["part"]["number"] for header in self.headers}
        return [f"{number}/{of}" for number in range(1, of + 1) if number not in there]

    @cached_property
    def order(self) -> np.ndarray:
        """Which row of all parts, one after another, is row i: rows go by id, as in any cache, ``(n,)``.

        Raises
        ------
        CacheError
            Two parts hold an image of one id: labels are joined by it.
        """
        ids = self._one_after_another("ids")
        order = np.argsort(ids, kind="stable")
        ids = ids[order]
        twins = np.flatnonzero(ids[1:] == ids[:-1])
        if twins.size:
            at = int(twins[0])
            one, other = (self._part_of(int(order[row])).path.name for row in (at, at + 1))
            raise CacheError(
                f"{self.path}: expected ids that are unique, got {as_texts(ids[at : at + 1])[0]!r} in {one} and in "
                f"{other}",
                "give the images of one shard other names",
            )
        return order

    def map(self, name: str) -> np.ndarray:
        """Return all rows of a dataset in memory; not for features, which may not fit."""
        if name not in self._maps:
            self._maps[name] = self._one_after_another(name)[self.order]
        return self._maps[name]

    def features(self, layer: str) -> LazyRows:
        """Return a layer's rows, ``(n, d)``, read when they are asked for."""
        return self.stored(features_name(layer))

    def stored(self, name: str, rows: np.ndarray | None = None) -> LazyRows:
        """Return a dataset's rows (or these), read when they are asked for."""
        return LazyRows(self.headers, name, self.order if rows is None else self.order[rows])

    def hold(self) -> None:
        """Open every dataset of every part, so that all of it stays readable whatever becomes of the names."""
        for header in self.headers:
            header.hold()

    def map_files(self, *, most: int) -> None:
        """Map the files of the parts at once, if there are no more than so many."""
        for header in self.headers:
            header.map_files(most=most - len(self.headers) + 1)

    def _one_after_another(self, name: str) -> np.ndarray:
        # A part whose images had no such label says nothing of it.
        nothing = is_labels(name)
        return np.concatenate(
            [
                np.zeros(header.rows, "S1") if nothing and name not in header.fields else header.map(name)
                for header in self.headers
            ]
        )

    def _part_of(self, row: int) -> Header:
        return self.headers[int(np.searchsorted(self.starts, row, side="right")) - 1]


def read_parts(folder: Path) -> PartsHeader:
    """Return what a folder of parts says of itself.

    Raises
    ------
    CacheError
        There is no part in it, one is damaged, or they are not parts of one cache.
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
    """Return the files of each part: more than one only while an earlier generation is still being read."""
    found: dict[str, list[Path]] = {}
    for path in part_files(folder):
        found.setdefault(path.stem.rpartition("-")[0], []).append(path)
    return found


def _newest(paths: Sequence[Path]) -> Header:
    return read_header(max(paths, key=lambda path: (path.stat().st_mtime_ns, path.name)))


def _check_same_collection(first: Header, other: Header) -> None:
    if "part" not in first.provenance or "part" not in other.provenance:
        stranger = first if "part" not in first.provenance else other
        raise CacheError(
            f"{stranger.path}: expected a part of a cache, got a cache of its own", "move it out of the folder"
        )
    for what, mine, theirs in (
        ("recipe", first.provenance["recipe"], other.provenance["recipe"]),
        ("place", first.provenance["part"]["place"], other.provenance["part"]["place"]),
        ("layers", dict(first.layers), dict(other.layers)),
        ("number of parts", first.provenance["part"].get("of"), other.provenance["part"].get("of")),
    ):
        if mine != theirs:
            raise CacheError(
                f"{other.path}: expected the {what} of {first.path.name}, got another: they are parts of two caches",
                f"extract this part again, or move it out of {other.path.parent}",
            )


MOST_NAMED = 5  # of parts that are missing
MOST_MAPPED = 100  # parts of one cache that are mapped when it is opened: each takes an open file

#: Kinds that a source states of its columns; numbers are never stated.
STATED_KINDS = ("class", "multi")


class FeatureCache:
    """The features of n images in one HDF5 file, or in a folder of parts; each row checked before it is believed.

    Parameters
    ----------
    header : Header or PartsHeader
        `FeatureCache.open` reads it for you.

    Attributes
    ----------
    path : Path
        Of the file, or of the folder of parts.
    ids : list of str, length n
        Relative to the source, in its order. `extract` of a list or a table returns a view: the ids as given, in input
        order, with repeats; everything per row is in that order. See `base`.
    layers : dict of layer name to width
    provenance : mapping
        Recipe, versions, and the source's place, as plain JSON values.
    summary : ExtractionSummary or None
        What `extract` did, where it is `extract` that returned this cache.
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
        """Open a cache file, or a folder of parts; milliseconds a file, however large it is.

        The file is mapped at once, so that all of it stays readable after it was removed for a newer version.

        Raises
        ------
        CacheError
            Not a cache, of another format, truncated or damaged; or parts that do not belong together.
        """
        made = cls.glance(path)
        made._header.map_files(most=MOST_MAPPED)
        return made

    @classmethod
    def glance(cls, path: str | Path) -> FeatureCache:
        """Open as `open` does, but map a dataset when it is read for the first time: for a look at many caches."""
        path = Path(path)
        return cls(read_parts(path) if path.is_dir() else read_header(path))

    def __repr__(self) -> str:
        layers = ", ".join(f"{name} ({width})" for name, width in self.layers.items())
        return f"FeatureCache({str(self.path)!r}, {len(self)} images, {layers})"

    def __len__(self) -> int:
        return self._header.rows if self._order is None else len(self._order)

    @property
    def base(self) -> FeatureCache:
        """The cache as it is stored, each image once and sorted by id: itself, unless this is a view of it."""
        return self if self._base is None else self._base

    @property
    def base_rows(self) -> np.ndarray:
        """``(n,)`` int64: the row of `base` that each row is."""
        return np.arange(len(self)) if self._order is None else self._order

    def view(self, ids: Sequence[str], rows: np.ndarray) -> FeatureCache:
        """Return these rows under these ids, in this order; a row may be there twice, and nothing is copied.

        Parameters
        ----------
        ids : sequence of str, length m
        rows : ndarray of int64, shape (m,)
            Rows of `base`.

        Returns
        -------
        FeatureCache
            Ids, features, labels, digests and all else that has one entry per row are in the order of `ids`; the path,
            the files, the recipe and `describe` are those of `base`.
        """
        if len(ids) != len(rows):
            raise ValueError(f"expected one row per id, got {len(ids)} ids and {len(rows)} rows")
        made = FeatureCache(self.base._header)
        made._base, made._order = self.base, np.asarray(rows, np.int64)
        made.ids = list(ids)
        made.summary = self.summary
        return made

    def _map(self, name: str) -> np.ndarray:
        """Return a dataset's rows, of a view a copy in its order."""
        rows = self._header.map(name)
        return rows if self._order is None else rows[self._order]

    @property
    def header(self) -> Header:
        """What the one file says of itself; a cache of parts has none, its `parts` have."""
        if isinstance(self._header, PartsHeader):
            raise ValueError(f"{self.path} is a folder of parts")
        return self._header

    @property
    def parts(self) -> list[FeatureCache]:
        """The caches of one file each that this one consists of, itself alone if it is one."""
        if isinstance(self._header, PartsHeader):
            return [FeatureCache(header) for header in self._header.headers]
        return [self]

    @property
    def files(self) -> list[Path]:
        """The HDF5 files that hold the rows."""
        return [part.path for part in self.parts]

    @property
    def missing_parts(self) -> list[str]:
        """Which parts are still to be made, such as ``3/16``."""
        return self._header.missing if isinstance(self._header, PartsHeader) else []

    def hold(self) -> None:
        """Open every dataset, so that all of it stays readable whatever becomes of the files' names."""
        self._header.hold()

    @property
    def recipe(self) -> Mapping[str, Any]:
        """All that changes a feature, as `Recipe.as_dict` gives it."""
        return self.provenance["recipe"]

    @property
    def place(self) -> str:
        """Where the images were, as `ImageSource.place` gives it."""
        return self.provenance["place"]

    @cached_property
    def ids(self) -> list[str]:
        return as_texts(self._map("ids"))

    @property
    def status(self) -> np.ndarray:
        """``(n,)`` uint8 as on disk now: 0 pending, 1 stored, above that a `SkipReason`."""
        return np.array(self._map("status"))

    @property
    def complete(self) -> bool:
        """Whether no row is pending, and no part is missing."""
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
        """What the source knew of each image when it was read: ``{column: n texts}``, None where it knew nothing."""
        return {name: self._column(name) for name in self._header.columns}

    @property
    def kinds(self) -> dict[str, str]:
        """The kinds of columns that the source stated: ``{column: "class" or "multi"}``.

        A cache that was written before kinds were recorded has those that can be told from its ids: a column `label`
        that repeats the names of the class folders is classes.
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
            A reason that this version does not know: the row is damaged, or written by a later version.
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
            The penultimate one, or else the cache's first, when not given.

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
        """Return all n rows of a layer, to be indexed with `rows`: read when asked for, and small to send to a worker.

        Errors as `features`.
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
        # The row of an image that failed may hold whatever the disk held there; its checksum passes it over.
        return self._map("pixel_statistics")[self.rows]

    def labels(self, column: str = "label") -> np.ndarray:
        """Return a column of the source's labels for `rows`, as texts (None where there is none).

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
        """Return `layer` if the cache holds it (for None the penultimate one, or else the first); else `CacheError`."""
        if layer is None:
            return "penultimate" if "penultimate" in self.layers else next(iter(self.layers))
        if layer not in self.layers:
            raise CacheError(
                f"{self.path}: expected layer {layer!r}, got {', '.join(self.layers)}",
                f"extract it from the images with --layer {layer}; the layers that are there stay as they are",
            )
        return layer

    def damaged(self) -> np.ndarray:
        """Return the rows that are not pending and do not match their checksum; reads the whole file."""
        if self._base is not None:
            return np.flatnonzero(np.isin(self.base_rows, self._base.damaged()))
        if not isinstance(self._header, PartsHeader):
            return damaged_rows(self._header)
        starts, headers = self._header.starts, self._header.headers
        damaged = np.concatenate([start + damaged_rows(one) for start, one in zip(starts, headers, strict=False)])
        return np.flatnonzero(np.isin(self._header.order, damaged))

    def is_sound(self) -> bool:
        """Return whether every row is there and matches its checksum."""
        try:
            self.check()
        except CacheError:
            return False
        return True

    def check(self) -> None:
        """Return if every row is there and matches its checksum; the whole file is read, once.

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
                f"{self.path}: expected every part, got {len(self.files)}; still to be made: "
                f"{', '.join(self.missing_parts[:MOST_NAMED])}{more}",
                f"run the same `pipeline extract` with --part {self.missing_parts[0]}",
            )
        pending = int((self.status == PENDING).sum())
        if pending:
            raise CacheError(
                f"{self.path}: expected a complete cache, got {pending} of {len(self)} images still pending",
                "run the same `pipeline extract` again; it goes on where it stopped",
            )
        damaged = self.damaged()
        if damaged.size:
            raise CacheError(
                f"{self.path}: {damaged.size} of {len(self)} rows are damaged, the first is row {damaged[0]}",
                "run the same `pipeline extract` again; it makes the damaged rows anew",
            )
        self._checked = True

    def differences(self, recipe: Mapping[str, Any]) -> list[str]:
        """Return the names of the recipe's fields in which this cache differs from `recipe`."""
        mine = self.recipe
        return [name for name in sorted(mine.keys() | recipe.keys()) if mine.get(name) != recipe.get(name)]

    @property
    def features_key(self) -> str:
        """Digest of what the rows are: recipe and the images' content, wherever they lie."""
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
