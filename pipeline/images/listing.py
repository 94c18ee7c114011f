"""Images in a fixed order, listed and not yet read: what every kind of source comes down to."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from typing import Protocol, TypeVar
from zlib import crc32

import numpy as np

from pipeline.images.photo import Photo

Columns = dict[str, list[str | None]]


class Reader(Protocol):
    """Reads one image of a listing; it is what travels to a worker, so it holds paths rather than pixels.

    Attributes
    ----------
    encoded : bool
        Whether what it reads is files' bytes, which are decoded elsewhere, and not pixels.
    """

    @property
    def encoded(self) -> bool: ...

    def read(self, row: int, image_id: str) -> Photo: ...

    def take(self, rows: Sequence[int]) -> Reader: ...


Self = TypeVar("Self", bound="Listing")


@dataclass(frozen=True, eq=False)
class Listing:
    """Ids in a fixed order, and how to read each.

    Attributes
    ----------
    name : str
        Short, fit for a file's name.
    place : str
        Where the images are, fit for a cache's key.
    ids : list of str
        Sorted, unique, POSIX form, relative to the source.
    stat : ndarray of int64, (n, 2)
        Size in bytes and mtime in nanoseconds as listed; zeros for a file that is missing. Images that are rows of an
        array in memory have `array_stat` instead; those in a `.npz` or `.npy` file have that file's.
    reader : Reader
    columns : dict of list
        What the source says of each image: text, or None where it says nothing; in the order of `ids`.
    skipped : list of (what, why)
        Never candidates, but worth naming.
    notes : list of str
        What a person should be told of how the source was read.
    lies : ndarray of int64, (n,), optional
        Where each image lies in the file or files that hold them, in any unit; None where the order is all the same.
    shards : tuple of str
        The files that hold the images, where they are several and all of them was asked for.
    id_column : str or None
        Which of the shards' columns was asked for as the id.
    kinds : dict of str
        The kind of each column whose kind the source itself states, whatever its values look like: "class" for class
        folders, `.cls` members and `ClassLabel` columns, "multi" for lists.
    verbatim : dict of list
        The cells as they are written, of columns in which decimal commas became points.
    """

    name: str
    place: str
    ids: list[str]
    stat: np.ndarray
    reader: Reader = field(repr=False)
    columns: Columns = field(default_factory=dict)
    skipped: list[tuple[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    lies: np.ndarray | None = field(default=None, repr=False)
    shards: tuple[str, ...] = field(default=(), repr=False)
    id_column: str | None = field(default=None, repr=False)
    kinds: dict[str, str] = field(default_factory=dict)
    verbatim: Columns = field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        return len(self.ids)

    def read(self, row: int) -> Photo:
        """Return the photo of this row, its bytes read once, or raise `UnreadablePhoto` with the reason."""
        return self.reader.read(row, self.ids[row])

    def reading_order(self, rows: Sequence[int] | np.ndarray) -> np.ndarray:
        """Return these rows in the order in which they are quickest to read: as they lie in the files."""
        rows = np.asarray(rows, np.int64)
        return rows if self.lies is None else rows[np.argsort(self.lies[rows], kind="stable")]

    def take(self: Self, rows: Sequence[int]) -> Self:
        """Return the source cut down to these rows, in ascending order, with their columns.

        A part has a place of its own: extracting it must not retire the cache of the whole.

        It is small to pickle: of an array it holds only the rows taken. What was skipped and noted stays behind.
        """
        rows = sorted(rows)
        ids = [self.ids[row] for row in rows]
        part = f"[{len(ids)} of {len(self)}: {blake2b(chr(0).join(ids).encode(), digest_size=8).hexdigest()}]"
        return replace(
            self,
            place=self.place if len(ids) == len(self) else f"{self.place}/{part}",
            ids=ids,
            stat=self.stat[rows],
            reader=self.reader.take(rows),
            columns={name: [column[row] for row in rows] for name, column in self.columns.items()},
            verbatim={name: [column[row] for row in rows] for name, column in self.verbatim.items()},
            skipped=[],
            notes=[],
            lies=None if self.lies is None else self.lies[rows],
            shards=(),
        )

    def share(self: Self, number: int, of: int) -> Self:
        """Return share `number` (from 1) of as many: the images that `in_share` puts there."""
        rows = [row for row, image_id in enumerate(self.ids) if in_share(image_id, number, of)]
        return replace(self.take(rows), place=share_place(self.place, number, of), notes=list(self.notes))


def in_share(image_id: str, number: int, of: int) -> bool:
    """Return whether an image belongs to share `number` (from 1) of as many.

    It goes by a hash of the id, so that an image stays in its share whatever else comes and goes.
    """
    return crc32(image_id.encode()) % of == number - 1


def share_place(place: str, number: int, of: int) -> str:
    return f"{place} [share {number} of {of}]"


def image_folder(place: str) -> str | None:
    """Return the folder that the ids of a source are relative to, by its place; None where it is no folder."""
    place = re.sub(r"( \[share \d+ of \d+\]|/\[[^/\]]*\])+$", "", place.rpartition(" over ")[2])
    place = re.sub(r"(\.(?:xlsx|xlsm|ods)):[^/]+$", r"\1", place, flags=re.IGNORECASE)
    if not os.path.isabs(place):  # noqa: PTH117 - places are text
        return None
    return place if not os.path.isfile(place) else os.path.dirname(place)  # noqa: PTH113, PTH120


def short_name(text: str) -> str:
    """Return the text as a short name that is safe within a file's name, "images" where nothing is left."""
    kept = re.sub(r"[^\w.-]+", "_", unicodedata.normalize("NFC", text)).strip("._-")
    return kept[:40].rstrip("._-") or "images"


def printable(name: str) -> str:
    """Return a file's name as text that every terminal and every encoding takes."""
    text = name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return "".join(f"\\x{ord(c):02x}" if unicodedata.category(c) == "Cc" else c for c in text)


def name_trouble(name: str) -> str | None:
    """Return why a file's name cannot be an id, or None."""
    if name.isprintable():  # holds for nearly all of them, and is quick
        return None
    try:
        name.encode()
    except UnicodeEncodeError:
        return "its name is not UTF-8"
    if any(unicodedata.category(letter) == "Cc" for letter in name):
        return "its name holds a control character or a line break"
    return None


def id_trouble(name: str, holder: str) -> str | None:
    """Return why a name within a tar or a table cannot be an id, or None.

    Nothing is ever written under it, but an id goes into paths: with ``--root``, in a model's answers, on a page.
    """
    if trouble := name_trouble(name):
        return trouble
    slashed = name.replace("\\", "/")
    if slashed.startswith("/") or slashed[1:3] == ":/":
        return "its name is an absolute path"
    if ".." in slashed and ".." in slashed.split("/"):
        return f"its name leads out of the {holder}"
    return None
