"""Threads for work that BLAS does: it lets the interpreter go, so that a few of them share one copy of the rows."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from queue import Queue
from typing import Any, TypeVar

from pipeline.search.guard import one_thread

T = TypeVar("T")
R = TypeVar("R")

_END = object()


def map_threads(work: Callable[[T], R], items: Sequence[T], n_jobs: int) -> list[R]:
    """Return what the work gives for each item, in order."""
    if n_jobs == 1 or len(items) < 2:
        return [work(item) for item in items]
    with one_thread(), ThreadPoolExecutor(n_jobs) as pool:
        return list(pool.map(work, items))


class WorkStealingPool:
    """Threads for a few long pieces of work that each fall into many short ones: who is done helps the others.

    Parameters
    ----------
    n_jobs : int
        Threads, each with one BLAS thread. 1: the caller's thread, and BLAS as it stands.
    """

    def __init__(self, n_jobs: int = 1) -> None:
        self.n_jobs = n_jobs
        self._pool: ThreadPoolExecutor | None = None

    def each(self, work: Callable[[T], R], items: Sequence[T]) -> list[R]:
        """Return what the work gives for each item, in order; within it, `map` is helped by whoever is free."""
        if self.n_jobs == 1:
            return [work(item) for item in items]
        with one_thread(), ThreadPoolExecutor(self.n_jobs) as self._pool:
            try:
                return list(self._pool.map(work, items))
            finally:
                self._pool = None

    def map(self, work: Callable[[T], R], items: Sequence[T]) -> list[R]:
        """Return what the work gives for each item, in order: this thread does it, and any that has nothing to do."""
        pool = self._pool
        if pool is None or len(items) < 2:
            return [work(item) for item in items]
        found: list[Any] = [None] * len(items)
        waiting = iter(range(len(items)))  # one step of it is one step of the interpreter: no two threads get the same

        def drain() -> None:
            for place in waiting:
                found[place] = work(items[place])

        helpers = [pool.submit(drain) for _ in range(min(self.n_jobs, len(items)) - 1)]
        try:
            drain()
        finally:
            for helper in helpers:
                if not helper.cancel():  # it began
                    helper.result()
        return found


def interleaved(work: Callable[[T], Iterator[R]], items: Sequence[T], n_jobs: int) -> Iterator[R]:
    """Give everything that the work gives for the items, from `n_jobs` threads; in any order if there are several.

    No thread runs ahead of what is taken by more than one, so that little waits in memory. An exception within
    is raised here; who stops taking stops the threads.
    """
    if n_jobs == 1 or len(items) < 2:
        for item in items:
            yield from work(item)
        return
    waiting, stop, lock = iter(items), threading.Event(), threading.Lock()
    found: Queue[Any] = Queue(maxsize=n_jobs)

    def run() -> None:
        from threadpoolctl import threadpool_limits

        end: Any = _END
        try:
            # OpenMP counts its threads for each of ours; BLAS for all of them together, and is limited below.
            with threadpool_limits(limits=1, user_api="openmp"):
                while not stop.is_set():
                    with lock:
                        item = next(waiting, _END)
                    if item is _END:
                        break
                    for one in work(item):  # type: ignore[arg-type]
                        found.put(one)
                        if stop.is_set():
                            break
        except BaseException as error:
            end = _WorkFailed(error)
        found.put(end)

    threads = [threading.Thread(target=run, daemon=True) for _ in range(min(n_jobs, len(items)))]
    ended = 0
    with one_thread():
        for thread in threads:
            thread.start()
        try:
            while ended < len(threads):
                one = found.get()
                if one is _END:
                    ended += 1
                elif isinstance(one, _WorkFailed):
                    ended += 1
                    raise one.error
                else:
                    yield one
        finally:
            stop.set()
            while ended < len(threads):
                one = found.get()
                ended += one is _END or isinstance(one, _WorkFailed)
            for thread in threads:
                thread.join()


class _WorkFailed:
    def __init__(self, error: BaseException) -> None:
        self.error = error
