"""A folder of parts, each a cache complete in itself, read as one.

A part is made alone: of one tar shard, or of one share of a folder's images. What it is part of stands in its own
provenance, under `part`, and its file's name begins with `part_`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.cache.header import Header, read_header
from pipeline.cache.layout import SUFFIX, as_texts, features_name, is_labels
from pipeline.cache.stored import LazyRows
from pipeline.errors import CacheError

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
                f"{self.path}: wanted ids that are unique, found {as_texts(ids[at : at + 1])[0]!r} in {one} and in "
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
        raise CacheError(f"{folder}: wanted a cache or a folder of its parts, found neither", "pipeline cache list")
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
            f"{stranger.path}: wanted a part of a cache, found a cache of its own", "move it out of the folder"
        )
    for what, mine, theirs in (
        ("recipe", first.provenance["recipe"], other.provenance["recipe"]),
        ("place", first.provenance["part"]["place"], other.provenance["part"]["place"]),
        ("layers", dict(first.layers), dict(other.layers)),
        ("number of parts", first.provenance["part"].get("of"), other.provenance["part"].get("of")),
    ):
        if mine != theirs:
            raise CacheError(
                f"{other.path}: wanted the {what} of {first.path.name}, found another: they are parts of two caches",
                f"extract this part again, or move it out of {other.path.parent}",
            )
