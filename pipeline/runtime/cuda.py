"""How do several threads share one GPU without waiting for each other's transfers?

One thread per GPU submits all work; pixels are uploaded from pinned buffers on a separate stream.
"""

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
    """A fixed number of buffers, each used by one thread at a time; a thread waits if none is free.

    A GPU copies from pinned memory while it computes, but pinning takes as long as the copy, so buffers are pinned once
    and reused. Their number also bounds how many batches are in the GPU's memory at once.

    Parameters
    ----------
    count : int
    make : callable
        Returns a flat uint8 tensor for a number of bytes.
    """

    def __init__(self, count: int, make: Callable[[int], torch.Tensor]) -> None:
        self._make = make
        # Last in, first out, so that buffers that exist are used before new ones are made.
        self._free: queue.LifoQueue[torch.Tensor | None] = queue.LifoQueue()
        for _ in range(count):
            self._free.put(None)

    @contextlib.contextmanager
    def filled(self, pixels: np.ndarray) -> Iterator[torch.Tensor]:
        """Copy uint8 pixels into a buffer and yield it, in the same shape; leave the context when it is no longer read.

        After an error the GPU may still read the buffer, so it is not used again; torch frees it when that is safe.
        """
        buffer = self._free.get()
        reusable = None
        try:
            if buffer is None or len(buffer) < pixels.size:
                buffer = self._make(pixels.size)
            copy = buffer[: pixels.size].view(pixels.shape)
            np.copyto(copy.numpy(), pixels)
            yield copy
            reusable = buffer
        finally:
            self._free.put(reusable)


def pinned(size: int) -> torch.Tensor:
    """Return `size` bytes of pinned memory."""
    return torch.empty(size, dtype=torch.uint8, pin_memory=True)


# Calls that a GPU gets at once: one uploads while another computes and a third copies its features back.
IN_FLIGHT = 3

PATIENCE = 32  # requests for a smaller batch size before the network is run with that size

Features = Mapping[str, torch.Tensor]


class GpuRunner:
    """Run batches of images on one GPU; safe to call from several threads at once.

    cuDNN plans every layer for each thread and each batch size separately, and the plans of a network take seconds (2
    on an H100, for 35 milliseconds of computing). So one thread per GPU submits all work of the process, without
    waiting for results, and batches are padded to a few sizes.

    Parameters
    ----------
    device : torch.device
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._uploads = torch.cuda.Stream(device)
        self._buffers = PinnedBuffers(IN_FLIGHT, pinned)
        self._thread = _thread_of(device.index or 0)
        self._sizes = BatchSizes()

    def run(self, pixels: np.ndarray, compute: Callable[[torch.Tensor], Features]) -> dict[str, np.ndarray]:
        """Run `compute` on images, uint8 (b, h, w, 3), and return ``{layer: float32 (b, width)}``.

        Raises
        ------
        torch.OutOfMemoryError
            The images do not fit into the GPU's memory.
        """
        with self._buffers.filled(pixels) as staged:
            features, done = self._thread.submit(self._start, staged, compute).result()
            done.synchronize()  # in the caller's thread, so that the GPU's thread does not wait
        # Copied, so that the pinned memory is free again: it is scarce.
        return {layer: values.numpy().copy() for layer, values in features.items()}

    def _start(self, staged: torch.Tensor, compute: Callable[[torch.Tensor], Features]) -> tuple[Features, _Event]:
        """Submit the work, in the GPU's thread; return tensors for the features and the event that they are filled."""
        n = len(staged)
        size = self._sizes.fitting(n)
        try:
            return self._submit(staged, size, compute)
        except torch.OutOfMemoryError:
            self._sizes.forget(size)
            if size == n:
                raise
        return self._submit(staged, n, compute)  # outside of the except: the error keeps tensors in memory

    def _submit(
        self, staged: torch.Tensor, size: int, compute: Callable[[torch.Tensor], Features]
    ) -> tuple[Features, _Event]:
        n = len(staged)
        with torch.inference_mode(), torch.cuda.device(self._device):
            # On a separate stream, the upload of one batch runs while the network computes another.
            with torch.cuda.stream(self._uploads):
                images = torch.empty((size, *staged.shape[1:]), dtype=torch.uint8, device=self._device)
                images[:n].copy_(staged, non_blocking=True)
                images[n:].zero_()
                uploaded = self._uploads.record_event()
            computing = torch.cuda.current_stream(self._device)
            computing.wait_event(uploaded)
            images.record_stream(computing)
            features = {layer: _copy_to_cpu(values[:n]) for layer, values in compute(images).items()}
            # Blocking: a thread that waits for the event sleeps instead of using a core.
            return features, computing.record_event(_Event(blocking=True))


class BatchSizes:
    """The batch sizes that a network runs with: few, because the first use of each takes seconds.

    The first size is the first number of images that is requested, because most batches of a run are equal. Smaller
    batches are padded to it, until the next power of two has been requested often enough to be worth its first use.
    """

    def __init__(self) -> None:
        self._sizes: set[int] = set()
        self._requests: Counter[int] = Counter()

    def fitting(self, n: int) -> int:
        """Return the batch size for `n` images."""
        smallest = 1 << (n - 1).bit_length() if self._sizes else n
        size = min((size for size in self._sizes if size >= n), default=None)
        if size is None or (smallest < size and self._requests[smallest] >= PATIENCE):
            size = smallest
            self._sizes.add(size)
        self._requests[smallest] += 1
        return size

    def forget(self, size: int) -> None:
        """Use neither this size nor a larger one for padding from now on."""
        self._sizes = {used for used in self._sizes if used < size}


@cache
def _thread_of(index: int) -> ThreadPoolExecutor:
    """Return this process's only thread that submits work to a GPU."""
    return ThreadPoolExecutor(1, thread_name_prefix=f"cuda:{index}")


def _copy_to_cpu(values: torch.Tensor) -> torch.Tensor:
    """Return a tensor in the CPU's memory that holds the values once the GPU has computed them."""
    return torch.empty(values.shape, dtype=torch.float32, pin_memory=True).copy_(values, non_blocking=True)


_Event = torch.cuda.Event
