"""One image's bytes, read once: digest, stat and pixels all belong to the same bytes."""

from __future__ import annotations

import os
import stat as modes
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from hashlib import blake2b
from threading import Lock
from typing import ClassVar

import numpy as np
from PIL import Image

from pipeline.errors import SkipReason, UnreadableImage
from pipeline.images.decode import MAX_PIXELS, RAW_ENDINGS, check_size, decode, ending
from pipeline.images.rgb import to_rgb

MAX_BYTES = 2 << 30  # the largest photo that is read into memory

# O_NONBLOCK: a pipe that has taken the place of a photo is opened and refused instead of waited for.
READ_FLAGS = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)


@dataclass(frozen=True, eq=False)
class Photo:
    """One image as it was read.

    Attributes
    ----------
    digest : bytes
        16 bytes that stand for the content.
    stat : tuple of int
        Size in bytes and mtime in nanoseconds when it was read; for an image that is a row of an array, see
        `array_stat`.
    content : bytes or ndarray
        The file's bytes, or pixels, uint8, (h, w), (h, w, 1), (h, w, 3) or (h, w, 4).
    """

    digest: bytes
    stat: tuple[int, int]
    content: bytes | np.ndarray = field(repr=False)

    def pixels(self, most: int = MAX_PIXELS) -> Image.Image:
        """Return the photo upright in mode RGB, or raise `UnreadableImage` with the reason; `most` is in pixels."""
        if isinstance(self.content, bytes):
            return decode(self.content, most)
        values = self.content[:, :, 0] if self.content.shape[2:] == (1,) else self.content
        check_size(values.shape[1], values.shape[0], most)
        return to_rgb(Image.fromarray(np.ascontiguousarray(values)))


@dataclass(frozen=True)
class FileReader:
    """Reads the files below one folder; an id is the path from there."""

    root: str

    encoded: ClassVar = True

    def read(self, row: int, image_id: str) -> Photo:
        if ending(image_id) in RAW_ENDINGS:  # named by hand or by a table; a folder's are listed skips
            raise UnreadableImage(SkipReason.NO_DECODER, "a camera's raw file: export it as JPEG or TIFF")
        return read_file(os.path.join(self.root, image_id))  # noqa: PTH118 - a million times

    def take(self, rows: Sequence[int]) -> FileReader:
        return self


def read_file(path: str) -> Photo:
    """Return the file's bytes with the digest and the stat of these bytes, or raise `UnreadableImage`."""
    try:
        descriptor = os.open(path, READ_FLAGS)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UnreadableImage(SkipReason.MISSING) from error
    except PermissionError as error:
        raise UnreadableImage(SkipReason.FORBIDDEN) from error
    except (OSError, ValueError) as error:
        raise UnreadableImage(SkipReason.UNREADABLE, str(getattr(error, "strerror", None) or error)) from error
    try:
        found = os.fstat(descriptor)  # before the bytes: a file written to meanwhile then looks changed next time
        if not modes.S_ISREG(found.st_mode):
            raise UnreadableImage(SkipReason.NOT_AN_IMAGE, "not a regular file")
        if found.st_size > MAX_BYTES:
            raise UnreadableImage(SkipReason.TOO_LARGE, f"a file of {found.st_size / 1e9:.1f} GB")
        with open(descriptor, "rb", buffering=0, closefd=False) as file:
            data = file.read()
    except OSError as error:
        raise UnreadableImage(SkipReason.UNREADABLE, error.strerror or str(error)) from error
    finally:
        os.close(descriptor)
    if not data:
        raise UnreadableImage(SkipReason.EMPTY)
    return Photo(blake2b(data, digest_size=16).digest(), (found.st_size, found.st_mtime_ns), data)


def array_digest(pixels: np.ndarray) -> bytes:
    """Return the 16 bytes that stand for an image in an array: of its type and shape, then of its pixels."""
    header = f"{pixels.dtype.str}{pixels.shape}".encode()
    return blake2b(header + np.ascontiguousarray(pixels).data.tobytes(), digest_size=16).digest()


def array_stat(digest: bytes, pixels: np.ndarray) -> tuple[int, int]:
    """Return what stands for size and mtime where an image is no file: bytes of its pixels, 8 bytes of its digest."""
    return pixels.nbytes, int.from_bytes(digest[:8], "little", signed=True)


Stat = tuple[int, int]  # size in bytes, mtime in ns

KEPT_OPEN = 64  # files per process


class OpenFile:
    """An open file. It closes with its last reference, so that no thread's read is interrupted."""

    def __init__(self, path: str) -> None:
        self._number = -1
        self._number = os.open(path, READ_FLAGS)
        self._seeking = Lock()

    def stat(self) -> Stat:
        found = os.fstat(self._number)
        return found.st_size, found.st_mtime_ns

    def read(self, size: int, offset: int) -> bytes:
        """Return `size` bytes from `offset` on, fewer only where the file ends."""
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
    """Return the file, opened once per process; `stat` makes an edited file another one."""
    return OpenFile(path)
