"""A folder of parts, each a cache complete in itself, read as one.

A part is made alone: of one tar shard, or of one share of a folder's images. What it is part of stands in its own
provenance, under `part`, and its file's name begins with `part_`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.cache.header import Header, read_header
from pipeline.cache.layout import SUFFIX, features_name, is_labels
from pipeline.cache.stored import StoredRows
from pipeline.errors import CacheError

PREFIX = "part_"


class PartedHeader:
    """What the parts say together: a `Header` of their rows, one part after another, in the order of their names.

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
            _refuse_stranger(first, header)
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
        self._maps: dict[str, Any] = {}

    @cached_property
    def missing(self) -> list[str]:
        """Names of the parts that are still to be made, where it is known how many there are to be."""
        of = self.headers[0].provenance["part"].get("of")
        if of is None:
            return []
        there = {header.provenance["part"]["number"] for header in self.headers}
        return [f"{number}/{of}" for number in range(1, of + 1) if number not in there]

    def map(self, name: str) -> Any:
        """Return all rows of a dataset: in memory, but for features, which are read when they are asked for."""
        if name not in self._maps:
            self._maps[name] = self._concatenated(name)
        return self._maps[name]

    def features(self, layer: str) -> StoredRows:
        """Return a layer's rows, ``(n, d)``."""
        return StoredRows(self.headers, features_name(layer))

    def refuse_twins(self, ids: Sequence[str]) -> None:
        """Raise `CacheError` where two parts hold an image of one id: labels are joined by it.

        Parameters
        ----------
        ids : sequence of str
            Of all rows.
        """
        seen: dict[str, int] = {}
        for row, name in enumerate(ids):
            first = seen.setdefault(name, row)
            if first != row:
                one, other = (self.headers[self._part_of(number)].path.name for number in (first, row))
                raise CacheError(
                    f"{self.path}: wanted ids that are unique, found {name!r} in {one} and in {other}",
                    "give the images of one shard other names",
                )

    def _part_of(self, row: int) -> int:
        return int(np.searchsorted(self.starts, row, side="right")) - 1

    def hold(self) -> None:
        """Open every dataset of every part, so that all of it stays readable whatever becomes of the names."""
        for header in self.headers:
            header.hold()

    def _concatenated(self, name: str) -> np.ndarray:
        return np.concatenate(
            [
                # A part whose images had no such label says nothing of it.
                np.zeros(header.rows, "S1") if is_labels(name) and name not in header.fields else header.map(name)
                for header in self.headers
            ]
        )


def read_parts(folder: Path) -> PartedHeader:
    """Return what a folder of parts says of itself.

    Raises
    ------
    CacheError
        There is no part in it, one is damaged, or they are not parts of one cache.
    """
    headers = [_newest(paths) for _, paths in sorted(_by_stem(folder).items())]
    if not headers:
        raise CacheError(f"{folder}: wanted a cache or a folder of its parts, found neither", "pipeline cache list")
    return PartedHeader(folder, headers)


def is_parted(folder: Path) -> bool:
    """Return whether a folder holds parts of a cache."""
    return folder.is_dir() and next(_files(folder), None) is not None


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in folder.glob(f"{PREFIX}*{SUFFIX}"))


def _by_stem(folder: Path) -> dict[str, list[Path]]:
    """Return the files of each part: more than one only while an earlier generation is still being read."""
    found: dict[str, list[Path]] = {}
    for path in _files(folder):
        found.setdefault(path.stem.rpartition("-")[0], []).append(path)
    return found


def _newest(paths: Sequence[Path]) -> Header:
    return read_header(max(paths, key=lambda path: (path.stat().st_mtime_ns, path.name)))


def _refuse_stranger(first: Header, other: Header) -> None:
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
