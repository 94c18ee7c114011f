"""`Slots`: memory into which decoding processes put pixels and from which this one takes them.

A pipe would carry 2,000 images a second, at the cost of a core here. The memory has no name in any folder: it is gone
with the last process that holds it, however that ends, and no limit of `/dev/shm` applies to it.
"""

from __future__ import annotations

import mmap
import os
from contextlib import suppress
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Buffer:
    """One slot, as another process finds it.

    Attributes
    ----------
    path : str
        The memory as a file; empty where there is none.
    start, size : int
        In bytes.
    """

    path: str
    start: int
    size: int

    def array(self, shape: tuple[int, ...]) -> np.ndarray | None:
        """Return the slot's beginning as an array of uint8, None where this process cannot have it."""
        if not self.path:
            return None
        try:
            file = os.open(self.path, os.O_RDWR)
        except OSError:
            return None
        try:
            memory = mmap.mmap(file, self.size, offset=self.start)
        except OSError:
            return None
        finally:
            os.close(file)
        return np.frombuffer(memory, np.uint8, int(np.prod(shape))).reshape(shape)


class SharedPixelBuffers:
    """So many slots of so many bytes. Where the system has no such memory they are empty, and pixels have to travel.

    Parameters
    ----------
    count : int
    size : int
    """

    def __init__(self, count: int, size: int) -> None:
        size = -(-size // mmap.ALLOCATIONGRANULARITY) * mmap.ALLOCATIONGRANULARITY
        self._memory: mmap.mmap | None = None
        self._file = -1
        path = ""
        with suppress(AttributeError, OSError):  # not Linux, or one that keeps it from us
            self._file = os.memfd_create("pixels")
            os.ftruncate(self._file, count * size)  # takes no memory before something is written
            self._memory = mmap.mmap(self._file, count * size)
            path = f"/proc/{os.getpid()}/fd/{self._file}"
        self.free = [Buffer(path, number * size, size) for number in reversed(range(count))]

    def array(self, slot: Buffer, shape: tuple[int, ...]) -> np.ndarray:
        """Return what another process put at a slot's beginning, as an array of uint8."""
        assert self._memory is not None
        return np.frombuffer(self._memory, np.uint8, int(np.prod(shape)), slot.start).reshape(shape)

    def close(self) -> None:
        """Let nobody else find the memory any more; it goes when the last array of it does."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
