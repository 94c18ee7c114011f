"""The images in a tar, read where they lie; members that share a key say what is known of them (WebDataset)."""

from __future__ import annotations

import posixpath
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from itertools import pairwise
from pathlib import Path
from typing import ClassVar

import numpy as np

from pipeline.errors import SkipReason, SourceError, UnreadableImage
from pipeline.images.descriptor import OpenFile, Stat, open_shared
from pipeline.images.folder import SYSTEM_FOLDERS
from pipeline.images.labelling import archive_columns, with_folder_labels
from pipeline.images.listing import Ignored, Listing, id_trouble, printable, short_name
from pipeline.images.photo import MAX_BYTES, Photo
from pipeline.images.sidecars import MAX_SIDECAR, OWN_COLUMNS, Sidecars, key_of
from pipeline.images.sniff import HEAD, IMAGE_ENDINGS, RAW_ENDINGS, ending, sniff
from pipeline.images.tar_headers import Member, members

#: Endings of tars that are compressed as a whole, with what makes a plain one of each.
COMPRESSED = {
    "gz": "gunzip",
    "tgz": "gunzip",
    "bz2": "bunzip2",
    "tbz2": "bunzip2",
    "xz": "unxz",
    "txz": "unxz",
    "zst": "unzstd",
    "tzst": "unzstd",
    "lz4": "unlz4",
}

_MAGIC = {b"\x1f\x8b": "gz", b"BZh": "bz2", b"\xfd7zXZ\0": "xz", b"\x28\xb5\x2f\xfd": "zst", b"\x04\x22\x4d\x18": "lz4"}

_NO_FILES = {
    "link": "a link to another member, which is not followed",
    "device": "not a regular file",
    "sparse": "a file with holes, which is not read: make the tar without --sparse",
    "other": "a member of an unknown kind",
}


@dataclass(frozen=True, eq=False)
class TarReader:
    """Reads members of a tar, which each process opens once; row i is `spans[i]`: its first byte and its size."""

    path: str
    spans: np.ndarray  # (n, 2) int64
    stat: Stat

    encoded: ClassVar = True

    def read(self, row: int, image_id: str) -> Photo:
        offset, size = self.spans[row].tolist()
        if size == 0:
            raise UnreadableImage(SkipReason.EMPTY)
        if size > MAX_BYTES:
            raise UnreadableImage(SkipReason.TOO_LARGE, f"a file of {size / 1e9:.1f} GB")
        try:
            tar = open_shared(self.path, self.stat)
            data = tar.read(size, offset)
            found = tar.stat()  # after the bytes: whatever was written meanwhile shows
        except (FileNotFoundError, NotADirectoryError) as error:
            raise UnreadableImage(SkipReason.MISSING, "the tar is gone") from error
        except PermissionError as error:
            raise UnreadableImage(SkipReason.FORBIDDEN) from error
        except OSError as error:
            raise UnreadableImage(SkipReason.UNREADABLE, error.strerror or str(error)) from error
        if found != self.stat or len(data) != size:
            raise UnreadableImage(SkipReason.UNREADABLE, "the tar was changed after it was listed")
        return Photo(blake2b(data, digest_size=16).digest(), self.stat, data)

    def take(self, rows: Sequence[int]) -> TarReader:
        return TarReader(self.path, self.spans[list(rows)], self.stat)


def open_tar(path: str, *, level: int | None = None) -> Listing:
    """Return the images of a plain tar, labelled by its members or else by its folders; no image is read yet."""
    listing = list_tar(path)
    found = archive_columns(listing.ids, printable(path), labelled="label" in listing.columns, level=level)
    return with_folder_labels(listing, found, level)


def list_tar(path: str) -> Listing:
    """Return the images of a plain tar with what its members say of them, and not its folders."""
    shown = printable(path)
    check_not_compressed(path)
    place = Path(path).resolve()
    found = _TarWalk(shown)
    notes: list[str] = []
    try:
        tar = OpenFile(str(place))
        stat = tar.stat()
        _refuse_magic(tar.read(8, 0), shown)
        for member in members(tar, shown, notes):
            found.meet(member, tar)
        changed = tar.stat() != stat
    except OSError as error:
        raise SourceError(
            f"{shown}: cannot read this tar: {error.strerror or error}", "check the path and its permissions"
        ) from error
    if changed:
        raise SourceError(f"{shown}: was written to while it was listed", "try again when it is finished")
    ids = found.ids
    if not ids:
        others = f"; {found.ignored.text}" if found.ignored else ""
        skipped = f"; skipped {found.skipped[0][0]}: {found.skipped[0][1]}" if found.skipped else ""
        raise SourceError(f"{shown}: no image in this tar{others}{skipped}", f"see what is in it: tar tf {shown}")
    order = sorted(range(len(ids)), key=ids.__getitem__)
    ids = [ids[row] for row in order]
    _refuse_two(ids, shown)
    spans = np.frombuffer(found.spans, np.int64).reshape(-1, 2)[order]  # (n, 2)
    columns, about = found.sidecars.aligned(ids)
    return Listing(
        name=short_name(place.stem),
        place=printable(place.as_posix()),
        ids=ids,
        stat=np.full((len(ids), 2), stat, np.int64),
        reader=TarReader(str(place), spans, stat),
        columns=columns,
        kinds=found.sidecars.kinds,
        skipped=sorted(found.skipped),
        notes=[*notes, *found.notes(), *(f"{shown}: {note}" for note in about)],
        ignored=found.ignored,
        lies=spans[:, 0].copy(),
    )


def check_not_compressed(path: str) -> None:
    """Raise `SourceError` for a name such as ``shard.tar.gz``."""
    stem, _, tail = path.lower().rpartition(".")
    if tail in COMPRESSED and (stem.endswith(".tar") or tail[0] == "t"):
        raise _compressed(printable(path), f"{COMPRESSED[tail]} {printable(path)}")


def _refuse_magic(head: bytes, shown: str) -> None:
    for magic, tail in _MAGIC.items():
        if head.startswith(magic):  # the tools want the ending that it should have had
            raise _compressed(shown, f"mv {shown} {shown}.{tail} && {COMPRESSED[tail]} {shown}.{tail}")


def _compressed(shown: str, step: str) -> SourceError:
    return SourceError(
        f"{shown}: wanted a plain tar, found a compressed one, in which no image can be reached without all before it",
        step,
    )


def _refuse_two(ids: Sequence[str], shown: str) -> None:
    twice = next((one for one, other in pairwise(ids) if one == other), None)
    if twice is not None:
        raise _two(twice, shown)


def _two(name: str, shown: str) -> SourceError:
    return SourceError(
        f"{shown}: two members are called {name}, of which tar keeps the last",
        "make the tar again, with each image under a name of its own",
    )


@dataclass
class _TarWalk:
    """What the walk through a tar has met so far: ids and places, no headers."""

    shown: str
    ids: list[str] = field(default_factory=list)
    spans: array[int] = field(default_factory=lambda: array("q"))  # offset, size, offset, size, ...
    sidecars: Sidecars = field(default_factory=Sidecars)
    silent: list[tuple[str, str]] = field(default_factory=list)  # sidecars that cannot be read
    skipped: list[tuple[str, str]] = field(default_factory=list)
    ignored: Ignored = field(default_factory=Ignored)

    def meet(self, member: Member, tar: OpenFile) -> None:
        """Take in one member, or name it among the skipped, or pass it by."""
        if member.kind == "folder":
            return
        if trouble := _trouble(member.name):
            self.skipped.append((printable(member.name), trouble))
            return
        image_id = _tidy(member.name)
        if "/." in image_id or image_id[0] == "." or not SYSTEM_FOLDERS.isdisjoint(image_id.split("/")):
            return
        tail = ending(image_id.rpartition("/")[2])
        named = tail in IMAGE_ENDINGS
        if member.kind != "file":
            if named:
                self.skipped.append((image_id, _NO_FILES[member.kind]))
            else:
                self.ignored.add(member.kind if member.kind == "link" else "no regular file", image_id)
            return
        if not named:
            if tail in RAW_ENDINGS:
                self.skipped.append((image_id, "a camera's raw file, which is not read: export it as JPEG or TIFF"))
                return
            if not sniff(member.head[:HEAD]):
                self._meet_other(member, image_id, tar)
                return
        self.ids.append(image_id)
        self.spans.append(member.offset)
        self.spans.append(member.size)

    def notes(self) -> list[str]:
        """Return what to say of sidecars that cannot be read: their images would else lack labels without a word."""
        if not self.silent:
            return []
        name, why = self.silent[0]
        more = f" (and {len(self.silent) - 1:,} more such)" if len(self.silent) > 1 else ""
        return [f"{self.shown}: {name} is not read: {why}{more}"]

    def _meet_other(self, member: Member, image_id: str, tar: OpenFile) -> None:
        kind = key_of(image_id)[1]
        if kind not in OWN_COLUMNS and kind != "json":
            self.ignored.add_named(image_id)
            return
        if member.size > MAX_SIDECAR:
            why: str | None = f"{member.size / 1e6:.1f} MB"
        else:
            data = member.head if len(member.head) == member.size else tar.read(member.size, member.offset)
            if self.sidecars.holds(image_id):
                raise _two(image_id, self.shown)
            why = self.sidecars.add(image_id, data)
        if why:
            self.silent.append((image_id, why))
            self.skipped.append((image_id, why))


def _trouble(name: str) -> str | None:
    """Return why a member's name cannot be an id, or None."""
    if trouble := id_trouble(name, "tar"):
        return trouble
    return "it has no name" if not name.replace("\\", "/").strip("./") else None


def _tidy(name: str) -> str:
    """Return the name without what says nothing in it, as in ``./ants//1.jpg``."""
    if name.startswith("./") or "//" in name or "/./" in name:
        return posixpath.normpath(name)
    return name
