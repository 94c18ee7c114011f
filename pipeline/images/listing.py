"""The listing that every kind of source becomes: images in a fixed order, not yet read."""

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

from pipeline.errors import SourceError
from pipeline.images.decode import ending
from pipeline.images.photo import Photo

Columns = dict[str, list[str | None]]

_RESERVED = re.compile(r"con|prn|aux|nul|com[0-9]|lpt[0-9]", re.IGNORECASE)

MOST_KINDS = 8  # of ignored files that one line names


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


@dataclass
class Ignored:
    """Files beside the images that were not read, counted by kind.

    Attributes
    ----------
    kinds : dict of str to int
        The ending with its dot, "no ending", or "link to nothing"; and how many files of that kind there are.
    first : str
        One of the files; "" where there are none.
    """

    kinds: dict[str, int] = field(default_factory=dict)
    first: str = ""

    def __bool__(self) -> bool:
        return bool(self.kinds)

    def add_named(self, name: str) -> None:
        """Count a file by the ending of its name."""
        tail = ending(name.rpartition("/")[2])
        self.add(f".{tail}" if tail else "no ending", name)

    def add(self, kind: str, name: str, count: int = 1) -> None:
        """Count files of one kind."""
        self.kinds[kind] = self.kinds.get(kind, 0) + count
        self.first = self.first or name

    def add_all(self, other: Ignored, prefix: str = "") -> None:
        """Count the files of another count too."""
        for kind, count in other.kinds.items():
            self.add(kind, prefix + other.first, count)

    @property
    def count(self) -> int:
        return sum(self.kinds.values())

    @property
    def text(self) -> str:
        """The counts in one line, the most frequent kinds first; "" where there are none."""
        if not self.kinds:
            return ""
        kinds = sorted(self.kinds.items(), key=lambda item: (-item[1], item[0]))
        listed = [f"{count:,} {kind}" for kind, count in kinds[:MOST_KINDS]]
        if rest := sum(count for _, count in kinds[MOST_KINDS:]):
            listed.append(f"{rest:,} of other kinds")
        files = "file" if self.count == 1 else "files"
        return f"{self.count:,} {files} ignored: {', '.join(listed)}, e.g. {printable(self.first)}"


@dataclass(frozen=True, eq=False)
class Requested:
    """The inputs of a list or a table: one entry per input, in input order, with repeats.

    Attributes
    ----------
    ids : list of str, length m
        As given: a path of the list, or the id cell of a table.
    rows : ndarray of int64, shape (m,)
        The row of `Listing.ids` that each input is.
    """

    ids: list[str]
    rows: np.ndarray

    @classmethod
    def of(cls, given: Sequence[str], image_ids: Sequence[str], ids: Sequence[str]) -> Requested | None:
        """Return the inputs, or None where they are the listing's own ids in the listing's order.

        Parameters
        ----------
        given, image_ids : sequence of str, length m
            Each input as it was given, and the id of its image.
        ids : sequence of str, length n
            The sorted, unique ids of the listing.
        """
        if len(given) == len(ids) and list(given) == list(ids):
            return None
        row_of = {image_id: row for row, image_id in enumerate(ids)}
        return cls(list(given), np.array([row_of[image_id] for image_id in image_ids], np.int64))


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
        The source's columns: text or None per image, in the order of `ids`.
    skipped : list of (what, why)
        Never candidates, but worth naming.
    notes : list of str
        Sentences on how the source was read.
    ignored : Ignored
        The files that are no images.
    label_error : SourceError or None
        Why no label can be read from the names of the folders; raised only where labels are needed.
    lies : ndarray of int64, (n,), optional
        Where each image lies in the file or files that hold them, in any unit; None where the order is all the same.
    shards : tuple of str
        The files that hold the images, where there are several and all of them are opened.
    id_column : str or None
        The requested id column of the shards.
    kinds : dict of str
        The kind of each column whose kind the source itself states, whatever its values look like: "class" for class
        folders, `.cls` members and `ClassLabel` columns, "multi" for lists.
    verbatim : dict of list
        The cells as they are written, of columns in which decimal commas became points.
    label_level : int or None
        The requested level of the shards' folders for the label.
    requested : Requested or None
        The inputs in input order where the source is a list or a table; None where they are the ids, in this order.
    """

    name: str
    place: str
    ids: list[str]
    stat: np.ndarray
    reader: Reader = field(repr=False)
    columns: Columns = field(default_factory=dict)
    skipped: list[tuple[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    ignored: Ignored = field(default_factory=lambda: Ignored())
    label_error: SourceError | None = field(default=None, repr=False)
    lies: np.ndarray | None = field(default=None, repr=False)
    shards: tuple[str, ...] = field(default=(), repr=False)
    id_column: str | None = field(default=None, repr=False)
    kinds: dict[str, str] = field(default_factory=dict)
    verbatim: Columns = field(default_factory=dict, repr=False)
    label_level: int | None = field(default=None, repr=False)
    requested: Requested | None = field(default=None, repr=False)

    def __len__(self) -> int:
        return len(self.ids)

    def read(self, row: int) -> Photo:
        """Return the photo of this row, its bytes read once, or raise `UnreadableImage` with the reason."""
        return self.reader.read(row, self.ids[row])

    def reading_order(self, rows: Sequence[int] | np.ndarray) -> np.ndarray:
        """Return these rows in the order in which they are quickest to read: as they lie in the files."""
        rows = np.asarray(rows, np.int64)
        return rows if self.lies is None else rows[np.argsort(self.lies[rows], kind="stable")]

    def take(self: Self, rows: Sequence[int]) -> Self:
        """Return the source cut down to these rows, in ascending order, with their columns.

        A part has a place of its own: extracting it must not retire the cache of the whole.

        It is small to pickle: of an array it holds only the rows taken. `skipped`, `notes` and `requested` are dropped.
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
            ignored=Ignored(),
            lies=None if self.lies is None else self.lies[rows],
            shards=(),
            requested=None,
        )

    def share(self: Self, number: int, of: int) -> Self:
        """Return share `number` (from 1) of as many: the images that `in_share` puts there."""
        rows = [row for row, image_id in enumerate(self.ids) if in_share(image_id, number, of)]
        return replace(
            self.take(rows), place=share_place(self.place, number, of), notes=list(self.notes), ignored=self.ignored
        )


def skipped_text(skipped: Sequence[tuple[str, str]]) -> str:
    """Return the note on what a source left out: the first with its reason, the number of the others."""
    what, why = skipped[0]
    others = f", and {len(skipped) - 1:,} others" if len(skipped) > 1 else ""
    return f"passed by {what} ({why}){others}"


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
    kept = kept[:40].rstrip("._-") or "images"
    # Windows keeps these names for devices, whatever follows a dot: a folder runs/aux could not be made there.
    return f"images_{kept}" if _RESERVED.fullmatch(kept.partition(".")[0]) else kept


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
