"""What a disk may hold after the power failed: made from the log that `faults.c` keeps.

Since the last sync of a file, any sector of it may hold any of the states it went through, whatever the others hold.
Names are made, changed and removed in the order in which that was done (file systems keep a journal of it), but of what
was done since the folder's last sync only a beginning may be there. A sync that failed loses what it was to write,
although the system goes on showing it.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

SECTOR = 512
_HEAD = struct.Struct("=5q")


@dataclass(frozen=True)
class Entry:
    """One call; see `faults.c` for its kinds. `offset` is a length where the file's size was set."""

    kind: str
    offset: int
    path: str
    other: str
    data: bytes


def read_log(path: Path) -> list[Entry]:
    """Return the entries of a log, in their order."""
    return list(_entries(path.read_bytes()))


def _entries(content: bytes) -> Iterator[Entry]:
    at = 0
    while at < len(content):
        kind, offset, length, path, other = _HEAD.unpack_from(content, at)
        at += _HEAD.size
        texts = [content[at : at + path].decode(), content[at + path : at + path + other].decode()]
        at += path + other
        data = content[at : at + length] if chr(kind) == "W" else b""
        at += len(data)
        yield Entry(chr(kind), offset, *texts, data)


@dataclass
class _File:
    synced: bytearray
    writes: list[tuple[int, bytes]] = field(default_factory=list)  # since the last sync
    sizes: list[int] = field(default_factory=list)

    def sync(self) -> None:
        for size in self.sizes:
            self._resize(self.synced, size)
        for offset, data in self.writes:
            self._lay(self.synced, offset, data)
        self.forget()

    def forget(self) -> None:
        self.writes.clear()
        self.sizes.clear()

    def after(self, chance: random.Random) -> bytes:
        """Return what the disk may hold if the power fails now."""
        found = bytearray(self.synced)
        for size in self.sizes[: chance.randint(0, len(self.sizes))]:
            self._resize(found, size)
        states: dict[int, list[tuple[int, bytes]]] = {}
        for offset, data in self.writes:
            for start in range(offset - offset % SECTOR, offset + len(data), SECTOR):
                begin, end = max(start, offset), min(start + SECTOR, offset + len(data))
                states.setdefault(start, []).append((begin, data[begin - offset : end - offset]))
        share = chance.choice([0.1, 0.5, 0.9])  # of the sectors that were written back at all
        for writes in states.values():
            if chance.random() < share:
                for offset, data in writes[: chance.randint(1, len(writes))]:
                    self._lay(found, offset, data)
        return bytes(found)

    @staticmethod
    def _resize(content: bytearray, size: int) -> None:
        content[size:] = bytes(max(0, size - len(content)))

    @staticmethod
    def _lay(content: bytearray, offset: int, data: bytes) -> None:
        content.extend(bytes(max(0, offset + len(data) - len(content))))
        content[offset : offset + len(data)] = data


class Disk:
    """Files as the log has them so far, and as a power failure would leave them.

    Parameters
    ----------
    folder : Path
        The one that matters.
    before : Path, optional
        What lay in it, on the disk, before the log begins; it was not there otherwise.
    """

    def __init__(self, folder: Path, before: Path | None = None) -> None:
        self.folder = str(folder)
        self.names: dict[str, _File | None] = {}  # as the system shows them; None is a folder
        if before is not None:
            self.names[self.folder] = None
            for path in before.iterdir():
                self.names[str(folder / path.name)] = _File(bytearray(path.read_bytes()))
        self.synced = dict(self.names)
        self.changes: list[Entry] = []  # of names, since their folder was synced
        self._made: dict[int, _File | None] = {}

    def play(self, entry: Entry) -> None:
        """Let one call happen."""
        file = self.names.get(entry.path)
        if entry.kind in "CMUR":
            self._made[id(entry)] = _File(bytearray()) if entry.kind == "C" else None
            self.changes.append(entry)
            self._rename(self.names, entry)
        elif file is not None:
            self._write(file, entry)
        elif entry.kind == "S":
            for change in self.changes:
                if str(Path(change.path).parent) == entry.path:
                    self._rename(self.synced, change)
            self.changes = [change for change in self.changes if str(Path(change.path).parent) != entry.path]

    def after(self, chance: random.Random, folder: Path) -> None:
        """Write as `folder` what may be left if the power fails now."""
        names = dict(self.synced)
        for change in self.changes[: chance.randint(0, len(self.changes))]:
            self._rename(names, change)
        if self.folder in names:
            folder.mkdir()
            for path, file in names.items():
                if file is not None:
                    (folder / Path(path).name).write_bytes(file.after(chance))

    @staticmethod
    def _write(file: _File, entry: Entry) -> None:
        if entry.kind == "W":
            file.writes.append((entry.offset, entry.data))
        elif entry.kind == "T":
            file.sizes.append(entry.offset)
        elif entry.kind == "O" and entry.offset:
            file.sizes.append(0)
        elif entry.kind == "S":
            file.sync()
        elif entry.kind == "s":
            file.forget()

    def _rename(self, names: dict[str, _File | None], change: Entry) -> None:
        if change.kind == "R":
            names[change.other] = names.pop(change.path)
        elif change.kind == "U":
            names.pop(change.path)
        else:
            names[change.path] = self._made[id(change)]
