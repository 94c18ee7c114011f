"""A GPU with a thread, a stream of uploads and buffers of its own: who brings it images waits for nothing else."""

from __future__ import annotations

import contextlib
import queue
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cache

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


# Calls that a GPU is given at once: one uploads while another computes and a third brings its features back.
UNDER_WAY = 3

PATIENCE = 32  # times that a batch size of its own would have served better, until it is made one

Features = Mapping[str, torch.Tensor]


class GpuRunner:
    """Run blocks of images on one GPU; safe to call from several threads at once.

    cuDNN plans every layer anew for each thread and each batch size, and a network's plans take it seconds (2 on an
    H100, for 35 milliseconds of computing). So one thread a GPU gives it all work, for as long as the process lives,
    and does not wait for results; and blocks are filled up to a few sizes.

    Parameters
    ----------
    device : torch.device
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._uploads = torch.cuda.Stream(device)
        self._buffers = PinnedBuffers(UNDER_WAY, pinned)
        self._thread = _thread_of(device.index or 0)
        self._sizes = BatchSizes()

    def run(self, pixels: np.ndarray, compute: Callable[[torch.Tensor], Features]) -> dict[str, np.ndarray]:
        """Return what `compute` makes of the images, uint8 (b, h, w, 3), as ``{layer: float32 (b, width)}``.

        Raises
        ------
        torch.OutOfMemoryError
            So many images do not fit into the GPU's memory.
        """
        with self._buffers.filled(pixels) as staged:
            features, done = self._thread.submit(self._start, staged, compute).result()
            done.synchronize()  # here, in the caller's thread
        return {layer: values.numpy().copy() for layer, values in features.items()}  # pinned memory is scarce

    def _start(self, staged: torch.Tensor, compute: Callable[[torch.Tensor], Features]) -> tuple[Features, _Event]:
        """Give the GPU its work, in its thread; return where the features will be, and what tells that they are."""
        n = len(staged)
        size = self._sizes.fitting(n)
        try:
            return self._started(staged, size, compute)
        except torch.OutOfMemoryError:
            self._sizes.forget(size)
            if size == n:
                raise
        return self._started(staged, n, compute)  # out of the except: the error would hold what lies in memory

    def _started(
        self, staged: torch.Tensor, size: int, compute: Callable[[torch.Tensor], Features]
    ) -> tuple[Features, _Event]:
        n = len(staged)
        with torch.inference_mode(), torch.cuda.device(self._device):
            # On a stream of its own, one block's upload runs beside another block's network.
            with torch.cuda.stream(self._uploads):
                images = torch.empty((size, *staged.shape[1:]), dtype=torch.uint8, device=self._device)
                images[:n].copy_(staged, non_blocking=True)
                images[n:].zero_()
                uploaded = self._uploads.record_event()
            computing = torch.cuda.current_stream(self._device)
            computing.wait_event(uploaded)
            images.record_stream(computing)
            features = {layer: _brought(values[:n]) for layer, values in compute(images).items()}
            return features, computing.record_event(_Event(blocking=True))  # one that sleeps, not one that spins


class BatchSizes:
    """The batch sizes that a network runs with: few, for each of them costs seconds when it is first used.

    The first is the first that is asked for, as most blocks of a collection are alike. Fewer images then run in its
    company, filled up, until a power of two that is nearer has been asked for often enough to be worth its start.
    """

    def __init__(self) -> None:
        self._known: set[int] = set()
        self._asked: Counter[int] = Counter()

    def fitting(self, n: int) -> int:
        """Return the size to run `n` images with."""
        own = 1 << (n - 1).bit_length() if self._known else n
        size = min((size for size in self._known if size >= n), default=None)
        if size is None or (own < size and self._asked[own] >= PATIENCE):
            size = own
            self._known.add(size)
        self._asked[own] += 1
        return size

    def forget(self, size: int) -> None:
        """Never give this size again for fewer images, nor a larger one."""
        self._known = {known for known in self._known if known < size}


@cache
def _thread_of(index: int) -> ThreadPoolExecutor:
    """Return the one thread of this process that gives work to a GPU."""
    return ThreadPoolExecutor(1, thread_name_prefix=f"cuda:{index}")


def _brought(values: torch.Tensor) -> torch.Tensor:
    """Return where the values will be in the CPU's memory once the GPU has computed them."""
    return torch.empty(values.shape, dtype=torch.float32, pin_memory=True).copy_(values, non_blocking=True)


_Event = torch.cuda.Event
