"""The headers of a tar, one after another: the name, place and size of each member, and every damage an error.

The standard library's `tarfile` takes a damaged header in the middle for the end, so that half a set would be listed
without a word; this walk checks every header, and gets a member's first bytes with the same read.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from pipeline.errors import SourceError
from pipeline.images.descriptor import OpenFile

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
            _refuse_more(tar, offset, total, shown)
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
    wanted = _number(header[148:156])
    fields = header[:148] + header[156:]
    found = sum(fields) + 256  # the checksum itself counts as eight blanks
    return wanted in (found, found - 256 * sum(byte > 127 for byte in fields)) if wanted != found else True


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


def _refuse_more(tar: OpenFile, end: int, total: int, shown: str) -> None:
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
    return SourceError(f"{shown}: wanted a whole tar, this one {what}", f"get or make it again; look: tar tvf {shown}")
