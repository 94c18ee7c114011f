"""HDF5's own checksums made right again after a change, as one does who wants to be believed."""

from __future__ import annotations

import struct

_WORD = 0xFFFF_FFFF


def forged(content: bytes) -> bytes:
    """Return a file's bytes with the checksums of its superblock and of its object headers made right."""
    changed = bytearray(content)
    if len(changed) >= 48:
        struct.pack_into("<I", changed, 44, lookup3(bytes(changed[:44])))
    at = changed.find(b"OHDR")
    while at >= 0:
        end = _header_end(changed, at)
        if end + 4 <= len(changed):
            struct.pack_into("<I", changed, end, lookup3(bytes(changed[at:end])))
        at = changed.find(b"OHDR", at + 4)
    return bytes(changed)


def _header_end(content: bytearray, at: int) -> int:
    """Return where the checksum of the object header at a place is."""
    flags = content[at + 5]
    place = at + 6 + (16 if flags & 0x20 else 0) + (4 if flags & 0x10 else 0)
    width = 1 << (flags & 3)
    return place + width + int.from_bytes(content[place : place + width], "little")


def lookup3(data: bytes) -> int:
    """Return Bob Jenkins's hash of the bytes, `hashlittle` of lookup3.c, as HDF5 uses it (public domain, May 2006)."""
    a = b = c = (0xDEADBEEF + len(data)) & _WORD
    while len(data) > 12:
        x, y, z = struct.unpack_from("<3I", data)
        a, b, c = _mixed((a + x) & _WORD, (b + y) & _WORD, (c + z) & _WORD)
        data = data[12:]
    if not data:
        return c
    x, y, z = struct.unpack("<3I", data.ljust(12, b"\0"))
    return _finished((a + x) & _WORD, (b + y) & _WORD, (c + z) & _WORD)


def _mixed(a: int, b: int, c: int) -> tuple[int, int, int]:
    a = ((a - c) & _WORD) ^ _turned(c, 4)
    c = (c + b) & _WORD
    b = ((b - a) & _WORD) ^ _turned(a, 6)
    a = (a + c) & _WORD
    c = ((c - b) & _WORD) ^ _turned(b, 8)
    b = (b + a) & _WORD
    a = ((a - c) & _WORD) ^ _turned(c, 16)
    c = (c + b) & _WORD
    b = ((b - a) & _WORD) ^ _turned(a, 19)
    a = (a + c) & _WORD
    c = ((c - b) & _WORD) ^ _turned(b, 4)
    b = (b + a) & _WORD
    return a, b, c


def _finished(a: int, b: int, c: int) -> int:
    c = ((c ^ b) - _turned(b, 14)) & _WORD
    a = ((a ^ c) - _turned(c, 11)) & _WORD
    b = ((b ^ a) - _turned(a, 25)) & _WORD
    c = ((c ^ b) - _turned(b, 16)) & _WORD
    a = ((a ^ c) - _turned(c, 4)) & _WORD
    b = ((b ^ a) - _turned(a, 14)) & _WORD
    return ((c ^ b) - _turned(b, 24)) & _WORD


def _turned(value: int, bits: int) -> int:
    return ((value << bits) | (value >> (32 - bits))) & _WORD
