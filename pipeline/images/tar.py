"""How images in a tar are listed and read in place, with labels from members that share a key (WebDataset)."""

from __future__ import annotations

import json
import posixpath
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from itertools import pairwise
from pathlib import Path
from typing import ClassVar, NamedTuple

import numpy as np

from pipeline.errors import SkipReason, SourceError, UnreadableImage
from pipeline.images.decode import HEAD, IMAGE_ENDINGS, RAW_ENDINGS, ending, sniff
from pipeline.images.folder import SYSTEM_FOLDERS, archive_columns, with_folder_labels
from pipeline.images.listing import Columns, Ignored, Listing, id_trouble, printable, short_name
from pipeline.images.photo import MAX_BYTES, OpenFile, Photo, Stat, open_shared
from pipeline.images.values import cell_text, clean_text, number_text

OWN_COLUMNS = {"cls": "label", "txt": "text"}  # the ending -> the column that the whole text becomes
MAX_SIDECAR = 1 << 20  # bytes
MAX_FIELDS = 256  # of all JSON together: every one is a column over all images


class Sidecars:
    """The texts beside the images, gathered by key while the members go by."""

    def __init__(self) -> None:
        self._own: dict[str, dict[str, str | None]] = {"label": {}, "text": {}}
        self._fields: dict[str, dict[str, str | None]] = {}
        self._json: set[str] = set()  # keys that have one
        self._left_out: dict[str, str] = {}  # field: why
        self._texts: dict[str | None, str | None] = {}  # each distinct text is kept once

    def holds(self, name: str) -> bool:
        """Return whether a member of this name has been taken."""
        key, kind = key_of(name)
        return key in (self._own[OWN_COLUMNS[kind]] if kind in OWN_COLUMNS else self._json)

    def add(self, name: str, data: bytes) -> str | None:
        """Take what this member says; return why it says nothing, or None."""
        key, kind = key_of(name)
        column = OWN_COLUMNS.get(kind)
        if column is not None:
            self._own[column][key] = None
        else:
            self._json.add(key)
        try:
            text = data.decode("utf-8-sig")
            if column is not None:
                self._own[column][key] = self._once(text)
                return None
            values = json.loads(text)
        except UnicodeDecodeError:
            return "not UTF-8"
        except (ValueError, RecursionError) as error:
            return f"no JSON: {' '.join(str(error).split())[:80]}"
        if not isinstance(values, dict):
            return "its JSON is no object of names and values"
        for name, value in values.items():
            self._add_field(clean_text(name), key, value)
        return None

    @property
    def kinds(self) -> dict[str, str]:
        """The kinds of the columns: what a `.cls` member holds is a class by definition, number or not."""
        return {"label": "class"} if self._own["label"] else {}

    def aligned(self, ids: Sequence[str]) -> tuple[Columns, list[str]]:
        """Return the columns over these images, and what to say of them."""
        if not (self._json or any(self._own.values())):
            return {}, []
        found = {name: values for name, values in self._own.items() if values}
        for name, values in self._fields.items():
            if name in found:
                ending = next(kind for kind, column in OWN_COLUMNS.items() if column == name)
                self._left_out[name] = f"the .{ending} members say it"
            elif name not in self._left_out:
                found[name] = values
        keys = [key_of(image_id)[0] for image_id in ids]
        notes = [f"the JSON field {field!r} is left out: {why}" for field, why in self._left_out.items()]
        return {name: [values.get(key) for key in keys] for name, values in found.items()}, notes

    def _add_field(self, field: str, key: str, value: object) -> None:
        if field in self._left_out:
            return
        if isinstance(value, dict | list):
            self._left_out[field] = "it holds a list or an object"
            return
        if field not in self._fields:
            if len(self._fields) == MAX_FIELDS:
                self._left_out[field] = f"there are more than {MAX_FIELDS} fields"
                return
            self._fields[field] = {}
        text: str | None
        if isinstance(value, bool):
            text = str(value).lower()
        elif isinstance(value, float):
            text = number_text(value)
        else:
            text = None if value is None else str(value)
        self._fields[field][key] = self._once(text)

    def _once(self, text: str | None) -> str | None:
        if text not in self._texts:
            self._texts[text] = cell_text(text)
        return self._texts[text]


def key_of(name: str) -> tuple[str, str]:
    """Return the key that members of one image share, and the ending: what stands before and behind the first dot."""
    folder, slash, base = name.rpartition("/")
    stem, _, kind = base.partition(".")
    return f"{folder}{slash}{stem}", kind.lower()


BLOCK = 512
MAX_NAME = 1 << 20  # bytes of one extended header, which holds a name and a few attributes

_ZEROS = bytes(BLOCK)
_PEEK = 2 * BLOCK  # a header, and with the same read the first bytes of what it names

_KINDS = {
    b"0": "file",
    b"\0": "file",
    b"7": "file",
    b"1": "link",
    b"2": "link",
    b"3": "device",
    b"4": "device",
    b"5": "folder",
    b"6": "device",
    b"S": "sparse",
}
_EXTENDED = frozenset((b"x", b"X", b"g", b"L", b"K"))  # headers about the member that follows, or about all
_WITHOUT_BYTES = frozenset(("link", "device", "folder"))  # whatever size their header gives


class Member(NamedTuple):
    """One member of a tar."""

    name: str  # bytes that are no UTF-8 are escaped as in a file's name
    kind: str  # file, folder, link, device, sparse or other
    offset: int  # of its bytes
    size: int
    head: bytes  # its first bytes, `BLOCK` of them or all, where it is a file


def members(tar: OpenFile, shown: str, notes: list[str]) -> Iterator[Member]:
    """Give the members of a tar in their order; raise `SourceError` with the byte where it is damaged or cut short.

    Parameters
    ----------
    tar : Descriptor
    shown : str
        Its name, for errors and notes.
    notes : list of str
        Added to, when the walk is over.
    """
    total, _ = tar.stat()
    offset = 0
    long_name: bytes | None = None  # both kinds of extended header speak of the member that follows
    extended: dict[bytes, bytes] = {}
    while True:
        block = tar.read(_PEEK, offset)
        header = block[:BLOCK]
        if len(header) < BLOCK:
            if header:
                raise _damaged(shown, f"is cut short in the header at byte {offset:,}")
            if offset == 0:
                raise _damaged(shown, "is an empty file")
            notes.append(f"{shown}: ends at byte {total:,} without the mark of its end: it may have been cut short")
            return
        if header == _ZEROS:
            _check_end(tar, offset, total, shown)
            return
        if not _sound(header):
            what = f"no tar: it begins with {header[:12]!r}" if offset == 0 else f"damaged at byte {offset:,}"
            raise _damaged(shown, f"is {what}")
        flag = header[156:157]
        size = _number(header[124:136])
        if flag not in _EXTENDED and b"size" in extended and extended[b"size"].isdigit():
            size = int(extended[b"size"])
        if size < 0:
            raise _damaged(shown, f"is damaged at byte {offset:,}: no size")
        kind = _KINDS.get(flag, "other")
        start = offset + BLOCK
        if flag == b"S":
            start = _past_sparse_headers(tar, header, start)
        if kind in _WITHOUT_BYTES:
            size = 0
        if start + size > total:
            name = _name(header, long_name, extended)
            raise _damaged(
                shown,
                f"is cut short: {name!a:.80} should end at byte {start + size:,}, the file ends at byte {total:,}",
            )
        if flag in _EXTENDED:
            if size > MAX_NAME:
                raise _damaged(shown, f"is damaged at byte {offset:,}: an extended header of {size:,} bytes")
            if flag == b"L":
                long_name = tar.read(size, start).partition(b"\0")[0]
            elif flag in b"xX":
                extended = _extended(tar.read(size, start), shown, offset)
        else:
            name = _name(header, long_name, extended)
            if flag == b"\0" and name.endswith("/"):  # as the oldest tars wrote folders
                kind, size = "folder", 0
            elif any(key.startswith(b"GNU.sparse.") for key in extended):
                kind = "sparse"
            yield Member(name, kind, start, size, block[BLOCK : BLOCK + size] if kind == "file" else b"")
            long_name, extended = None, {}
        offset = start + -(-size // BLOCK) * BLOCK


def _sound(header: bytes) -> bool:
    """Return whether a header's checksum is right; some old writers summed signed bytes."""
    stated = _number(header[148:156])
    fields = header[:148] + header[156:]
    found = sum(fields) + 256  # the checksum itself counts as eight blanks
    return stated in (found, found - 256 * sum(byte > 127 for byte in fields)) if stated != found else True


def _number(field: bytes) -> int:
    """Return a header's number, octal or base 256; -1 where it is none."""
    if field[0] & 0x80:
        return int.from_bytes(bytes([field[0] & 0x7F]) + field[1:], "big") if field[0] == 0x80 else -1
    try:
        return int(field.partition(b"\0")[0].strip() or b"0", 8)
    except ValueError:
        return -1


def _name(header: bytes, long_name: bytes | None, extended: dict[bytes, bytes]) -> str:
    name = extended.get(b"GNU.sparse.name") or extended.get(b"path") or long_name
    if name is None:
        name = header[:100].partition(b"\0")[0]
        if header[257:263] == b"ustar\0" and header[345] and (prefix := header[345:500].partition(b"\0")[0]):
            name = prefix + b"/" + name
    return name.decode("utf-8", "surrogateescape")


def _extended(data: bytes, shown: str, offset: int) -> dict[bytes, bytes]:
    """Return the records of a pax header, each ``LENGTH KEY=VALUE`` and a line's end."""
    records = {}
    place = 0
    while place < len(data) and data[place]:
        length = data[place : place + 20].partition(b" ")[0]
        end = place + int(length) if length.isdigit() else 0
        key, equals, value = data[place + len(length) + 1 : end - 1].partition(b"=")
        if not (place < end <= len(data) and equals and data[end - 1 : end] == b"\n"):
            raise _damaged(shown, f"is damaged at byte {offset:,}: an extended header that cannot be read")
        records[key] = value
        place = end
    return records


def _past_sparse_headers(tar: OpenFile, header: bytes, start: int) -> int:
    """Return where the bytes of an old GNU sparse member start: behind the blocks that list its holes."""
    more = header[482]
    while more:
        block = tar.read(BLOCK, start)
        more = block[504] if len(block) == BLOCK else 0
        start += BLOCK
    return start


def _check_end(tar: OpenFile, end: int, total: int, shown: str) -> None:
    """Raise `SourceError` if anything but zeros follows the mark of the end: what stands there would be left out."""
    offset = end
    while chunk := tar.read(1 << 20, offset):
        if blank := chunk.strip(b"\0"):
            where = offset + chunk.index(blank[:1])
            raise SourceError(
                f"{shown}: ends at byte {end:,} of {total:,}, but more stands at byte {where:,}: a hole in it, or two "
                "tars joined",
                "get it again, or name the tars one by one",
            )
        offset += len(chunk)


def _damaged(shown: str, what: str) -> SourceError:
    return SourceError(
        f"{shown}: expected a whole tar, this one {what}", f"get or make it again; look: tar tvf {shown}"
    )


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
        _check_magic(tar.read(8, 0), shown)
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
    _check_unique(ids, shown)
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


def _check_magic(head: bytes, shown: str) -> None:
    for magic, tail in _MAGIC.items():
        if head.startswith(magic):  # the tools want the ending that it should have had
            raise _compressed(shown, f"mv {shown} {shown}.{tail} && {COMPRESSED[tail]} {shown}.{tail}")


def _compressed(shown: str, step: str) -> SourceError:
    return SourceError(
        f"{shown}: expected a plain tar, got a compressed one, in which no image can be reached without all before it",
        step,
    )


def _check_unique(ids: Sequence[str], shown: str) -> None:
    twice = next((name for name, following in pairwise(ids) if name == following), None)
    if twice is not None:
        raise _two(twice, shown)


def _two(name: str, shown: str) -> SourceError:
    return SourceError(
        f"{shown}: two members are called {name}, of which tar keeps the last",
        "make the tar again, with each image under a name of its own",
    )


@dataclass
class _TarWalk:
    """The state of a walk through a tar: ids and offsets, no headers."""

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
