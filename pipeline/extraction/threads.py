"""Blocks by the threads of this process, a core each: no queue between decoding and network, no barrier."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import numpy as np
from joblib import Parallel, delayed

from pipeline.extraction.block import EncodedBatch
from pipeline.extraction.embedding import BatchEncoder

BATCHES_IN_FLIGHT = 4  # a worker: under work, or done and waiting to be taken


@contextmanager
def iter_batches_threaded(
    how: BatchEncoder, rows: np.ndarray, *, size: int, count: int
) -> Iterator[Iterator[EncodedBatch]]:
    """Give the blocks of `rows`, `size` images each, as `count` threads get them done.

    Leaving the context, for whatever reason, hands out no more blocks and returns when those under work are done.
    """
    count = min(count, max(1, -(-len(rows) // size)))
    gate = _Backpressure(BATCHES_IN_FLIGHT * count)

    def work(block_rows: np.ndarray) -> EncodedBatch | None:
        if not gate.enter():
            return None
        try:
            return how.block(block_rows)
        except BaseException:
            gate.shut()  # nobody takes blocks any more, so nobody may wait for a place
            raise
        finally:
            gate.finish()

    def tasks() -> Iterator[tuple]:
        for start in range(0, len(rows), size):
            if not gate.is_open:
                return
            yield delayed(work)(rows[start : start + size])

    def results(done: Iterator[EncodedBatch | None]) -> Iterator[EncodedBatch]:
        for block in done:
            gate.leave()
            if block is not None:
                yield block

    with how.runtime.workers(count):
        done = Parallel(n_jobs=count, backend="threading", return_as="generator_unordered")(tasks())
        try:
            yield results(done)
        finally:
            gate.shut()
            # Run empty rather than closed: joblib would warn of the blocks that nobody took. What goes wrong in
            # them now is no longer of interest.
            with suppress(Exception):
                for _ in done:
                    pass
            # A thread that is still inside the network when Python ends would bring the process down.
            gate.wait()


class _Backpressure:
    """Let so many blocks be under way, no more: joblib's generator has no backpressure of its own.

    A place is taken inside the task (taken while tasks are handed out it would deadlock joblib's dispatch) and given
    back by whoever takes the result.
    """

    def __init__(self, places: int) -> None:
        self._changed = threading.Condition()
        self._free = places
        self._at_work = 0
        self.is_open = True

    def enter(self) -> bool:
        """Wait for a place and take it; False if the gate is shut, and then nothing was taken."""
        with self._changed:
            self._changed.wait_for(lambda: self._free > 0 or not self.is_open)
            if self.is_open:
                self._free -= 1
                self._at_work += 1
            return self.is_open

    def finish(self) -> None:
        """Say that the work of one that entered is done; its result still has the place."""
        with self._changed:
            self._at_work -= 1
            self._changed.notify_all()

    def leave(self) -> None:
        """Give a place back."""
        with self._changed:
            self._free += 1
            self._changed.notify()

    def shut(self) -> None:
        """Turn away every task from now on, those that wait for a place too."""
        with self._changed:
            self.is_open = False
            self._changed.notify_all()

    def wait(self) -> None:
        """Return when nobody is at work."""
        with self._changed:
            self._changed.wait_for(lambda: self._at_work == 0)
