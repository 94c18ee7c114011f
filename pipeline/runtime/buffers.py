"""Buffers that blocks of images are copied into on their way to a GPU, used again and again."""

from __future__ import annotations

import contextlib
import queue
from collections.abc import Callable, Iterator

import numpy as np
import torch


class PinnedBuffers:
    """A few buffers, each lent to one thread at a time; who finds none free waits for one.

    Pages that are pinned a GPU copies from while it computes, but pinning them takes as long as the copy does: so
    they are pinned once. And so few of them bound what lies in the GPU's memory at once.

    Parameters
    ----------
    count : int
    make : callable
        From a number of bytes to a flat uint8 tensor.
    """

    def __init__(self, count: int, make: Callable[[int], torch.Tensor]) -> None:
        self._make = make
        self._free: queue.LifoQueue[torch.Tensor | None] = queue.LifoQueue()  # the last used is the one there is
        for _ in range(count):
            self._free.put(None)

    @contextlib.contextmanager
    def filled(self, pixels: np.ndarray) -> Iterator[torch.Tensor]:
        """Lend a copy of uint8 pixels, of the same shape; leave the context when nothing reads it any more.

        After an error nobody knows whether the GPU still reads: that buffer is left to torch, which does.
        """
        buffer = self._free.get()
        sound = None
        try:
            if buffer is None or len(buffer) < pixels.size:
                buffer = self._make(pixels.size)
            copy = buffer[: pixels.size].view(pixels.shape)
            np.copyto(copy.numpy(), pixels)
            yield copy
            sound = buffer
        finally:
            self._free.put(sound)


def pinned(size: int) -> torch.Tensor:
    """Return so many bytes of memory that a GPU reads by itself."""
    return torch.empty(size, dtype=torch.uint8, pin_memory=True)
