"""`Descriptor`: one open file from which any thread reads any place, and whether it is still the file it was."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import lru_cache
from threading import Lock

from pipeline.images.photo import READ_FLAGS

Stat = tuple[int, int]  # size in bytes, mtime in ns

KEPT_OPEN = 64  # files a process


class OpenFile:
    """An open file. It closes when the last who holds it lets go, so that no thread's read is cut off."""

    def __init__(self, path: str) -> None:
        self._number = -1
        self._number = os.open(path, READ_FLAGS)
        self._seeking = Lock()

    def stat(self) -> Stat:
        found = os.fstat(self._number)
        return found.st_size, found.st_mtime_ns

    def read(self, size: int, offset: int) -> bytes:
        """Return so many bytes from there on, fewer only where the file ends."""
        parts = []
        while size > 0:
            part = self._read(size, offset)
            if not part:
                break
            parts.append(part)
            size, offset = size - len(part), offset + len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _read(self, size: int, offset: int) -> bytes:
        if hasattr(os, "pread"):
            return os.pread(self._number, size, offset)
        with self._seeking:  # Windows: the place in the file is shared by all threads
            os.lseek(self._number, offset, os.SEEK_SET)
            return os.read(self._number, size)

    def __del__(self, close: Callable[[int], None] = os.close) -> None:  # bound now: `os` may be gone by then
        if self._number >= 0:
            close(self._number)


@lru_cache(maxsize=KEPT_OPEN)
def open_shared(path: str, stat: Stat) -> OpenFile:
    """Return the file, opened once a process; `stat` makes an edited file another one."""
    return OpenFile(path)
