"""The arrays that a solver computes on: numpy's, or torch's on a device. The two name nearly everything alike."""

from __future__ import annotations

import contextlib
import functools
import threading
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from queue import Queue
from typing import Any, TypeVar

import numpy as np

from pipeline.errors import HeadError, PipelineError


@dataclass(frozen=True)
class Arrays:
    """A library of arrays and the device that they lie on.

    Parameters
    ----------
    xp : module
        `numpy` or `torch`. Solvers keep to the functions and operators that both spell the same way.
    device : str
    block : int
        Rows to work on at a time: few enough that on a CPU they stay in its caches.
    """

    xp: Any
    device: str
    block: int

    def array(self, values: Any) -> Any:
        """Return the values on the device, in their own type."""
        return self.xp.asarray(values, device=self.device)

    def float32(self, values: Any) -> Any:
        """Return the values on the device in float32."""
        return self.xp.asarray(values, dtype=self.xp.float32, device=self.device)

    def zeros(self, *shape: int) -> Any:
        """Return zeros of float32 on the device."""
        return self.xp.zeros(shape, dtype=self.xp.float32, device=self.device)

    def copied(self, values: Any) -> Any:
        """Return the values row after row in memory."""
        return np.ascontiguousarray(values) if self.xp is np else values.contiguous()

    def numpy(self, values: Any) -> np.ndarray:
        """Return the values as numpy's, in float64."""
        return np.asarray(values if self.xp is np else values.cpu(), dtype=np.float64)

    def eigenpairs(self, S: Any) -> tuple[Any, Any]:
        """Return eigenvalues (ascending) and eigenvectors of a symmetric matrix."""
        if self.xp is np:
            from scipy.linalg import eigh

            return eigh(S, driver="evd", check_finite=False)
        values, vectors = self.xp.linalg.eigh(S)
        return values, vectors


def arrays_on(device: str = "cpu") -> Arrays:
    """Return numpy's arrays for "cpu", torch's for "cuda", "cuda:1" and the like ("torch": torch on the CPU)."""
    if device == "cpu":
        return Arrays(np, "cpu", 2048)
    import torch

    return Arrays(torch, "cpu" if device == "torch" else device, 65536)


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """One BLAS and OpenMP thread: on these shapes two made a grid five times slower; workers share the cores."""
    with _thread_pools().limit(limits=1):
        yield


@functools.cache
def _thread_pools() -> Any:
    """Return the BLAS and OpenMP libraries of this process. To look for them takes 3 ms, too long for each fit."""
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()


@contextlib.contextmanager
def caught_warnings(name: str) -> Iterator[list[warnings.WarningMessage]]:
    """Collect the warnings within, and turn an estimator's own exception into a HeadError that names the head."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            yield caught
        except (PipelineError, MemoryError):
            raise
        except Exception as error:
            raise HeadError(
                f"head {name!r}: expected it to learn and predict, got {type(error).__name__}: {first_line(error)}",
                "change its parameters with --grid, or choose another head",
            ) from error


def summarize_warnings(name: str, caught: Sequence[warnings.WarningMessage], fits: int) -> list[str]:
    """Return the warnings of `fits` fits in sentences, counted."""
    from sklearn.exceptions import ConvergenceWarning

    stopped = sum(issubclass(w.category, ConvergenceWarning) for w in caught)
    sentences = []
    if stopped:
        # One estimator may warn once per class; no more fits can have stopped than there were.
        sentences.append(f"{name}: {min(stopped, fits)} of {fits} fits stopped before converging (max_iter)")
    # The search itself reports folds without a score.
    others = Counter(
        _in_words(text)
        for w in caught
        if not issubclass(w.category, ConvergenceWarning)
        and "test scores are non-finite" not in (text := first_line(w.message))
    )
    sentences += [
        f"{name}: {text} ({count} times)" if count > 1 else f"{name}: {text}" for text, count in others.items()
    ]
    return sentences


def _in_words(text: str) -> str:
    # OneVsRestClassifier names a column, "Label not 3", that does not occur in the data.
    if text.startswith("Label ") and text.endswith("is present in all training examples."):
        return "within a search, a tag was on all or none of the training rows"
    return text


def first_line(error: Warning | Exception | str) -> str:
    """Return the first line of the error's text, or its type."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


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
        """Return what the work gives for each item, in order; within it, idle threads help with `map`."""
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
                    for value in work(item):  # type: ignore[arg-type]
                        found.put(value)
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
                value = found.get()
                if value is _END:
                    ended += 1
                elif isinstance(value, _WorkFailed):
                    ended += 1
                    raise value.error
                else:
                    yield value
        finally:
            stop.set()
            while ended < len(threads):
                value = found.get()
                ended += value is _END or isinstance(value, _WorkFailed)
            for thread in threads:
                thread.join()


class _WorkFailed:
    def __init__(self, error: BaseException) -> None:
        self.error = error
